"""The solvers by name: one row each, read by everything that offers a choice."""

from collections.abc import Callable
from dataclasses import dataclass

from advect.errors import ConfigError, unknown_name
from advect.solvers.adaptive import Adaptive
from advect.solvers.fixed import RK4, Euler, Heun, Midpoint
from advect.solvers.multistep import Adams3
from advect.solvers.tableau import BOSH3, DOPRI5, EULER, HEUN, MIDPOINT, RK4_TABLE, TSIT5, Tableau
from advect.typing import Solver

DEFAULT_TOLERANCE = 1e-5
DEFAULT_STEPS = 20


@dataclass(frozen=True)
class SolverEntry:
    """One row of the table.

    Attributes:
        name: As in `make_solver`.
        title: In words.
        order: Of convergence.
        evaluations: Of the field per step; adaptive solvers and `adams3` need one more at the start, adaptive ones
            another for their first step size.
        adaptive: Whether it takes a tolerance instead of steps.
        build: From steps (int) or tolerance (float) to the solver.
        default_steps: Steps where none are given; None where they must be.
    """

    name: str
    title: str
    order: int
    evaluations: int
    adaptive: bool
    build: Callable[..., Solver]
    default_steps: int | None = None


def _pair(table: Tableau, title: str) -> SolverEntry:
    def build(tolerance: float) -> Solver:
        return Adaptive(table.name, rtol=tolerance, atol=tolerance)

    return SolverEntry(table.name, title, table.order, table.stages - 1, True, build)


def _fixed(table: Tableau, title: str, build: Callable[..., Solver]) -> SolverEntry:
    return SolverEntry(table.name, title, table.order, table.stages, False, build)


SOLVERS: dict[str, SolverEntry] = {
    entry.name: entry
    for entry in (
        _fixed(EULER, "Euler", Euler),
        _fixed(MIDPOINT, "explicit midpoint", Midpoint),
        _fixed(HEUN, "Heun (explicit trapezoid)", Heun),
        _fixed(RK4_TABLE, "classic Runge–Kutta", RK4),
        SolverEntry("adams3", "Adams predictor–corrector", 3, 1, False, Adams3, DEFAULT_STEPS),
        _pair(BOSH3, "Bogacki–Shampine 3(2), adaptive per row"),
        _pair(DOPRI5, "Dormand–Prince 5(4), adaptive per row"),
        _pair(TSIT5, "Tsitouras 5(4), adaptive per row"),
    )
}


def make_solver(name: str, *, steps: int | None = None, tolerance: float | None = None) -> Solver:
    """Build a solver by name.

    Args:
        name: A key of `SOLVERS`.
        steps: For solvers with fixed steps; ``adams3`` takes 20 where none are given, the others must be told.
        tolerance: For adaptive solvers, relative and absolute; 1e-5 where none is given.

    Raises:
        UnknownNameError: No such solver; the nearest name is offered.
        ConfigError: ``steps`` for an adaptive solver, ``tolerance`` for a fixed one, no steps, or values out of range.
    """
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    entry = SOLVERS[name]
    if entry.adaptive:
        if steps is not None:
            raise ConfigError(
                f"{name} chooses its own steps and was given steps = {steps}",
                where="solver",
                remedy="Give a tolerance, or take a fixed solver such as 'adams3' or 'rk4'.",
            )
        return entry.build(DEFAULT_TOLERANCE if tolerance is None else tolerance)
    if tolerance is not None:
        raise ConfigError(
            f"{name} takes fixed steps and was given tolerance = {tolerance:g}",
            where="solver",
            remedy="Give the number of steps, or take an adaptive solver such as 'tsit5' or 'dopri5'.",
        )
    steps = entry.default_steps if steps is None else steps
    if steps is None:
        raise ConfigError(
            f"{name} takes fixed steps and was not told how many",
            where="solver",
            remedy=f"Give steps, for example steps={DEFAULT_STEPS}.",
        )
    return entry.build(steps)
