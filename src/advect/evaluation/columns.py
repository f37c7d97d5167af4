"""Column by column, and pair of columns by pair: where a difference sits.

The two-sample Kolmogorov–Smirnov statistic of a column is the largest gap between the two empirical distribution
functions, sup_x |F_a(x) − F_b(x)|, between 0 and 1; for n rows each it is about 0.87 √(2/n) by chance alone. The
correlation error is the root mean square difference of the correlation coefficients.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def kolmogorov_smirnov(a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"]) -> Float[Tensor, " dim"]:
    """The statistic of each column, float64; ties and unequal numbers of rows are exact."""
    sorted_a, sorted_b = (x.detach().double().T.contiguous().sort(1).values for x in (a, b))
    points = torch.cat([sorted_a, sorted_b], 1)
    below_a = torch.searchsorted(sorted_a, points, right=True).double() / len(a)
    below_b = torch.searchsorted(sorted_b, points, right=True).double() / len(b)
    return (below_a - below_b).abs().amax(1)


def varying_columns(rows: Float[Tensor, "rows dim"]) -> Bool[Tensor, " dim"]:
    """Which columns take more than one value."""
    return (rows != rows[:1]).any(0)


def correlation_error(a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"]) -> float:
    """RMS difference of the correlations over the pairs of columns that vary in both samples.

    NaN where there is no such pair: a constant column has no correlation, and Kolmogorov–Smirnov sees it already.
    """
    keep = varying_columns(a) & varying_columns(b)
    dim = int(keep.sum())
    if dim < 2:
        return math.nan
    difference = torch.corrcoef(a[:, keep].detach().double().T) - torch.corrcoef(b[:, keep].detach().double().T)
    pairs = torch.triu_indices(dim, dim, offset=1).to(difference.device)
    return math.sqrt(float(difference[pairs[0], pairs[1]].square().mean()))
