"""Transport that minds a continuous condition (Cheng & Schwing, "C2OT", 2503.10636).

A sampler asks for one condition and starts from the whole source. Transport of whole batches would give each
condition its own part of the source, and leave the field untrained elsewhere. Here every source row is given a
condition too, drawn at random from those of the batch, so that source and condition are independent; then rows are
paired at least cost

    |x0 − x1|² + w |c0 − c1|²

As w → ∞ only equal conditions are paired, and the pairing is independent of x; as w → 0 it is transport of the whole
batch. Between them lies the plan that is straight *and* leaves the source nearly independent of the condition: w
makes a mismatch of ``bandwidth`` typical distances of two conditions cost as much as two rows at random are apart.
Conditions are compared after scaling each of their numbers to unit variance in the batch.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings.cost import GroundCost, centred_rows, check_rows, ground_cost, squared_cost
from advect.couplings.draws import need_generator, permutation
from advect.couplings.exact import solve_assignment
from advect.couplings.in_batch import InBatch
from advect.errors import ConfigError, ShapeError
from advect.records import Pairs


@dataclass(frozen=True)
class Conditioned(InBatch):
    """Exact transport on the cost of rows and conditions together.

    Attributes:
        bandwidth: Of the conditions, as a share of their typical distance: small keeps the source independent of the
            condition, large makes the ways straight.
        cost: Of the rows, as for `Assignment`.
    """

    bandwidth: float = 0.05
    cost: str | GroundCost = "squared"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ConfigError(f"bandwidth is {self.bandwidth}, but must be a positive number", where="Conditioned")
        ground_cost(self.cost, "Conditioned(cost=…)")

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Pair every row once; without a condition it is `Assignment`.

        Returns: Data rows in place. The report holds ``mean_cost`` and ``independent_cost`` of the rows alone, and
            ``condition_mismatch``, the root-mean-square distance of paired conditions as a share of that of two at
            random.

        Raises:
            ShapeError: Different event shapes or numbers of rows, or no rows.
            DataError: Rows that are not finite.
            ConfigError: A condition without a generator.
        """
        check_rows(x0, x1, "Conditioned.draw")
        rows = len(x1)
        if len(x0) != rows or (condition is not None and len(condition) != rows):
            given = "" if condition is None else f" and {len(condition)} conditions"
            raise ShapeError(
                f"{len(x0)} source rows, {rows} data rows{given}",
                where="Conditioned.draw",
                remedy="Give equally many of each.",
            )
        matrix = ground_cost(self.cost, "Conditioned")(x0, x1).T
        total, apart = matrix, torch.zeros_like(matrix)
        if condition is not None:
            generator = need_generator(generator, "Conditioned.draw")
            given, _ = centred_rows(condition, condition)
            given = given / given.std(0).clamp(min=torch.finfo(given.dtype).tiny)
            apart = squared_cost(given, given[permutation(rows, generator, given.device)])
            typical = apart.mean().clamp(min=torch.finfo(apart.dtype).tiny)
            total = matrix + matrix.mean() / (self.bandwidth**2 * typical) * apart
        index0 = torch.from_numpy(solve_assignment(total.cpu().numpy().copy())).to(x1.device)
        index1 = torch.arange(rows, device=x1.device)
        report = {"mean_cost": float(matrix[index1, index0].mean()), "independent_cost": float(matrix.mean())}
        if condition is not None:
            mismatch = apart[index1, index0].mean() / apart.mean().clamp(min=torch.finfo(apart.dtype).tiny)
            report["condition_mismatch"] = float(mismatch.sqrt())
        return Pairs(index0, index1, report=report)
