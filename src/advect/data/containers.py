"""Tables back into the user's own kind of object: array, tensor, pandas or polars frame.

The dtypes are those that were read. A column of whole numbers that has gaps becomes a nullable one in frames and a
float one in arrays. Rows of arrays have the event shape: what came as ``(n, h, w)`` pictures goes back as
``(n, 1, h, w)``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from advect.errors import DataError, missing_extra, unknown_name
from advect.records import Table

_ARROW_WORDS = {"double": "float64", "float": "float32", "halffloat": "float16", "bool_": "bool"}


def to_container(table: Table, container: str) -> Any:
    """Give the rows back as the kind of object asked for.

    Args:
        table: The rows; side columns are left out.
        container: ``numpy``, ``torch``, ``pandas`` or ``polars``; the kinds of files give NumPy arrays, structured
            ones for ``csv``, ``tsv`` and ``parquet``, whose columns have names.

    Returns:
        ``(rows, *event_shape)``, a structured array where columns differ in kind, or a frame.

    Raises:
        DataError: Text in a tensor.
        MissingExtraError: The frame's package is not installed.
        UnknownNameError: No such container.
    """
    givers: dict[str, Callable[[Table], Any]] = {
        "numpy": as_array,
        "torch": _as_tensor,
        "pandas": _as_pandas,
        "polars": _as_polars,
        "npy": as_array,
        "npz": as_array,
        "h5ad": as_array,
        "csv": _as_structured,
        "tsv": _as_structured,
        "parquet": _as_structured,
    }
    if container not in givers:
        raise unknown_name("container", container, givers)
    return givers[container](table)


def numpy_dtype(word: str, values: np.ndarray) -> np.dtype:
    """The NumPy dtype that a frame's word stands for; that of the values where there is none.

    >>> numpy_dtype("Int32", np.zeros(1)), numpy_dtype("category", np.zeros(1))
    (dtype('int32'), dtype('float64'))
    """
    name = word.lower().split("[")[0]
    try:
        dtype = np.dtype(_ARROW_WORDS.get(name, name))
    except TypeError:
        return values.dtype
    return dtype if dtype.kind in "biuf" else values.dtype


def as_array(table: Table) -> np.ndarray:
    """A plain array ``(rows, *event_shape)`` where all columns are numbers of one dtype without gaps, or pixels.

    Other tables make a structured array.
    """
    if any(c.dtype.kind in "OUS" for c in table.columns):
        return _as_structured(table)
    columns = [_numbers(c, d) for c, d in zip(table.columns, table.dtypes, strict=True)]
    alike = len({c.dtype for c in columns}) == 1
    gaps = any(c.dtype.kind == "f" and bool(np.isnan(c).any()) for c in columns)
    if table.event_shape == (len(columns),) and (not alike or gaps):
        return _as_structured(table)
    return np.stack(columns, axis=1).reshape(table.num_rows, *table.event_shape)


def _numbers(values: np.ndarray, word: str) -> np.ndarray:
    """One column of numbers in the dtype to give back, as far as its gaps and values allow."""
    wanted = numpy_dtype(word, values)
    if wanted.kind in "biu" and values.dtype.kind == "f":
        if not bool(np.isfinite(values).all()):
            return values
        values = np.rint(values)
    return values.astype(wanted, copy=False)


def _as_structured(table: Table) -> np.ndarray:
    """One field per column; text has a fixed width and an empty text for a gap."""
    fields = []
    for name, values, word in zip(table.names, table.columns, table.dtypes, strict=True):
        if values.dtype.kind in "OUS":
            column = np.array([_text(v, f"{table.origin}, column {name!r}") for v in values.tolist()], dtype=np.str_)
        else:
            column = _numbers(values, word)
        if not name:
            raise DataError("a column without a name cannot be a field", where=table.origin, remedy="Name it.")
        fields.append((name, column))
    rows = np.empty(table.num_rows, dtype=[(name, column.dtype) for name, column in fields])
    for name, column in fields:
        rows[name] = column
    return rows


def _text(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"the values are {type(value).__name__}s with gaps or categories, which arrays cannot hold",
            where=where,
            remedy="Write a .csv or .parquet file, or ask for a frame.",
        )
    return value


def _as_tensor(table: Table) -> torch.Tensor:
    """A tensor ``(rows, *event_shape)`` of the common dtype of its columns."""
    for name, values in zip(table.names, table.columns, strict=True):
        if values.dtype.kind in "OUS":
            raise DataError("a tensor cannot hold text", where=f"{table.origin}, column {name!r}")
    columns = [_numbers(c, d) for c, d in zip(table.columns, table.dtypes, strict=True)]
    array = np.stack(columns, axis=1).reshape(table.num_rows, *table.event_shape)
    words = set(table.dtypes)
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    word = words.pop() if len(words) == 1 else ""
    return tensor.to(getattr(torch, word)) if word in ("bfloat16", "float8_e4m3fn", "float8_e5m2") else tensor


def _as_pandas(table: Table) -> Any:
    try:
        import pandas
    except ImportError:
        raise missing_extra("pandas", "tables", "giving rows back as a pandas frame") from None
    columns = [
        _pandas_column(pandas, c, d, table.categories.get(n))
        for n, c, d in zip(table.names, table.columns, table.dtypes, strict=True)
    ]
    return pandas.DataFrame(dict(zip(table.names, columns, strict=True)))


def _pandas_column(pandas: Any, values: np.ndarray, word: str, levels: Sequence[Any] | None) -> Any:
    if word == "category":
        return pandas.Series(pandas.Categorical(values.tolist(), categories=levels))
    if values.dtype.kind in "OUS":
        if word == "string[pyarrow]":  # pandas reads this word as another dtype than the one that prints it
            import pyarrow

            return pandas.Series(values.tolist(), dtype=pandas.ArrowDtype(pyarrow.string()))
        gaps_in_truth = word == "bool" and None in values.tolist()
        return pandas.Series(values.tolist(), dtype="boolean" if gaps_in_truth else word)
    wanted = numpy_dtype(word, values)
    if wanted.kind in "iu" and values.dtype.kind == "f":
        gaps = np.isnan(values)
        if gaps.any() and word == str(wanted):  # whole numbers with gaps: NumPy has none, pandas has
            word = {"i": "Int", "u": "UInt"}[wanted.kind] + str(8 * wanted.itemsize)
        return pandas.Series(np.rint(values)).astype(word)
    return pandas.Series(values).astype(word)


def _as_polars(table: Table) -> Any:
    try:
        import polars
    except ImportError:
        raise missing_extra("polars", "tables", "giving rows back as a polars frame") from None
    return polars.DataFrame(
        [
            _polars_column(polars, n, c, d, table.categories.get(n))
            for n, c, d in zip(table.names, table.columns, table.dtypes, strict=True)
        ]
    )


def _polars_column(polars: Any, name: str, values: np.ndarray, word: str, levels: Sequence[Any] | None) -> Any:
    if word == "category":
        dtype = polars.Categorical if levels is None else polars.Enum(list(levels))
        return polars.Series(name, values.tolist(), dtype=dtype)
    if values.dtype.kind in "OUS":
        return polars.Series(name, values.tolist())
    wanted = numpy_dtype(word, values)
    prefix = {"b": "Boolean", "i": "Int", "u": "UInt", "f": "Float"}[wanted.kind]
    dtype = getattr(polars, prefix if wanted.kind == "b" else f"{prefix}{8 * wanted.itemsize}", None)
    if values.dtype.kind == "f" and wanted.kind in "biu":
        values = np.rint(values)
    series = polars.Series(name, values, nan_to_null=True)
    return series if dtype is None else series.cast(dtype)
