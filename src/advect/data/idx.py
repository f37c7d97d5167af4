"""The idx files of the MNIST family (LeCun, Cortes & Burges 1998): four bytes of magic, the axes, the numbers.

    0 0 KIND AXES | one big-endian 32-bit size per axis | the numbers, big-endian

Labels lie in a file of their own: ``train-labels-idx1-ubyte`` beside ``train-images-idx3-ubyte`` is read with it and
comes along as the side column ``label``.
"""

import io
import struct
from pathlib import Path

import numpy as np

from advect.data.archives import ArrayHeader, check_size, damage_named, unpacked_file
from advect.data.arrays import from_array
from advect.errors import DataError
from advect.records import Table

ENDINGS = ("idx1-ubyte", "idx2-ubyte", "idx3-ubyte", "idx4-ubyte", ".idx")
LABEL = "label"
_KINDS = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_AXES = 8


def read_idx(path: Path) -> Table:
    """Read an idx file, gzipped or not, with the labels that lie beside it.

    Raises:
        DataError: No idx file, a header that lies about the size, labels of another number than rows, or what
            `from_array` refuses.
    """
    array = _read_array(path)
    labels = _labels_beside(path)
    sides = {}
    if labels is not None:
        found = _read_array(labels)
        if found.shape != array.shape[:1]:
            raise DataError(
                f"it holds labels of shape {found.shape} for {len(array)} rows",
                where=str(labels),
                remedy=f"Move it away from {path.name}, or fetch the pair again.",
            )
        sides[LABEL] = found
    return from_array(array, container="npy", origin=str(path), sides=sides)


def _read_array(path: Path) -> np.ndarray:
    with damage_named(path), unpacked_file(path) as handle:
        header = _read_header(handle, str(path))
        packed = path.suffix.lower() == ".gz"
        there = path.stat().st_size
        check_size(header, there if packed else there - header.offset, packed, str(path))
        mapped = None if packed or there != header.offset + header.num_bytes else header.mapped(path)
        if mapped is not None:
            return mapped
        numbers = handle.read(header.num_bytes)
        if len(numbers) < header.num_bytes or handle.read(1):
            raise DataError(
                f"the header claims {header.num_bytes} bytes of numbers, and there are "
                f"{'fewer' if len(numbers) < header.num_bytes else 'more'}",
                where=str(path),
                remedy="The file is cut short or damaged; fetch it again.",
            )
        array = np.frombuffer(numbers, header.dtype).reshape(header.shape)
        return array.astype(array.dtype.newbyteorder("="))


def _read_header(handle: io.BufferedIOBase, where: str) -> ArrayHeader:
    magic = handle.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _KINDS or not 1 <= magic[3] <= _MOST_AXES:
        raise DataError(
            "this is no idx file", where=where, remedy="It is damaged or of another kind than its ending says."
        )
    axes = handle.read(4 * magic[3])
    if len(axes) < 4 * magic[3]:
        raise DataError("the file is cut short inside its header", where=where)
    shape = struct.unpack(f">{magic[3]}I", axes)
    dtype = np.dtype(_KINDS[magic[2]])
    num_bytes = dtype.itemsize
    for size in shape:
        num_bytes *= size
    return ArrayHeader(shape, dtype, num_bytes, 4 + len(axes))


def _labels_beside(path: Path) -> Path | None:
    """``…-labels-idx1-…`` beside ``…-images-idx3-…``, packed or not."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    if name == path.name:
        return None
    names = (name, name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz")
    return next((found for other in names if (found := path.with_name(other)).is_file()), None)
