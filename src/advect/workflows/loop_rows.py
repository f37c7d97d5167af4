"""Rows of a table as the loop wants them: in the coordinates of the flow's map, with conditions and weights."""

from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from advect.data import Codec, ConditionCodec, find_array, on_disk, take_rows
from advect.errors import ConfigError, DataError, unknown_name
from advect.records import Table
from advect.training import DataRows, Drawing, Fetching, generator_for
from advect.transforms import Bijection
from advect.workflows.request import TrainRequest
from advect.workflows.streams import FIT


def data_rows(
    table: Table,
    rows: np.ndarray,
    codec: Codec,
    condition: ConditionCodec | None,
    preprocess: Bijection,
    request: TrainRequest,
    device: torch.device,
    *,
    flip: bool = False,
) -> DataRows:
    """Rows of a table as the loop wants them: in latent coordinates, with conditions and weights beside them.

    Where coding draws nothing (no discrete column, no gap) the latent rows are computed once. Rows on disk are fetched
    as they are drawn.
    """
    chosen = take_rows(table, rows)
    columns, bare = on_disk(chosen), replace(chosen, sides={})

    def coded(some: Table) -> Drawing:
        prepared = codec.prepare(some, dtype=torch.float64)

        @torch.no_grad()
        def draw(index: Tensor, generator: Generator) -> Tensor:
            values = prepared.draw(index, generator).values
            values = mirrored(values, generator) if flip else values
            return preprocess.encode(values, log_det=False).value.float().to(device)

        return draw

    def fetch(index: Tensor) -> Drawing:
        return coded(take_rows(bare, index.numpy(force=True)))

    if columns is not None:
        draw = lambda index, generator: fetch(index)(torch.arange(len(index)), generator)  # noqa: E731
    else:
        draw = coded(chosen)
    if columns is None and codec.exact and not flip:
        everything = draw(torch.arange(len(rows)), generator_for(request.seed, FIT))
        draw = lambda index, generator: everything[index.to(everything.device)]  # noqa: E731
    return DataRows(
        draw=draw,
        num_rows=len(rows),
        condition=None if condition is None else condition.encode(chosen).float().to(device),
        weight=weights_of(chosen, request.weights, device),
        fetching=None if columns is None else Fetching(fetch, columns.rows.at_once, columns.rows.workers),
    )


def mirrored(pictures: Tensor, generator: Generator) -> Tensor:
    """Pictures ``(batch, channels, height, width)``, each mirrored left to right with probability one half."""
    turn = torch.rand(len(pictures), generator=generator, device=generator.device) < 0.5
    return torch.where(turn.to(pictures.device)[:, None, None, None], pictures.flip(-1), pictures)


def validation_rows(rows: DataRows | None) -> DataRows | None:
    """Validation rows, or None where all of them have weight zero: their loss would say nothing."""
    return rows if rows is not None and _has_weight(rows) else None


def training_rows(rows: DataRows, name: str | None) -> DataRows:
    """Training rows, unless all of them have weight zero."""
    if not _has_weight(rows):
        raise DataError("all training rows have weight zero", where=f"column {name!r}")
    return rows


def _has_weight(rows: DataRows) -> bool:
    return rows.weight is None or float(rows.weight.sum()) > 0


def weights_of(table: Table, name: str | None, device: torch.device) -> Tensor | None:
    """The weights ``(rows,)`` of a table's rows; None where no column is named.

    Raises:
        DataError: They are no finite numbers of at least 0.
        ConfigError: There is no such column.
    """
    if name is None:
        return None
    found = find_array(table, name)
    if found is None:
        raise unknown_name("column", name, [*table.names, *table.sides], where="--weights")
    try:
        weight = torch.as_tensor(np.asarray(found, dtype=np.float64), dtype=torch.float32, device=device)
    except (TypeError, ValueError) as error:
        raise DataError("weights must be numbers", where=f"{table.origin}, column {name!r}") from error
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise DataError(
            "weights must be finite and not negative",
            where=f"{table.origin}, column {name!r}",
            remedy="Mend these rows, or name another column; a row of weight 0 takes no part.",
        )
    return weight


def needs_memory(where: str, what: str) -> ConfigError:
    """The refusal of what looks at all rows at once, of a set that stays on disk."""
    return ConfigError(
        f"{what} needs all of them in memory, and the rows of this set stay on disk",
        where=where,
        remedy="Pair within batches, or train on a part of the rows.",
    )
