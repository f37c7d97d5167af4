"""torch's kernels of the activations and of their derivatives, into memory that is there already.

`layers` says what an activation is; here is how it is computed where no graph is wanted: one pass over the numbers and
no fresh tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advect.networks.layers import Activation

_aten = torch.ops.aten


@dataclass(frozen=True)
class Kernels:
    """An activation in place of other numbers.

    Attributes:
        forward: ``forward(a, out=…)`` writes φ(a); ``out`` may be ``a`` where ``at_value``.
        backward: ``backward(gradient, given)`` multiplies ``gradient`` in place by φ′(a).
        at_value: Whether ``given`` is φ(a); else it is a.
    """

    forward: Callable[..., object]
    backward: Callable[[Tensor, Tensor], object]
    at_value: bool


def _elu(alpha: float, scale: float) -> Kernels:
    """scale · (a above zero, alpha (eᵃ − 1) below)."""

    def forward(a: Tensor, *, out: Tensor) -> None:
        _aten.elu.out(a, alpha, scale, 1.0, out=out)

    def backward(gradient: Tensor, value: Tensor) -> None:
        _aten.elu_backward.grad_input(gradient, alpha, scale, 1.0, True, value, grad_input=gradient)

    return Kernels(forward, backward, at_value=True)


def _torch(forward: Callable[..., object], backward: Callable[..., object], *, at_value: bool) -> Kernels:
    def pull_back(gradient: Tensor, given: Tensor) -> None:
        backward(gradient, given, grad_input=gradient)

    return Kernels(forward, pull_back, at_value)


def _plainly(activation: Activation) -> Kernels:
    def forward(a: Tensor, *, out: Tensor) -> None:
        out.copy_(activation.function(a))

    def backward(gradient: Tensor, a: Tensor) -> None:
        gradient.mul_(activation.derivative(a))

    return Kernels(forward, backward, at_value=False)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_KNOWN: dict[Callable[..., Tensor], Kernels] = {
    F.selu: _elu(_SELU_ALPHA, _SELU_SCALE),
    F.elu: _elu(1.0, 1.0),
    F.silu: _torch(_aten.silu.out, _aten.silu_backward.grad_input, at_value=False),
    F.gelu: _torch(_aten.gelu.out, _aten.gelu_backward.grad_input, at_value=False),
    torch.tanh: _torch(torch.tanh, _aten.tanh_backward.grad_input, at_value=True),
}


def kernels_of(activation: Activation) -> Kernels:
    """torch's kernels where it has them, else the activation's own functions."""
    return _KNOWN.get(activation.function) or _plainly(activation)
