"""Tables to files, by ending: what is written here, `read_table` reads back equal.

A file appears whole or not at all: it is written under another name in the same folder, flushed to the disk and then
renamed. Text tables carry no types, so a few things depend on how a cell looks: whole numbers are written as ``3``,
floats by their shortest exact decimal (``3.0``), gaps as empty cells, text in quotes where it must be. A text that
looks like a number, a truth value or a gap word is read back as that.

In ``.npy`` and ``.npz`` files columns of one dtype without gaps make a plain array ``(rows, *event_shape)``; others
make a structured one. Side columns become further arrays in an ``.npz``, further columns in tables.
"""

import gzip
import io
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from advect.data.annotated import write_h5ad
from advect.data.cells import GAPS, is_number
from advect.data.containers import as_array, numpy_dtype, to_container
from advect.errors import DataError, missing_extra
from advect.files import atomic_path, files_like
from advect.records import Table

WRITABLE = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".npy", ".npz", ".parquet", ".h5ad")
ROWS_PER_BLOCK = 1 << 14
_QUOTED = re.compile(r"[\",;\t\n\r\ufeff]|^\s|\s$|^#")


def write_table(table: Table, path: str | os.PathLike[str]) -> Path:
    """Write a table to a ``.csv``, ``.tsv`` (also ``.gz``), ``.npy``, ``.npz``, ``.parquet`` or ``.h5ad`` file.

    Args:
        table: What to write; its side columns too (all of them where the file is no ``.npy``).
        path: Where; an existing file is replaced in one step.

    Returns:
        The path.

    Raises:
        DataError: Unknown ending, a folder that is missing or not writable, or a column that the kind of file
            cannot hold; an existing file is left as it was.
        MissingExtraError: ``.parquet`` without pyarrow, ``.h5ad`` without anndata.
    """
    path = Path(path).expanduser()
    ending = next((e for e in sorted(WRITABLE, key=len, reverse=True) if path.name.lower().endswith(e)), None)
    writers: dict[str, Callable[[Table, io.BufferedIOBase], None]] = {
        "csv": lambda t, f: _write_text(t, f, ","),
        "tsv": lambda t, f: _write_text(t, f, "\t"),
        "npy": _write_npy,
        "npz": _write_npz,
        "parquet": _write_parquet,
    }
    if ending is None:
        raise DataError(
            f"tables cannot be written to {files_like(path)}",
            where=str(path),
            remedy=f"Known endings: {' '.join(WRITABLE)}.",
        )
    if path.is_dir():
        raise DataError("this is a folder, not a file", where=str(path), remedy="Give the name of a file.")
    if ending == ".h5ad":  # written by its own library, to a name
        with atomic_path(path) as temporary:
            write_h5ad(table, temporary)
        return path
    writer = writers[ending.removesuffix(".gz").removeprefix(".")]
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        if ending.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as packed:
                writer(table, packed)
        else:
            writer(table, handle)
    return path


# ---- text


def _write_text(table: Table, handle: io.BufferedIOBase, delimiter: str) -> None:
    """A header, then the rows in blocks."""
    names, columns, dtypes = _with_sides(table)
    alone = len(names) == 1
    header = [_quoted(n, delimiter, alone) for n in names]
    if any(is_number(n) or n.strip() in GAPS for n in names):  # quoted throughout: read as names, not as data
        header = ['"' + n.replace('"', '""') + '"' for n in names]
    handle.write((delimiter.join(header) + "\n").encode())
    gap = "NA" if alone else ""  # an empty line would be skipped
    for start in range(0, len(columns[0]), ROWS_PER_BLOCK):
        stop = start + ROWS_PER_BLOCK
        cells = [
            _cells(c[start:stop], d, gap, lambda text: _quoted(text, delimiter, alone))
            for c, d in zip(columns, dtypes, strict=True)
        ]
        handle.write("".join(delimiter.join(row) + "\n" for row in zip(*cells, strict=True)).encode())


def _quoted(text: str, delimiter: str, alone: bool) -> str:
    """Text as a cell: in quotes where it holds what could be taken for a separator."""
    if _QUOTED.search(text) or delimiter in text or (alone and " " in text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _cells(values: np.ndarray, dtype: str, gap: str, quoted: Callable[[str], str]) -> list[str]:
    """One column's cells."""
    if values.dtype.kind in "OUS":
        return [gap if v is None else _text(v, quoted) for v in values.tolist()]
    if values.dtype.kind == "b":
        return ["true" if v else "false" for v in values.tolist()]
    if values.dtype.kind in "iu":
        return list(map(str, values.tolist()))
    if numpy_dtype(dtype, values).kind in "iu" and bool((values[~np.isnan(values)] % 1 == 0).all()):
        return [gap if v != v else str(int(v)) for v in values.tolist()]
    if values.dtype == np.float64:
        return [gap if v != v else repr(v) for v in values.tolist()]
    return [gap if np.isnan(v) else str(v) for v in values]  # float32 and float16 have shorter decimals


def _text(value: object, quoted: Callable[[str], str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return quoted(value) if isinstance(value, str) else repr(value)


def _with_sides(table: Table) -> tuple[list[str], list[np.ndarray], list[str]]:
    """Columns and side columns, for files in which all columns are alike."""
    names, columns, dtypes = list(table.names), list(table.columns), list(table.dtypes)
    for name, side in table.sides.items():
        if side.ndim != 1 or name in names:
            raise DataError(
                f"the side column {name!r} of shape {side.shape} cannot stand beside the columns",
                where=table.origin,
                remedy="Write a .npz file, which keeps it as an array of its own.",
            )
        names.append(name)
        columns.append(side)
        dtypes.append("str" if side.dtype.kind in "OUS" else str(side.dtype))
    return names, columns, dtypes


# ---- NumPy


def _write_npy(table: Table, handle: io.BufferedIOBase) -> None:
    _save_array(handle, as_array(table))


def _write_npz(table: Table, handle: io.BufferedIOBase) -> None:
    """The rows as ``X``, the column names as ``names`` where they are not x0, x1, …, then the side columns."""
    array = as_array(table)
    arrays: dict[str, np.ndarray] = {"X": array}
    plain_names = tuple(f"x{j}" for j in range(len(table.names)))
    if array.dtype.names is None and table.names != plain_names and array.ndim == 2:
        arrays["names"] = np.array(table.names)
    for name, side in table.sides.items():
        if name in arrays or name in ("x", "data", "x_train", "X_train"):
            raise DataError(
                f"a side column cannot be called {name!r} in an .npz file: that is the name of the rows",
                where=table.origin,
                remedy="Rename it.",
            )
        arrays[name] = np.array([v or "" for v in side.tolist()]) if side.dtype.kind == "O" else side
    with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: the same table gives the same bytes
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                _save_array(cast(io.BufferedIOBase, stream), array)


def _save_array(handle: io.BufferedIOBase, array: np.ndarray) -> None:
    """Save in NumPy's format; version 3 where field names go beyond Latin-1."""
    names = "".join(array.dtype.names or ())
    version = (3, 0) if any(ord(c) > 255 for c in names) else None
    np.lib.format.write_array(handle, array, version=version, allow_pickle=False)


# ---- parquet


def _write_parquet(table: Table, handle: io.BufferedIOBase) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "tables", "writing .parquet files") from None
    names, columns, dtypes = _with_sides(table)
    arrays = [
        _arrow_array(pyarrow, c, d, table.categories.get(n)) for n, c, d in zip(names, columns, dtypes, strict=True)
    ]
    buffer = io.BytesIO()  # pyarrow closes what it writes to
    pyarrow.parquet.write_table(pyarrow.table(arrays, names=names), buffer)
    handle.write(buffer.getbuffer())


def _arrow_array(pyarrow: Any, values: np.ndarray, dtype: str, levels: Sequence[Any] | None) -> Any:
    """One column with its gaps as nulls and its categories as a dictionary."""
    if values.dtype.kind in "OUS":
        array = pyarrow.array(values.tolist())
        if dtype != "category":
            return array
        if levels is None:
            return array.dictionary_encode()
        place = {level: k for k, level in enumerate(levels)}
        codes = pyarrow.array([None if v is None else place[v] for v in values.tolist()], pyarrow.int32())
        return pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array(list(levels)))
    if values.dtype.kind != "f":
        return pyarrow.array(values)
    gaps = np.isnan(values)
    wanted = numpy_dtype(dtype, values)
    if wanted.kind in "iu" and bool((values[~gaps] % 1 == 0).all()):
        values = np.where(gaps, 0, values).astype(wanted)
    return pyarrow.array(values, mask=gaps)


__all__ = ["WRITABLE", "to_container", "write_table"]
