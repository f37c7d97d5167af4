"""Where rows came from, and a fingerprint that says whether they are still the same."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from advect.files import sha256_of
from advect.records import Table


def data_file(data: Any) -> Path | None:
    """The file that was named, or None for built-in names and objects."""
    if not isinstance(data, str | Path):
        return None
    head, member, _ = str(data).partition(".npz:")  # a folder is no file: its rows have a fingerprint of their own
    path = Path(f"{head}.npz" if member else head)
    return path if path.is_file() else None


def data_name(data: Any, table: Table) -> str:
    """What to call the rows in a configuration."""
    return str(data) if isinstance(data, str | Path) else table.origin


def fingerprint(data: Any, table: Table) -> str:
    """SHA-256 of the file that was named, else of the names and values of the table."""
    path = data_file(data)
    return content_hash(table) if path is None else sha256_of(path)


def content_hash(table: Table) -> str:
    """SHA-256 over names and values, those of side columns (labels, weights) included."""
    digest = hashlib.sha256()
    sides = sorted(table.sides.items())
    for name, column in [*zip(table.names, table.columns, strict=True), *sides]:
        digest.update(name.encode("utf-8", "surrogatepass"))
        plain = column if column.dtype.kind != "O" else np.array([repr(value) for value in column])
        digest.update(np.ascontiguousarray(plain).tobytes())
    return digest.hexdigest()
