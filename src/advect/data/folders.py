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
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from advect.data.arrays import from_array
from advect.errors import DataError
from advect.records import Table

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LABEL = "label"
LARGEST_SIDE = 64
MOST_PIXELS = 1 << 26
MOST_BYTES = 1 << 33
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


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
    asked, files = side, tuple(_files(path))
    if not files:
        raise DataError(
            "there is no picture in this folder", where=str(path), remedy=f"Known endings: {' '.join(ENDINGS)}."
        )
    left_out = _LeftOut()
    heads = [head for file in files if (head := _head(file, left_out)) is not None]
    sizes = {head.size for head in heads}
    if side is None and len(sizes) > 1:
        side = min(LARGEST_SIDE, round(statistics.median(min(head.size) for head in heads)))
    if side is not None:
        heads = [head for head in heads if _large_enough(head, side, left_out)]
    channels = 1 if all(head.grey for head in heads) else 3
    width, height = (side, side) if side is not None else next(iter(sizes), (0, 0))
    if len(heads) * channels * width * height > MOST_BYTES:
        raise DataError(
            f"{len(heads)} pictures of {width} × {height} are more than {MOST_BYTES >> 30} GiB",
            where=str(path),
            remedy=f"Ask for smaller ones, such as {path}:32.",
        )
    shape = (height, width) if channels == 1 else (height, width, channels)
    pictures, kept = np.empty((len(heads), *shape), np.uint8), []
    for head in heads:
        if (pixels := _pixels(head.file, side, channels, left_out)) is not None:
            pictures[len(kept)] = pixels
            kept.append(head.file)
    left_out.refuse_if_most(len(files), path)
    array = pictures[: len(kept)]
    return from_array(
        array[:, None] if channels == 1 else np.moveaxis(array, -1, 1),
        container="npy",
        origin=str(path),
        key=None if asked is None else str(asked),
        sides=_labels(kept, path),
        notes=[*_notes({head.size for head in heads}, side), *left_out.notes()],
    )


@dataclass(frozen=True)
class _Head:
    """What a file's header says: width and height, and whether it is grey."""

    file: Path
    size: tuple[int, int]
    grey: bool


@dataclass
class _LeftOut:
    """Files that are left out, by reason."""

    files: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, reason: str, file: Path) -> None:
        """One more."""
        self.files.setdefault(reason, []).append(file)

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
    """The pictures of a folder and of those below it, by name; links to folders are not followed."""
    for folder, names, files in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield Path(folder) / name


def _head(file: Path, left_out: _LeftOut) -> _Head | None:
    """The header of a picture, without decoding it."""
    try:
        with Image.open(file) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                left_out.add(f"more than {MOST_PIXELS >> 20} million pixels", file)
                return None
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # by a quarter
            return _Head(file, (height, width) if turned else (width, height), picture.mode in _grey_modes(picture))
    except Exception as error:  # decoders raise almost anything on damaged bytes
        left_out.add(_reason(error), file)
        return None


def _grey_modes(picture: Image.Image) -> tuple[str, ...]:
    return (*_GREY_MODES, picture.mode) if picture.mode.startswith("I;16") else _GREY_MODES


def _reason(error: Exception) -> str:
    return f"more than {MOST_PIXELS >> 20} million pixels" if "bomb" in type(error).__name__.lower() else "damaged"


def _large_enough(head: _Head, side: int, left_out: _LeftOut) -> bool:
    enough = 4 * min(head.size) >= side
    if not enough:
        left_out.add(f"smaller than a quarter of {side} pixels", head.file)
    return enough


def _pixels(file: Path, side: int | None, channels: int, left_out: _LeftOut) -> np.ndarray | None:
    """One picture, brought to size and channels."""
    try:
        plain = _upright(file).convert("L" if channels == 1 else "RGB")
        if side is not None:
            plain = ImageOps.fit(plain, (side, side), Image.Resampling.LANCZOS)
        return np.asarray(plain)
    except Exception as error:  # decoders raise almost anything on damaged bytes
        left_out.add(_reason(error), file)
        return None


def open_picture(file: Path) -> Image.Image | None:
    """A picture decoded, upright, on white, in 8 bits; None for one that cannot be read or is too large."""
    left_out = _LeftOut()
    if _head(file, left_out) is None:
        return None
    try:
        return _upright(file)
    except Exception:  # decoders raise almost anything on damaged bytes
        return None


def _upright(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        upright = _eight_bit(ImageOps.exif_transpose(picture))
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return upright


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, which a mere conversion would cut off."""
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))


def _labels(files: Sequence[Path], path: Path) -> dict[str, np.ndarray]:
    """The first folder below ``path`` of each picture, where all of them have one and there are several."""
    parts = [file.relative_to(path).parts for file in files]
    if any(len(part) < 2 for part in parts) or len({part[0] for part in parts}) < 2:
        return {}
    return {LABEL: np.array([part[0] for part in parts], dtype=object)}


def _notes(sizes: set[tuple[int, int]], side: int | None) -> list[str]:
    if side is None or sizes == {(side, side)}:
        return []
    return [f"pictures were cut to their central square and resized to {side} × {side}"]
