"""The SDE of a bridge, for a field that knows its score: any constant diffusion, both directions of time.

The ODE with velocity v and, for every g ≥ 0, the SDE

    dX = (v + ½ g² s) dt + g dB,   s = ∇ log p_t,

have the same marginals, and so has the SDE of falling time with −v in place of v (Anderson 1982; Tong et al.
2307.03672, where g is the σ of the bridge). Nothing here presumes a Gaussian source or an affine path.

The points of a Brownian bridge are x = μ_t(z) + σ_t ε with σ_t² = σ² t(1−t), so σ_t² s = −σ_t E[ε|x]: a score tells the
mean of the noise that is in a point. That bounds what a step of Euler and Maruyama may do. From t to t + h,

    x + h v + κ s + √n w,    κ = min(½ g²|h|, σ_t² + ½ h (σ_t²)'),    n = min(g²|h|, σ_{t+h}²).

The first cap is where all of the noise is gone, x + h v + κ s = E[μ_{t+h}(z)|x]; the second is all that a bridge holds
at the end of the step. With g ≤ σ they bind in the last step alone (the second one also, by a part h of itself, in the
steps next to both ends): it arrives at E[x1|x] for g = σ, without noise, as the law at the end is no longer
smoothed. With g > σ they bind within about g²/(2σ²) steps of the ends, where the score grows like 1/σ_t and an uncapped
step would overshoot. So no step grows, whatever g and the number of steps, and g = 0 is Euler's method for the ODE.
"""

import math
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError, UnsupportedError
from advect.solvers.along import System
from advect.solvers.fixed import FixedSolver, Trial
from advect.solvers.grid import Grid
from advect.solvers.ledger import Evaluation
from advect.solvers.noise import NoisySystem, with_noise


@runtime_checkable
class BridgeWithScore(Protocol):
    """What this solver asks of a field, besides its velocity.

    Attributes:
        diffusion: σ of the bridge.
    """

    diffusion: float

    def score(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """∇ log p_t(x), ``(batch, *event)``; finite wherever a step begins, both ends included."""
        ...


@dataclass(frozen=True)
class BridgeSDE(FixedSolver):
    """Euler and Maruyama with the two caps above. Weak order 1; two evaluations per step, none at the end.

    The two are the velocity and the score. Forwards rows go from source to data, backwards from data to source: each
    direction is a process of its own with the same marginals, so a row moved there and back is another row.

    A step must be short against V/g², V being the variance of the law where it is. On Gaussian data of spread 1.5 and
    0.4 with σ = 1, rows at t = 1 were too narrow by 1.6 and 8 % after 20 steps of g = σ, by 0.6 and 2 % after 80; with
    g = 2 by 9 and 33 %, then by 2 and 15 %; g = 5 was still off by 31 % after 320.

    States at requested times inside a step are drawn with the law the step would have had, had it ended there (one
    draw for all times in the same step); the end state does not depend on them.

    Args:
        steps: Number of equal steps.
        grid: Or the normalised times from 0 to 1.
        diffusion: g ≥ 0; None for the σ of the field's own bridge, with which the process is that bridge.

    Raises:
        ConfigError: As `FixedSolver`, or a negative or infinite ``diffusion``; in a solve, times outside [0, 1].
        UnsupportedError: In a solve: a field without ``score`` and ``diffusion``, a divergence, or a quantity along.
    """

    diffusion: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.diffusion is not None and not 0 <= self.diffusion < math.inf:
            raise ConfigError(
                f"the diffusion is {self.diffusion}",
                where="BridgeSDE",
                remedy="Give a finite number of at least 0; 0 is the ODE.",
            )

    @property
    def stochastic(self) -> bool:
        """Whether g is above 0; without one it is the field's own σ."""
        return self.diffusion is None or self.diffusion > 0

    def prepared(self, system: System, y: Tensor, generator: Generator | None) -> System:
        """The state, and the seeds of its noise."""
        if system.divergence is not None or system.along:
            raise UnsupportedError(
                "BridgeSDE moves the state alone: no log-determinant, and nothing else along the way",
                where="solver",
                remedy="Take a solver of the velocity itself, such as 'dopri5' or 'adams3'.",
            )
        if not isinstance(system.field, BridgeWithScore):
            raise UnsupportedError(
                f"{type(system.field).__name__} offers no score of a bridge, which this solver adds to the velocity",
                where="bridge-sde",
                remedy="Train with --method sf2m, which learns both, or take a solver of the velocity, such as "
                "'adams3'; on paths with a Gaussian source also 'sde' and 'ancestral'.",
            )
        return with_noise(system, y, generator, self.num_steps)

    def laid(self, t0: float, t1: float) -> Grid:
        """The times of one solve, inside [0, 1]."""
        if min(t0, t1) < 0 or max(t0, t1) > 1:
            raise ConfigError(
                f"a solve from t = {t0:g} to t = {t1:g} leaves the bridge",
                where="BridgeSDE",
                remedy="Stay between 0 and 1.",
            )
        return super().laid(t0, t1)

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """One look at velocity and score at the start of the step; nothing is carried over."""
        assert isinstance(system, NoisySystem)
        field = cast(BridgeWithScore, system.field)
        sigma = float(field.diffusion)
        g = sigma if self.diffusion is None else self.diffusion
        start, end = grid.span(number)
        velocity, score = system(start, y), _score(system, field, start, y)
        looks: tuple[Evaluation, ...] = ((start, y, velocity), (start, y, score))
        fresh = _fresh(sigma, g, start, end)

        def drifted(stop: float) -> Tensor:
            return y.add(velocity, alpha=stop - start).add(score, alpha=_shift(sigma, g, start, stop))

        def dense(fraction: float) -> Tensor:
            # The step's own noise in proportion, and what is missing to the noise of a shorter step.
            stop = grid.stage_time(number, fraction)
            state = drifted(stop).add(system.noise(number, y), alpha=fraction * math.sqrt(fresh))
            missing = max(_fresh(sigma, g, start, stop) - fraction**2 * fresh, 0.0)
            return state.add(system.noise(number, y, inside=True), alpha=math.sqrt(missing))

        reached = drifted(end)
        if fresh > 0:
            reached = reached.add(system.noise(number, y), alpha=math.sqrt(fresh))
        return Trial(reached, looks, (), dense)


def _shift(sigma: float, g: float, start: float, stop: float) -> float:
    """κ: how far a step moves along the score."""
    length = stop - start
    everything = start * (1 - start) + length * (1 - 2 * start) / 2
    return min(g**2 * abs(length) / 2, sigma**2 * max(everything, 0.0))


def _fresh(sigma: float, g: float, start: float, stop: float) -> float:
    """n: variance of the noise that a step adds."""
    return min(g**2 * abs(stop - start), sigma**2 * max(stop * (1 - stop), 0.0))


def _score(system: System, field: BridgeWithScore, t: float, y: Tensor) -> Tensor:
    """The score ``(rows, columns)``; one evaluation."""
    x = system.events(y)
    score = field.score(torch.full((), t, dtype=system.dtype, device=x.device), x, system.condition)
    if score.shape != x.shape:
        raise ShapeError(
            f"the score is {tuple(score.shape)} for points {tuple(x.shape)}",
            where="field",
            remedy="A score has the shape of its points.",
        )
    return score.reshape(y.shape[0], -1).to(y.dtype)
