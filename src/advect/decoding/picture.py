"""One picture, opened, turned upright, on white, in 8 bits; runs in the decoding process.

Only the kinds that advect knows are tried, whatever the bytes say they are: Pillow has readers that start other
programs.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from advect.decoding.answer import AnswerWriter

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


def load() -> None:
    """Register the kinds of picture, before the limits hold."""
    Image.init()


def decode(path: str, request: Mapping[str, Any], answer: AnswerWriter) -> dict[str, Any]:
    """Grey values of a picture, at most ``request["side"]`` pixels long; no picture where it cannot be read."""
    if head(path, request["most_pixels"]) is None:
        return {}
    grey = upright(path).convert("L")
    grey.thumbnail((request["side"], request["side"]))
    return {"grey": answer.array(np.asarray(grey))}


Place = str | Sequence[Any]
"""Where a picture lies: a path, or a file, an offset and a number of bytes there (and a name, for messages)."""


def opened(file: Place) -> Image.Image:
    """A picture of which the header is read.

    Raises:
        Exception: Decoders raise almost anything on damaged bytes.
    """
    if isinstance(file, str):
        return Image.open(file, formats=FORMATS)
    path, offset, size = file[:3]
    with open(path, "rb") as stream:
        stream.seek(offset)
        return Image.open(BytesIO(stream.read(size)), formats=FORMATS)


def head(file: Place, most_pixels: int) -> tuple[tuple[int, int], bool] | None:
    """What the header says, without decoding: height and width once upright, and whether it is grey; None where there
    are more than ``most_pixels``.

    Raises:
        Exception: Decoders raise almost anything on damaged bytes.
    """
    with opened(file) as picture:
        width, height = picture.size
        if width * height > most_pixels:
            return None
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # by a quarter
        return (height, width) if turned else (width, height), picture.mode in _grey_modes(picture)


def upright(file: Place) -> Image.Image:
    """The picture as it is meant to be seen.

    Raises:
        Exception: Decoders raise almost anything on damaged bytes.
    """
    with opened(file) as picture:
        found = _eight_bit(ImageOps.exif_transpose(picture))
    if found.has_transparency_data:
        clear = found.convert("RGBA")
        found = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return found


def _grey_modes(picture: Image.Image) -> tuple[str, ...]:
    modes = ("1", "L", "LA", "La", "I", "F")
    return (*modes, picture.mode) if picture.mode.startswith("I;16") else modes


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits, which a mere conversion would cut off."""
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.int64)
    return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))
