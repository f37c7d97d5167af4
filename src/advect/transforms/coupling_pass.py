"""A coupling layer as one operation: the conditioner's products by torch, all between them compiled.

`Coupling` and `Conditioner` say what is computed; this is the same in fewer passes over memory, and with one node in
the graph of a gradient where there were some forty. The parameters lie rows last, θᵀ = V hᵀ + b, as the compiled
functions read them, and the derivative of the activation is taken on the way there, where its exponential is known.
With G = ∂L/∂(A h + b) the gradients are ∂L/∂A = Gᵀ h, ∂L/∂b = Σ_r G_r and ∂L/∂h = G A, layer by layer.

Taken where a layer has two contiguous parts, the plain conditioner with its usual activation, and nobody listens to it
(`layer_of`); everything else goes the plain way. Both agree to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from advect.networks.conditioner import BULK, Conditioner
from advect.records import Mapped
from advect.transforms.kernel import Kernel, Layers, layers_for, plain_gradients

Network = Callable[[Tensor, Tensor | None], Tensor]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Layer:
    """What a pass must know of a layer.

    Attributes:
        kernel: Of its function.
        kept: The first of the coordinates that stay, and how many.
        moved: The first of those that move, and how many.
        inverse: Whether the pass goes from source to data.
        conditioner: Its network.
        plain: The same layer the plain way: rows, condition, whether the log-determinant is wanted, and a network in
            the conditioner's place.
    """

    kernel: Kernel
    kept: tuple[int, int]
    moved: tuple[int, int]
    inverse: bool
    conditioner: nn.Module
    plain: Callable[[Tensor, Tensor | None, bool, Network], Mapped]


def weights_of(conditioner: nn.Module) -> list[Tensor] | None:
    """Weight and bias of every linear layer in turn; None where the network is not what a pass takes it to be."""
    if type(conditioner) is not Conditioner or conditioner.activation is not F.silu:
        return None
    layers = [*conditioner.hidden, conditioner.output]
    if any(type(layer) is not nn.Linear for layer in layers):
        return None
    if any(getattr(module, hooks) for module in (conditioner, *layers) for hooks in _HOOKS):
        return None
    return [number for layer in layers for number in (layer.get_parameter("weight"), layer.get_parameter("bias"))]


def passed(
    layer: Layer, x: Tensor, condition: Tensor | None, *, log_det: bool
) -> tuple[Tensor, Tensor | None] | None:
    """The rows after the layer and their log-determinants; None where only the plain way will do."""
    weights = weights_of(layer.conditioner) if layer.kernel.fits and len(x) else None
    if weights is None or torch.is_autocast_enabled("cpu"):
        return None
    given = () if condition is None else (condition,)
    layers = layers_for(x, *given, *weights)
    if layers is None:
        return None
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *given, *weights)):
        return _Pass.apply(layers, layer, x, condition, *weights)
    return _Walk(layers, layer, x, condition, weights).forward(log_det=log_det)


class _Pass(torch.autograd.Function):
    """`passed` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, layers: Layers, layer: Layer, x: Tensor, condition: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The rows and their log-determinants."""
        walk = _Walk(layers, layer, x, condition, list(weights))
        ctx.set_materialize_grads(False)
        ctx.layers, ctx.layer = layers, layer
        found = walk.forward(kept=True)
        ctx.save_for_backward(x, condition, *weights, walk.theta, *walk.inputs, *walk.slopes)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """By rows, condition and weights; where these shall have a graph of their own, the plain way's."""
        x, condition, *rest = ctx.saved_tensors
        number = len(ctx.needs_input_grad) - 4
        weights, (theta, *seen) = rest[:number], rest[number:]
        if torch.is_grad_enabled():
            names = [name for name, _ in ctx.layer.conditioner.named_parameters()]
            network = partial(functional_call, ctx.layer.conditioner, dict(zip(names, weights, strict=True)))
            found = ctx.layer.plain(x, condition, True, lambda *given: network(given))
            outputs = (found.value, found.log_abs_det_jacobian)
            return None, None, *plain_gradients(outputs, (x, condition, *weights), gradients)
        walk = _Walk(ctx.layers, ctx.layer, x, condition, weights)
        walk.theta, walk.inputs, walk.slopes = theta, seen[: number // 2], seen[number // 2 :]
        return None, None, *walk.backward(*gradients, rows=any(ctx.needs_input_grad[2:4]))


class _Walk:
    """One pass through a layer, and back.

    Attributes:
        theta: ``(outputs, rows)`` the parameters of the function.
        inputs: What each linear layer saw, ``(rows, inputs)``.
        slopes: Derivatives of the activation after each hidden layer, ``(rows, width)``.
    """

    theta: Tensor

    def __init__(
        self, layers: Layers, layer: Layer, x: Tensor, condition: Tensor | None, weights: list[Tensor]
    ) -> None:
        self._layers, self._layer = layers, layer
        self._x = x if x.stride(1) == 1 else x.contiguous()
        self._condition = condition if condition is None or condition.stride(1) == 1 else condition.contiguous()
        self._weights = list(zip(weights[::2], weights[1::2], strict=True))
        self._bytes = x.element_size()
        self.inputs: list[Tensor] = []
        self.slopes: list[Tensor] = []

    def forward(self, *, log_det: bool = True, kept: bool = False) -> tuple[Tensor, Tensor | None]:
        """The rows and their log-determinants.

        Args:
            log_det: Whether the latter are wanted.
            kept: Whether what `backward` needs is kept.
        """
        (start, size), given = self._layer.kept, self._condition
        rows, added = len(self._x), 0 if given is None else given.shape[1]
        seen = self._x.new_empty(rows, size + added)
        if size:
            self._squash(self._x, start, size, seen, 0)
        if given is not None:
            self._squash(given, 0, added, seen, size)
        self.inputs.append(seen)
        *hidden, (weight, bias) = self._weights
        for matrix, shift in hidden:
            a = torch.addmm(shift, seen, matrix.t())
            seen = torch.empty_like(a) if kept else a
            self._layers.silu(a.numel(), a.data_ptr(), seen.data_ptr(), a.data_ptr() if kept else None)
            self.inputs.append(seen)
            self.slopes.append(a)
        self.theta = torch.addmm(bias.unsqueeze(1), weight, seen.t())
        value = self._x.clone(memory_format=torch.contiguous_format)
        total = self._x.new_empty(rows) if log_det else None
        self._layers.forward[self._layer.kernel.name](
            *self._start(self._x),
            *self._moved(value),
            *((None, 0, 0) if total is None else (total.data_ptr(), 1, 0)),
        )
        return value, total

    def backward(
        self, by_value: Tensor | None, by_total: Tensor | None, *, rows: bool
    ) -> tuple[Tensor | None, ...]:
        """The gradients by rows, condition, weights and biases from those by what `forward` gave.

        ``rows`` says whether those by rows and condition are wanted.
        """
        x, (start, size) = self._x, self._layer.kept
        by_value = torch.zeros_like(x) if by_value is None else by_value.contiguous()
        by_x, by_theta = torch.empty_like(by_value), torch.empty_like(self.theta)
        self._layers.backward[self._layer.kernel.name](
            *self._start(x),
            *self._moved(by_value),
            *((None, 0, 0) if by_total is None else (by_total.data_ptr(), by_total.stride(0), 0)),
            *self._moved(by_x),
            by_theta.data_ptr(),
        )
        found = [by_theta.sum(1), torch.mm(by_theta, self.inputs[-1])]  # from the last to the first
        gradient = torch.mm(by_theta.t(), self._weights[-1][0])
        for i in range(len(self.slopes) - 1, -1, -1):
            gradient.mul_(self.slopes[i])
            found += [gradient.sum(0), torch.mm(gradient.t(), self.inputs[i])]
            if i or rows:
                gradient = torch.mm(gradient, self._weights[i][0])
        if not rows:
            return None, None, *found[::-1]
        if size:
            self._squash_back(x, start, size, gradient, 0, by_value, by_x)
        by_condition = None if self._condition is None else torch.empty_like(self._condition)
        if self._condition is not None and by_condition is not None:
            self._squash_back(self._condition, 0, by_condition.shape[1], gradient, size, None, by_condition)
        return by_x, by_condition, *found[::-1]

    def _start(self, x: Tensor) -> tuple[Any, ...]:
        """The arguments that say what goes in."""
        (_, count), rows = self._layer.moved, len(x)
        each = len(self.theta) // count
        sizes = (rows, count, *self._layer.kernel.constants, self._layer.inverse)
        return *sizes, *self._moved(x), self.theta.data_ptr(), 1, each * rows, rows

    def _moved(self, tensor: Tensor) -> tuple[int, int, int]:
        """The part of the rows that moves."""
        return tensor.data_ptr() + self._layer.moved[0] * self._bytes, tensor.stride(0), 1

    def _columns(self, tensor: Tensor | None, start: int) -> tuple[int | None, int]:
        return (None, 0) if tensor is None else (tensor.data_ptr() + start * self._bytes, tensor.stride(0))

    def _squash(self, x: Tensor, start: int, size: int, out: Tensor, at: int) -> None:
        self._layers.squash(len(x), size, BULK, *self._columns(x, start), *self._columns(out, at))

    def _squash_back(
        self, x: Tensor, start: int, size: int, gradient: Tensor, at: int, base: Tensor | None, by_x: Tensor
    ) -> None:
        self._layers.squash_back(
            len(x),
            size,
            BULK,
            *self._columns(x, start),
            *self._columns(gradient, at),
            *self._columns(base, start),
            *self._columns(by_x, start),
        )
