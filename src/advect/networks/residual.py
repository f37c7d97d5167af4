"""A residual network for tables.

    h ← W x,   e = silu(A φ(t) + C c),   h ← h + W₂ silu(W₁ silu(h) + E e)  for each block,   v = V silu(h)

with pre-activation blocks (He et al. 2016, arXiv 1603.05027), the embedding e of time and condition added inside each,
and V = 0 at the start: an untrained network returns zero, so whatever baseline it is added to rules. There is no
normalisation layer: inputs have unit scale already, and the tangents of the exact divergence stay cheap.
"""

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from advect.networks.embed import FourierTime
from advect.networks.field import FieldNetwork, check_sizes, push, scale, trace
from advect.networks.layers import ACTIVATIONS, linear, zero_linear

_slope = ACTIVATIONS["silu"].derivative


class ResidualMLP(FieldNetwork):
    """Residual blocks with the time and the condition added in each; zero output at the start.

    Args:
        event_shape: Shape of one row.
        condition_features: Numbers in one condition, 0 for none. A condition of zeros adds exactly nothing.
        width: Units of the residual stream and of the blocks.
        blocks: Number of blocks, two linear layers each.
        time_features: Even number of sine and cosine features of t.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_features: int = 0,
        *,
        width: int = 256,
        blocks: int = 3,
        time_features: int = 32,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(event_shape, condition_features)
        check_sizes("ResidualMLP", width=width, blocks=blocks)
        self.time = FourierTime(time_features)
        self.time_layer = linear(time_features, width, generator=generator)
        self.condition_layer = (
            linear(condition_features, width, bias=False, generator=generator) if condition_features else None
        )
        # One product gives what the embedding adds to all blocks.
        self.embedding = linear(width, blocks * width, bias=False, generator=generator)
        self.input = linear(self.features, width, generator=generator)
        self.inner = nn.ModuleList(linear(width, width, generator=generator) for _ in range(blocks))
        self.outer = nn.ModuleList(linear(width, width, generator=generator) for _ in range(blocks))
        self.output = zero_linear(width, self.features)

    def _shifts(self, t: Tensor, condition: Tensor | None) -> tuple[Tensor, ...]:
        """What time and condition add in each block, ``(batch or 1, width)``; one time for all rows costs one row."""
        e = self.time_layer(self.time(t))
        if self.condition_layer is not None and condition is not None:
            e = e + self.condition_layer(condition)
        return self.embedding(F.silu(e)).chunk(len(self.inner), dim=1)

    def _velocity(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        h = self.input(x)
        for inner, outer, shift in zip(self.inner, self.outer, self._shifts(t, condition), strict=True):
            h = h + outer(F.silu(inner(F.silu(h)) + shift))
        return self.output(F.silu(h))

    def _velocity_and_divergence(self, t: Tensor, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.input(x)
        columns: Tensor = self.input.weight.T  # the tangents of h, the same for every row so far
        tangents = columns.expand(len(x), *columns.shape)
        for inner, outer, shift in zip(self.inner, self.outer, self._shifts(t, condition), strict=True):
            a = inner(F.silu(h)) + shift
            moved = push(tangents * _slope(h).unsqueeze(1), inner)
            tangents = push(scale(moved, _slope(a)), outer, onto=tangents)
            h = h + outer(F.silu(a))
        return self.output(F.silu(h)), trace(scale(tangents, _slope(h)), self.output.weight)
