"""Maximum mean discrepancy with Gaussian kernels (Gretton et al. 2012, "A kernel two-sample test", eq. 3).

    MMD² = E k(A, A') + E k(B, B') − 2 E k(A, B),   k(x, y) = mean over h of exp(−|x − y|²/(2h²))

The unbiased estimate leaves out a row with itself: it is centred on zero for equal distributions and may be negative.
The bandwidths h are multiples of the median distance between rows, so that one of them fits whatever the dimension.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from advect.couplings import centred_rows, squared_cost
from advect.errors import ConfigError, ShapeError

MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the median distance."""

_MEDIAN_ROWS = 1000


def median_distance(rows: Float[Tensor, "rows dim"]) -> float:
    """Median distance between unequal rows of the first 1000; 1 where all rows are equal."""
    flat = centred_rows(rows[:_MEDIAN_ROWS], rows[:_MEDIAN_ROWS])[0]
    distances = torch.pdist(flat)
    distances = distances[distances > 0]
    return float(distances.median()) if len(distances) else 1.0


def median_bandwidths(rows: Float[Tensor, "rows dim"]) -> tuple[float, ...]:
    """`MULTIPLES` of the `median_distance`."""
    median = median_distance(rows)
    return tuple(multiple * median for multiple in MULTIPLES)


def _mean_kernel(
    squared: Float[Tensor, "rows_a rows_b"], bandwidths: Sequence[float]
) -> Float[Tensor, "rows_a rows_b"]:
    """The kernel at given squared distances. Halving a bandwidth is a fourth power, cheaper than an exponential."""
    widths = sorted(bandwidths, reverse=True)
    kernel = torch.exp(squared / (-2 * widths[0] ** 2))
    total = kernel.clone()
    for wider, width in pairwise(widths):
        kernel = kernel.square().square() if wider == 2 * width else torch.exp(squared / (-2 * width**2))
        total += kernel
    return total / len(widths)


def mmd_squared(
    a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"], *, bandwidths: Sequence[float] | None = None
) -> float:
    """Unbiased MMD²; between −2/(rows − 1) or so and 2.

    Args:
        a: At least two rows.
        b: At least two rows.
        bandwidths: Widths h > 0 in the units of the rows; by default `median_bandwidths` of ``b``. Figures are
            comparable only under equal bandwidths.

    Raises:
        ShapeError: Fewer than two rows on a side.
        ConfigError: No bandwidth, or one that is not positive.
    """
    if len(a) < 2 or len(b) < 2:
        raise ShapeError(f"{len(a)} and {len(b)} rows", where="mmd_squared", remedy="Give at least two on each side.")
    bandwidths = median_bandwidths(b) if bandwidths is None else bandwidths
    if not bandwidths or not all(h > 0 for h in bandwidths):
        raise ConfigError(f"bandwidths are {tuple(bandwidths)}, but must be positive", where="mmd_squared")
    flat_a, flat_b = centred_rows(a, b)
    within = 0.0
    for rows in (flat_a, flat_b):
        kernel = _mean_kernel(squared_cost(rows, rows), bandwidths)
        within += float(kernel.sum() - kernel.diagonal().sum()) / (len(rows) * (len(rows) - 1))
    return within - 2 * float(_mean_kernel(squared_cost(flat_a, flat_b), bandwidths).mean())
