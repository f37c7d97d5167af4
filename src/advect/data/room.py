"""Whether a file that must be read whole fits in memory, told before it is read."""

import os
from pathlib import Path

from advect.errors import DataError

TIMES, TIMES_PACKED = 4, 16
"""Bytes of memory for a byte of a table's file: its numbers in float64, and what reading and training make of them."""


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            found = dict(line.split(":", 1) for line in stream)
        return int(found["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None


def refuse_too_large(path: Path) -> None:
    """Refuse a table that would not fit.

    Raises:
        DataError: It would take more memory than is free.
    """
    free = free_memory()
    size = os.path.getsize(path)
    needed = size * (TIMES_PACKED if path.suffix.lower() == ".gz" else TIMES)
    if free is not None and needed > free:
        raise DataError(
            f"a table of {size / 2**30:.3g} GiB takes about {needed / 2**30:.3g} GiB of memory to learn from, and "
            f"{free / 2**30:.3g} GiB are free",
            where=str(path),
            remedy="Convert its numbers once, block by block, to a .npy file: it stays on disk and is read row by row. "
            "Or give a part of the rows.",
        )
