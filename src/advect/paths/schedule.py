"""Affine schedules: x_t = α(t) x1 + σ(t) x0, with exact ends and analytic derivatives.

A schedule is two functions of time. What the rest of the house asks of it: the log signal-to-noise ratio
λ = 2 log(α/σ), which orders times independently of the clock, its inverse, and the Wronskian R = α'σ − ασ' > 0, which
stands in every conversion between predictions (λ' = 2R/(ασ)). Ends are exact: where a weight is said to vanish it is
0.0 and not 6e-17, and `start()` and `end()` say what is left of the other end there.

Linear and trigonometric: Tong et al. 2302.00482, table 1. Lipman and variance preserving: Lipman et al. 2210.02747,
section 4.1, where their VP time is the reverse of ours.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError
from advect.typing import Schedule

AnyTimes = Float[Tensor, "*times"]


@dataclass(frozen=True)
class EndWeights:
    """What a path is made of at one end: x = data·x1 + source·x0 + noise·ε.

    Attributes:
        data: Weight of x1.
        source: Weight of x0.
        noise: Standard deviation of what is added besides.
    """

    data: float
    source: float
    noise: float = 0.0

    def __str__(self) -> str:
        parts = [(self.data, "x1"), (self.source, "x0"), (self.noise, "noise")]
        return " + ".join(f"{weight:.4g}·{name}" for weight, name in parts if weight) or "0"


def end_weights(schedule: Schedule, t: float, noise: float = 0.0) -> EndWeights:
    """The weights of any schedule at time ``t`` (0 or 1), as numbers."""
    time = torch.tensor(t, dtype=torch.float64)
    return EndWeights(float(schedule.alpha(time)), float(schedule.sigma(time)), noise)


def wronskian(schedule: Schedule, t: AnyTimes) -> AnyTimes:
    """R(t) = α'σ − ασ', positive wherever the signal-to-noise ratio grows."""
    return schedule.alpha_derivative(t) * schedule.sigma(t) - schedule.alpha(t) * schedule.sigma_derivative(t)


def invert_log_snr(schedule: Schedule, log_snr: AnyTimes, rounds: int = 60) -> AnyTimes:
    """Bisect λ(t) = ``log_snr`` on [0, 1] for any schedule whose λ grows; values out of range give the nearer end."""
    wanted = log_snr.double()
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(rounds):
        middle = (low + high) / 2
        below = schedule.log_snr(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    ends = torch.tensor([0.0, 1.0], dtype=wanted.dtype, device=wanted.device)
    first, last = schedule.log_snr(ends)
    time = torch.where(wanted <= first, ends[0], torch.where(wanted >= last, ends[1], (low + high) / 2))
    return time.to(log_snr.dtype)


class AffineSchedule:
    """What every schedule can derive from α, σ and their derivatives; subclasses give those four."""

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """Weight of the data end."""
        raise NotImplementedError

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """Weight of the source end."""
        raise NotImplementedError

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """dα/dt."""
        raise NotImplementedError

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """dσ/dt."""
        raise NotImplementedError

    def log_snr(self, t: AnyTimes) -> AnyTimes:
        """λ(t) = 2 log(α/σ); −∞ where α = 0, +∞ where σ = 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """The time at which `log_snr` takes this value; the nearer end for values it never takes."""
        return invert_log_snr(self, log_snr)

    def start(self) -> EndWeights:
        """What the path is made of at t = 0; a sampler starts from pure source only where ``data`` is 0."""
        return end_weights(self, 0.0)

    def end(self) -> EndWeights:
        """What the path is made of at t = 1; ``source`` above 0 is blur that belongs to the model."""
        return end_weights(self, 1.0)

    @property
    def finite_ends(self) -> tuple[bool, bool]:
        """Whether α' and σ' are finite at t = 0 and at t = 1; where not, nothing may evaluate there."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        finite = self.alpha_derivative(ends).isfinite() & self.sigma_derivative(ends).isfinite()
        return bool(finite[0]), bool(finite[1])


@dataclass(frozen=True)
class Linear(AffineSchedule):
    """α = t, σ = 1 − t: straight lines at constant speed (rectified flow, I-CFM, OT-CFM)."""

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """Weight t."""
        return t

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """Weight 1 − t."""
        return 1 - t

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """One."""
        return torch.ones_like(t)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """Minus one."""
        return -torch.ones_like(t)

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """Solve t/(1 − t) = exp(λ/2)."""
        return torch.sigmoid(log_snr / 2)


@dataclass(frozen=True)
class Trigonometric(AffineSchedule):
    """α = sin(πt/2), σ = cos(πt/2): the cosine schedule; keeps the variance of independent unit-variance ends."""

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """Weight sin(πt/2)."""
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """Weight cos(πt/2), written as a sine of 1 − t so that it is exactly 0 at t = 1."""
        return torch.sin(math.pi / 2 * (1 - t))

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """(π/2) cos(πt/2)."""
        return math.pi / 2 * self.sigma(t)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """−(π/2) sin(πt/2)."""
        return -math.pi / 2 * self.alpha(t)

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """Solve tan(πt/2) = exp(λ/2)."""
        return 2 / math.pi * torch.atan(torch.exp(log_snr / 2))


@dataclass(frozen=True)
class Lipman(AffineSchedule):
    """α = t, σ = 1 − (1 − s)t: ends at x1 + s·x0 (Lipman et al., equation 20); R = 1.

    Args:
        sigma_min: What is left of the source at t = 1, s ≥ 0; in units of the source's standard deviation.
    """

    sigma_min: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise ConfigError(f"sigma_min is {self.sigma_min}", remedy="Take a value in [0, 1), such as 1e-4.")

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """Weight t."""
        return t

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """Weight 1 − (1 − s)t, written so that it is exactly s at t = 1 in any precision."""
        return (1 - t) + self.sigma_min * t

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """One."""
        return torch.ones_like(t)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """−(1 − s)."""
        return torch.full_like(t, self.sigma_min - 1)

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """Solve t/σ(t) = exp(λ/2)."""
        return (1 / (torch.exp(-log_snr / 2) + 1 - self.sigma_min)).clamp(0, 1)


@dataclass(frozen=True)
class VariancePreserving(AffineSchedule):
    """α = exp(−T/2), σ² = 1 − exp(−T), T = ∫₀^τ β, β growing linearly, τ = 1 − t (Lipman et al., equation 19).

    At the data end σ ~ √(β_min τ), so σ' → −∞. The published remedy stops at τ = 1e-5; here the clock runs over
    τ = 1 − (1 − cutoff)t, which is that cut with t filling [0, 1]: every value is finite and every derivative exact,
    and `end()` reports the σ(1) ≈ √(β_min·cutoff) that is left. ``cutoff=0`` is the textbook form; its `finite_ends`
    says that t = 1 may not be evaluated. At the start α(0) = exp(−T(1)/2), about 0.0066: not pure source.

    Args:
        beta_min: β at the data end, above 0.
        beta_max: β at the source end.
        cutoff: The τ that t = 1 stands for, in [0, 1).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    cutoff: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max or not 0 <= self.cutoff < 1:
            raise ConfigError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max}, cutoff={self.cutoff}",
                where="variance-preserving schedule",
                remedy="Take 0 < beta_min <= beta_max and 0 <= cutoff < 1.",
            )

    def _tau(self, t: Tensor) -> Tensor:
        return (1 - t) + self.cutoff * t

    def _integral(self, t: Tensor) -> Tensor:
        tau = self._tau(t)
        return tau * (self.beta_min + (self.beta_max - self.beta_min) / 2 * tau)

    def _rate(self, t: Tensor) -> Tensor:
        """−dT/dt."""
        return (1 - self.cutoff) * (self.beta_min + (self.beta_max - self.beta_min) * self._tau(t))

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """Weight exp(−T/2)."""
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """Weight √(1 − exp(−T)), without cancellation near the data."""
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """−T'α/2."""
        return self._rate(t) * self.alpha(t) / 2

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """T' exp(−T)/(2σ)."""
        return -self._rate(t) * torch.exp(-self._integral(t)) / (2 * self.sigma(t))

    def log_snr(self, t: AnyTimes) -> AnyTimes:
        """λ = −log(exp(T) − 1)."""
        integral = self._integral(t)
        return -integral - torch.log(-torch.expm1(-integral))

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """T = log(1 + exp(−λ)), then the root of a quadratic in τ."""
        slope = self.beta_max - self.beta_min
        integral = torch.nn.functional.softplus(-log_snr).clamp(max=self.beta_min + slope / 2)
        tau = 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))
        return ((1 - tau) / (1 - self.cutoff)).clamp(0, 1)
