"""Kernel distance of two samples of features: unbiased MMD² with a cubic kernel (Bińkowski et al. 2018, arXiv
1801.01401, who call it KID).

    k(x, y) = (xᵀy / d + 1)³,    MMD² = E k(A, A') + E k(B, B') − 2 E k(A, B)

A row with itself is left out, so the estimate is centred on zero for equal distributions at every number of rows, and
may be negative. Its standard error comes from disjoint blocks of rows, each with an estimate of its own.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ShapeError

BLOCKS = 10


def kernel_distance(a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"]) -> float:
    """Unbiased MMD² under the cubic kernel.

    Raises:
        ShapeError: Fewer than two rows on a side, or different features.
    """
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise ShapeError(f"features of shape {tuple(a.shape)} and {tuple(b.shape)}", where="kernel_distance")
    a, b = a.detach().double(), b.detach().double()
    within = 0.0
    for rows in (a, b):
        kernel = _kernel(rows, rows)
        within += float(kernel.sum() - kernel.diagonal().sum()) / (len(rows) * (len(rows) - 1))
    return within - 2 * float(_kernel(a, b).mean())


def kernel_distance_error(
    a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"], *, blocks: int = BLOCKS
) -> float:
    """Standard error of `kernel_distance`: spread over disjoint blocks by the root of their number.

    A block's estimate varies by at least as much as a share of the whole's does, so the error is rather too large than
    too small. NaN where there are too few rows for two blocks of two.
    """
    blocks = min(blocks, len(a) // 2, len(b) // 2)
    if blocks < 2:
        return math.nan
    parts = zip(a.tensor_split(blocks), b.tensor_split(blocks), strict=True)
    values = torch.tensor([kernel_distance(x, y) for x, y in parts], dtype=torch.float64)
    return float(values.std()) / math.sqrt(blocks)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
