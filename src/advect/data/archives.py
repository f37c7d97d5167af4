"""NumPy's files (.npy, .npz, also gzipped), never unpickled, and never trusted about their size.

The header of an array says how large it is. Before anything is allocated, that size is held against the bytes that
are really there: exactly for a plain file, and for packed ones by the largest expansion that deflate can reach
(1032:1, RFC 1951) and by a bound on suspiciously well packed arrays. Arrays of Python objects are pickles, which can
run any program when loaded; they are refused by their header alone.
"""

import ast
import gzip
import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from advect.data.arrays import from_array, text_column
from advect.data.mapped import mapped_array, stays_on_disk
from advect.errors import AdvectError, DataError, unknown_name
from advect.records import Table

MAIN_KEYS = ("X", "x", "data", "x_train", "X_train")
MAX_LISTED = 8
MAX_HEADER_BYTES = 1 << 18
MAX_DEFLATE_RATIO = 1032
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member of a zip archive: signature, lengths of name and extra field
SUSPICIOUS_BYTES = 1 << 30
SUSPICIOUS_RATIO = 100
"""An array of more than a GiB packed more than a hundredfold is taken for a compression bomb."""


_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    RecursionError,
    MemoryError,
    TypeError,
    OverflowError,
    lzma.LZMAError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What parsing untrusted bytes raises: gzip, zipfile, ast and NumPy have no common base."""


class ArrayHeader(NamedTuple):
    """What a file says of its array: shape, dtype, bytes of numbers, where they begin, whether columns come first."""

    shape: tuple[int, ...]
    dtype: np.dtype
    num_bytes: int
    offset: int
    fortran: bool = False

    def mapped(self, path: Path, at: int = 0) -> np.ndarray | None:
        """The array where it lies, ``at`` bytes into a file that is not packed; None where it is to be read."""
        if not stays_on_disk(self.shape, self.dtype, fortran=self.fortran):
            return None
        return mapped_array(path, self.shape, self.dtype, at + self.offset)


def read_npy(path: Path, *, gaps: bool = False) -> Table:
    """Read a ``.npy`` or ``.npy.gz`` file; ``gaps`` as in `from_array`.

    Raises:
        DataError: No array, pickled objects, a header that lies about the size, or what `from_array` refuses.
    """
    with damage_named(path), unpacked_file(path) as handle:
        header = _read_header(handle, str(path))
        packed = path.suffix.lower() == ".gz"
        there = path.stat().st_size
        check_size(header, there if packed else there - header.offset, packed, str(path))
        array = None if packed else header.mapped(path)
        if array is None:
            handle.seek(0)
            array = _read_array(handle)
            if handle.read(1):
                raise DataError("there is more in the file than its one array", where=str(path))
        return from_array(array, container="npy", origin=str(path), gaps=gaps)


def read_npz(path: Path, key: str | None = None, *, gaps: bool = False) -> Table:
    """Read one array of an ``.npz`` or ``.npz.gz`` file, and the arrays that have a row for each of its rows.

    Args:
        path: The file.
        key: Which array; without it ``X``, ``x``, ``data``, ``x_train``, ``X_train``, or the only one of numbers.
        gaps: As in `from_array`.

    Returns:
        A `Table` with the other arrays of equal length as ``sides``. A text array called ``names``,
        ``feature_names`` or ``KEY_names`` with one entry per column names the columns.

    Raises:
        DataError, UnknownNameError: Damaged, no such array, an ambiguous choice, pickled objects.
    """
    with damage_named(path), unpacked_file(path) as handle, zipfile.ZipFile(handle) as archive:
        members = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
        headers = {name: _member_header(archive, info, f"{path}:{name}") for name, info in members.items()}
        main = _choose(headers, key, path)
        where = f"{path}:{main}"
        if headers[main].dtype.hasobject:
            raise _pickled(where)
        array = _mapped_member(path, members[main], headers[main])
        if array is None:
            array = _member_array(archive, members[main], headers[main], where)

        columns = headers[main].shape[1] if len(headers[main].shape) == 2 else None
        named_by = _names_array(headers, main, columns)
        names = None
        if named_by is not None:
            stored = _member_array(archive, members[named_by], headers[named_by], f"{path}:{named_by}")
            names = [str(n) for n in text_column(stored, str(path))]
            names = names if len(set(names)) == len(names) else None

        rows = headers[main].shape[:1]
        sides, notes = {}, []
        for name, header in headers.items():
            if name in (main, named_by) or header.shape[:1] != rows or not rows:
                continue
            if header.dtype.hasobject:
                notes.append(f"the array {name!r} holds pickled Python objects and was left out")
                continue
            side = _member_array(archive, members[name], header, f"{path}:{name}")
            sides[name] = text_column(side, f"{path}:{name}") if _is_text(header) and side.ndim == 1 else side
        origin = str(path)
        return from_array(
            array, container="npz", origin=origin, key=main, names=names, sides=sides, notes=notes, gaps=gaps
        )


def _choose(headers: dict[str, ArrayHeader], key: str | None, path: Path) -> str:
    """The array to read."""
    if not headers:
        raise DataError("there is no array in the file", where=str(path))
    if key is not None:
        if key not in headers:
            raise unknown_name("array", key, headers, where=str(path))
        return key
    found = next((k for k in MAIN_KEYS if k in headers), None)
    numbers = [k for k, h in headers.items() if not _is_text(h)] or list(headers)
    if found is None and len(numbers) == 1:
        found = numbers[0]
    if found is None:
        listed = ", ".join(f"{k} {h.shape}" for k, h in list(headers.items())[:MAX_LISTED])
        more = f" and {len(headers) - MAX_LISTED} more" if len(headers) > MAX_LISTED else ""
        largest = max(numbers, key=lambda k: headers[k].num_bytes)
        raise DataError(
            f"it is not clear which of its arrays to read: {listed}{more}",
            where=str(path),
            remedy=f"Say which, such as {path.name}:{largest}",
        )
    return found


def _is_text(header: ArrayHeader) -> bool:
    return header.dtype.kind in "US"


def _names_array(headers: dict[str, ArrayHeader], main: str, columns: int | None) -> str | None:
    """The array that names the columns."""
    for name in (f"{main}_names", "feature_names", "names"):
        if name in headers and _is_text(headers[name]) and headers[name].shape == (columns,):
            return name
    return None


def _member_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> ArrayHeader:
    with archive.open(info) as member:
        return _read_header(cast(io.BufferedIOBase, member), where)


def _member_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: ArrayHeader, where: str) -> np.ndarray:
    if info.file_size != header.offset + header.num_bytes:
        raise _lying(header, info.file_size - header.offset, where)
    packed = info.compress_type != zipfile.ZIP_STORED
    there = min(info.compress_size, archive.start_dir)  # the directory's word, but never more than the file has
    check_size(header, there if packed else there - header.offset, packed, where)
    with archive.open(info) as member:
        return _read_array(cast(io.BufferedIOBase, member))


def _mapped_member(path: Path, info: zipfile.ZipInfo, header: ArrayHeader) -> np.ndarray | None:
    """A large array of an archive where it lies; None where it is packed, or small enough to be read."""
    plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1 and path.suffix.lower() != ".gz"
    if not plain or info.file_size != header.offset + header.num_bytes:
        return None  # whatever is amiss is told by who reads it
    with path.open("rb") as handle:
        handle.seek(info.header_offset)
        local = handle.read(_LOCAL_HEADER.size)
    signature, name, extra = _LOCAL_HEADER.unpack(local)
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    if signature != b"PK\3\4" or start + info.file_size > path.stat().st_size:
        return None
    return header.mapped(path, start)


def _read_array(handle: io.BufferedIOBase) -> np.ndarray:
    return np.lib.format.read_array(handle, allow_pickle=False, max_header_size=MAX_HEADER_BYTES)


def _read_header(handle: io.BufferedIOBase, where: str) -> ArrayHeader:
    """The header of the NPY format (versions 1 to 3), read without allocating the array."""
    magic = handle.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise DataError(
            "this is not an array in NumPy's format",
            where=where,
            remedy="It is damaged or of another kind than its ending says; save it with numpy.save or numpy.savez.",
        )
    size_format = "<H" if magic[6] == 1 else "<I"
    (length,) = struct.unpack(size_format, handle.read(struct.calcsize(size_format)))
    if length > MAX_HEADER_BYTES:
        raise DataError(f"the array's header claims {length} bytes, at most {MAX_HEADER_BYTES} are read", where=where)
    text = handle.read(length)
    if len(text) < length:
        raise DataError("the file is cut short inside the array's header", where=where)
    entries = ast.literal_eval(text.decode("utf-8" if magic[6] == 3 else "latin1").strip())
    if not isinstance(entries, dict) or set(entries) != {"descr", "fortran_order", "shape"}:
        raise DataError("the array's header is damaged", where=where)
    shape = entries["shape"]
    if not isinstance(shape, tuple) or any(type(s) is not int or s < 0 for s in shape):
        raise DataError(f"the array's header claims the shape {shape!r}", where=where)
    try:
        dtype = np.dtype(np.lib.format.descr_to_dtype(entries["descr"]))
    except (TypeError, ValueError, LookupError) as error:
        raise DataError(f"the array's header claims the dtype {entries['descr']!r}", where=where) from error
    num_bytes = dtype.itemsize
    for axis in shape:
        num_bytes *= axis
    offset = 8 + struct.calcsize(size_format) + length
    return ArrayHeader(shape, dtype, num_bytes, offset, bool(entries["fortran_order"]))


def check_size(header: ArrayHeader, there: int, packed: bool, where: str) -> None:
    """Hold what the header claims against the bytes that are there, before allocating anything."""
    if header.dtype.hasobject:
        raise _pickled(where)
    if not packed:
        if header.num_bytes != there:
            raise _lying(header, there, where)
        return
    if header.num_bytes > MAX_DEFLATE_RATIO * there + MAX_HEADER_BYTES:
        raise _lying(header, there, where)
    if header.num_bytes > SUSPICIOUS_BYTES and header.num_bytes > SUSPICIOUS_RATIO * there:
        raise DataError(
            f"{there} packed bytes would expand to {header.num_bytes}",
            where=where,
            remedy="That looks like a compression bomb; if the array is yours, save it with numpy.save.",
        )


def _lying(header: ArrayHeader, there: int, where: str) -> DataError:
    expected = header.shape[0] if header.shape else 1
    per_row = header.num_bytes // max(expected, 1)
    rows = f" ({there // per_row} rows)" if per_row and there < header.num_bytes else ""
    return DataError(
        f"the header claims shape {header.shape} of {header.dtype}, {header.num_bytes} bytes ({expected} rows), "
        f"but {max(there, 0)} bytes are there{rows}",
        where=where,
        remedy="The file is cut short or damaged; fetch or save it again.",
    )


def _pickled(where: str) -> DataError:
    return DataError(
        "the array contains pickled Python objects, which advect never loads",
        where=where,
        remedy="Save numbers (array.astype(float)), or a table with text as .csv or .parquet.",
    )


@contextmanager
def unpacked_file(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes; a gzipped one is unpacked as it is read (an archive into memory, up to the bound)."""
    if path.suffix.lower() != ".gz":
        with path.open("rb") as handle:
            yield handle
        return
    with gzip.open(path, "rb") as stream:
        handle: io.BufferedIOBase = stream
        if path.name.lower().endswith(".npz.gz"):
            handle = _in_memory(handle, os.path.getsize(path), str(path))
        yield handle


def _in_memory(stream: io.BufferedIOBase, packed_bytes: int, where: str) -> io.BufferedIOBase:
    """An archive must be read from its end: unpack it, but never beyond the bound on well packed files."""
    unpacked = io.BytesIO()
    while piece := stream.read(1 << 20):
        unpacked.write(piece)
        if unpacked.tell() > max(SUSPICIOUS_BYTES, SUSPICIOUS_RATIO * packed_bytes):
            raise DataError(f"{packed_bytes} packed bytes expand to more than {unpacked.tell()}", where=where)
    unpacked.seek(0)
    return unpacked


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Whatever parsing untrusted bytes raises becomes one message that names the file."""
    try:
        yield
    except AdvectError:
        raise
    except _DAMAGE as error:
        raise DataError(
            f"the file cannot be read: {error or type(error).__name__}",
            where=str(path),
            remedy="It is damaged, cut short or not of the kind its ending says; fetch or save it again.",
        ) from error
