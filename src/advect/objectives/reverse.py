"""Learning a density that can be evaluated but not sampled: reverse KL, with the path gradient.

For p = p̃/Z and x = T_θ(z), z ~ base,

    KL(q_θ ‖ p) = E_z[log q_θ(x) − log p̃(x)] + log Z,    so  E[loss] ≥ −log Z, with equality at q = p.

The gradient of a draw has two parts: along the path, ∂x/∂θ · ∇ₓ(log q_θ(x) − log p̃(x)), and the score ∂log q_θ(x)/∂θ
at fixed x, whose mean is zero but whose variance is not. Leaving the score out keeps the mean, and at the optimum,
where ∇ₓ log q = ∇ₓ log p̃, every single draw has gradient zero (Roeder, Wu & Duvenaud 2017, arXiv 1703.09194; for
flows Vaitl, Nicoli, Nakajima & Kessel 2022, arXiv 2206.09016 and 2207.08219).

Reverse KL seeks modes: a mode that no draw has found costs nothing, and `evaluation.importance` cannot see it either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError
from advect.flows.flow import Flow
from advect.records import Batch
from advect.typing import Rows, Scalars, sum_event

TargetLogDensity = Callable[..., Tensor]
"""``target(x) -> (batch,)``, or ``target(x, condition)`` where the flow has a condition: log p̃ in nats."""


@dataclass(frozen=True)
class ReverseKL:
    """log q(x) − log p̃(x) for one fresh draw x per row of the batch, in nats.

    The rows of the batch themselves play no part; only how many there are, and their conditions.

    Args:
        target: log p̃, differentiable in x and finite on the support of the flow: for a bounded p̃ let the map end in a
            support map (`transforms.support`), since where log p̃ is −∞ the loss is +∞.
        path_gradient: Leave out the score. It costs a pass through `encode` with its gradient in x, and saves
            variance, all of it at the optimum. The value of the loss is the same.
    """

    target: TargetLogDensity
    path_gradient: bool = True

    def __call__(self, flow: torch.nn.Module, batch: Batch, *, generator: Generator | None = None) -> Scalars:
        """Loss ``(batch,)``, whose mean is KL(q ‖ p) − log Z.

        Args:
            flow: A `Flow`; its base must have a density, and draws that are differentiable in what it learns.
            batch: ``x1`` says how many rows to draw, ``condition`` under which conditions.
            generator: Of the draws, then of the probes of a stochastic log-determinant.

        Raises:
            ShapeError: If the target does not answer with one number per row.
            ConfigError: If the target's answer does not depend on its rows through autograd.
        """
        flow, num_rows, condition = cast(Flow, flow), batch.x1.shape[0], batch.condition
        if self.path_gradient:
            x = flow.sample(num_rows, condition, generator=generator)
            log_q = log_prob_along_path(flow, x, condition, generator=generator)
        else:
            x, log_q = flow.sample_and_log_prob(num_rows, condition, generator=generator)
        return log_q - target_at(self.target, x, condition)


def log_prob_along_path(
    flow: Flow, x: Rows, condition: Tensor | None = None, *, generator: Generator | None = None
) -> Scalars:
    """log q(x) ``(batch,)`` as a function of x alone: its gradient is that through x, without the score of q.

    The gradient in x is taken at once, on a copy of the rows, and attached to them. Nothing is asked about the
    parameters, so none needs to be frozen and thawed again; and solvers that run again when their gradient is taken
    meet the parameters as they were. The result has no second derivatives.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return flow.log_prob(x, condition, generator=generator)
    rows = x.detach().requires_grad_()
    given = None if condition is None else condition.detach()
    log_q = flow.log_prob(rows, given, generator=generator)
    (slope,) = torch.autograd.grad(log_q.sum(), rows)
    return log_q.detach() + sum_event(slope * (x - rows.detach()))


def target_at(target: TargetLogDensity, x: Rows, condition: Tensor | None = None) -> Scalars:
    """log p̃ at the rows, checked; raises as `ReverseKL` does."""
    found: Any = target(x) if condition is None else target(x, condition)
    if not isinstance(found, Tensor) or tuple(found.shape) != (x.shape[0],):
        given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
        raise ShapeError(
            f"The log-density of {x.shape[0]} rows has {given}, expected a tensor ({x.shape[0]},)",
            where="target",
            remedy="Return one number per row: sum over the coordinates, not over the rows.",
        )
    if torch.is_grad_enabled() and x.requires_grad and not found.requires_grad:
        raise ConfigError(
            "The log-density does not depend on its rows as far as autograd can see",
            where="target",
            remedy="Compute it with torch from the rows as given: without numpy, detach, item or no_grad.",
        )
    return found
