"""Training times that are chosen by the noise they stand for."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.objectives.snr import AnyTimes, log_snr_rate
from advect.objectives.times import uniform
from advect.paths import DiscreteVariancePreserving
from advect.typing import Schedule, Times


@dataclass(frozen=True)
class PowerTimes:
    """τ = (1 − t)^power uniform: uniform in a diffusion's own time where t runs on another clock.

    Args:
        power: At least 1; 1 is uniform.
    """

    rowwise: ClassVar[bool] = True
    """See `UniformTimes`."""

    power: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.power < math.inf:
            raise ConfigError(f"power is {self.power}", where="training times", remedy="Take a finite power >= 1.")

    def __call__(
        self,
        num_rows: int,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Times:
        """Draw ``(num_rows,)`` in (0, 1]."""
        return 1 - uniform(num_rows, generator, device, dtype) ** (1 / self.power)

    def density(self, t: AnyTimes) -> AnyTimes:
        """power·(1 − t)^(power − 1)."""
        return self.power * (1 - t) ** (self.power - 1)


@dataclass(frozen=True)
class LogSnrNormalTimes:
    """λ ~ N(mean, std²): EDM's log-normal noise levels, ln ς ~ N(−mean/2, (std/2)²) (2206.00364, table 1).

    Args:
        schedule: Whose λ; a draw beyond its range gives the nearer end.
        mean: Of λ.
        std: Of λ, above 0.
    """

    rowwise: ClassVar[bool] = True
    """See `UniformTimes`."""

    schedule: Schedule
    mean: float = 2.4
    std: float = 2.4

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ConfigError(
                f"mean={self.mean}, std={self.std}", where="log-SNR times", remedy="Take finite ones, std > 0."
            )

    def __call__(
        self,
        num_rows: int,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Times:
        """Draw ``(num_rows,)``."""
        drawn_on = device if generator is None else generator.device
        normal = torch.randn(num_rows, generator=generator, device=drawn_on, dtype=dtype).to(device)
        return self.schedule.time_of_log_snr(self.mean + self.std * normal)

    def density(self, t: AnyTimes) -> AnyTimes:
        """N(λ(t); mean, std²)·λ'(t), and 0 where λ' is not finite."""
        exponent = ((self.schedule.log_snr(t) - self.mean) / self.std).square() / 2
        density = torch.exp(-exponent) / (self.std * math.sqrt(2 * math.pi)) * log_snr_rate(self.schedule, t)
        return torch.where(density.isfinite(), density, 0.0)


@dataclass(frozen=True)
class LevelTimes:
    """One of DDPM's N noise levels, each as likely as the other (2006.11239, algorithm 1)."""

    rowwise: ClassVar[bool] = True
    """See `UniformTimes`."""

    schedule: DiscreteVariancePreserving

    def __call__(
        self,
        num_rows: int,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Times:
        """Draw ``(num_rows,)`` times of levels 1 to N."""
        drawn_on = device if generator is None else generator.device
        level = torch.randint(1, self.schedule.steps + 1, (num_rows,), generator=generator, device=drawn_on).to(device)
        return self.schedule.level_time(level).to(dtype or torch.get_default_dtype())

    def density(self, t: Tensor) -> Tensor:
        """2(1 − t): the density that the levels tend to as N grows, up to 1/N."""
        return 2 * (1 - t)
