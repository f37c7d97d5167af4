"""What a decoding process sends back: arrays of numbers, then JSON that says what they are.

    numbers of array 0, of array 1, …, each from a multiple of 64 | JSON | its length, 8 bytes

The reader trusts none of it: the process may have been taken over by the file it read. Every offset, shape and dtype is
held against the bytes that are there, objects are never unpickled, and text is a list of levels with an index per row:
a list in the JSON, or one array of UTF-8 with an array of offsets into it.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from io import BufferedIOBase
from typing import Any

import numpy as np

from advect.decoding.columns import Converted, plain_value
from advect.decoding.texts import Texts, unpacked
from advect.errors import DataError

_ALIGNMENT = 64  # of the first number of each array: torch and NumPy want whole words
_DTYPES = frozenset(f"{kind}{size}" for kind, sizes in (("f", "248"), ("i", "1248"), ("u", "1248")) for size in sizes)
_MOST_AXES = 8


class BadAnswerError(DataError):
    """An answer that no honest process sends."""

    def __init__(self, why: str, where: str) -> None:
        super().__init__(
            f"the process that decodes it sent an answer that makes no sense ({why})",
            where=where,
            remedy="The file is damaged, or made to harm: fetch it again.",
        )


class AnswerWriter:
    """Writes an answer as it comes into being.

    Args:
        stream: An empty binary file.
    """

    def __init__(self, stream: BufferedIOBase) -> None:
        self._stream, self._at, self._arrays = stream, 0, []

    def array(self, values: np.ndarray) -> int:
        """Write an array of numbers or booleans; returns its number."""
        number = self.begin(values.dtype, values.shape)
        self.append(np.ascontiguousarray(values))
        return number

    def begin(self, dtype: np.dtype, shape: Sequence[int]) -> int:
        """Announce an array whose rows follow by `append`; returns its number."""
        self._write(bytes(-self._at % _ALIGNMENT))
        name = "u1" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"
        self._arrays.append([name, self._at, [int(n) for n in shape]])
        return len(self._arrays) - 1

    def append(self, rows: np.ndarray) -> None:
        """Numbers of the array begun last."""
        rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))
        self._write(rows.reshape(-1).view(np.uint8).data)

    def set_rows(self, number: int, rows: int) -> None:
        """How many rows an array has got, where that was not known when it was begun."""
        self._arrays[number][2][0] = rows

    def column(self, column: Converted | Texts, where: str) -> dict[str, Any]:
        """Write a column; returns what the JSON says of it.

        Raises:
            DataError: Declared categories that are neither text nor numbers.
        """
        entry: dict[str, Any] = {"dtype": column.dtype, "ordered": column.ordered}
        if isinstance(column, Texts):
            levels = {"offsets": self.array(column.offsets), "data": self.array(column.data)}
            return {**entry, "codes": self.array(column.codes), "levels": levels, "declared": column.declared}
        if column.categories is not None:
            entry["categories"] = [plain_value(v, where) for v in column.categories]
        if column.values.dtype.kind != "O":
            return {**entry, "values": self.array(column.values), "truth": column.values.dtype.kind == "b"}
        cells = column.values.tolist()
        # 1, 1.0 and True are equal, and not the same.
        keys = cells if all(type(c) is str for c in set(cells) - {None}) else [(type(c), c) for c in cells]
        places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        levels = [key if keys is cells else key[1] for key in places]
        codes = np.fromiter(map(places.__getitem__, keys), np.int32, len(keys))
        return {**entry, "codes": self.array(codes), "levels": levels}

    def close(self, meaning: Mapping[str, Any]) -> None:
        """Say what the arrays are."""
        text = json.dumps({"arrays": self._arrays, "meaning": meaning}).encode()
        self._write(text)
        self._write(len(text).to_bytes(8, "little"))
        self._stream.flush()

    def _write(self, content: Any) -> None:
        self._stream.write(content)
        self._at += len(content)


class Answer:
    """An answer read back.

    Args:
        stream: The file, which nobody writes to any more.
        where: What was read, for messages.

    Raises:
        BadAnswerError: Anything in it does not fit; likewise every method.
    """

    def __init__(self, stream: BufferedIOBase, where: str) -> None:
        self.where = where
        size = os.fstat(stream.fileno()).st_size
        if size < 8:
            raise self._bad("no answer")
        # Private pages: columns may be written to, and nothing is copied until they are.
        self._bytes = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY)
        length = int.from_bytes(self._bytes[size - 8 :], "little")
        if length > size - 8:
            raise self._bad("a length that lies")
        self._end = size - 8 - length
        try:
            stored = json.loads(self._bytes[self._end : size - 8])
        except (ValueError, RecursionError) as error:
            raise self._bad("no JSON") from error
        if not (isinstance(stored, dict) and isinstance(stored.get("arrays"), list)):
            raise self._bad("no list of arrays")
        self._arrays, meaning = stored["arrays"], stored.get("meaning")
        if not isinstance(meaning, dict):
            raise self._bad("no meaning")
        self.meaning: dict[str, Any] = meaning

    def array(self, number: object) -> np.ndarray:
        """An array by its number; a view of the answer's own pages."""
        if not isinstance(number, int) or not 0 <= number < len(self._arrays):
            raise self._bad("no such array")
        entry = self._arrays[number]
        if not (isinstance(entry, list) and len(entry) == 3 and entry[0] in _DTYPES and _is_count(entry[1])):
            raise self._bad("an array of an unknown kind")
        name, at, shape = entry
        if not (isinstance(shape, list) and len(shape) <= _MOST_AXES and all(map(_is_count, shape))):
            raise self._bad("an array of an impossible shape")
        dtype, count = np.dtype(name), math.prod(shape)
        if at % _ALIGNMENT or at + count * dtype.itemsize > self._end:
            raise self._bad("an array that is not there")
        return np.frombuffer(self._bytes, dtype, count, at).reshape(shape) if count else np.empty(shape, dtype)

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        found = self.meaning.get(key)
        if not (isinstance(found, list) and all(isinstance(text, str) for text in found)):
            raise self._bad(f"no list of texts {key!r}")
        return found

    def columns(self, key: str) -> list[Converted]:
        """A list of columns, all of one length."""
        found = self.meaning.get(key)
        if not isinstance(found, list):
            raise self._bad(f"no list of columns {key!r}")
        columns = [self._column(entry) for entry in found]
        if len({len(column.values) for column in columns}) > 1:
            raise self._bad("columns of several lengths")
        return columns

    def _bad(self, why: str) -> BadAnswerError:
        return BadAnswerError(why, self.where)

    def _column(self, entry: object) -> Converted:
        if not (isinstance(entry, dict) and isinstance(entry.get("dtype"), str)):
            raise self._bad("a column without a dtype")
        categories = entry.get("categories")
        if categories is not None and not (isinstance(categories, list) and all(map(_is_value, categories))):
            raise self._bad("categories of an unknown kind")
        if "codes" in entry:
            levels = entry.get("levels")
            if isinstance(levels, dict):
                texts = self._unpacked(levels)
                categories, levels = texts if entry.get("declared") is True else categories, [*texts, None]
            values = self._restored(self.array(entry["codes"]), levels)
        else:
            values = self.array(entry.get("values"))
            values = values != 0 if entry.get("truth") is True else values
        if values.ndim != 1:
            raise self._bad("a column that is no column")
        return Converted(values, entry["dtype"], categories, entry.get("ordered") is True)

    def _unpacked(self, levels: dict[str, Any]) -> list[str]:
        """Levels that lie in two arrays."""
        offsets, data = self.array(levels.get("offsets")), self.array(levels.get("data"))
        if (offsets.dtype, offsets.ndim, data.dtype, data.ndim) != (np.int64, 1, np.uint8, 1):
            raise self._bad("levels of an unknown kind")
        try:
            return unpacked(offsets, data)
        except ValueError as error:
            raise self._bad("levels that are no text") from error

    def _restored(self, codes: np.ndarray, levels: object) -> np.ndarray:
        """An object for each code."""
        if not (isinstance(levels, list) and all(v is None or _is_value(v) for v in levels)):
            raise self._bad("levels of an unknown kind")
        if codes.dtype != np.int32 or (codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(levels)):
            raise self._bad("codes of no level")
        known = np.empty(len(levels), dtype=object)
        known[:] = levels
        return known[codes]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_value(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
