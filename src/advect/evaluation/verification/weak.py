"""The continuity equation in weak form, from samples alone.

∂_t p + div(p u) = 0 means d/dt E f(x_t) = E ∇f(x_t)·u_t(x_t) for every smooth f. Integrated over a window,

    E[f(x_b) − f(x_a)] = (b − a) E_{t ~ U(a,b)} ∇f(x_t)·u_t(x_t),

which needs no derivative in time and no density: every row gives an independent draw of the difference of both sides,
whose mean is zero and whose spread gives the error. With f of x and of the pair this is the law given the pair; with f
of x and x1 the law given the data row; with f of x alone the law on the whole, for the rows at hand. One of them is
enough: a field is not unique, and what differs by w with div(p w) = 0 on one level is as right as any.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from advect.evaluation.verification.functions import BUMPS, SINES, TestFunctions
from advect.evaluation.verification.probe import Drawn, Probe, generator_of
from advect.evaluation.verification.record import FAIL, NOTE, PASS, SKIPPED, Check
from advect.evaluation.verification.statistics import ZeroMeans, reason_of, zero_means

LAW = "continuity (weak form)"
WINDOWS = 8
FIRST, LAST = 0.01, 0.99  # velocities of bridges have no finite variance at the very ends
TESTS = WINDOWS * (SINES + BUMPS)
Mend = Callable[[Drawn, Probe], Tensor]

LEVELS = {
    "pair": "given each pair (x0, x1)",
    "data": "given each data row x1",
    "marginal": "on the whole, for these rows and pairs",
}


@dataclass(frozen=True)
class Window:
    """Points at both ends of a window of time and in between, of the same pairs and noise."""

    before: Drawn
    inside: Drawn
    after: Drawn


@dataclass(frozen=True)
class Found:
    """How the law stands at one level.

    Attributes:
        holds: Whether chance explains all averages.
        worst: The worst window's averages.
        t: Its time.
        x: Where the worst test function stands, or None.
    """

    holds: bool
    worst: ZeroMeans
    t: float
    x: tuple[float, ...] | None


def draw_windows(probe: Probe) -> list[Window]:
    """The points the law is tried on."""
    edges = torch.linspace(FIRST, LAST, WINDOWS + 1, dtype=torch.float64).tolist()
    generator = generator_of(probe.seed, "times")
    windows = []
    for a, b in pairwise(edges):
        share = torch.rand(probe.rows, generator=generator, dtype=torch.float64)
        times = (torch.full_like(share, a), a + (b - a) * share, torch.full_like(share, b))
        windows.append(Window(*(probe.draw(t) for t in times)))
    return windows


def weak_law(probe: Probe, windows: list[Window], level: str, mend: Mend | None = None) -> Found:
    """Try the law at one level of `LEVELS`, on the drawn velocities or on mended ones."""
    given = {"pair": (probe.x0, probe.x1), "data": (probe.x1,), "marginal": ()}[level]
    flat = tuple(rows.flatten(1) if rows.ndim > 1 else rows[:, None] for rows in given)
    generator = generator_of(probe.seed, "test functions")
    founds = []
    for window in windows:
        velocity = window.inside.velocity if mend is None else mend(window.inside, probe)
        a, b = float(window.before.t[0]), float(window.after.t[0])
        before, inside, after, moved = (_flat(x) for x in (window.before.x, window.inside.x, window.after.x, velocity))
        functions = TestFunctions.draw(inside, flat, generator)
        change = functions.values(after) - functions.values(before)
        carried = (b - a) * functions.along(inside, moved)
        if not bool((change - carried).isfinite().all()):
            return Found(False, ZeroMeans(0, math.inf, math.nan, math.nan, 0.0), (a + b) / 2, None)
        size = (change.abs() + carried.abs()).mean(0)
        means = zero_means(change - carried, size, TESTS)
        founds.append(Found(means.holds, means, (a + b) / 2, functions.centre(means.worst)))
        if mend is not None and not means.holds:  # of a mend no more is asked than whether it restores the law
            break
    holds = all(found.holds for found in founds)
    worst = max(founds, key=lambda found: (not found.holds, found.worst.ratio))
    return Found(holds, worst.worst, worst.t, worst.x)


def level_that_holds(probe: Probe, windows: list[Window], mend: Mend | None = None) -> tuple[str | None, Found]:
    """The strictest level at which the law holds, or None with the findings on the whole."""
    *stricter, last = LEVELS
    for level in stricter:
        found = weak_law(probe, windows, level, mend)
        if found.holds:
            return level, found
    found = weak_law(probe, windows, last, mend)
    return (last if found.holds else None), found


def weak_check(probe: Probe, windows: list[Window]) -> tuple[Check, str | None]:
    """Whether the velocities that come with the samples carry them, and the strictest level where they do."""
    if not probe.can_sample:
        return Check(LAW, SKIPPED, "the path draws no samples"), "pair"
    level, found = level_that_holds(probe, windows)
    return _check(level, found), level


def _check(level: str | None, found: Found) -> Check:
    worst = found.worst
    if math.isinf(worst.ratio):
        message = f"points or velocities are not finite near t = {found.t:.3g}"
        return Check(LAW, FAIL, message, t=found.t, fix="Find the division, root or logarithm that has no value there.")
    measured = {
        "value": abs(worst.mean),
        "error": worst.error,
        "tolerance": worst.limit * worst.error,
        "reason": reason_of(worst.limit, TESTS),
    }
    if level is None:
        message = (
            f"the samples do not move with the velocities that come with them: off by {abs(worst.mean):.2g} of the "
            f"motion, {worst.ratio:.0f} standard errors"
        )
        return Check(LAW, FAIL, message, t=found.t, x=found.x, **measured)
    status = NOTE if level == "marginal" else PASS
    remark = "; with other rows or another coupling it need not" if level == "marginal" else ""
    return Check(LAW, status, f"d/dt E f(x_t) = E ∇f·u holds {LEVELS[level]}{remark}", t=found.t, **measured)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)
