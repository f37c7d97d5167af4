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
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advect.data.arrays import from_array
from advect.decoding import Answer, decoded
from advect.errors import DataError
from advect.records import Table

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LABEL = "label"
LARGEST_SIDE = 64
MOST_PIXELS = 1 << 26
MOST_BYTES = 1 << 33


def read_folder(path: Path, side: int | None = None) -> Table:
    """Read the pictures of a folder.

    Args:
        path: The folder.
        side: Height and width to bring them to; None for the rule above.

    Returns:
        Pictures ``(channels, height, width)`` of whole numbers 0..255.

    Raises:
        DataError: No picture, more than half of the files unusable, or more than fits in memory.
    """
    files = tuple(_files(path))
    if not files:
        raise DataError(
            "there is no picture in this folder", where=str(path), remedy=f"Known endings: {' '.join(ENDINGS)}."
        )
    limits = {"largest_side": LARGEST_SIDE, "most_pixels": MOST_PIXELS, "most_bytes": MOST_BYTES}
    num_bytes = sum(file.stat().st_size for file in files)
    answer = decoded("pictures", path, num_bytes=num_bytes, files=[str(f) for f in files], side=side, **limits)
    left_out = _left_out(answer, files)
    left_out.refuse_if_most(len(files), path)
    kept, array = _places(answer.meaning.get("kept"), files), answer.array(answer.meaning.get("pixels"))
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or len(array) != len(kept):
        raise DataError("its pictures do not fit one another", where=str(path), remedy="Look for a damaged one.")
    return from_array(
        array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1),
        container="npy",
        origin=str(path),
        key=None if side is None else str(side),
        sides=_labels(kept, path),
        notes=[*_notes(answer), *left_out.notes()],
    )


def _places(places: object, files: Sequence[Path]) -> list[Path]:
    """Files by their places, which come from the process that decodes them."""
    if not (isinstance(places, list) and all(isinstance(p, int) and 0 <= p < len(files) for p in places)):
        raise DataError("its pictures cannot be told apart", where=str(files[0].parent))
    return [files[place] for place in places]


def _left_out(answer: Answer, files: Sequence[Path]) -> "_LeftOut":
    found = answer.meaning.get("left_out")
    return _LeftOut({str(reason): _places(places, files) for reason, places in dict(found or {}).items()})


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


def _labels(files: Sequence[Path], path: Path) -> dict[str, np.ndarray]:
    """The first folder below ``path`` of each picture, where all of them have one and there are several."""
    parts = [file.relative_to(path).parts for file in files]
    if any(len(part) < 2 for part in parts) or len({part[0] for part in parts}) < 2:
        return {}
    return {LABEL: np.array([part[0] for part in parts], dtype=object)}


def _notes(answer: Answer) -> list[str]:
    side, sizes = answer.meaning.get("side"), answer.meaning.get("sizes")
    if side is None or sizes == [[side, side]]:
        return []
    return [f"pictures were cut to their central square and resized to {side} × {side}"]
