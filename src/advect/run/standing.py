"""How far a training has come, read from its folder alone: nothing is asked of the process that trains.

A validation leaves a line in ``metrics.jsonl``, a checkpoint its step and the seconds so far in the header of its file.
Both are marks (step, seconds of training) on the way; the last few of them give the rate.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from safetensors import SafetensorError, safe_open

from advect.errors import RunFolderError
from advect.run.card import read_config
from advect.run.folder import CHECKPOINT, LAST_SET, METRICS, MODEL, REPORT, RunFolder
from advect.run.sets import last_numbers
from advect.run.sink import read_history
from advect.run.tensors import KEY

_MARKS = 4  # the last so many give the rate
_SILENCE = 4.0  # checkpoints that do not come are suspicious


@dataclass(frozen=True)
class Standing:
    """Where a training stands.

    Attributes:
        state: As `RunFolder.state`.
        step: Steps done, as far as the folder tells.
        steps: Steps in all; None where the configuration does not say.
        rate: Steps per second of training; None until there are two marks.
        seconds: Of training so far.
        seconds_left: From now, if the training still runs; None without a rate.
        age: Seconds since the last sign of life; None without one.
        silent: Whether that is longer than a running training would be quiet.
        history: The lines of ``metrics.jsonl``.
        model: Changes whenever the finished model does; empty without one.
        report: Whether there is a page.
    """

    state: str
    step: int = 0
    steps: int | None = None
    rate: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    age: float | None = None
    silent: bool = False
    history: tuple[Mapping, ...] = ()
    model: str = ""
    report: bool = False


def standing_of(folder: RunFolder, *, now: float | None = None) -> Standing:
    """Where the training of a folder stands.

    Args:
        folder: The run; it may be absent, for a moment, while a training is begun anew.
        now: ``time.time()`` that counts as now.

    Raises:
        RunFolderError: A file is damaged.
    """
    state = folder.state
    if state not in ("started", "finished"):
        return Standing(state)
    now = time.time() if now is None else now
    training = read_config(folder).get("training")
    training = training if isinstance(training, dict) else {}
    steps = training.get("steps")
    history = tuple(read_history(folder))
    marks = _marks(history, _checkpoint_mark(folder))
    step, seconds = marks[-1] if marks else (0, None)
    rate = _rate(marks)
    signs = [t for name in (METRICS, CHECKPOINT, LAST_SET) if (t := _changed(folder, name)) is not None]
    age = max(now - max(signs), 0.0) if signs else None
    left = None
    if state == "started" and isinstance(steps, int) and rate:
        left = max((steps - step) / rate - (age or 0.0), 0.0)
    return Standing(
        state=state,
        step=step,
        steps=steps if isinstance(steps, int) else None,
        rate=rate,
        seconds=seconds,
        seconds_left=left,
        age=age,
        silent=state == "started" and age is not None and age > _patience(training),
        history=history,
        model=_version(folder),
        report=folder.file(REPORT).is_file(),
    )


def _marks(history: tuple[Mapping, ...], checkpoint: tuple[int, float] | None) -> list[tuple[int, float]]:
    """Rising steps with the seconds of training that were behind them."""
    known = {line["step"]: line["seconds"] for line in history if isinstance(line.get("seconds"), int | float)}
    if checkpoint is not None:
        known.setdefault(*checkpoint)
    return sorted(known.items())


def _rate(marks: list[tuple[int, float]]) -> float | None:
    if len(marks) < 2:
        return None
    (first, began), (last, ended) = marks[max(len(marks) - _MARKS, 0)], marks[-1]
    return (last - first) / (ended - began) if ended > began else None


def _patience(training: Mapping) -> float:
    """Seconds of silence after which something seems wrong: some checkpoints should have come."""
    between = training.get("checkpoint_seconds")
    return _SILENCE * max(15.0, float(between) if isinstance(between, int | float) else 0.0)


def _checkpoint_mark(folder: RunFolder) -> tuple[int, float] | None:
    """Step and seconds of the last checkpoint; only the header of the file is read."""
    numbers = last_numbers(folder)
    try:
        if numbers is not None:
            return int(numbers["step"]), float(numbers["seconds"])
        with safe_open(folder.file(CHECKPOINT), framework="pt", device="cpu") as stream:
            card = json.loads((stream.metadata() or {}).get(KEY, "{}"))["card"]
        return int(card["step"]), float(card["seconds"])
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{CHECKPOINT} is damaged ({error})", where=str(folder.path)) from error


def _changed(folder: RunFolder, name: str) -> float | None:
    try:
        return folder.file(name).stat().st_mtime
    except OSError:
        return None


def _version(folder: RunFolder) -> str:
    try:
        found = folder.file(MODEL).stat()
    except OSError:
        return ""
    return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"
