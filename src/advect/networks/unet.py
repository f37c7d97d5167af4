"""The U-Net of diffusion models, for pictures of any size.

    h ← conv(x);   down: residual blocks, then half the size;   middle: block, attention, block;
    up: residual blocks on h beside what was kept on the way down, then twice the size;   v = V ∗ silu(norm(h))

in the form of Dhariwal & Nichol 2021 (ADM, arXiv 2105.05233, §3 and appendix A; after Ho et al. 2020, arXiv 2006.11239,
appendix B): group norms, residual blocks modulated by the embedding of time and condition, self-attention at small
sizes, zero last layers so that every block begins as the identity and the network at zero. Odd heights and widths are
rounded up on the way down and cut back on the way up.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn

from advect import compiled
from advect.errors import ConfigError, ShapeError
from advect.networks.attention import attention
from advect.networks.conv import convolution, pointwise, zero_convolution
from advect.networks.convolution import doubled
from advect.networks.embedded import EmbeddedNetwork
from advect.networks.field import check_sizes
from advect.networks.layers import linear
from advect.networks.normed import normed, pixel_by_pixel

GROUPS = 32
TIME_FEATURES = 64


@dataclass(frozen=True)
class UNetSize:
    """How large a `UNet` is.

    Attributes:
        channels: Channels of the first level.
        multipliers: Channels of each level, in units of that.
        blocks: Residual blocks per level and direction.
        attention: Levels with self-attention, counted from 0; the middle always has it.
        head_channels: Channels of one head of attention.
        dropout: Inside the residual blocks.
        scales: Whether the embedding of time and condition scales features and moves them, after the second norm of a
            block (ADM); else it moves them before that norm (Ho et al.).
        time_features: Sines and cosines of the time.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...] = ()
    head_channels: int = 64
    dropout: float = 0.0
    scales: bool = True
    time_features: int = TIME_FEATURES


class UNet(EmbeddedNetwork):
    """See the module's docstring.

    Args:
        event_shape: ``(channels, height, width)``.
        condition_features: Numbers in one condition, 0 for none. A condition of zeros adds exactly nothing.
        size: How large it is.
        generator: Draws the initial weights.

    Raises:
        ShapeError: Rows that are no pictures.
        ConfigError: A size below one, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_features: int = 0,
        *,
        size: UNetSize,
        generator: Generator | None = None,
    ) -> None:
        if len(event_shape) != 3:
            raise ShapeError(
                f"Rows have the shape {tuple(event_shape)}, expected (channels, height, width)",
                where="UNet",
                remedy="A U-Net is for pictures; take residual-3x256 for tables.",
            )
        check_sizes("UNet", channels=size.channels, blocks=size.blocks, levels=len(size.multipliers))
        if not 0 <= size.dropout < 1:
            raise ConfigError(f"The dropout is {size.dropout}", where="UNet", remedy="Choose a share in [0, 1).")
        width = 4 * size.channels
        super().__init__(
            event_shape, condition_features, time_features=size.time_features, width=width, generator=generator
        )
        self.size = size
        colours, channels = event_shape[0], size.channels
        self.input = convolution(colours, channels, 3, generator=generator)

        def block(inputs: int, outputs: int, *, attends: bool) -> _Level:
            return _Level(inputs, outputs, width, size, attends=attends, generator=generator)

        self.down, self.shrink, kept = nn.ModuleList(), nn.ModuleList(), [channels]
        for level, multiplier in enumerate(size.multipliers):
            blocks = nn.ModuleList()
            for _ in range(size.blocks):
                blocks.append(block(channels, size.channels * multiplier, attends=level in size.attention))
                channels = size.channels * multiplier
                kept.append(channels)
            self.down.append(blocks)
            if level < len(size.multipliers) - 1:
                self.shrink.append(_halving(channels, generator))
                kept.append(channels)
        self.middle = nn.ModuleList([block(channels, channels, attends=True), block(channels, channels, attends=False)])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(size.multipliers))):
            blocks = nn.ModuleList()
            for _ in range(size.blocks + 1):
                blocks.append(block(channels + kept.pop(), size.channels * multiplier, attends=level in size.attention))
                channels = size.channels * multiplier
            self.up.append(blocks)
            if level:
                self.grow.append(convolution(channels, channels, 3, generator=generator))
        self.norm = _norm(channels)
        self.output = zero_convolution(channels, colours, 3)

    @final
    def forward(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity at time ``t`` (a number or ``(batch,)``) and pictures ``x`` ``(batch, channels, h, w)``."""
        t, condition = self._checked(t, x, condition)
        embedding = self._embedded(t, condition)
        h = pixel_by_pixel(self.input(x))
        kept = [h]
        for level, blocks in enumerate(self.down):
            for block in blocks.children():
                h = block(h, embedding)
                kept.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
                kept.append(h)
        for block in self.middle.children():
            h = block(h, embedding)
        for level, blocks in enumerate(self.up):
            for block in blocks.children():
                h = block(torch.cat([h, kept.pop()], 1), embedding)
            if level < len(self.grow):
                h = doubled(self.grow[level], h, kept[-1].shape[-2:])
        return self.output(normed(self.norm, h)).contiguous()

    def start_at_zero(self) -> None:
        """Make the output zero everywhere, for networks that learn what a baseline leaves."""
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)


class _Level(nn.Module):
    """A residual block, and self-attention after it where it attends."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, size: UNetSize, *, attends: bool, generator: Generator | None
    ) -> None:
        super().__init__()
        self.block = _ResidualBlock(inputs, outputs, embedding, size.dropout, generator, scales=size.scales)
        self.attention = _SelfAttention(outputs, size.head_channels, generator) if attends else None

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        h = self.block(h, embedding)
        return h if self.attention is None else self.attention(h)


class _ResidualBlock(nn.Module):
    """h + conv(drop(silu((1 + g) norm(conv(silu(norm(h)))) + s))), g and s from the embedding.

    Where nothing scales it is h + conv(drop(silu(norm(conv(silu(norm(h))) + s)))).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        generator: Generator | None,
        *,
        scales: bool = True,
    ) -> None:
        super().__init__()
        self.scales = scales
        self.norm1, self.norm2 = _norm(inputs), _norm(outputs)
        self.conv1 = convolution(inputs, outputs, 3, generator=generator)
        self.modulation = linear(embedding, (1 + scales) * outputs, generator=generator)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_convolution(outputs, outputs, 3)
        self.skip = convolution(inputs, outputs, 1, generator=generator) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        u = self.conv1(normed(self.norm1, h))
        modulation = self.modulation(embedding)
        if self.scales:
            gain, shift = modulation.chunk(2, dim=1)
            u = normed(self.norm2, u, gain=gain, shift=shift)
        else:
            u = normed(self.norm2, u, before=modulation)
        skipped = pointwise(self.skip, h) if isinstance(self.skip, nn.Conv2d) else self.skip(h)
        return skipped + self.conv2(self.dropout(u))


class _SelfAttention(nn.Module):
    """h + W attention(norm(h)) over all pixels."""

    def __init__(self, channels: int, head_channels: int, generator: Generator | None) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        if channels % self.heads:
            raise ConfigError(
                f"{channels} channels do not divide into {self.heads} heads", where="UNet", remedy="Change a size."
            )
        self.norm = _norm(channels)
        self.qkv = convolution(channels, 3 * channels, 1, generator=generator)
        self.output = zero_convolution(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        rows, channels, height, width = h.shape
        tokens = pointwise(self.qkv, normed(self.norm, h, silu=False)).permute(0, 2, 3, 1)
        each = channels // self.heads
        mixed = attention(tokens.reshape(rows, height * width, 3, self.heads, each))
        mixed = mixed.reshape(rows, height, width, channels)
        return h + pointwise(self.output, _laid_as(h, mixed.permute(0, 3, 1, 2)))


def _norm(channels: int) -> nn.GroupNorm:
    """A group norm of at most 32 groups that divide the channels, each of at least four: one number has no spread."""
    most = max(1, min(GROUPS, channels // 4))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


def _laid_as(h: Tensor, other: Tensor) -> Tensor:
    """The other pictures in the order in memory that these have; where torch takes operations apart, as they are."""
    if compiled.watched(autocast=False):
        return other
    last = h.is_contiguous(memory_format=torch.channels_last) and not h.is_contiguous()
    return other.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _halving(channels: int, generator: Generator | None) -> nn.Conv2d:
    """A convolution of stride 2; odd sizes are rounded up."""
    layer = convolution(channels, channels, 3, generator=generator)
    layer.stride = (2, 2)
    return layer
