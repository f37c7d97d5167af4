"""Pairs by squared distance through the compiled solver: nothing but one matrix product and the assignment.

|x0 − x1|² = |x0|² + |x1|² − 2 x0·x1 needs the products of all rows; the solver joins the norms to them. Of few
coordinates it takes the differences themselves, in float64 whatever the tolerance: that is faster than a product.

- **Exactly** (`tolerance` 0): float64 throughout, as `cost.squared_cost` computes it.
- **To a tolerance**: products in float32, and in bfloat16 from `_SMALLEST_ROUGH` coordinates on where the processor
  multiplies it. Rows are moved to their common centre first. Norms are those of the float32 rows: only the product
  is rounded to 8 bits, which moves a cost by at most about 0.6 % of |x0|² + |x1|², and as often up as down. Where
  what float32 rounds away is no longer small beside the tolerance (pairs much nearer to one another than to the
  centre), the answer is computed anew in float64.

The mean cost is that of the rows as they are, or as float32 holds them, never of products in bfloat16.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from advect.couplings.cost import centred_rows
from advect.couplings.kernel import Solved, rounded_rows, solve, solve_points, total_apart

_SMALLEST_ROUGH = 256
FEW_COORDINATES = 8
# Each cost carries a few roundings of float32 of |x0|² + |x1|²; they may use up a tenth of the tolerance.
_ROUNDING = 2.0**-22
# Between these float32 squares of rows neither vanish nor overflow.
_SMALLEST_NORM, _LARGEST_NORM = 1e-18, 1e18


@dataclass(frozen=True)
class SquaredPairs:
    """A pairing by squared distance.

    Attributes:
        index0: ``(rows,)`` the source row of each data row, on the CPU.
        mean_cost: Of the pairs.
        independent_cost: The mean over all pairs of rows, as the solver saw them.
        relative_gap: What the mean cost may lie above the best, as a share of it, by the dual numbers of the solver.
    """

    index0: Int[Tensor, " rows"]
    mean_cost: float
    independent_cost: float
    relative_gap: float


def pair_squared(
    x0: Float[Tensor, "rows ..."], x1: Float[Tensor, "rows ..."], *, tolerance: float = 0.0
) -> SquaredPairs | None:
    """Pair equally many rows at least total squared distance, or within ``tolerance`` of it.

    Returns: None where there is no compiled solver, or fewer than two rows.
    """
    if x1[0].numel() <= FEW_COORDINATES:
        found = _of_points(x0, x1, tolerance)
        if found is not None:
            return found
    if tolerance > 0:
        found = _rough(x0, x1, tolerance)
        if found is not None:
            return found
    flat0, flat1 = (x.cpu() for x in centred_rows(x0, x1))
    norm0, norm1 = flat0.square().sum(1), flat1.square().sum(1)
    solved = _solve(flat1 @ flat0.T, norm1, norm0, tolerance)
    if solved is None:
        return None
    mean_cost = solved.total / len(flat1)
    return SquaredPairs(torch.from_numpy(solved.columns), mean_cost, solved.mean, solved.relative_gap)


def _of_points(x0: Tensor, x1: Tensor, tolerance: float) -> SquaredPairs | None:
    """The same with the costs made by the solver, from differences in float64; None where it cannot."""
    flat0, flat1 = (_in_numpy(x) for x in (x0, x1))
    solved = solve_points(
        np.ascontiguousarray(flat1, np.float64), np.ascontiguousarray(flat0.T, np.float64), tolerance=tolerance
    )
    if solved is None:
        return None
    mean_cost = solved.total / len(flat1)
    return SquaredPairs(torch.from_numpy(solved.columns), mean_cost, solved.mean, solved.relative_gap)


def _in_numpy(x: Float[Tensor, "rows ..."]) -> Float[np.ndarray, "rows dim"]:
    """Flat rows in a precision that NumPy has."""
    x = x.detach().cpu()
    return (x if x.dtype in (torch.float32, torch.float64) else x.double()).numpy().reshape(len(x), -1)


def _rough(x0: Tensor, x1: Tensor, tolerance: float) -> SquaredPairs | None:
    """The same on float32 costs, None where these are too rough (or there is no solver)."""
    flat0, flat1 = (x.detach().reshape(len(x), -1).cpu() for x in (x0, x1))
    flat0, flat1 = (x if x.dtype == torch.float64 else x.float() for x in (flat0, flat1))
    centre = (flat0.sum(0) + flat1.sum(0)) / (2 * len(flat1))
    rounded = flat1.shape[1] >= _SMALLEST_ROUGH and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not rounded or centre.dtype == torch.float64:
        flat0, flat1 = (flat0 - centre).float(), (flat1 - centre).float()
        centre = centre.new_zeros(centre.shape, dtype=torch.float32)
    if rounded:
        (near0, norm0), (near1, norm1) = rounded_rows(flat0, centre), rounded_rows(flat1, centre)
    else:
        near0, near1, norm0, norm1 = flat0, flat1, flat0.square().sum(1), flat1.square().sum(1)
    spread = float(norm0.sum() + norm1.sum()) / len(flat1)
    if not _SMALLEST_NORM < spread < _LARGEST_NORM:
        return None
    solved = _solve((near1 @ near0.T).float(), norm1, norm0, tolerance)
    if solved is None:
        return None

    index0, total = torch.from_numpy(solved.columns), solved.total
    if rounded:
        total = total_apart(flat0, flat1, index0)
    if 2 * _ROUNDING * spread * len(flat1) > tolerance / 10 * total:
        return None
    gap = max(solved.gap + total - solved.total, 0.0) / total
    return SquaredPairs(index0, total / len(flat1), solved.mean, gap)


def _solve(
    products: Float[Tensor, "rows rows"],
    row_norms: Float[Tensor, " rows"],
    column_norms: Float[Tensor, " rows"],
    tolerance: float,
) -> Solved | None:
    matrix = np.ascontiguousarray(products.numpy())
    return solve(matrix, norms=(row_norms.numpy(), column_norms.numpy()), tolerance=tolerance)
