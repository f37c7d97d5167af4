"""Contenders of one task, timed against each other in one process.

Every round runs all contenders in a fresh random order, so that what the machine does besides meets all of them alike.
A ratio is taken inside a round; what is told is the median over the rounds with its quartiles. Each contender runs
as many calls in a round as fill `LEAST` seconds, so that the clock's grain is far below what is timed. Two clocks run:
the wall's, and the processor's, which does not count what other processes took.

Memory is measured apart, in a child process that runs the contender once: how far its resident set rose.
"""

import ctypes
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

LEAST = 0.05
"""Seconds that the calls of one contender fill in one round."""

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Contender:
    """One way to do the task.

    Attributes:
        name: Of the table: ``advect``, ``torchcfm``, ….
        run: Does the task once.
        setting: What it was set to, in words.
        error: Its measured error, in the units the task names; None where all contenders compute one function.
        restart: Called before the clock starts in every round: brings back what `run` wears out.
    """

    name: str
    run: Callable[[], Any]
    setting: str = ""
    error: float | None = None
    restart: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Sample:
    """Seconds of one call, on both clocks."""

    wall: float
    cpu: float


@dataclass
class Race:
    """The samples of all rounds by contender."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def seconds(self, name: str, clock: Clock = "wall") -> float:
        """Median seconds of one call."""
        return statistics.median(getattr(sample, clock) for sample in self.samples[name])

    def ratios(self, name: str, against: str, clock: Clock = "wall") -> list[float]:
        """How many times ``against`` took what ``name`` took, round by round."""
        pairs = zip(self.samples[against], self.samples[name], strict=True)
        return [getattr(theirs, clock) / getattr(ours, clock) for theirs, ours in pairs]

    def ratio(self, name: str, against: str, clock: Clock = "wall") -> dict[str, float]:
        """Median and quartiles of `ratios`."""
        return spread(self.ratios(name, against, clock))


def race(contenders: Sequence[Contender], rounds: int, *, seed: int = 0, least: float = LEAST) -> Race:
    """Time the contenders against each other, in ``rounds`` rounds of shuffled order.

    Args:
        contenders: Of different names. Each runs once before the first round.
        rounds: How many; at least 3 for quartiles that mean something.
        seed: Of the orders.
        least: Seconds that the calls of a contender fill in a round.
    """
    shuffle, calls = random.Random(seed), {}
    result = Race({contender.name: [] for contender in contenders})
    if len(result.samples) < len(contenders):
        raise ValueError("two contenders of one name")
    for contender in contenders:
        _sample(contender, 1)
        calls[contender.name] = max(1, round(least / _sample(contender, 1).wall))
    for _ in range(rounds):
        order = list(contenders)
        shuffle.shuffle(order)
        for contender in order:
            result.samples[contender.name].append(_sample(contender, calls[contender.name]))
    return result


def _sample(contender: Contender, calls: int) -> Sample:
    if contender.restart is not None:
        contender.restart()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        contender.run()
    return Sample((time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls)


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles."""
    values = sorted(values)
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": statistics.median(values), "low": low, "high": high}


def peak_megabytes(contender: Contender) -> float | None:
    """How far the resident set rises above where it stood while the contender runs once, in MB.

    None where the system is not Linux or the contender cannot run in a forked child.
    """
    if sys.platform != "linux":
        return None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # the child never returns: it reports and leaves without any clean-up of its parent's
        try:
            os.close(reading)
            if contender.restart is not None:
                contender.restart()
            before = _resident_from_now()
            contender.run()
            os.write(writing, f"{max(0.0, _status('VmHWM') - before):.3f}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return float(text) if text else None


def _resident_from_now() -> float:
    """The resident set of this process in MB, without freed pages kept for later; its peak is counted anew."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> float:
    """A size of this process in MB, as Linux tells it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


@dataclass(frozen=True)
class Goal:
    """What a task should reach.

    Attributes:
        name: The contender that is judged.
        against: The contender beside it; several mean the fastest of them.
        must: The least ratio, or the greatest where ``at_most``.
        stretch: What would be good.
        at_most: Whether less is better.
        label: In words, for the table.
    """

    name: str
    against: tuple[str, ...]
    must: float
    stretch: float
    at_most: bool = False
    label: str = ""


def task(
    title: str,
    contenders: Sequence[Contender],
    goals: Sequence[Goal] = (),
    *,
    rounds: int,
    clock: Clock = "wall",
    seed: int = 0,
    unit: str = "",
    memory: bool = True,
    least: float = LEAST,
) -> dict[str, Any]:
    """Race the contenders and judge the goals: one block of a row's figures, in plain JSON values.

    Args:
        title: What is done.
        contenders: Who does it; the table keeps their order.
        goals: Judged on ``clock``.
        rounds: Of the race.
        clock: Of the ratios; both clocks are recorded.
        seed: Of the orders.
        unit: Of the errors.
        memory: Whether peak memory is measured.
        least: Seconds that the calls of a contender fill in a round.
    """
    memories = {c.name: peak_megabytes(c) if memory else None for c in contenders}
    timed = race(contenders, rounds, seed=seed, least=least)
    return {
        "task": title,
        "rounds": rounds,
        "clock": clock,
        "unit": unit,
        "contenders": {
            c.name: {
                "setting": c.setting,
                "error": c.error,
                "wall": timed.seconds(c.name, "wall"),
                "cpu": timed.seconds(c.name, "cpu"),
                "peak_megabytes": memories[c.name],
            }
            for c in contenders
        },
        "goals": [judged(goal, timed, clock) for goal in goals],
    }


def judged(goal: Goal, timed: Race, clock: Clock = "wall") -> dict[str, Any]:
    """The ratio of a goal, and which of its two marks it reached."""
    against = min(goal.against, key=lambda name: timed.seconds(name, clock))
    ratio = timed.ratio(goal.name, against, clock)
    if goal.at_most:  # how many times the other's time is taken, which should be little
        ratio = spread([1 / value for value in timed.ratios(goal.name, against, clock)])
    label = goal.label or f"{goal.name} against {against}"
    return verdict(label, ratio, goal.must, goal.stretch, at_most=goal.at_most) | {"against": against}


def verdict(
    label: str, value: dict[str, float], must: float, stretch: float, *, at_most: bool = False, unit: str = "×"
) -> dict[str, Any]:
    """A measured value beside its marks: ``reached`` is ``stretch``, ``must`` or ``missed``."""
    sign = -1 if at_most else 1
    ranks = [name for name, mark in (("stretch", stretch), ("must", must)) if sign * value["median"] >= sign * mark]
    return {
        "goal": label,
        "value": value,
        "must": must,
        "stretch": stretch,
        "at_most": at_most,
        "unit": unit,
        "reached": ranks[0] if ranks else "missed",
    }


def growth(
    along: str,
    points: Sequence[int],
    make: Callable[[int], Sequence[Contender]],
    *,
    rounds: int = 3,
    clock: Clock = "wall",
    least: float = LEAST,
) -> dict[str, Any]:
    """How the seconds of one call grow along an axis: batch, coordinates, depth, evaluations.

    ``make`` gives the contenders at a point; one that it leaves out at a point is simply not there.
    """
    curve = []
    for at in points:
        contenders = make(at)
        timed = race(contenders, rounds, least=least)
        curve.append({"at": at, "seconds": {c.name: timed.seconds(c.name, clock) for c in contenders}})
    return {"along": along, "clock": clock, "points": curve}
