"""Maximum likelihood: minus the log-density of a row, for discrete maps and ODEs alike, and with penalties for ODEs.

Many ODEs end in the same density; penalties choose one that is easy to integrate. On the way from the row to its code

    L = −log p(x) + λ_K ∫‖v‖² dt + λ_J ∫‖∂v/∂x‖²_F dt + λ_H ∫|∂Φ/∂t − ½‖∇Φ‖²| dt .

λ_K and λ_J are those of RNODE (Finlay, Jacobsen, Nurbekyan & Oberman 2020, arXiv 2002.02798, eq. 6 to 9). OT-Flow
(Onken et al. 2021, arXiv 2006.00104, eq. 5, 7 and 8; v = −∇Φ) takes half of ∫‖v‖² and weighs the likelihood instead:
its α_C and α_R are λ_K = 1/(2 α_C) and λ_H = α_R/α_C here. ∫‖v‖² is the transport cost, least along straight lines at
constant speed; the last integral is zero on every optimal path.

Units: everything is per row, in nats, and summed over the dimensions, never averaged. An objective that divides the
log-likelihood *and* the penalties by the dimension has the same λ; one that divides the log-likelihood alone has λ/d.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.flows.continuous import ContinuousMap, twin
from advect.flows.flow import Flow
from advect.flows.likelihood_pass import likelihood_pass
from advect.records import Batch, Estimate, Metric, Status
from advect.solvers.along import Along, JacobianNorm, KineticEnergy, Motion
from advect.transforms import Compose
from advect.typing import Scalars, sum_event, written_for


@dataclass(frozen=True)
class MaximumLikelihood:
    """−log p(x) of every row, in nats. A row that failed is NaN, one outside the support +∞: neither is dropped."""

    def __call__(self, flow: torch.nn.Module, batch: Batch, *, generator: Generator | None = None) -> Scalars:
        """Loss ``(batch,)``.

        Args:
            flow: A module with ``score(x, condition, generator=…)``.
            batch: ``x1`` and ``condition`` are used; row weights are left to the caller.
            generator: Of the probes of a stochastic log-determinant.
        """
        score = cast(Callable[..., Estimate], flow.score)  # a module's attributes have no types
        return -score(batch.x1, batch.condition, generator=generator).value

    def direct(
        self, flow: torch.nn.Module, gradients: Mapping[torch.nn.Parameter, Tensor]
    ) -> Callable[[Batch], Tensor | None] | None:
        """See `typing.DirectObjective`."""
        return likelihood_pass(flow, gradients) if written_for(type(self), "direct", "__call__") else None


@dataclass(frozen=True)
class HamiltonJacobi:
    """∫ |∂Φ/∂t − ½‖∇Φ‖²| dt along a solve, for v = −∇Φ: zero on an optimal path (Onken et al. 2021, eq. 7).

    Args:
        time_derivative: ``(t, x, condition) -> (batch,)``, ∂Φ/∂t, as `networks.potential.Potential` has it.
    """

    time_derivative: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def __call__(self, motion: Motion) -> Tensor:
        """|∂Φ/∂t − ½‖v‖²|."""
        rate = self.time_derivative(motion.t, motion.x, motion.condition)
        return (rate - 0.5 * sum_event(motion.velocity.square())).abs()


@dataclass(frozen=True)
class PathLikelihood:
    """The log-density of rows and what their way to the source cost; all ``(batch,)``, NaN in failed rows.

    Attributes:
        log_prob: log p(x) in nats, without any penalty.
        kinetic_energy: ∫‖v‖² dt, or None where it has no weight.
        jacobian_norm: ∫‖∂v/∂x‖²_F dt, exact or by the probes of the trace, or None.
        hamilton_jacobi: ∫|∂Φ/∂t − ½‖∇Φ‖²| dt, or None.
    """

    log_prob: Float[Tensor, " batch"]
    kinetic_energy: Float[Tensor, " batch"] | None = None
    jacobian_norm: Float[Tensor, " batch"] | None = None
    hamilton_jacobi: Float[Tensor, " batch"] | None = None


@dataclass(frozen=True)
class RegularisedLikelihood:
    """−log p(x) with penalties on the way there, in training; −log p(x) alone outside training mode.

    So a validation loss is a likelihood, and comparable with that of any other method; `parts` keeps the terms apart.

    Args:
        kinetic: λ_K, weight of ∫‖v‖².
        jacobian: λ_J, weight of ∫‖∂v/∂x‖²_F. It costs nothing beside a stochastic trace; beside the exact one it costs
            a backward pass per dimension.
        hamilton_jacobi: λ_H, weight of ∫|∂Φ/∂t − ½‖∇Φ‖²|, for fields with a potential.

    Raises:
        ConfigError: A weight that is negative or not finite.
    """

    kinetic: float = 0.0
    jacobian: float = 0.0
    hamilton_jacobi: float = 0.0

    def __post_init__(self) -> None:
        for name in ("kinetic", "jacobian", "hamilton_jacobi"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"The weight {name} is {getattr(self, name)}",
                    where="RegularisedLikelihood",
                    remedy="Give 0 for none, or a positive number such as 0.01.",
                )

    def __call__(self, flow: torch.nn.Module, batch: Batch, *, generator: Generator | None = None) -> Scalars:
        """Loss ``(batch,)``; arguments as of `MaximumLikelihood`."""
        if not flow.training:
            return MaximumLikelihood()(flow, batch, generator=generator)
        parts = self.parts(flow, batch, generator=generator)
        loss = -parts.log_prob
        for weight, penalty in (
            (self.kinetic, parts.kinetic_energy),
            (self.jacobian, parts.jacobian_norm),
            (self.hamilton_jacobi, parts.hamilton_jacobi),
        ):
            if penalty is not None:
                loss = loss + weight * penalty
        return loss

    def parts(self, flow: torch.nn.Module, batch: Batch, *, generator: Generator | None = None) -> PathLikelihood:
        """The log-density and each penalty that has a weight, unweighted and apart, from one solve.

        Raises:
            UnsupportedError: The flow has no ODE.
            ConfigError: The Hamilton–Jacobi penalty of a field without a potential.
        """
        flow = cast(Flow, flow)
        before, ode, after = flow.split_at_ode("regularised likelihood")
        condition = batch.condition
        into = before.encode(batch.x1, _if_taken(before, condition), generator=generator)
        along = self._along(ode)
        solution = ode.integrate(
            into.value,
            _if_taken(ode, condition),
            direction="encode",
            log_det=True,
            along=tuple(along.values()),
            generator=generator,
        )
        out = after.encode(solution.state, _if_taken(after, condition), generator=generator)

        log_prob = flow.base.log_prob(out.value, condition)
        for log_det in (into.log_abs_det_jacobian, solution.log_abs_det, out.log_abs_det_jacobian):
            assert log_det is not None
            log_prob = log_prob + log_det
        outside = (into.status == Status.OUTSIDE_SUPPORT) | (out.status == Status.OUTSIDE_SUPPORT)
        log_prob = torch.where(outside, -torch.inf, log_prob)

        # `encode` runs against time: each rate was integrated from 1 to 0.
        columns = () if solution.along is None else (-solution.along).unbind(1)
        return PathLikelihood(log_prob, **dict(zip(along, columns, strict=True)))

    def _along(self, ode: ContinuousMap) -> dict[str, Along]:
        """What rides along, by its name in `PathLikelihood`."""
        along: dict[str, Along] = {}
        if self.kinetic:
            along["kinetic_energy"] = KineticEnergy()
        if self.jacobian:
            along["jacobian_norm"] = JacobianNorm()
        if self.hamilton_jacobi:
            along["hamilton_jacobi"] = HamiltonJacobi(_time_derivative(ode.field))
        return along


TOLERATED_GAP_NATS = 0.05  # of the mean: half the difference between neighbouring methods in published tables


@dataclass(frozen=True)
class StepGap:
    """Log-density by the steps of training less that by the careful solver: above zero where training flattered itself.

    Attributes:
        mean_nats: Mean over the rows; NaN if a row failed in either.
        standard_error_nats: Of the mean, for the choice of rows.
        largest_nats: Largest absolute difference of a row.
    """

    mean_nats: float
    standard_error_nats: float
    largest_nats: float

    @property
    def tolerated(self) -> bool:
        """Whether the likelihood that was trained is the one that is reported, to `TOLERATED_GAP_NATS`."""
        return abs(self.mean_nats) <= TOLERATED_GAP_NATS

    def as_metric(self) -> Metric:
        """As a `Metric` whose name says what to do where the gap is too large."""
        note = "" if self.tolerated else " (too large: train with more steps)"
        return Metric(
            f"likelihood gap of the training steps{note}", self.mean_nats, self.standard_error_nats, unit="nats"
        )


@torch.no_grad()
def step_gap(
    flow: Flow, x: Float[Tensor, "batch *event"], condition: Tensor | None = None, *, generator: Generator | None = None
) -> StepGap:
    """How far the few fixed steps of training are from the likelihood that is reported, whatever the mode.

    A network may learn to use the error of its steps (reference: the 8-step likelihoods of trap L6), which no training
    loss shows. Both solves take the trace that is reported, a stochastic one with the same probes.

    Raises:
        UnsupportedError: The flow has no ODE.
        ConfigError: Its ODE has no training solver.
    """
    _, ode, _ = flow.split_at_ode("step gap")
    if ode.training_solver is None:
        raise ConfigError(
            "The ODE has no training solver", where="step gap", remedy="Build it with training_solver, as cnf does."
        )
    values = []
    for solver in (ode.training_solver, ode.likelihood_solver):
        copy = flow.with_options(likelihood_solver=solver, coarse=True)
        copy.split_at_ode("step gap")[1].training = False  # of the copied ODE alone: its field is shared
        values.append(copy.log_prob(x, condition, generator=twin(generator)))
    gap = (values[0] - values[1]).double()
    return StepGap(float(gap.mean()), float(gap.std() / len(gap) ** 0.5), float(gap.abs().max()))


def _time_derivative(field: Any) -> Callable[..., Tensor]:
    found = getattr(field, "time_derivative", None)
    if not callable(found):
        raise ConfigError(
            f"{type(field).__name__} has no potential, whose time derivative the Hamilton–Jacobi penalty needs",
            where="hamilton_jacobi",
            remedy="Take a Potential network as the field (ot-flow), or the weight 0.",
        )
    return found


def _if_taken(map: Compose | ContinuousMap, condition: Tensor | None) -> Tensor | None:
    """The condition for a part of the map, None where the part takes none."""
    return None if map.condition_shape is None else condition
