"""Text in few pieces: a column as codes of levels, and the levels as one buffer of UTF-8 with offsets into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Texts:
    """A column of text as codes of levels.

    Attributes:
        codes: ``(rows,)`` int32; ``levels`` for a gap.
        offsets: ``(levels + 1,)`` int64: level i is the bytes from offset i to offset i + 1.
        data: ``(bytes,)`` uint8, UTF-8.
        dtype: In the frame's word.
        declared: Whether the levels were declared as categories.
        ordered: Whether they are in order.
    """

    codes: np.ndarray
    offsets: np.ndarray
    data: np.ndarray
    dtype: str
    declared: bool = False
    ordered: bool = False


def packed(levels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and UTF-8 of a list of texts.

    Raises:
        UnicodeEncodeError: Half a letter.
    """
    pieces = [level.encode() for level in levels]
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return offsets, np.frombuffer(b"".join(pieces), np.uint8)


def unpacked(offsets: np.ndarray, data: np.ndarray) -> list[str]:
    """The texts of a packed list.

    Raises:
        ValueError: Offsets that fall or leave the data, or bytes that are no UTF-8.
    """
    if not offsets.size or offsets[0] != 0 or offsets[-1] != data.size or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("offsets that do not divide the text")
    raw, at = data.tobytes(), offsets.tolist()
    if raw.isascii():  # a byte is a letter, and slices of text are cheaper than decoding each
        whole = raw.decode("ascii")
        return [whole[begin:end] for begin, end in pairwise(at)]
    return [raw[begin:end].decode() for begin, end in pairwise(at)]
