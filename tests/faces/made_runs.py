"""Small tables and quickly trained runs for the tests of the command."""

import csv
import hashlib
import json
import random
import shlex
import subprocess
import sys
from pathlib import Path

from advect.cli.app import run

QUICK = "--steps 30 --network mlp-1x8"
TRAIN = f"train houses.csv {QUICK} --out run"
SEED = 7


def houses(path: Path, rows: int = 120) -> Path:
    """A table of every kind of column: a price with decimals, whole rooms, text, truth values, an age with gaps."""
    draw = random.Random(SEED)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["price", "rooms", "place", "garden", "age"])
        for _ in range(rows):
            price, age = draw.lognormvariate(12, 0.4), draw.gauss(30, 8)
            place = draw.choices(["INLAND", "BAY", "ISLAND"], [5, 4, 2])[0]
            garden = "true" if draw.random() < 0.4 else "false"
            gap = draw.random() < 0.1
            writer.writerow([f"{price:.2f}", draw.randint(1, 9), place, garden, "" if gap else f"{age:.2f}"])
    return path


def cloud(path: Path, shift: float, *, scale: float = 1.0, rows: int = 100) -> Path:
    """Two columns of normal numbers around ``shift`` and ``-shift``."""
    draw = random.Random(SEED + int(shift))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["x", "y"])
        for _ in range(rows):
            writer.writerow([f"{draw.gauss(shift, scale):.5f}", f"{draw.gauss(-shift, scale):.5f}"])
    return path


def advect(arguments: str, folder: Path, *, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "advect", *shlex.split(arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def only_json(text: str) -> dict:
    """Standard output of a ``--json`` command: one line, one object, nothing else."""
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    value = json.loads(text, parse_constant=lambda word: (_ for _ in ()).throw(ValueError(f"{word} is no JSON")))
    assert isinstance(value, dict)
    return value


def succeed(command: str, capsys) -> tuple[str, str]:
    """Standard output and standard error of a command in this process, which must succeed."""
    capsys.readouterr()
    code = run(shlex.split(command))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out, captured.err


def refuse(command: str, capsys) -> str:
    """The message of a command in this process, which must be refused."""
    capsys.readouterr()
    code = run(shlex.split(command))
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    return captured.err


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as stream:
        head, *rows = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
    return head, rows
