"""Parts of tables: some of the rows, and given columns put back beside modelled ones."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from advect.data.align import column_levels
from advect.data.condition import ConditionCodec, _is_label
from advect.records import Column, Table


def take_rows(table: Table, rows: np.ndarray) -> Table:
    """The rows of these indices, in this order, with their side arrays."""
    return replace(
        table,
        columns=tuple(column[rows] for column in table.columns),
        sides={name: values[rows] for name, values in table.sides.items()},
    )


def some_rows(table: Table, count: int, generator: torch.Generator) -> Table:
    """At most ``count`` rows in random order: files are often sorted, and first rows then speak for one corner."""
    return take_rows(table, torch.randperm(table.num_rows, generator=generator)[:count].numpy())


def with_condition(table: Table, codec: ConditionCodec, vectors: Tensor) -> Table:
    """Sampled rows with the conditions they were drawn under: as columns where rows have names, else as side arrays.

    Args:
        table: Sampled rows.
        codec: Of the condition.
        vectors: ``(rows, condition)``; the all-zero vector (no condition) gives gaps.
    """
    given = dict(zip((c.name for c in codec.columns), _values(codec, vectors), strict=True))
    if table.image or table.container in ("npy", "npz", "numpy", "torch"):
        return replace(table, sides={**table.sides, **given})
    return replace(
        table,
        names=(*table.names, *given),
        columns=(*table.columns, *given.values()),
        dtypes=(*table.dtypes, *(c.dtype for c in codec.columns)),
        event_shape=(len(table.names) + len(given),),
        categories={**table.categories, **{c.name: c.categories for c in codec.columns if c.kind == "categorical"}},
    )


def _values(codec: ConditionCodec, vectors: Tensor) -> list[np.ndarray]:
    result = []
    blocks = vectors[:, 1:].split(codec._widths, dim=1)
    for column, block, mean, std in zip(codec.columns, blocks, codec.means, codec.stds, strict=True):
        present = vectors[:, 0] > 0
        if not _is_label(column):
            numbers = torch.where(present, block[:, 0].double() * std + mean, torch.nan).numpy()
            result.append(np.rint(numbers) if column.kind == "integer" else numbers)
            continue
        result.append(_levels(column, block, present & (block.abs().sum(1) > 0)))
    return result


def _levels(column: Column, block: Tensor, present: Tensor) -> np.ndarray:
    levels = column.categories or tuple(column_levels(column) or ())
    chosen = block.argmax(1).tolist()
    values = [levels[i] if here else None for i, here in zip(chosen, present.tolist(), strict=True)]
    if any(v is None for v in values) or column.kind == "categorical":
        if column.kind == "integer":
            return np.array([np.nan if v is None else float(v) for v in values])
        return np.array(values, dtype=object)
    return np.array(values, dtype=bool if column.kind == "boolean" else np.int64)
