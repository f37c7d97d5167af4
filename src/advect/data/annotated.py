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

from advect.data.arrays import refuse_non_finite
from advect.decoding import decoded
from advect.decoding.cells import GENES, Cells, cells_of
from advect.decoding.columns import refuse_dtype
from advect.errors import DataError, missing_extra
from advect.records import Table

CONTAINER = "h5ad"


def is_annotated(source: object) -> bool:
    """Whether an object looks like an AnnData; the package is not imported."""
    return all(hasattr(source, name) for name in ("obs", "var", "obsm", "obs_names", "var_names"))


def read_h5ad(path: Path, key: str | None = None) -> Table:
    """Read a ``.h5ad`` file through anndata (the extra ``cells``), which runs in a process of its own.

    Args:
        path: The file.
        key: The representation: a key of ``obsm``, or ``X``; by default ``X_pca``.

    Raises:
        MissingExtraError: anndata is not installed.
        DataError: Damaged, or no such file; else as for `from_annotated`.
    """
    answer = decoded("cells", path, key=key)
    names, values = answer.texts("names"), answer.array(answer.meaning.get("values"))
    columns, side_names = answer.columns("sides"), answer.texts("side_names")
    if values.ndim != 2 or values.shape[1] != len(names) or len(columns) != len(side_names):
        raise DataError("its parts do not fit one another", where=str(path), remedy="It is damaged; fetch it again.")
    sides = dict(zip(side_names, columns, strict=True))
    cells = Cells(str(answer.meaning.get("key")), tuple(names), values, sides, tuple(answer.texts("notes")))
    return _table(cells, str(path))


def read_loadings(path: Path) -> tuple[int, np.ndarray | None]:
    """How many genes a file has, and the loadings ``(genes, components)`` of its components, if it has any.

    Raises:
        As for `read_h5ad`.
    """
    answer = decoded("loadings", path)
    genes, number = answer.meaning.get("genes"), answer.meaning.get("loadings")
    return int(genes) if isinstance(genes, int) else 0, None if number is None else answer.array(number)


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
    return _table(cells_of(annotated, key, origin), origin)


def _table(cells: Cells, origin: str) -> Table:
    where, values = f"{origin}:{cells.key}", cells.values
    refuse_dtype(values.dtype, where)
    if values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8):
        values = values.astype(np.float32)
    refuse_non_finite(values, cells.names, where)
    declared = {name: tuple(c.categories) for name, c in cells.sides.items() if c.categories is not None}
    return Table(
        names=cells.names,
        columns=tuple(values.T),  # views
        container=CONTAINER,
        event_shape=(len(cells.names),),
        dtypes=(str(values.dtype),) * len(cells.names),
        origin=origin,
        key=cells.key,
        sides={name: column.values for name, column in cells.sides.items()},
        categories=declared,
        ordered=frozenset(name for name, column in cells.sides.items() if column.ordered),
        notes=cells.notes,
    )


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
