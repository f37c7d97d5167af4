"""Networks g(x | condition) that contract in x: Lip(g) ≤ Π_i c_i < 1, whatever the condition.

    g(x | c) = W̄_k φ(… φ(W̄_1 x + b_1 + s_1(c)) …) + b_k + s_k(c)

Only x passes through bounded layers. The condition enters as shifts s_i from a free network, so it may move the rows as
steeply as it likes: a shift does not touch the constant in x.

`bind` does once what all evaluations with the same weights and conditions share, the norms above all, and gives a plain
function of x. That function knows its vector–Jacobian product in closed form,

    vᵀ ∂g/∂x = vᵀ W̄_k D_{k−1} W̄_{k−1} … D_1 W̄_1,    D_i = diag φ'(a_i),

which is differentiable like everything else and takes many vectors per row in one product.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, unknown_name
from advect.networks.field import check_sizes
from advect.networks.layers import linear, zero_linear
from advect.networks.lipschitz import ACTIVATIONS, LipschitzConv2d, LipschitzLayer, LipschitzLinear

REACH = 2.0  # deviations of the data over which the bends of the units are spread at the start

Pull = Callable[[Tensor], Tensor]
"""Vectors ``(batch or 1, vectors, *event)`` to vᵀ ∂g/∂x ``(batch, vectors, *event)``."""


class LipschitzNetwork(nn.Module):
    """Bounded layers with activations between them.

    Args:
        layers: The bounded layers in order.
        activation: ``lipswish`` or ``sine``.
        sharpness: Of the activations at the start.
        condition_features: Numbers in one condition ``(batch, condition_features)``, 0 for none.
        generator: Draws the weights that read the condition.

    Attributes:
        lipschitz: Bound on the Lipschitz constant in x.
    """

    def __init__(
        self,
        layers: Sequence[LipschitzLayer],
        *,
        activation: str = "lipswish",
        sharpness: float = 1.0,
        condition_features: int = 0,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown_name("Lipschitz activation", activation, ACTIVATIONS)
        self.layers = nn.ModuleList(layers)
        *hidden, last = layers
        self.activations = nn.ModuleList(
            ACTIVATIONS[activation](len(layer.weight), layer.weight.ndim - 2, sharpness) for layer in hidden
        )
        self.lipschitz = math.prod(layer.coefficient for layer in layers)
        self.condition_features = condition_features
        if condition_features:
            units = [len(layer.weight) for layer in hidden]
            self.reader = linear(condition_features, max([*units, 32]), generator=generator)
            self.shift = linear(self.reader.out_features, max(sum(units), 1), bias=False, generator=generator)
            # Zero, so that a network whose last layer starts at zero is zero for every condition.
            self.last_shift = zero_linear(self.reader.out_features, len(last.weight))

    def bind(self, condition: Tensor | None = None) -> "Bound":
        """The network as a function of x, with the norms of its weights as they are now."""
        weights, bounds = zip(*(layer.bounded_weight() for layer in self._layers()), strict=True)
        return Bound(self, weights, self._shifts(condition), min(self.lipschitz, math.prod(bounds)))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """g(x | condition), ``(batch, *event)``."""
        return self.bind(condition)(x)

    def _layers(self) -> list[LipschitzLayer]:
        return [layer for layer in self.layers if isinstance(layer, LipschitzLayer)]

    def _shifts(self, condition: Tensor | None) -> tuple[Tensor, ...]:
        """What the condition adds before each activation and to the result; nothing without one."""
        if (condition is None) == bool(self.condition_features):
            expected = f"(batch, {self.condition_features})" if self.condition_features else "none"
            given = "none" if condition is None else str(tuple(condition.shape))
            raise ConfigError(f"The condition is {given}, expected {expected}", where="LipschitzNetwork")
        if condition is None:
            return ()
        read = F.silu(self.reader(condition.asinh()))  # asinh: an outlier must not drive all rows away
        units = [len(layer.weight) for layer in self._layers()[:-1]]
        shifts = self.shift(read).split(units, dim=1) if units else ()
        return tuple(
            s.reshape(*s.shape, *([1] * (layer.weight.ndim - 2)))
            for s, layer in zip((*shifts, self.last_shift(read)), self._layers(), strict=True)
        )


@dataclass(frozen=True)
class Bound:
    """A network with its weights scaled and its condition read: g as a function of x.

    Attributes:
        network: Where the biases and activations are.
        weights: W̄ of each layer.
        shifts: What the condition adds to each layer, or nothing.
        lipschitz: Bound on the Lipschitz constant of these very weights, often well below the network's.
    """

    network: LipschitzNetwork
    weights: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]
    lipschitz: float

    def __call__(self, x: Tensor) -> Tensor:
        """g(x), ``(batch, *event)``."""
        return self.linearise(x)[0]

    def linearise(self, x: Tensor) -> tuple[Tensor, Pull]:
        """g(x) and its vector–Jacobian product there."""
        layers, slopes = self.network._layers(), []
        for index, (layer, weight) in enumerate(zip(layers, self.weights, strict=True)):
            x = layer.affine(weight, x)
            if self.shifts:
                x = x + self.shifts[index]
            if index < len(layers) - 1:
                x, slope = self.network.activations[index](x)
                slopes.append(slope.unsqueeze(1))

        def pull(v: Tensor) -> Tensor:
            for index in range(len(layers) - 1, -1, -1):
                rows = v.shape[:2]
                v = layers[index].adjoint(self.weights[index], v.flatten(0, 1)).unflatten(0, rows)
                if index:
                    v = v * slopes[index - 1]
            return v

        return x, pull


def lipschitz_mlp(
    features: int,
    condition_features: int = 0,
    *,
    depth: int = 2,
    width: int = 64,
    lipschitz: float = 0.97,
    activation: str = "lipswish",
    zero: bool = True,
    generator: Generator | None = None,
) -> LipschitzNetwork:
    """A dense network on ``(batch, features)`` with ``depth`` hidden layers of ``width`` units.

    Args:
        features: Numbers in one row.
        condition_features: Numbers in one condition, 0 for none.
        depth: Hidden layers; there are ``depth + 1`` linear ones.
        width: Units in each.
        lipschitz: Bound for the whole network, spread evenly over the layers.
        activation: ``lipswish`` or ``sine``.
        zero: Start with a last layer of zeros, so that the network is zero.
        generator: Draws the initial weights.
    """
    check_sizes("lipschitz_mlp", features=features, depth=depth, width=width)
    coefficient, sharpness = _share(lipschitz, depth + 1), _sharpness(features, width)
    sizes = [features, *[width] * depth, features]
    layers = [
        LipschitzLinear(
            a,
            b,
            coefficient=coefficient,
            bias=REACH / sharpness,
            zero=zero and place == depth,
            generator=generator,
        )
        for place, (a, b) in enumerate(pairwise(sizes))
    ]
    return LipschitzNetwork(
        layers,
        activation=activation,
        sharpness=sharpness,
        condition_features=condition_features,
        generator=generator,
    )


def lipschitz_convolutions(
    event_shape: tuple[int, int, int],
    condition_features: int = 0,
    *,
    channels: int = 64,
    kernels: Sequence[int] = (3, 1, 3),
    lipschitz: float = 0.97,
    activation: str = "lipswish",
    zero: bool = True,
    generator: Generator | None = None,
) -> LipschitzNetwork:
    """A convolutional network on ``(batch, c, h, w)``, one layer per kernel, with zeros around the picture.

    Args:
        event_shape: ``(c, h, w)`` of one row.
        condition_features: Numbers in one condition, added to the channels, 0 for none.
        channels: Channels of the hidden layers.
        kernels: Odd widths of the kernels (3, 1, 3 in Behrmann et al. 2019, appendix on experiments).
        lipschitz: Bound for the whole network, spread evenly over the layers.
        activation: ``lipswish`` or ``sine``.
        zero: Start with a last layer of zeros, so that the network is zero.
        generator: Draws the initial weights.
    """
    check_sizes("lipschitz_convolutions", channels=channels, kernels=len(kernels))
    colours, *size = event_shape
    coefficient, sharpness = _share(lipschitz, len(kernels)), _sharpness(colours, channels)
    sizes = pairwise([colours, *[channels] * (len(kernels) - 1), colours])
    layers = [
        LipschitzConv2d(
            a,
            b,
            (size[0], size[1]),
            kernel=kernel,
            coefficient=coefficient,
            bias=REACH / sharpness,
            zero=zero and place == len(kernels) - 1,
            generator=generator,
        )
        for place, ((a, b), kernel) in enumerate(zip(sizes, kernels, strict=True))
    ]
    return LipschitzNetwork(
        layers,
        activation=activation,
        sharpness=sharpness,
        condition_features=condition_features,
        generator=generator,
    )


def _sharpness(inputs: int, units: int) -> float:
    """One over the size of a unit's argument, for inputs of unit scale behind a weight of norm one."""
    return max(1.0, math.sqrt(units / inputs))


def _share(lipschitz: float, layers: int) -> float:
    """The coefficient of each of some layers whose product is ``lipschitz``."""
    if not 0 < lipschitz < 1:
        raise ConfigError(
            f"The Lipschitz constant is {lipschitz!r}",
            where="residual network",
            remedy="Choose it between 0 and 1, both excluded: x + g(x) must be invertible.",
        )
    return lipschitz ** (1 / layers)
