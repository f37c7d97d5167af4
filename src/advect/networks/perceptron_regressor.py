"""The gradient of a squared error through linear layers in one compiled call; see `regressor` and `perceptron`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from advect import compiled
from advect.networks.layers import Activation
from advect.networks.perceptron import Compiled, Layout, compiled_for, layout_of, pointers, rows_of, worth_it
from advect.networks.regressor import LinearRegressor
from advect.records import Regression


class PerceptronRegressor(LinearRegressor):
    """As `LinearRegressor`, by the compiled perceptron where that is the quicker way; arguments likewise."""

    def __init__(
        self,
        layers: list[nn.Linear],
        activation: Activation,
        time: nn.Module,
        gradients: Mapping[nn.Parameter, Tensor],
        precision: torch.dtype,
    ) -> None:
        super().__init__(layers, activation, time, gradients, precision)
        self._function = activation.function
        self._weights = [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)]
        put = [tensor for layer in self.layers for tensor in (layer.weight_gradient, layer.bias_gradient)]
        self._from, self._to = pointers(self._weights), pointers(put)
        self._layout: tuple[tuple[int, ...], Layout | None] | None = None
        self._held: tuple[Compiled, Tensor, Tensor] | None = None

    def __call__(self, regression: Regression) -> Tensor:
        """Put the gradient of the mean loss where it belongs and return the loss."""
        loss = self._at_once(regression)
        return super().__call__(regression) if loss is None else loss

    @torch.no_grad()
    def _at_once(self, regression: Regression) -> Tensor | None:
        if self._rounded or compiled.watched():
            return None
        x, condition = regression.x.flatten(1), regression.condition
        rows = rows_of(x, self.time(regression.t), None if condition is None else condition.flatten(1))
        target, weight = regression.target.reshape(len(x), -1).contiguous(), regression.weight
        given = [*rows.tensors, target] if weight is None else [*rows.tensors, target, weight]
        dtype = self._values[0].dtype
        if self._layout is None or self._layout[0] != rows.sizes:
            self._layout = rows.sizes, layout_of(self._weights, dtype, self._function, rows)
        layout = self._layout[1]
        if layout is None or target.shape != x.shape or (weight is not None and weight.shape != x.shape[:1]):
            return None
        functions = compiled_for(layout, dtype, gradients=True) if worth_it(layout, len(x)) else None
        if functions is None or not all(compiled.in_rows(tensor, dtype) for tensor in given):
            return None
        if self._held is None or self._held[0] is not functions:
            self._held = functions, functions.empty(), functions.room()
        _, packed, room = self._held
        functions.pack(self._from, packed)
        loss = functions.back(packed, rows, room, target=target, weight=weight, gradients=self._to)
        return torch.tensor(loss, dtype=dtype)
