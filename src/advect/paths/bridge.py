"""The Brownian bridge between paired ends, the path of SB-CFM and [SF]²M.

p_t(x|x0, x1) = N((1−t)x0 + t x1, σ²t(1−t) I) with u = (1−2t)/(2t(1−t)) (x − μ) + x1 − x0 (Tong et al. 2302.00482,
table 1). For a drawn point, x − μ = σ√(t(1−t)) ε, so the target is σ(1−2t)/(2√(t(1−t))) ε + x1 − x0: its second
moment grows like 1/t at both ends. Training therefore weights the loss by t(1−t) (`time_weight`), after which the
target's variance is σ²(1−2t)²/4 at most. At the exact ends the law is a point and the ε-term is left out, which is
its mean: u = x1 − x0, score 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator

from advect.errors import ConfigError, UnsupportedError
from advect.paths.gaussian import gaussian_log_density, ratio_or_zero, standard_normal
from advect.paths.schedule import EndWeights
from advect.records import Bridge
from advect.typing import Rows, Scalars, Times, batch_time, expand_time


@dataclass(frozen=True)
class BrownianBridge:
    """A path pinned at both ends with diffusion σ in between.

    Args:
        sigma: Diffusion coefficient, above 0, in units of the rows per √time. Its Schrödinger bridge needs an
            entropic coupling with regulariser 2σ² on squared distances.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ConfigError(
                f"sigma is {self.sigma}",
                where="BrownianBridge",
                remedy="Take a finite sigma above 0; for none at all use linear().",
            )

    @property
    def requires_gaussian_source(self) -> bool:
        """Never: the ends may be any two populations."""
        return False

    def start(self) -> EndWeights:
        """x0 exactly."""
        return EndWeights(0.0, 1.0)

    def end(self) -> EndWeights:
        """x1 exactly."""
        return EndWeights(1.0, 0.0)

    def time_weight(self, t: Times) -> Times:
        """t(1−t), which keeps the loss and its variance bounded at both ends."""
        return t * (1 - t)

    def spread(self, t: Times) -> Times:
        """σ_t = σ√(t(1−t)), the standard deviation of the points; σ_t · score has unit size."""
        return self.sigma * (t * (1 - t)).clamp(min=0).sqrt()

    def sample(self, t: Times, x0: Rows, x1: Rows, *, generator: Generator | None = None) -> Bridge:
        """Draw x = μ + σ√(t(1−t)) ε with the velocity and the score −ε/(σ√(t(1−t))) there."""
        time = expand_time(t, x1)
        root = (time * (1 - time)).clamp(min=0).sqrt()
        noise = standard_normal(x1, generator)
        return Bridge(
            t=batch_time(t, x1),
            x=(1 - time) * x0 + time * x1 + self.sigma * root * noise,
            velocity=x1 - x0 + ratio_or_zero(self.sigma * (1 - 2 * time), 2 * root) * noise,
            score=-ratio_or_zero(noise, self.sigma * root),
            x0=x0,
            x1=x1,
        )

    def velocity(self, t: Times, x: Rows, x0: Rows, x1: Rows) -> Rows:
        """u = (1−2t)/(2t(1−t)) (x − μ) + x1 − x0; x1 − x0 at t = 0 and t = 1."""
        time = expand_time(t, x1)
        mean = (1 - time) * x0 + time * x1
        return x1 - x0 + ratio_or_zero(1 - 2 * time, 2 * time * (1 - time)) * (x - mean)

    def log_density(self, t: Times, x: Rows, x1: Rows, x0: Rows | None = None) -> Scalars:
        """log p_t(x|x0, x1) ``(batch,)`` in nats."""
        if x0 is None:
            raise UnsupportedError(
                "a bridge is pinned at both ends and x0 is missing", where="BrownianBridge", remedy="Give x0."
            )
        time = expand_time(t, x1)
        root = (time * (1 - time)).clamp(min=0).sqrt()
        return gaussian_log_density(x, torch.lerp(x0, x1, time.expand(x1.shape)), self.sigma * root)
