"""Exponential integrators of affine paths: the linear part of the velocity exactly, the rest by interpolation.

What is interpolated is A, the expected end ahead (E[x1|x] for rising time, E[x0|x] for falling time), in
x_t = (b_t/b_s) x_s + b_t ∫ A d(a/b), see `advect.solvers.affine`. The solvers differ in how:

    DDIM           A held fixed                                                    order 1, 1 evaluation per step
    DPMSolver2M    a line in λ = log(a/b) through this value and the last one      order 2, 1
    DPMSolver2S    a line in λ through this value and one half-way                 order 2, 2
    DEIS           a parabola in ω = a/(a+b), predicted and then corrected         order 3, 1

λ is infinite where one of the weights vanishes; a line in λ does not exist there and such a step is of first order.
That costs no order: there are two such steps (three for the multistep form) with an error of h² each. ω is finite at
both ends, so the parabola needs no exception.

The last evaluation at an end with b = 0 is never made: x is the end ahead there, and the velocity has nothing to add.
So a schedule whose derivatives are infinite at that end is served too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import pairwise

import numpy as np
from torch import Tensor

from advect.solvers.affine import AffineSolver, Mark, carried, look, mixed
from advect.solvers.along import System
from advect.solvers.fixed import Trial
from advect.solvers.grid import Grid, times_of_log_ratio
from advect.solvers.ledger import Evaluation


@dataclass(frozen=True)
class DDIM(AffineSolver):
    """x_t = α_t D + σ_t E with both held fixed (Song et al. 2010.02502, equation 12 with no noise). Order 1.

    One evaluation per step, none at the end. On the linear path it is Euler's step of the velocity.
    """

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """One evaluation at the start of the step; nothing is carried over."""
        start, end = self.marks(grid, number)
        ahead, evaluation = look(system, start, y)

        def dense(fraction: float) -> Tensor:
            return carried(y, ahead, start, self.inside(grid, number, fraction))

        return Trial(carried(y, ahead, start, end), (evaluation,), (), dense)


def sloped(ahead: Tensor, other: Tensor, start: Mark, at: Mark, end: Mark) -> Tensor:
    """The end ahead half-way from ``start`` to ``end`` in λ, on the line through ``ahead`` at ``start`` and ``other``
    at ``at``.
    """
    weight = (end.log_ratio - start.log_ratio) / (2 * (at.log_ratio - start.log_ratio))
    return mixed(ahead, 1 - weight, other, weight)


def within_reach(past: Mark, start: Mark, end: Mark) -> bool:
    """Whether the line in λ from ``past`` to ``start`` is worth following to ``end``: all three λ are finite, and this
    step is at most twice as long as the last one.
    """
    return end.log_ratio - start.log_ratio <= 2 * (start.log_ratio - past.log_ratio) < math.inf


@dataclass(frozen=True)
class DPMSolver2M(AffineSolver):
    """DPM-Solver++ (2M): the line through the last two values of D (Lu et al. 2211.01095, algorithm 2). Order 2.

    One evaluation per step, none at the end. First order in the first step, in the second where the path starts from
    pure source (λ = −∞), in the last where it ends at pure data (λ = +∞), and wherever a step in λ is more than twice
    as long as the one before: almost pure data, as in VP with its cut-off, is as good as pure (the published code
    offers a last step of lower order for the same reason). Near an infinite λ the steps in λ stay as long as they are,
    however many there are, and the error falls as h² log(1/h). For falling time the same formula works on the noise, E.
    """

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """``carry`` holds the end ahead as seen at the start of the last step."""
        start, end = self.marks(grid, number)
        ahead, evaluation = look(system, start, y)
        past = self.track(grid).marks[number - 1] if carry else None

        def reached(stop: Mark) -> Tensor:
            if past is None or not within_reach(past, start, end):
                return carried(y, ahead, start, stop)
            return carried(y, sloped(ahead, carry[0], start, past, stop), start, stop)

        def dense(fraction: float) -> Tensor:
            return reached(self.inside(grid, number, fraction))

        return Trial(reached(end), (evaluation,), (ahead,), dense)


@dataclass(frozen=True)
class DPMSolver2S(AffineSolver):
    """DPM-Solver++ (2S): the line through this value and one half-way in λ. Order 2.

    Lu et al. 2211.01095, algorithm 1 with r = 1/2. Two evaluations per step. A step from or to an infinite λ (the first
    where the path starts from pure source, the last where it ends at pure data) has no half-way: it is of first order
    and costs one evaluation.
    """

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Two evaluations, at the start and half-way; nothing is carried over."""
        start, end = self.marks(grid, number)
        ahead, first = look(system, start, y)
        if math.isinf(start.log_ratio) or math.isinf(end.log_ratio):
            return Trial(
                carried(y, ahead, start, end),
                (first,),
                (),
                lambda fraction: carried(y, ahead, start, self.inside(grid, number, fraction)),
            )
        middle = self.track(grid).between[number]
        halfway, second = look(system, middle, carried(y, ahead, start, middle))

        def reached(stop: Mark) -> Tensor:
            return carried(y, sloped(ahead, halfway, start, middle, stop), start, stop)

        def dense(fraction: float) -> Tensor:
            return reached(self.inside(grid, number, fraction))

        return Trial(reached(end), (first, second), (), dense)

    def extra_times(self, grid: Grid, marks: tuple[Mark, ...]) -> Sequence[float]:
        """The time half-way in λ of each step; the start again where there is none."""
        middles = [grid.direction * (start.log_ratio + end.log_ratio) / 2 for start, end in pairwise(marks)]
        found = times_of_log_ratio(self.schedule, [m if math.isfinite(m) else 0.0 for m in middles])
        return [
            min(max(time, min(span)), max(span)) if math.isfinite(middle) else span[0]
            for time, middle, span in zip(found, middles, pairwise(grid.times), strict=True)
        ]


@dataclass(frozen=True)
class DEIS(AffineSolver):
    """A third-order exponential Adams predictor–corrector, one evaluation per step. Order 3.

    The idea is that of DEIS (Zhang & Chen 2204.13902, section 3.3): Adams–Bashforth for what the exponential leaves
    over. Three things are our own. D is interpolated and not the noise (as in DPM-Solver++); the polynomial is one in
    ω = α/(α + σ), finite at both ends, where theirs is one in t; and each step is corrected by the value at the
    predicted point, which then serves the next step too (as in UniPC, Zhao et al. 2302.04867, and in `Adams3`):

        predict   through the newest three values of D up to t_n,
        evaluate  D at t_{n+1} and the predicted point,
        correct   through that value and the newest two before it.

    The correction is what keeps the order through the start: the first value at a predicted point is off by h², and
    enters x only through a step of length h. Without it the first step would leave h² in x.

    One evaluation per step and one more at the start; the last one is left out where the path ends at pure data.
    """

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Predict, evaluate, correct; ``carry`` holds up to three ends ahead, newest first."""
        start, end = self.marks(grid, number)
        evaluations: list[Evaluation] = []
        if number == 0:
            ahead, evaluation = look(system, start, y)
            carry = (ahead,)
            evaluations.append(evaluation)
        nodes = tuple(self.track(grid).marks[number - back].share for back in range(len(carry)))
        values = carry
        if end.behind > 0:
            predicted = interpolated(y, values, nodes, start, end)
            ahead, evaluation = look(system, end, predicted)
            evaluations.append(evaluation)
            nodes, values = (end.share, *nodes[:2]), (ahead, *carry[:2])

        def dense(fraction: float) -> Tensor:
            return interpolated(y, values, nodes, start, self.inside(grid, number, fraction))

        return Trial(interpolated(y, values, nodes, start, end), tuple(evaluations), values, dense)


def interpolated(y: Tensor, values: Sequence[Tensor], nodes: tuple[float, ...], start: Mark, end: Mark) -> Tensor:
    """x at ``end`` with the end ahead on the polynomial in ω through ``values`` at ``nodes``."""
    weights = share_weights(nodes, start.share, end.share, end.remainder / start.remainder)
    scale = end.ahead + end.behind
    kept = y.mul(end.behind / start.behind)
    return reduce(lambda x, part: x.add(part[0], alpha=scale * part[1]), zip(values, weights, strict=True), kept)


@lru_cache(maxsize=4096)
def share_weights(nodes: tuple[float, ...], start: float, end: float, left: float) -> list[float]:
    """Weights w of values A at ``nodes``: (a_t + b_t) Σ w A is b_t ∫ of their polynomial over the step, d(a/b).

    With y = 1/(1 − ω) = 1 + a/b the measure is dy = dω/(1 − ω)². On u, the fraction of the way in ω, and with
    ``left`` = (1 − ω_t)/(1 − ω_s) = 1 − q it is, times b_t, (a_t + b_t) q (1 − q) du/(1 − qu)².

    Args:
        nodes: Values of ω, all different.
        start: ω at the start of the step.
        end: ω at its end.
        left: 1 − q, given apart because ω rounds it away near 1; 0 where the step ends at the end ahead.
    """
    local = (np.asarray(nodes) - start) / (end - start)
    matrix = np.vander(local, len(nodes), increasing=True).T
    return np.linalg.solve(matrix, moments(left, len(nodes))).tolist()


def moments(left: float, count: int) -> list[float]:
    """q (1 − q) ∫₀¹ uᵏ/(1 − qu)² du for k = 0, 1, …, with 1 − q = ``left``.

    By parts they are 1 − k (1 − q) L_{k−1} with L_j = ∫₀¹ uʲ/(1 − qu) du, whose closed forms (log y and powers of y)
    cancel for short steps. There the power series is summed, all of whose terms are positive.
    """
    q = 1 - left
    if q <= 0.5:
        powers = np.arange(64)
        terms = (powers + 1) * q ** (powers + 1)
        return [float(left * np.sum(terms / (powers + k + 1))) for k in range(count)]
    if left == 0.0:
        return [1.0] * count
    found, logarithmic = [q], -math.log(left) / q
    for k in range(1, count):
        found.append(1 - k * left * logarithmic)
        logarithmic = (logarithmic - 1 / k) / q
    return found
