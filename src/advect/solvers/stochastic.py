"""Samplers that add noise on the way: any diffusion that keeps the marginals, and EDM's churn.

The ODE with velocity v and, for every g(t) ≥ 0, the SDE

    dX = (v + ½ g² S) dt + g dB,   S = ∇ log p_t = −E/σ,

have the same marginals (Song et al. 2011.13456, section 4.3; Albergo et al. 2303.08797, corollary 2.10; the score in
this form means a standard-normal source, independent of the data). With v = α'D + σ'E and X = αD + σU, D held fixed,
the standardised noise U = E obeys

    dU = [α'D + σ'U − ½ (g²/σ) U − α'D − σ'U] dt/σ + (g/σ) dB = −½ (g²/σ²) U dt + (g/σ) dB,

an Ornstein–Uhlenbeck process that is stationary at unit variance, whatever g is. Over a step from s to t therefore
U_t = ρ U_s + √(1 − ρ²) z with ρ = exp(−½ ∫ g²/σ²) and z standard normal:

    x_t = α_t D + ρ σ_t E + σ_t √(1 − ρ²) z.

No step can grow: ρ lies in [0, 1], also where the integral diverges. ρ = 1 is DDIM.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, UnsupportedError
from advect.solvers.affine import AffineSolver, Mark, look, mixed
from advect.solvers.along import System
from advect.solvers.diffusion import Ancestral, Diffusion, given
from advect.solvers.fixed import Trial
from advect.solvers.grid import Grid, times_of_log_ratio
from advect.solvers.ledger import Evaluation
from advect.solvers.noise import NoisySystem, with_noise

AnyTimes = Float[Tensor, "*times"]


@dataclass(frozen=True)
class NoisySolver(AffineSolver):
    """A solver of affine paths whose steps draw. The generator of the call seeds them; without one torch's own does."""

    def prepared(self, system: System, y: Tensor, generator: Generator | None) -> System:
        """The state, and the seeds of its noise."""
        system = super().prepared(system, y, generator)
        return with_noise(system, y, generator, self.num_steps)

    def only_towards_data(self, grid: Grid) -> None:
        """Refuse to run from data to source.

        Raises:
            UnsupportedError: Time falls.
        """
        if grid.direction < 0:
            raise UnsupportedError(
                f"{type(self).__name__} adds noise, so rows moved from t = {grid.times[0]:g} back to "
                f"t = {grid.times[-1]:g} would not be those they came from",
                where="solver",
                remedy="Encode with a deterministic solver, such as 'dopri5', 'adams3' or 'ddim'.",
            )


@dataclass(frozen=True)
class ReverseSDE(NoisySolver):
    """The SDE above, each step exact for a D that stands still. Weak order 1, one evaluation per step, none at the end.

    Finite for every g and every number of steps, and biased at a finite one: a D that stands still leaves out the
    spread of the data around D, so samples are too narrow. On Gaussian data of spread 0.4 to 1.5, 60 steps even in ω
    lost 3 to 6 % of it with `Ancestral`, ``sigma`` and ``sine``, whose g falls with σ, and a third to a half of that
    with four times the steps. A g that does not fall is resolved only by steps short against σ²/g²: g = 1 lost up to
    13 %, and 7 % with four times the steps; g = 30 a third at any affordable number. `ChurnedHeun` with all the churn
    there may be was within 2.4 % of the spread with as many evaluations.

    States at requested times inside a step are drawn from the process
    pinned at both ends of the step (one draw for all times in the same step); the end state does not depend on them.

    Args:
        steps: Number of equal steps.
        grid: Or the normalised times from 0 to 1.
        schedule: See `AffineSolver`.
        diffusion: g, one of `advect.solvers.diffusion` or any elementwise function of a tensor of times.
    """

    diffusion: Diffusion | Callable[[AnyTimes], AnyTimes] = field(default_factory=Ancestral)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.diffusion, Diffusion):
            return
        if not callable(self.diffusion):
            raise ConfigError(
                f"the diffusion is {self.diffusion!r}",
                where="ReverseSDE",
                remedy="Give a function g(t), or one of advect.solvers.make_diffusion('ancestral', 1.0).",
            )
        object.__setattr__(self, "diffusion", given(self.diffusion))

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """One evaluation at the start of the step; nothing is carried over."""
        assert isinstance(system, NoisySystem)
        self.only_towards_data(grid)
        start, end = self.marks(grid, number)
        data, evaluation = look(system, start, y)
        whole = self._exponent(start, end)
        reached = _at(y, data, start, end, math.exp(-whole))
        if whole > 0 and end.behind > 0:
            reached = reached.add(system.noise(number, y), alpha=end.behind * math.sqrt(-math.expm1(-2 * whole)))

        def dense(fraction: float) -> Tensor:
            stop = self.inside(grid, number, fraction)
            before, after = self._exponent(start, stop), self._exponent(stop, end)
            if before == 0.0:
                return _at(y, data, start, stop, 1.0)
            # U is Gaussian and Markov with unit variance. Given both ends of the step it is ρ₁U_s, a part of the step's
            # own noise, and fresh noise.
            free, left, right = (-math.expm1(-2 * e) for e in (before + after, before, after))
            known = system.noise(number, y).mul(math.exp(-after) * left / math.sqrt(free))
            fresh = system.noise(number, y, inside=True)
            pinned = known.add(fresh, alpha=math.sqrt(left * right / free))
            return _at(y, data, start, stop, math.exp(-before)).add(pinned, alpha=stop.behind)

        return Trial(reached, (evaluation,), (), dense)

    def _exponent(self, start: Mark, end: Mark) -> float:
        assert isinstance(self.diffusion, Diffusion)
        return self.diffusion.exponent(self.schedule, start, end)


def _at(x: Tensor, data: Tensor, start: Mark, end: Mark, kept: float) -> Tensor:
    """α_t D + kept · σ_t E, with E from x = αD + σE at ``start``."""
    share = kept * end.behind / start.behind
    return mixed(x, share, data, end.ahead - share * start.ahead)


@dataclass(frozen=True)
class ChurnedHeun(NoisySolver):
    """Heun's method in the noise level ς = σ/α, with noise added before each step: EDM's sampler.

    Karras et al. 2206.00364, algorithm 2. In z = x/α the ODE is dz/dς = E. Each step first raises ς by at most
    ``churn``/steps of itself and adds the noise that belongs to it, then moves down by Heun's method; the step to ς = 0
    is Euler's. A step from α = 0 (ς = ∞) is one of DDIM, without churn. Noise is never raised above the level at which
    the solve started, so every evaluation lies inside the interval, at the very time whose ς the step uses.

    Without churn it is deterministic and of order 2, in both directions of time (h² log(1/h) from α = 0: the steps in
    log ς stay long there). Two evaluations per step; one in the step to σ = 0 and one in the step from α = 0.

    Args:
        steps: Number of equal steps.
        grid: Or the normalised times from 0 to 1, such as `edm_points`.
        schedule: See `AffineSolver`.
        churn: S_churn: the total by which ς is raised, relative; at most √2 − 1 per step.
        lowest: S_min: no churn at noise levels below.
        highest: S_max: no churn at noise levels above.
        inflation: S_noise: standard deviation of the noise that is added; 1 is right for an exact field.
    """

    churn: float = 0.0
    lowest: float = 0.0
    highest: float = math.inf
    inflation: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        sound = 0 <= self.churn < math.inf and 0 <= self.lowest <= self.highest and 0 < self.inflation < math.inf
        idle = self.churn == 0 and (self.lowest, self.highest, self.inflation) != (0.0, math.inf, 1.0)
        if not sound or idle:
            raise ConfigError(
                f"churn={self.churn}, lowest={self.lowest}, highest={self.highest}, inflation={self.inflation}"
                + (": without churn the other three say nothing" if sound else ""),
                where="ChurnedHeun",
                remedy="Take churn ≥ 0, 0 ≤ lowest ≤ highest and inflation > 0, the last three only with churn.",
            )

    def prepared(self, system: System, y: Tensor, generator: Generator | None) -> System:
        """The state, and the seeds of its noise where there is churn."""
        prepared = super().prepared if self.churn > 0 else super(NoisySolver, self).prepared
        return prepared(system, y, generator)

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Raise the noise, then one or two evaluations; nothing is carried over."""
        if self.churn > 0:
            self.only_towards_data(grid)
        start, end = self.marks(grid, number)
        start, y = self._churned(system, grid, number, start, y)
        velocity = system(start.time, y)
        first: Evaluation = (start.time, y, velocity)
        ends = start.ends(y, velocity)
        if 0.0 in (start.ahead, start.behind, end.ahead, end.behind):

            def straight(fraction: float) -> Tensor:
                stop = self.inside(grid, number, fraction)
                return mixed(ends[0], stop.ahead, ends[1], stop.behind)

            return Trial(mixed(ends[0], end.ahead, ends[1], end.behind), (first,), (), straight)
        # The source end is the one behind for rising time, and the one ahead for falling time.
        source = ends[1] if grid.direction > 0 else ends[0]
        point = _along_level(y, source, source, grid, start, end, end)
        velocity = system(end.time, point)
        other = end.ends(point, velocity)[1 if grid.direction > 0 else 0]

        def dense(fraction: float) -> Tensor:
            return _along_level(y, source, other, grid, start, end, self.inside(grid, number, fraction))

        reached = _along_level(y, source, other, grid, start, end, end)
        return Trial(reached, (first, (end.time, point, velocity)), (), dense)

    def extra_times(self, grid: Grid, marks: tuple[Mark, ...]) -> Sequence[float]:
        """The time of each step's raised noise; its start where there is no churn."""
        if self.churn == 0:
            return ()
        rise = math.log1p(min(self.churn / grid.steps, math.sqrt(2) - 1))
        raised = [0.0 if math.isinf(mark.log_ratio) else mark.log_ratio - rise for mark in marks[:-1]]
        found = times_of_log_ratio(self.schedule, raised)
        return [
            max(time, grid.times[0]) if mark.ahead > 0 and self._churns(mark) else mark.time
            for time, mark in zip(found, marks[:-1], strict=True)
        ]

    def _churns(self, at: Mark) -> bool:
        return self.lowest <= at.behind / at.ahead <= self.highest

    def _churned(self, system: System, grid: Grid, number: int, start: Mark, y: Tensor) -> tuple[Mark, Tensor]:
        """The start of the step and its rows after noise has been added."""
        raised = self.track(grid).between[number] if self.churn > 0 else start
        if not raised.time < start.time or raised.ahead == 0.0:
            return start, y
        assert isinstance(system, NoisySystem)
        # By the time's own weights, whatever the inverse rounded.
        added = math.sqrt(max((raised.behind / raised.ahead) ** 2 - (start.behind / start.ahead) ** 2, 0.0))
        noisy = mixed(y, raised.ahead / start.ahead, system.noise(number, y), raised.ahead * added * self.inflation)
        return raised, noisy


def _along_level(x: Tensor, first: Tensor, second: Tensor, grid: Grid, start: Mark, end: Mark, stop: Mark) -> Tensor:
    """x at ``stop`` with E on the line in ς from ``first`` at ``start`` to ``second`` at ``end``."""
    levels = [m.behind / m.ahead if grid.direction > 0 else m.ahead / m.behind for m in (start, end, stop)]
    data, before = (stop.ahead, start.ahead) if grid.direction > 0 else (stop.behind, start.behind)
    way = (levels[2] - levels[0]) / (levels[1] - levels[0])
    slope = mixed(first, 1 - way / 2, second, way / 2)
    return mixed(x, data / before, slope, data * (levels[2] - levels[0]))
