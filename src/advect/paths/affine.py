"""Affine paths x_t = α(t) x1 + σ(t) x0 (+ noise of constant σ) between any two paired ends.

Conditioned on the pair, p_t = N(α x1 + σ_t x0, σ² I) moves rigidly, so u_t = α' x1 + σ' x0 whatever the constant σ
(Tong et al. 2302.00482, equations 14 and 15; σ = 0 is rectified flow, 2209.03003). Conditioned on x1 alone, with a
standard-normal source, p_t = N(α x1, (σ_t² + σ²) I). With σ > 0 the path ends blurred by σ: that blur is part of the
model and `end()` reports it.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Generator

from advect.errors import ConfigError, UnsupportedError
from advect.paths.gaussian import gaussian_log_density, ratio_or_zero, standard_normal
from advect.paths.schedule import EndWeights, Linear, end_weights
from advect.records import Bridge
from advect.typing import Rows, Scalars, Schedule, Times, batch_time, expand_time


def refuse_infinite_ends(schedule: Schedule) -> None:
    """Raise `ConfigError` for a schedule whose derivatives are not finite at t = 0 or t = 1."""
    for end in (0.0, 1.0):
        t = torch.tensor([end], dtype=torch.float64)
        slopes = torch.stack([schedule.alpha_derivative(t), schedule.sigma_derivative(t)])
        if not bool(slopes.isfinite().all()):
            raise ConfigError(
                f"the schedule has no finite derivative at t = {end:g}",
                where=f"path with {schedule}",
                remedy="Cut that end off: Shortened(schedule, start_time=…, end_time=…).",
            )


@dataclass(frozen=True)
class AffinePath:
    """x_t = α x1 + σ_t x0 + σ ε with velocity α' x1 + σ' x0.

    Args:
        schedule: α and σ_t, with finite derivatives at both ends (others are refused; see `Shortened`).
        sigma: Standard deviation of the constant noise, in the units of the rows; 0 for none.
    """

    schedule: Schedule = field(default_factory=Linear)
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ConfigError(f"sigma is {self.sigma}", where="AffinePath", remedy="Take a finite sigma >= 0.")
        refuse_infinite_ends(self.schedule)

    @property
    def requires_gaussian_source(self) -> bool:
        """Never: the ends may be any two populations."""
        return False

    def start(self) -> EndWeights:
        """What the path is made of at t = 0."""
        return end_weights(self.schedule, 0.0, self.sigma)

    def end(self) -> EndWeights:
        """What the path is made of at t = 1; ``source`` and ``noise`` blur the model's samples."""
        return end_weights(self.schedule, 1.0, self.sigma)

    def sample(self, t: Times, x0: Rows, x1: Rows, *, generator: Generator | None = None) -> Bridge:
        """Draw x ~ N(α x1 + σ_t x0, σ²); with σ > 0 the score −ε/σ comes along, with σ = 0 nothing is drawn."""
        time = expand_time(t, x1)
        x, score = self.schedule.alpha(time) * x1 + self.schedule.sigma(time) * x0, None
        if self.sigma > 0:
            noise = standard_normal(x1, generator)
            x, score = x + self.sigma * noise, -noise / self.sigma
        return Bridge(batch_time(t, x1), x, self.velocity(t, x, x0, x1), score, x0, x1)

    def velocity(self, t: Times, x: Rows, x0: Rows | None, x1: Rows) -> Rows:
        """u_t(x|x0, x1) = α' x1 + σ' x0; without x0, u_t(x|x1) for a standard-normal source.

        The latter is (s'/s)(x − α x1) + α' x1 with s² = σ_t² + σ², and α' x1 where s = 0.
        """
        time = expand_time(t, x1)
        drift = self.schedule.alpha_derivative(time) * x1
        slope = self.schedule.sigma_derivative(time)
        if x0 is not None:
            return drift + slope * x0
        sigma = self.schedule.sigma(time)
        rate = ratio_or_zero(sigma * slope, sigma.square() + self.sigma**2)
        return drift + rate * (x - self.schedule.alpha(time) * x1)

    def log_density(self, t: Times, x: Rows, x1: Rows, x0: Rows | None = None) -> Scalars:
        """log p_t(x|x0, x1), or without x0 log p_t(x|x1) for a standard-normal source; ``(batch,)`` in nats."""
        time = expand_time(t, x1)
        mean, spread = self.schedule.alpha(time) * x1, self.schedule.sigma(time)
        if x0 is None:
            return gaussian_log_density(x, mean, (spread.square() + self.sigma**2).sqrt())
        if self.sigma == 0:
            raise UnsupportedError(
                "with sigma = 0 the path between two given ends is a single point and has no density",
                where="AffinePath",
                remedy="Take sigma > 0, or leave x0 out for the density given x1 and a standard-normal source.",
            )
        return gaussian_log_density(x, mean + spread * x0, torch.full_like(spread, self.sigma))


def linear(sigma: float = 0.0) -> AffinePath:
    """The straight path with constant σ: rectified flow at 0; I-CFM and OT-CFM, which differ in the coupling."""
    return AffinePath(Linear(), sigma)
