"""Damaged files of data: tables, arrays, cells, pictures; each made from honest ones by draws of a generator."""

import io
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reliability import seeds
from benchmarks.reliability.mutate import INTEGERS, TEXTS, mutated_bytes, with_png_checksums

Seeds = Any
Make = Callable[[random.Random, Seeds, Path], Path]


def file_of(name: str, change: Callable[[random.Random, Sequence[bytes]], bytes], share_packed: float = 0.1) -> Make:
    """A maker of single files; a share of them is gzipped, before or after the damage."""

    def make(draw: random.Random, known: Seeds, folder: Path) -> Path:
        kind = draw.random()
        if kind >= share_packed:
            path, content = folder / name, change(draw, known)
        elif kind >= share_packed / 3:
            path, content = folder / f"{name}.gz", seeds.packed(change(draw, known))
        else:
            path, content = folder / f"{name}.gz", mutated_bytes(draw, seeds.packed(draw.choice(known)))
        path.write_bytes(content)
        return path

    return make


def plain(draw: random.Random, known: Sequence[bytes]) -> bytes:
    return mutated_bytes(draw, draw.choice(known), known)


def csv(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """Cells replaced, or bytes."""
    if draw.random() < 0.5:
        return plain(draw, known)
    lines = draw.choice(known).decode().split("\n")
    for _ in range(draw.choice((1, 2, 5))):
        at = draw.randrange(len(lines))
        cells = lines[at].split(",")
        kind = draw.random()
        if kind < 0.6:
            cells[draw.randrange(len(cells))] = draw.choice((*TEXTS, *map(str, INTEGERS)))
        elif kind < 0.8:
            cells *= draw.choice((0, 2, 50, 5000))
        lines[at] = ",".join(cells)
        if kind >= 0.8:
            lines[at:at] = [draw.choice(lines)[:20_000]] * draw.choice((1, 3, 500))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_DESCRS = (
    "'<f8'",
    "'<f4'",
    "'|u1'",
    "'>i8'",
    "'|O'",
    "'<U3'",
    "'|S4'",
    "'<M8[s]'",
    "'<c16'",
    "'|V0'",
    "'<U0'",
    "'|b1'",
    "'<f16'",
    "'|V9'",
    "'<f3'",
    "[('a', '<f8'), ('a', '<f8')]",
    "[('a', '|O')]",
    "[('a', '<f8', (2, 3))]",
    "[('a', '|V0')]",
    "[('', '<f8')]",
    "[]",
    "('<f8', (2**30,))",
    "'f8,'*1000",
    "{}",
    "None",
    "5",
    "b'<f8'",
    "('<f8', (1000000000,))",
    "[('a', [('b', '<f8')])]",
    "'i8' if 1 else 2",
)
_SHAPES = (
    "(12, 3)",
    "(3,)",
    "()",
    "(0,)",
    "(0, 1000000000000)",
    "(1000000000000, 0)",
    "(4611686018427387904, 2)",
    "(4294967296, 4294967296)",
    "(-1, 3)",
    "(12, -3)",
    "(True, 3)",
    "(12.0, 3)",
    "[12, 3]",
    "(1,) * 40",
    f"({'1, ' * 70})",
    "(12, 3, 1)",
    "(1, 36)",
    "(36, 1)",
    "((12,), 3)",
    "(99999999999999999999999, 1)",
    "(2, 1, 0, 3)",
    "(1, 2000000)",
)


def npy(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """A header of our own over some bytes, or blind edits."""
    if draw.random() < 0.5:
        return plain(draw, known)
    order = draw.choice(("False", "True", "None", "1"))
    header = f"{{'descr': {draw.choice(_DESCRS)}, 'fortran_order': {order}, 'shape': {draw.choice(_SHAPES)}, }}"
    if draw.random() < 0.1:
        header = draw.choice(
            (
                "(" * 5000,
                "{'descr': " * 300,
                "-" * 100_000,
                "[" * 90 + "]" * 90,
                header + ", 'x': 1",
                "1" * 5000,
                "{**{}}",
            )
        )
    body = bytes(draw.choice((0, 1, 8, 36, 96, 287, 288, 289, 2_000_000)))
    return seeds.npy_header(header, body, draw.choice((1, 1, 1, 2, 3, 4)))


def npz(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """Members damaged under right checksums, or the archive itself."""
    data = draw.choice(known)
    if draw.random() < 0.45:
        return mutated_bytes(draw, data, known)
    stream = io.BytesIO()
    way = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", way) as new:
        for name in old.namelist():
            content = old.read(name)
            kind = draw.random()
            if kind < 0.4:
                content = npy(draw, [content])
            elif kind < 0.45:
                content = bytes(draw.choice((10**3, 10**6, 4 * 10**6)))
            elif kind < 0.5:
                name = draw.choice(("X.npy", ".npy", "a/../../b.npy", "/etc/x.npy", "x\x00.npy", "\x1b[1m.npy"))
            new.writestr(name, content)
    return stream.getvalue()


def parquet(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """Edits of the footer, where lengths and types are, of the pages, or anywhere."""
    data = draw.choice(known)
    if draw.random() < 0.3:
        return mutated_bytes(draw, data, known)
    size = struct.unpack("<I", data[-8:-4])[0]
    pages, footer = data[4 : -8 - size], data[-8 - size : -8]
    if draw.random() < 0.6:
        footer = mutated_bytes(draw, footer)
    else:
        pages = mutated_bytes(draw, pages)
        pages = pages[: len(data) - 12 - size].ljust(len(data) - 12 - size, b"\0")  # offsets in the footer still fit
    return b"PAR1" + pages + footer + struct.pack("<I", len(footer)) + b"PAR1"


def h5ad(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """Objects and attributes replaced through h5py, or bytes."""
    data = draw.choice(known)
    if draw.random() < 0.6:
        return mutated_bytes(draw, data, known)
    import h5py

    stream = io.BytesIO(data)
    with h5py.File(stream, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = draw.choice(names)
        node, kind = file[name], draw.random()
        if kind < 0.3 and len(node.attrs):
            node.attrs[draw.choice(list(node.attrs))] = draw.choice(
                ("array", "csr_matrix", "dataframe", "dict", 3, "9.9.9", [1, 2], np.arange(9), "")
            )
        elif kind < 0.4:
            del file[name]
        elif kind < 0.5:
            del file[name]
            file[name] = (
                h5py.ExternalLink("/etc/passwd", "/")
                if draw.random() < 0.5
                else h5py.SoftLink("/" + draw.choice(names))
            )
        elif kind < 0.6:
            del file[name]
            file.create_dataset(
                name,
                shape=(draw.choice((8, 2**33, 2**50)), draw.choice((1, 4, 10**6))),
                dtype="f4",
                chunks=(1, 1),
                fillvalue=1.0,
            )
        else:
            values: Sequence[Any] = (
                np.arange(8.0),
                np.full((8, 4), np.nan),
                np.zeros((8, 0)),
                np.zeros(0),
                np.array([b"a"] * 8),
                np.arange(7),
                5,
                "text",
                np.array([0, 2**40, -5, 3, 4, 5, 6, 7, 8]),
                np.zeros((8, 2), complex),
                np.zeros((2, 2, 2)),
                np.array([99] * 8, "i1"),
                np.inf,
            )
            del file[name]
            file[name] = draw.choice(values)
    return stream.getvalue()


_BLOCK = 512  # bytes of a header, and what every member's content is filled up to
_SUM = slice(148, 156)  # of a header: its sum, in octal digits


def with_tar_sums(data: bytes) -> bytes:
    """The sum of every header of a tar file put right, as far as the sizes in them lead."""
    content, at = bytearray(data), 0
    while at + _BLOCK <= len(content) and any(content[at : at + _BLOCK]):
        header = content[at : at + _BLOCK]
        header[_SUM] = b" " * 8
        header[_SUM] = b"%06o\0 " % sum(header)
        content[at : at + _BLOCK] = header
        digits = bytes(header[124:136]).strip(b"\0 ")
        size = int(digits, 8) if digits and not digits.strip(b"01234567") else 0
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return bytes(content)


_FIELDS = ((0, 100), (100, 108), (124, 136), (124, 136), (124, 136), (156, 157), (157, 257), (257, 265), (345, 500))


def tar(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """A field of a header replaced, or bytes; often under right sums."""
    data = draw.choice(known)
    if draw.random() < 0.5:
        content = bytearray(data)
        headers = [at for at in range(0, len(data), _BLOCK) if data[at + 257 : at + 262] == b"ustar"]
        begin, end = draw.choice(_FIELDS)
        at = draw.choice(headers)
        value = draw.choice(
            (
                b"%o" % draw.choice((*INTEGERS, len(data))),
                b"\x80" + draw.choice(INTEGERS).to_bytes(11, "big"),
                b"\xff" * 12,
                draw.choice(TEXTS).encode("utf-8", "surrogatepass"),
                draw.choice((b"0", b"1", b"2", b"3", b"6", b"L", b"K", b"x", b"g", b"S", b"V")),
            )
        )
        content[at + begin : at + end] = value[: end - begin].ljust(end - begin, b"\0")
        data = bytes(content)
    if draw.random() < 0.6:
        data = mutated_bytes(draw, data, known)
    return with_tar_sums(data) if draw.random() < 0.7 else data


def _damaged_picture(draw: random.Random, known: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    ending, data = draw.choice(known)
    damaged = mutated_bytes(draw, data, [content for other, content in known if other == ending])
    if ending == ".png" and draw.random() < 0.7:
        damaged = with_png_checksums(damaged)
    return (draw.choice(known)[0] if draw.random() < 0.1 else ending), damaged


def picture(draw: random.Random, known: Seeds, folder: Path) -> Path:
    ending, damaged = _damaged_picture(draw, known)
    path = folder / f"a{ending}"
    path.write_bytes(damaged)
    return path


def pictures(draw: random.Random, known: Seeds, folder: Path) -> Path:
    """Three honest pictures and one to three damaged ones, sometimes in classes, with links that lead away."""
    root = folder / "pictures"
    for number in range(draw.randint(4, 6)):
        ending, data = draw.choice(known) if number < 3 else _damaged_picture(draw, known)
        place = root / draw.choice(("a", "b")) if draw.random() < 0.3 else root
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}{ending}").write_bytes(data)
    if draw.random() < 0.1:
        (root / "9.png").symlink_to(draw.choice(("/etc/passwd", "/dev/zero", "9.png", "..", "/dev/full")))
    return root
