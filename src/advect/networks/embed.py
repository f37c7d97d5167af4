"""Time as features.

A network sees t in [0, 1] through a fixed map to features: the number itself, or sines and cosines at log-spaced
frequencies (Vaswani et al. 2017, arXiv 1706.03762, §3.5, for real-valued positions). The maps have no parameters and
draw nothing.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advect.errors import ConfigError


class RawTime(nn.Module):
    """t as one feature."""

    features = 1

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch 1"]:
        """Times ``(batch,)`` to ``(batch, 1)``."""
        return t.unsqueeze(1)


class FourierTime(nn.Module):
    """sin(ω_k t) and cos(ω_k t) for frequencies spaced evenly in the logarithm.

    Args:
        features: Even number of features; half as many frequencies.
        slowest: Smallest ω; at π/2 its sine grows over the whole of [0, 1] and tells every t apart.
        fastest: Largest ω; features then change on the scale 1/ω in t.
    """

    frequencies: Tensor

    def __init__(self, features: int = 32, slowest: float = math.pi / 2, fastest: float = 16 * math.pi) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ConfigError(
                f"The number of time features is {features}",
                where="FourierTime",
                remedy="Choose an even number of at least 2.",
            )
        self.features = features
        ends = torch.tensor([slowest, fastest], dtype=torch.float64).log()
        steps = torch.linspace(0, 1, features // 2, dtype=torch.float64)
        frequencies = torch.lerp(ends[:1], ends[1:], steps).exp()
        self.register_buffer("frequencies", frequencies.to(torch.get_default_dtype()))

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
        """Times ``(batch,)`` to ``(batch, features)``."""
        angles = t.unsqueeze(1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)
