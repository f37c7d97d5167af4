"""Columns of frames as NumPy arrays: pandas series and Python objects, by duck typing.

Missing values of any kind (None, NaN, NaT, NA, null) are gaps. Declared categories keep their order. The dtype is
remembered in the frame's own word, so that the same kind of column can be given back. Torch is not imported here: this
runs in the process that decodes files, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from advect.errors import DataError


@dataclass(frozen=True)
class Converted:
    """One converted column.

    Attributes:
        values: ``(rows,)`` numbers, booleans, or Python objects with None for gaps.
        dtype: In the frame's word.
        categories: As declared; None where nothing was.
        ordered: Whether they are in order.
    """

    values: np.ndarray
    dtype: str
    categories: Sequence[Any] | None = None
    ordered: bool = False


def refuse_dtype(dtype: np.dtype, where: str) -> None:
    """Refuse the dtypes that are no numbers, each with its reason."""
    kind = dtype.kind
    if kind in "biuf":
        return
    if dtype.hasobject:
        raise DataError(
            "the array holds Python objects",
            where=where,
            remedy="Make it an array of numbers; for text and gaps give a data frame.",
        )
    if kind in "Mm":
        raise DataError(
            f"dates and durations ({dtype}) cannot be modelled as they are",
            where=where,
            remedy="Convert them to numbers, such as days since a start.",
        )
    if kind == "c":
        raise DataError(
            f"complex numbers ({dtype}) cannot be modelled as they are",
            where=where,
            remedy="Give their real and imaginary parts as two columns.",
        )
    raise DataError(
        f"values of type {dtype} are no numbers",
        where=where,
        remedy="Give numbers; for text columns give a table (.csv, a data frame, a structured array).",
    )


def series_column(series: Any, where: str) -> Converted:
    """A pandas series.

    Raises:
        DataError: Dates, complex numbers, lists or mixed text.
    """
    dtype = series.dtype
    word = str(dtype)
    gaps = series.isna().to_numpy(dtype=bool)
    if hasattr(dtype, "categories"):
        values = plain_objects(series.astype(object).tolist(), gaps, where)
        return Converted(values, "category", list(dtype.categories), bool(getattr(dtype, "ordered", False)))
    if word.startswith("Sparse"):
        series = series.sparse.to_dense()
        dtype, word = series.dtype, str(series.dtype)
    kind = getattr(dtype, "kind", "O")
    if kind in "iuf" and not word.startswith(("date", "time", "period", "duration")):
        if isinstance(dtype, np.dtype):
            return Converted(series.to_numpy(), word)
        values = series.to_numpy(dtype=np.float64, na_value=math.nan)
        if not gaps.any() and kind in "iu":
            values = series.to_numpy(dtype=np.int64 if kind == "i" else np.uint64)
        return Converted(values.astype(_numpy_name(word, values.dtype), copy=False), word)
    if kind == "b" and not gaps.any():
        return Converted(series.to_numpy(dtype=bool), word)
    if isinstance(dtype, np.dtype) and kind != "O" and kind != "b":
        refuse_dtype(dtype, where)
    if kind in "Mm" or word.startswith(("datetime", "period", "timestamp", "date", "duration")):
        refuse_dtype(np.dtype("M8[ns]"), where)
    return from_objects(series.astype(object).tolist(), gaps, word, where)


def _numpy_name(word: str, values: np.dtype) -> np.dtype:
    """The NumPy dtype of a nullable one (``Int32``, ``float[pyarrow]``), for values that hold no gaps."""
    if values.kind == "f" and word[0] in "IUiu":
        return values  # gaps make whole numbers floats
    name = word.lower().split("[")[0]
    return np.dtype({"double": "float64", "float": "float32", "halffloat": "float16"}.get(name, name))


def from_objects(values: Sequence[Any], gaps: np.ndarray, word: str, where: str) -> Converted:
    """A column of Python objects: all text, all booleans or all numbers; anything else is refused."""
    kinds = {_kind(v) for v, gap in zip(values, gaps.tolist(), strict=True) if not gap}
    if kinds <= {"text"}:
        if not kinds and gaps.all():
            return Converted(np.full(len(gaps), math.nan), "float64")
        return Converted(plain_objects(values, gaps, where), word)
    if kinds == {"truth"}:
        column = plain_objects(values, gaps, where)
        return Converted(column if gaps.any() else column.astype(bool), word if word != "object" else "bool")
    if kinds <= {"whole", "number"}:
        floats = [math.nan if gap else float(v) for v, gap in zip(values, gaps.tolist(), strict=True)]
        whole = kinds == {"whole"} and max((abs(f) for f in floats if not math.isnan(f)), default=0) < 2**53
        column = np.array(floats, dtype=np.float64)
        if whole and not gaps.any():
            column = column.astype(np.int64)
        return Converted(column, "int64" if whole else "float64")
    _refuse_objects(values, gaps, kinds, where)
    raise AssertionError("a column of unknown kinds is always refused")


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "truth"
    if isinstance(value, int | np.integer):
        return "whole"
    if isinstance(value, float | np.floating | Decimal):
        return "number"
    return type(value).__name__


def _refuse_objects(values: Sequence[Any], gaps: np.ndarray, kinds: set[str], where: str) -> None:
    """Say which cell spoils the column."""
    odd = kinds - {"text", "truth", "whole", "number"}
    if odd & {"datetime", "date", "time", "timedelta", "Timestamp", "Timedelta"}:
        refuse_dtype(np.dtype("M8[us]"), where)
    if odd & {"complex"}:
        refuse_dtype(np.dtype(complex), where)
    wanted = odd or {"text"}
    pairs = zip(values, gaps.tolist(), strict=True)
    row, value = next((r, v) for r, (v, gap) in enumerate(pairs) if not gap and (_kind(v) in wanted or kinds == odd))
    if odd:
        raise DataError(
            f"the cell in row {row} (counted from 0) holds a {type(value).__name__}",
            where=where,
            remedy="A column holds numbers, text or true/false; unpack lists and records into columns.",
        )
    raise DataError(
        f"mixed text in a numeric column: row {row} (counted from 0) holds {value!r}",
        where=where,
        remedy="Mend the cell, or make it missing; for a category convert the whole column to text.",
    )


def plain_objects(values: Sequence[Any], gaps: np.ndarray, where: str) -> np.ndarray:
    """Plain Python values with None for gaps."""
    column = np.empty(len(values), dtype=object)
    column[:] = [None if gap else plain_value(v, where) for v, gap in zip(values, gaps.tolist(), strict=True)]
    return column


def plain_value(value: Any, where: str) -> str | int | float | bool:
    """A text, number or truth value without its NumPy wrapping."""
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, str | int | float | bool):
        raise DataError(
            f"a category of type {type(value).__name__} cannot be kept", where=where, remedy="Convert it to text."
        )
    return value
