"""A coupling layer as one operation: all of it compiled, or all but the conditioner's products.

`Coupling` and `Conditioner` say what is computed; this is the same in fewer passes over memory, and with one node in
the graph of a gradient where there were some forty. On one core, and in small passes, `coupling_blocks` computes it
block by block of rows; `Walk` leaves the products to torch, which shares large ones out among cores. There the
parameters lie rows last, θᵀ = V hᵀ + b, as the compiled functions read them. The derivative of the activation is taken
on the way there, where its exponential is known. With G = ∂L/∂(A h + b) the gradients are ∂L/∂A = Gᵀ h,
∂L/∂b = Σ_r G_r and ∂L/∂h = G A, layer by layer.

Taken where a layer has two contiguous parts, the plain conditioner with its usual activation, and nobody listens to it
(`walk_for`); everything else goes the plain way. Both agree to rounding.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from advect.networks.conditioner import BULK, Conditioner
from advect.records import Mapped
from advect.transforms.coupling_blocks import Blocks
from advect.transforms.kernel import Layers, layers_for, plain_gradients
from advect.transforms.layer_pass import Layer, LayerPass

Network = Callable[[Tensor, Tensor | None], Tensor]
_Place = tuple[int | None, int, int]
_FEW = 2**25  # multiplications, about a millisecond of one core
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


Plain = Callable[[Tensor, Tensor | None, bool, Network], Mapped]
"""A layer the plain way: rows, condition, whether the log-determinant is wanted, and a network in the conditioner's
place."""


def weights_of(conditioner: nn.Module) -> list[Tensor] | None:
    """Weight and bias of every linear layer in turn; None where the network is not what a pass takes it to be.

    Asked for every layer in every pass, so parts are looked up where a module keeps them: by attributes it takes thrice
    as long.
    """
    if type(conditioner) is not Conditioner or conditioner.activation is not F.silu or _changed(vars(conditioner)):
        return None
    parts = vars(conditioner)["_modules"]
    found: list[Any] = []
    for layer in (*parts["hidden"]._modules.values(), parts["output"]):
        known = vars(layer)
        if type(layer) is not nn.Linear or _changed(known):
            return None
        held = known["_parameters"]
        found.append(held["weight"])
        found.append(held["bias"])
    return found


def _changed(known: dict[str, Any]) -> bool:
    """Whether a module has a pass of its own, or somebody who hears of it."""
    before, after, back, before_back = _HOOKS
    return bool("forward" in known or known[before] or known[after] or known[back] or known[before_back])


def walk_for(layer: Layer, conditioner: nn.Module, x: Tensor, condition: Tensor | None) -> LayerPass | None:
    """A pass of these rows, not yet begun; None where only the plain way will do."""
    weights = weights_of(conditioner) if layer.kernel.fits and len(x) else None
    if weights is None:
        return None
    layers = layers_for(x, *weights) if condition is None else layers_for(x, condition, *weights)
    if layers is None:
        return None
    if by_blocks(len(x) * sum(matrix.numel() for matrix in weights[::2])):
        return Blocks.alone(layers, layer, x, condition, weights)
    return Walk(layers, layer, x, condition, weights)


def by_blocks(products: int) -> bool:
    """Whether a layer of so many multiplications goes by blocks of rows: on one core, and in small passes.

    With more cores torch shares the products of large ones out.
    """
    return torch.get_num_threads() == 1 or products <= _FEW


def passed(
    layer: Layer, conditioner: nn.Module, plain: Plain, x: Tensor, condition: Tensor | None, *, log_det: bool
) -> tuple[Tensor, Tensor | None] | None:
    """The rows after the layer and their log-determinants; None where only the plain way will do."""
    walk = walk_for(layer, conditioner, x, condition)
    if walk is None:
        return None
    given = x, condition, *walk.weights
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        value, total = _Pass.apply(walk, layer, conditioner, plain, *given)
        return value, total if log_det else None
    return walk.forward(log_det=log_det)


class _Pass(torch.autograd.Function):
    """`passed` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        walk: LayerPass,
        layer: Layer,
        conditioner: nn.Module,
        plain: Plain,
        x: Tensor,
        condition: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """The rows and their log-determinants."""
        ctx.set_materialize_grads(False)
        ctx.make = partial(Blocks.alone if type(walk) is Blocks else Walk, walk.layers, layer)
        ctx.conditioner, ctx.plain = conditioner, plain
        found = walk.forward(kept=True)
        ctx.save_for_backward(x, condition, *weights, *walk.kept)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """By rows, condition and weights; where these shall have a graph of their own, the plain way's."""
        x, condition, *rest = ctx.saved_tensors
        number = len(ctx.needs_input_grad) - 6
        weights, kept = rest[:number], rest[number:]
        if torch.is_grad_enabled():
            plain = partial(_plainly, ctx.plain, ctx.conditioner, condition is not None)
            return None, None, None, None, *plain_gradients(plain, (x, condition, *weights), gradients)
        walk = ctx.make(x, condition, weights)
        walk.kept = kept
        return None, None, None, None, *walk.backward(*gradients, rows=any(ctx.needs_input_grad[4:6]))


def _plainly(plain: Plain, conditioner: nn.Module, conditioned: bool, *given: Tensor) -> tuple[Tensor, ...]:
    """Rows and log-determinants the plain way, from rows, the condition where there is one, and weights."""
    x, *rest = given
    condition, weights = (rest[0], rest[1:]) if conditioned else (None, rest)
    named = dict(zip((name for name, _ in conditioner.named_parameters()), weights, strict=True))
    found = plain(x, condition, True, lambda *seen: functional_call(conditioner, named, seen))
    assert found.log_abs_det_jacobian is not None
    return found.value, found.log_abs_det_jacobian


class Walk(LayerPass):
    """One pass through a layer with torch's products; other arguments as for `LayerPass`.

    Rows lie side by side in memory, column by column, on the way and at the end. What is kept: the parameters of the
    function ``(outputs, rows)``, then what each linear layer saw ``(rows, inputs)``, then the derivatives of the
    activation after each hidden layer ``(rows, width)``.
    """

    def __init__(
        self, layers: Layers, layer: Layer, x: Tensor, condition: Tensor | None, weights: Sequence[Tensor]
    ) -> None:
        super().__init__(layers, x, condition, weights)
        self._layer = layer
        self._matrices, self._shifts = weights[::2], weights[1::2]

    def forward(self, *, log_det: bool = True, kept: bool = False) -> tuple[Tensor, Tensor | None]:
        """See `LayerPass.forward`."""
        (start, size), given, rows = self._layer.kept, self._condition, len(self._x)
        value = self._x.t().clone(memory_format=torch.contiguous_format).t()
        seen = self._x.new_empty(size + (0 if given is None else given.shape[1]), rows).t()
        if size:
            self.layers.squash(rows, size, BULK, *_columns(value, start), *_columns(seen))
        if given is not None:
            self.layers.squash(rows, given.shape[1], BULK, *_columns(given), *_columns(seen, size))
        inputs, slopes = [seen], []
        for matrix, shift in zip(self._matrices[:-1], self._shifts[:-1], strict=True):
            a = torch.addmm(shift, seen, matrix.t())
            seen = torch.empty_like(a) if kept else a
            self.layers.silu(a.numel(), a.data_ptr(), seen.data_ptr(), a.data_ptr() if kept else None)
            inputs.append(seen)
            slopes.append(a)
        theta = torch.addmm(self._shifts[-1].unsqueeze(1), self._matrices[-1], seen.t())
        total = self._x.new_empty(rows) if log_det else None
        self.layers.forward[self._layer.kernel.name](
            *self._start(value, theta),
            *_columns(value, self._layer.moved[0]),
            *((None, 0, 0) if total is None else (total.data_ptr(), 1, 0)),
        )
        self.kept = [theta, *inputs, *slopes] if kept else []
        return value, total

    def backward(
        self,
        by_value: Tensor | None,
        by_total: Tensor | None,
        *,
        rows: bool,
        into: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """See `LayerPass.backward`."""
        theta, *rest = self.kept
        inputs, slopes = rest[: len(self._matrices)], rest[len(self._matrices) :]
        into = [torch.empty_like(weight) for weight in self.weights] if into is None else into
        by_matrix, by_shift = into[::2], into[1::2]
        by_value = torch.zeros_like(self._x) if by_value is None else by_value
        by_x, by_theta = self._x.new_empty(self._x.shape[::-1]).t(), torch.empty_like(theta)
        first = self._layer.moved[0]
        self.layers.backward[self._layer.kernel.name](
            *self._start(self._x, theta),
            *_columns(by_value, first),
            *((None, 0, 0) if by_total is None else (by_total.data_ptr(), by_total.stride(0), 0)),
            *_columns(by_x, first),
            by_theta.data_ptr(),
        )
        torch.sum(by_theta, 1, out=by_shift[-1])
        torch.mm(by_theta, inputs[-1], out=by_matrix[-1])
        gradient = torch.mm(by_theta.t(), self._matrices[-1])
        for i in range(len(slopes) - 1, -1, -1):
            gradient.mul_(slopes[i])
            torch.sum(gradient, 0, out=by_shift[i])
            if i:
                torch.mm(gradient.t(), inputs[i], out=by_matrix[i])
                gradient = torch.mm(gradient, self._matrices[i])
        # Rows last, in which products with few inputs are several times as fast.
        by_matrix[0].copy_(torch.mm(inputs[0].t(), gradient).t())
        found = (
            self._by_rows(torch.mm(self._matrices[0].t(), gradient.t()).t(), by_value, by_x) if rows else (None, None)
        )
        return *found, *into

    def _by_rows(self, by_seen: Tensor, by_value: Tensor, by_x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradients by rows and condition from that by what the network saw; of what moved it is there already."""
        (start, size), condition = self._layer.kept, self._condition
        if size:
            self._squash_back(
                _columns(self._x, start), size, _columns(by_seen), _columns(by_value, start), _columns(by_x, start)
            )
        if condition is None:
            return by_x, None
        by_condition = torch.empty_like(condition)
        places = _columns(condition), condition.shape[1], _columns(by_seen, size)
        self._squash_back(*places, (None, 0, 0), _columns(by_condition))
        return by_x, by_condition

    def _start(self, x: Tensor, theta: Tensor) -> tuple[Any, ...]:
        """The arguments that say what goes into the function."""
        (first, count), rows = self._layer.moved, len(x)
        sizes = rows, count, *self._layer.kernel.constants, self._layer.inverse
        return *sizes, *_columns(x, first), theta.data_ptr(), 1, theta.numel() // count, rows

    def _squash_back(self, x: _Place, size: int, by_seen: _Place, base: _Place, by_x: _Place) -> None:
        self.layers.squash_back(len(self._x), size, BULK, *x, *by_seen, *base, *by_x)


def _columns(tensor: Tensor, start: int = 0) -> _Place:
    """Where the columns from ``start`` on lie, and their strides."""
    row, column = tensor.stride()
    return tensor.data_ptr() + start * column * tensor.element_size(), row, column
