"""Arrays that stay in their file: above a stated size rows are read where they lie, never the whole.

The file is mapped into the address space; its pages belong to the system, which keeps or drops them as memory allows.
"""

from pathlib import Path

import numpy as np

from advect.data.extent import Extent

MAPPED_VALUES = 1 << 28
"""Numbers from which an array stays on disk: 256 MiB of bytes, a GiB of float32. What is computed of as many in memory
takes many times their room."""


class MappedRows:
    """The rows of an array that is mapped from a file; see `stored.Rows`."""

    at_once = workers = 1
    extent: Extent | None = None

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype.newbyteorder("=")

    def take(self, index: np.ndarray) -> np.ndarray:
        """The rows of these indices, copied into memory."""
        if len(index) and index[-1] - index[0] + 1 == len(index) and bool((np.diff(index) == 1).all()):
            rows = self._array[index[0] : index[-1] + 1]  # one stretch of the file
        else:
            rows = self._array[index]
        return np.array(rows, self.dtype, order="C")

    def notes(self) -> list[str]:
        """Nothing happens to rows of an array."""
        return []

    def fingerprint(self) -> str | None:
        """The values must tell."""
        return None


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array lies in a file and is to stay there."""
    return isinstance(array, np.memmap) and array.size > MAPPED_VALUES


def stays_on_disk(shape: tuple[int, ...], dtype: np.dtype, *, fortran: bool = False) -> bool:
    """Whether an array of a file is large enough to stay there, and laid out so that rows can be read alone."""
    plain = dtype.kind in "biuf" and dtype.itemsize <= 8
    return plain and not fortran and bool(shape) and int(np.prod(shape, dtype=object)) > MAPPED_VALUES


def mapped_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> np.memmap:
    """An array of a file by its place there; nothing is read."""
    return np.memmap(path, dtype, "r", offset, shape)
