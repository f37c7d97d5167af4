"""Entropic optimal transport inside a batch: the coupling of SB-CFM (Tong et al. 2302.00482, Table 1).

The Schrödinger bridge between two distributions for a Brownian motion of rate σ is a mixture of Brownian bridges over
the entropic plan with squared cost and ε = 2σ², because the transition density is exp(−|x1 − x0|²/(2σ²)). ε is
absolute, in units of the cost. As ε → 0 the plan tends to exact transport, as ε → ∞ to independent pairing.

A plan that did not converge is refused: falling back to uniform pairing would silently be another method.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings.cost import centred_rows, check_rows, squared_cost
from advect.couplings.draws import draw_sources, need_generator
from advect.couplings.in_batch import InBatch
from advect.couplings.sinkhorn import EntropicPlan, solve_entropic
from advect.errors import AdvectError, ConfigError
from advect.records import Pairs


class NotConvergedError(AdvectError, ArithmeticError):
    """An entropic plan whose marginals are still wrong after the last allowed iteration."""


@dataclass(frozen=True)
class Entropic(InBatch):
    """Pairs drawn from the entropic plan of the batch, with squared cost.

    Attributes:
        regularisation: ε > 0, in units of the squared distance.
        max_iterations: Evaluations of the plan, Sinkhorn and Newton together, before giving up.
        tolerance: Largest total variation between the plan's source distribution and the uniform one.
    """

    regularisation: float
    max_iterations: int = 1000
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("regularisation", "tolerance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}, but must be a positive number", where="Entropic")
        if self.max_iterations < 1:
            raise ConfigError(f"max_iterations is {self.max_iterations}, but must be at least 1", where="Entropic")

    @classmethod
    def for_bridge(cls, sigma: float, *, max_iterations: int = 1000, tolerance: float = 1e-6) -> "Entropic":
        """The coupling of the Schrödinger bridge with Brownian rate ``sigma``: ε = 2σ²."""
        if not (math.isfinite(sigma) and sigma > 0):
            raise ConfigError(
                f"sigma is {sigma}, but a Schrödinger bridge needs a positive one",
                where="Entropic.for_bridge",
                remedy="Use Assignment() for the limit σ → 0.",
            )
        return cls(2 * sigma**2, max_iterations, tolerance)

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Draw a source row for each data row from the plan, given that data row.

        Each data row keeps its place and occurs once (``index1`` counts up); source rows are drawn independently of one
        another, so some occur twice and some not at all, as the plan is not a permutation. A pair (i, j) is
        drawn with probability n1 P_ij for each j. The numbers of rows may differ. A condition is not looked at and
        is noted as ``ignored_condition`` in the report; wrap as ``Classwise(Entropic(…))`` to pair inside each class.

        Returns:
            Indices on the device of ``x1``; the report holds ``mean_cost`` of the plan, ``independent_cost``,
            ``iterations`` and ``marginal_error``.

        Raises:
            ShapeError: Different event shapes or no rows.
            DataError: Rows that are not finite.
            ConfigError: Without a generator.
            NotConvergedError: The plan did not reach the tolerance.
        """
        generator = need_generator(generator, "Entropic.draw")
        check_rows(x0, x1, "Entropic.draw")
        cost = squared_cost(*centred_rows(x0, x1))
        plan = self._plan(cost)
        index0 = draw_sources(plan.conditional, generator)
        report = {
            "mean_cost": plan.mean_cost,
            "independent_cost": float(cost.mean()),
            "iterations": float(plan.iterations),
            "marginal_error": plan.column_error,
        } | ({} if condition is None else {"ignored_condition": 1.0})
        return Pairs(index0.to(x1.device), torch.arange(len(x1), device=x1.device), report=report)

    def plan(self, x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."]) -> Float[Tensor, "source data"]:
        """The plan itself: float64, rows sum to 1/n0 within the tolerance, columns to 1/n1; no graph."""
        check_rows(x0, x1, "Entropic.plan")
        return self._plan(squared_cost(*centred_rows(x0, x1))).conditional / len(x1)

    def _plan(self, cost: Float[Tensor, "source data"]) -> EntropicPlan:
        """Solve, and refuse what did not converge."""
        plan = solve_entropic(cost, self.regularisation, max_iterations=self.max_iterations, tolerance=self.tolerance)
        if not plan.column_error <= self.tolerance:
            raise NotConvergedError(
                f"the entropic plan between {cost.shape[0]} and {cost.shape[1]} rows did not converge: after "
                f"{plan.iterations} iterations its marginals are off by {plan.column_error:.1e} in total variation "
                f"(tolerance {self.tolerance:.1e}, regularisation {self.regularisation:.3g}, mean cost "
                f"{float(cost.mean()):.3g})",
                where="Entropic",
                remedy="Raise the regularisation (σ of the bridge) or max_iterations, or use Assignment(), its limit "
                "for small regularisation.",
            )
        return plan
