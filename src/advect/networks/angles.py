"""A conditioner that sees angles as points on the circle, so that what it says has no jump at ±π."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from advect.networks.conditioner import Conditioner


class AngleConditioner(nn.Module):
    """`Conditioner` of ``(batch, inputs)`` rows with the sine and cosine of some columns in their place.

    Args:
        periodic: For each column, whether it is an angle in radians.
        outputs: Numbers to return.
        condition_features: Numbers in one condition, 0 for none.
        depth: Hidden layers.
        width: Units in each.
        generator: Draws the initial weights.
    """

    angles: Tensor
    others: Tensor

    def __init__(
        self,
        periodic: Sequence[bool],
        outputs: int,
        condition_features: int = 0,
        *,
        depth: int = 2,
        width: int = 64,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        mask = torch.tensor(list(periodic), dtype=torch.bool)
        self.register_buffer("angles", mask.nonzero().flatten(), persistent=False)
        self.register_buffer("others", (~mask).nonzero().flatten(), persistent=False)
        seen = len(mask) + len(self.angles)
        self.network = Conditioner(seen, outputs, condition_features, depth=depth, width=width, generator=generator)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Parameters ``(batch, outputs)``; periodic in every angle."""
        angles = x.index_select(1, self.angles)
        return self.network(torch.cat([x.index_select(1, self.others), angles.cos(), angles.sin()], 1), condition)

    def perturb(self, size: float, *, generator: Generator | None = None) -> None:
        """As `Conditioner.perturb`."""
        self.network.perturb(size, generator=generator)
