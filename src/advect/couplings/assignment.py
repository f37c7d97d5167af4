"""Exact optimal transport inside a batch: the coupling of OT-CFM (Tong et al. 2302.00482, Table 1).

Between equally many rows of equal weight an optimal plan is a permutation (Birkhoff), and the linear assignment problem
min_π Σ_j c(x0_{π(j)}, x1_j) gives it. Each source and each data row is used exactly once; drawing pairs *from* the
plan with replacement, as published tables did, loses about 37 % of the data rows of a batch (1/e).

A plan need not be the very best: with a `tolerance` the solver stops where the dual numbers show that it is near
enough, and the costs may be rounded (`squared_pairs`).

Up to `exact_rows` rows the assignment is exact (`exact`); a larger set is paired by local repairs (`bijection`), whose
matrix would not fit into memory, and the report holds a bound on what that can have lost (`bounds`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.couplings.bijection import solve_bijection
from advect.couplings.bounds import lower_bound
from advect.couplings.cost import GroundCost, check_finite, check_shapes, ground_cost
from advect.couplings.draws import integers, need_generator
from advect.couplings.exact import solve_assignment
from advect.couplings.in_batch import InBatch
from advect.couplings.squared_pairs import pair_squared
from advect.errors import ConfigError, ShapeError
from advect.records import Pairs


@dataclass(frozen=True)
class Assignment(InBatch):
    """Exact optimal transport between the rows of a batch.

    Attributes:
        replacement: Draw as many pairs as there are data rows from the plan, with replacement (the protocol of
            published tables), instead of using each data row once.
        cost: ``squared`` (Wasserstein-2), ``distance`` (Wasserstein-1), or any function of two sets of rows, see
            `cost`.
        exact_rows: Most rows that are paired exactly; more are paired by local repairs, which needs a generator.
        tolerance: How far the mean cost of a plan may lie above the best, as a share of itself; 0 is exact. Without the
            compiled solver every plan is exact.

    Unequal numbers of rows are accepted where one is a multiple of the other. The balanced plan is then still an
    assignment, of copies: with k source rows per data row, each data row is served by k of them and one is drawn at
    random; with k data rows per source row, each source row serves k data rows. Other numbers are refused: leaving
    rows out would keep the cheap ones and bend both distributions (`Partial` does so by name).
    """

    replacement: bool = False
    cost: str | GroundCost = "squared"
    exact_rows: int = 4096
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ConfigError(
                f"tolerance is {self.tolerance}, but must be at least 0 and below 1",
                where="Assignment",
                remedy="0 is exact; 0.01 allows a mean cost one per cent above the best.",
            )
        ground_cost(self.cost, "Assignment(cost=…)")

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Pair the rows at least total cost.

        Without replacement each data row keeps its place (``index1`` counts up). A condition is not looked at, which
        bends the source given the condition; the report then carries ``ignored_condition``. Wrap the coupling as
        ``Classwise(Assignment())`` to pair inside each class.

        Returns:
            Indices on the device of ``x1``; the report holds ``mean_cost`` of the plan, ``independent_cost`` of
            pairing at random, and, with the compiled solver and the ``squared`` cost, ``relative_gap``, the share of
            the mean cost that it can lie above the best by the solver's dual numbers. For more than `exact_rows` rows
            it holds ``lower_bound`` of the mean cost of any plan (where the cost is ``squared``) and ``exact`` 0.

        Raises:
            ShapeError: Different event shapes, no rows, numbers of rows of which neither divides the other.
            DataError: Rows that are not finite.
            ConfigError: A random choice is needed and there is no generator.
        """
        check_shapes(x0, x1, "Assignment.draw")
        num0, num1 = len(x0), len(x1)
        if num0 % num1 and num1 % num0:
            raise ShapeError(
                f"{num0} source rows and {num1} data rows: neither number is a multiple of the other",
                where="Assignment.draw",
                remedy="Draw equally many rows from both sides.",
            )
        if max(num0, num1) > self.exact_rows:
            index0, report = self._repaired(x0, x1, generator)
        else:
            index0, report = self._exact(x0, x1, generator)
        index1 = torch.arange(num1, device=index0.device)
        report |= {} if condition is None else {"ignored_condition": 1.0}

        if self.replacement:
            generator = need_generator(generator, "Assignment(replacement=True).draw")
            index1 = integers(num1, num1, generator, index1.device)
            index0 = index0[index1]
        return Pairs(index0.to(x1.device), index1.to(x1.device), report=report)

    def _exact(
        self, x0: Tensor, x1: Tensor, generator: Generator | None
    ) -> tuple[Int[Tensor, " data"], dict[str, float]]:
        """The source row of each data row by the exact assignment; copies make the numbers equal."""
        if self.cost == "squared" and len(x0) == len(x1):
            found = pair_squared(x0, x1, tolerance=self.tolerance, where="Assignment.draw")
            if found is not None:
                return found.index0, {
                    "mean_cost": found.mean_cost,
                    "independent_cost": found.independent_cost,
                    "relative_gap": found.relative_gap,
                }
        check_finite(x0, x1, "Assignment.draw")
        matrix = ground_cost(self.cost, "Assignment")(x0, x1).T.cpu()
        index0 = self._plan(matrix.contiguous(), len(x0), len(x1), generator)
        chosen = matrix[torch.arange(len(x1)), index0]
        return index0, {"mean_cost": float(chosen.mean()), "independent_cost": float(matrix.mean())}

    def _plan(
        self, matrix: Float[Tensor, "data source"], num0: int, num1: int, generator: Generator | None
    ) -> Int[Tensor, " data"]:
        square = matrix.numpy()
        if num0 == num1:
            return torch.from_numpy(self._columns(square.copy()))
        if num1 > num0:
            columns = self._columns(np.tile(square, (1, num1 // num0)))
            return torch.from_numpy(columns % num0)
        copies = num0 // num1
        generator = need_generator(generator, f"Assignment.draw with {num0} source rows for {num1} data rows")
        served = torch.from_numpy(self._columns(np.repeat(square, copies, axis=0))).reshape(num1, copies)
        return served[torch.arange(num1), integers(copies, num1, generator, served.device)]

    def _columns(self, matrix: Float[np.ndarray, "rows rows"]) -> Int[np.ndarray, " rows"]:
        return solve_assignment(matrix, tolerance=self.tolerance)

    def _repaired(
        self, x0: Tensor, x1: Tensor, generator: Generator | None
    ) -> tuple[Int[Tensor, " data"], dict[str, float]]:
        """The same for many rows, by local repairs, with what is known about the loss."""
        check_finite(x0, x1, "Assignment.draw")
        num0, num1 = len(x0), len(x1)
        generator = need_generator(generator, f"Assignment.draw with more than {self.exact_rows} rows")
        cost = ground_cost(self.cost, "Assignment")
        many0 = x0.repeat(max(1, num1 // num0), *[1] * (x0.ndim - 1))
        many1 = x1.repeat_interleave(max(1, num0 // num1), dim=0)
        found = solve_bijection(many0, many1, cost, generator=generator)
        report = {
            "mean_cost": found.mean_cost,
            "independent_cost": _independent_cost(x0, x1, cost, generator),
            "exact": 0.0,
        }
        if self.cost == "squared":
            report["lower_bound"] = lower_bound(many0, many1, generator=generator)
        if num0 <= num1:
            return found.index0 % num0, report
        served = found.index0.reshape(num1, num0 // num1)
        return served[torch.arange(num1), integers(num0 // num1, num1, generator, served.device)], report


def _independent_cost(x0: Tensor, x1: Tensor, cost: GroundCost, generator: Generator) -> float:
    """The mean cost of pairing at random, from at most a thousand rows of each side."""
    some0, some1 = (x[integers(len(x), min(len(x), 1000), generator, x.device)] for x in (x0, x1))
    return float(cost(some0, some1).mean())
