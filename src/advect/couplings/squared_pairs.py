"""Pairs by squared distance through the compiled solver: nothing but one matrix product and the assignment.

|x0 − x1|² = |x0|² + |x1|² − 2 x0·x1 needs the products of all rows; the solver joins the norms to them. Of few
coordinates it takes the differences themselves, in float64 whatever the tolerance: that is faster than a product.

- **Exactly** (`tolerance` 0): float64 throughout, as `cost.squared_cost` computes it.
- **To a tolerance**: products in float32, and in bfloat16 from `_SMALLEST_ROUGH` coordinates on where the processor
  multiplies it. Rows are moved to their common centre first. Norms are those of the float32 rows: only the product
  is rounded to 8 bits, which moves a cost by at most about 0.6 % of |x0|² + |x1|², and as often up as down. Where
  what float32 rounds away is no longer small beside the tolerance (pairs much nearer to one another than to the
  centre), the answer is computed anew in float64; where the cost of the pairs shows that bfloat16 rounds away too much
  (rows far from the centre with partners of their own), in float32.

The mean cost is that of the rows as they are, or as float32 holds them, never of products in bfloat16.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from advect.couplings.cost import centred_rows, check_finite
from advect.couplings.kernel import Solved, rounded_distances, rounded_rows, solve, solve_points, total_apart

_SMALLEST_ROUGH = 256
FEW_COORDINATES = 8
# Rows of each side that say where the centre is.
_FOR_CENTRE = 64
# Pairs of rounded costs are taken where the gap to their dual numbers is at most so many times the tolerance.
_OVER = 1.1
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
    x0: Float[Tensor, "rows ..."], x1: Float[Tensor, "rows ..."], *, tolerance: float = 0.0, where: str = "pair_squared"
) -> SquaredPairs | None:
    """Pair equally many rows at least total squared distance, or within ``tolerance`` of it.

    Returns: None where there is no compiled solver, or fewer than two rows.

    Raises:
        DataError: Rows that are not finite. Where costs are made of them in one pass they show by themselves.
    """
    if x1.numel() <= FEW_COORDINATES * len(x1):
        solved = solve_points(x1, x0, tolerance=tolerance)
        if solved is not None:
            return _pairs(solved)
    if tolerance > 0:
        found = _rough(x0, x1, tolerance)
        if found is not None:
            return found
    check_finite(x0, x1, where)
    flat0, flat1 = (x.cpu() for x in centred_rows(x0, x1))
    costs = _costs(flat0, flat1)
    solved = solve(costs.matrix, norms=costs.norms, tolerance=tolerance)
    return None if solved is None else _pairs(solved)


def _pairs(solved: Solved) -> SquaredPairs:
    mean_cost = solved.total / len(solved.columns)
    return SquaredPairs(torch.from_numpy(solved.columns), mean_cost, solved.mean, solved.relative_gap)


def _rough(x0: Tensor, x1: Tensor, tolerance: float) -> SquaredPairs | None:
    """The same on float32 costs, None where these are too rough (or there is no solver)."""
    flat0, flat1 = _single(x0, x1)
    if flat1.shape[1] >= _SMALLEST_ROUGH:
        costs = _rounded_costs(flat0, flat1)
        found = None if costs is None else _of_costs(costs, tolerance, (flat0, flat1))
        if found is not None and found.relative_gap <= _OVER * tolerance:
            return found
    return _of_costs(_costs(*_moved(flat0, flat1)), tolerance, None)


def _of_costs(costs: "_Costs", tolerance: float, ends: tuple[Tensor, Tensor] | None) -> SquaredPairs | None:
    """The pairs of float32 costs; ``ends`` are the rows where the costs were made of rounded ones."""
    if not _SMALLEST_NORM < costs.spread < _LARGEST_NORM:
        return None
    solved = solve(costs.matrix, norms=costs.norms, tolerance=tolerance)
    if solved is None:
        return None

    index0, total = torch.from_numpy(solved.columns), solved.total
    if ends is not None:
        total = total_apart(*ends, index0)
    if 2 * _ROUNDING * costs.spread * len(index0) > tolerance / 10 * total:
        return None
    gap = max(solved.gap + total - solved.total, 0.0) / total
    return SquaredPairs(index0, total / len(index0), solved.mean, gap)


def _single(x0: Tensor, x1: Tensor) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"]]:
    """Flat rows in float32 on the CPU, without a graph. What float64 holds is moved first, or it could be lost."""
    flat0, flat1 = (x.detach().reshape(len(x), -1) for x in (x0, x1))
    if flat0.is_cpu and flat1.is_cpu and flat0.dtype == flat1.dtype == torch.float32:
        return flat0, flat1
    if torch.float64 in (flat0.dtype, flat1.dtype):
        flat0, flat1 = _moved(flat0.cpu().double(), flat1.cpu().double())
    return flat0.float().cpu(), flat1.float().cpu()


def _moved(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    centre = _middle(x0, x1)
    return x0 - centre, x1 - centre


def _middle(x0: Float[Tensor, "rows dim"], x1: Float[Tensor, "rows dim"]) -> Float[Tensor, " dim"]:
    """About the centre of both, from some rows of each: distances are the same about any point near it."""
    step = max(1, len(x1) // _FOR_CENTRE)
    some0, some1 = x0[::step], x1[::step]
    return (some0.sum(0) + some1.sum(0)) / (2 * len(some1))


@dataclass(frozen=True)
class _Costs:
    """Distances, or products and the norms to complete them; ``spread`` is the mean of |x0|² + |x1|²."""

    matrix: Float[np.ndarray, "rows rows"]
    norms: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]] | None
    spread: float


def _rounded_costs(x0: Tensor, x1: Tensor) -> _Costs | None:
    """By products of bfloat16 numbers, compiled or torch's; None where the processor has neither."""
    found = rounded_distances(x1, x0)
    if found is not None:
        return _Costs(found[0], None, found[1])
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    centre = _middle(x0, x1)
    (near0, norm0), (near1, norm1) = rounded_rows(x0, centre), rounded_rows(x1, centre)
    return _joined((near1 @ near0.T).float(), norm1, norm0)


def _costs(x0: Float[Tensor, "rows dim"], x1: Float[Tensor, "rows dim"]) -> _Costs:
    return _joined(x1 @ x0.T, x1.square().sum(1), x0.square().sum(1))


def _joined(products: Tensor, row_norms: Tensor, column_norms: Tensor) -> _Costs:
    spread = float(row_norms.sum() + column_norms.sum()) / len(products)
    return _Costs(np.ascontiguousarray(products.numpy()), (row_norms.numpy(), column_norms.numpy()), spread)
