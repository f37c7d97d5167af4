"""What a network of linear layers says, its divergence and its gradients, by one compiled call.

None is the answer wherever only torch's own operations will do: where it wants to see them (`compiled.watched`), where
a layer is not torch's own or has hooks, and where they are no slower (`perceptron.worth_it`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect import compiled
from advect.networks.perceptron import (
    Choice,
    Compiled,
    Layout,
    Precision,
    Rows,
    allowed,
    compiled_for,
    given_as,
    instruction_set,
    layout_of,
    weights_of,
    worth_it,
)


def said(layers: Sequence[nn.Module], activation: Callable[..., Tensor], rows: Rows) -> Tensor | None:
    """What a network says ``(rows, features)``, with its gradient by the weights; None where that is only plain.

    A gradient by the points is the plain way's: it is what divergences ask for, by many passes back through one graph,
    or to be differentiated again, and here each would compute everything once more.
    """
    found = _found(layers, activation, rows)
    if found is None:
        return None
    layout, weights = found
    if not worth_it(layout, len(rows.x)):
        return None
    if not _followed(rows, weights):
        functions = compiled_for(layout, allowed(rows.x.dtype))
        return None if functions is None else functions.forward(functions.packed(weights), rows, trace=False)[0]
    if any(part.requires_grad for part in rows.tensors):
        return None
    return _Said.apply(layout, activation, *(rows.x, rows.time, rows.condition), *weights)


def said_and_traced(
    layers: Sequence[nn.Module], activation: Callable[..., Tensor], rows: Rows
) -> tuple[Tensor, Tensor] | None:
    """The same with the trace of the Jacobian ``(rows,)``, where no gradient is wanted; under autocast by bfloat16
    products, with sums in float32.
    """
    rounded = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    found = _found(layers, activation, rows, autocast=not rounded)
    if found is None or _followed(rows, found[1]) or (rounded and rows.x.dtype != torch.float32):
        return None
    layout, weights = found
    functions = compiled_for(layout, torch.bfloat16 if rounded else rows.x.dtype)
    if functions is None or not worth_it(layout, len(rows.x), tangents=layout.features):
        return None
    velocity, traces = functions.forward(functions.packed(weights), rows, trace=True)
    assert traces is not None
    return velocity, traces


class Quick:
    """``quick(rows) -> velocity`` without gradients, with the weights the layers have now.

    Args:
        layers: Of the network.
        activation: Between them.
        precision: Of the products: that of the weights, or another of weights in float32.
    """

    _CALLS = 8  # that are expected of one solve, at least

    def __init__(self, layers: Sequence[nn.Linear], activation: Callable[..., Tensor], precision: Precision) -> None:
        weights = [weight if weight is None else weight.detach() for weight in weights_of(layers)]
        self._choice = Choice(weights, activation, precision, gradients=False, times=self._CALLS)
        self._packed: tuple[Compiled, Tensor] | None = None

    def __call__(self, rows: Rows) -> Tensor | None:
        """What the network says; None where only the plain way will do."""
        functions = self._choice.functions(rows)
        if functions is None:
            return None
        if self._packed is None or self._packed[0] is not functions:
            self._packed = functions, functions.packed(self._choice.weights)
        return functions.forward(self._packed[1], rows, trace=False)[0]


def _found(
    layers: Sequence[nn.Module], activation: Callable[..., Tensor], rows: Rows, *, autocast: bool = True
) -> tuple[Layout, list[Tensor | None]] | None:
    """Sizes and weights of a network whose layers nobody listens to and whose operations nobody wants to see."""
    if instruction_set() is None or compiled.watched(autocast=autocast) or compiled.heard(layers):
        return None
    if rows.x.dtype != given_as(rows.x.dtype):
        return None
    linears = [layer for layer in layers if type(layer) is nn.Linear]
    if len(linears) < len(layers) or not all(compiled.in_rows(part, rows.x.dtype) for part in rows.tensors):
        return None
    weights = weights_of(linears)
    layout = layout_of(weights, rows.x.dtype, activation, rows)
    return None if layout is None else (layout, weights)


def _followed(rows: Rows, weights: Sequence[Tensor | None]) -> bool:
    """Whether autograd wants to know."""
    tensors = (*rows.tensors, *weights)
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


class _Said(torch.autograd.Function):
    """`said` with its gradient, for which what happened in between is computed again, block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        layout: Layout,
        activation: Callable[..., Tensor],
        x: Tensor,
        time: Tensor,
        condition: Tensor | None,
        *weights: Tensor | None,
    ) -> Tensor:
        """What the network says."""
        ctx.save_for_backward(x, time, condition, *weights)
        ctx.layout, ctx.activation = layout, activation
        functions = compiled_for(layout, x.dtype)
        assert functions is not None
        return functions.forward(functions.packed(weights), Rows(x, time, condition), trace=False)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """By the weights; where these gradients shall have a graph of their own, the plain network's."""
        (by_output,) = gradients
        x, time, condition, *weights = ctx.saved_tensors
        wanted, graph = ctx.needs_input_grad[5:], torch.is_grad_enabled()
        functions = None if graph else compiled_for(ctx.layout, x.dtype, gradients=True)
        if functions is None:
            with torch.enable_grad():
                output = _plainly(ctx.activation, x, time, condition, weights)
            asked = [weight for weight, want in zip(weights, wanted, strict=True) if want]
            found = iter(torch.autograd.grad(output, asked, by_output, create_graph=graph))
            return (None,) * 5 + tuple(next(found) if want else None for want in wanted)
        put = [None if weight is None else torch.empty_like(weight) for weight in weights]
        functions.back(
            functions.packed(weights),
            Rows(x, time, condition),
            functions.room(),
            by_output=by_output.contiguous(),
            gradients=compiled.pointers(put),
        )
        return (None,) * 5 + tuple(found if want else None for found, want in zip(put, wanted, strict=True))


def _plainly(
    activation: Callable[..., Tensor], x: Tensor, time: Tensor, condition: Tensor | None, weights: Sequence[Tensor]
) -> Tensor:
    """What the network says, by torch's operations."""
    parts = [x, time.expand(len(x), -1)]
    h = torch.cat(parts if condition is None else [*parts, condition], dim=1)
    last = len(weights) - 2
    for i in range(0, last, 2):
        h = activation(F.linear(h, weights[i], weights[i + 1]))
    return F.linear(h, weights[last], weights[last + 1])
