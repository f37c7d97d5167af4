"""How a population grows between two snapshots, from the masses of an unbalanced plan.

Let P be the plan between rows x_i of mass 1/n0 and y_j of mass 1/n1, r_i = n0 Σ_j P_ij the share of its mass with which
x_i takes part in it, and c_j = n1 Σ_i P_ij that of y_j. Shared out among the pairs in proportion to the plan, the rows'
own masses are

    m0_ij = P_ij / r_i,   Σ_j m0_ij = 1/n0          m1_ij = P_ij / c_j,   Σ_i m1_ij = 1/n1

(semi-couplings, Chizat et al. 2018, "Unbalanced optimal transport: dynamic and Kantorovich formulations", 1508.05216).
Of a row x of the earlier snapshot, all of its pairs together start with mass 1 (in units of its own) and arrive with

    M(x) = Σ_j P(j|x) r(x)/c_j,

and on the way the row carries m(s) = M^s = m0^(1−s) m1^s: it grows at the constant rate log M. A row y of the later one
comes from Σ_i P(i|y) c(y)/r_i of its own mass, likewise.

Both masses are 1 in all, however many individuals were counted: growth is that of a kind of row relative to all.

The plan's duals extend to any row (r and c are functions of them alone), so rows need not be among those of the plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from advect.couplings.cost import ground_cost
from advect.couplings.logarithms import log_sum
from advect.couplings.unbalanced import Unbalanced

_ROWS = 2048  # looked at together
_TENSORS = ("early", "late", "early_dual", "late_dual")


@dataclass(frozen=True)
class PlanGrowth:
    """An unbalanced plan as functions of a row.

    Attributes:
        early: ``(n0, dim)`` rows of the earlier snapshot, float64.
        late: ``(n1, dim)`` rows of the later one.
        early_dual: ``(n0,)`` dual numbers in units of ε.
        late_dual: ``(n1,)``.
        epsilon: ε, in units of the cost.
        relaxation: τ, likewise.
        cost: Name of the ground cost.
    """

    early: Tensor
    late: Tensor
    early_dual: Tensor
    late_dual: Tensor
    epsilon: float
    relaxation: float
    cost: str = "squared"

    @classmethod
    @torch.no_grad()
    def of(
        cls, coupling: object, x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."]
    ) -> "PlanGrowth | None":
        """The growth between two sets of rows; None for a coupling that makes and loses no mass.

        Raises:
            NotConvergedError: The plan did not come to rest.
        """
        inner = getattr(coupling, "inner", coupling)  # of one that pairs inside classes
        if not isinstance(inner, Unbalanced) or not isinstance(inner.cost, str):
            return None
        flat0, flat1 = (x.detach().flatten(1).double().cpu() for x in (x0, x1))
        found = inner.duals(flat0, flat1)
        return cls(flat0, flat1, found.early, found.late, found.epsilon, found.relaxation, inner.cost)

    @torch.no_grad()
    def rate(self, x: Float[Tensor, "rows ..."], condition: Tensor | None = None) -> Float[Tensor, " rows"]:
        """Growth of rows at the early end over the interval, log M(x); after a share s of it they carry e^(s log M).

        It is the same under any condition.
        """
        parts = []
        for rows in _flat(x).split(_ROWS):
            log_share, log_pairs = self._side(rows, self.late, self.late_dual)
            parts.append(log_share + log_sum(log_pairs - self._log_kept[1], 1))
        return torch.cat(parts)

    @torch.no_grad()
    def late_rate(self, y: Float[Tensor, "rows ..."], condition: Tensor | None = None) -> Float[Tensor, " rows"]:
        """Growth of rows at the late end over the interval: minus the log of the mass that they came from."""
        parts = []
        for rows in _flat(y).split(_ROWS):
            log_share, log_pairs = self._side(rows, self.early, self.early_dual)
            parts.append(-log_share - log_sum(log_pairs - self._log_kept[0], 1))
        return torch.cat(parts)

    def tensors(self) -> dict[str, Tensor]:
        """What `load` takes, beside the numbers."""
        return {name: getattr(self, name) for name in _TENSORS}

    def numbers(self) -> dict[str, float | str]:
        """Everything that is no tensor."""
        return {"epsilon": self.epsilon, "relaxation": self.relaxation, "cost": self.cost}

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> "PlanGrowth":
        """Restore what `tensors` and `numbers` gave."""
        early, late, early_dual, late_dual = (tensors[name] for name in _TENSORS)
        epsilon, relaxation = float(numbers["epsilon"]), float(numbers["relaxation"])
        return cls(early, late, early_dual, late_dual, epsilon, relaxation, str(numbers["cost"]))

    @cached_property
    def _log_kept(self) -> tuple[Tensor, Tensor]:
        """log r of the early rows and log c of the late ones."""
        return (
            self._side(self.early, self.late, self.late_dual)[0],
            self._side(self.late, self.early, self.early_dual)[0],
        )

    def _side(self, rows: Tensor, others: Tensor, dual: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the share of its mass with which each row takes part, and log-probabilities of its partners."""
        logits = dual - ground_cost(self.cost, "PlanGrowth")(rows, others) / self.epsilon
        total = log_sum(logits, 1)
        # The dual of a row is −τ/(τ + ε) of this mean, and its share e^(dual + mean).
        mean = total - torch.log(torch.tensor(float(len(others)), dtype=torch.float64))
        return mean * self.epsilon / (self.relaxation + self.epsilon), logits - total[:, None]


def _flat(rows: Tensor) -> Tensor:
    return rows.detach().flatten(1).double().cpu()
