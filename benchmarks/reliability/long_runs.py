"""Many trainings in one process, whose memory must stay flat; one training in many pieces, with the bits of one."""

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability.children import Child
from benchmarks.reliability.folders import contents, differing
from benchmarks.reliability.jobs import DATA, RUN, inside, training, write_points

POINTS = 60  # of a memory curve that are kept
WARM = 0.25  # share of the runs that memory may grow in: caches are filled
METHODS = ({"method": "ot-cfm", "training": {"pool": 4}}, {"method": "realnvp"}, {"method": "vp"}, {"method": "maf"})


def resident_bytes() -> int:
    """Memory of this process that is in use, as the system counts it."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: short trainings of several methods, each with samples, for so many seconds or runs.

    A pause between two runs leaves the processor to others; the process lives as long, with fewer runs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_points(folder / DATA)
        curve: list[tuple[float, int, float]] = []
        started, runs = time.monotonic(), 0
        while time.monotonic() - started < settings["seconds"] and runs < settings.get("runs", 10**9):
            time.sleep(settings.get("pause", 0.0) if runs else 0.0)
            _short_run(folder, runs)
            runs += 1
            gc.collect()
            curve.append((time.monotonic() - started, runs, resident_bytes() / 2**20))
        return {"runs": runs, "trainers_left": _left()} | judged(curve)


def _short_run(folder: Path, number: int) -> None:
    from advect.workflows.fit import train
    from advect.workflows.generate import generate
    from advect.workflows.request import TrainRequest

    asked = METHODS[number % len(METHODS)]
    out = folder / RUN if number % 8 < 4 else None  # in a folder and in memory
    request = TrainRequest(
        data=str(folder / DATA), steps=40, batch_size=16, network="mlp-1x8", out=out, restart=True, **asked
    )
    result = train(request, evaluate=False)
    generate(result.artefact, 50, seed=number)
    for old in folder.glob(f"{RUN}.old-*"):
        shutil.rmtree(old)


def _left() -> int:
    """Trainings that something still holds on to."""
    from advect.training import Trainer

    gc.collect()
    return sum(type(thing) is Trainer for thing in gc.get_objects())


def judged(curve: list[tuple[float, int, float]]) -> dict[str, Any]:
    """A memory curve thinned, with its slope after the first runs by least squares."""
    late = curve[int(WARM * len(curve)) :]
    hours, size = [seconds / 3600 for seconds, _, _ in late], [mb for _, _, mb in late]
    mean_h, mean_s = sum(hours) / len(hours), sum(size) / len(size)
    spread = sum((h - mean_h) ** 2 for h in hours)
    slope = sum((h - mean_h) * (s - mean_s) for h, s in zip(hours, size, strict=True)) / spread if spread else 0.0
    step = max(1, len(curve) // POINTS)
    return {
        "hours": curve[-1][0] / 3600,
        "mb_after_first": curve[0][2],
        "mb_warm": late[0][2],
        "mb_end": late[-1][2],
        "mb_most": max(size),
        "mb_per_hour": slope,
        "mb_per_1000_runs": 1000 * (late[-1][2] - late[0][2]) / max(1, late[-1][1] - late[0][1]),
        "curve": [[round(s, 2), n, round(mb, 3)] for s, n, mb in curve[::step]],
    }


def resumed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: one training in so many pieces, in this process or each in a new one, against one without a stop."""
    pieces, each = settings["pieces"], settings["steps_each"]
    steps = pieces * each
    with tempfile.TemporaryDirectory() as scratch:
        straight, cut = Path(scratch) / "straight", Path(scratch) / "cut"
        for folder in (straight, cut):
            folder.mkdir()
            write_points(folder / DATA)
        inside(lambda: training(steps), straight)
        started = time.monotonic()
        piece = _in_process if settings["as"] == "process" else inside
        for _ in range(pieces):
            piece(lambda: training(steps, stop_after=each), cut)
        piece(lambda: training(steps), cut)  # the last was stopped after the last step: this one ends the run
        other = differing(contents(straight), contents(cut))
        return {"pieces": pieces, "steps": steps, "differing": other, "seconds_in_pieces": time.monotonic() - started}


def _in_process(work: Callable[[], None], folder: Path) -> None:
    """The work in a process of its own."""
    ended = Child(work, folder).wait()
    if ended.code:
        raise RuntimeError(f"a piece ended with {ended.code}: {ended.said[-2000:]}")
