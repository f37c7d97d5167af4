"""The pictures of a folder brought to one size and one number of channels; runs in the decoding process.

The rule is that of `data.folders`. Each picture is written as soon as it is decoded, so that one is held at a time.
"""

import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from advect.decoding import picture
from advect.decoding.answer import AnswerWriter
from advect.errors import DataError


def load() -> None:
    """Register the kinds of picture, before the limits hold."""
    picture.load()


def decode(path: str, request: Mapping[str, Any], answer: AnswerWriter) -> dict[str, Any]:
    """The pictures that can be used.

    Args:
        path: The folder, for messages.
        request: ``files`` in order (see `picture.Place`), ``side`` or None, ``largest_side``, ``most_pixels``,
            ``most_bytes``. With ``heads`` no picture is decoded, the others are measured. With ``shape`` (height and
            width, and 3 where there is colour) they were measured before.
        answer: Takes the pixels ``(pictures, height, width)`` or ``(pictures, height, width, 3)`` of uint8.

    Returns:
        ``pixels``: their array. ``kept``: places in ``files``. ``side``: what they were brought to, or None. ``shape``:
        of one. ``sizes``: two of those that were met. ``left_out``: places by reason.

    Raises:
        DataError: They would be more than ``most_bytes``.
    """
    work = _Work(request["files"], request["most_pixels"])
    if "shape" in request:
        measured = _Measured(list(range(len(work.files))), request["side"], tuple(request["shape"]), [])
    else:
        measured = _measured(work, request["side"], request["largest_side"])
    said = {"side": measured.side, "shape": list(measured.shape), "sizes": measured.sizes, "left_out": work.left_out}
    if request.get("heads"):
        return said | {"kept": measured.places}
    if len(measured.places) * math.prod(measured.shape) > request["most_bytes"]:
        raise DataError(
            f"{len(measured.places)} pictures of {measured.shape[1]} × {measured.shape[0]} are more than "
            f"{request['most_bytes'] >> 30} GiB",
            where=path,
            remedy=f"Ask for smaller ones, such as {path}:32.",
        )
    pixels, kept = answer.begin(np.dtype(np.uint8), (0, *measured.shape)), []
    for place in measured.places:
        if (found := work.pixels(place, measured.side, measured.shape)) is not None:
            answer.append(found)
            kept.append(place)
    answer.set_rows(pixels, len(kept))
    return said | {"pixels": pixels, "kept": kept}


@dataclass(frozen=True)
class _Measured:
    """What the headers say of pictures: which can be used, the side to bring them to, the shape of one, sizes met."""

    places: list[int]
    side: int | None
    shape: tuple[int, ...]
    sizes: list[tuple[int, int]]


def _measured(work: "_Work", side: int | None, largest_side: int) -> _Measured:
    """Look at all headers."""
    heads = [(place, *found) for place in range(len(work.files)) if (found := work.head(place)) is not None]
    sizes = {size for _, size, _ in heads}
    if side is None and len(sizes) > 1:
        side = min(largest_side, round(statistics.median(min(size) for _, size, _ in heads)))
    if side is not None:
        small = {place for place, size, _ in heads if 4 * min(size) < side}
        work.leave_out(f"smaller than a quarter of {side} pixels", sorted(small))
        heads = [found for found in heads if found[0] not in small]
    width, height = (side, side) if side is not None else next(iter(sizes), (0, 0))
    shape = (height, width) if all(grey for *_, grey in heads) else (height, width, 3)
    met = sorted({(height, width) for _, (width, height), _ in heads})[:2]
    return _Measured([place for place, *_ in heads], side, shape, met)


@dataclass
class _Work:
    """Files and those that are left out: their places by reason."""

    files: list[Any]
    most_pixels: int
    left_out: dict[str, list[int]] = field(default_factory=dict)

    def leave_out(self, reason: str, places: list[int]) -> None:
        """More files that cannot be used."""
        if places:
            self.left_out.setdefault(reason, []).extend(places)

    def head(self, place: int) -> tuple[tuple[int, int], bool] | None:
        """Width and height, and whether it is grey."""
        _begun(place)
        try:
            found = picture.head(self.files[place], self.most_pixels)
        except Exception as error:  # decoders raise almost anything on damaged bytes
            self._failed(place, error)
            return None
        if found is None:
            self.leave_out(self._too_large, [place])
        return found

    def pixels(self, place: int, side: int | None, shape: tuple[int, ...]) -> np.ndarray | None:
        """One picture, brought to size and channels."""
        _begun(place)
        try:
            plain = picture.upright(self.files[place]).convert("L" if len(shape) == 2 else "RGB")
            if side is not None:
                plain = ImageOps.fit(plain, (side, side), Image.Resampling.LANCZOS)
            found = np.asarray(plain)
            if found.shape != shape:
                raise ValueError("it is not of the size that its header says")
            return found
        except Exception as error:  # decoders raise almost anything on damaged bytes
            self._failed(place, error)
            return None

    def _failed(self, place: int, error: Exception) -> None:
        bomb = "bomb" in type(error).__name__.lower()
        self.leave_out(self._too_large if bomb else "damaged", [place])

    @property
    def _too_large(self) -> str:
        return f"more than {self.most_pixels >> 20} million pixels"


def _begun(place: int) -> None:
    """Leave a trace: should this one end the process, the parent can name it."""
    os.write(2, b"begun %d\n" % place)
