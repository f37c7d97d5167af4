"""Where rows came from, and a fingerprint that says whether they are still the same."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from advect.data import BUILTINS, on_disk, split_key
from advect.files import sha256_of
from advect.records import Table


def data_file(data: Any) -> Path | None:
    """The file or folder that was named, or None for built-in names and objects."""
    if not isinstance(data, str | Path) or str(data) in BUILTINS:
        return None
    path = Path(split_key(str(data))[0]).expanduser()
    return path if path.exists() else None


def data_name(data: Any, table: Table) -> str:
    """What to call the rows in a configuration."""
    return str(data) if isinstance(data, str | Path) else table.origin


def fingerprint(data: Any, table: Table) -> str:
    """SHA-256 of the file that was named, else (objects, names, folders) of the names and values of the table."""
    path = data_file(data)
    return sha256_of(path) if path is not None and path.is_file() else content_hash(table)


def content_hash(table: Table) -> str:
    """SHA-256 over names and values, side columns (labels, weights) included; pictures on disk have their own."""
    digest, far = hashlib.sha256(), on_disk(table)
    if far is not None and (told := far.rows.fingerprint()) is not None:
        digest.update(told.encode())
    elif far is not None:
        for block in far.blocks():
            digest.update(np.ascontiguousarray(block).tobytes())
    sides = sorted(table.sides.items())
    columns = () if far is not None else zip(table.names, table.columns, strict=True)
    for name, column in [*columns, *sides]:
        digest.update(name.encode("utf-8", "surrogatepass"))
        plain = column if column.dtype.kind != "O" else np.array([repr(value) for value in column])
        digest.update(np.ascontiguousarray(plain).tobytes())
    return digest.hexdigest()
