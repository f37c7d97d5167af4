"""EDM's sampler: noise added before each step of Heun's method, in the noise level ς = σ/α.

Its other half is that of `advect.solvers.stochastic`: adding noise is the noising of the path itself, so whatever is
added keeps the marginals up to the error of the steps down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.solvers.affine import Mark, mixed
from advect.solvers.along import System
from advect.solvers.fixed import Trial
from advect.solvers.grid import Grid, times_of_log_ratio
from advect.solvers.ledger import Evaluation
from advect.solvers.noise import NoisySystem
from advect.solvers.stochastic import NoisySolver


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

    @property
    def stochastic(self) -> bool:
        """Whether there is churn."""
        return self.churn > 0

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
