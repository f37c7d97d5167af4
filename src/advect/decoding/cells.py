"""Annotated cells, from an AnnData or, in the decoding process, from its file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from advect.decoding.answer import AnswerWriter
from advect.decoding.columns import Converted, plain_value, series_column
from advect.decoding.stored_cells import open_annotated
from advect.decoding.texts import Texts, packed
from advect.errors import DataError, missing_extra, unknown_name

DEFAULT = "X_pca"
GENES = "X"
MOST_COLUMNS = 5000
"""Columns of ``X`` that are still modelled as they are; a flow of more wants components."""


@dataclass(frozen=True)
class Cells:
    """A representation with what lies beside it.

    Attributes:
        key: Its name.
        names: Of its columns.
        values: ``(cells, columns)`` as they are stored, dense.
        sides: Columns of ``obs``: `Converted`, or what ``column`` of `cells_of` makes of them.
        notes: What was left aside.
    """

    key: str
    names: tuple[str, ...]
    values: np.ndarray
    sides: Mapping[str, Any]
    notes: tuple[str, ...]


def load() -> None:
    """Import what is needed, before the limits hold.

    Raises:
        MissingExtraError: anndata is not installed.
    """
    try:
        import anndata  # noqa: F401
    except ImportError:
        raise missing_extra("anndata", "cells", "reading .h5ad files") from None


def decode(path: str, request: Mapping[str, Any], answer: AnswerWriter) -> dict[str, Any]:
    """The representation ``request["key"]`` of a file, and ``obs``.

    Raises:
        As for `open_annotated` and `cells_of`.
    """
    opened = open_annotated(path)
    try:
        found = cells_of(opened, request["key"], path, packed_series)
    finally:
        opened.file.close()
    if found.values.dtype.kind not in "biuf" or found.values.dtype.itemsize > 8:
        raise DataError(f"a representation of {found.values.dtype} holds no numbers", where=f"{path}:{found.key}")
    return {
        "key": found.key,
        "names": list(found.names),
        "values": answer.array(found.values),
        "side_names": list(found.sides),
        "sides": [answer.column(column, f"{path}, obs {name!r}") for name, column in found.sides.items()],
        "notes": list(found.notes),
    }


def cells_of(
    annotated: Any,
    key: str | None,
    origin: str,
    column: Callable[[Any, str], Converted | Texts] = series_column,
) -> Cells:
    """The rows of a representation of an AnnData, with the columns of ``obs``.

    Args:
        annotated: An AnnData, or what is stored of one.
        key: A key of ``obsm``, or ``X``; by default ``X_pca``.
        origin: For messages.
        column: From a pandas series and its place to a column.

    Raises:
        UnknownNameError: No such representation.
        DataError: None is named and there is no ``X_pca``; more columns than can be modelled; parts of several lengths.
    """
    chosen = _chosen(annotated, key, origin)
    values = _matrix(annotated, chosen, f"{origin}:{chosen}")
    if chosen == GENES:
        names = tuple(map(str, annotated.var_names))
    else:
        names = tuple(f"{chosen.removeprefix('X_')}{i + 1}" for i in range(values.shape[1]))
    sides, notes = _sides(annotated.obs, origin, column)
    if (len(annotated.obs), len(names)) != values.shape:
        what = f"{len(annotated.obs)} cells and {len(names)} columns, but a representation of shape {values.shape}"
        raise DataError(what, where=f"{origin}:{chosen}", remedy="The file is damaged; fetch or save it again.")
    return Cells(chosen, names, values, sides, notes)


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


def _sides(obs: Any, origin: str, make: Callable[[Any, str], Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The columns of ``obs``, and notes on what was left aside."""
    sides, notes = {}, []
    for name in map(str, obs.columns):
        where = f"{origin}, obs {name!r}"
        try:
            column = make(obs[name], where)
            for value in getattr(column, "categories", None) or ():
                plain_value(value, where)
        except DataError:  # dates, lists and other objects: nothing that a condition or a time could be
            notes.append(f"the column {name!r} of obs is left aside: its kind is not known here")
            continue
        sides[name] = column
    return sides, tuple(notes)


def packed_series(series: Any, where: str) -> Converted | Texts:
    """A pandas series, packed where it is text: rows then travel as codes, and each text once.

    Raises:
        DataError: As for `series_column`.
    """
    declared = hasattr(series.dtype, "categories")
    if declared:
        codes, levels = series.cat.codes.to_numpy(), series.dtype.categories.tolist()
    elif series.dtype.kind == "O":
        try:
            codes, found = series.factorize()
        except TypeError:  # lists and the like, which have no hash
            return series_column(series, where)
        levels = found.tolist()
    else:
        return series_column(series, where)
    if not levels or not all(type(level) is str for level in levels):
        return series_column(series, where)
    ordered = declared and bool(series.dtype.ordered)
    codes = np.where(codes < 0, len(levels), codes).astype(np.int32)
    return Texts(codes, *packed(levels), str(series.dtype), declared, ordered)
