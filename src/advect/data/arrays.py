"""Arrays and tensors as tables: what their shapes and dtypes mean, and what is refused.

    (n,)                      n scalars, event_shape ()
    (n, d)                    n rows of d columns, event_shape (d,)
    (n, h, w)                 grey pictures, event_shape (1, h, w), if they are whole numbers in 0..255 or squares of
                              floats in [0, 1]; otherwise rows of shape (h, w)
    (n, c, h, w), (n, h, w, c)  pictures for c in {1, 3, 4}; channels are moved to the front
    anything else             rows of shape shape[1:]

What is given back has shape ``(n, *event_shape)``. A structured array is a table of named columns in which NaN is a
gap; in every other array NaN is refused, because nothing says that it means "missing", unless the caller does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from advect.data.mapped import MappedRows, is_mapped
from advect.data.stored import Rows, StoredColumns
from advect.decoding.columns import refuse_dtype
from advect.errors import DataError
from advect.records import Columns, Table

CHANNELS = (1, 3, 4)
MOST_COLUMNS = 1 << 20
"""Numbers in a row: beyond it no model here could be trained, and a name for each would fill the memory."""
CHECK_VALUES = 1 << 22
"""Values looked at in one go when searching for non-finite ones: bounds the memory of the search."""


def from_array(
    array: np.ndarray,
    *,
    container: str = "numpy",
    origin: str = "data",
    key: str | None = None,
    names: Sequence[str] | None = None,
    sides: Mapping[str, np.ndarray] | None = None,
    notes: Sequence[str] = (),
    gaps: bool = False,
) -> Table:
    """Make a table of an array; the columns are views of it wherever that is possible.

    Args:
        array: ``(n,)`` or more axes, or a structured array ``(n,)``.
        container: See `advect.records.Schema.container`.
        origin: For messages.
        key: The array's name inside an ``.npz``.
        names: Column names for ``(n, d)``; ``x0, x1, …`` otherwise.
        sides: Per-row arrays that came along.
        notes: Handed on to the table.
        gaps: Let NaN pass: the rows are to be completed, and it stands for what is unknown.

    Raises:
        DataError: No axes, no columns, a dtype that is no number, NaN or an infinity (with row and column).
    """
    if array.dtype.names is not None:
        return _from_structured(array, container, origin, key, sides, notes)
    array = _number_array(array, origin)
    if array.ndim == 0:
        raise DataError(
            "a single number is no set of rows", where=origin, remedy="Give an array of shape (rows, columns)."
        )
    dtype = str(array.dtype.newbyteorder("="))
    mapped = is_mapped(array)
    array, image, moved = _as_pictures(array)
    event_shape = array.shape[1:]
    width = math.prod(event_shape)
    if width == 0:
        raise DataError(
            f"the array of shape {array.shape} has no columns",
            where=origin,
            remedy="Give an array of shape (rows, columns).",
        )
    refuse_width(width, origin)

    names = tuple(names) if names is not None else tuple(f"x{j}" for j in range(width))
    return Table(
        names=names,
        columns=_columns(array, names, origin, gaps),
        container=container,
        event_shape=event_shape,
        dtypes=(dtype,) * width,
        origin=origin,
        image=image,
        key=key,
        sides=sides or {},
        notes=(
            *notes,
            *(["channels were moved to the front"] if moved else []),
            *([f"{array.nbytes / 2**30:.3g} GiB of numbers stay on disk; rows are read as they are needed"] * mapped),
        ),
    )


def from_rows(
    rows: Rows, *, origin: str, key: str | None, sides: Mapping[str, np.ndarray], notes: Sequence[str]
) -> Table:
    """A table of pictures that are read when they are looked at; the arguments are those of `from_array`."""
    width = math.prod(rows.shape[1:])
    more = f"{rows.shape[0]} pictures are more than memory should hold: they are decoded as they are needed"
    return Table(
        names=tuple(f"x{j}" for j in range(width)),
        columns=StoredColumns(rows, origin),
        container="npy",
        event_shape=tuple(rows.shape[1:]),
        dtypes=(str(rows.dtype),) * width,
        origin=origin,
        image=True,
        key=key,
        sides=sides,
        notes=(*notes, more),
    )


def _columns(array: np.ndarray, names: Sequence[str], origin: str, gaps: bool) -> Columns:
    """The columns of ``(n, *event)`` numbers, none of which may be NaN or infinite."""
    if is_mapped(array):
        columns = StoredColumns(MappedRows(array), origin)
        if columns.extent.unfit is not None:  # never a gap: rows with gaps are to be completed, and are few
            row, column = columns.extent.unfit
            value = columns.take(np.array([row]))[column][0]
            raise _non_finite(value, row, names[column], columns.extent.unfit_values, origin)
        return columns
    flat = array.reshape(len(array), math.prod(array.shape[1:]))
    refuse_non_finite(flat, names, origin, gaps_allowed=gaps)
    return tuple(flat[:, j] for j in range(flat.shape[1]))


def from_tensor(tensor: Tensor, *, origin: str = "tensor", gaps: bool = False) -> Table:
    """Make a table of a tensor on any device; gradients are left behind.

    Raises:
        DataError: As for `from_array`; also sparse and quantised tensors.
    """
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise DataError(
            f"a tensor of layout {tensor.layout} and dtype {tensor.dtype} cannot be read",
            where=origin,
            remedy="Make it a dense tensor of numbers (.to_dense(), .dequantize()).",
        )
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):  # unknown to NumPy
        table = from_array(tensor.float().numpy(), container="torch", origin=origin, gaps=gaps)
        name = str(tensor.dtype).removeprefix("torch.")
        return replace(table, dtypes=(name,) * len(table.names))
    return from_array(tensor.numpy(), container="torch", origin=origin, gaps=gaps)


def refuse_width(width: int, where: str, most: int = MOST_COLUMNS) -> None:
    """Refuse rows of more numbers than any model takes."""
    if width > most:
        raise DataError(
            f"a row of {width} numbers is too wide; at most {most} are read",
            where=where,
            remedy="Is it the transpose that is meant? Else take fewer columns, or components of them.",
        )


def refuse_non_finite(values: np.ndarray, names: Sequence[str], origin: str, *, gaps_allowed: bool = False) -> None:
    """Refuse NaN and infinities in ``(n, d)`` numbers, naming the first one's row and column.

    Args:
        values: ``(n, d)`` of any dtype; integers and booleans pass.
        names: Column names.
        origin: For the message.
        gaps_allowed: Let NaN pass: it is a gap of a table.
    """
    if values.dtype.kind != "f" or not values.size:
        return
    first: tuple[int, int] | None = None
    count = 0
    step = max(1, CHECK_VALUES // values.shape[1])
    for start in range(0, len(values), step):
        block = values[start : start + step]
        bad = np.isinf(block) if gaps_allowed else ~np.isfinite(block)
        if bad.any():
            rows, columns = np.nonzero(bad)
            first = first or (start + int(rows[0]), int(columns[0]))
            count += len(rows)
    if first is None:
        return
    raise _non_finite(values[first], first[0], names[first[1]], count, origin)


def _non_finite(value: np.generic, row: int, name: str, count: int, origin: str) -> DataError:
    """The refusal of the first of ``count`` values."""
    further = f", and {count - 1} further non-finite values" if count > 1 else ""
    return DataError(
        f"{'NaN' if np.isnan(value) else 'an infinite value'} in row {row} (counted from 0), column {name!r}{further}",
        where=origin,
        remedy="Drop or mend these rows; where a value is missing, give a table (.csv, a data frame), "
        "in which an empty cell is a gap."
        if np.isnan(value)
        else "Drop or mend these rows: an infinite value has no density.",
    )


def _number_array(array: np.ndarray, where: str) -> np.ndarray:
    """The array with a native dtype that Torch knows too; refuses what is no number."""
    refuse_dtype(array.dtype, where)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # long double: no framework computes with it
        return array.astype(np.float64)
    if is_mapped(array):
        return array  # turned round as rows are read
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _as_pictures(array: np.ndarray) -> tuple[np.ndarray, bool, bool]:
    """Pictures as ``(n, c, h, w)``; whether they are pictures; whether channels were moved."""
    if array.ndim == 4:
        _, a, b, c = array.shape
        first, last = a in CHANNELS, c in CHANNELS
        if first and last:  # (n, 3, h, 3): believe the square
            first = b == c or a != b
        if first or last:
            return (array, True, False) if first else (np.moveaxis(array, -1, 1), True, True)
    if array.ndim == 3 and min(array.shape[1:]) >= 4 and _looks_like_pixels(array):
        return array[:, None], True, False
    return array, False, False


def _looks_like_pixels(array: np.ndarray) -> bool:
    """Whether ``(n, h, w)`` values are plausible grey values rather than, say, series of measurements."""
    if array.dtype.kind == "b" or array.dtype == np.uint8:
        return True
    if not array.size:
        return False
    low, high = array.min(), array.max()
    if array.dtype.kind in "iu":
        return bool(low >= 0 and high <= 255)
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0):
        return False
    step = max(1, CHECK_VALUES // math.prod(array.shape[1:]))
    blocks = (array[start : start + step] for start in range(0, len(array), step))
    whole = high <= 255 and all(bool((block == np.floor(block)).all()) for block in blocks)
    return whole or bool(high <= 1 and array.shape[1] == array.shape[2])


def _from_structured(
    array: np.ndarray,
    container: str,
    origin: str,
    key: str | None,
    sides: Mapping[str, np.ndarray] | None,
    notes: Sequence[str],
) -> Table:
    """A table of the fields of a structured array; text fields are categories and an empty text a gap."""
    names = array.dtype.names
    assert names is not None
    if array.ndim != 1 or not names:
        raise DataError(f"a structured array of shape {array.shape} is no table", where=origin)
    columns, dtypes = [], []
    for name in names:
        values = array[name]
        where = f"{origin}, column {name!r}"
        if values.ndim != 1:
            raise DataError(
                f"each cell holds an array of shape {values.shape[1:]}",
                where=where,
                remedy="Give one number per cell.",
            )
        if values.dtype.kind in "US":
            column = text_column(values, where)
            columns.append(column)
            dtypes.append("str")
            continue
        values = _number_array(values, where)
        refuse_non_finite(values[:, None], [name], origin, gaps_allowed=True)
        columns.append(values)
        dtypes.append(str(values.dtype))
    return Table(
        names=names,
        columns=tuple(columns),
        container=container,
        event_shape=(len(names),),
        dtypes=tuple(dtypes),
        origin=origin,
        key=key,
        sides=sides or {},
        notes=tuple(notes),
    )


def text_column(values: np.ndarray, where: str) -> np.ndarray:
    """Fixed-width text as an object array with None for the empty text."""
    if values.dtype.kind == "U" and values.dtype.itemsize and values.size:
        points = np.ascontiguousarray(values).view(np.uint32)
        if int(points.max()) >= 0x110000 or ((points >= 0xD800) & (points < 0xE000)).any():
            raise DataError("text that is not Unicode", where=where, remedy="The file is damaged; save the text again.")
    try:
        text = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
    except UnicodeDecodeError as error:
        raise DataError("bytes that are not UTF-8 text", where=where, remedy="Store the text as str.") from error
    column = np.empty(len(text), dtype=object)
    column[:] = [t or None for t in text.tolist()]
    return column
