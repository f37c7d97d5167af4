"""Annotated data of single cells (AnnData, ``.h5ad``), by the extra ``cells``.

Modelled is one representation: a matrix of ``obsm`` (``X_pca`` where nothing is said), or ``X`` itself, sparse or
dense. The columns of ``obs`` come along beside the rows. A file is opened without reading ``X`` unless it is the
representation, so cells with many genes cost no more than their components.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from advect.data.arrays import refuse_dtype, refuse_non_finite
from advect.data.frames import series_column
from advect.errors import DataError, missing_extra, unknown_name
from advect.records import Table

CONTAINER = "h5ad"
DEFAULT = "X_pca"
GENES = "X"
MOST_COLUMNS = 5000
"""Columns of ``X`` that are still modelled as they are; a flow of more wants components."""


def is_annotated(source: object) -> bool:
    """Whether an object looks like an AnnData; the package is not imported."""
    return all(hasattr(source, name) for name in ("obs", "var", "obsm", "obs_names", "var_names"))


def open_annotated(path: Path, *, backed: bool = True) -> Any:
    """The AnnData of a file, ``X`` left on the disk where ``backed``.

    Raises:
        MissingExtraError: anndata is not installed.
        DataError: Damaged, or no such file.
    """
    try:
        import anndata
    except ImportError:
        raise missing_extra("anndata", "cells", "reading .h5ad files") from None
    try:
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError) as error:
        raise DataError(
            f"the file cannot be read: {error}",
            where=str(path),
            remedy="It is damaged, cut short or no .h5ad file; fetch or save it again.",
        ) from error


def read_h5ad(path: Path, key: str | None = None) -> Table:
    """Read a ``.h5ad`` file.

    Args:
        path: The file.
        key: The representation: a key of ``obsm``, or ``X``; by default ``X_pca``.

    Raises:
        As for `open_annotated` and `from_annotated`.
    """
    opened = open_annotated(path)
    try:
        return from_annotated(opened, key, origin=str(path))
    finally:
        opened.file.close()


def from_annotated(annotated: Any, key: str | None = None, *, origin: str = "AnnData") -> Table:
    """The rows of a representation, with the columns of ``obs`` beside them.

    Args:
        annotated: An AnnData.
        key: See `read_h5ad`.
        origin: For messages.

    Raises:
        UnknownNameError: No such representation.
        DataError: None is named and there is no ``X_pca``; more columns than can be modelled; NaN or infinities.
    """
    chosen = _chosen(annotated, key, origin)
    where = f"{origin}:{chosen}"
    values = _matrix(annotated, chosen, where)
    if chosen == GENES:
        names = tuple(map(str, annotated.var_names))
    else:
        names = tuple(f"{chosen.removeprefix('X_')}{i + 1}" for i in range(values.shape[1]))
    refuse_dtype(values.dtype, where)
    if values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
        values = values.astype(np.float32)
    refuse_non_finite(values, names, where)
    sides, categories, ordered, notes = _sides(annotated.obs, origin)
    return Table(
        names=names,
        columns=tuple(values.T),  # views
        container=CONTAINER,
        event_shape=(len(names),),
        dtypes=(str(values.dtype),) * len(names),
        origin=origin,
        key=chosen,
        sides=sides,
        categories=categories,
        ordered=ordered,
        notes=notes,
    )


def _chosen(annotated: Any, key: str | None, origin: str) -> str:
    known = [*map(str, annotated.obsm.keys()), *([GENES] if _has_matrix(annotated) else [])]
    if key is not None:
        if key not in known:
            raise unknown_name("representation", key, known, where=origin)
        return key
    if DEFAULT in known:
        return DEFAULT
    if known == [GENES] and annotated.n_vars <= MOST_COLUMNS:
        return GENES
    listed = ", ".join(known) or "none"
    raise DataError(
        f"there is no {DEFAULT}, and it is not clear which representation to model (there are: {listed})",
        where=origin,
        remedy=f"Name one, such as --rep {known[0]}." if known and known != [GENES] else "scanpy.pp.pca makes X_pca.",
    )


def _has_matrix(annotated: Any) -> bool:
    """Whether there is an ``X``; of a file that is left on the disk the question may fail."""
    try:
        return annotated.X is not None
    except KeyError:
        return False


def _matrix(annotated: Any, key: str, where: str) -> np.ndarray:
    """The representation ``(cells, columns)``, dense."""
    columns = annotated.n_vars if key == GENES else annotated.obsm[key].shape[1]
    if columns > MOST_COLUMNS:
        raise DataError(
            f"{columns} columns are too many to model as they are",
            where=where,
            remedy="Take components of them: scanpy.pp.pca makes X_pca.",
        )
    values = annotated.X if key == GENES else annotated.obsm[key]
    for step in ("to_memory", "toarray", "to_numpy"):  # on disk, sparse, a frame
        values = getattr(values, step)() if hasattr(values, step) else values
    values = np.asarray(values)
    if values.ndim != 2 or not values.shape[1]:
        raise DataError(f"a representation of shape {values.shape} has no columns to model", where=where)
    return values


def _sides(obs: Any, origin: str) -> tuple[dict[str, np.ndarray], dict[str, tuple], frozenset[str], tuple[str, ...]]:
    """The columns of ``obs``, their declared values, which of these are in order, and notes on what was left aside."""
    sides, categories, ordered, notes = {}, {}, set(), []
    for name in map(str, obs.columns):
        try:
            column = series_column(obs[name], f"{origin}, obs {name!r}")
        except DataError:  # dates, lists and other objects: nothing that a condition or a time could be
            notes.append(f"the column {name!r} of obs is left aside: its kind is not known here")
            continue
        sides[name] = column.values
        if column.categories is not None:
            categories[name] = tuple(column.categories)
        if column.ordered:
            ordered.add(name)
    return sides, categories, frozenset(ordered), tuple(notes)


def write_h5ad(table: Table, path: Path) -> None:
    """A table as a new ``.h5ad`` file: the rows as the representation they are, side columns in ``obs``.

    Raises:
        MissingExtraError: anndata is not installed.
    """
    try:
        import anndata
        import pandas
    except ImportError:
        raise missing_extra("anndata", "cells", "writing .h5ad files") from None
    # Text as categories of Python's own texts: any version of anndata reads those.
    index = pandas.Index([str(row) for row in range(table.num_rows)], dtype=object)
    sides: dict[str, Any] = {}
    for name, side in table.sides.items():
        if side.ndim == 1:
            sides[name] = _categories(pandas, side) if side.dtype.kind in "OUS" else side
    text = [c for c in table.columns if c.dtype.kind in "OUS"]
    if text:
        raise DataError("a matrix of numbers cannot hold text", where=table.origin, remedy="Write a .csv file.")
    values = np.stack([np.asarray(c, dtype=np.float64) for c in table.columns], 1)
    if all(word == "float32" for word in table.dtypes):
        values = values.astype(np.float32)
    obs = pandas.DataFrame(sides, index=index)
    if table.container == CONTAINER and table.key not in (None, GENES):
        nothing = pandas.DataFrame(index=pandas.Index([], dtype=object))
        made = anndata.AnnData(obs=obs, var=nothing, obsm={table.key: values})
    else:
        genes = pandas.Index(list(table.names), dtype=object)
        made = anndata.AnnData(X=values, obs=obs, var=pandas.DataFrame(index=genes))
    with hdf5_told():
        made.write_h5ad(path)


@contextmanager
def hdf5_told() -> Iterator[None]:
    """HDF5 has errors of its own for a full disk: they become the system's.

    Raises:
        OSError: In the system's words.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        told = re.search(r"error message = '([^']+)'", str(error))
        if told is None:
            raise
        raise OSError(told[1]) from error


def _categories(pandas: Any, values: np.ndarray) -> Any:
    words = sorted({str(v) for v in values.tolist() if v is not None})
    place = {word: i for i, word in enumerate(words)}
    codes = [-1 if v is None else place[str(v)] for v in values.tolist()]
    return pandas.Categorical.from_codes(codes, categories=pandas.Index(words, dtype=object))
