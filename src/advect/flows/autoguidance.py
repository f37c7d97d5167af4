"""Autoguidance: extrapolate from a weaker field through a stronger one.

    v(t, x) = v_strong + w (v_strong − v_weak)

(Karras et al. 2406.02507, equation 3 with their weight 1 + w; for velocities, which on one schedule are the same affine
function of the denoisers.) The weak field is a lesser model of the same data: smaller, or trained for less long. Where
it errs more than the strong one, and in the same direction, the difference points away from the common error; no
condition is needed. It is no exact sampler of anything: on Gaussian fields it scales the difference of two laws, and on
a strong field without error it only adds one.
"""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from advect.errors import ConfigError
from advect.flows.guidance import offered_divergence
from advect.typing import Field, Schedule, batch_time, expand_time


class Autoguided(nn.Module):
    """A field guided by a weaker one of the same event shape and schedule.

    Args:
        field: The strong field.
        weak: The weak one; it sees the same points, times and condition.
        weight: w above, any finite number; 0 is the strong field alone.
        interval: ``(low, high)`` times in which guidance applies; outside it the field is the strong one.

    Attributes:
        schedule: The path of both fields: a combination of two predictions is one on the same path.
        evaluations: Network evaluations per call: those of both, or of the strong one when w = 0. With an interval it
            is the larger of the two.

    Raises:
        ConfigError: A weight that is not finite, no interval of time, or fields of different schedules.
    """

    def __init__(self, field: Field, weak: Field, weight: float, *, interval: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        if not math.isfinite(weight):
            raise ConfigError(f"The guidance weight {weight} is not finite", where="weight", remedy="Try 1.0.")
        if not 0.0 <= interval[0] < interval[1] <= 1.0:
            raise ConfigError(f"{interval} is no interval of time", where="interval", remedy="Give 0 ≤ low < high ≤ 1.")
        strong_schedule, weak_schedule = (getattr(f, "schedule", None) for f in (field, weak))
        if strong_schedule is None or strong_schedule != weak_schedule:
            raise ConfigError(
                f"The fields follow different schedules: {strong_schedule} and {weak_schedule}",
                where="weak",
                remedy="Take two models of one method and the same options: fm, i-cfm, ot-cfm, rf or a diffusion row.",
            )
        self.field, self.weak, self.weight, self.guided_interval = field, weak, float(weight), interval
        self.schedule: Schedule = strong_schedule
        spent = [getattr(f, "evaluations", 1) for f in (field, weak)]
        self.evaluations = sum(spent) if weight else spent[0]

    def forward(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Guided velocity at ``t`` (scalar or ``(batch,)``) and ``x``."""
        return self._extrapolate(self.field, self.weak, t, x, condition)

    @property
    def interval(self) -> tuple[float, float]:
        """Times between which both fields may be integrated."""
        ends = [getattr(f, "interval", (0.0, 1.0)) for f in (self.field, self.weak)]
        return max(low for low, _ in ends), min(high for _, high in ends)

    @property
    def has_score(self) -> bool:
        """Whether both know a score; the combination of two is what stands for one then."""
        return all(getattr(f, "has_score", False) for f in (self.field, self.weak))

    @property
    def divergence(self) -> Callable[..., Tensor]:
        """``(t, x, condition) -> (batch,)``: the same combination of the divergences, where both fields offer one."""
        strong, weak = offered_divergence(self.field), offered_divergence(self.weak)
        return lambda t, x, condition=None: self._extrapolate(strong, weak, t, x, condition)

    def _extrapolate(
        self,
        strong: Callable[..., Tensor],
        weak: Callable[..., Tensor],
        t: Tensor | float,
        x: Tensor,
        condition: Tensor | None,
    ) -> Tensor:
        value = strong(t, x, condition)
        times = batch_time(t, x)
        low, high = self.guided_interval
        active = (times >= low) & (times <= high)
        if not self.weight or not bool(active.any()):
            return value
        return value + expand_time(active.to(value.dtype) * self.weight, value) * (value - weak(t, x, condition))

    def extra_repr(self) -> str:
        """Weight and interval, for ``print``."""
        return f"weight={self.weight}, interval={self.guided_interval}"
