"""The field of a learned flow: a network's output read as a velocity, on top of an optional baseline.

A network may predict velocity, x1, noise, score, displacement x1 − x or EDM's output. Each is an affine function of
the velocity,

    v = drift(t) x + gain(t) P                       (`paths.convert.coefficients`),

for example v = (D − x)/(1 − t) for x1-prediction D on the linear path. With a baseline v_b the network
predicts what is to be added to the baseline's own prediction, which by affinity gives v = v_b + gain(t) ·
network: a network that returns zero gives the baseline back, whatever it predicts.

Where σ = 0 (x1, displacement, score) or α = 0 (noise, score) the velocity of an inexact network has no limit.
There the field is integrated only up to ``margin`` from the end (`interval`), and a call nearer to the end is
answered as at the margin: finite, and never evaluated by a flow. For x1 on the linear path a flow so ends at
(1 − margin) x1 + margin x0.
"""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advect import compiled
from advect.errors import ConfigError, unknown_name
from advect.flows.baseline import finite_ends
from advect.flows.guidance import offered_divergence
from advect.flows.inference_field import InferenceField
from advect.paths.convert import PREDICTIONS, coefficients
from advect.paths.schedule import Linear
from advect.typing import Field, Schedule, expand_time, written_for

DEFAULT_MARGIN = 1e-3
LINEAR = Linear()


class VelocityField(nn.Module):
    """Velocity = baseline + gain(t) · network(t, x, condition).

    Args:
        network: ``network(t, x, condition) -> (batch, *event)``; may offer ``divergence(t, x, condition) ->
            (batch,)``.
        baseline: A field to start from, which must offer a divergence to keep an analytic one; None for none.
        parameterisation: What the network predicts: one of `paths.convert.PREDICTIONS`.
        schedule: α and σ of the path, the linear one by default; None where the path is not affine.
        has_score: Whether what the network knows is also a score: the path starts from a standard normal drawn
            independently of the data.
        scale_input: Divide what the network sees by √(α² + σ²), the standard deviation of x_t for
            standardised data.
        margin: Distance kept from an end where the conversion has a pole, in time.

    Attributes:
        interval: Times between which a flow integrates the field.

    Raises:
        UnknownNameError: For an unknown parameterisation.
        ConfigError: For a margin outside (0, 0.5), or a conversion without a schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        baseline: Field | None = None,
        parameterisation: str = "velocity",
        schedule: Schedule | None = LINEAR,
        has_score: bool = False,
        scale_input: bool = False,
        margin: float = DEFAULT_MARGIN,
    ) -> None:
        super().__init__()
        if parameterisation not in PREDICTIONS:
            raise unknown_name("parameterisation", parameterisation, PREDICTIONS)
        if not 0.0 < margin < 0.5:
            raise ConfigError(f"The margin is {margin}", where="margin", remedy="Give a time in (0, 0.5).")
        if schedule is None and (parameterisation != "velocity" or scale_input or has_score):
            raise ConfigError(
                "Without a schedule a network can only predict the velocity",
                where="VelocityField",
                remedy="Give the schedule of the affine path.",
            )
        self.network, self.baseline, self.schedule = network, baseline, schedule
        self.parameterisation, self.scale_input, self.has_score = parameterisation, scale_input, has_score
        first, last = getattr(baseline, "interval", (0.0, 1.0))
        start_pole, end_pole = _poles(parameterisation, schedule)
        self.interval = (max(first, margin * start_pole), min(last, 1.0 - margin * end_pole))

    def forward(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Velocity at ``t`` (scalar or ``(batch,)``) and ``x``."""
        return self.velocity_with(self.network, t, x, condition)

    def for_inference(self, dtype: torch.dtype | None = None) -> Field:
        """The same field without a graph, by the network's own quick pass where it offers one; see `InferenceField`."""
        offered = getattr(self.network, "for_inference", None)
        if compiled.heard([self, self.network]):  # whose hooks wait for every pass
            return self
        return InferenceField(self, offered(dtype)) if callable(offered) else self

    def velocity_with(
        self, network: Callable[..., Tensor], t: Tensor | float, x: Tensor, condition: Tensor | None
    ) -> Tensor:
        """The velocity with another network in the place of this field's own."""
        t = self._inside(t)
        output = network(t, self._seen(t, x), condition)
        if self.parameterisation == "velocity":
            return output if self.baseline is None else output + self.baseline(t, x, condition)
        drift, gain = self._conversion(t, x)
        return gain * output + (drift * x if self.baseline is None else self.baseline(t, x, condition))

    def predict(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """What the network is trained to say: the velocity expressed in `parameterisation`."""
        t = self._inside(t)
        output = self.network(t, self._seen(t, x), condition)
        if self.baseline is None:
            return output
        drift, gain = self._conversion(t, x)
        return output + (self.baseline(t, x, condition) - drift * x) / gain

    def network_target(
        self, quantity: str, t: Tensor, x: Tensor, condition: Tensor | None, target: Tensor
    ) -> tuple[nn.Module, Tensor, Tensor, Tensor] | None:
        """What the network should say where ``velocity`` or ``prediction`` (`forward`, `predict`) should be ``target``.

        Returns: The network, the times and points it is shown and the target for it: the error of the one is then the
            error of the other. None where it is not, but a multiple of it, or where more than the network is trained.
        """
        plain = self.parameterisation == "velocity"
        if not (plain or quantity == "prediction") or not written_for(
            type(self), "network_target", "forward", "predict"
        ):
            return None
        t = cast(Tensor, self._inside(t))
        shown = self._seen(t, x)
        if self.baseline is None:
            return self.network, t, shown, target
        if isinstance(self.baseline, nn.Module) and any(p.requires_grad for p in self.baseline.parameters()):
            return None
        start = self.baseline(t, x, condition)
        if not plain:
            drift, gain = self._conversion(t, x)
            start = (start - drift * x) / gain
        return self.network, t, shown, target - start

    @property
    def divergence(self) -> Callable[..., Tensor]:
        """``(t, x, condition) -> (batch,)``, analytic; offered where both the network and the baseline offer one."""
        inner = offered_divergence(self.network)
        outer = offered_divergence(self.baseline) if self.baseline is not None else None

        def divergence(t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
            t = self._inside(t)
            drift, gain = (c.flatten() for c in self._conversion(t, x))
            learned = gain * self._input_scale(t, x).flatten() * inner(t, self._seen(t, x), condition)
            width = x[:1].numel() if x.shape[0] else 0
            return learned + (drift * width if outer is None else outer(t, x, condition))

        return divergence

    @property
    def velocity_and_divergence(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """``(t, x, condition) -> (velocity, divergence)`` in one pass of the network; offered like `divergence`."""
        both = getattr(self.network, "velocity_and_divergence", None)
        outer = offered_divergence(self.baseline) if self.baseline is not None else None
        if not callable(both):
            raise AttributeError("the network offers no velocity_and_divergence")

        def velocity_and_divergence(
            t: Tensor | float, x: Tensor, condition: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            t = self._inside(t)
            output, trace = both(t, self._seen(t, x), condition)
            width = x[:1].numel() if x.shape[0] else 0
            if self.parameterisation == "velocity" and not self.scale_input:
                if self.baseline is None or outer is None:
                    return output, trace
                return output + self.baseline(t, x, condition), trace + outer(t, x, condition)
            drift, gain = self._conversion(t, x)
            start = drift * x if self.baseline is None else self.baseline(t, x, condition)
            trace = (gain * self._input_scale(t, x)).flatten() * trace
            rest = drift.flatten() * width if outer is None else outer(t, x, condition)
            return gain * output + start, trace + rest

        return velocity_and_divergence

    def _conversion(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and gain of v = drift · x + gain · P, each ``(batch, 1, …)``."""
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1)  # one number where all rows share it
        pair = coefficients(self.parameterisation, "velocity", time, self.schedule or LINEAR)
        return expand_time(pair[0], x), expand_time(pair[1], x)

    def _inside(self, t: Tensor | float) -> Tensor | float:
        low, high = self.interval
        return t.clamp(low, high) if isinstance(t, Tensor) else min(max(t, low), high)

    def _input_scale(self, t: Tensor | float, x: Tensor) -> Tensor:
        time = expand_time(t, x)
        if not self.scale_input or self.schedule is None:
            return torch.ones_like(time)
        return (self.schedule.alpha(time) ** 2 + self.schedule.sigma(time) ** 2).rsqrt()

    def _seen(self, t: Tensor | float, x: Tensor) -> Tensor:
        return self._input_scale(t, x) * x if self.scale_input else x

    def extra_repr(self) -> str:
        """What the network predicts, for ``print``."""
        return f"parameterisation={self.parameterisation!r}, schedule={self.schedule}"


def _poles(parameterisation: str, schedule: Schedule | None) -> tuple[bool, bool]:
    """Whether the conversion to velocity says nothing at t = 0 and at t = 1."""
    if parameterisation == "velocity" or schedule is None:
        return False, False
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    moves_at_start, moves_at_end = finite_ends(schedule)
    needs_alpha = parameterisation in ("noise", "score")
    needs_sigma = parameterisation in ("x1", "displacement", "score")
    at_start = not moves_at_start or (needs_alpha and float(schedule.alpha(ends)[0]) == 0)
    at_end = not moves_at_end or (needs_sigma and float(schedule.sigma(ends)[1]) == 0)
    return at_start, at_end
