"""Unbalanced transport: mass may be made and lost, at a price (Chizat et al. 2018, "Scaling algorithms for unbalanced
optimal transport problems", 1607.05816).

    min over P ≥ 0 of  Σ P c + τ KL(P1 | a) + τ KL(Pᵀ1 | b) + ε KL(P | a ⊗ b)

with uniform a and b. Where one population holds more of a kind than the other, a balanced plan must turn some of it
into another kind; here it may grow or shrink instead. As τ → ∞ the plan is the balanced entropic one; a small τ lets
dear pairs go unpaired. τ and ε are shares of the mean cost of the batch, so that they mean the same in any units.

The scaling iteration runs in the log domain, where it contracts by (τ/(τ + ε))² a round whatever the costs; a plan
that did not come to rest is refused.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings.cost import GroundCost, check_rows, ground_cost
from advect.couplings.draws import draw_sources, need_generator
from advect.couplings.entropic import NotConvergedError
from advect.couplings.in_batch import InBatch
from advect.couplings.logarithms import exp_of
from advect.couplings.scaling import unbalanced
from advect.errors import ConfigError
from advect.records import Pairs


@dataclass(frozen=True)
class UnbalancedDuals:
    """A plan by its dual numbers: P_ij = exp(f_i + g_j − c_ij/ε)/(n0 n1).

    Attributes:
        early: ``(source,)`` f, in units of ε, float64.
        late: ``(data,)`` g.
        epsilon: ε, in units of the cost.
        relaxation: τ, likewise.
        iterations: Rounds it took.
    """

    early: Float[Tensor, " source"]
    late: Float[Tensor, " data"]
    epsilon: float
    relaxation: float
    iterations: int

    def plan(self, cost: Float[Tensor, "source data"]) -> Float[Tensor, "source data"]:
        """The plan of these costs."""
        return exp_of(self.early[:, None] + self.late - cost / self.epsilon) / cost.numel()


@dataclass(frozen=True)
class Unbalanced(InBatch):
    """Pairs drawn from the unbalanced plan, each data row with the mass that the plan leaves it as its weight.

    Attributes:
        relaxation: τ, as a share of the mean cost: what making or losing mass costs.
        regularisation: ε, as a share of the mean cost.
        cost: As for `Assignment`.
        max_iterations: Rounds at most.
        tolerance: Largest change of a dual number in the last round, in units of ε.
        unit: The cost of which τ and ε are shares, where it is not the mean cost of the batch.
    """

    relaxation: float = 1.0
    regularisation: float = 0.02
    cost: str | GroundCost = "squared"
    max_iterations: int = 5000
    tolerance: float = 1e-6
    unit: float | None = None

    def __post_init__(self) -> None:
        for name in ("relaxation", "regularisation", "tolerance", "unit"):
            value = getattr(self, name)
            if value is None and name == "unit":
                continue
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}, but must be a positive number", where="Unbalanced")
        if self.max_iterations < 1:
            raise ConfigError(f"max_iterations is {self.max_iterations}, but must be at least 1", where="Unbalanced")
        ground_cost(self.cost, "Unbalanced(cost=…)")

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Draw a source row for each data row from the plan, given that data row; the numbers of rows may differ.

        Returns: Data rows in place. ``weight`` is the mass of each data row in the plan, as a multiple of its own
            1/n: below 1 it is reached less than it occurs, which means growth. The report holds ``mean_cost`` per
            mass moved, ``independent_cost``, ``mass`` of the plan and ``iterations``.

        Raises:
            ShapeError: Different event shapes or no rows.
            DataError: Rows that are not finite.
            ConfigError: Without a generator.
            NotConvergedError: The plan did not come to rest.
        """
        generator = need_generator(generator, "Unbalanced.draw")
        check_rows(x0, x1, "Unbalanced.draw")
        cost = ground_cost(self.cost, "Unbalanced")(x0, x1)
        duals = self._solve(cost)
        plan = duals.plan(cost)
        mass = plan.sum()
        index0 = draw_sources(plan / plan.sum(0, keepdim=True).clamp(min=1e-300), generator)
        report = {
            "mean_cost": float((plan * cost).sum() / mass),
            "independent_cost": float(cost.mean()),
            "mass": float(mass),
            "iterations": float(duals.iterations),
        } | ({} if condition is None else {"ignored_condition": 1.0})
        weight = (plan.sum(0) * len(x1)).to(x1.device, x1.dtype)
        return Pairs(index0.to(x1.device), torch.arange(len(x1), device=x1.device), weight, report)

    def plan(self, x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."]) -> Float[Tensor, "source data"]:
        """The plan itself, float64; its sums are the masses that are left of 1/n0 and 1/n1 per row."""
        check_rows(x0, x1, "Unbalanced.plan")
        cost = ground_cost(self.cost, "Unbalanced")(x0, x1)
        return self._solve(cost).plan(cost)

    def duals(self, x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."]) -> UnbalancedDuals:
        """The plan by its dual numbers, which extend it to other rows; see `growth`."""
        check_rows(x0, x1, "Unbalanced.duals")
        return self._solve(ground_cost(self.cost, "Unbalanced")(x0, x1))

    def _solve(self, cost: Float[Tensor, "source data"]) -> UnbalancedDuals:
        """Rounds of the scaling iteration until the duals rest."""
        scale = max(float(cost.mean()) if self.unit is None else self.unit, torch.finfo(cost.dtype).tiny)
        epsilon, tau = self.regularisation * scale, self.relaxation * scale
        f, g, change, rounds = unbalanced(
            cost / epsilon, tau / epsilon, tolerance=self.tolerance, most=self.max_iterations
        )
        if change <= self.tolerance:
            return UnbalancedDuals(f, g, epsilon, tau, rounds)
        raise NotConvergedError(
            f"the unbalanced plan between {cost.shape[0]} and {cost.shape[1]} rows did not come to rest: after "
            f"{self.max_iterations} rounds its duals still change by {change:.1e} ε (tolerance {self.tolerance:.1e})",
            where="Unbalanced",
            remedy="Raise the regularisation or max_iterations, or lower the relaxation.",
        )
