"""A folder of pictures as a table: one size, one number of channels, sub-folders as labels.

The rule, stated in the notes of the table wherever it did something:

- Files ending in .png, .jpg, .jpeg, .bmp, .gif (its first frame), .webp, .tif, .tiff, .ppm, .pgm are pictures, in the
  order of their names; hidden files are passed over.
- Pictures of one size stay as they are. Otherwise, or where a size is asked for (``FOLDER:64``), each is cut to its
  central square and resized, with antialiasing; without a size the side is the median shorter side, at most 64.
- All grey: one channel. Any colour: three. Transparency is laid on white; 16-bit grey is scaled to 8 bits; a camera's
  note of the rotation is heeded.
- Sub-folders, if all pictures lie in some, are the classes: the side column ``label``.
- A file that is damaged, empty, larger than 64 million pixels, or smaller than a quarter of the side is left out and
  counted, the first of each kind by name; where more than half would be, the folder is refused.
- A folder without pictures of its own but with tar files (``*.tar``) is the pictures in these, see `shards`.
- More numbers than `mapped.MAPPED_VALUES`: headers are read at first, pictures when they are asked for, see `decoded`.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advect.data import mapped
from advect.data.arrays import from_array, from_rows, refuse_width
from advect.data.decoded import PictureRows, name_of
from advect.data.shards import Member, read_members, shards_of
from advect.decoding import Answer, decoded
from advect.errors import DataError
from advect.records import Table

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LABEL = "label"
LARGEST_SIDE = 64
MOST_PIXELS = 1 << 26
MOST_BYTES = 1 << 33
FEW_BYTES = 1 << 26


def read_folder(path: Path, side: int | None = None) -> Table:
    """Read the pictures of a folder, or of tar files: `shards`.

    Args:
        path: The folder, or a tar file.
        side: Height and width to bring them to; None for the rule above.

    Returns:
        Pictures ``(channels, height, width)`` of whole numbers 0..255. Where they are too many for memory
        (`mapped.MAPPED_VALUES`) they are decoded as they are asked for: `decoded`.

    Raises:
        DataError: No picture, or more than half of the files unusable.
    """
    files, sizes, labels = _listed(path)
    if not files:
        raise DataError(
            "there is no picture in this folder", where=str(path), remedy=f"Known endings: {' '.join(ENDINGS)}."
        )
    limits = {"largest_side": LARGEST_SIDE, "most_pixels": MOST_PIXELS, "most_bytes": MOST_BYTES}

    def asked(*, heads: bool) -> tuple[Answer, list[int], list[str]]:
        answer = decoded("pictures", path, num_bytes=int(sizes.sum()), files=files, side=side, heads=heads, **limits)
        left_out = _left_out(answer, files)
        left_out.refuse_if_most(len(files), path)
        return answer, _places(answer.meaning.get("kept"), len(files), path), [*_notes(answer), *left_out.notes()]

    # Where there may be too many for memory, headers are read at first; elsewhere everything in one go.
    many = len(files) * 3 * (side or LARGEST_SIDE) ** 2 > mapped.MAPPED_VALUES or int(sizes.sum()) > FEW_BYTES
    answer, places, notes = asked(heads=many)
    rows = _rows(answer, [files[place] for place in places], sizes[places], limits, path) if many else None
    if rows is None and many:
        answer, places, notes = asked(heads=False)
    known: dict[str, Any] = {
        "origin": str(path),
        "key": None if side is None else str(side),
        "sides": _labels(labels[places]),
        "notes": notes,
    }
    if rows is not None:
        return from_rows(rows, **known)
    array = answer.array(answer.meaning.get("pixels"))
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or len(array) != len(places):
        raise DataError("its pictures do not fit one another", where=str(path), remedy="Look for a damaged one.")
    array = array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1)
    return from_array(array, container="npy", **known)


def _rows(
    answer: Answer, files: Sequence[str | Member], sizes: np.ndarray, limits: Mapping[str, int], path: Path
) -> PictureRows | None:
    """The pictures as rows that are decoded when they are asked for; None where they fit in memory."""
    side, shape = answer.meaning.get("side"), answer.meaning.get("shape")
    honest = isinstance(shape, list) and len(shape) in (2, 3) and shape[2:] in ([], [3])
    if not honest or not all(isinstance(n, int) and 0 < n <= MOST_PIXELS for n in shape):
        raise DataError("its pictures do not fit one another", where=str(path), remedy="Look for a damaged one.")
    if len(files) * math.prod(shape) <= mapped.MAPPED_VALUES:
        return None
    refuse_width(math.prod(shape), str(path))
    event = (1 if len(shape) == 2 else 3, *shape[:2])
    return PictureRows(files, sizes, {**limits, "side": side, "shape": shape}, event, path)


def _listed(path: Path) -> tuple[list[str] | list[Member], np.ndarray, np.ndarray]:
    """Pictures, their bytes, and the class of each or None: of a folder, or of the tar files in it."""
    files = [str(file) for file in _files(path)] if path.is_dir() else []
    if files:
        sizes = np.array([os.stat(file).st_size for file in files], np.int64)
        parts = [os.path.relpath(file, path).split(os.sep) for file in files]
        labels = [sys.intern(part[0]) if len(part) > 1 else None for part in parts]
        return files, sizes, np.array(labels, dtype=object)
    members, classes = read_members(shards_of(path), ENDINGS)
    sizes = np.array([member.size for member in members], np.int64)
    labels = np.empty(len(classes), dtype=object)
    labels[:] = classes
    return members, sizes, labels


def _places(places: object, count: int, path: Path) -> list[int]:
    """Places of files, which come from the process that decodes them."""
    if not (isinstance(places, list) and all(isinstance(p, int) and 0 <= p < count for p in places)):
        raise DataError("its pictures cannot be told apart", where=str(path))
    return places


def _left_out(answer: Answer, files: Sequence[str | Member]) -> "_LeftOut":
    found, path = answer.meaning.get("left_out"), Path(answer.where)
    told = {str(reason): _places(places, len(files), path) for reason, places in dict(found or {}).items()}
    return _LeftOut({reason: [Path(name_of(files[place])) for place in places] for reason, places in told.items()})


@dataclass
class _LeftOut:
    """Files that are left out, by reason."""

    files: dict[str, list[Path]]

    def notes(self) -> list[str]:
        """One sentence for each reason."""
        return [
            f"{len(files)} {'file' if len(files) == 1 else 'files'} left out ({reason}), such as {files[0].name}"
            for reason, files in self.files.items()
        ]

    def refuse_if_most(self, all_files: int, path: Path) -> None:
        """Refuse a folder of which more than half cannot be used."""
        if 2 * sum(map(len, self.files.values())) > all_files:
            raise DataError(
                f"most of its {all_files} pictures cannot be used: {'; '.join(self.notes())}",
                where=str(path),
                remedy="Mend or remove them, or give the folder of the pictures alone.",
            )


def _files(path: Path) -> Iterator[Path]:
    """The pictures of a folder and of those below it, by name; links to folders, or out of it, are not followed."""
    root = path.resolve()
    for folder, names, files in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith(".") and _inside(Path(folder) / name, root):
                yield Path(folder) / name


def _inside(file: Path, root: Path) -> bool:
    """Whether it is an ordinary file of this folder: a link may lead anywhere, and a pipe would wait for ever."""
    return file.is_file() and (not file.is_symlink() or file.resolve().is_relative_to(root))


def _labels(classes: np.ndarray) -> dict[str, np.ndarray]:
    """The class of each picture, where all of them have one and there are several."""
    known = [label for label in classes.tolist() if label is not None]
    if len(known) < len(classes) or len(set(known)) < 2:
        return {}
    return {LABEL: np.array(known, np.int64) if isinstance(known[0], int) else classes}


def _notes(answer: Answer) -> list[str]:
    side, sizes = answer.meaning.get("side"), answer.meaning.get("sizes")
    if side is None or sizes == [[side, side]]:
        return []
    return [f"pictures were cut to their central square and resized to {side} × {side}"]
