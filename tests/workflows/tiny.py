"""Trainings of a second or less, for the tests of the workflows."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advect.records import Table
from advect.workflows.fit import TrainResult, train
from advect.workflows.request import TrainRequest

# Small enough to take about a tenth of a second, large enough to leave the Gaussian start.
QUICK: dict[str, Any] = {"steps": 40, "batch_size": 32, "network": "residual-1x8", "method": "i-cfm"}


def request(data: Any, **more: Any) -> TrainRequest:
    return TrainRequest(data=data, **(QUICK | more))


def run(data: Any, *, evaluate: bool = False, **more: Any) -> TrainResult:
    """Train as `request` says, in memory unless ``out`` is given."""
    how = {name: more.pop(name) for name in ("stop", "listener", "started") if name in more}
    return train(request(data, **more), evaluate=evaluate, **how)


def moons(rows: int = 300, seed: int = 0) -> np.ndarray:
    """Two arcs, with a correlation and a scale of their own."""
    random = np.random.default_rng(seed)
    angle = np.pi * random.random(rows)
    side = random.integers(0, 2, rows)
    x = np.where(side, 1 - np.cos(angle), np.cos(angle))
    y = np.where(side, 0.5 - np.sin(angle), np.sin(angle))
    return np.stack([x, y], 1) + 0.1 * random.standard_normal((rows, 2))


def bright_pictures(path: Path, *, side: int, each: int) -> Path:
    """A folder of two classes of square pictures, ``each`` of either: bright on the left, bright above."""
    random = np.random.default_rng(0)
    half = slice((side + 1) // 2)
    for label, place in (("left", (slice(None), half)), ("top", (half,))):
        (path / label).mkdir(parents=True)
        for i in range(each):
            values = random.integers(0, 60, (side, side), dtype=np.uint8)
            values[place] += 180
            Image.fromarray(values).save(path / label / f"{i}.png")
    return path


def mixed(rows: int = 300, seed: int = 0) -> Table:
    """Numbers, whole numbers, words and truth values, with gaps in two columns: as read from a CSV file."""
    random = np.random.default_rng(seed)
    price = np.exp(random.standard_normal(rows)) * 1e5
    rooms = random.integers(1, 9, rows).astype(float)
    place = np.array(random.choice(["sea", "hill", "town"], rows, p=[0.2, 0.3, 0.5]), dtype=object)
    sold = random.random(rows) < 0.3
    rooms[random.random(rows) < 0.2] = np.nan
    place[random.random(rows) < 0.1] = None
    return Table(
        names=("price", "rooms", "place", "sold"),
        columns=(price, rooms, place, sold),
        container="csv",
        event_shape=(4,),
        dtypes=("float64", "int64", "str", "bool"),
        origin="houses",
    )


class Ear:
    """A listener that remembers."""

    def __init__(self):
        self.notes, self.phases, self.plans, self.lines = [], [], [], []

    def note(self, text):
        self.notes.append(text)

    def preflight(self, preflight):
        self.plans.append(preflight)

    def progress(self, progress):
        self.lines.append(progress)

    def phase(self, name):
        self.phases.append(name)


def stop_after(steps: int):
    """A request to stop before step ``steps`` of this process is taken."""
    asked = iter(range(10**9))
    return lambda: next(asked) >= steps
