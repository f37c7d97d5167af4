"""Data frames by duck typing (pandas, polars, pyarrow), and parquet files.

No frame package is imported to recognise a frame: pandas frames have ``iloc``, polars frames ``get_columns``, Arrow
tables ``column_names``. Missing values of any kind (None, NaN, NaT, NA, null) are gaps. Declared categories keep their
order. The dtype is remembered in the frame's own word, so that the same kind of column can be given back.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from advect.data.arrays import refuse_dtype, refuse_non_finite
from advect.errors import DataError, missing_extra
from advect.records import Table


def is_frame(source: object) -> bool:
    """Whether an object looks like a pandas, polars or Arrow table or column."""
    return any(hasattr(source, name) for name in ("iloc", "get_columns", "column_names", "to_frame", "collect"))


def from_frame(frame: Any, *, origin: str = "data frame") -> Table:
    """Make a table of a frame (or of a single column of one).

    Raises:
        DataError: Repeated or nested column names; dates, complex numbers, lists or mixed text in a column;
            an infinite value, with its row and column.
    """
    if hasattr(frame, "collect") and not hasattr(frame, "get_columns"):
        raise DataError("the frame is lazy", where=origin, remedy="Call .collect() on it first.")
    if not hasattr(frame, "columns") and hasattr(frame, "to_frame"):  # a single column
        frame = frame.to_frame()
    if hasattr(frame, "iloc"):
        labels = list(frame.columns)
        columns = [series_column(frame.iloc[:, j], f"{origin}, column {n!r}") for j, n in enumerate(labels)]
        return _table(labels, columns, "pandas", origin)
    if hasattr(frame, "get_columns"):
        columns = [_polars_column(c, f"{origin}, column {c.name!r}") for c in frame.get_columns()]
        return _table(list(frame.columns), columns, "polars", origin)
    if hasattr(frame, "column_names"):
        return _from_arrow(frame, "parquet", origin)
    raise DataError(
        f"a {type(frame).__name__} is no frame that can be read",
        where=origin,
        remedy="Give a pandas or polars frame.",
    )


def read_parquet(path: Path) -> Table:
    """Read a ``.parquet`` file through pyarrow (the extra ``tables``).

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: Damaged, or what `from_frame` refuses.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise missing_extra("pyarrow", "tables", "reading .parquet files") from None
    try:
        with parquet.ParquetFile(path) as file:
            arrow = file.read()
    except (OSError, ValueError, LookupError, NotImplementedError, MemoryError) as error:  # bases of Arrow's errors
        raise DataError(
            f"the file cannot be read: {error}",
            where=str(path),
            remedy="It is damaged, cut short or no parquet file; fetch or save it again.",
        ) from error
    return _from_arrow(arrow, "parquet", str(path))


class Converted:
    """One converted column: its values, the frame's word for its dtype, its declared categories and whether they are in
    order."""

    def __init__(
        self, values: np.ndarray, dtype: str, categories: Sequence[Any] | None = None, ordered: bool = False
    ) -> None:
        self.values, self.dtype, self.categories, self.ordered = values, dtype, categories, ordered


def _table(labels: Sequence[Any], columns: Sequence[Converted], container: str, origin: str) -> Table:
    """Check the names and put the columns together."""
    notes = []
    names = []
    for j, label in enumerate(labels):
        if isinstance(label, tuple):
            raise DataError(
                f"the column name {label!r} has several levels",
                where=origin,
                remedy="Flatten the columns to one name each.",
            )
        if not isinstance(label, str):
            notes.append(f"column {label!r} is called {str(label)!r}")
        names.append(str(label))
        if names[-1] in names[:-1]:
            raise DataError(
                f"columns {names.index(names[-1])} and {j} are both called {names[-1]!r}",
                where=origin,
                remedy="Give every column its own name.",
            )
    if not names:
        raise DataError("the frame has no columns", where=origin)
    for name, column in zip(names, columns, strict=True):
        refuse_non_finite(column.values[:, None], [name], origin, gaps_allowed=True)
    declared: Mapping[str, tuple[Any, ...]] = {
        name: tuple(_plain(v, f"{origin}, column {name!r}") for v in column.categories)
        for name, column in zip(names, columns, strict=True)
        if column.categories is not None
    }
    return Table(
        names=tuple(names),
        columns=tuple(c.values for c in columns),
        container=container,
        event_shape=(len(names),),
        dtypes=tuple(c.dtype for c in columns),
        origin=origin,
        categories=declared,
        notes=tuple(notes),
        ordered=frozenset(name for name, column in zip(names, columns, strict=True) if column.ordered),
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
        values = _objects(series.astype(object).tolist(), gaps, where)
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
    return _from_objects(series.astype(object).tolist(), gaps, word, where)


def _numpy_name(word: str, values: np.dtype) -> np.dtype:
    """The NumPy dtype of a nullable one (``Int32``, ``float[pyarrow]``), for values that hold no gaps."""
    if values.kind == "f" and word[0] in "IUiu":
        return values  # gaps make whole numbers floats
    name = word.lower().split("[")[0]
    return np.dtype({"double": "float64", "float": "float32", "halffloat": "float16"}.get(name, name))


def _polars_column(series: Any, where: str) -> Converted:
    word = str(series.dtype)
    gaps = series.is_null().to_numpy()
    if word.startswith(("Categorical", "Enum")):
        if word.startswith("Enum"):
            declared = series.dtype.categories.to_list()
        else:  # no order was declared; polars shares one list of categories between all columns
            declared = series.drop_nulls().unique(maintain_order=True).to_list()
        return Converted(_objects(series.to_list(), gaps, where), "category", declared, word.startswith("Enum"))
    if word.startswith("Decimal"):
        return Converted(series.cast(_like(series, "Float64")).to_numpy(), "float64")
    if series.dtype.is_float() or (series.dtype.is_integer() and not word.endswith("128")):
        return Converted(np.asarray(series.to_numpy()), word.lower())
    if word == "Boolean" and not gaps.any():
        return Converted(series.to_numpy(), "bool")
    if series.dtype.is_temporal():
        refuse_dtype(np.dtype("M8[us]"), where)
    return _from_objects(series.to_list(), gaps, "bool" if word == "Boolean" else "str", where)


def _like(series: Any, name: str) -> Any:
    """A dtype of the very package that the series comes from."""
    return getattr(sys.modules[type(series).__module__.split(".")[0]], name)


def _from_arrow(arrow: Any, container: str, origin: str) -> Table:
    names = list(arrow.column_names)
    columns = [_arrow_column(arrow.column(j), f"{origin}, column {n!r}") for j, n in enumerate(names)]
    return _table(names, columns, container, origin)


def _arrow_column(chunked: Any, where: str) -> Converted:
    word = str(chunked.type)
    gaps = chunked.is_null().to_numpy()
    if word.startswith("dictionary"):
        chunked = chunked.unify_dictionaries()
        declared = chunked.chunk(0).dictionary.to_pylist() if chunked.num_chunks else []
        ordered = bool(chunked.type.ordered)
        return Converted(_objects(chunked.to_pylist(), gaps, where), "category", declared, ordered)
    if word.startswith("decimal"):
        values = [math.nan if v is None else float(v) for v in chunked.to_pylist()]
        return Converted(np.array(values, dtype=np.float64), "float64")
    numbers = {"double": "float64", "float": "float32", "halffloat": "float16"}
    name = numbers.get(word, word)
    if name.startswith(("int", "uint", "float")):
        return Converted(chunked.to_numpy(), name)
    if word == "bool" and not gaps.any():
        return Converted(chunked.to_numpy(), "bool")
    if word.startswith(("timestamp", "date", "time", "duration")):
        refuse_dtype(np.dtype("M8[us]"), where)
    return _from_objects(chunked.to_pylist(), gaps, "bool" if word == "bool" else "str", where)


def _from_objects(values: Sequence[Any], gaps: np.ndarray, word: str, where: str) -> Converted:
    """A column of Python objects: all text, all booleans or all numbers; anything else is refused."""
    kinds = {_kind(v) for v, gap in zip(values, gaps.tolist(), strict=True) if not gap}
    if kinds <= {"text"}:
        if not kinds and gaps.all():
            return Converted(np.full(len(gaps), math.nan), "float64")
        return Converted(_objects(values, gaps, where), word)
    if kinds == {"truth"}:
        column = _objects(values, gaps, where)
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


def _objects(values: Sequence[Any], gaps: np.ndarray, where: str) -> np.ndarray:
    """Plain Python values with None for gaps."""
    column = np.empty(len(values), dtype=object)
    column[:] = [None if gap else _plain(v, where) for v, gap in zip(values, gaps.tolist(), strict=True)]
    return column


def _plain(value: Any, where: str) -> str | int | float | bool:
    """A text, number or truth value without its NumPy wrapping."""
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, str | int | float | bool):
        raise DataError(
            f"a category of type {type(value).__name__} cannot be kept", where=where, remedy="Convert it to text."
        )
    return value
