"""Classifier-free guidance: extrapolate from the unconditional field through the conditional one.

    v(t, x | c) = (1 + w) v(t, x | c) − w v(t, x | 0)

(Ho & Salimans 2022, eq. 6, for velocities instead of noises; the two agree because both are affine in one
another on an affine path.) A condition of zeros means "no condition", as in training with dropped conditions.
w = 0 is the field itself, w = −1 the unconditional one. For w > 0 the result follows the tempered density
p(x|c)^(1+w) p(x)^(−w) at each time, which is not an exact sampler of the tilted law at t = 1; the log-density
reported for a guided flow is that of the guided flow.

With an interval (Kynkäänniemi et al. 2024) the velocity jumps at its two ends: adaptive solvers find the
jumps by many small steps, fixed-step ones pass over them with an error of first order.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advect.errors import ConfigError
from advect.typing import Field, Schedule, batch_time, expand_time


class Guided(nn.Module):
    """A field with guidance weight w, optionally only in an interval of time.

    Args:
        field: The field to guide; it must take a condition.
        weight: w above, any finite number.
        interval: ``(low, high)`` times in which guidance applies; outside it the field is the conditional one.

    Attributes:
        evaluations: Network evaluations per call: 2, or 1 when w = 0. With an interval it is the larger of the two.
    """

    def __init__(self, field: Field, weight: float, *, interval: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        if not math.isfinite(weight):
            raise ConfigError(f"The guidance weight {weight} is not finite", where="weight", remedy="Try 1.0.")
        if not 0.0 <= interval[0] < interval[1] <= 1.0:
            raise ConfigError(f"{interval} is no interval of time", where="interval", remedy="Give 0 ≤ low < high ≤ 1.")
        self.field, self.weight, self.guided_interval = field, float(weight), interval
        self.evaluations = (2 if weight else 1) * getattr(field, "evaluations", 1)

    def forward(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Guided velocity; both evaluations are made in one call of twice the rows.

        Raises:
            ConfigError: If there is no condition to be guided by.
        """
        return self._extrapolate(self.field, t, x, condition)

    @property
    def interval(self) -> tuple[float, float]:
        """Times between which the field may be integrated: those of the guided field."""
        return getattr(self.field, "interval", (0.0, 1.0))

    @property
    def schedule(self) -> Schedule | None:
        """The path of the guided field: a combination of two predictions is one on the same path."""
        return getattr(self.field, "schedule", None)

    @property
    def has_score(self) -> bool:
        """Whether the guided field knows a score; the combination of two is what stands for one then."""
        return getattr(self.field, "has_score", False)

    @property
    def score(self) -> Callable[..., Tensor]:
        """``(t, x, condition)``: the same combination of the field's scores, where it offers one of its own."""
        inner: Callable[..., Tensor] = getattr(self.field, "score")  # noqa: B009  absent here where absent there
        return lambda t, x, condition=None: self._extrapolate(inner, t, x, condition)

    @property
    def diffusion(self) -> float:
        """That of the guided field's process, where it has one."""
        return getattr(self.field, "diffusion")  # noqa: B009

    @property
    def divergence(self) -> Callable[..., Tensor]:
        """``(t, x, condition) -> (batch,)``: the same combination of the field's divergences, where it offers one."""
        inner = offered_divergence(self.field)
        return lambda t, x, condition=None: self._extrapolate(inner, t, x, condition)

    def _extrapolate(
        self, function: Callable[..., Tensor], t: Tensor | float, x: Tensor, condition: Tensor | None
    ) -> Tensor:
        times = batch_time(t, x)
        low, high = self.guided_interval
        active = (times >= low) & (times <= high)
        if not self.weight or not bool(active.any()):
            return function(t, x, condition)
        if condition is None:
            raise ConfigError(
                "Guidance needs a condition, and there is none",
                where="condition",
                remedy="Give a condition, or set the guidance weight to 0.",
            )
        doubled = torch.cat([condition, torch.zeros_like(condition)])
        given, free = function(torch.cat([times, times]), torch.cat([x, x]), doubled).chunk(2)
        weight = expand_time(active.to(given.dtype) * self.weight, given)
        return given + weight * (given - free)


def offered_divergence(field: Field) -> Callable[..., Tensor]:
    """The field's own divergence.

    Raises:
        AttributeError: If it offers none, so that a property built on it is absent too (`hasattr` is False).
    """
    offered = getattr(field, "divergence", None)
    if not callable(offered):
        raise AttributeError(f"{type(field).__name__} offers no divergence")
    return offered
