"""Arrow columns as NumPy arrays, taken from Arrow's own buffers.

``to_numpy`` of Arrow imports pandas wherever it is installed, which costs a decoding process more than the reading, so
it is not called. Numbers and bits are read where they lie. Text becomes codes of levels, and the levels stay packed:
one buffer of UTF-8 and int64 offsets into it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from advect.decoding.columns import Converted, from_objects, plain_objects, refuse_dtype
from advect.decoding.texts import Texts

_TEXT = ("string", "large_string")
_NUMBERS = {"double": "float64", "float": "float32", "halffloat": "float16"}


def arrow_column(chunked: Any, where: str) -> Converted:
    """An Arrow column.

    Raises:
        DataError: Dates, lists or mixed text.
    """
    column = _column(chunked, where)
    if isinstance(column, Converted):
        return column
    texts = column.levels.to_pylist()
    values = np.array([*texts, None], dtype=object)[column.codes]
    return Converted(values, column.dtype, texts if column.declared else None, column.ordered)


def packed_column(chunked: Any, where: str) -> Converted | Texts:
    """An Arrow column, its text packed where it has levels.

    Raises:
        DataError: Dates, lists or mixed text.
        ValueError: Text that is no UTF-8.
    """
    column = _column(chunked, where)
    if isinstance(column, Converted):
        return column
    offsets, data = _packed(column.levels)
    return Texts(column.codes, offsets, data, column.dtype, column.declared, column.ordered)


@dataclass(frozen=True)
class _Coded:
    """As `Texts`, with the levels as Arrow's array."""

    codes: np.ndarray
    levels: Any
    dtype: str
    declared: bool
    ordered: bool


def _column(chunked: Any, where: str) -> Converted | _Coded:
    word = str(chunked.type)
    if word.startswith("dictionary"):
        return _categories(chunked, where)
    if word.startswith("decimal"):
        values = [math.nan if v is None else float(v) for v in chunked.to_pylist()]
        return Converted(np.array(values, dtype=np.float64), "float64")
    name = _NUMBERS.get(word, word)
    if name.startswith(("int", "uint", "float")):
        return Converted(_numbers(chunked, np.dtype(name)), name)
    if word == "bool" and not chunked.null_count:
        return Converted(_bits(chunked), "bool")
    if word.startswith(("timestamp", "date", "time", "duration")):
        refuse_dtype(np.dtype("M8[us]"), where)
    if word in _TEXT and chunked.null_count < len(chunked):
        return _texts(chunked.dictionary_encode(), "str")
    return from_objects(chunked.to_pylist(), _gaps(chunked), "bool" if word == "bool" else "str", where)


def _categories(chunked: Any, where: str) -> Converted | _Coded:
    chunked = chunked.unify_dictionaries()
    ordered = bool(chunked.type.ordered)
    dictionary = chunked.chunk(0).dictionary if chunked.num_chunks else None
    if dictionary is not None and str(dictionary.type) in _TEXT and not dictionary.null_count:
        return _texts(chunked, "category", declared=True, ordered=ordered)
    declared = [] if dictionary is None else dictionary.to_pylist()
    values = plain_objects(chunked.to_pylist(), _gaps(chunked), where)
    return Converted(values, "category", declared, ordered)


def _texts(encoded: Any, dtype: str, *, declared: bool = False, ordered: bool = False) -> _Coded:
    """Chunks of codes that share one dictionary of text."""
    encoded.validate(full=True)  # a damaged file may hold codes of no level
    levels = encoded.chunk(0).dictionary
    codes = np.empty(len(encoded), dtype=np.int32)
    at = 0
    for chunk in encoded.chunks:
        part = codes[at : at + len(chunk)]
        part[:] = _lying(chunk.indices, np.dtype(str(chunk.indices.type)))
        if chunk.null_count:
            part[_bits_of(chunk.is_null())] = len(levels)
        at += len(chunk)
    return _Coded(codes, levels, dtype, declared, ordered)


def _packed(levels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Offsets from 0, and UTF-8, of Arrow's array of text without gaps."""
    import pyarrow

    levels.validate(full=True)  # a damaged file may hold bytes that are no UTF-8
    if not len(levels):
        return np.zeros(1, np.int64), np.empty(0, np.uint8)
    large = levels.cast(pyarrow.large_string())
    _, places, content = large.buffers()
    found = np.frombuffer(places, np.int64, len(large) + 1, large.offset * 8)
    begin, end = int(found[0]), int(found[-1])
    data = np.frombuffer(content, np.uint8, end - begin, begin) if end > begin else np.empty(0, np.uint8)
    return found - begin, data


def _numbers(chunked: Any, dtype: np.dtype) -> np.ndarray:
    """Numbers with NaN for gaps, which make whole numbers float64."""
    gaps = bool(chunked.null_count)
    values = np.empty(len(chunked), np.dtype(np.float64) if gaps and dtype.kind in "iu" else dtype)
    at = 0
    for chunk in chunked.chunks:
        part = values[at : at + len(chunk)]
        part[:] = _lying(chunk, dtype)
        if chunk.null_count:
            part[_bits_of(chunk.is_null())] = math.nan
        at += len(chunk)
    return values


def _gaps(chunked: Any) -> np.ndarray:
    return _bits(chunked.is_null()) if chunked.null_count else np.zeros(len(chunked), dtype=bool)


def _bits(chunked: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=bool), *map(_bits_of, chunked.chunks)])


def _bits_of(array: Any) -> np.ndarray:
    """Truth values without gaps, of which Arrow keeps eight in a byte."""
    if not len(array):
        return np.empty(0, dtype=bool)
    packed = np.frombuffer(array.buffers()[1], np.uint8)
    return np.unpackbits(packed, count=array.offset + len(array), bitorder="little")[array.offset :].astype(bool)


def _lying(array: Any, dtype: np.dtype) -> np.ndarray:
    """Numbers where they lie; those of gaps are any."""
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)
