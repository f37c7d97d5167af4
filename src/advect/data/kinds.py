"""What kind of thing one column is.

Decided by what the values are, not by how they are stored: a float column that only holds whole numbers is an
``integer`` column, since a density of it would grow without bound as a model sharpens around the integers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from advect.errors import DataError
from advect.records import Column, Columns

MOST_CATEGORIES = 1000
MOST_LEVELS = 64
WIDEST_RANGE = 255
ROWS_PER_LEVEL = 10
EXACT = 2.0**53  # beyond this every float is whole, which says nothing about the column


def infer_column(
    name: str, values: np.ndarray, dtype: str, origin: str, *, declared: Sequence[Any] | None = None
) -> Column:
    """Decide the kind of one column; ``declared`` are the categories of a frame that gave them an order."""
    where = f"{origin}, column {name!r}"
    if declared is not None or dtype == "category":
        return _categorical(name, values.astype(object), dtype, where, declared)
    if values.dtype.kind in "OUST":
        form = _object_form(values, where)
        if form == "text":
            return _categorical(name, values.astype(object), dtype, where, None)
        gaps = is_gap(values)
        if form == "boolean":
            seen = {bool(v) for v in values[~gaps]}
            return Column(name, "boolean", dtype, float(min(seen)), float(max(seen)), missing=bool(gaps.any()))
        values = as_floats(values)
    if values.dtype.kind == "b":
        low, high = (float(values.min()), float(values.max())) if values.size else (None, None)
        return Column(name, "boolean", dtype, low, high)
    if values.dtype.kind not in "iuf":
        raise DataError(
            f"values of type {values.dtype} cannot be modelled",
            where=where,
            remedy="Turn the column into numbers (such as seconds) or text, or leave it out.",
        )
    return _numeric(name, values, dtype)


def is_gap(values: np.ndarray) -> np.ndarray:
    """Which entries are missing: NaN in numbers, None or NaN in object arrays; ``(rows,)`` bool."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        return np.fromiter((v is None or v != v for v in values.tolist()), bool, len(values))
    return np.zeros(len(values), bool)


def as_floats(values: np.ndarray) -> np.ndarray:
    """Numbers as float64, gaps as NaN; for arrays without text."""
    if values.dtype.kind == "O":
        return np.where(is_gap(values), np.nan, values).astype(np.float64)
    return values.astype(np.float64)


def stack_numbers(columns: Columns) -> np.ndarray:
    """The columns of an all-numeric table as one ``(rows, columns)`` array of their common dtype."""
    array = getattr(columns, "array", None)  # columns that were read as one array are one already
    if array is not None:
        return array
    return np.stack(tuple(columns), axis=1) if len(columns) else np.zeros((0, 0))


def is_whole(values: np.ndarray) -> bool:
    """Whether every finite value of a numeric array is a whole number (and there is at least one)."""
    if values.dtype.kind in "iub":
        return values.size > 0
    head = values.ravel()[:1000]
    if not _all_whole(head[np.isfinite(head)]):
        return False
    finite = values[np.isfinite(values)]
    return finite.size > 0 and bool(np.abs(finite).max() < EXACT) and _all_whole(finite)


def _numeric(name: str, values: np.ndarray, dtype: str) -> Column:
    gaps = is_gap(values)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return Column(name, "continuous", dtype, missing=bool(gaps.any()))
    low, high = float(finite.min()), float(finite.max())
    if not is_whole(values):
        return Column(name, "continuous", dtype, low, high, missing=bool(gaps.any()))
    levels: tuple[int, ...] = ()
    if high - low > WIDEST_RANGE and len(np.unique(finite[:10_000])) <= MOST_LEVELS:
        # A few values far apart, each seen often (prices, codes), are levels; as many values as rows are a scale.
        distinct = np.unique(finite)
        if len(distinct) <= MOST_LEVELS and len(distinct) * ROWS_PER_LEVEL <= finite.size:
            levels = tuple(int(v) for v in distinct)
    return Column(name, "integer", dtype, low, high, levels, missing=bool(gaps.any()))


def _categorical(name: str, values: np.ndarray, dtype: str, where: str, declared: Sequence[Any] | None) -> Column:
    gaps = is_gap(values)
    seen = {_plain(v, where) for v in set(values[~gaps].tolist())}
    if declared is None:
        categories = tuple(sorted(seen, key=lambda v: (isinstance(v, str), v)))
    else:
        categories = tuple(_plain(v, where) for v in declared)
        stray = seen - set(categories)
        if stray:
            raise DataError(f"the value {min(stray, key=str)!r} is not among the declared categories", where=where)
    rows = int((~gaps).sum())
    if len(categories) > MOST_CATEGORIES or (len(seen) > 20 and len(seen) > rows / 2):
        raise DataError(
            f"{len(categories)} different values in {rows} rows are names or identifiers, which cannot be learned",
            where=where,
            remedy="Leave the column out, or shorten it to a category that repeats.",
        )
    return Column(name, "categorical", dtype, categories=categories, missing=bool(gaps.any()))


def _object_form(values: np.ndarray, where: str) -> str:
    """``text``, ``boolean`` or ``number``; refuses a mixture of them."""
    if values.dtype.kind != "O":
        return "text"
    present = np.flatnonzero(~is_gap(values))
    kept = values[present].tolist()
    kinds = {_form(t) for t in set(map(type, kept))}
    if not kinds:
        return "number"  # nothing but gaps: refused later, as a column without values
    if len(kinds) == 1 and kinds <= _FORMS:
        return kinds.pop()
    forms = [_form(type(v)) for v in kept]
    odd = min(kinds, key=forms.count) if kinds <= _FORMS else (kinds - _FORMS).pop()
    row = int(present[forms.index(odd)])
    raise DataError(
        f"row {row} (counted from 0) holds {values[row]!r} ({odd}) in a column of other values",
        where=where,
        remedy="Make all values of the column numbers, or all text.",
    )


_FORMS = {"text", "boolean", "number"}


def _form(kind: type) -> str:
    if issubclass(kind, str):
        return "text"
    if issubclass(kind, (bool, np.bool_)):
        return "boolean"
    return "number" if issubclass(kind, (int, float, np.integer, np.floating)) else kind.__name__


def _plain(value: Any, where: str) -> str | int | float | bool:
    """A category as a plain Python value, so that it can be stored as text."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, (str, bool, int, float)):
        return value
    raise DataError(f"a category of type {type(value).__name__} cannot be stored", where=where, remedy="Use text.")


def _all_whole(values: np.ndarray) -> bool:
    return bool(np.all(values == np.rint(values)))
