"""The door of the room: whatever the user hands over becomes a `Table`.

    file      .csv .tsv .parquet .npy .npz and idx, all but parquet also with .gz; FILE.npz:KEY picks an array
    cells     .h5ad; FILE.h5ad:KEY picks a representation (`annotated`)
    picture   .png .jpg …: points whose density is its darkness (`silhouette`)
    folder    of pictures, or of tar files of them (`folders`, `shards`); FOLDER:64 brings them to 64 × 64
    name      moons, 8gaussians, …, digits, iris, … (`builtin.BUILTINS`)
    object    NumPy array, tensor, pandas or polars frame, AnnData, `Table`

Text that names an existing file, or looks like a path (a separator, a known ending), is a path; other text is the name
of a built-in data set.
"""

import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from advect.data.annotated import CONTAINER, from_annotated, is_annotated, read_h5ad
from advect.data.archives import read_npy, read_npz
from advect.data.arrays import from_array, from_tensor
from advect.data.builtin import BUILTINS, read_builtin
from advect.data.delimited import read_delimited
from advect.data.folders import ENDINGS as PICTURE_ENDINGS
from advect.data.folders import read_folder
from advect.data.frames import from_frame, is_frame, read_parquet
from advect.data.idx import ENDINGS as IDX_ENDINGS
from advect.data.idx import read_idx
from advect.data.room import refuse_too_large
from advect.data.shards import ENDING as TAR_ENDING
from advect.data.silhouette import read_silhouette
from advect.errors import DataError
from advect.files import files_like
from advect.records import Schema, Table

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".npy", ".npz", ".h5ad")
ENDINGS = (*TABLE_ENDINGS, *IDX_ENDINGS, *PICTURE_ENDINGS, TAR_ENDING)
LARGEST_ASKED = 4096
PACKED_ENDINGS = (".csv.gz", ".tsv.gz", ".npy.gz", ".npz.gz", *(f"{ending}.gz" for ending in IDX_ENDINGS))


def read_table(source: Any, *, key: str | None = None, min_rows: int = 2, gaps: bool = False) -> Table:
    """Read rows from a file, a name or an object.

    Args:
        source: A path, ``FILE.npz:KEY``, ``FILE.h5ad:KEY``, ``FOLDER:SIDE``, a built-in name, an array, a tensor, a
            frame, an AnnData or a `Table`.
        key: The array inside an ``.npz``, the representation of cells, the side of the pictures of a folder; the same
            as after the colon.
        min_rows: Fewer rows are refused: a distribution cannot be learned from one. Give 1 to score a single row.
        gaps: Let NaN in arrays and tensors pass, where it stands for what is to be completed.

    Returns:
        The columns as they are, nothing scaled, filled or dropped. Arrays are not copied: do not change them while
        the table is in use.

    Raises:
        DataError: Missing, empty, damaged or unusable data; says where.
        UnknownNameError: Neither a file nor a built-in name; the nearest one is offered.
        MissingExtraError: The kind of file or data set needs a package that is not installed.
    """
    table = _read(source, key, gaps)
    if table.num_rows < min_rows:
        rows = {0: "no rows", 1: "only one row"}.get(table.num_rows, f"only {table.num_rows} rows")
        raise DataError(
            f"there {'is' if table.num_rows == 1 else 'are'} {rows}",
            where=table.origin,
            remedy=f"Give at least {min_rows} {'row' if min_rows == 1 else 'rows'}.",
        )
    return table


def read_like(source: Any, schema: Schema, *, min_rows: int = 1) -> Table:
    """Rows for a model: as `read_table`, and of cells the representation that the model knows, unless one is named."""
    if isinstance(source, str | os.PathLike):
        path, inner = split_key(os.fspath(source))
        cells = inner is None and ending_of(Path(path)) == ".h5ad"
    else:
        cells = is_annotated(source)
    key = schema.key if cells and schema.container == CONTAINER else None
    return read_table(source, key=key, min_rows=min_rows)


def _read(source: Any, key: str | None, gaps: bool) -> Table:
    """Dispatch by kind."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        path, inner = split_key(text)
        if key is not None and inner is not None and key != inner:
            raise DataError(f"two different arrays are asked for: {inner!r} and {key!r}", where=text)
        if isinstance(source, str) and not _is_path(path):
            if key is not None:
                raise DataError(f"{text!r} is no .npz file, so it has no array {key!r}")
            return read_builtin(source)
        return _read_file(Path(path).expanduser(), key if key is not None else inner, gaps)

    if is_annotated(source):
        return from_annotated(source, key)
    if key is not None:
        raise DataError(
            f"a key ({key!r}) picks an array of an .npz file, but a {type(source).__name__} was given",
            remedy="Leave the key out.",
        )
    if isinstance(source, Table):
        return source
    if isinstance(source, np.ndarray):
        return from_array(source, origin="array", gaps=gaps)
    if isinstance(source, Tensor):
        return from_tensor(source, gaps=gaps)
    if is_frame(source):
        return from_frame(source)
    raise DataError(
        f"a {type(source).__name__} cannot be read as a table",
        remedy="Give a path, a built-in name, a NumPy array, a tensor or a data frame.",
    )


def ending_of(path: Path) -> str | None:
    """The known ending of a file name (``.csv``, ``.npz.gz``, …), or None."""
    name = path.name.lower()
    return next((e for e in (*PACKED_ENDINGS, *ENDINGS) if name.endswith(e) and len(name) > len(e)), None)


def split_key(text: str) -> tuple[str, str | None]:
    """``FILE.npz:KEY``, ``FILE.h5ad:KEY`` or ``FOLDER:SIDE`` into its parts; what exists under the whole name wins."""
    head, colon, key = text.rpartition(":")
    several = head.lower().endswith((".npz", ".npz.gz", ".h5ad", TAR_ENDING))
    if colon and not os.path.exists(text) and (several or os.path.isdir(head)):
        return head, key
    return text, None


def _is_path(text: str) -> bool:
    separators = {os.sep, os.altsep or os.sep}
    return (
        os.path.isfile(text)
        or (os.path.isdir(text) and text not in BUILTINS)
        or any(s in text for s in separators)
        or ending_of(Path(text)) is not None
        or "." in text
    )


def _read_file(path: Path, key: str | None, gaps: bool) -> Table:
    """Read one file by its ending."""
    if path.is_dir():
        return read_folder(path, None if key is None else _side(key, path))
    if not path.exists():
        raise DataError("there is no such file", where=str(path), remedy=_nearest_file(path))
    ending = ending_of(path)
    if ending is None:
        raise DataError(
            f"{files_like(path)} cannot be read",
            where=str(path),
            remedy=f"Known endings: {_listed_endings()}. Rename the file if it is one of these.",
        )
    kind = ending.removesuffix(".gz").removeprefix(".")
    if ending == TAR_ENDING:
        _refuse_unreadable(path)
        return read_folder(path, None if key is None else _side(key, path))
    if key is not None and kind not in ("npz", "h5ad"):
        raise DataError(f"only .npz and .h5ad files hold several arrays, so there is no {key!r}", where=str(path))
    _refuse_unreadable(path)
    if kind == "h5ad":
        return read_h5ad(path, key)
    if kind == "npz":
        return read_npz(path, key, gaps=gaps)
    if kind == "npy":
        return read_npy(path, gaps=gaps)
    if kind in ("parquet", "csv", "tsv"):
        refuse_too_large(path)
    if kind == "parquet":
        return read_parquet(path)
    if ending in PICTURE_ENDINGS:
        return read_silhouette(path)
    if ending.removesuffix(".gz") in IDX_ENDINGS:
        return read_idx(path)
    return read_delimited(path, kind)


def _side(key: str, path: Path) -> int:
    """The side of pictures from the text after the colon."""
    if not (key.isascii() and key.isdecimal() and 1 <= int(key) <= LARGEST_ASKED):
        raise DataError(
            f"{key!r} is no size for pictures",
            where=str(path),
            remedy=f"Write it like {path}:64, at most {LARGEST_ASKED}.",
        )
    return int(key)


def _refuse_unreadable(path: Path) -> None:
    """Say plainly that a file is empty, may not be read, or is none: opening a pipe would wait for ever."""
    if not path.is_file():
        raise DataError(
            "this is no ordinary file", where=str(path), remedy="Write what it gives into a file, and name that."
        )
    try:
        with path.open("rb") as handle:
            empty = not handle.read(1)
    except OSError as error:
        raise DataError(f"the file cannot be opened: {error.strerror}", where=str(path)) from error
    if empty:
        raise DataError("the file is empty", where=str(path), remedy="Give a file with rows in it.")


def _listed_endings() -> str:
    return " ".join(
        (*TABLE_ENDINGS, "…-idx3-ubyte", *PICTURE_ENDINGS, TAR_ENDING, *(e for e in PACKED_ENDINGS if e[0] == "."))
    )


def _nearest_file(path: Path) -> str:
    """What to do about a missing file: the nearest name in its folder, or the folder that is missing."""
    folder = path.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist either."
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1, cutoff=0.75)
    return f"Did you mean {folder / near[0]}?" if near else "Check the name."
