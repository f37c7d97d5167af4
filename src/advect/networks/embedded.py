"""What networks over pictures share: one vector of time and condition that every block is told."""

from abc import ABC

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from advect.networks.embed import FourierTime
from advect.networks.layers import linear
from advect.networks.timed import TimedNetwork


class EmbeddedNetwork(TimedNetwork, ABC):
    """Base of networks whose blocks see time and condition as one vector.

    Args:
        event_shape: Shape of one row.
        condition_features: Numbers in one condition, 0 for none.
        time_features: Sines and cosines of the time.
        width: Numbers in the vector.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_features: int,
        *,
        time_features: int,
        width: int,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(event_shape, condition_features)
        self.time = FourierTime(time_features)
        self.time_layers = nn.Sequential(
            linear(time_features, width, generator=generator), nn.SiLU(), linear(width, width, generator=generator)
        )
        self.condition_layer = (
            linear(condition_features, width, bias=False, generator=generator) if condition_features else None
        )

    def _embedded(self, t: Tensor, condition: Tensor | None) -> Tensor:
        """The vector ``(batch or 1, width)`` of checked times and conditions."""
        embedding = self.time_layers(self.time(t))
        if self.condition_layer is not None and condition is not None:
            embedding = embedding + self.condition_layer(condition)
        return F.silu(embedding)
