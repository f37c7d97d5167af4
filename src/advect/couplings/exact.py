"""The exact assignment: a cheapest permutation of a square matrix of costs.

Where the compiled solver is installed (`kernel`), it is the one that is used. What follows is the plain way, which
needs SciPy alone and gives the same costs (of several cheapest permutations either may be returned).

It is SciPy's shortest augmenting path, made fast by a warm start. Adding potentials to the rows and columns of
the cost leaves every optimal permutation optimal, and from nearly dual-optimal potentials the augmenting paths are
a few edges long. They come from thirty rounds of Sinkhorn in float32 at falling regularisation; being a start only,
they may be as rough as they like. Milliseconds on one core of a small x86-64 server, median of several runs:

    rows, dimension, data             SciPy alone   network simplex (POT)   warm start + SciPy
     64,  2, 8 Gaussians                     0.24                    0.29         0.18 +  0.02
    128,  2, 8 Gaussians                     1.7                                  0.26 +  0.09
    256,  2, 8 Gaussians                     9.4                     4.1          0.55 +  0.43
    512,  2, 8 Gaussians                    64                      18            1.6  +  2.8
    256, 64, two clusters                    4.3                     3.6          0.55 +  0.38
    512, 64, two clusters                   18                      20            1.7  +  1.8
    512,  3, Student t (1.2)                52                                    1.7  +  9.9
   2000,  2, 8 Gaussians                  3060                                   27    +  112

so it serves every size and dimension; below 64 rows SciPy alone is as fast. The compiled solver
is measured in rows A1 to A4 of the speed suite (`benchmarks/speed/assignment.py`).
"""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from advect.couplings import kernel

# Falling regularisation, as a share of a typical cost above the cheapest; ten Sinkhorn rounds each. Both were measured
# (table above): finer last levels cost more than the paths they save, coarser ones leave the paths long.
_LEVELS = (0.1, 0.02, 0.004)
_ROUNDS = 10
_SMALLEST_WARM = 64


def _column_potentials(cost: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " columns"]:
    """Nearly dual-optimal column potentials by Sinkhorn at falling regularisation (Peyré & Cuturi 1803.00567, §4.4)."""
    cheapest = cost.min(0)
    # The median over a few rows: a mean would let one outlying row set the scale for all others.
    some = cost[:: max(1, len(cost) // 16)] - cheapest
    scale = float(np.median(some - some.min(1, keepdims=True)))
    if not 1e-38 < scale < math.inf:
        return cheapest

    # In units of the scale float32 will do; what lies beyond its range is never chosen.
    excess = np.minimum((cost - cheapest) / scale, 1e30).astype(np.float32)
    potential = np.zeros(cost.shape[1], np.float32)
    kernel = np.empty_like(excess)
    for level in _LEVELS:
        epsilon = np.float32(level)
        np.subtract(potential, excess, out=kernel)
        kernel -= kernel.max(1, keepdims=True)
        kernel /= epsilon
        np.exp(kernel, out=kernel)
        columns = np.ones_like(potential)
        for _ in range(_ROUNDS):
            rows = 1 / np.maximum(kernel @ columns, np.float32(1e-30))
            columns = 1 / np.maximum(rows @ kernel, np.float32(1e-30))
        potential = potential + epsilon * np.log(columns)
    return cheapest + scale * potential.astype(np.float64)


def solve_assignment(cost: Float[np.ndarray, "rows rows"], *, tolerance: float = 0.0) -> Int[np.ndarray, " rows"]:
    """The column given to each row by a cheapest one-to-one assignment; exact to the rounding of float64.

    Args:
        cost: Finite, any sign. It is overwritten where that saves a copy.
        tolerance: Leave to stop where the cost is known to be at most this share of itself above the best. Only the
            compiled solver makes use of it.
    """
    solved = kernel.solve(np.ascontiguousarray(cost, np.float64), tolerance=tolerance)
    return solve_plainly(cost) if solved is None else solved.columns


def solve_plainly(cost: Float[np.ndarray, "rows rows"]) -> Int[np.ndarray, " rows"]:
    """The same by SciPy, whatever is installed."""
    if len(cost) >= _SMALLEST_WARM:
        cost -= _column_potentials(cost)
    return linear_sum_assignment(cost)[1]
