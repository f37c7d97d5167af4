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

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advect.networks.kernels import kernels_of
from advect.networks.layers import Activation
from advect.records import Regression


@dataclass(frozen=True)
class _Layer:
    """A linear layer as the pass sees it: views of its numbers, and where their gradients go."""

    weight: Tensor
    transposed: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


class LinearRegressor:
    """See `typing.RegressionNetwork.regressor`; for linear layers with one activation between them.

    Args:
        layers: The linear layers, the last of which gives the output.
        activation: Between them.
        time: Features of the times: ``(batch,)`` to ``(batch, features)``; without parameters.
        gradients: See there.
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
        self._kernels, self.time = kernels_of(activation), time
        own = [layer.get_parameter(name) for layer in layers for name in ("weight", "bias")]
        self._values, self._gradients = [p.detach() for p in own], [gradients[p] for p in own]
        self._rounded = precision != self._values[0].dtype
        seen, put = self._values, self._gradients
        if self._rounded:
            seen, put = ([torch.empty_like(v, dtype=precision) for v in self._values] for _ in range(2))
        self._seen, self._put = seen, put
        self._layers = [_Layer(seen[i], seen[i].T, seen[i + 1], put[i], put[i + 1]) for i in range(0, len(seen), 2)]
        self._error = torch.empty(0)

    @torch.no_grad()
    def __call__(self, regression: Regression) -> Tensor:
        """Put the gradient of the mean loss where it belongs and return the loss."""
        if self._rounded:
            torch._foreach_copy_(self._seen, self._values)
        target = regression.target.reshape(len(regression.x), -1)
        if self._error.shape != target.shape:
            self._make_room(target)
        said = self._forward(regression)
        loss, error = self._loss(said, target, regression.weight)
        self._backward(error)
        if self._rounded:
            torch._foreach_copy_(self._gradients, self._put)
        return loss

    def _make_room(self, target: Tensor) -> None:
        """Buffers for this number of rows."""
        rows, like = len(target), self._layers[0].weight

        def room() -> list[Tensor]:
            return [like.new_empty(rows, len(layer.weight)) for layer in self._layers]

        self._inputs = like.new_empty(rows, like.shape[1])
        self._sums, self._back = room(), room()
        self._values_at = self._sums if self._kernels.at_value else room()
        self._error = torch.empty_like(target)

    def _forward(self, regression: Regression) -> Tensor:
        x, condition = regression.x.flatten(1), regression.condition
        time = self.time(regression.t)
        inputs, end = self._inputs, x.shape[1] + time.shape[1]
        inputs[:, : x.shape[1]] = x
        inputs[:, x.shape[1] : end] = time
        if condition is not None:
            inputs[:, end:] = condition.flatten(1)
        h, last = inputs, len(self._layers) - 1
        for i, layer in enumerate(self._layers):
            torch.addmm(layer.bias, h, layer.transposed, out=self._sums[i])
            if i < last:
                h = self._values_at[i]
                self._kernels.forward(self._sums[i], out=h)
        return self._sums[last]

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
        if not self._rounded:
            return loss, error
        return loss, self._back[-1].copy_(error)

    def _backward(self, gradient: Tensor) -> None:
        for i in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[i]
            h = self._values_at[i - 1] if i else self._inputs
            torch.mm(gradient.T, h, out=layer.weight_gradient)
            torch.sum(gradient, 0, out=layer.bias_gradient)
            if i:
                gradient = torch.mm(gradient, layer.weight, out=self._back[i - 1])
                self._kernels.backward(gradient, h if self._kernels.at_value else self._sums[i - 1])


def plain_linears(layers: list[nn.Module]) -> list[nn.Linear] | None:
    """The layers where all are torch's linear layers with a bias, with nothing of anybody's in their way."""
    plain = [layer for layer in layers if type(layer) is nn.Linear and layer.bias is not None]
    return plain if len(plain) == len(layers) else None
