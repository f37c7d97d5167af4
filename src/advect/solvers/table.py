"""The solvers by name: one row each, read by everything that offers a choice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from advect.errors import ConfigError, unknown_name
from advect.solvers.adaptive import Adaptive
from advect.solvers.bridge import BridgeSDE
from advect.solvers.churned import ChurnedHeun
from advect.solvers.diffusion import Ancestral, proportional
from advect.solvers.exponential import DDIM, DEIS, DPMSolver2M, DPMSolver2S
from advect.solvers.fixed import RK4, Euler, Heun, Midpoint
from advect.solvers.multistep import Adams3
from advect.solvers.noise_adams import NoiseAdams
from advect.solvers.stochastic import ReverseSDE
from advect.solvers.straight import StraightAdams
from advect.solvers.tableau import BOSH3, DOPRI5, EULER, HEUN, MIDPOINT, RK4_TABLE, TSIT5, Tableau
from advect.solvers.unipc import UniPC
from advect.typing import Schedule, Solver

DEFAULT_TOLERANCE = 1e-5
DEFAULT_STEPS = 20


@dataclass(frozen=True)
class SolverEntry:
    """One row of the table.

    Attributes:
        name: As in `make_solver`.
        title: In words.
        order: Of convergence; of stochastic solvers in distribution.
        evaluations: Of the field per step; adaptive solvers and `adams3` need one more at the start, adaptive ones
            another for their first step size. Affine solvers save some where a weight vanishes, see their classes.
        adaptive: Whether it takes a tolerance instead of steps.
        build: From steps (int) or tolerance (float) to the solver; affine ones also take ``schedule``, stochastic ones
            also ``noise``.
        default_steps: Steps where none are given; None where they must be.
        affine: Whether it works on affine paths only, and needs their schedule.
        noisy: Whether it can add noise of its own, and so takes its strength. Whether it does is told by the solver
            that was made, in its property ``stochastic``: `edm-heun` without churn solves the ODE.
        scored: Whether it asks the field for its score, see `solvers.bridge.BridgeWithScore`.
    """

    name: str
    title: str
    order: int
    evaluations: int
    adaptive: bool
    build: Callable[..., Solver]
    default_steps: int | None = None
    affine: bool = False
    noisy: bool = False
    scored: bool = False


def _pair(table: Tableau, title: str) -> SolverEntry:
    def build(tolerance: float) -> Solver:
        return Adaptive(table.name, rtol=tolerance, atol=tolerance)

    return SolverEntry(table.name, title, table.order, table.stages - 1, True, build)


def _fixed(table: Tableau, title: str, build: Callable[..., Solver]) -> SolverEntry:
    return SolverEntry(table.name, title, table.order, table.stages, False, build)


def _affine(
    name: str, title: str, order: int, evaluations: int, build: Callable[..., Solver], default_steps: int | None
) -> SolverEntry:
    return SolverEntry(name, title, order, evaluations, False, build, default_steps, affine=True)


def _noisy(name: str, title: str, order: int, evaluations: int, build: Callable[..., Solver]) -> SolverEntry:
    return SolverEntry(name, title, order, evaluations, False, build, affine=True, noisy=True)


def _ancestral(steps: int, *, schedule: Schedule, noise: float = 1.0) -> Solver:
    return ReverseSDE(steps, schedule=schedule, diffusion=Ancestral(noise))


def _sde(steps: int, *, schedule: Schedule, noise: float = 1.0) -> Solver:
    return ReverseSDE(steps, schedule=schedule, diffusion=proportional(noise))


def _bridge(steps: int, *, noise: float | None = None) -> Solver:
    return BridgeSDE(steps, diffusion=noise)


def _edm(steps: int, *, schedule: Schedule, noise: float = 0.0) -> Solver:
    return ChurnedHeun(steps, schedule=schedule, churn=noise)


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
        _affine("ddim", "DDIM without noise", 1, 1, DDIM, None),
        _affine("dpm++2m", "DPM-Solver++ (2M)", 2, 1, DPMSolver2M, DEFAULT_STEPS),
        _affine("dpm++2s", "DPM-Solver++ (2S)", 2, 2, DPMSolver2S, DEFAULT_STEPS),
        _affine("deis", "exponential Adams predictor–corrector, after DEIS", 3, 1, DEIS, DEFAULT_STEPS),
        _affine("unipc", "UniPC (p = 2)", 2, 1, UniPC, DEFAULT_STEPS),
        _affine("adams3-straight", "adams3 on the straightened path", 3, 1, StraightAdams, DEFAULT_STEPS),
        _affine("adams3-noise", "adams3 of the noise on its own clock", 3, 1, NoiseAdams, DEFAULT_STEPS),
        _noisy("edm-heun", "Heun in the noise level, with churn (EDM)", 2, 2, _edm),
        _noisy("ancestral", "ancestral sampling (DDPM's noise)", 2, 1, _ancestral),
        _noisy("sde", "SDE with g² = 2cσ", 2, 1, _sde),
        SolverEntry("bridge-sde", "SDE of a bridge with its own score", 1, 2, False, _bridge, None, False, True, True),
    )
}


def make_solver(
    name: str,
    *,
    steps: int | None = None,
    tolerance: float | None = None,
    schedule: Schedule | None = None,
    noise: float | None = None,
) -> Solver:
    """Build a solver by name.

    Args:
        name: A key of `SOLVERS`.
        steps: For solvers with fixed steps; ``adams3`` and some affine ones take 20 where none are given, the others
            must be told.
        tolerance: For adaptive solvers, relative and absolute; 1e-5 where none is given.
        schedule: Of the affine path that the field belongs to, where it does to one. Solvers of affine paths need it,
            the others work without.
        noise: Strength of the noise of a stochastic solver: η of ``ancestral`` (1 where none is given), S_churn of
            ``edm-heun`` (0: it is deterministic), c in g² = 2cσ of ``sde`` (1), g of ``bridge-sde`` (the bridge's σ).

    Raises:
        UnknownNameError: No such solver; the nearest name is offered.
        ConfigError: ``steps`` for an adaptive solver, ``tolerance`` for a fixed one, ``noise`` for a deterministic
            one, no steps or no schedule where they are needed, or values out of range.
    """
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    entry = SOLVERS[name]
    settings: dict[str, Any] = {}
    if noise is not None:
        if not entry.noisy:
            raise ConfigError(
                f"{name} adds no noise and was given noise = {noise:g}",
                where="solver",
                remedy=f"Leave it out, or take one of {_listed(lambda e: e.noisy)}.",
            )
        settings["noise"] = noise
    if entry.affine:
        if schedule is None:
            raise ConfigError(
                f"{name} works on affine paths only, and the schedule of one was not given",
                where="solver",
                remedy="Give schedule=, the α and σ that the field was learnt on, or take a solver of any velocity: "
                f"{_listed(lambda e: not (e.affine or e.scored))}.",
            )
        settings["schedule"] = schedule
    return entry.build(_effort(entry, steps, tolerance), **settings)


def _listed(wanted: Callable[[SolverEntry], bool]) -> str:
    """The names of the rows that are wanted."""
    return ", ".join(f"'{name}'" for name, entry in SOLVERS.items() if wanted(entry))


def _effort(entry: SolverEntry, steps: int | None, tolerance: float | None) -> float:
    """The one number that says how hard to try: steps or tolerance."""
    if entry.adaptive:
        if steps is not None:
            raise ConfigError(
                f"{entry.name} chooses its own steps and was given steps = {steps}",
                where="solver",
                remedy="Give a tolerance, or take a fixed solver such as 'adams3' or 'rk4'.",
            )
        return DEFAULT_TOLERANCE if tolerance is None else tolerance
    if tolerance is not None:
        raise ConfigError(
            f"{entry.name} takes fixed steps and was given tolerance = {tolerance:g}",
            where="solver",
            remedy="Give the number of steps, or take an adaptive solver such as 'tsit5' or 'dopri5'.",
        )
    steps = entry.default_steps if steps is None else steps
    if steps is None:
        raise ConfigError(
            f"{entry.name} takes fixed steps and was not told how many",
            where="solver",
            remedy=f"Give steps, for example steps={100 if entry.noisy else DEFAULT_STEPS}.",
        )
    return steps
