"""Small tables and quickly trained runs for the tests of the command."""

import csv
import json
import random
import shlex
import subprocess
import sys
from pathlib import Path

QUICK = "--steps 30 --network mlp-1x8"
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


def cloud(path: Path, shift: float, rows: int = 100) -> Path:
    """Two columns of normal numbers around ``shift``, and a third that they are labelled by."""
    draw = random.Random(SEED + int(shift))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["x", "y"])
        for _ in range(rows):
            writer.writerow([f"{draw.gauss(shift, 1):.5f}", f"{draw.gauss(-shift, 1):.5f}"])
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
