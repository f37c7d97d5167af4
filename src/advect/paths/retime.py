"""Change of schedule: run a field learnt on one affine schedule as if it had been learnt on another.

Paths with equal signal-to-noise ratio are the same path up to scale. From (α, σ) to (A, B): choose t(r) with α/σ at t
equal to A/B at r, and c = A/α = B/σ; then V_r(x) = (c'/c)x + c·t'(r)·v_t(x/c) moves X_r = c·x_{t(r)}.

Written with c² = (A² + B²)/(α² + σ²) and t' = R_to/(R_from c²), no term divides by a weight that vanishes, so the ends
are exact. Where the target's ratio lies outside the range of the given schedule, its time stands still at the nearer
end: the field only scales.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from advect.paths.schedule import wronskian
from advect.typing import Field, Rows, Schedule, batch_time, expand_time

AnyTimes = Float[Tensor, "*times"]
MARGIN = 1e-10


class Clocking(NamedTuple):
    """How the new time r reads the old schedule.

    Attributes:
        time: t(r).
        time_derivative: dt/dr; 0 outside the common range.
        scale: c(r).
        log_scale_derivative: c'/c.
    """

    time: Tensor
    time_derivative: Tensor
    scale: Tensor
    log_scale_derivative: Tensor


def clocking(r: AnyTimes, from_schedule: Schedule, to_schedule: Schedule) -> Clocking:
    """t(r), c(r) and their derivatives, in float64.

    At an end where t' is not finite (a Wronskian that vanishes or diverges) they are those `MARGIN` inside it.
    """
    cached = isinstance(from_schedule, Hashable) and isinstance(to_schedule, Hashable)
    first, last = (_finite_ends_once if cached else _finite_ends)(from_schedule, to_schedule)
    r = r.double().clamp(0.0 if first else MARGIN, 1.0 if last else 1 - MARGIN)
    return _read(r, from_schedule, to_schedule)


def _finite_ends(from_schedule: Schedule, to_schedule: Schedule) -> tuple[bool, bool]:
    """Whether t' is finite at r = 0 and at r = 1."""
    ends = _read(torch.tensor([0.0, 1.0], dtype=torch.float64), from_schedule, to_schedule)
    finite = ends.time_derivative.isfinite()
    return bool(finite[0]), bool(finite[1])


_finite_ends_once = lru_cache(maxsize=256)(_finite_ends)


def _read(r: Tensor, from_schedule: Schedule, to_schedule: Schedule) -> Clocking:
    wanted = to_schedule.log_snr(r)
    ends = from_schedule.log_snr(torch.tensor([0.0, 1.0], dtype=r.dtype, device=r.device))
    t = from_schedule.time_of_log_snr(torch.clamp(wanted, ends[0], ends[1]))
    a, s = from_schedule.alpha(t), from_schedule.sigma(t)
    big_a, big_s = to_schedule.alpha(r), to_schedule.sigma(r)
    norm, big_norm = a.square() + s.square(), big_a.square() + big_s.square()
    moving = (wanted >= ends[0]) & (wanted <= ends[1])
    rate = wronskian(to_schedule, r) / wronskian(from_schedule, t) * norm / big_norm
    time_derivative = torch.where(moving, rate, 0.0)
    growth = (big_a * to_schedule.alpha_derivative(r) + big_s * to_schedule.sigma_derivative(r)) / big_norm
    inner = (a * from_schedule.alpha_derivative(t) + s * from_schedule.sigma_derivative(t)) / norm
    return Clocking(t, time_derivative, (big_norm / norm).sqrt(), growth - time_derivative * inner)


@dataclass(frozen=True)
class Retimed:
    """A field under another schedule.

    Args:
        field: A velocity for ``from_schedule``.
        from_schedule: What it was learnt on.
        to_schedule: What it shall follow; its start must mean the same source.
    """

    field: Field
    from_schedule: Schedule
    to_schedule: Schedule

    def __call__(self, t: Tensor | float, x: Rows, condition: Tensor | None = None) -> Rows:
        """V_r(x) = (c'/c)x + c·t'·v_t(x/c) at the new time r = ``t``, scalar or ``(batch,)``."""
        # A time that all rows share is read once.
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1)
        clock = clocking(time, self.from_schedule, self.to_schedule)
        scale = expand_time(clock.scale, x)
        inner = self.field(clock.time.to(x.dtype).expand(x.shape[0]), x / scale, condition)
        drift = expand_time(clock.log_scale_derivative, x) * x
        return drift + expand_time(clock.scale * clock.time_derivative, x) * inner

    def at_start(self, x0: Rows) -> Rows:
        """Where the new flow starts for a state that the old one starts at: c(0)·x0."""
        return self._scaled(x0, 0.0)

    def at_end(self, x1: Rows) -> Rows:
        """Where the new flow ends for a state that the old one ends at: c(1)·x1."""
        return self._scaled(x1, 1.0)

    def _scaled(self, x: Tensor, t: float) -> Tensor:
        return expand_time(clocking(batch_time(t, x), self.from_schedule, self.to_schedule).scale, x) * x
