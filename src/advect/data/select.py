"""Parts of tables: some of the rows, and given columns put back beside modelled ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from advect.data.align import ARRAYS, column_levels
from advect.data.annotated import CONTAINER
from advect.data.condition import ConditionCodec, _is_label
from advect.data.schema import find_array
from advect.data.stored import on_disk, rows_to_hold
from advect.records import Column, Table


def take_rows(table: Table, rows: np.ndarray) -> Table:
    """The rows of these indices, in this order, with their side arrays; of rows on disk none is read before it is
    looked at."""
    columns = on_disk(table)
    return replace(
        table,
        columns=tuple(column[rows] for column in table.columns) if columns is None else columns.take(rows),
        sides={name: values[rows] for name, values in table.sides.items()},
    )


def some_rows(table: Table, count: int, generator: torch.Generator) -> Table:
    """At most ``count`` rows in random order: files are often sorted, and first rows then speak for one corner.

    Of rows on disk no more than can be held in memory with what is computed of them.
    """
    count = min(count, rows_to_hold(table))
    return take_rows(table, torch.randperm(table.num_rows, generator=generator)[:count].numpy())


def sample_rows(table: Table, generator: torch.Generator) -> Table:
    """The table itself where all of its rows can be looked at together; else as many at random as can, in order."""
    count = rows_to_hold(table)
    if count == table.num_rows:
        return table
    return take_rows(table, torch.randperm(table.num_rows, generator=generator)[:count].sort().values.numpy())


def with_condition(table: Table, codec: ConditionCodec, vectors: Tensor) -> Table:
    """Sampled rows with the conditions they were drawn under: as columns where rows have names, else as side arrays.

    Args:
        table: Sampled rows.
        codec: Of the condition.
        vectors: ``(rows, condition)``; the all-zero vector (no condition) gives gaps.
    """
    given = dict(zip((c.name for c in codec.columns), _values(codec, vectors), strict=True))
    result = beside(table, given, tuple(c.dtype for c in codec.columns))
    declared = {c.name: c.categories for c in codec.columns if c.kind == "categorical" and c.name in result.names}
    return replace(result, categories={**table.categories, **declared})


def beside(table: Table, given: Mapping[str, np.ndarray], dtypes: Sequence[str]) -> Table:
    """A table with more columns, which become side arrays where rows have no names."""
    if table.image or table.container in (*ARRAYS, CONTAINER):
        return replace(table, sides={**table.sides, **given})
    return replace(
        table,
        names=(*table.names, *given),
        columns=(*table.columns, *given.values()),
        dtypes=(*table.dtypes, *dtypes),
        event_shape=(len(table.names) + len(given),),
    )


def set_aside(table: Table, name: str | None) -> Table:
    """The table with one of its columns as a side array: it is used, not modelled."""
    if name is None or name not in table.names or table.image:
        return table
    kept = [i for i, other in enumerate(table.names) if other != name]
    columns, aside = on_disk(table), find_array(table, name)
    assert aside is not None
    return replace(
        table,
        names=tuple(table.names[i] for i in kept),
        columns=tuple(table.columns[i] for i in kept) if columns is None else columns.select(kept),
        dtypes=tuple(table.dtypes[i] for i in kept),
        event_shape=(len(kept),),
        sides={**table.sides, name: aside},
    )


def joined(tables: Sequence[Table]) -> Table:
    """Tables of the same columns and side arrays, one below the other."""
    first = tables[0]
    return replace(
        first,
        columns=tuple(np.concatenate(parts) for parts in zip(*(t.columns for t in tables), strict=True)),
        sides={name: np.concatenate([t.sides[name] for t in tables]) for name in first.sides},
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
