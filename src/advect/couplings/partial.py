"""Partial transport: only a share of the mass is moved, the cheapest (Figalli 2010, "The optimal partial transport
problem").

Outliers and populations that exist on one side only need not be matched with anything: the plan leaves the pairs out
that would cost most. Both marginals are then bent towards what the other side has, which is the point, and the reason
to ask for it by name.

With n rows on both sides and k = round(share · n) pairs it is an assignment again: n − k dummy rows on each side take
real rows for nothing, and a dummy never takes a dummy (Chapel et al. 2020, "Partial optimal transport with applications
on positive-unlabeled learning", 2002.08276).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings.cost import GroundCost, check_rows, ground_cost
from advect.couplings.exact import solve_assignment
from advect.couplings.in_batch import InBatch
from advect.errors import ConfigError, ShapeError
from advect.records import Pairs


@dataclass(frozen=True)
class Partial(InBatch):
    """The cheapest pairing of a share of the rows; the others keep a place in the batch with weight zero.

    Attributes:
        share: Of the rows that are paired, above 0 and at most 1 (then it is `Assignment`).
        cost: As for `Assignment`.
    """

    share: float
    cost: str | GroundCost = "squared"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"share is {self.share}, but must lie above 0 and be at most 1",
                where="Partial",
                remedy="0.9 leaves out the tenth of the rows that would travel farthest.",
            )
        ground_cost(self.cost, "Partial(cost=…)")

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Pair ``round(share · rows)`` rows, at least one, at least total cost.

        Returns: Data rows in place, weights 1 for paired rows and 0 for the others, which hold the source rows left
            over; the report holds ``mean_cost`` over the pairs, ``independent_cost`` and ``paired``, the share of
            rows.

        Raises:
            ShapeError: Different event shapes or numbers of rows, or no rows.
            DataError: Rows that are not finite.
        """
        check_rows(x0, x1, "Partial.draw")
        rows = len(x1)
        if len(x0) != rows:
            raise ShapeError(
                f"{len(x0)} source rows and {rows} data rows",
                where="Partial.draw",
                remedy="Draw equally many rows from both sides.",
            )
        matrix = ground_cost(self.cost, "Partial")(x0, x1).T.cpu().numpy()
        spare = rows - max(1, round(self.share * rows))
        wide = np.zeros((rows + spare, rows + spare))
        wide[:rows, :rows] = matrix - matrix.min()
        # More than any plan can save by pairing two dummies.
        wide[rows:, rows:] = (wide.max() + 1) * (rows + spare)
        columns = solve_assignment(wide)[:rows]

        paired = columns < rows
        left = np.setdiff1d(np.arange(rows), columns[paired])
        index0 = columns.copy()
        index0[~paired] = left
        weight = torch.from_numpy(paired).to(x1.device, x1.dtype)
        report = {
            "mean_cost": float(matrix[np.arange(rows), index0][paired].mean()),
            "independent_cost": float(matrix.mean()),
            "paired": float(paired.mean()),
        } | ({} if condition is None else {"ignored_condition": 1.0})
        return Pairs(torch.from_numpy(index0).to(x1.device), torch.arange(rows, device=x1.device), weight, report)
