"""The schedules of diffusion models, on this library's clock: t = 0 is noise and t = 1 is data.

A diffusion adds noise in its own time τ = 1 − t. What matters of it is α and σ; the rest is a choice of clock, and a
clock may be chosen so that nothing diverges. VP and DDPM have σ ~ √τ at the data, hence σ' = −∞ there. On the clock
τ = (1 − t)² the same path has σ ~ 1 − t: α(1) = 1, σ(1) = 0 and both derivatives are finite, with no cut-off.

Variance preserving and exploding, sub-VP: Song et al. 2011.13456, equations 29, 32 and appendix C. Cosine is
`Trigonometric` (Nichol & Dhariwal 2102.09672 without their offset). DDPM: Ho et al. 2006.11239, section 4. EDM:
Karras et al. 2206.00364, equation 5.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advect.errors import ConfigError
from advect.paths.schedule import AffineSchedule, AnyTimes, VariancePreserving


def _one_minus_exp_over(x: Tensor) -> Tensor:
    """(1 − exp(−x))/x for x ≥ 0, and its limit 1 at 0."""
    small = x < 1e-2  # six terms of the series are exact there
    safe = torch.where(small, 1.0, x)
    series = sum((-x) ** k / math.factorial(k + 1) for k in range(7))
    return torch.where(small, series, -torch.expm1(-safe) / safe)


class _SquaredClock(AffineSchedule):
    """α² = exp(−T), σ² = 1 − exp(−T) with T(τ) = τ·H(τ), τ = (1 − t)²: σ = (1 − t)·√(H·(1 − exp(−T))/T)."""

    def _mean_rate(self, tau: Tensor) -> Tensor:
        """H = T/τ, positive and finite at τ = 0."""
        raise NotImplementedError

    def _rate(self, tau: Tensor) -> Tensor:
        """dT/dτ."""
        raise NotImplementedError

    def _parts(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """1 − t, τ, T and σ/(1 − t), in float64: T is a difference of large numbers for the discrete products."""
        left = 1 - t.double()
        tau = left.square()
        mean_rate = self._mean_rate(tau)
        integral = tau * mean_rate
        return left, tau, integral, (mean_rate * _one_minus_exp_over(integral)).sqrt()

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """Weight exp(−T/2)."""
        _, _, integral, _ = self._parts(t)
        return torch.exp(-integral / 2).to(t.dtype)

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """Weight √(1 − exp(−T)); 0 at t = 1."""
        left, _, _, slope = self._parts(t)
        return (left * slope).to(t.dtype)

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """(1 − t)·T'(τ)·α."""
        left, tau, integral, _ = self._parts(t)
        return (left * self._rate(tau) * torch.exp(-integral / 2)).to(t.dtype)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """−T'(τ)·exp(−T)·(1 − t)/σ."""
        _, tau, integral, slope = self._parts(t)
        return (-self._rate(tau) * torch.exp(-integral) / slope).to(t.dtype)

    def log_snr(self, t: AnyTimes) -> AnyTimes:
        """λ = −log(exp(T) − 1)."""
        _, _, integral, _ = self._parts(t)
        return (-integral - torch.log(-torch.expm1(-integral))).to(t.dtype)


@dataclass(frozen=True)
class SmoothVariancePreserving(_SquaredClock):
    """The variance-preserving path on the clock τ = (1 − t)²: the one of `VariancePreserving`, exact at the data.

    At the start α(0) = exp(−(β_min + β_max)/4), about 0.0066: not pure source.

    Args:
        beta_min: β at the data end, above 0.
        beta_max: β at the source end.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ConfigError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max}",
                where="variance-preserving schedule",
                remedy="Take 0 < beta_min <= beta_max.",
            )

    def _mean_rate(self, tau: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) / 2 * tau

    def _rate(self, tau: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * tau

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """T = log(1 + exp(−λ)), then the root of a quadratic in τ."""
        slope = self.beta_max - self.beta_min
        integral = torch.nn.functional.softplus(-log_snr.double()).clamp(max=self.beta_min + slope / 2)
        tau = 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))
        return (1 - tau.sqrt()).clamp(0, 1).to(log_snr.dtype)


@dataclass(frozen=True)
class DiscreteVariancePreserving(_SquaredClock):
    """DDPM's products ᾱ_i = Π_{j ≤ i} (1 − β_j), β linear in j, exact at the N levels and smooth between them.

    With β_j = β_1 + (j − 1)(β_N − β_1)/(N − 1) the factors are b(c − j), so the product is a ratio of gamma
    functions, b^i Γ(c)/Γ(c − i), which has a value at every real i. Level i stands at τ = i/N; on the clock
    τ = (1 − t)² its time is `level_time`. As N grows with N·β fixed it tends to the continuous VP path.

    Args:
        steps: N.
        beta_first: β_1, above 0.
        beta_last: β_N, below 1.
    """

    steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 2 or not 0 < self.beta_first < self.beta_last < 1:
            raise ConfigError(
                f"steps={self.steps}, beta_first={self.beta_first}, beta_last={self.beta_last}",
                where="discrete schedule",
                remedy="Take steps >= 2 and 0 < beta_first < beta_last < 1.",
            )
        # Between its levels the gamma function rises and falls where the betas grow too fast, and Stirling's series
        # wants arguments above 20.
        if self._step >= 2 * self.beta_first or (1 - self.beta_last) / self._step < 20:
            raise ConfigError(
                f"the betas grow by {self._step:.3g} from level to level, too fast for a smooth schedule through them",
                where="discrete schedule",
                remedy="Take more steps: 1000 with betas from 1e-4 to 0.02 are usual.",
            )

    @property
    def _step(self) -> float:
        return (self.beta_last - self.beta_first) / (self.steps - 1)

    @property
    def _root(self) -> float:
        """c: the real index at which a factor would vanish."""
        return (1 - self.beta_first) / self._step + 1

    def level_time(self, level: Tensor) -> Tensor:
        """The time of level i = 0 (data) … N (noise), in float64."""
        return 1 - (level.double() / self.steps).sqrt()

    def _mean_rate(self, tau: Tensor) -> Tensor:
        """T/τ with T = −log ᾱ, by Stirling's series of both gamma functions.

        log Γ(c) − log Γ(c − i) is a difference of numbers near c·log c. Divided by i, in terms of i/c, nothing cancels.
        """
        i, c, b = tau * self.steps, self._root, self._step
        ratio = i / c
        # Near 0 both are quotients of zeros; ten terms of their series are exact below a ratio of 0.05.
        small = ratio < 0.05
        safe = torch.where(small, 0.5, ratio)
        bend = ((1 - safe) * torch.log1p(-safe) + safe) / safe
        bend = torch.where(small, sum(ratio**k / (k * (k + 1)) for k in range(1, 11)), bend)
        half = torch.where(small, -sum(ratio**k / (k + 1) for k in range(11)), torch.log1p(-safe) / safe) / c
        tail = 1 / (12 * c * (c - i)) - (3 * c**2 - 3 * c * i + i**2) / (360 * c**3 * (c - i) ** 3)
        per_level = -math.log1p(b - self.beta_first) + bend - half / 2 + tail
        return per_level * self.steps

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """T = log(1 + exp(−λ)), then Newton on T(τ), which is convex; from the continuous path's quadratic."""
        one = torch.ones((), dtype=torch.float64, device=log_snr.device)
        integral = torch.nn.functional.softplus(-log_snr.double()).clamp(max=float(self._mean_rate(one)))
        low, slope = self.steps * self.beta_first, self.steps * (self.beta_last - self.beta_first)
        tau = (2 * integral / (low + torch.sqrt(low**2 + 2 * slope * integral))).clamp(0, 1)
        for _ in range(6):
            tau = (tau - (tau * self._mean_rate(tau) - integral) / self._rate(tau)).clamp(0, 1)
        return (1 - tau.sqrt()).to(log_snr.dtype)

    def _rate(self, tau: Tensor) -> Tensor:
        """dT/dτ = −N·(log b + ψ(c − i))."""
        i = tau * self.steps
        left = self._root - i
        log = torch.log1p(self._step * (1 - i) - self.beta_first)  # of b(c − i)
        return -self.steps * (log - 1 / (2 * left) - 1 / (12 * left.square()) + 1 / (120 * left**4))


@dataclass(frozen=True)
class SubVariancePreserving(VariancePreserving):
    """α = exp(−T/2), σ = 1 − exp(−T): less noise than VP at every time, and σ' finite at the data.

    Args:
        beta_min: β at the data end, above 0.
        beta_max: β at the source end.
        cutoff: The τ that t = 1 stands for; none is needed.
    """

    cutoff: float = 0.0

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """Weight 1 − exp(−T)."""
        return -torch.expm1(-self._integral(t))

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """T'·exp(−T)."""
        return -self._rate(t) * torch.exp(-self._integral(t))

    def log_snr(self, t: AnyTimes) -> AnyTimes:
        """λ = −T − 2 log(1 − exp(−T))."""
        integral = self._integral(t)
        return -integral - 2 * torch.log(-torch.expm1(-integral))

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """2 sinh(T/2) = exp(−λ/2), then the root of a quadratic in τ."""
        slope = self.beta_max - self.beta_min
        largest = self.beta_min + slope / 2
        # exp overflows where T is beyond its largest value anyway.
        half = torch.exp((-log_snr.double() / 2).clamp(max=largest)) / 2
        integral = (2 * torch.asinh(half)).clamp(max=largest)
        tau = 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))
        return ((1 - tau) / (1 - self.cutoff)).clamp(0, 1).to(log_snr.dtype)


@dataclass(frozen=True)
class VarianceExploding(AffineSchedule):
    """α = 1, σ geometric from σ_max to σ_min: data with noise added, never scaled.

    Both ends are what they are: the start is not pure source (its mean is the data's), and σ_min of blur is left.

    Args:
        sigma_min: Noise at t = 1, above 0, in units of the source's standard deviation.
        sigma_max: Noise at t = 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_noise(self.sigma_min, self.sigma_max)

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """One."""
        return torch.ones_like(t)

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """σ_max^(1 − t)·σ_min^t."""
        return self.sigma_max ** (1 - t) * self.sigma_min**t

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """Zero."""
        return torch.zeros_like(t)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """σ·log(σ_min/σ_max)."""
        return math.log(self.sigma_min / self.sigma_max) * self.sigma(t)

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """σ = exp(−λ/2)."""
        span = math.log(self.sigma_max / self.sigma_min)
        return ((math.log(self.sigma_max) + log_snr / 2) / span).clamp(0, 1)


@dataclass(frozen=True)
class Karras(AffineSchedule):
    """α = 1, σ^(1/ρ) linear in t: equal steps of t are EDM's steps of noise.

    Args:
        sigma_min: Noise at t = 1, above 0, in units of the source's standard deviation.
        sigma_max: Noise at t = 0.
        rho: ρ ≥ 1; larger ones put more steps near the data.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_noise(self.sigma_min, self.sigma_max)
        if not 1 <= self.rho < math.inf:
            raise ConfigError(f"rho is {self.rho}", where="EDM schedule", remedy="Take a finite rho >= 1, such as 7.")

    def _root(self, t: Tensor) -> Tensor:
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return first * (1 - t) + last * t

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """One."""
        return torch.ones_like(t)

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """(σ_max^(1/ρ)(1 − t) + σ_min^(1/ρ) t)^ρ."""
        return self._root(t) ** self.rho

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """Zero."""
        return torch.zeros_like(t)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """ρ·σ^(1 − 1/ρ)·(σ_min^(1/ρ) − σ_max^(1/ρ))."""
        slope = self.sigma_min ** (1 / self.rho) - self.sigma_max ** (1 / self.rho)
        return self.rho * slope * self._root(t) ** (self.rho - 1)

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """σ = exp(−λ/2)."""
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        root = torch.exp(-log_snr / (2 * self.rho))
        return ((first - root) / (first - last)).clamp(0, 1)


def _check_noise(low: float, high: float) -> None:
    if not 0 < low < high < math.inf:
        raise ConfigError(
            f"sigma_min={low}, sigma_max={high}",
            where="variance-exploding schedule",
            remedy="Take 0 < sigma_min < sigma_max.",
        )
