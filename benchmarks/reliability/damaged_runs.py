"""Damaged runs: configurations, tensors, whole folders; each made from honest ones by draws of a generator."""

import functools
import json
import random
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.reliability.damaged_files import Seeds
from benchmarks.reliability.mutate import INTEGERS, TEXTS, mutated_bytes, mutated_tree


def settings(draw: random.Random, known: Sequence[bytes], folder: Path) -> Path:
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


def weights(draw: random.Random, known: Sequence[bytes], folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(damaged_tensors(draw, draw.choice(known), known))
    return path


def run(draw: random.Random, known: Seeds, folder: Path) -> Path:
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
def run_seed(method: str) -> tuple[tuple[str, bytes], ...]:
    """The files of a quickly trained run; the smallest networks have a condition."""

    from advect.workflows.fit import train
    from advect.workflows.request import TrainRequest
    from tests.faces.made_runs import houses

    with tempfile.TemporaryDirectory() as folder:
        data, out = str(houses(Path(folder) / "houses.csv", rows=60)), Path(folder) / f"run{RUNS.index(method)}"
        small = {} if method not in ("ot-cfm", "edm") else {"network": "mlp-1x8", "condition": ("place",)}
        train(TrainRequest(data, method=method, steps=4, batch_size=16, out=out, **small), evaluate=False)
        (out / "evaluation.json").write_text('{"rows": 6, "log_likelihood": {"value": -18.5, "standard_error": 0.3}}')
        files = sorted(path for path in out.rglob("*") if path.is_file() and path.name[0] != ".")
        return tuple((path.relative_to(out).as_posix(), path.read_bytes()) for path in files)


def run_seeds() -> list[tuple[tuple[str, bytes], ...]]:
    """The files of quickly trained runs of several methods."""
    return [run_seed(method) for method in RUNS]


def all_tensors() -> list[bytes]:
    return [content for files in run_seeds() for name, content in files if name.endswith(".safetensors")]


def all_settings() -> list[bytes]:
    return [dict(files)["config.toml"] for files in run_seeds()]
