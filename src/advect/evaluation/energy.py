"""Energy distance (Székely & Rizzo 2013, "Energy statistics"; Baringhaus & Franz 2004).

    D² = 2 E|A − B| − E|A − A'| − E|B − B'|

zero exactly when the distributions agree, with no parameter to choose. The sample version with all pairs (also a row
with itself) is never negative; its expectation for equal distributions is of order 1/rows, hence a floor.
"""

import math

from jaxtyping import Float
from torch import Tensor

from advect.couplings import centred_rows, distance_cost

_BLOCK = 2048  # rows per block: 32 MiB of distances to 2048 others


def mean_distance(a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"]) -> float:
    """Mean |a_i − b_j| over all pairs, in blocks; float64 rows near the origin are expected."""
    total = sum(float(distance_cost(rows, others).sum()) for rows in a.split(_BLOCK) for others in b.split(_BLOCK))
    return total / (len(a) * len(b))


def energy_distance(a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"]) -> float:
    """D, the root of D²; in 1-D equal to ``scipy.stats.energy_distance``. A shift by a small m gives a D near ∝ |m|."""
    flat_a, flat_b = centred_rows(a, b)
    squared = 2 * mean_distance(flat_a, flat_b) - mean_distance(flat_a, flat_a) - mean_distance(flat_b, flat_b)
    return math.sqrt(max(squared, 0.0))
