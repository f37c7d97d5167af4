"""The velocity of rows in the units of the data, and annotated cells with it: names as scanpy, scVelo and CellRank use
them.

    dx/dτ = J(z) v(t, z) / T        z = the row in latent coordinates, J the derivative of the way back to the data's,
                                    t its time on the flow's axis, T the user's time from the first to the last

In annotated cells the velocity of the representation ``X_pca`` becomes ``obsm["velocity_pca"]``. Components are a
linear image of the genes, so their velocity goes back through the loadings ``varm["PCs"]`` to ``layers["velocity"]``:
the velocity of the genes within the space of the components, 0 for genes that took no part in them.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.data import Codec
from advect.decoding.cells import DEFAULT, GENES
from advect.errors import ConfigError, DataError, UnsupportedError
from advect.files import atomic_path
from advect.records import Status, Table
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.between import own_conditions
from advect.workflows.growth import growth_rate
from advect.workflows.snapshots import needed_timeline
from advect.workflows.streams import SCORE
from advect.workflows.transport import preprocessing

LOADINGS = "PCs"
LAYER = "velocity"
GROWTH = "growth_rate"
ROWS_AT_ONCE = 4096  # of the layer of genes: a few hundred MB at most


@dataclass(frozen=True)
class Velocities:
    """What was found.

    Attributes:
        values: ``(rows, columns)`` in the units of the data per unit of its times.
        names: Of the columns.
        unit: Of time, as the data call it.
        growth: ``(rows,)`` rate of growth per unit of time, relative to all rows; None where the plan neither makes nor
            loses mass.
    """

    values: np.ndarray
    names: tuple[str, ...]
    unit: str
    growth: np.ndarray | None = None

    def table(self) -> Table:
        """The velocities as a table of their own, and the rate of growth beside them."""
        names = tuple(f"velocity {name}" for name in self.names)
        columns = tuple(self.values.T)
        if self.growth is not None:
            names, columns = (*names, GROWTH), (*columns, self.growth)
        return Table(
            names=names,
            columns=columns,
            container="csv",
            event_shape=(len(names),),
            dtypes=("float64",) * len(names),
            origin="velocities",
        )


@torch.no_grad()
def velocities(artefact: Artefact, table: Table, *, at: Any = None, seed: int = 0) -> Velocities:
    """The velocity of each row at its time.

    Args:
        artefact: A model with times.
        table: Rows.
        at: The time of all of them; None for the times in their own column.
        seed: Unused by rows of numbers, which are the only ones with a velocity.

    Raises:
        ConfigError: A model without times; rows whose time is not said, or lies outside the data's.
        UnsupportedError: Columns that are no numbers on a line.
    """
    timeline = needed_timeline(artefact, "velocity")
    _refuse_levels(artefact.codec)
    times = timeline.read(table) if at is None else np.full(table.num_rows, timeline.parse(at, where="--at"))
    if times is None:
        raise ConfigError(
            f"it is not said which time these rows are of, and they have no column {timeline.key!r}",
            where="--at",
            remedy=f"Give it: --at {timeline.words[0]}.",
        )
    places = torch.tensor([timeline.position(time) for time in times.tolist()], dtype=torch.float32)
    coded = artefact.codec.encode(table, generator=generator_for(seed, SCORE), dtype=torch.float64)
    maps, given = preprocessing(artefact), own_conditions(artefact, table)

    def back(z: Tensor) -> Tensor:
        for part in reversed(maps):
            z = part.decode(z, log_det=False).value
        return z

    pieces, latent = [], []
    step = artefact.flow.chunk_rows
    for first in range(0, table.num_rows, step):
        z = coded.values[first : first + step]
        for part in maps:
            z = part.encode(z, log_det=False).value
        latent.append(z)
        own = None if given is None else given[first : first + step]
        v = artefact.flow.velocity(places[first : first + step], z, own)
        pieces.append(torch.func.jvp(back, (z,), (v,))[1].double())
    moved = torch.cat(pieces).flatten(1).numpy() / timeline.duration
    moved[(coded.status >= Status.OUTSIDE_SUPPORT).numpy()] = np.nan
    values = np.zeros((table.num_rows, len(artefact.schema.columns)))  # a constant does not move
    values[:, [coordinate.column for coordinate in artefact.codec.coordinates]] = moved
    growth = growth_rate(artefact, torch.cat(latent), times, given)
    return Velocities(values, artefact.schema.names, timeline.key, growth)


def _refuse_levels(codec: Codec) -> None:
    odd = [
        column.name
        for column, code in zip(codec.schema.columns, codec.codes, strict=True)
        if code.form not in ("real", "constant") or code.indicator
    ]
    if odd or codec.schema.image:
        raise UnsupportedError(
            f"{odd[0]!r} takes steps or has gaps, and only numbers on a line have a velocity"
            if odd
            else "pictures have no velocity to write down",
            where="velocity",
            remedy="Train on columns of numbers without gaps, in Python with continuous data.",
        )


def velocity_key(representation: str) -> str:
    """The key in ``obsm`` for the velocity of a representation.

    >>> velocity_key("X_pca")
    'velocity_pca'
    """
    return f"velocity_{representation.removeprefix('X_')}"


def annotate(artefact: Artefact, annotated: Any, *, at: Any = None, genes: bool = True) -> None:
    """Put the velocity of cells into an AnnData in memory.

    Args:
        artefact: A model of a representation, with times.
        annotated: The cells, with that representation.
        at: The time of all of them; None for the column of times in ``obs``.
        genes: Also that of the genes, where the loadings are there.

    Raises:
        As for `velocities`; UnknownNameError without the representation.
    """
    from advect.data import read_like

    key = _representation(artefact)
    found = velocities(artefact, read_like(annotated, artefact.schema), at=at)
    if key != GENES:
        annotated.obsm[velocity_key(key)] = found.values.astype(np.float32)
    if found.growth is not None:
        annotated.obs[GROWTH] = found.growth
    blocks = _of_genes(key, found.values, annotated.varm.get(LOADINGS)) if genes else None
    if blocks is not None:
        annotated.layers[LAYER] = np.concatenate(list(blocks))


def annotate_file(
    artefact: Artefact, source: Path, destination: Path, *, at: Any = None, genes: bool = True
) -> tuple[str, ...]:
    """A copy of a ``.h5ad`` file with velocities, written block by block, whole or not at all.

    The arguments are those of `annotate`; returns the names of what was added.

    Raises:
        As for `annotate`; DataError for a file that cannot be read.
    """
    from anndata.io import write_elem
    from h5py import File

    from advect.data import read_like
    from advect.data.annotated import hdf5_told, read_loadings

    key = _representation(artefact)
    found = velocities(artefact, read_like(source, artefact.schema), at=at)
    num_genes, loadings = read_loadings(source)
    added = []
    with atomic_path(destination) as temporary, hdf5_told():
        shutil.copyfile(source, temporary)
        with File(temporary, "r+") as file:
            if key != GENES:
                _replace(file.require_group("obsm"), velocity_key(key))
                write_elem(file["obsm"], velocity_key(key), found.values.astype(np.float32))
                added.append(f"obsm[{velocity_key(key)!r}]")
            if found.growth is not None:
                _write_obs(file["obs"], GROWTH, found.growth)
                added.append(f"obs[{GROWTH!r}]")
            blocks = _of_genes(key, found.values, loadings) if genes else None
            if blocks is not None:
                _write_layer(file.require_group("layers"), blocks, (len(found.values), num_genes))
                added.append(f"layers[{LAYER!r}]")
    return tuple(added)


def _representation(artefact: Artefact) -> str:
    key = artefact.schema.key
    if artefact.schema.container != "h5ad" or key is None:
        raise ConfigError(
            "this model was not trained on annotated cells, so their velocity cannot be put beside them",
            where="velocity",
            remedy="Write a table: --out FILE.csv.",
        )
    return key


def _of_genes(key: str, values: np.ndarray, loadings: Any) -> Iterator[np.ndarray] | None:
    """Blocks ``(rows, genes)`` float32 of the velocity of the genes; None where there is no way back to them."""
    if key == GENES:
        back = None
    elif key == DEFAULT and loadings is not None:
        back = np.asarray(loadings, dtype=np.float64)[:, : values.shape[1]].T
        if back.shape[0] != values.shape[1]:
            raise DataError(f"{values.shape[1]} components have {back.shape[0]} loadings", where=f"varm[{LOADINGS!r}]")
    else:
        return None
    starts = range(0, len(values), ROWS_AT_ONCE)
    blocks = (values[start : start + ROWS_AT_ONCE] for start in starts)
    return ((block if back is None else block @ back).astype(np.float32) for block in blocks)


def _replace(group: Any, name: str) -> None:
    if name in group:
        del group[name]


def _write_obs(group: Any, name: str, values: np.ndarray) -> None:
    """A column of numbers in the frame of the cells, in the format of anndata's frames."""
    from anndata.io import write_elem

    _replace(group, name)
    write_elem(group, name, values)
    order = [str(one) for one in group.attrs["column-order"]]
    if name not in order:
        group.attrs["column-order"] = np.array([*order, name], dtype=object)


def _write_layer(group: Any, blocks: Iterator[np.ndarray], shape: tuple[int, int]) -> None:
    """A dense layer in the format of anndata's arrays, filled block by block."""
    _replace(group, LAYER)
    layer = group.create_dataset(LAYER, shape=shape, dtype="float32")
    layer.attrs["encoding-type"], layer.attrs["encoding-version"] = "array", "0.2.0"
    first = 0
    for block in blocks:
        layer[first : first + len(block)] = block
        first += len(block)
