"""The Adams method on what a network can tell: bounded however it was trained, at the source and at the data.

On X = x/(α + σ) and ω = α/(α + σ) every affine path moves by dX/dω = V = D − E (see `advect.solvers.straight`). A
network that predicts noise knows E, and V only through (X − E)/ω: where little of the data is left in x an error of E
is magnified by 1/ω, a hundred and more at the start of VP, DDPM, VE and EDM. On the clock log ω it is not:

    dX/d log ω = ωV = X − E.

That is the ODE of the noise with the noise itself on its right-hand side, and what is interpolated here. The linear
part is interpolated with it: exponential integrators of the noise (DPM-Solver, Lu et al. 2206.00927; DEIS, Zhang & Chen
2204.13902) take it apart as x/α, and x/α magnifies errors of x as V does those of E.

From pure source (ω = 0) that clock is infinite, and there V is all that a field can be asked for. So the quantity is
(ω + c)V on the clock log(ω + c), c = 1/10 on solves that touch ω = 0 and 0 on all others.

On the way to the data nothing is magnified beyond 1/(1 − ω), which matters in the last step alone: a network that
predicts x1 knows V = (D − X)/(1 − ω) only so far, and says so by an interval that stops short of the data. Such a field
is not asked at the edge of its interval; the last step goes by the values before it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from advect.solvers.affine import AffineSolver, Mark, short_of_its_end
from advect.solvers.along import System
from advect.solvers.fixed import Trial, advanced
from advect.solvers.grid import Grid, blended_points
from advect.solvers.ledger import Evaluation

# Added to ω where the solve touches ω = 0. Anything from 0.03 to 0.3 measured the same.
_AT_SOURCE = 0.1
# Part of the schedule's own clock in the steps, see `blended_points`.
OWN_CLOCK = 1 / 3
_NODES = 12


@dataclass(frozen=True)
class NoiseAdams(AffineSolver):
    """Third-order Adams predictor–corrector of dX/d log(ω + c) = (ω + c)(D − E). Order 3.

    One evaluation per step and one more at the start. The last one, at the end itself, is left out where the velocity
    does not tell the ends apart there, or where the field's interval stops short of the data (or, for falling time, of
    the source).

    Args:
        steps: Number of steps, equal in the mean of ω (two parts) and time (one part), see `grid.blended_points`: the
            schedules of diffusion spend their time where ω is small, and there equal steps in ω alone are too long.
        grid: Or the normalised times from 0 to 1.
        schedule: See `AffineSolver`.
    """

    def points(self, steps: int, t0: float, t1: float) -> tuple[float, ...]:
        """Equal steps in the mean of ω and time."""
        return blended_points(self.schedule, steps, t0, t1, own_clock=OWN_CLOCK)

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Predict, evaluate, correct; ``carry`` holds up to three values of (ω + c)V, newest first."""
        marks = self.track(grid).marks
        shift = _AT_SOURCE if min(_data_share(m, grid) for m in (marks[0], marks[-1])) == 0.0 else 0.0
        start, end = marks[number : number + 2]
        evaluations: list[Evaluation] = []
        if number == 0:
            first, evaluation = _read(system, start, y, grid, shift)
            carry = (first,)
            evaluations.append(evaluation)
        places = tuple(_data_share(marks[number - back], grid) + shift for back in range(len(carry)))
        values = carry

        def moved(stop: Mark) -> Tensor:
            ends = (_data_share(start, grid) + shift, _data_share(stop, grid) + shift)
            weights = log_weights(places, *ends)
            scale = stop.ahead + stop.behind
            kept = y.mul(scale / (start.ahead + start.behind))
            return advanced(kept, weights, values, scale)

        if end.tells_ends and not short_of_its_end(system.field, end.time, grid.direction):
            newest, evaluation = _read(system, end, moved(end), grid, shift)
            evaluations.append(evaluation)
            places, values = (_data_share(end, grid) + shift, *places[:2]), (newest, *carry[:2])

        return Trial(
            moved(end), tuple(evaluations), values, lambda fraction: moved(self.inside(grid, number, fraction))
        )


def _data_share(at: Mark, grid: Grid) -> float:
    """ω = α/(α + σ), whichever way the solve goes."""
    return at.share if grid.direction > 0 else at.remainder


def _read(system: System, at: Mark, x: Tensor, grid: Grid, shift: float) -> tuple[Tensor, Evaluation]:
    """(ω + c)(D − E) by one evaluation."""
    velocity = system(at.time, x)
    ahead, behind = at.ends(x, velocity)
    straight = ahead - behind if grid.direction > 0 else behind - ahead
    return straight.mul_(_data_share(at, grid) + shift), (at.time, x, velocity)


@lru_cache(maxsize=4096)
def log_weights(places: tuple[float, ...], start: float, end: float) -> list[float]:
    """Weights w of values at ``places``: Σ w Q is ∫ of their polynomial in z over d log z, from ``start`` to ``end``.

    By Gauss–Legendre on panels of log z no longer than 1, exact to rounding for parabolas in z; the closed forms
    (powers and a logarithm) cancel for short steps.

    Args:
        places: Values of z = ω + c, positive and all different.
        start: z at the start of the step.
        end: z at its end, on either side.
    """
    if start == end:
        return [0.0] * len(places)
    inner, weights = np.polynomial.legendre.leggauss(_NODES)
    length = math.log(end / start)
    panels = max(1, math.ceil(abs(length)))
    width = length / panels
    middles = width * (np.arange(panels) + 0.5)
    logarithms = (middles[:, None] + width / 2 * inner).ravel()
    local = np.expm1(logarithms) * start / (end - start)
    nodes = (np.asarray(places) - start) / (end - start)
    powers = np.vander(local, len(places), increasing=True) * np.tile(width / 2 * weights, panels)[:, None]
    matrix = np.vander(nodes, len(places), increasing=True).T
    return np.linalg.solve(matrix, powers.sum(0)).tolist()
