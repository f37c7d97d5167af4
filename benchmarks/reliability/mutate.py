"""Mutations of files: blind ones of bytes and texts, and edits of trees, lengths and checksums.

Every mutation is a function of a seed and a number alone, so that a file that was found can be made again.
"""

import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

INTEGERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "1e309",
    "-1e309",
    "nan",
    "inf",
    "1_000",
    "0x10",
    "9" * 30,
    "1" * 400,
    "null",
    "None",
    "true",
    "é",
    "\ud7ff",
    "\x00",
    "\x1b[2J",
    "../../../../tmp/x",
    "/etc/passwd",
    "${HOME}",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    '"',
    "'",
    ",",
    "\t",
    "\n",
    "\r",
    "#",
    "__import__('os').system('true')",
    "a" * 5000,
    "%s%n",
    "{0.__class__}",
    "\ufeff",
    "٣",
    "１",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    255,
    2**31,
    2**63,
    10**30,
    0.0,
    -0.0,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "1" * 50,
    "mlp-9999x9999",
    "mlp-1x8",
    [],
    [[]],
    {},
    [0],
    [1, 2, 3],
    [2**31, 2**31],
    [-1],
    {"a": 1},
    "\x1b[31m",
)


def mutated_bytes(draw: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One to eight blind edits."""
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        draw.choice(_BYTE_EDITS)(draw, content, others)
    return bytes(content)


def _place(draw: random.Random, content: bytearray) -> int:
    """Anywhere; often near the beginning or the end, where headers and directories are."""
    size = max(len(content), 1)
    near = min(size, 200)
    return draw.choice((draw.randrange(size), draw.randrange(near), size - 1 - draw.randrange(near)))


def _flip(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[_place(draw, content)] ^= 1 << draw.randrange(8)


def _set(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[_place(draw, content)] = draw.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _integer(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    width = draw.choice((1, 2, 4, 8))
    number = draw.choice((*INTEGERS, len(content), len(content) * 2)) % (1 << 8 * width)
    at = _place(draw, content)
    content[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))


def _cut(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    del content[_place(draw, content) :]


def _remove(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    at = _place(draw, content)
    del content[at : at + draw.choice((1, 2, 8, 64, 500))]


def _insert(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    at = _place(draw, content)
    content[at:at] = draw.choice((draw.randbytes(draw.choice((1, 4, 100))), bytes(draw.choice((1, 8, 1000)))))


def _repeat(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    at = _place(draw, content)
    piece = content[at : at + draw.choice((1, 16, 300))]
    content[at:at] = piece * draw.choice((1, 2, 20))


def _splice(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if others:
        other = draw.choice(others)
        at, start = _place(draw, content), draw.randrange(max(len(other), 1))
        content[at : at + draw.choice((4, 64, 10**6))] = other[start : start + draw.choice((4, 64, 10**6))]


def _word(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    at = _place(draw, content)
    content[at : at + draw.choice((0, 1, 4))] = draw.choice(TEXTS).encode("utf-8", "surrogatepass")


def _digits(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """Another number in place of one that stands in text."""
    found = list(re.finditer(rb"\d+", bytes(content[:20_000])))
    if found:
        match = draw.choice(found)
        content[match.start() : match.end()] = draw.choice((b"-1", *(str(n).encode() for n in INTEGERS)))


_BYTE_EDITS: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip,
    _flip,
    _set,
    _set,
    _integer,
    _integer,
    _cut,
    _remove,
    _insert,
    _repeat,
    _splice,
    _word,
    _digits,
)


def mutated_tree(draw: random.Random, tree: Any) -> Any:
    """A copy of a tree of mappings and lists in which one to three nodes are replaced, removed, doubled or renamed."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        tree = _edited(draw, tree, [])
    return tree


def _edited(draw: random.Random, node: Any, above: list[Any]) -> Any:
    inner = isinstance(node, dict | list) and len(node) > 0
    if not inner or (above and draw.random() < 0.12):
        return _other(draw, node)
    above = [*above, node]
    if isinstance(node, dict):
        key = draw.choice(list(node))
        kind = draw.random()
        if kind < 0.08:
            return {k: v for k, v in node.items() if k != key}
        if kind < 0.14:
            return {(draw.choice(TEXTS) if k == key else k): v for k, v in node.items()}
        if kind < 0.18:
            return {**node, draw.choice(("more", "layers", "path", "__class__")): draw.choice(VALUES)}
        return {**node, key: _edited(draw, node[key], above)}
    at = draw.randrange(len(node))
    kind = draw.random()
    if kind < 0.1:
        return [*node[:at], *node[at + 1 :]]
    if kind < 0.2:
        return [*node[: at + 1], *node[at:]]
    return [*node[:at], _edited(draw, node[at], above), *node[at + 1 :]]


def _other(draw: random.Random, node: Any) -> Any:
    """Another value, often of the same type."""
    if draw.random() < 0.5:
        if isinstance(node, bool):
            return not node
        if isinstance(node, int):
            return draw.choice((*INTEGERS, -1, -node, node + 1, node * 1000))
        if isinstance(node, float):
            return draw.choice((0.0, -node, 1e308, 1e-308, float("nan"), float("inf"), node * 1e10))
        if isinstance(node, str):
            return draw.choice((*TEXTS, node + "x", node * 3, node[:-1]))
    return draw.choice(VALUES)


def with_png_checksums(data: bytes) -> bytes:
    """The checksum of every chunk of a PNG file put right, so that a decoder looks at what is inside."""
    result, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(data):
            break
        result += data[at:end] + struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(result + data[at:])
