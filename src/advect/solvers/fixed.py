"""Fixed steps: one table, one loop.

All rows take the same steps, so time is a scalar for the field. A row whose velocity or state stops being finite is
closed with its reason and time and leaves the batch; the others go on as if it had never been there. Dense output at
requested times comes from the table's own interpolant and costs no evaluation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.records import Solution, Status
from advect.solvers.along import Along, System, board
from advect.solvers.grid import Grid, check_points, check_times, stretched, uniform
from advect.solvers.ledger import Evaluation, Ledger, healthy, judge, magnitude_limit, row_numbers
from advect.solvers.tableau import EULER, HEUN, MIDPOINT, RK4_TABLE, Tableau
from advect.typing import Divergence, Field


@dataclass(frozen=True)
class Trial:
    """One step, before it is believed.

    Attributes:
        y: ``(rows, columns)`` at its end.
        evaluations: Those made in this step, in order.
        carry: Slopes that the next step needs, one row each.
        dense: The interpolant: fraction of the step to ``(rows, columns)``.
    """

    y: Tensor
    evaluations: tuple[Evaluation, ...]
    carry: tuple[Tensor, ...]
    dense: Callable[[float], Tensor]

    def take(self, index: Tensor) -> "Trial":
        """The same for some of the rows."""
        return Trial(
            self.y[index],
            self.evaluations,
            tuple(slope[index] for slope in self.carry),
            lambda fraction: self.dense(fraction)[index],
        )


Stepper = Callable[[System, Grid, int, Tensor, tuple[Tensor, ...]], Trial]


@dataclass(frozen=True)
class FixedSolver(ABC):
    """What all solvers on a given grid share: the one way to state steps, and the loop.

    Args:
        steps: Number of equal steps.
        grid: Or the normalised times from 0 to 1, rising, which are laid over the interval of each solve.

    Raises:
        ConfigError: Both or neither given, ``steps`` below one, or a grid that does not rise from 0 to 1.
    """

    steps: int | None = None
    grid: Tensor | Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", check_points(self.steps, self.grid))

    @property
    def num_steps(self) -> int:
        """Steps of one solve, however they were given."""
        return self.steps if self.steps is not None else len(self.grid or ()) - 1

    @property
    def stochastic(self) -> bool:
        """Whether it adds noise of its own, and so asks the field for more than its velocity."""
        return False

    @abstractmethod
    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Take step ``number`` from ``y``, with the ``carry`` of the step before."""

    def laid(self, t0: float, t1: float) -> Grid:
        """The times of one solve."""
        points = self.grid
        assert points is None or not isinstance(points, Tensor)
        return uniform(t0, t1, self.steps or 0) if points is None else stretched(points, t0, t1)

    def prepared(self, system: System, y: Tensor, generator: Generator | None) -> System:
        """The system of one solve from ``y`` with whatever the steps need besides; refuses what they do not offer."""
        return system

    def __call__(
        self,
        field: Field,
        x: Float[Tensor, "batch *event"],
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        times: Tensor | None = None,
        condition: Tensor | None = None,
        divergence: Divergence | None = None,
        generator: Generator | None = None,
        along: tuple[Along, ...] = (),
    ) -> Solution:
        """Integrate ``field`` from ``t0`` to ``t1``, see `advect.typing.Solver`.

        Args:
            field: The velocity; it sees a scalar ``t`` in the dtype of ``x``.
            x: Rows at ``t0``. Half precision is summed up in float32 and returned in half precision.
            t0: First time.
            t1: Last time, on either side.
            times: Where to report ``states``, from ``t0`` towards ``t1``.
            condition: One row per row of ``x``.
            divergence: Integrate the log-determinant too.
            generator: For the probes of a stochastic divergence, and the noise of a stochastic solver.
            along: Other quantities to integrate.
        """
        stops = check_times(times, t0, t1)
        system, y = board(field, x, condition, divergence, generator, along)
        system = self.prepared(system, y, generator)
        ledger = Ledger(y, len(stops or ()))
        if t0 == t1 or y.numel() == 0:
            stand_still(ledger, y, stops)
        else:
            march(self.step, system, y, self.laid(t0, t1), ledger, stops or [])
        return ledger.close(system, times)


def stand_still(ledger: Ledger, y: Tensor, stops: Sequence[float] | None) -> None:
    """A solve over no time, or of no rows: everything stays where it is."""
    rows = row_numbers(y)
    ledger.finish(rows, y)
    for index in range(len(stops or ())):
        ledger.stop(index, rows, y)


def march(step: Stepper, system: System, y: Tensor, grid: Grid, ledger: Ledger, stops: Sequence[float]) -> None:
    """Step through the grid; failing rows are closed and dropped on the way."""
    stops_by_step = grid.locate(stops)
    rows, system, y = drop_unusable(system, y, grid.times[0], ledger)
    carry: tuple[Tensor, ...] = ()
    for index, _ in stops_by_step[0]:
        ledger.stop(index, rows, y)
    number = 0
    while number < grid.steps and rows.numel():
        trial = step(system, grid, number, y, carry)
        ledger.spend(rows, len(trial.evaluations))
        if not all_healthy(trial.y):
            status, at = judge(trial.evaluations, grid.times[number + 1], trial.y)
            bad = status != int(Status.OK)
            ledger.fail(rows[bad], status[bad], at[bad])
            keep = (~bad).nonzero().squeeze(1)
            rows, system, trial = rows[keep], system.take(keep), trial.take(keep)
            if trial.y.requires_grad:
                # Taken again without the failed rows: nothing flows back to them, but zero times a non-finite
                # activation would still turn the gradient of the shared parameters into NaN.
                y, carry = y[keep], tuple(slope[keep] for slope in carry)
                continue
        for index, fraction in stops_by_step[number + 1]:
            ledger.stop(index, rows, trial.y if fraction == 1.0 else trial.dense(fraction))
        y, carry, number = trial.y, trial.carry, number + 1
    ledger.finish(rows, y)


@dataclass(frozen=True)
class RungeKutta(FixedSolver):
    """A fixed solver that is nothing but its table."""

    tableau: ClassVar[Tableau]

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """One Runge–Kutta step; nothing is carried over."""
        start, end = grid.span(number)
        length = end - start
        evaluations: list[Evaluation] = []
        slopes: list[Tensor] = []
        for fraction, row in zip(self.tableau.c, self.tableau.a, strict=True):
            point = advanced(y, row, slopes, length)
            time = grid.stage_time(number, fraction)
            slopes.append(system(time, point))
            evaluations.append((time, point, slopes[-1]))

        def dense(fraction: float) -> Tensor:
            weights = self.tableau.weights_at(torch.tensor(fraction, dtype=torch.float64))
            return advanced(y, [float(w) for w in weights], slopes, length)

        return Trial(advanced(y, self.tableau.b, slopes, length), tuple(evaluations), (), dense)


@dataclass(frozen=True)
class Euler(RungeKutta):
    """y + h f(t, y). Order 1, one evaluation per step."""

    tableau: ClassVar[Tableau] = EULER


@dataclass(frozen=True)
class Midpoint(RungeKutta):
    """y + h f(t + h/2, y + h/2 f(t, y)). Order 2, two evaluations per step, none at the end of the interval."""

    tableau: ClassVar[Tableau] = MIDPOINT


@dataclass(frozen=True)
class Heun(RungeKutta):
    """The trapezoid with an Euler predictor. Order 2, two evaluations per step."""

    tableau: ClassVar[Tableau] = HEUN


@dataclass(frozen=True)
class RK4(RungeKutta):
    """The classic method. Order 4, four evaluations per step."""

    tableau: ClassVar[Tableau] = RK4_TABLE


def advanced(y: Tensor, weights: Sequence[float], slopes: Sequence[Tensor], length: float) -> Tensor:
    """y + length Σ weights_i slopes_i, over the non-zero weights."""
    total = y
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0.0:
            total = total.add(slope, alpha=length * weight) if total is y else total.add_(slope, alpha=length * weight)
    return total


def drop_unusable(system: System, y: Tensor, t0: float, ledger: Ledger) -> tuple[Tensor, System, Tensor]:
    """Close the rows that are not finite to begin with; return the numbers, system and matrix of the others."""
    usable = healthy(y)
    rows = row_numbers(y)
    if bool(usable.all()):
        return rows, system, y
    lost = rows[~usable]
    ledger.fail(lost, torch.full_like(lost, int(Status.BLOW_UP)), torch.full_like(lost, t0, dtype=y.dtype))
    keep = rows[usable]
    return keep, system.take(keep), y[keep]


def all_healthy(y: Tensor) -> bool:
    """Whether every row is; one pass over the matrix and one wait for the device."""
    low, high = y.detach().aminmax()
    if y.is_cpu:  # nobody waits: two numbers are less than four operations
        return max(-low.item(), high.item()) <= magnitude_limit(y.dtype)
    return bool(torch.maximum(-low, high) <= magnitude_limit(y.dtype))
