"""Small convolutional networks for pictures: features with a classifier on top, and the two halves of an autoencoder.

All take pictures ``(batch, channels, height, width)`` of any size. The initial weights come from a generator: normal
with variance 2 / fan-in for rectified units (He et al. 2015, arXiv 1502.01852, eq. 10), biases zero.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

FEATURES = 64
SMALL_SIDE = 8  # the classifier halves pictures until their shorter side is at most this


class PictureClassifier(nn.Module):
    """Halving convolutions, then `FEATURES` rectified numbers, then one score per class.

    Args:
        event_shape: ``(channels, height, width)`` of one picture.
        classes: How many; 0 makes features alone.
        generator: Draws the initial weights.
    """

    def __init__(self, event_shape: tuple[int, ...], classes: int, generator: Generator) -> None:
        super().__init__()
        channels, height, width = event_shape
        layers: list[nn.Module] = []
        out = 24
        while min(height, width) > SMALL_SIDE:
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.ReLU()]
            channels, height, width, out = out, math.ceil(height / 2), math.ceil(width / 2), min(2 * out, 64)
        layers += [nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(), nn.Flatten()]
        self.body = nn.Sequential(*layers, nn.Linear(64 * height * width, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes) if classes else None
        initialise(self, generator)

    def features(self, x: Tensor) -> Tensor:
        """``(batch, 64)``, none negative."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(batch, classes)``, logarithms of probabilities up to a constant of each row."""
        assert self.head is not None
        return self.head(self.body(x))


class PictureEncoder(nn.Module):
    """Pictures to codes: sides are halved ``halvings`` times, rounded up.

    Args:
        event_shape: Of a picture.
        channels: Of a code.
        halvings: How often the sides are halved.
        width: Channels after the first convolution; doubled once.
        generator: Draws the initial weights.
    """

    def __init__(
        self, event_shape: tuple[int, ...], channels: int, halvings: int, width: int, generator: Generator
    ) -> None:
        super().__init__()
        self.multiple = 2**halvings
        layers: list[nn.Module] = [nn.Conv2d(event_shape[0], width, 3, padding=1), nn.SiLU()]
        inside = width
        for _ in range(halvings):
            layers += [nn.Conv2d(inside, 2 * width, 3, stride=2, padding=1), nn.SiLU()]
            inside = 2 * width
        self.layers = nn.Sequential(*layers, nn.Conv2d(inside, channels, 3, padding=1))
        initialise(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, ⌈height/2^halvings⌉, ⌈width/2^halvings⌉)``; edges are repeated where halves are odd."""
        return self.layers(padded(x, self.multiple))


class PictureDecoder(nn.Module):
    """Codes back to pictures; the arguments are those of `PictureEncoder`."""

    def __init__(
        self, event_shape: tuple[int, ...], channels: int, halvings: int, width: int, generator: Generator
    ) -> None:
        super().__init__()
        self.height, self.width = event_shape[1:]
        layers: list[nn.Module] = [nn.Conv2d(channels, 2 * width, 3, padding=1), nn.SiLU()]
        for place in range(halvings):
            out = width if place == halvings - 1 else 2 * width
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, out, 3, padding=1), nn.SiLU()]
        inside = width if halvings else 2 * width
        self.layers = nn.Sequential(*layers, nn.Conv2d(inside, event_shape[0], 3, padding=1))
        initialise(self, generator)

    def forward(self, code: Tensor) -> Tensor:
        """``(batch, channels, height, width)``."""
        return self.layers(code)[..., : self.height, : self.width]


def padded(x: Tensor, multiple: int) -> Tensor:
    """Pictures whose sides are multiples of a number: rows below and columns at the right are repeated."""
    below, right = (-side % multiple for side in x.shape[-2:])
    return functional.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


@torch.no_grad()
def initialise(module: nn.Module, generator: Generator) -> None:
    """Draw the weights of all layers anew."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            spread = math.sqrt(2 / layer.weight[0].numel())
            draws = torch.randn(layer.weight.shape, generator=generator, device=generator.device)
            layer.weight.copy_(spread * draws)
            if layer.bias is not None:
                layer.bias.zero_()
