"""A third-order predictor–corrector with one evaluation per step (Adams–Bashforth–Moulton in PEC mode).

With slopes f* taken at *predicted* points, step n is (Hairer, Nørsett & Wanner 1993, III.1)

    predict    p = y_n + ∫ of the polynomial through f*_n, f*_{n-1}, f*_{n-2}                 (Bashforth, order 3)
    evaluate   f*_{n+1} = f(t_{n+1}, p)
    correct    y_{n+1} = y_n + ∫ of the polynomial through f*_{n+1}, f*_n, f*_{n-1}           (Moulton, order 3)

and the same f*_{n+1} serves the next step. The integrals are exact for quadratic slopes on any grid, so uneven steps
keep the order. The start ramps up: step 0 predicts with Euler and corrects with the trapezoid, step 1 predicts with
two slopes. f*_1 is then off by h², which enters y only through h f*_1: an error of h³, made once. So the global order
is 3 with ``steps + 1`` evaluations in all, the first at t0, the last at t1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from advect.solvers.along import System
from advect.solvers.fixed import FixedSolver, Trial, advanced
from advect.solvers.grid import Grid
from advect.solvers.ledger import Evaluation


@lru_cache(maxsize=4096)
def adams_weights(nodes: tuple[float, ...], start: float, end: float, fraction: float = 1.0) -> list[float]:
    """Weights w of slopes f at ``nodes``.

    (end − start) Σ w f is the integral, from ``start`` over ``fraction`` of the step to ``end``, of the polynomial
    through the slopes.
    """
    local = (np.asarray(nodes) - start) / (end - start)
    powers = np.arange(1, len(nodes) + 1)
    matrix = np.vander(local, len(nodes), increasing=True).T
    return np.linalg.solve(matrix, fraction**powers / powers).tolist()


@dataclass(frozen=True)
class Adams3(FixedSolver):
    """Third-order Adams–Bashforth–Moulton, PEC. Order 3, one evaluation per step and one more at the start.

    The best of the fixed solvers for smooth fields at 8 to 24 evaluations.
    """

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Predict, evaluate, correct; ``carry`` holds up to three slopes, newest first."""
        start, end = grid.span(number)
        evaluations: list[Evaluation] = []
        if number == 0:
            carry = (system(start, y),)
            evaluations.append((start, y, carry[0]))
        past = tuple(grid.times[number - back] for back in range(len(carry)))
        predicted = advanced(y, adams_weights(past, start, end), carry, end - start)
        slopes = (system(end, predicted), *carry[:2])
        evaluations.append((end, predicted, slopes[0]))
        nodes = (end, *past[:2])

        def integrated(fraction: float) -> Tensor:
            weights: Sequence[float] = adams_weights(nodes, start, end, fraction)
            return advanced(y, weights, slopes, end - start)

        return Trial(integrated(1.0), tuple(evaluations), slopes, integrated)
