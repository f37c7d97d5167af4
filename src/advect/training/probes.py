"""Figures of the averaged weights on the way, within a share of the training time.

What is measured the workflows hand in; the loop only knows when, and what it may cost. The moments are a function of
the step, and a probe draws the same random numbers at each of them, so that two of its figures compare. Whether there
is time for one is a matter of the clock: figures may be missing, but no step of the training depends on them.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from advect.errors import AdvectError

MOMENTS = 20  # at most, over a training
TRIED = 4  # the first time, a measurement on one of so many rows tells what all of them cost


@runtime_checkable
class Probe(Protocol):
    """Measures the weights as they are now, in evaluation mode.

    Attributes:
        rows: How many rows a measurement takes.
    """

    rows: int

    def __call__(self, rows: int) -> Mapping[str, float]:
        """Figures by name, from the first ``rows`` of the rows."""
        ...


class Probes:
    """Asks probes at a few moments of a training, while each takes no more than its part of a share of the time.

    A measurement is begun when the time that a probe has taken, with what it took the last time, is below its part of
    the time that has gone by. What it costs is unknown at first: then it is tried on a quarter of the rows, the most
    that a training shorter than a measurement loses.

    Args:
        probes: What is measured; each has an equal part of the share, so that a dear one is not at the cost of others.
        share: Of the time since `begin`; 0 measures nothing.
    """

    def __init__(self, probes: Sequence[Probe], share: float) -> None:
        self.share = share
        self._accounts = tuple(_Account(probe, share / len(probes)) for probe in probes)
        self.begin()

    def begin(self) -> None:
        """Time counts from now on."""
        self._began = time.perf_counter()
        for account in self._accounts:
            account.spent = 0.0

    def due(self, step: int, since: int, steps: int) -> bool:
        """Whether one of the moments, which are evenly spaced, lies in the steps after ``since`` up to ``step``."""
        return bool(self._accounts) and self.share > 0 and MOMENTS * step // steps > MOMENTS * since // steps

    def measure(self) -> dict[str, float]:
        """The figures for which there is time; those that cannot be computed are left out."""
        found: dict[str, float] = {}
        for account in self._accounts:
            try:
                found |= account.measure(self._began)
            except AdvectError:  # such as a solver that fails on the field of this moment
                continue
        return found


@dataclass
class _Account:
    """What a probe may cost and has cost, in seconds."""

    probe: Probe
    share: float
    cost: float | None = None
    spent: float = 0.0

    def measure(self, began: float) -> Mapping[str, float]:
        """Figures, if there is time for them."""
        if self.cost is None and self._left(began) > 0:
            self.cost = self._timed(max(self.probe.rows // TRIED, 1))[1] * TRIED
        if self.cost is None or self.cost > self._left(began):
            return {}
        found, self.cost = self._timed(self.probe.rows)
        return found

    def _left(self, began: float) -> float:
        return self.share * (time.perf_counter() - began) - self.spent

    def _timed(self, rows: int) -> tuple[Mapping[str, float], float]:
        started = time.perf_counter()
        try:
            found = self.probe(rows)
        finally:
            seconds = time.perf_counter() - started
            self.spent += seconds
        return found, seconds
