"""A small convolutional network for pictures: what an image coupling asks for its shift and scale.

    h ← relu(W_k ∗ h + A_k c)  for each hidden layer,    output = V ∗ h

with zero padding, so any height and width will do, down to a single pixel. The last layer starts at zero, so a map
built on the output starts as the identity. The default kernels 3×3, 1×1, 3×3 are those of Glow (Kingma & Dhariwal 2018,
arXiv 1807.03039, §B). A condition that is a vector is added per channel in every hidden layer; one that is a picture is
laid beside the input as further channels. There is no normalisation over the batch: rows never influence one another.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect import compiled
from advect.errors import ConfigError
from advect.networks.convolution import Convolution
from advect.networks.field import check_sizes
from advect.networks.layers import linear

Kernels = tuple[int, ...]
"""Sizes of the square kernels, input to output; odd."""

GLOW_KERNELS: Kernels = (3, 1, 3)


def convolution(inputs: int, outputs: int, kernel: int, *, generator: Generator | None = None) -> nn.Conv2d:
    """A convolution that keeps height and width, with PyTorch's initialisation drawn from ``generator``.

    That is U(−b, b) with b = 1/√(inputs · kernel²), for weight and bias alike.
    """
    layer = Convolution(inputs, outputs, kernel, padding=kernel // 2, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(inputs * kernel**2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def zero_convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps height and width and starts at zero."""
    layer = Convolution(inputs, outputs, kernel, padding=kernel // 2, device="meta").to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def pointwise(layer: nn.Conv2d, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h w"]:
    """A convolution of size 1, that of float32 pictures that lie pixel by pixel (channels_last) on a processor as a
    product: the way back of that takes a third less time than that of a convolution; numbers agree to rounding.
    """
    if (
        compiled.watched()
        or not x.is_cpu
        or not torch.is_grad_enabled()
        or type(layer) not in (nn.Conv2d, Convolution)
        or "forward" in layer.__dict__
        or compiled.heard([layer])
        or not (x.dtype == layer.weight.dtype == torch.float32)
        or not x.is_contiguous(memory_format=torch.channels_last)
        or x.numel() == 0
        or layer.bias is None
    ):
        return layer(x)
    pixels = x.permute(0, 2, 3, 1)
    out = torch.addmm(layer.bias, pixels.reshape(-1, x.shape[1]), layer.weight.flatten(1).t())
    return out.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)


class ConvNet(nn.Module):
    """``network(x, condition)``: ``(batch, channels_in, h, w)`` to ``(batch, channels_out, h, w)``; zero at the start.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        condition_shape: ``(features,)`` for a vector per row, ``(channels, h, w)`` for a picture of the input's size,
            None for no condition.
        width: Channels of the hidden layers.
        kernels: Sizes of the kernels, at least two: ``(3, 1, 3)`` as in Glow, ``(3, 3)`` for the smallest network.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        condition_shape: tuple[int, ...] | None = None,
        *,
        width: int = 64,
        kernels: Kernels = GLOW_KERNELS,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes("ConvNet", channels_in=channels_in, channels_out=channels_out, width=width)
        if len(kernels) < 2 or any(size < 1 or size % 2 == 0 for size in kernels):
            raise ConfigError(
                f"The kernels are {kernels}", where="ConvNet", remedy="Give at least two odd sizes, such as (3, 1, 3)."
            )
        if condition_shape is not None and len(condition_shape) not in (1, 3):
            raise ConfigError(
                f"The condition has the shape {condition_shape}",
                where="ConvNet",
                remedy="Give a vector (features,) or a picture (channels, height, width).",
            )
        self.condition_shape = condition_shape
        beside = condition_shape[0] if condition_shape is not None and len(condition_shape) == 3 else 0
        sizes = [channels_in + beside, *[width] * (len(kernels) - 1)]
        self.hidden = nn.ModuleList(
            convolution(a, b, size, generator=generator)
            for (a, b), size in zip(pairwise(sizes), kernels[:-1], strict=True)
        )
        self.output = zero_convolution(width, channels_out, kernels[-1])
        # One product gives what the condition adds to every hidden layer.
        self.condition_layer = (
            linear(condition_shape[0], width * len(self.hidden), bias=False, generator=generator)
            if condition_shape is not None and len(condition_shape) == 1
            else None
        )

    def forward(
        self, x: Float[Tensor, "batch channels_in h w"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch channels_out h w"]:
        """Pictures and their conditions, both in the dtype of the weights."""
        added: tuple[Tensor | None, ...] = (None,) * len(self.hidden)
        if condition is not None and self.condition_layer is not None:
            added = self.condition_layer(condition)[..., None, None].chunk(len(self.hidden), dim=1)
        elif condition is not None:
            x = torch.cat([x, condition], dim=1)
        for layer, shift in zip(self.hidden, added, strict=True):
            # Channels innermost: on a CPU the layers between then run as matrix products, up to twice as fast.
            x = layer(x).contiguous(memory_format=torch.channels_last)
            x = F.relu(x if shift is None else x + shift)
        return self.output(x)
