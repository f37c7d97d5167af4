"""The exact marginal field of a data set as a flow: what a perfect network would sample, score and encode."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.flows.base import IsotropicNormal, StandardNormal
from advect.flows.continuous import ContinuousMap
from advect.flows.empirical import DEFAULT_END, EmpiricalField
from advect.flows.flow import Flow
from advect.solvers import ExactDivergence
from advect.typing import Schedule, Solver


class EmpiricalStart(nn.Module):
    """The exact law at t = 0 of a path that starts with some of the data in it (α(0) > 0): the blurred data.

    Args:
        field: The field of the data set.
    """

    def __init__(self, field: EmpiricalField) -> None:
        super().__init__()
        self.field = field
        self.event_shape = field.event_shape

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``; the condition plays no part."""
        return self.field.sample(0.0, num_rows, generator=generator)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats."""
        return self.field.log_density(0.0, z)


def empirical_flow(
    data: Float[Tensor, "rows *event"],
    schedule: Schedule,
    *,
    weights: Float[Tensor, " rows"] | None = None,
    block_rows: int = 2048,
    end: float = DEFAULT_END,
    copy: bool = True,
    solver: Solver | None = None,
    likelihood_solver: Solver | None = None,
) -> Flow:
    """The flow of `EmpiricalField`: exact samples, densities and codes of blurred data.

    It starts from N(0, σ(0)² I) where the path holds nothing of the data at t = 0, else from its own law there.

    Args:
        data: ``(rows, *event)``.
        schedule: α and σ of the path.
        weights: See `EmpiricalField`, as the following three.
        block_rows: Data rows handled at a time.
        end: Last time where σ(1) = 0.
        copy: Keep a copy of the data.
        solver: See `ContinuousMap`.
        likelihood_solver: See `ContinuousMap`.

    A row many σ(end) away from every data point has a code far out in the source, behind sharp borders
    between the data points' shares of it: encoding it takes thousands of evaluations, or fails with a status.
    Choose an earlier ``end`` to score such.
    """
    field = EmpiricalField(data, schedule, weights=weights, block_rows=block_rows, end=end, copy=copy)
    base = _start_of(field).to(data.device, data.dtype)
    ode = ContinuousMap(
        field,
        event_shape=field.event_shape,
        solver=solver,
        likelihood_solver=likelihood_solver,
        divergence=ExactDivergence(),  # analytic, so as cheap in any dimension as in two
    )
    return Flow(base, ode)


def _start_of(field: EmpiricalField) -> StandardNormal | EmpiricalStart:
    """The law at t = 0."""
    zero = torch.zeros((), dtype=torch.float64)
    if float(field.schedule.alpha(zero)) != 0:
        return EmpiricalStart(field)
    scale = float(field.schedule.sigma(zero))
    return StandardNormal(field.event_shape) if scale == 1 else IsotropicNormal(field.event_shape, scale)
