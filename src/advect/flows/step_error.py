"""When fixed steps are too few for a log-density, and how far off they are.

A log-density from few steps is not noisy, it is wrong: it belongs to another map than the one that
samples. Fewer steps than `MINIMUM_STEPS` of the solver's order are refused. A caller who insists gets the
error instead, by Richardson's rule: a method of order p with twice the steps leaves 2⁻ᵖ of the error, so that

    error ≈ |ℓ(h) − ℓ(h/2)| · 2^p / (2^p − 1) .
"""

from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from advect.errors import ConfigError, UnsupportedError
from advect.solvers.adaptive import Adaptive
from advect.solvers.checkpointed import Checkpointed
from advect.solvers.chunks import Chunked
from advect.solvers.fixed import FixedSolver, RungeKutta
from advect.typing import Solver

# Order of the solver to fewest steps: the step to which h^p ≈ 2e-3 … 2e-5, an error of at most about 1e-2
# nats for fields whose time scale is a tenth of the interval.
MINIMUM_STEPS = {1: 512, 2: 64, 3: 32, 4: 16}


def has_few_steps(solver: Solver) -> bool:
    """Whether this is a fixed-step solver (wrapped or not) with fewer than `MINIMUM_STEPS` of its order."""
    solver = _unwrapped(solver)
    return isinstance(solver, FixedSolver) and solver.num_steps < MINIMUM_STEPS[_order(solver)]


def refuse_few_steps(solver: Solver) -> None:
    """Raise `ConfigError` for a solver that `has_few_steps`."""
    solver = _unwrapped(solver)
    if isinstance(solver, FixedSolver) and has_few_steps(solver):
        raise ConfigError(
            f"{type(solver).__name__} with {solver.num_steps} steps is too coarse for a log-density: it would be that "
            "of another map, not a noisy value of the right one",
            where="likelihood_solver",
            remedy=f"Use the adaptive solver, at least {MINIMUM_STEPS[_order(solver)]} steps, or coarse=True, "
            "which reports the error.",
        )


def doubled(solver: Solver) -> Solver:
    """The same fixed-step solver with each of its steps halved."""
    if isinstance(solver, Chunked | Checkpointed):
        return replace(solver, solver=doubled(solver.solver))
    assert isinstance(solver, FixedSolver)
    if solver.grid is None:
        return replace(solver, steps=2 * solver.num_steps)
    points = [float(p) for p in solver.grid]
    middles = [(a + b) / 2 for a, b in pairwise(points)]
    return replace(solver, grid=tuple(sorted([*points, *middles])))


def finer(solver: Solver) -> Solver:
    """The same solver with each of its steps halved, or with a tenth of its tolerances.

    Raises:
        UnsupportedError: A solver with neither.
    """
    if isinstance(solver, Chunked | Checkpointed):
        return replace(solver, solver=finer(solver.solver))
    if isinstance(solver, FixedSolver):
        return doubled(solver)
    if isinstance(solver, Adaptive):
        own = solver.log_det_tolerance
        return replace(
            solver, rtol=solver.rtol / 10, atol=solver.atol / 10, log_det_tolerance=None if own is None else own / 10
        )
    raise UnsupportedError(
        f"{type(solver).__name__} has neither steps to halve nor a tolerance to tighten",
        where="likelihood_solver",
        remedy="Use the adaptive solver to have its error estimated.",
    )


def step_error(solver: Solver, coarse: Tensor, fine: Tensor) -> Tensor:
    """Richardson's estimate of the error of ``coarse``, given ``fine`` from `doubled`."""
    power = 2 ** _order(_unwrapped(solver))
    return (coarse - fine).abs() * power / (power - 1)


def _unwrapped(solver: Solver) -> Solver:
    return _unwrapped(solver.solver) if isinstance(solver, Chunked | Checkpointed) else solver


def _order(solver: Solver) -> int:
    """Order of convergence, at most 4; a fixed solver that is no Runge–Kutta method is the multistep one."""
    return min(solver.tableau.order, 4) if isinstance(solver, RungeKutta) else 3
