"""What is disturbed: trainings, their figures, samples and comparisons, small enough to be done hundreds of times."""

import csv
import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reliability.children import Child, Ended, command

DATA = "points.csv"
ROWS = 60
STEPS = 60
RUN = "run"


@dataclass(frozen=True)
class Job:
    """Work that may be killed and is then given again.

    Attributes:
        name: Of the job.
        before: Commands whose results must be there first.
        work: What is done in the folder.
    """

    name: str
    before: tuple[str, ...]
    work: Callable[[], int | None]


def write_points(path: Path, rows: int = ROWS) -> None:
    """Two correlated columns of normal numbers."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["x", "y"])
        for _ in range(rows):
            x = draw.gauss(1, 1)
            writer.writerow([f"{x:.5f}", f"{0.5 * x + draw.gauss(-1, 0.7):.5f}"])


def write_rows(path: Path) -> None:
    """Rows by the name of the file: ``houses`` has every kind of column, ``days`` and ``cells`` have times."""
    draw = np.random.default_rng(1)
    rows = 66 if path.stem in ("days", "cells") else 30  # a time has at least twenty
    if path.stem == "points":
        write_points(path, rows)
        return
    day, points = np.arange(rows) % 3, draw.normal(size=(rows, 2))
    points = np.round(points + day[:, None], 4)
    if path.suffix == ".h5ad":
        import anndata
        import pandas

        index = [str(row) for row in range(rows)]
        obs = pandas.DataFrame({"day": day.astype(float)}, index=index)
        anndata.AnnData(obs=obs, obsm={"X_pca": points}).write_h5ad(path)
        return
    if path.stem == "days":
        lines = [["x", "y", "day"], *([f"{x}", f"{y}", f"{t}"] for (x, y), t in zip(points, day, strict=True))]
    else:
        lines = [["price", "rooms", "place", "garden"]]
        for x, y in points:
            place, garden = draw.choice(["bay", "inland"]), "true" if draw.random() < 0.4 else "false"
            lines.append([f"{1e5 * np.exp(x):.2f}", "" if y > 2.5 else f"{draw.integers(1, 9)}", place, garden])
    path.write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")


def training(
    steps: int = STEPS, *, stop_after: int | None = None, checkpoint_seconds: float = 0.02, shard: bool = False
) -> None:
    """A training without figures, in the folder ``run``; stopped after so many steps of its own."""
    from advect.workflows.fit import train
    from advect.workflows.request import TrainRequest

    left = iter(range(steps if stop_after is None else stop_after))
    train(
        TrainRequest(
            data=DATA,
            method="ot-cfm",
            out=Path(RUN),
            steps=steps,
            batch_size=16,
            network="mlp-1x8",
            training={"checkpoint_seconds": checkpoint_seconds, "validation_every": 10, "shard": shard},
        ),
        stop=lambda: next(left, None) is None,
        evaluate=False,
    )


def train_again(asked: Mapping[str, Any], *, stop_after: int | None = None) -> None:
    """A training without figures by settings that JSON can hold, in the folder ``run``."""
    from advect.workflows.fit import train
    from advect.workflows.request import TrainRequest

    given = {name: tuple(value) if isinstance(value, list) else value for name, value in asked.items()}
    left = iter(range(given["steps"] if stop_after is None else stop_after))
    request = TrainRequest(out=Path(RUN), batch_size=16, network="mlp-1x8", **given)
    train(request, stop=lambda: next(left, None) is None, evaluate=False)


_TRAIN = (
    f"train {DATA} --method i-cfm --steps 6 --batch-size 16 --network mlp-1x8 --set checkpoint_seconds=0 "
    f"--set validation_every=2 --out {RUN}"
)
_COMPARE = f"compare {DATA} --methods planar,nice --steps 4 --seeds 1 --batch-size 16 --out table"


def _samples() -> tuple[str, ...]:
    names = ["s.csv", "s.tsv.gz", "s.npz", "s.npy", "s.parquet", "s.h5ad"]
    return tuple(f"sample {RUN} -n 300 --out {name}" for name in names)


def job(name: str) -> Job:
    """A job by name: ``train``, ``steps``, ``parts``, ``figures`` (all of a command), ``sample`` or ``compare``."""
    if name == "train":
        return Job(name, (), training)
    if name == "steps":  # a checkpoint after every one of a few steps
        return Job(name, (), lambda: training(4, checkpoint_seconds=0.0))
    if name == "parts":  # the same in parts, which a thread writes
        return Job(name, (), lambda: training(8, checkpoint_seconds=0.0, shard=True))
    if name == "figures":
        return Job(name, (), command(_TRAIN))
    if name == "sample":
        return Job(name, (_TRAIN,), command(*_samples()))
    if name == "compare":
        return Job(name, (), command(_COMPARE))
    raise ValueError(f"there is no job {name!r}")


class Ground:
    """Folders in which a job is done: one where nobody disturbs it, and as many fresh ones as are asked for.

    Args:
        work: The job.
        folder: An empty scratch folder.
    """

    def __init__(self, work: Job, folder: Path) -> None:
        self.job, self.folder, self._count = work, folder, 0
        self.start = folder / "start"
        self.start.mkdir()
        write_points(self.start / DATA)
        if work.before:
            self._done(command(*work.before), self.start)
        # Once in this process, so that children find everything imported.
        inside(work.work, self.fresh())
        self.straight = self.fresh()
        self.ended = self._done(work.work, self.straight)

    def fresh(self) -> Path:
        """A new folder in which the job can be done."""
        self._count += 1
        return Path(shutil.copytree(self.start, self.folder / f"{self._count}"))

    def _done(self, work: Callable[[], int | None], folder: Path) -> Ended:
        ended = Child(work, folder).wait()
        if ended.code != 0:
            raise RuntimeError(f"{self.job.name} ended with {ended.code}: {ended.said[-2000:]}")
        return ended


def inside(work: Callable[[], int | None], folder: Path) -> None:
    """The work in this process, in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        work()
    finally:
        os.chdir(before)
