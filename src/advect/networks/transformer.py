"""The diffusion transformer, for pictures of any size and for latent pictures.

    h_k ← W patch_k + pos_k,   e = silu(time layers(φ(t)) + C c),
    h ← h + g₁ attention((1 + s₁) norm(h) + b₁),   h ← h + g₂ mlp((1 + s₂) norm(h) + b₂)   for each block,
    patch_k of v ← V((1 + s) norm(h_k) + b),

in the form of Peebles & Xie 2023 (DiT, arXiv 2212.09748, §3.2), taken over unchanged by Ma et al. 2024 (SiT, arXiv
2401.08740): square patches, fixed positions of sines and cosines in height and width, layer norms without parameters,
and in every block shifts b, scales s and gates g that are one linear layer of the embedding e (adaLN-zero). The layers
of the gates and the last layer start at zero: every block begins as the identity and the network at zero. Time is in
[0, 1]. A condition, a class as ones and zeros or any other vector, is added to the embedding by a linear layer without
a bias, so that zeros stand for none. Sides that are no multiple of the patch are filled up with zeros at the right and
at the bottom, and cut back at the end.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, ShapeError
from advect.networks.attention import attention
from advect.networks.embedded import EmbeddedNetwork
from advect.networks.field import check_sizes
from advect.networks.layers import zero_linear

TIME_FEATURES = 256
MLP_RATIO = 4
EPSILON = 1e-6
"""Of the layer norms, as published."""


@dataclass(frozen=True)
class DiTSize:
    """How large a `DiffusionTransformer` is.

    Attributes:
        layers: Blocks.
        width: Numbers of one token.
        heads: Of attention; they share the width.
    """

    layers: int
    width: int
    heads: int


class DiffusionTransformer(EmbeddedNetwork):
    """See the module's docstring.

    Args:
        event_shape: ``(channels, height, width)``.
        condition_features: Numbers in one condition, 0 for none. A condition of zeros adds exactly nothing.
        size: How large it is.
        patch: Pixels per side of a patch; the tokens are ⌈height/patch⌉ · ⌈width/patch⌉.
        generator: Draws the initial weights.

    Raises:
        ShapeError: Rows that are no pictures.
        ConfigError: A size below one, a width that the heads cannot share or that has no room for four sines of
            position, or a patch larger than the picture.
    """

    positions: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_features: int = 0,
        *,
        size: DiTSize,
        patch: int,
        generator: Generator | None = None,
    ) -> None:
        _check(event_shape, size, patch)
        width = size.width
        super().__init__(event_shape, condition_features, time_features=TIME_FEATURES, width=width, generator=generator)
        self.size, self.patch = size, patch
        colours, height, across = event_shape
        self.grid = (-(-height // patch), -(-across // patch))
        self.input = _xavier(colours * patch**2, width, generator)
        self.register_buffer("positions", grid_positions(*self.grid, width).float(), persistent=False)
        self.blocks = nn.ModuleList(_Block(size, generator) for _ in range(size.layers))
        self.last_modulation = zero_linear(width, 2 * width)
        self.output = zero_linear(width, colours * patch**2)

    @final
    def forward(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity at time ``t`` (a number or ``(batch,)``) and pictures ``x`` ``(batch, channels, h, w)``."""
        t, condition = self._checked(t, x, condition)
        embedding = self._embedded(t, condition)
        h = self.input(self._tokens(x)) + self.positions.to(x.dtype)
        for block in self.blocks.children():
            h = block(h, embedding)
        shift, scale = self.last_modulation(embedding).unsqueeze(1).chunk(2, dim=2)
        return self._picture(self.output(_modulated(h, shift, scale)))

    def start_at_zero(self) -> None:
        """Make the output zero everywhere, for networks that learn what a baseline leaves."""
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def _tokens(self, x: Tensor) -> Tensor:
        """Pictures to patches ``(batch, tokens, channels · patch²)``, row by row."""
        down, right = (count * self.patch - side for count, side in zip(self.grid, x.shape[2:], strict=True))
        filled = F.pad(x, (0, right, 0, down)) if down or right else x
        return F.pixel_unshuffle(filled, self.patch).flatten(2).transpose(1, 2)

    def _picture(self, tokens: Tensor) -> Tensor:
        """The way back, without what was filled up."""
        _, height, width = self.event_shape
        whole = F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, self.grid), self.patch)
        return whole[:, :, :height, :width].contiguous()


def grid_positions(height: int, width: int, features: int) -> Float[Tensor, "tokens features"]:
    """Sines and cosines of the place in a grid: a half of the features for the row, a half for the column.

    Frequencies are 10000^(−k/n), k = 0 … n − 1, as for words (Vaswani et al. 2017, arXiv 1706.03762, §3.5). Where the
    features are no multiple of four the last ones are zero.
    """
    count = features // 4
    frequencies = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    angles = [place.reshape(-1, 1) * frequencies for place in (rows, columns)]
    parts = [function(angle) for angle in angles for function in (torch.sin, torch.cos)]
    return F.pad(torch.cat(parts, 1), (0, features - 4 * count))


class _Block(nn.Module):
    """Attention, then two layers with a GELU, each with a shift and a scale before and a gate after it."""

    def __init__(self, size: DiTSize, generator: Generator | None) -> None:
        super().__init__()
        width = size.width
        self.heads = size.heads
        self.modulation = zero_linear(width, 6 * width)
        self.qkv = _xavier(width, 3 * width, generator)
        self.mix = _xavier(width, width, generator)
        self.inner = _xavier(width, MLP_RATIO * width, generator)
        self.outer = _xavier(MLP_RATIO * width, width, generator)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding).unsqueeze(1).chunk(6, dim=2)
        h = torch.addcmul(h, gate1, self._attention(_modulated(h, shift1, scale1)))
        u = F.gelu(self.inner(_modulated(h, shift2, scale2)), approximate="tanh")
        return torch.addcmul(h, gate2, self.outer(u))

    def _attention(self, u: Tensor) -> Tensor:
        """Self-attention over all tokens."""
        return self.mix(attention(self.qkv(u).unflatten(2, (3, self.heads, -1))).flatten(2))


def _modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(1 + scale) norm(h) + shift."""
    normed = F.layer_norm(h, h.shape[-1:], eps=EPSILON)
    return torch.addcmul(normed + shift, normed, scale)


def _xavier(inputs: int, outputs: int, generator: Generator | None) -> nn.Linear:
    """A linear layer with weights U(−b, b), b = √(6/(inputs + outputs)), and no bias yet, as in the published code."""
    layer = zero_linear(inputs, outputs)
    bound = math.sqrt(6 / (inputs + outputs))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
    return layer


def _check(event_shape: tuple[int, ...], size: DiTSize, patch: int) -> None:
    where = "DiffusionTransformer"
    if len(event_shape) != 3:
        raise ShapeError(
            f"Rows have the shape {tuple(event_shape)}, expected (channels, height, width)",
            where=where,
            remedy="A diffusion transformer is for pictures; take residual-3x256 for tables.",
        )
    check_sizes(where, layers=size.layers, width=size.width, heads=size.heads, patch=patch)
    if size.width % size.heads or size.width < 4:
        raise ConfigError(
            f"a width of {size.width} is not for {size.heads} heads",
            where=where,
            remedy="Choose a width that is a multiple of the heads, and at least 4.",
        )
    if patch > max(event_shape[1:]):
        height, width = event_shape[1:]
        raise ConfigError(
            f"a patch of {patch} × {patch} is larger than pictures of {height} × {width}",
            where=where,
            remedy="Choose a smaller patch: the number after the slash of the network's name.",
        )
