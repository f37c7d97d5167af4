"""Rows that have a condition of numbers beside them, as further coordinates of their cost:

    |x0 − x1|² + w |c0 − c1|²,   w so that a mismatch of ``bandwidth`` typical distances of two conditions costs as much
                                 as two rows at random are apart (Cheng & Schwing, "C2OT", 2503.10636), or in an
                                 unbalanced plan as mass does, if that is less

Any coupling by squared distances acts on such rows.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings.cost import centred_rows
from advect.couplings.unbalanced import Unbalanced
from advect.records import Pairs
from advect.typing import Coupling

_SAME = 1e-12  # a typical squared distance of scaled conditions below which they do not differ


@dataclass(frozen=True)
class Beside:
    """How rows and their conditions are compared together.

    Attributes:
        inner: Pairs such rows.
        scale: ``(condition,)`` what the numbers of a condition are multiplied by before they are compared.
        weight: ``(condition,)`` what they are multiplied by beside a row.
        apart: The mean cost of two rows at random.
        typical: Mean squared distance of two scaled conditions at random.
    """

    inner: Coupling
    scale: Tensor
    weight: Tensor
    apart: float
    typical: float

    @classmethod
    def of(
        cls,
        inner: Coupling,
        scale: Float[Tensor, " condition"],
        bandwidth: float,
        *,
        rows: tuple[Tensor, Tensor],
        given: tuple[Tensor, Tensor],
    ) -> "Beside":
        """For two populations.

        Args:
            inner: Pairs the rows; its costs are squared distances.
            scale: As above.
            bandwidth: As above.
            rows: ``(n0, …)`` and ``(n1, …)``.
            given: ``(n0, condition)`` and ``(n1, condition)`` their conditions.
        """
        given0, given1 = (c.detach().double() * scale.double().to(c.device) for c in given)
        apart, typical = (
            _mean_cost(*centred_rows(*rows)),
            max(_mean_cost(given0, given1), torch.finfo(torch.float64).tiny),
        )
        dear = apart
        if isinstance(inner, Unbalanced):
            # What mass costs is a share of what rows cost, without their conditions. Nothing is moved that costs far
            # more than mass does: conditions must be able to differ by as much as they do in pairs for less than that.
            inner, dear = replace(inner, unit=apart), min(1.0, inner.relaxation) * apart
        weight = math.sqrt(dear / typical) / bandwidth if typical > _SAME else 0.0
        scale = scale.double().cpu()
        return cls(inner, scale, weight * scale, apart, typical)

    def together(self, rows: Float[Tensor, "n dim"], given: Float[Tensor, "n condition"]) -> Tensor:
        """``(n, dim + condition)`` rows and conditions side by side."""
        return torch.cat([rows, (self.weight.to(given.device) * given.detach().double()).to(rows.device)], 1)

    def draw(self, x0: Tensor, x1: Tensor, given: tuple[Tensor, Tensor], generator: Generator | None = None) -> Pairs:
        """Pairs by the inner coupling. The report is of rows alone, with ``condition_mismatch``, the root-mean-square
        distance of paired conditions as a share of that of two at random.

        Args:
            x0: ``(n0, …)`` source rows.
            x1: ``(n1, …)`` data rows.
            given: ``(n0, condition)`` and ``(n1, condition)`` their conditions.
            generator: Of the inner coupling.
        """
        rows0, rows1 = centred_rows(x0, x1)
        given0, given1 = (c.detach().double() for c in given)
        pairs = self.inner.draw(self.together(rows0, given0), self.together(rows1, given1), generator=generator)
        index0, index1 = pairs.index0.to(x1.device), pairs.index1.to(x1.device)
        mass = None if pairs.weight is None else pairs.weight.to(x1.device, x1.dtype)
        share = torch.ones_like(index1, dtype=torch.float64) if mass is None else mass.double()
        missed = (self.scale.to(given0.device) * (given0[index0] - given1[index1])).square().sum(1)
        figures = {
            "mean_cost": _over(share, (rows0[index0] - rows1[index1]).square().sum(1)),
            "independent_cost": self.apart,
            "condition_mismatch": math.sqrt(_over(share, missed) / self.typical),
        }
        known = {"relative_gap", "lower_bound", *figures}  # those of the plan are of rows and conditions together
        return Pairs(index0, index1, mass, {k: v for k, v in pairs.report.items() if k not in known} | figures)


def _mean_cost(x0: Tensor, x1: Tensor) -> float:
    """The mean of |x0 − x1|² over all pairs."""
    return float(x0.square().sum(1).mean() + x1.square().sum(1).mean() - 2 * x0.mean(0) @ x1.mean(0))


def _over(share: Tensor, values: Tensor) -> float:
    return float((share.to(values.device) * values).sum() / share.sum())
