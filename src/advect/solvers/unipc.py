"""UniPC: one formula for predictor and corrector in λ = log(a/b), of any order (Zhao et al. 2023, arXiv 2302.04867).

With the end ahead D on a polynomial in λ, see `advect.solvers.affine`, a step of length h in λ is

    x_t = (b_t/b_s) x_s + a_t [(1 − e^{−h}) D_0 + Σ_m c_m (D_m − D_0)],      Σ_m c_m r_m^k = ∫₀¹ u^k h e^{−h(1−u)} du,

k from 1 to the number of differences, D_m the value at r_m steps from the start (theorem 3.1, with a data prediction;
there c_m = a_m B(h)/r_m, and B cancels). The predictor UniP-p takes D_0 and p − 1 values before it; the corrector
UniC-p takes the value at the predicted point too (r = 1), which then serves the next step: no further evaluation.

With one difference the equation is solved up to its order by c = B(h)/(2r), whatever B(h) = h + O(h²). The authors take
that, and it is the whole difference between their variants: B₁(h) = h ("bh1") and B₂(h) = 1 − e^{−h} ("bh2"), the
one that stays finite with h. UniP-2 with B₂ is DPM-Solver++ (2M), UniP-1 is DDIM.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from torch import Tensor

from advect.errors import ConfigError
from advect.solvers.affine import AffineSolver, Mark, look
from advect.solvers.along import System
from advect.solvers.exponential import within_reach
from advect.solvers.fixed import Trial, advanced
from advect.solvers.grid import Grid
from advect.solvers.ledger import Evaluation

VARIANTS = ("bh1", "bh2")
_HIGHEST = 3
# Below this length of a step the moments are summed as series: their recurrence divides by h each time.
_SHORT = 1.0


@dataclass(frozen=True)
class UniPC(AffineSolver):
    """UniP-p with UniC-p, multistep. One evaluation per step, none at the end.

    The order is p + 1 by the authors' count, of which the first steps, that have fewer values, leave 3 for p = 2 and 3
    (2 for p = 1) between ends where λ is finite. Where the path starts from pure source or ends at pure data λ is
    infinite and no polynomial in it exists: the step from there has p = 1 and its corrector, the step to there is
    DDIM's, x = aD, exact in its end point. Near such an end steps that are even in ω stay as long in λ as they are,
    however many there are, and the error falls as h².

    A step in λ of more than twice the length of the one before has p = 1 as well, whatever lies before it: the
    authors' lower order in the last steps, where it is needed and nowhere else. The last step is not corrected, as
    theirs: near the data an evaluation tells nothing that x does not.

    Args:
        steps: Number of equal steps.
        grid: Or the normalised times from 0 to 1.
        schedule: See `AffineSolver`.
        order: p, from 1 to 3. On trained networks of two coordinates, even steps in ω and 6 to 32 evaluations, p = 2
            had three quarters to nine tenths of the error of p = 3 and of DPM-Solver++ (2M).
        variant: B(h): one of `VARIANTS`.
        corrected: Whether UniC follows UniP.

    Raises:
        ConfigError: As `AffineSolver`, or another ``order`` or ``variant``.
    """

    order: int = field(default=2, kw_only=True)
    variant: str = field(default="bh2", kw_only=True)
    corrected: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in range(1, _HIGHEST + 1) or self.variant not in VARIANTS:
            raise ConfigError(
                f"order={self.order}, variant={self.variant!r}",
                where="UniPC",
                remedy=f"Take an order from 1 to {_HIGHEST} and one of {', '.join(VARIANTS)}.",
            )

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Predict, evaluate, correct; ``carry`` holds up to p ends ahead, newest first, the start's own among them."""
        marks = self.track(grid).marks
        start, end = marks[number : number + 2]
        evaluations: list[Evaluation] = []
        if number == 0 or not self.corrected:
            ahead, evaluation = look(system, start, y)
            carry = (ahead, *carry[: self.order - 1])
            evaluations.append(evaluation)
        places = marks[number - self._usable(marks, number, len(carry)) + 1 : number][::-1]
        values = carry[1 : 1 + len(places)]

        def moved(stop: Mark) -> Tensor:
            return self._moved(y, carry[0], values, places, start, stop)

        newest: tuple[Tensor, ...] = ()
        if self.corrected and number + 1 < grid.steps:
            ahead, evaluation = look(system, end, moved(end))
            evaluations.append(evaluation)
            places, values, newest = (*places, end), (*values, ahead), (ahead,)

        def dense(fraction: float) -> Tensor:
            return moved(self.inside(grid, number, fraction))

        return Trial(moved(end), tuple(evaluations), (*newest, *carry)[: self.order], dense)

    def _usable(self, marks: Sequence[Mark], number: int, known: int) -> int:
        """p of this step: how many values up to its start lie on a polynomial in λ that reaches its end."""
        if known == 1 or number == 0 or not within_reach(marks[number - 1], marks[number], marks[number + 1]):
            return 1
        finite = 0
        while finite < min(self.order, known) and math.isfinite(marks[number - finite].log_ratio):
            finite += 1
        return finite

    def _moved(
        self, x: Tensor, first: Tensor, others: Sequence[Tensor], places: Sequence[Mark], start: Mark, stop: Mark
    ) -> Tensor:
        """x at ``stop`` from x at ``start``, where the end ahead is ``first``, with ``others`` at ``places``."""
        length = stop.log_ratio - start.log_ratio
        ratios = tuple(_ratio(start, place, stop) for place in places)
        weights = unified_weights(ratios, length, self.variant)
        whole = -math.expm1(-length)
        kept = x.mul(stop.behind / start.behind)
        return advanced(kept, (whole - sum(weights), *weights), (first, *others), stop.ahead)


def _ratio(start: Mark, place: Mark, stop: Mark) -> float:
    """r: where ``place`` lies, as a part of the way from ``start`` to ``stop`` in λ; in ω where that is infinite."""
    if math.isinf(start.log_ratio) or math.isinf(stop.log_ratio):
        return (place.share - start.share) / (stop.share - start.share)
    return (place.log_ratio - start.log_ratio) / (stop.log_ratio - start.log_ratio)


@lru_cache(maxsize=4096)
def unified_weights(ratios: tuple[float, ...], length: float, variant: str) -> list[float]:
    """The c_m of differences at ``ratios`` over a step of ``length`` in λ."""
    if not ratios:
        return []
    if len(ratios) == 1:
        scale = length if variant == "bh1" and math.isfinite(length) else -math.expm1(-length)
        return [scale / (2 * ratios[0])]
    powers = np.arange(1, len(ratios) + 1)
    matrix = np.asarray(ratios)[None, :] ** powers[:, None]
    return np.linalg.solve(matrix, exponential_moments(length, len(ratios))).tolist()


def exponential_moments(length: float, count: int) -> list[float]:
    """∫₀¹ u^k h e^{−h(1−u)} du = h k! φ_{k+1}(−h) for k = 1, …, ``count``; 1 where h = ∞."""
    if math.isinf(length):
        return [1.0] * count
    if length < _SHORT:
        return [length * _series(-length, k) for k in range(1, count + 1)]
    found, last = [], -math.expm1(-length)
    for k in range(1, count + 1):
        last = 1 - k / length * last
        found.append(last)
    return found


def _series(z: float, k: int) -> float:
    """k! φ_{k+1}(z) = Σ_j z^j k!/(j + k + 1)!, for |z| below 1: twenty terms are exact to rounding."""
    return sum(z**j * math.factorial(k) / math.factorial(j + k + 1) for j in range(20))
