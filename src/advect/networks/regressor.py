"""The gradient of a squared error through a network of linear layers, without a graph.

For h_i = φ(W_i h_{i−1} + b_i), v = W h_k + b and the loss L = mean_r w_r mean_j (v_rj − u_rj)², the chain rule is a
handful of matrix products: with G = ∂L/∂(W_i h_{i−1} + b_i),

    ∂L/∂W_i = Gᵀ h_{i−1},   ∂L/∂b_i = Σ_r G_r,   ∂L/∂h_{i−1} = G W_i,   and then times φ′.

Written down, they go into buffers that are kept from step to step, and straight into the gradients: on a small network
autograd's graph, its fresh tensors and their addition cost several times the products. The plain way is
`objectives.regression_loss` and ``backward()``; both give the same numbers to rounding.

In bfloat16 the products are those of torch's autocast (weights, activations and gradients of 8 bits of precision,
sums in float32, the error itself in float32), but every weight is rounded once a step and not once a use.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advect.networks.kernels import kernels_of
from advect.networks.layers import Activation
from advect.records import Regression


@dataclass(frozen=True)
class Layer:
    """A linear layer as a pass sees it: views of its numbers, and where their gradients go.

    Attributes:
        weight: ``(outputs, inputs)``.
        transposed: The same, turned.
        bias: ``(outputs,)``, or None.
        weight_gradient: As ``weight``.
        bias_gradient: As ``bias``.
    """

    weight: Tensor
    transposed: Tensor
    bias: Tensor | None
    weight_gradient: Tensor
    bias_gradient: Tensor | None

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """W x + b for rows ``x``, into ``out``."""
        if self.bias is None:
            return torch.mm(x, self.transposed, out=out)
        return torch.addmm(self.bias, x, self.transposed, out=out)

    def backward(self, gradient: Tensor, x: Tensor) -> None:
        """Put away the gradients of weight and bias, where ``gradient`` is that of the output at ``x``."""
        torch.mm(gradient.T, x, out=self.weight_gradient)
        if self.bias_gradient is not None:
            torch.sum(gradient, 0, out=self.bias_gradient)


class Regressor(ABC):
    """What such passes share: the error at one end, precision, and buffers for a number of rows.

    Args:
        layers: Linear layers, of which `layers` holds what a pass needs, in their order.
        gradients: See `typing.RegressionNetwork.regressor`.
        precision: See there.
    """

    def __init__(
        self, layers: list[nn.Linear], gradients: Mapping[nn.Parameter, Tensor], precision: torch.dtype
    ) -> None:
        own = [parameter for layer in layers for parameter in layer.parameters()]
        self._values, self._gradients = [p.detach() for p in own], [gradients[p] for p in own]
        self._rounded = precision != self._values[0].dtype
        seen, put = self._values, self._gradients
        if self._rounded:
            seen, put = ([torch.empty_like(v, dtype=precision) for v in self._values] for _ in range(2))
        self.layers: list[Layer] = []
        for layer in layers:
            at = sum(1 if other.bias is None else 2 for other in self.layers)
            biased = layer.bias is not None
            self.layers.append(
                Layer(seen[at], seen[at].T, seen[at + 1] if biased else None, put[at], put[at + 1] if biased else None)
            )
        self._seen, self._put = seen, put
        self._error, self._rounded_error = torch.empty(0), torch.empty(0)

    @torch.no_grad()
    def __call__(self, regression: Regression) -> Tensor:
        """Put the gradient of the mean loss where it belongs and return the loss."""
        if self._rounded:
            torch._foreach_copy_(self._seen, self._values)
        target = regression.target.reshape(len(regression.x), -1)
        if self._error.shape != target.shape:
            self._error = torch.empty_like(target)
            self._rounded_error = self.room(target.shape[1], rows=len(target))
            self.make_room(len(target))
        loss, error = self._loss(self.forward(regression), target, regression.weight)
        self.backward(error)
        if self._rounded:
            torch._foreach_copy_(self._gradients, self._put)
        return loss

    @abstractmethod
    def make_room(self, rows: int) -> None:
        """Buffers for this number of rows."""

    @abstractmethod
    def forward(self, regression: Regression) -> Tensor:
        """What the network says, ``(rows, numbers)``; what `backward` needs is kept."""

    @abstractmethod
    def backward(self, gradient: Tensor) -> None:
        """The gradients of all layers from that of what the network said, which may be overwritten."""

    def room(self, columns: int, *, rows: int) -> Tensor:
        """An empty ``(rows, columns)`` of the precision in use."""
        return self._seen[0].new_empty(rows, columns)

    def _loss(self, said: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean loss, and its gradient by what the network said."""
        error = torch.sub(said, target, out=self._error)
        flat = error.view(-1)
        if weight is None:
            share = 1 / max(1, flat.numel())
            loss = torch.dot(flat, flat).mul_(share)
            error.mul_(2 * share)
        else:
            weighted = error * (weight.to(error.dtype) / max(1, flat.numel())).unsqueeze(1)
            loss = torch.dot(weighted.view(-1), flat)
            torch.mul(weighted, 2, out=error)
        return loss, self._rounded_error.copy_(error) if self._rounded else error


class LinearRegressor(Regressor):
    """For linear layers with one activation between them.

    Args:
        layers: The last of them gives the output.
        activation: Between them.
        time: Features of the times: ``(batch,)`` to ``(batch, features)``; without parameters.
        gradients: See `typing.RegressionNetwork.regressor`.
        precision: See there.
    """

    def __init__(
        self,
        layers: list[nn.Linear],
        activation: Activation,
        time: nn.Module,
        gradients: Mapping[nn.Parameter, Tensor],
        precision: torch.dtype,
    ) -> None:
        super().__init__(layers, gradients, precision)
        self._kernels, self.time = kernels_of(activation), time

    def make_room(self, rows: int) -> None:
        """The inputs, each layer's output before and after the activation, and the gradients by the latter."""

        def each() -> list[Tensor]:
            return [self.room(len(layer.weight), rows=rows) for layer in self.layers]

        self._inputs = self.room(self.layers[0].weight.shape[1], rows=rows)
        self._sums = each()
        # Two in turn for each width: what is used again stays in cache.
        keys = [(len(layer.weight), i % 2) for i, layer in enumerate(self.layers[:-1])]
        rooms = {key: self.room(key[0], rows=rows) for key in set(keys)}
        self._back = [rooms[key] for key in keys]
        self._values_at = self._sums if self._kernels.at_value else each()

    def forward(self, regression: Regression) -> Tensor:
        """What the network says, ``(rows, numbers)``."""
        h = joined_inputs(self._inputs, regression.x, self.time(regression.t), regression.condition)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            layer.forward(h, self._sums[i])
            if i < last:
                h = self._values_at[i]
                self._kernels.forward(self._sums[i], out=h)
        return self._sums[last]

    def backward(self, gradient: Tensor) -> None:
        """From the last layer to the first."""
        for i in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[i]
            h = self._values_at[i - 1] if i else self._inputs
            layer.backward(gradient, h)
            if i:
                gradient = torch.mm(gradient, layer.weight, out=self._back[i - 1])
                self._kernels.backward(gradient, h if self._kernels.at_value else self._sums[i - 1])


def joined_inputs(out: Tensor, *parts: Tensor | None) -> Tensor:
    """``out`` ``(rows, numbers)`` with the numbers of the parts side by side."""
    start = 0
    for part in parts:
        if part is not None:
            flat = part.flatten(1)
            out[:, start : start + flat.shape[1]] = flat
            start += flat.shape[1]
    return out


def plain_linears(layers: Sequence[nn.Module]) -> list[nn.Linear] | None:
    """The layers where all are torch's linear layers themselves, whose numbers are parameters of their own."""
    plain = [layer for layer in layers if type(layer) is nn.Linear]
    return plain if len(plain) == len(layers) else None
