"""Whether a folder that a killed process left behind is readable, and what in it must not depend on the kill."""

import csv
import hashlib
import json
import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from advect.errors import AdvectError
from advect.run import (
    CHECKPOINT,
    CONFIG,
    LAST_SET,
    METRICS,
    MODEL,
    RunFolder,
    read_checkpoint,
    read_history,
    read_tensors,
)
from advect.workflows.open import open_run
from advect.workflows.probes import FIGURES

LOCK = ".lock"
# Figures of the clock: how fast a training went and where its time did, how long a figure took, and what says so.
_CLOCK = re.compile(r"seconds|^time$|rate$|verdict|per_second|threads|path$")
# Whether there was time for a figure on the way is a matter of the clock, too.
_ON_THE_WAY = {name for figure in FIGURES for name in (figure.key, figure.level, figure.spread)}


def unreadable(folder: Path) -> list[str]:
    """What is wrong with a folder of advect's at this moment: runs and comparisons below it, files in it.

    Files whose names begin with a dot are not yet there for anybody.
    """
    faults = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.startswith(".") or any(p.startswith(".") for p in path.relative_to(folder).parts):
            continue
        try:
            _read(path)
        except (AdvectError, ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            faults.append(f"{path.relative_to(folder)}: {error}")
    for path in [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]:
        names = {p.name for p in path.iterdir()} if path.is_dir() else set()
        if names & {MODEL, METRICS, "checkpoint"} and RunFolder(path).state not in ("started", "finished"):
            faults.append(f"{path.relative_to(folder)}: a run folder that is {RunFolder(path).state}")
    return faults


def _read(path: Path) -> None:
    """Read a file as its reader would.

    Raises:
        ValueError: It is not whole.
    """
    if path.name == MODEL:
        open_run(path.parent)
    elif path.name == Path(CHECKPOINT).name:
        read_tensors(path)
    elif path.name == Path(LAST_SET).name:
        read_checkpoint(RunFolder(path.parent.parent))
    elif path.name == METRICS:
        read_history(RunFolder(path.parent))
    elif path.suffix == ".toml":
        tomllib.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".html":
        if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
            raise ValueError("the page has no end")
    elif path.suffix in (".npz",):
        if (bad := zipfile.ZipFile(path).testzip()) is not None:
            raise ValueError(f"{bad} is torn")
    elif path.suffix == ".csv":
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines(keepends=True)))
        if not lines or len({len(line) for line in lines}) != 1 or not path.read_bytes().endswith(b"\n"):
            raise ValueError("the table is torn")


def contents(folder: Path) -> dict[str, Any]:
    """Everything in a folder by name, in a form that is equal for equal bits; without the clock and the lock.

    What a dead process left half written counts too, under its own name: it should have been cleared away. Of
    checkpoints in parts the last whole one counts: sets bear names of chance, and the clock says which other is kept.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOCK and not path.parent.name.startswith("set-"):
            found[path.relative_to(folder).as_posix()] = _content(path)
    return found


def _content(path: Path) -> Any:
    checkpoint = read_checkpoint(RunFolder(path.parent.parent)) if path.name == Path(LAST_SET).name else None
    if checkpoint is not None or (path.suffix == ".safetensors" and not path.name.startswith(".")):
        tensors, card = read_tensors(path) if checkpoint is None else checkpoint
        digests = {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in sorted(tensors.items())}
        return digests, _timeless(card)
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.name == METRICS:
        lines = [_timeless(line) for line in read_history(RunFolder(path.parent))]
        return [{name: value for name, value in line.items() if name not in _ON_THE_WAY} for line in lines]
    if path.name == CONFIG:
        return _timeless(tomllib.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".html" or path.name == "compare.csv":
        return "its figures are those of the files beside it, with the clock among them"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not _CLOCK.search(k)}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of files that differ between two `contents`, or that only one has."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
