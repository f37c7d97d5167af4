"""What the solvers of affine paths share: a schedule, and both ends of the path read off a velocity.

On x_t = α(t) x1 + σ(t) x0 a point is made of D = E[x1|x] and E = E[x0|x], and so is the velocity:

    x = αD + σE,   v = α'D + σ'E,   hence   D = (σv − σ'x)/R,   E = (α'x − αv)/R   with R = α'σ − ασ' > 0.

Everything here is written for the end *ahead* of the solve, with weight a, and the end *behind* it, with weight b: for
rising time a = α and b = σ, for falling time the other way round. The formulas are the same, so one solver moves both
ways. With A the expectation of the end ahead, dividing by b leaves the only thing to integrate,

    d(x/b) = A d(a/b),        x_t = (b_t/b_s) x_s + b_t ∫ A d(a/b),

and with A held fixed x_t = (b_t/b_s) x_s + (a_t − a_s b_t/b_s) A. All of it is finite where a = 0, at the start, and
where b = 0, at the end: there x_t is A itself, and the velocity is never asked for. All weights are float64 numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, UnsupportedError
from advect.solvers.along import System
from advect.solvers.fixed import FixedSolver
from advect.solvers.grid import Grid, share_points, stretched
from advect.solvers.ledger import Evaluation
from advect.typing import Field, Schedule

# A weight that should be 0 may come out of a trigonometric function a few units of rounding below it.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Mark:
    """One time of an affine path, as numbers.

    Attributes:
        time: The time.
        ahead: Weight a of the end that the solve moves towards.
        behind: Weight b of the end it comes from.
        ahead_rate: da/dt.
        behind_rate: db/dt.
    """

    time: float
    ahead: float
    behind: float
    ahead_rate: float
    behind_rate: float

    @property
    def log_ratio(self) -> float:
        """log(a/b), rising along the solve; −∞ where a = 0, +∞ where b = 0."""
        if self.ahead == 0.0:
            return -math.inf
        return math.inf if self.behind == 0.0 else math.log(self.ahead) - math.log(self.behind)

    @property
    def remainder(self) -> float:
        """1 − ω = b/(a + b), without cancellation."""
        return self.behind / (self.ahead + self.behind)

    @property
    def share(self) -> float:
        """ω = a/(a + b), from 0 to 1 along a whole path; the linear path's own clock."""
        return self.ahead / (self.ahead + self.behind)

    @property
    def tells_ends(self) -> bool:
        """Whether a velocity here determines both ends: R and both rates are finite, and R is not 0."""
        rate = self.ahead_rate * self.behind - self.ahead * self.behind_rate
        return math.isfinite(rate) and rate != 0.0 and math.isfinite(self.ahead_rate + self.behind_rate)

    def ends(self, x: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """Expected end ahead and expected end behind of points ``(rows, columns)`` with these velocities."""
        a, b, da, db, rate = self.ahead, self.behind, self.ahead_rate, self.behind_rate, self._rate
        return mixed(x, -db / rate, velocity, b / rate), mixed(x, da / rate, velocity, -a / rate)

    def end_ahead(self, x: Tensor, velocity: Tensor) -> Tensor:
        """The first of `ends` alone."""
        return mixed(x, -self.behind_rate / self._rate, velocity, self.behind / self._rate)

    @property
    def _rate(self) -> float:
        """±R.

        Raises:
            UnsupportedError: It is 0 or not finite, so that the velocity here does not tell the ends apart.
        """
        rate = self.ahead_rate * self.behind - self.ahead * self.behind_rate
        if self.tells_ends:
            return rate
        raise UnsupportedError(
            f"the schedule has α'σ − ασ' = {rate:g} at t = {self.time:g}: the velocity does not tell data from noise",
            where="schedule",
            remedy="Start the solve a little later, or take a solver of the velocity itself, such as 'adams3'.",
        )


def mixed(x: Tensor, of_x: float, y: Tensor, of_y: float) -> Tensor:
    """of_x·x + of_y·y."""
    return x.mul(of_x).add(y, alpha=of_y)


def carried(x: Tensor, ahead: Tensor, start: Mark, end: Mark) -> Tensor:
    """x at ``end`` from x at ``start`` with the end ahead held at ``ahead`` in between."""
    kept = end.behind / start.behind
    return mixed(x, kept, ahead, end.ahead - kept * start.ahead)


def read(schedule: Schedule, times: Sequence[float], direction: int) -> tuple[Mark, ...]:
    """The weights of a schedule at some times, for a solve in this direction of time (+1 or −1).

    Raises:
        ConfigError: A weight is negative or not finite at one of them, or both vanish.
    """
    if not times:
        return ()
    time = torch.tensor(times, dtype=torch.float64)
    found = (schedule.alpha, schedule.sigma, schedule.alpha_derivative, schedule.sigma_derivative)
    columns = [torch.as_tensor(function(time)).detach().expand(time.shape).tolist() for function in found]
    marks = []
    for t, of_data, of_source, data_rate, source_rate in zip(times, *columns, strict=True):
        alpha, sigma = (0.0 if -_ROUNDING < weight < 0 else weight for weight in (of_data, of_source))
        if not (0 <= alpha < math.inf and 0 <= sigma < math.inf and alpha + sigma > 0):
            raise ConfigError(
                f"the schedule has α = {alpha:g} and σ = {sigma:g} at t = {t:g}",
                where="schedule",
                remedy="Solve inside the interval on which both are finite and not negative, usually from 0 to 1.",
            )
        weights = (alpha, sigma, data_rate, source_rate)
        marks.append(Mark(t, *weights) if direction > 0 else Mark(t, sigma, alpha, source_rate, data_rate))
    return tuple(marks)


@dataclass(frozen=True)
class Track:
    """A grid on its schedule.

    Attributes:
        grid: The times of the solve.
        marks: One per time of the grid.
        between: One more per step, for the solvers that ask for one.
    """

    grid: Grid
    marks: tuple[Mark, ...]
    between: tuple[Mark, ...]


def look(system: System, at: Mark, x: Tensor) -> tuple[Tensor, Evaluation]:
    """One evaluation of the field, read as the end ahead."""
    velocity = system(at.time, x)
    return at.end_ahead(x, velocity), (at.time, x, velocity)


def short_of_its_end(field: Field, time: float, direction: int) -> bool:
    """Whether a field's own interval (0 to 1 where it has none) stops at ``time``, short of the path's end.

    It stops there because what the network predicts says nothing about the velocity at the end itself, and ever less on
    the way: an evaluation at the edge is the worst there is.
    """
    first, last = getattr(field, "interval", (0.0, 1.0))
    return last < 1.0 and time >= last if direction > 0 else first > 0.0 and time <= first


@dataclass(frozen=True)
class AffineSolver(FixedSolver):
    """A solver with fixed steps that knows the schedule of the path its field belongs to.

    Args:
        steps: Number of steps, equal in ω = α/(α + σ): the points that equal steps take on the linear path. On it
            they are equal in time.
        grid: Or the normalised times from 0 to 1.
        schedule: α and σ of the affine path that the velocity was learnt on, or is exact for.

    Raises:
        ConfigError: As `FixedSolver`, or no schedule; in a solve, weights that are negative or not finite, or an α/σ
            that does not grow with time.
        UnsupportedError: In a solve: a divergence or a quantity along the way was asked for, or the velocity does not
            determine the ends where it is needed (R = 0 or not finite).
    """

    schedule: Schedule = field(kw_only=True)
    # The track of the latest solve. Every solve lays a grid of its own, so it is never that of another schedule.
    _latest: list[Track] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.schedule, Schedule):
            raise ConfigError(
                f"{self.schedule!r} is no schedule",
                where=type(self).__name__,
                remedy="Give an object with alpha, sigma, their derivatives, log_snr and time_of_log_snr, such as "
                "advect.paths.Linear().",
            )

    def prepared(self, system: System, y: Tensor, generator: Generator | None) -> System:
        """Only the state travels."""
        if system.divergence is not None or system.along:
            raise UnsupportedError(
                f"{type(self).__name__} moves the state alone: no log-determinant, and nothing else along the way",
                where="solver",
                remedy="Take a solver of the velocity itself, such as 'dopri5' or 'adams3'.",
            )
        return system

    def laid(self, t0: float, t1: float) -> Grid:
        """Steps that are equal in ω, unless a grid was given."""
        first, last = read(self.schedule, (t0, t1), 1 if t1 > t0 else -1)  # refuses ends outside the path
        # A path that does not move between them is told by `track`, with the place.
        if self.steps is None or not first.ahead * last.behind < last.ahead * first.behind:
            return super().laid(t0, t1)
        points = self.points(self.steps, t0, t1)
        rises = all(a < b for a, b in pairwise(points))
        return stretched(points, t0, t1) if rises else super().laid(t0, t1)

    def points(self, steps: int, t0: float, t1: float) -> tuple[float, ...]:
        """Normalised times of ``steps`` steps, where no grid was given."""
        return share_points(self.schedule, steps, t0, t1)

    def extra_times(self, grid: Grid, marks: tuple[Mark, ...]) -> Sequence[float]:
        """One more time per step at which the solver evaluates; none by default."""
        return ()

    def track(self, grid: Grid) -> Track:
        """The grid of a solve on the schedule, looked up once per solve.

        Raises:
            ConfigError: The weight of the end ahead does not grow against the other.
        """
        if not self._latest or self._latest[0].grid is not grid:
            marks = read(self.schedule, grid.times, grid.direction)
            for start, end in pairwise(marks):
                if not end.ahead * start.behind > start.ahead * end.behind:
                    raise ConfigError(
                        f"α/σ does not grow with time between t = {start.time:g} and {end.time:g}",
                        where="schedule",
                        remedy="Solve inside an interval on which the path moves from source to data.",
                    )
            between = read(self.schedule, self.extra_times(grid, marks), grid.direction)
            self._latest[:] = [Track(grid, marks, between)]
        return self._latest[0]

    def marks(self, grid: Grid, number: int) -> tuple[Mark, Mark]:
        """Both ends of a step."""
        start, end = self.track(grid).marks[number : number + 2]
        return start, end

    def inside(self, grid: Grid, number: int, fraction: float) -> Mark:
        """The weights at a fraction of a step, for dense output."""
        return read(self.schedule, [grid.stage_time(number, fraction)], grid.direction)[0]
