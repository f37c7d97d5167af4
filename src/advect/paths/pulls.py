"""The weights w(t) of the fields u = w(t)(x1 − x): how hard the point x1 pulls, and how much of x0 survives.

With Ω(t) = ∫₀ᵗ w and κ = exp(−Ω) the solution is x_t = (1 − κ)x1 + κ x0. It arrives at x1 exactly when ∫₀¹ w = ∞. The
plain x1 − x has w = 1, so κ(1) = 1/e: a third of the source is left. Every κ falling from 1 to 0 belongs to a pull
w = −κ'/κ, which is how a pull that falls short is mended (`Pull.rescaled`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError
from advect.paths.clock import Clock

AnyTimes = Float[Tensor, "*times"]

# The last time at which an integrand is trusted: 1 − t still carries 21 bits there.
HALVINGS = 32
LAST = 1 - 2.0**-HALVINGS
_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(16))
_PANELS = 12


def log_time_rule(t: AnyTimes) -> tuple[Float[Tensor, "nodes *times"], Float[Tensor, "nodes *times"]]:
    """Nodes s and weights of ∫₀ᵗ f(s) ds in float64, graded towards s = 1: exact for f = 1/(1−s), t at most `LAST`.

    The substitution is 1 − s = (1 − t)^v; composite Gauss–Legendre in v.
    """
    t = t.double().clamp(max=LAST)
    nodes, weights = _NODES.to(t.device), _WEIGHTS.to(t.device)
    start = torch.arange(_PANELS, dtype=torch.float64, device=t.device)
    v = ((start[:, None] + (nodes + 1) / 2) / _PANELS).reshape(-1, *([1] * t.ndim))
    length = -torch.log1p(-t)
    decay = torch.exp(-length * v)
    panel = (weights / (2 * _PANELS)).repeat(_PANELS).reshape(v.shape)
    return -torch.expm1(-length * v), panel * length * decay


class Pull:
    """What follows from w and Ω; subclasses give those two, each elementwise on times of any shape."""

    def weight(self, t: AnyTimes) -> AnyTimes:
        """w(t)."""
        raise NotImplementedError

    def total(self, t: AnyTimes) -> AnyTimes:
        """Ω(t) = ∫₀ᵗ w; +∞ at t = 1 for a pull that arrives."""
        raise NotImplementedError

    def kappa(self, t: AnyTimes) -> AnyTimes:
        """κ(t) = exp(−Ω): the fraction of x0 left at time t."""
        return torch.exp(-self.total(t))

    def kappa_derivative(self, t: AnyTimes) -> AnyTimes:
        """κ' = −wκ; the limit where w is infinite and κ is 0."""
        return -self.weight(t) * self.kappa(t)

    @cached_property
    def remaining(self) -> float:
        """κ(1), the fraction of x0 that never goes away; 0 for a pull that arrives."""
        return float(self.kappa(torch.ones((), dtype=torch.float64)))

    def clock(self) -> Clock:
        """The schedule α = 1 − κ, σ = κ."""
        return Clock(self.kappa, self.kappa_derivative)

    def rescaled(self) -> "Pull":
        """The pull of the clock (κ − κ(1))/(1 − κ(1)), which starts alike and arrives."""
        return self if self.remaining == 0 else RescaledPull(self)


@dataclass(frozen=True)
class ConstantPull(Pull):
    """w = rate; the plain field x1 − x at rate 1. Never arrives: κ(1) = exp(−rate)."""

    rate: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("rate", self.rate)

    def weight(self, t: AnyTimes) -> AnyTimes:
        """The rate."""
        return torch.full_like(t, self.rate)

    def total(self, t: AnyTimes) -> AnyTimes:
        """rate · t."""
        return self.rate * t


@dataclass(frozen=True)
class PowerPull(Pull):
    """w = a/(1 − t), κ = (1 − t)^a. At a = 1 the straight path at constant speed; for a < 1 κ' is infinite at t = 1."""

    power: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("power", self.power)

    def weight(self, t: AnyTimes) -> AnyTimes:
        """a/(1 − t)."""
        return self.power / (1 - t)

    def total(self, t: AnyTimes) -> AnyTimes:
        """−a log(1 − t)."""
        return -self.power * torch.log1p(-t)

    def kappa(self, t: AnyTimes) -> AnyTimes:
        """(1 − t)^a."""
        return (1 - t).pow(self.power)

    def kappa_derivative(self, t: AnyTimes) -> AnyTimes:
        """−a(1 − t)^(a−1); −∞ at t = 1 for a < 1."""
        return -self.power * (1 - t).pow(self.power - 1)


@dataclass(frozen=True)
class TangentPull(Pull):
    """w = (π/2) tan(πt/2), κ = cos(πt/2)."""

    def weight(self, t: AnyTimes) -> AnyTimes:
        """(π/2) tan(πt/2), +∞ at t = 1."""
        return math.pi / 2 * torch.sin(math.pi / 2 * t) / self.kappa(t)

    def total(self, t: AnyTimes) -> AnyTimes:
        """−log cos(πt/2)."""
        return -self.kappa(t).log()

    def kappa(self, t: AnyTimes) -> AnyTimes:
        """cos(πt/2), exactly 0 at t = 1."""
        return torch.sin(math.pi / 2 * (1 - t))

    def kappa_derivative(self, t: AnyTimes) -> AnyTimes:
        """−(π/2) sin(πt/2)."""
        return -math.pi / 2 * torch.sin(math.pi / 2 * t)


@dataclass(frozen=True)
class RegularisedPull(Pull):
    """w = 1/(1 − t + ε), κ = (1 − t + ε)/(1 + ε). Ends at (x1 + εx0)/(1 + ε): a biased mean; prefer Lipman's form."""

    epsilon: float

    def __post_init__(self) -> None:
        _require_positive("epsilon", self.epsilon)

    def weight(self, t: AnyTimes) -> AnyTimes:
        """1/(1 − t + ε)."""
        return 1 / (1 - t + self.epsilon)

    def total(self, t: AnyTimes) -> AnyTimes:
        """−log κ."""
        return -self.kappa(t).log()

    def kappa(self, t: AnyTimes) -> AnyTimes:
        """(1 − t + ε)/(1 + ε)."""
        return (1 - t + self.epsilon) / (1 + self.epsilon)


@dataclass(frozen=True)
class CallablePull(Pull):
    """Any w ≥ 0 that is locally integrable before t = 1; Ω by quadrature in float64.

    Whether ∫₀¹ w diverges is read off the last halvings of the distance to 1: w ~ (1 − t)^(−p) counts as divergent
    for p ≥ 1, and for p < 1 the tail is summed as the geometric series it is. Only a divergence slower than every
    power, such as 1/((1 − t) log²(1 − t)) against 1/(1 − t), is beyond that.
    """

    function: Callable[[Tensor], Tensor]

    def weight(self, t: AnyTimes) -> AnyTimes:
        """The given w."""
        return torch.as_tensor(self.function(t), dtype=t.dtype, device=t.device).expand(t.shape)

    def total(self, t: AnyTimes) -> AnyTimes:
        """Ω(t), at t = 1 the limit."""
        nodes, weights = log_time_rule(t)
        inside = (weights * self._checked(nodes)).sum(0)
        return torch.where(t.double() > LAST, self.total_at_end, inside).to(t.dtype)

    def kappa_derivative(self, t: AnyTimes) -> AnyTimes:
        """−wκ, at t = 1 its value at `LAST`."""
        inner = t.double().clamp(max=LAST)
        return (-self.weight(inner) * self.kappa(inner)).to(t.dtype)

    def _checked(self, t: Tensor) -> Tensor:
        weight = self.weight(t)
        if not bool((weight.isfinite() & (weight >= 0)).all()):
            raise ConfigError(
                "w(t) is negative or not finite somewhere in [0, 1)",
                where="pull w(t)",
                remedy="Give a w(t) >= 0 that is finite before t = 1, written for tensors.",
            )
        return weight

    @cached_property
    def total_at_end(self) -> float:
        """∫₀¹ w, +∞ where it diverges."""
        edges = 2.0 ** -torch.arange(HALVINGS + 1, dtype=torch.float64)  # distances to 1
        half = (edges[:-1] - edges[1:]) / 2
        nodes = 1 - (edges[:-1] + edges[1:]).div(2)[:, None] + half[:, None] * _NODES
        pieces = (self._checked(nodes) * _WEIGHTS * half[:, None]).sum(1)
        if float(pieces[-1]) == 0:
            return float(pieces.sum())
        ratio = float((pieces[-1] / pieces[-9]).pow(1 / 8)) if float(pieces[-9]) > 0 else 1.0
        if ratio > 1 - 1e-3:
            return math.inf
        return float(pieces.sum() + pieces[-1] * ratio / (1 - ratio))


@dataclass(frozen=True)
class RescaledPull(Pull):
    """A pull that falls short, with its clock stretched to arrive: κ = (κ_in − κ_in(1))/(1 − κ_in(1)).

    Args:
        inner: The pull to mend, with 0 < κ(1) < 1.
    """

    inner: Pull

    def weight(self, t: AnyTimes) -> AnyTimes:
        """w κ_in/(κ_in − κ_in(1)), +∞ at t = 1."""
        return -self.kappa_derivative(t) / self.kappa(t)

    def total(self, t: AnyTimes) -> AnyTimes:
        """−log κ."""
        return -self.kappa(t).log()

    def kappa(self, t: AnyTimes) -> AnyTimes:
        """From 1 to 0, exactly 0 at t = 1 and without cancellation before it."""
        end = self.inner.total(torch.ones_like(t))
        return torch.expm1(end - self.inner.total(t)) / torch.expm1(end)

    def kappa_derivative(self, t: AnyTimes) -> AnyTimes:
        """κ_in'/(1 − κ_in(1))."""
        return self.inner.kappa_derivative(t) / -math.expm1(math.log(self.inner.remaining))


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {value}", where="pull w(t)", remedy=f"Take a finite {name} above 0.")


def as_pull(w: Pull | Callable[[Tensor], Tensor]) -> Pull:
    """A pull from a pull or from any callable w(t)."""
    return w if isinstance(w, Pull) else CallablePull(w)


def remaining_fraction(w: Pull | Callable[[Tensor], Tensor]) -> float:
    """κ(1) = exp(−∫₀¹ w): the fraction of x0 left at t = 1; 0 exactly when the field arrives.

    >>> round(remaining_fraction(ConstantPull()), 3)
    0.368
    >>> remaining_fraction(PowerPull())
    0.0
    """
    return as_pull(w).remaining
