"""The readers that are fuzzed: how a damaged file of each kind is made, and how it is read."""

import functools
import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability import seeds
from benchmarks.reliability.mutate import INTEGERS, TEXTS, mutated_bytes, mutated_tree, with_png_checksums

Seeds = Any
Make = Callable[[random.Random, Seeds, Path], Path]


@dataclass(frozen=True)
class Reader:
    """One reader under test.

    Attributes:
        seeds: Honest files, made once; they cross to the workers as plain values.
        make: Writes one damaged file or folder below an empty folder and returns its path.
        read: Reads it, as the commands do.
        decoder: Whether the bytes go through a decoder that is not written in Python or Rust.
    """

    seeds: Callable[[], Seeds]
    make: Make
    read: Callable[[Path], object]
    decoder: bool = False


def read_rows(path: Path) -> object:
    """Rows, their schema, and what is said about them: what every verb does first."""
    from advect.data import check_table, infer_schema, read_table, refuse_unusable

    table = read_table(str(path), min_rows=1)
    schema = infer_schema(table)
    refuse_unusable(table, schema)
    return check_table(table, schema)


def read_a_run(path: Path) -> object:
    """A run as `sample` opens it, and as `train` goes on with it."""
    from advect.run import RunFolder, read_checkpoint, read_config
    from advect.workflows.open import open_run

    folder = RunFolder(path)
    read_config(folder)
    read_checkpoint(folder)
    return open_run(folder)


def read_settings_file(path: Path) -> object:
    """The configuration of a run alone."""
    from advect.run import RunFolder, read_config

    return read_config(RunFolder(path))


def read_weights(path: Path) -> object:
    """Tensors with their card alone."""
    from advect.run import read_tensors

    return read_tensors(path)


# ---- making


def _file(name: str, change: Callable[[random.Random, Sequence[bytes]], bytes], share_packed: float = 0.1) -> Make:
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


def _plain(draw: random.Random, known: Sequence[bytes]) -> bytes:
    return mutated_bytes(draw, draw.choice(known), known)


def _csv(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """Cells replaced, or bytes."""
    if draw.random() < 0.5:
        return _plain(draw, known)
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


def _npy(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """A header of our own over some bytes, or blind edits."""
    if draw.random() < 0.5:
        return _plain(draw, known)
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


def _npz(draw: random.Random, known: Sequence[bytes]) -> bytes:
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
                content = _npy(draw, [content])
            elif kind < 0.45:
                content = bytes(draw.choice((10**3, 10**6, 4 * 10**6)))
            elif kind < 0.5:
                name = draw.choice(("X.npy", ".npy", "a/../../b.npy", "/etc/x.npy", "x\x00.npy", "\x1b[1m.npy"))
            new.writestr(name, content)
    return stream.getvalue()


def _parquet(draw: random.Random, known: Sequence[bytes]) -> bytes:
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


def _h5ad(draw: random.Random, known: Sequence[bytes]) -> bytes:
    """Objects and attributes replaced through h5py, or bytes."""
    data = draw.choice(known)
    if draw.random() < 0.6:
        return mutated_bytes(draw, data, known)
    import h5py
    import numpy as np

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


def _damaged_picture(draw: random.Random, known: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    ending, data = draw.choice(known)
    damaged = mutated_bytes(draw, data, [content for other, content in known if other == ending])
    if ending == ".png" and draw.random() < 0.7:
        damaged = with_png_checksums(damaged)
    return (draw.choice(known)[0] if draw.random() < 0.1 else ending), damaged


def _picture(draw: random.Random, known: Seeds, folder: Path) -> Path:
    ending, damaged = _damaged_picture(draw, known)
    path = folder / f"a{ending}"
    path.write_bytes(damaged)
    return path


def _pictures(draw: random.Random, known: Seeds, folder: Path) -> Path:
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


def _toml(draw: random.Random, known: Sequence[bytes], folder: Path) -> Path:
    content = draw.choice(known)
    if draw.random() < 0.3:
        lines = content.decode().split("\n")
        at = draw.randrange(len(lines))
        long = (
            "[[a]]",
            "a." * 3000 + "b = 1",
            "x = " + "[" * 3000,
            "x = " + "[" * 3000 + "]" * 3000,
            "x = " + "{a=" * 1000,
            "x = 1" + "0" * 5000,
            "[" + "a." * 5000 + "b]",
        )
        lines[at] = draw.choice((*long, *TEXTS, lines[at] * 2))
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
    else:
        content = mutated_bytes(draw, content, known)
    (folder / "config.toml").write_bytes(content)
    return folder


# ---- safetensors and runs


def split_tensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a safetensors file."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined_tensors(header: object, numbers: bytes, size: int | None = None) -> bytes:
    """The file again; ``size`` is what it claims of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", (len(text) if size is None else size) % 2**64) + text + numbers


_HEADERS = (
    b"{" * 100_000,
    b"[" * 200_000,
    b'{"a":' * 50_000,
    b"{}",
    b"",
    b"null",
    b"[]",
    b'{"a": {"dtype": "F32"}}',
    b'{"__metadata__": {"advect": "{"}}',
)


def damaged_tensors(draw: random.Random, data: bytes, known: Sequence[bytes]) -> bytes:
    """The card edited as a tree, the header, its claimed size, or bytes."""
    kind = draw.random()
    if kind < 0.2:
        return mutated_bytes(draw, data, known)
    header, numbers = split_tensors(data)
    if kind < 0.28:
        return joined_tensors(header, numbers, draw.choice((*INTEGERS, -1, len(data))))
    if kind < 0.32:
        return joined_tensors(draw.choice(_HEADERS), numbers)
    if kind < 0.5:
        return joined_tensors(mutated_tree(draw, header), numbers)
    stored = json.loads(header["__metadata__"]["advect"])
    header["__metadata__"]["advect"] = json.dumps({**stored, "card": mutated_tree(draw, stored["card"])})
    return joined_tensors(header, numbers)


def _weights(draw: random.Random, known: Sequence[bytes], folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(damaged_tensors(draw, draw.choice(known), known))
    return path


def _run(draw: random.Random, known: Seeds, folder: Path) -> Path:
    """One of the files of a run damaged."""
    whole = draw.choice(known)
    files = dict(whole)
    name = draw.choices(
        ("model.safetensors", "checkpoint/state.safetensors", "config.toml", "metrics.jsonl", "evaluation.json"),
        (70, 8, 8, 7, 7),
    )[0]
    others = [dict(other)[name] for other in known]
    if name.endswith("safetensors"):
        files[name] = damaged_tensors(draw, files[name], others)
    elif draw.random() < 0.5 or name == "config.toml":
        files[name] = mutated_bytes(draw, files[name], others)
    elif name == "evaluation.json":
        files[name] = json.dumps(mutated_tree(draw, json.loads(files[name]))).encode()
    else:
        lines = [mutated_tree(draw, json.loads(line)) for line in files[name].splitlines()]
        files[name] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    root = folder / "run"
    for place, content in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(content)
    return root


RUNS = ("ot-cfm", "nsf", "realnvp", "maf", "residual", "edm", "vae", "cnf")


@functools.cache
def run_seeds() -> list[tuple[tuple[str, bytes], ...]]:
    """The files of quickly trained runs of several methods, the first of them with a condition."""
    import tempfile

    from advect.workflows.fit import train
    from advect.workflows.request import TrainRequest
    from tests.faces.made_runs import houses

    found = []
    with tempfile.TemporaryDirectory() as folder:
        data = str(houses(Path(folder) / "houses.csv", rows=60))
        for number, method in enumerate(RUNS):
            out = Path(folder) / f"run{number}"
            small = {} if method not in ("ot-cfm", "edm") else {"network": "mlp-1x8", "condition": ("place",)}
            train(TrainRequest(data, method=method, steps=4, batch_size=16, out=out, **small), evaluate=False)
            (out / "evaluation.json").write_text(
                '{"rows": 6, "log_likelihood": {"value": -18.5, "standard_error": 0.3}}'
            )
            files = sorted(path for path in out.rglob("*") if path.is_file() and path.name[0] != ".")
            found.append(tuple((path.relative_to(out).as_posix(), path.read_bytes()) for path in files))
    return found


def _all_tensors() -> list[bytes]:
    return [content for files in run_seeds() for name, content in files if name.endswith(".safetensors")]


def _all_settings() -> list[bytes]:
    return [dict(files)["config.toml"] for files in run_seeds()]


READERS: dict[str, Reader] = {
    "csv": Reader(seeds.csv_seeds, _file("a.csv", _csv), read_rows),
    "npy": Reader(seeds.npy_seeds, _file("a.npy", _npy), read_rows),
    "npz": Reader(seeds.npz_seeds, _file("a.npz", _npz), read_rows),
    "idx": Reader(seeds.idx_seeds, _file("a-idx3-ubyte", _plain), read_rows),
    "parquet": Reader(seeds.parquet_seeds, _file("a.parquet", _parquet, 0), read_rows, decoder=True),
    "h5ad": Reader(seeds.h5ad_seeds, _file("a.h5ad", _h5ad, 0), read_rows, decoder=True),
    "picture": Reader(seeds.picture_seeds, _picture, read_rows, decoder=True),
    "folder": Reader(seeds.picture_seeds, _pictures, read_rows, decoder=True),
    "toml": Reader(_all_settings, _toml, read_settings_file),
    "safetensors": Reader(_all_tensors, _weights, read_weights),
    "run": Reader(run_seeds, _run, read_a_run),
}


def make_case(reader: str, known: Seeds, seed: int, index: int, folder: Path) -> Path:
    """The damaged file of this number in an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    draw = random.Random(f"{reader} {seed} {index}")
    return READERS[reader].make(draw, known, folder)
