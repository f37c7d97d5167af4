"""Schedules made from functions or from other schedules: two functions, one clock, an interval, noise besides.

Derivatives are taken by forward mode where none are given, and the log signal-to-noise ratio is inverted by bisection.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advect.errors import ConfigError
from advect.paths.schedule import AffineSchedule, AnyTimes
from advect.typing import Schedule


def _derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Forward-mode derivative of an elementwise function of time."""
    t = t.contiguous()  # forward mode refuses expanded tensors
    return torch.func.jvp(lambda time: torch.as_tensor(function(time)) + 0 * time, (t,), (torch.ones_like(t),))[1]


@dataclass(frozen=True)
class Affine(AffineSchedule):
    """Any two elementwise functions of time; derivatives by forward mode, the inverse of λ by bisection.

    Args:
        alpha_function: α(t) on tensors of any shape.
        sigma_function: σ(t) likewise; α/σ must grow with t.
    """

    alpha_function: Callable[[Tensor], Tensor]
    sigma_function: Callable[[Tensor], Tensor]

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """The given α."""
        return torch.as_tensor(self.alpha_function(t), dtype=t.dtype, device=t.device).expand(t.shape)

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """The given σ."""
        return torch.as_tensor(self.sigma_function(t), dtype=t.dtype, device=t.device).expand(t.shape)

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """Forward-mode α'."""
        return _derivative(self.alpha_function, t)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """Forward-mode σ'."""
        return _derivative(self.sigma_function, t)


@dataclass(frozen=True)
class Clock(AffineSchedule):
    """α = 1 − κ, σ = κ: the straight segment run with clock 1 − κ; R = −κ'. Of u = w(t)(x1 − x), κ = exp(−∫w).

    Args:
        kappa: What is left of x0, falling from κ(0) = 1.
        kappa_derivative: κ'; by forward mode when not given.
    """

    kappa: Callable[[Tensor], Tensor]
    kappa_derivative: Callable[[Tensor], Tensor] | None = None

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """Weight 1 − κ."""
        return 1 - self.kappa(t)

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """Weight κ."""
        return self.kappa(t)

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """−κ'."""
        return -self.sigma_derivative(t)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """κ'."""
        return self.kappa_derivative(t) if self.kappa_derivative else _derivative(self.kappa, t)


@dataclass(frozen=True)
class Shortened(AffineSchedule):
    """Another schedule run over [start, end] only, with t still filling [0, 1]: cuts off ends that are not finite.

    Args:
        schedule: The schedule to cut.
        start_time: Its time that t = 0 stands for.
        end_time: Its time that t = 1 stands for.
    """

    schedule: Schedule
    start_time: float = 0.0
    end_time: float = 1 - 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.start_time < self.end_time <= 1:
            raise ConfigError(
                f"the interval [{self.start_time}, {self.end_time}] is not inside [0, 1]",
                where="shortened schedule",
                remedy="Take 0 <= start_time < end_time <= 1.",
            )

    @property
    def _length(self) -> float:
        return self.end_time - self.start_time

    def _inner(self, t: Tensor) -> Tensor:
        return self.start_time * (1 - t) + self.end_time * t

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """The inner α at the inner time."""
        return self.schedule.alpha(self._inner(t))

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """The inner σ at the inner time."""
        return self.schedule.sigma(self._inner(t))

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """Chain rule: the inner α' times the length of the interval."""
        return self._length * self.schedule.alpha_derivative(self._inner(t))

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """Chain rule: the inner σ' times the length of the interval."""
        return self._length * self.schedule.sigma_derivative(self._inner(t))

    def time_of_log_snr(self, log_snr: AnyTimes) -> AnyTimes:
        """The inner inverse, on the outer clock."""
        return ((self.schedule.time_of_log_snr(log_snr) - self.start_time) / self._length).clamp(0, 1)


@dataclass(frozen=True)
class Widened(AffineSchedule):
    """Another schedule with constant noise s besides: σ becomes √(σ² + s²), so that it describes a path with noise of
    its own and a standard-normal source (x_t = α x1 + σ x0 + s ε).

    Args:
        schedule: The schedule without it.
        noise: s ≥ 0, in units of the source's standard deviation.
    """

    schedule: Schedule
    noise: float

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise ConfigError(f"the noise is {self.noise}", where="widened schedule", remedy="Take a number >= 0.")

    def alpha(self, t: AnyTimes) -> AnyTimes:
        """The inner α."""
        return self.schedule.alpha(t)

    def sigma(self, t: AnyTimes) -> AnyTimes:
        """√(σ² + s²)."""
        return (self.schedule.sigma(t).square() + self.noise**2).sqrt()

    def alpha_derivative(self, t: AnyTimes) -> AnyTimes:
        """The inner α'."""
        return self.schedule.alpha_derivative(t)

    def sigma_derivative(self, t: AnyTimes) -> AnyTimes:
        """σσ'/√(σ² + s²)."""
        inner = self.schedule.sigma_derivative(t)
        return inner if self.noise == 0 else self.schedule.sigma(t) * inner / self.sigma(t)
