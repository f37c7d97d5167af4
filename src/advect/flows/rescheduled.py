"""A trained flow, run on another schedule than it was trained on.

Paths of equal log-SNR λ are the same path up to scale, so a field learnt on one affine schedule is a field on every
other (`paths.Retimed`). The new flow runs over the λ that both schedules have; its two ends are brought to the old
flow's coordinates by a factor, which counts in the log-density. Where the new schedule

- reaches further than the old one, it begins or ends inside its own interval, where λ is the old one's;
- begins at a larger λ than the old one, the old flow's law at that time is not its base. Sampling then starts from the
  normal of the same size, and `Rescheduled.start` says how far that is from the law of the data's Gaussian fit;
- ends at a smaller λ, what is left of the noise there stays in the samples (`Rescheduled.left`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advect.errors import UnsupportedError
from advect.flows.base import IsotropicNormal
from advect.flows.continuous import ContinuousMap
from advect.flows.flow import Flow
from advect.flows.guidance import offered_divergence
from advect.flows.start_law import StartLaw, data_moments, start_law
from advect.paths import EndWeights, Retimed, clocking, end_weights
from advect.transforms import Compose, Standardise
from advect.typing import Field, Schedule, expand_time


class RescheduledField(nn.Module):
    """A velocity on ``to_schedule`` from a field on ``from_schedule``.

    Args:
        field: The learnt velocity.
        from_schedule: What it was learnt on.
        to_schedule: What it shall follow.
        interval: Times of ``to_schedule`` between which both have the same λ.
    """

    def __init__(
        self, field: Field, from_schedule: Schedule, to_schedule: Schedule, interval: tuple[float, float]
    ) -> None:
        super().__init__()
        self.field, self.schedule, self.interval = field, to_schedule, interval
        self.has_score = getattr(field, "has_score", False)
        self.evaluations = getattr(field, "evaluations", 1)
        self.retimed = Retimed(field, from_schedule, to_schedule)

    def forward(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Velocity at ``t`` and ``x``."""
        return self.retimed(t, x, condition)

    @property
    def divergence(self) -> Callable[..., Tensor]:
        """``(t, x, condition) -> (batch,)``: t'·div v(x/c) + d·c'/c; offered where the field offers one."""
        inner = offered_divergence(self.field)

        def divergence(t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
            time = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1)
            clock = clocking(time, self.retimed.from_schedule, self.retimed.to_schedule)
            learnt = inner(clock.time.to(x.dtype).expand(x.shape[0]), x / expand_time(clock.scale, x), condition)
            width = x[:1].numel() if x.shape[0] else 0
            return (clock.time_derivative * learnt + clock.log_scale_derivative * width).to(x.dtype)

        return divergence


@dataclass(frozen=True)
class Rescheduled:
    """A flow on another schedule.

    Attributes:
        flow: It shares the parameters of the old one.
        start: The mismatch of the law it starts from; None where it is the old flow's own.
        left: What is left at its end: x = data·x1 + source·x0, in the old flow's scale.
    """

    flow: Flow
    start: StartLaw | None
    left: EndWeights


def on_schedule(flow: Flow, schedule: Schedule) -> Rescheduled:
    """The same model on another affine schedule.

    Raises:
        UnsupportedError: A flow without an ODE, one whose path is not affine, or schedules that share no λ.
    """
    before, ode, after = flow.split_at_ode("on_schedule")
    old = getattr(ode.field, "schedule", None)
    if old is None:
        raise UnsupportedError(
            "This flow was not trained on an affine path α x1 + σ x0, so it has no other schedule",
            where="schedule",
            remedy="Train fm, i-cfm, ot-cfm, rf or one of the diffusion rows.",
        )
    first, last = (float(old.log_snr(_time(t))) for t in ode.interval)
    r0, r1 = _inside(schedule, first, last)
    if not r0 < r1:
        raise UnsupportedError(
            "The two schedules have no noise level in common", where="schedule", remedy="Choose one closer to it."
        )
    starts_later = float(schedule.log_snr(_time(r0))) > first + 1e-9
    clock = clocking(torch.tensor([r0, r1], dtype=torch.float64), old, schedule)
    field = RescheduledField(ode.field, old, schedule, (r0, r1))
    moved = _with_field(ode, field)
    shape = ode.event_shape if ode.event_shape is not None else flow.event_shape
    map = Compose(*before.maps, _factor(1 / clock.scale[1], shape), moved, _factor(clock.scale[0], shape), *after.maps)
    base, start = flow.base, None
    if starts_later:
        if after.maps:
            raise UnsupportedError("The ODE is not the last part of this flow's map", where="schedule")
        weights = end_weights(old, float(clock.time[0]))
        mean, spectrum = data_moments(ode.field, shape)
        size = float((weights.source**2 + weights.data**2 * spectrum.double().mean()) ** 0.5)
        base, start = IsotropicNormal(shape, size), start_law(weights, size, mean, spectrum)
        like = flow.base.sample(1)
        base.to(like.device, like.dtype)
    copy = Flow(base, map, event_shape=flow.event_shape, chunk_rows=flow.chunk_rows, runner=flow.runner)
    copy.train(flow.training)
    return Rescheduled(copy, start, end_weights(old, float(clock.time[1])))


def _time(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def _inside(schedule: Schedule, first: float, last: float) -> tuple[float, float]:
    """Times of ``schedule`` at which its λ is in [first, last]; exactly 0 or 1 where its own ends are inside."""
    low, high = (float(schedule.log_snr(_time(t))) for t in (0.0, 1.0))
    r0 = 0.0 if low >= first else float(schedule.time_of_log_snr(_time(first)))
    r1 = 1.0 if high <= last else float(schedule.time_of_log_snr(_time(last)))
    return r0, r1


def _factor(scale: Tensor, shape: tuple[int, ...]) -> Standardise:
    """encode divides by ``scale``."""
    return Standardise(torch.zeros((), dtype=torch.float64), scale.detach().double(), shape)


def _with_field(ode: ContinuousMap, field: nn.Module) -> ContinuousMap:
    copy = ContinuousMap(
        field,
        event_shape=ode.event_shape,
        solver=ode.solver,
        likelihood_solver=ode.likelihood_solver,
        divergence=ode.divergence,
        round_trip=ode.round_trip,
        coarse=ode.coarse,
        condition_shape=ode.condition_shape,
    )
    copy.training = ode.training
    return copy
