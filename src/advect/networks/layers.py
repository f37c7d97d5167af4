"""Linear layers drawn from a given generator, and activations with their derivatives.

The derivative of an activation is needed in closed form by the exact divergence (`networks.field`). Exponentials are
taken of clipped arguments, so that a branch not chosen cannot overflow into the gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from advect.errors import unknown_name

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def linear(inputs: int, outputs: int, *, bias: bool = True, generator: Generator | None = None) -> nn.Linear:
    """`torch.nn.Linear` with PyTorch's default initialisation, U(−1/√inputs, 1/√inputs), drawn from ``generator``.

    Without a generator PyTorch's own is used.
    """
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(inputs) if inputs else 0.0
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts at zero."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative, also as a function of the value where that is cheaper."""

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    derivative_at_value: Callable[[Tensor], Tensor] | None = None
    overwriting: Callable[[Tensor], Tensor] | None = None

    @property
    def in_place(self) -> Callable[[Tensor], Tensor]:
        """The function, which may write its values over its argument; not where a graph must stay."""
        return self.function if self.overwriting is None else self.overwriting

    def with_derivative(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Value and derivative at ``a``."""
        value = self.function(a)
        return value, self.derivative(a) if self.derivative_at_value is None else self.derivative_at_value(value)


def _selu_derivative(a: Tensor) -> Tensor:
    # exp(min(a, 0)) is 1 above zero; adding the mask there is several times faster than a choice by `torch.where`.
    below = (_SELU_SCALE * _SELU_ALPHA) * a.clamp(max=0).exp()
    return torch.add(below, a > 0, alpha=_SELU_SCALE * (1 - _SELU_ALPHA))


def _elu_derivative(a: Tensor) -> Tensor:
    return a.clamp(max=0).exp()


def _silu_derivative(a: Tensor) -> Tensor:
    s = torch.sigmoid(a)
    return s * (1 + a * (1 - s))


def _gelu_derivative(a: Tensor) -> Tensor:
    return torch.special.ndtr(a) + a * torch.exp(-0.5 * a**2) / math.sqrt(2 * math.pi)


ACTIVATIONS: dict[str, Activation] = {
    "selu": Activation(F.selu, _selu_derivative, overwriting=torch.selu_),
    "silu": Activation(F.silu, _silu_derivative, overwriting=partial(F.silu, inplace=True)),
    "elu": Activation(F.elu, _elu_derivative, overwriting=partial(F.elu, inplace=True)),
    "gelu": Activation(F.gelu, _gelu_derivative),
    "tanh": Activation(torch.tanh, lambda a: 1 - torch.tanh(a) ** 2, lambda value: 1 - value.square(), torch.tanh_),
    "softplus": Activation(F.softplus, torch.sigmoid),
}


def activation(name: str) -> Activation:
    """Look an activation up by name."""
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


class _Asinh(torch.autograd.Function):
    """The inverse hyperbolic sine by vector instructions, with the derivative of the function and not of its parts."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """log(|x| + √(1 + x²)) with the sign of x, without cancellation at 0 and without overflow."""
        size = x.abs()
        half = (size / (1 + torch.hypot(size, size.new_ones(())))).nan_to_num(1.0)  # tanh(y/2); 1 at infinity
        return torch.log1p(size * (1 + half)).copysign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """gradient / √(1 + x²)."""
        (x,) = ctx.saved_tensors
        return gradients[0] * (x * x + 1).rsqrt()

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """The same for a tangent."""
        return _Asinh.backward(ctx, *tangents)


# Up to so many numbers `torch.asinh` is the faster one on a processor, without and with a gradient: it takes them one
# by one, but in one call, and its derivative needs no Python.
_FEW, _FEW_WITH_GRADIENT = 2**11, 2**13


def asinh(x: Tensor) -> Tensor:
    """`torch.asinh` to rounding; of many numbers on a processor in a third of its time."""
    gradient = torch.is_grad_enabled() and x.requires_grad
    if x.device.type != "cpu" or x.numel() <= (_FEW_WITH_GRADIENT if gradient else _FEW):
        return x.asinh()
    return _Asinh.apply(x) if gradient else _Asinh.forward(x)
