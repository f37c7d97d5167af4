"""The network that gives a coupling or autoregressive layer its parameters.

    h = act(A₀ C asinh([x, c]/C)),   h ← act(A_i h),   θ = V h,   V = 0 at the start

Zero parameters are the identity of every function in `advect.transforms`, so a fresh layer is the identity. The other
weights start as He et al. 2015 (arXiv 1502.01852, §2.2) draw them, with variance 2/inputs: PyTorch's default is smaller
by √6, smooth activations then see numbers for which they are almost linear, and flows train clearly worse.

Rows arrive at unit scale, but one far outlier would drive a network that grows linearly to parameters of its own size;
C asinh(x/C) leaves small numbers as they are and grows like a logarithm.
"""

import math
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from advect.networks.field import check_sizes
from advect.networks.layers import activation as find_activation
from advect.networks.layers import asinh, linear, zero_linear

BULK = 3.0  # C: numbers up to this many standard deviations are seen almost as they are


class Conditioner(nn.Module):
    """``network(x, condition) -> (batch, outputs)``; no time; zero at the start.

    Args:
        inputs: Numbers in one row; 0 for a network of the condition alone, or, without one, a learned constant.
        outputs: Numbers to return.
        condition_features: Numbers in one condition, 0 for none.
        depth: Hidden layers.
        width: Units in each.
        activation: A name of `advect.networks.layers.ACTIVATIONS`. ``silu`` is the cheapest smooth one; ``gelu`` bends
            nearly twice as sharply, which pays where all bending comes from the network, as in affine couplings.
        sharpness: Factor of the first layer's initial weights: how much more sharply the network bends at the start.
        generator: Draws the initial weights.

    The network runs in its own dtype and answers in that of the rows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        condition_features: int = 0,
        *,
        depth: int = 2,
        width: int = 64,
        activation: str = "silu",
        sharpness: float = 1.0,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes("Conditioner", depth=depth, width=width)
        self.inputs, self.outputs, self.condition_features = inputs, outputs, condition_features
        seen = inputs + condition_features
        self.activation = find_activation(activation).function
        sizes = [seen, *[width] * depth] if seen else []
        self.hidden = nn.ModuleList(_he_linear(a, b, generator) for a, b in pairwise(sizes))
        with torch.no_grad():
            for parameter in self.hidden[:1].parameters():
                parameter.mul_(sharpness)
        self.output = zero_linear(width, outputs) if seen else _Constant(outputs)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Parameters ``(batch, outputs)`` for ``x`` ``(batch, inputs)`` and ``condition`` ``(batch, features)``."""
        h = x if condition is None else torch.cat([x, condition.to(x.dtype)], dim=1)
        h = (BULK * asinh(h / BULK)).to(self.output.bias.dtype)
        for layer in self.hidden:
            h = self.activation(layer(h))
        return self.output(h).to(x.dtype)

    def start_at(self, parameters: Tensor) -> None:
        """Begin from ``parameters`` ``(number,)``, the same for each of ``outputs / number`` coordinates."""
        with torch.no_grad():
            self.output.bias.copy_(parameters.repeat(self.outputs // len(parameters)))

    def perturb(self, size: float, *, generator: Generator | None = None) -> None:
        """Redraw the last layer so that the parameters have a standard deviation of about ``size``.

        For tests and pictures that need a map which is not the identity.
        """
        with torch.no_grad():
            for parameter in self.output.parameters():
                fan_in = parameter.shape[1] if parameter.ndim == 2 else 1
                parameter.normal_(0, size / fan_in**0.5, generator=generator)


def _he_linear(inputs: int, outputs: int, generator: Generator | None) -> nn.Linear:
    """Weights U(−√(6/inputs), √(6/inputs)), biases as PyTorch's: U(−1/√inputs, 1/√inputs)."""
    layer = linear(inputs, outputs, generator=generator)
    with torch.no_grad():
        layer.weight.mul_(math.sqrt(6))
    return layer


class _Constant(nn.Module):
    """The same numbers for every row."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(x.shape[0], -1)
