"""Times of a fixed-step solve.

A grid is half-open step by step: step n covers (t_n, t_{n+1}], begins where the last one ended and ends exactly on
its grid point, so the lengths of the steps add up to t1 − t0 and no evaluation lies outside the interval. Requested
times are found by order and index, never by equality of floats, and may be repeated.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from advect.errors import ConfigError, ShapeError
from advect.typing import Schedule

_HALVINGS = 52  # bisection of (0, 1) to rounding


@dataclass(frozen=True)
class Grid:
    """Strictly monotone times, in either direction.

    Args:
        times: At least two finite numbers, rising or falling.

    Raises:
        ConfigError: Fewer than two times, a non-finite one, or a change of direction.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", _numbers(self.times))
        if len(self.times) < 2:
            raise ConfigError(
                f"a grid needs at least two points, got {len(self.times)}",
                where="grid",
                remedy="Give its first and last time.",
            )
        if not all(math.isfinite(t) for t in self.times):
            raise ConfigError("a grid point is not finite", where="grid", remedy="Give finite times.")
        if any((b - a) * self.direction <= 0 for a, b in pairwise(self.times)):
            raise ConfigError(
                "the grid is not strictly monotone",
                where="grid",
                remedy="Sort its points from the first time to the last and remove repeated ones.",
            )

    @property
    def direction(self) -> int:
        """+1 for rising times, −1 for falling ones."""
        return 1 if self.times[-1] > self.times[0] else -1

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    def span(self, step: int) -> tuple[float, float]:
        """First and last time of a step."""
        return self.times[step], self.times[step + 1]

    def stage_time(self, step: int, fraction: float) -> float:
        """The time at ``fraction`` in [0, 1] of a step; its ends are exact."""
        start, end = self.span(step)
        if fraction == 0.0:
            return start
        return end if fraction == 1.0 else start + fraction * (end - start)

    def locate(self, times: Sequence[float]) -> list[list[tuple[int, float]]]:
        """For each step the requested times it covers, as (index, fraction of the step).

        One list more than steps: the first one holds the requests at the start, whose fraction is 0.
        """
        covered: list[list[tuple[int, float]]] = [[] for _ in self.times]
        rising = [t * self.direction for t in self.times]
        for index, t in enumerate(times):
            place = min(bisect_left(rising, t * self.direction), self.steps)
            if place == 0:
                covered[0].append((index, 0.0))
                continue
            start, end = self.span(place - 1)
            covered[place].append((index, 1.0 if t == end else (t - start) / (end - start)))
        return covered


def uniform(t0: float, t1: float, steps: int) -> Grid:
    """``steps`` equal steps from ``t0`` to ``t1``, both exact.

    >>> uniform(0.0, 0.5, 2).times
    (0.0, 0.25, 0.5)
    """
    check_steps(steps)
    inner = (t0 + (t1 - t0) * n / steps for n in range(1, steps))
    return Grid((float(t0), *inner, float(t1)))


def stretched(points: Sequence[float], t0: float, t1: float) -> Grid:
    """Normalised points from 0 to 1 laid over the interval from ``t0`` to ``t1``, both exact."""
    inner = (t0 + (t1 - t0) * p for p in points[1:-1])
    return Grid((float(t0), *inner, float(t1)))


def times_of_log_ratio(schedule: Schedule, log_ratios: Sequence[float]) -> list[float]:
    """The times at which log(α/σ) has these values."""
    if not log_ratios:
        return []
    return schedule.time_of_log_snr(2 * torch.tensor(log_ratios, dtype=torch.float64)).detach().tolist()


def share_points(schedule: Schedule, steps: int, t0: float = 0.0, t1: float = 1.0) -> tuple[float, ...]:
    """Normalised times of a solve from ``t0`` to ``t1`` that are uniform in ω = α/(α + σ).

    On any schedule these are the points that equal steps take on the linear path. For ``grid=`` of a fixed solver.

    Raises:
        ConfigError: ``steps`` below one, or a schedule on which α/σ does not move strictly from ``t0`` to ``t1``.
    """
    check_steps(steps)
    first, last = (1 / (1 + _ratio(schedule, t)) for t in (t0, t1))
    shares = (first + (last - first) * n / steps for n in range(1, steps))
    return _normalised(times_of_log_ratio(schedule, [math.log(w) - math.log1p(-w) for w in shares]), t0, t1)


def blended_points(
    schedule: Schedule, steps: int, t0: float = 0.0, t1: float = 1.0, *, own_clock: float = 1 / 3
) -> tuple[float, ...]:
    """Normalised times of a solve that are uniform in a mean of ω = α/(α + σ) and time, each running from 0 to 1.

    On the linear path both are the same. Equal steps in ω are right where D and E bend as functions of ω; the own clock
    of a schedule spends time where its authors found that networks want it: VP and DDPM where α is small.

    Args:
        schedule: α and σ.
        steps: Number of steps.
        t0: First time.
        t1: Last time, on either side.
        own_clock: Part of time in the mean, from 0 (`share_points`) to 1 (even steps).

    Raises:
        ConfigError: ``steps`` below one, ``own_clock`` outside [0, 1], or a schedule on which α/σ does not move
            strictly from ``t0`` to ``t1``.
    """
    check_steps(steps)
    if not 0 <= own_clock <= 1:
        raise ConfigError(f"own_clock is {own_clock}", where="grid", remedy="Give a part from 0 to 1.")

    def passed(point: Tensor) -> Tensor:
        time = t0 + (t1 - t0) * point
        alpha, sigma = (torch.as_tensor(f(time)).detach() for f in (schedule.alpha, schedule.sigma))
        share = alpha / (alpha + sigma)
        first, last = (1 / (1 + _ratio(schedule, t)) for t in (t0, t1))
        return own_clock * point + (1 - own_clock) * (share - first) / (last - first)

    wanted = torch.arange(1, steps, dtype=torch.float64) / steps
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = passed(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return Grid((0.0, *((low + high) / 2).tolist(), 1.0)).times


def edm_points(
    schedule: Schedule,
    steps: int,
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    rho: float = 7.0,
    lowest: float = 0.002,
    highest: float = 80.0,
) -> tuple[float, ...]:
    """Normalised times that are uniform in ς^(1/ρ), ς = σ/α (Karras et al. 2206.00364, equation 5).

    The levels of noise run between ``highest`` and ``lowest``. Where the ends of the solve lie beyond these, the first
    step leads from the noisier end to ``highest`` and the last one from ``lowest`` to the cleaner end; both count as
    steps. For ``grid=`` of a fixed solver, in either direction of time.

    Raises:
        ConfigError: ``steps`` below one, ``rho`` or the levels not positive and in order, or a schedule on which α/σ
            does not move strictly from ``t0`` to ``t1``.
    """
    check_steps(steps)
    if not (rho > 0 and 0 < lowest < highest):
        raise ConfigError(
            f"rho = {rho}, lowest = {lowest}, highest = {highest}",
            where="grid",
            remedy="Give a positive rho and 0 < lowest < highest, such as 7, 0.002 and 80.",
        )
    noisy, clean = sorted((_ratio(schedule, t) for t in (t0, t1)), reverse=True)
    jumps = (noisy > highest) + (clean < lowest)
    top, bottom = (min(max(level, lowest), highest) ** (1 / rho) for level in (noisy, clean))
    inner = max(steps - jumps, 1)
    levels = [(top + (bottom - top) * n / inner) ** rho for n in range(inner + 1)]
    kept = levels[noisy <= highest : len(levels) - (clean >= lowest)][: steps - 1]
    times = times_of_log_ratio(schedule, [-math.log(level) for level in kept])
    return _normalised(times if t1 > t0 else times[::-1], t0, t1)


def _ratio(schedule: Schedule, t: float) -> float:
    """σ/α, infinite where α = 0."""
    time = torch.tensor(t, dtype=torch.float64)
    of_data, of_source = float(schedule.alpha(time)), float(schedule.sigma(time))
    return of_source / of_data if of_data > 0 else math.inf


def _normalised(inner: Sequence[float], t0: float, t1: float) -> tuple[float, ...]:
    """Inner times of a solve as fractions of it, between 0 and 1, checked to rise."""
    points = (0.0, *((t - t0) / (t1 - t0) for t in inner), 1.0)
    return Grid(points).times


def check_steps(steps: object) -> None:
    """Refuse anything but a whole number of at least one."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(
            f"steps must be a whole number of at least 1, got {steps!r}",
            where="steps",
            remedy="Give the number of steps to take.",
        )


def check_points(steps: int | None, points: Tensor | Sequence[float] | None) -> tuple[float, ...] | None:
    """Check the one way a fixed solver is told its steps; return normalised points, or None for equal steps.

    Raises:
        ConfigError: Both or neither of ``steps`` and ``points`` given, ``steps`` below one, or points that do not
            rise strictly from 0 to 1.
    """
    if (steps is None) == (points is None):
        raise ConfigError(
            "both steps and a grid were given" if points is not None else "neither steps nor a grid was given",
            where="solver",
            remedy="Give either the number of steps or the grid of normalised times from 0 to 1.",
        )
    if points is None:
        check_steps(steps)
        return None
    numbers = _numbers(points)
    checked = Grid(numbers).times
    if checked[0] != 0.0 or checked[-1] != 1.0:
        raise ConfigError(
            f"the grid runs from {checked[0]:g} to {checked[-1]:g}",
            where="grid",
            remedy="Give normalised times that rise from 0 to 1; they are laid over the interval of the solve.",
        )
    return checked


def check_times(times: Tensor | None, t0: float, t1: float) -> list[float] | None:
    """Requested times as numbers inside the interval.

    A time may miss the interval by a rounding of its own dtype (0.7 as float32 is below 0.7); it is moved onto the
    end. Repeated times are allowed.

    Raises:
        ShapeError: ``times`` is not one-dimensional.
        ConfigError: A time outside the interval, or times that do not run from ``t0`` towards ``t1``.
    """
    if times is None:
        return None
    if times.ndim != 1:
        raise ShapeError(
            f"times has shape {tuple(times.shape)}, expected one dimension",
            where="times",
            remedy="Give a 1-D tensor.",
        )
    low, high = min(t0, t1), max(t0, t1)
    slack = 1e-6 * max(abs(low), abs(high), high - low)
    found = _numbers(times)
    outside = [t for t in found if not low - slack <= t <= high + slack]
    if outside:
        raise ConfigError(
            f"the time {outside[0]:g} lies outside the interval from {t0:g} to {t1:g}",
            where="times",
            remedy="Ask for times inside the interval, or widen it.",
        )
    sign = 1 if t1 >= t0 else -1
    if any((b - a) * sign < 0 for a, b in pairwise(found)):
        raise ConfigError(
            f"the times do not run from {t0:g} towards {t1:g}",
            where="times",
            remedy="Sort them in the direction of the solve.",
        )
    return [min(max(t, low), high) for t in found]


def _numbers(points: Tensor | Sequence[float]) -> tuple[float, ...]:
    """Points as plain numbers, whatever they came in."""
    if isinstance(points, Tensor):
        if points.ndim != 1:
            raise ShapeError(
                f"the grid has shape {tuple(points.shape)}, expected one dimension",
                where="grid",
                remedy="Give a 1-D tensor.",
            )
        return tuple(points.detach().to(torch.float64).cpu().tolist())
    return tuple(float(p) for p in points)
