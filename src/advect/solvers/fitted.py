"""A multistep predictor–corrector whose weights are fitted to one field.

The weights of `Adams3` are exact for polynomials, whatever the field. A trained field is one field: its solutions are
known to any accuracy on a few hundred rows, and the best weights for *them* are a least-squares problem of half a dozen
numbers. Step n, from states and slopes it has (f₀ … f_n at predicted points),

    predict    p = a y_n + b x(t₀) + Σ c_j f_{n−j}                    fitted to x(t_{n+1})
    evaluate   f_{n+1} = v(t_{n+1}, p)
    correct    y_{n+1} = a' y_n + b' x(t₀) + c' f_{n+1} + Σ c'_j f_{n−j}      fitted to x(t_{n+1})

with four slopes each, so that one evaluation per step and one at the start are all it takes. Adams and exponential
integrators (DDIM, DPM-Solver++, the straightened path) are of this form with weights from theory; coefficients from
trajectories of the field itself are the idea of bespoke solvers (Shaul et al. 2310.19075; Frankel et al. 2502.17423).
Each fit knows what the steps before it did, so errors are mended as far as the span allows. The times are moved too,
one after another, as long as the error at the end falls.

Rows of the fit and rows of use should come from one law. The weights are sums over rows and coordinates with no row of
their own, so a row's result does not depend on its neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, UnsupportedError
from advect.records import Solution, Status
from advect.solvers.adaptive import Adaptive
from advect.solvers.along import System, board
from advect.solvers.fixed import FixedSolver, Trial
from advect.solvers.grid import Grid, check_steps
from advect.solvers.ledger import Evaluation
from advect.typing import Field, Solver

MEMORY = 4  # slopes in one sum
CELLS = 64  # times of the grid lie on this lattice while they are fitted
MOVES = (4, 2, 1)  # lattice cells a time is moved by, coarse first
RIDGE = 1e-8  # of the mean square of a column: states and slopes of neighbouring times are nearly collinear
REFERENCE_TOLERANCE = 1e-6

Weights = tuple[float, ...]
Combine = Callable[[int, str, list[Tensor]], Tensor]


@dataclass(frozen=True)
class FittedMultistep(FixedSolver):
    """The steps described above, with weights from `fit_multistep`. Sampling only, between the times of the fit.

    Attributes:
        weights: Of each step: those of the predictor and those of the corrector, in the order state, start (from the
            second step on), newest slope first.
        ends: First and last time of the fit.
        error: Root mean square over rows and coordinates, on the rows of the fit, of the distance from the reference.

    Raises:
        UnsupportedError: In a solve with a divergence or other quantities on board.
        ConfigError: In a solve between other times.
    """

    weights: tuple[tuple[Weights, Weights], ...] = ()
    ends: tuple[float, float] = (0.0, 1.0)
    error: float = float("nan")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.weights) != self.num_steps:
            raise ConfigError(
                f"{len(self.weights)} pairs of weights were given for {self.num_steps} steps",
                where="FittedMultistep",
                remedy="Make it with fit_multistep.",
            )

    def laid(self, t0: float, t1: float) -> Grid:
        """The times of one solve, which are those of the fit."""
        if max(abs(t0 - self.ends[0]), abs(t1 - self.ends[1])) > 1e-9:
            raise ConfigError(
                f"The weights were fitted between {self.ends[0]:g} and {self.ends[1]:g}, not {t0:g} and {t1:g}",
                where="FittedMultistep",
                remedy="Fit weights for these times with fit_multistep, or take Adams3.",
            )
        return super().laid(t0, t1)

    def prepared(self, system: System, y: Tensor, generator: Generator | None) -> System:
        """Refuse passengers: the weights are those of the state."""
        if system.divergence is not None or system.along:
            raise UnsupportedError(
                "The weights are fitted to the state and integrate nothing else",
                where="FittedMultistep",
                remedy="Take Adams3Quadrature or the adaptive solver for log-determinants.",
            )
        return system

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Predict, evaluate, correct; ``carry`` holds the start and up to four slopes, newest first."""

        def combine(number: int, which: str, columns: list[Tensor]) -> Tensor:
            return _combined(self.weights[number][which == "correct"], columns)

        return _step(system, grid, number, y, carry, combine)


def fit_multistep(
    field: Field,
    x: Float[Tensor, "batch *event"],
    steps: int,
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    condition: Tensor | None = None,
    reference: Solver | None = None,
    exact: Field | None = None,
    move_times: bool = True,
) -> FittedMultistep:
    """Weights and times for ``field``, fitted on rows it will meet.

    Args:
        field: The velocity that the solver will be used on.
        x: Rows at ``t0``, a few hundred from the source; rows that the reference cannot follow are left out.
        steps: Number of steps; the field is evaluated once more than that.
        t0: First time.
        t1: Last time, on either side.
        condition: One row per row of ``x``.
        reference: A solver that reports states at given times; by default the adaptive one at 1e-6.
        exact: The field of the reference where ``field`` is a rounded form of it; by default the same.
        move_times: Look for better times than equal ones, at some hundred solves of the rows.

    Raises:
        ConfigError: ``steps`` below one or above 64, or no row that the reference follows to its end.
    """
    check_steps(steps)
    if steps > CELLS:
        raise ConfigError(f"steps is {steps}", where="fit_multistep", remedy=f"Choose at most {CELLS}, or take Adams3.")
    with torch.no_grad():
        solver = reference or Adaptive(rtol=REFERENCE_TOLERANCE, atol=REFERENCE_TOLERANCE)
        lattice = torch.linspace(t0, t1, CELLS + 1, dtype=torch.float64)
        solution = solver(exact or field, x, t0, t1, times=lattice, condition=condition)
        kept = (solution.status < int(Status.NAN_FIELD)).nonzero().squeeze(1)
        if not len(kept):
            raise ConfigError(
                "The reference follows no row to its end", where="fit_multistep", remedy="Give other rows."
            )
        given = None if condition is None else condition[kept]
        system, y = board(field, x[kept], given, None, None, ())
        states = _states(solution, kept)
        search = _Search(system, y, lattice.tolist(), states)
        places = [round(i * CELLS / steps) for i in range(steps + 1)]
        found = search.moved(places) if move_times else search.fit(places)
    grid = [(search.times[place] - t0) / (t1 - t0) for place in found.places]
    grid[0], grid[-1] = 0.0, 1.0
    return FittedMultistep(grid=grid, weights=found.weights, ends=(t0, t1), error=found.error)


@dataclass(frozen=True)
class _Fit:
    """Lattice places of the times, weights, and the error at the end."""

    places: tuple[int, ...]
    weights: tuple[tuple[Weights, Weights], ...]
    error: float


@dataclass(frozen=True)
class _Search:
    """Fits on one set of rows: ``states`` ``(times, rows, columns)`` of the reference from ``start``."""

    system: System
    start: Tensor
    times: list[float]
    states: Tensor

    def fit(self, places: list[int]) -> _Fit:
        """The weights for these times, step by step."""
        grid = Grid(tuple(self.times[place] for place in places))
        weights: list[list[Weights]] = [[] for _ in range(grid.steps)]

        def combine(number: int, which: str, columns: list[Tensor]) -> Tensor:
            weights[number].append(_least_squares(columns, self.states[places[number + 1]]))
            return _combined(weights[number][-1], columns)

        y, carry = self.start, ()
        for number in range(grid.steps):
            trial = _step(self.system, grid, number, y, carry, combine)
            y, carry = trial.y, trial.carry
        error = float((y - self.states[-1]).square().mean().sqrt())
        return _Fit(tuple(places), tuple((first, second) for first, second in weights), error)

    def moved(self, places: list[int]) -> _Fit:
        """The same with each inner time moved along the lattice as long as the error falls."""
        best = self.fit(places)
        for size in MOVES:
            better = True
            while better:
                better = False
                for index in range(1, len(places) - 1):
                    for by in (-size, size):
                        tried = list(best.places)
                        tried[index] += by
                        if not tried[index - 1] < tried[index] < tried[index + 1]:
                            continue
                        found = self.fit(tried)
                        if found.error < best.error:
                            best, better = found, True
        return best


def _step(system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...], combine: Combine) -> Trial:
    """One step with sums from ``combine``; the interpolant is the cubic through both ends and their slopes."""
    start, end = grid.span(number)
    evaluations: list[Evaluation] = []
    if number == 0:
        carry = (y, system(start, y))
        evaluations.append((start, y, carry[1]))
    first, *slopes = carry
    known = [y, first] if number else [y]
    predicted = combine(number, "predict", [*known, *slopes])
    newest = system(end, predicted)
    evaluations.append((end, predicted, newest))
    slopes = [newest, *slopes][:MEMORY]
    arrived = combine(number, "correct", [*known, newest, *carry[1:]])
    length = end - start

    def dense(fraction: float) -> Tensor:
        s, r = fraction, 1 - fraction
        ends = y * (r * r * (1 + 2 * s)) + arrived * (s * s * (1 + 2 * r))
        return ends + length * (carry[1] * (s * r * r) - newest * (s * s * r))

    return Trial(arrived, tuple(evaluations), (first, *slopes), dense)


def _combined(weights: Weights, columns: list[Tensor]) -> Tensor:
    """Σ weights · columns."""
    total = columns[0] * weights[0]
    for weight, column in zip(weights[1:], columns[1:], strict=True):
        total = total.add_(column, alpha=weight)
    return total


def _least_squares(columns: list[Tensor], target: Tensor) -> Weights:
    """Weights that bring Σ weights · columns nearest to ``target``, over rows and coordinates alike, in float64."""
    flat = torch.stack([column.flatten() for column in columns]).double()
    sizes = flat.square().mean(1).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    flat = flat / sizes.unsqueeze(1)
    gram = flat @ flat.T / flat.shape[1] + RIDGE * torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    wanted = flat @ target.flatten().double() / flat.shape[1]
    return tuple((torch.linalg.solve(gram, wanted) / sizes).tolist())


def _states(solution: Solution, kept: Tensor) -> Tensor:
    """States of the rows that are kept, one matrix for each time, in the precision a solver sums in."""
    assert solution.states is not None
    states = solution.states[:, kept].flatten(2) if solution.states.ndim > 2 else solution.states[:, kept].unsqueeze(2)
    return states.to(torch.promote_types(states.dtype, torch.float32))
