"""Data frames by duck typing (pandas, polars, pyarrow), and parquet files.

No frame package is imported to recognise a frame: pandas frames have ``iloc``, polars frames ``get_columns``, Arrow
tables ``column_names``. Missing values of any kind (None, NaN, NaT, NA, null) are gaps. Declared categories keep their
order. The dtype is remembered in the frame's own word, so that the same kind of column can be given back.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advect.data.arrays import refuse_non_finite
from advect.decoding import Converted, decoded
from advect.decoding.arrow import arrow_column
from advect.decoding.columns import from_objects, plain_objects, plain_value, refuse_dtype, series_column
from advect.errors import DataError
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
    """Read a ``.parquet`` file through pyarrow (the extra ``tables``), which runs in a process of its own.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: Damaged, or what `from_frame` refuses.
    """
    answer = decoded("parquet", path)
    names = answer.texts("names")
    columns = answer.columns("columns")
    return _table(names, columns, "parquet", str(path))


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
        name: tuple(plain_value(v, f"{origin}, column {name!r}") for v in column.categories)
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


def _polars_column(series: Any, where: str) -> Converted:
    word = str(series.dtype)
    gaps = series.is_null().to_numpy()
    if word.startswith(("Categorical", "Enum")):
        if word.startswith("Enum"):
            declared = series.dtype.categories.to_list()
        else:  # no order was declared; polars shares one list of categories between all columns
            declared = series.drop_nulls().unique(maintain_order=True).to_list()
        return Converted(plain_objects(series.to_list(), gaps, where), "category", declared, word.startswith("Enum"))
    if word.startswith("Decimal"):
        return Converted(series.cast(_like(series, "Float64")).to_numpy(), "float64")
    if series.dtype.is_float() or (series.dtype.is_integer() and not word.endswith("128")):
        return Converted(np.asarray(series.to_numpy()), word.lower())
    if word == "Boolean" and not gaps.any():
        return Converted(series.to_numpy(), "bool")
    if series.dtype.is_temporal():
        refuse_dtype(np.dtype("M8[us]"), where)
    return from_objects(series.to_list(), gaps, "bool" if word == "Boolean" else "str", where)


def _like(series: Any, name: str) -> Any:
    """A dtype of the very package that the series comes from."""
    return getattr(sys.modules[type(series).__module__.split(".")[0]], name)


def _from_arrow(arrow: Any, container: str, origin: str) -> Table:
    names = list(arrow.column_names)
    columns = [arrow_column(arrow.column(j), f"{origin}, column {n!r}") for j, n in enumerate(names)]
    return _table(names, columns, container, origin)
