"""The fields u = w(t)(x1 − x), what they leave behind, and the three things "noisy" may mean.

Integrated as a velocity, x1 − x does not end at x1: with κ from `pulls` it ends at (1 − κ(1))x1 + κ(1)x0, and for w = 1
a third of x0 is left. One Euler step hides this (it lands on x1), a hundred show it. On the straight path the velocity
is (x1 − x)/(1 − t) = x1 − x0; x1 − x itself is a *parameterisation* (``displacement`` in `convert`), to be divided by
1 − t before it is integrated.

"x1 − x + ε" is one of: fresh ε in the regression target (`noisy_target`: the same minimiser, more gradient variance);
ε fixed per pair (`blurred_data`: the data become x1 + ε); noise in the dynamics (`NoisyDynamics`, an SDE).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.paths.affine import refuse_infinite_ends
from advect.paths.gaussian import gaussian_log_density, standard_normal
from advect.paths.pulls import LAST, ConstantPull, PowerPull, Pull, as_pull, log_time_rule
from advect.paths.schedule import EndWeights
from advect.records import Bridge
from advect.typing import Rows, Scalars, Times, batch_time, expand_time

AnyTimes = Float[Tensor, "*times"]


REMEDY = (
    "Rescale its clock (pull.rescaled()), or predict x1 − x as a parameterisation on the linear path and divide by "
    "1 − t (prediction 'displacement')."
)


def shortfall(left: float) -> str:
    """Where a field ends that leaves the fraction ``left`` of x0, in words."""
    return (
        f"The field does not arrive: at t = 1 a fraction {left:.3g} of x0 is left, so it ends at "
        f"{1 - left:.3g}·x1 + {left:.3g}·x0."
    )


def arrival_report(w: Pull | Callable[[Tensor], Tensor]) -> str:
    """One sentence on where u = w(t)(x1 − x) ends at t = 1, and a second with the remedy if that is not x1."""
    left = as_pull(w).remaining
    return f"{shortfall(left)} {REMEDY}" if left else "The field arrives: at t = 1 nothing of x0 is left."


@dataclass(frozen=True)
class PullField:
    """The field u = w(t)(x1 − x) towards fixed points, as it stands: it need not arrive (`arrival_report`).

    Args:
        w: A pull, or any callable w(t).
        x1: ``(batch, *event)`` or ``(1, *event)``, where each row is pulled to.
    """

    w: Pull | Callable[[Tensor], Tensor]
    x1: Rows

    def __call__(self, t: Tensor | float, x: Rows, condition: Tensor | None = None) -> Rows:
        """Velocity; w is evaluated no later than 1 − √eps of the dtype, since it may be infinite at t = 1."""
        time = expand_time(t, x).clamp(max=1 - math.sqrt(torch.finfo(x.dtype).eps))
        return as_pull(self.w).weight(time) * (self.x1 - x)

    def divergence(self, t: Tensor | float, x: Rows, condition: Tensor | None = None) -> Scalars:
        """−w(t) times the number of entries of an event."""
        time = batch_time(t, x).clamp(max=1 - math.sqrt(torch.finfo(x.dtype).eps))
        return -as_pull(self.w).weight(time) * (x.numel() // max(x.shape[0], 1))

    def arrival_report(self) -> str:
        """See `arrival_report`."""
        return arrival_report(self.w)


@dataclass(frozen=True)
class WeightedPull:
    """The conditional path of u = w(t)(x1 − x): x_t = (1 − κ)x1 + κ x0.

    Args:
        w: A pull, or any callable w(t).
        allow_residual: Accept a pull with κ(1) > 0. A sampler trained on it generates (1 − κ(1))X1 + κ(1)X0, not the
            data, so this is refused unless said.
    """

    w: Pull | Callable[[Tensor], Tensor] = PowerPull()  # noqa: RUF009  frozen
    allow_residual: bool = False

    def __post_init__(self) -> None:
        if self.pull.remaining > 0 and not self.allow_residual:
            raise ConfigError(
                shortfall(self.pull.remaining),
                where=f"path with w = {self.w}",
                remedy=f"{REMEDY} To study the field as it is, say allow_residual=True.",
            )
        refuse_infinite_ends(self.pull.clock())

    @property
    def pull(self) -> Pull:
        """The pull behind the path."""
        return as_pull(self.w)

    @property
    def requires_gaussian_source(self) -> bool:
        """Never: any two populations."""
        return False

    def start(self) -> EndWeights:
        """x0 exactly."""
        return EndWeights(0.0, 1.0)

    def end(self) -> EndWeights:
        """(1 − κ(1))x1 + κ(1)x0."""
        return EndWeights(1 - self.pull.remaining, self.pull.remaining)

    def arrival_report(self) -> str:
        """See `arrival_report`."""
        return arrival_report(self.w)

    def sample(self, t: Times, x0: Rows, x1: Rows, *, generator: Generator | None = None) -> Bridge:
        """x = (1 − κ)x1 + κx0 with velocity −κ'(x1 − x0), which is w(x1 − x) there; nothing is drawn."""
        time = expand_time(t, x1)
        kappa = self.pull.kappa(time)
        velocity = -self.pull.kappa_derivative(time) * (x1 - x0)
        return Bridge(batch_time(t, x1), (1 - kappa) * x1 + kappa * x0, velocity, None, x0, x1)

    def velocity(self, t: Times, x: Rows, x0: Rows | None, x1: Rows) -> Rows:
        """w(t)(x1 − x) at any point. Where κ = 0 every path has met x1: the limit −κ'(x1 − x0), or −κ'x1 without x0.

        The latter is the mean of that limit over a centred source.
        """
        time = expand_time(t, x1)
        kappa, slope = self.pull.kappa(time), self.pull.kappa_derivative(time)
        met = kappa == 0
        limit = -slope * (x1 if x0 is None else x1 - x0)
        return torch.where(met, limit, -slope / torch.where(met, 1.0, kappa) * (x1 - x))

    def log_density(self, t: Times, x: Rows, x1: Rows, x0: Rows | None = None) -> Scalars:
        """log p_t(x|x1) = log N((1 − κ)x1, κ²) for a standard-normal source, ``(batch,)`` nats; x0 is not used."""
        kappa = self.pull.kappa(expand_time(t, x1))
        return gaussian_log_density(x, (1 - kappa) * x1, kappa)


def noisy_target(bridge: Bridge, std: float, *, generator: Generator | None = None) -> Bridge:
    """First meaning: fresh ε ~ N(0, std²) in the regression target, drawn anew at every call.

    The regression has the same minimiser; only its gradients grow noisier and its loss higher by std² per entry.
    """
    return replace(bridge, velocity=bridge.velocity + std * standard_normal(bridge.velocity, generator))


def blurred_data(x1: Rows, std: float, *, generator: Generator | None = None) -> Rows:
    """Second meaning: ε fixed per pair. Call once on the data: a flow then learns the law of x1 + ε."""
    return x1 + std * standard_normal(x1, generator)


@dataclass(frozen=True)
class NoisyDynamics:
    """Third meaning: the SDE dX = w(t)(x1 − X)dt + g(t)dB, from X_0 = x0.

    X_t is Gaussian around the noiseless solution. It ends on x1 exactly when the pull arrives *and* the variance goes
    to 0; for w = a/(1 − t) and constant g it does for every a > 0, and a = 1 is the Brownian bridge.

    Args:
        w: A pull, or any callable w(t).
        noise: g, a number or a callable of time, in units of the rows per √time.
    """

    w: Pull | Callable[[Tensor], Tensor]
    noise: float | Callable[[Tensor], Tensor]

    def drift(self, t: Tensor | float, x: Rows, x1: Rows) -> Rows:
        """w(t)(x1 − X)."""
        return PullField(self.w, x1)(t, x)

    def diffusion(self, t: AnyTimes) -> AnyTimes:
        """g(t)."""
        return self.noise(t) if callable(self.noise) else torch.full_like(t, self.noise)

    def mean(self, t: Times, x0: Rows, x1: Rows) -> Rows:
        """(1 − κ)x1 + κx0, as without noise."""
        kappa = as_pull(self.w).kappa(expand_time(t, x1))
        return (1 - kappa) * x1 + kappa * x0

    def variance(self, t: AnyTimes, source_std: float = 0.0) -> AnyTimes:
        """κ²(s0² + ∫₀ᵗ g²/κ²) per entry, for a source of standard deviation s0 around its mean.

        Closed for w = a, w = a/(1 − t) with constant g; else by quadrature, at t = 1 the value at 1 − 2⁻³².
        """
        pull = as_pull(self.w)
        kappa = pull.kappa(t)
        return kappa.square() * source_std**2 + self._accumulated(pull, t)

    def _accumulated(self, pull: Pull, t: Tensor) -> Tensor:
        """κ(t)² ∫₀ᵗ g²/κ², written so that no large number appears."""
        if not callable(self.noise) and isinstance(pull, ConstantPull):
            return self.noise**2 * -torch.expm1(-2 * pull.rate * t) / (2 * pull.rate)
        if not callable(self.noise) and isinstance(pull, PowerPull):
            return self.noise**2 * _power_variance(t, pull.power)
        inner = t.double().clamp(max=LAST)
        nodes, weights = log_time_rule(inner)
        growth = torch.exp(2 * (pull.total(nodes) - pull.total(inner)))
        return (weights * self.diffusion(nodes).square() * growth).sum(0).to(t.dtype)


def _power_variance(t: Tensor, power: float) -> Tensor:
    """(1−t)(1 − (1−t)^(2a−1))/(2a−1), with its limit (1−t)log(1/(1−t)) at a = ½, and 0 at t = 1."""
    left, exponent = 1 - t, 2 * power - 1
    if exponent == 0:
        return -torch.xlogy(left, left)
    return (left - left.pow(2 * power)) / exponent
