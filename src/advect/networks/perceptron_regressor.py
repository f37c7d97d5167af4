"""The gradient of a squared error through linear layers in one compiled call; see `regressor` and `perceptron`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from advect import compiled
from advect.networks.layers import Activation
from advect.networks.perceptron import Compiled, Rows, compiled_for, layout_of, pointers, rows_of, worth_it
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
        self._chosen: tuple[Any, Compiled | None] | None = None
        self._held: tuple[Compiled, Tensor, Tensor] | None = None

    def __call__(self, regression: Regression) -> Tensor:
        """Put the gradient of the mean loss where it belongs and return the loss."""
        loss = self._at_once(regression)
        return super().__call__(regression) if loss is None else loss

    def _at_once(self, regression: Regression) -> Tensor | None:
        if self._rounded or compiled.watched():
            return None
        x, time, condition = regression.x, self.time(regression.t), regression.condition
        if x.ndim != 2 or (condition is not None and condition.ndim != 2):
            x, condition = x.flatten(1), None if condition is None else condition.flatten(1)
        rows = rows_of(x, time, condition)
        target, weight = regression.target.reshape(x.shape).contiguous(), regression.weight
        functions = self._functions(rows)
        if functions is None or (weight is not None and weight.shape != x.shape[:1]):
            return None
        given = (*rows.tensors, target) if weight is None else (*rows.tensors, target, weight)
        if not all(compiled.in_rows(tensor, functions.dtype) for tensor in given):
            return None
        if self._held is None or self._held[0] is not functions:
            self._held = functions, functions.empty(), functions.room()
        _, packed, room = self._held
        functions.pack(self._from, packed)
        loss = functions.back(packed, rows, room, target=target, weight=weight, gradients=self._to)
        return torch.tensor(loss, dtype=functions.dtype)

    def _functions(self, rows: Rows) -> Compiled | None:
        """The functions for rows like these, looked up once for all batches alike."""
        like = rows.x.shape, rows.time.shape, None if rows.condition is None else rows.condition.shape
        if self._chosen is None or self._chosen[0] != like:
            dtype = self._values[0].dtype
            layout = layout_of(self._weights, dtype, self._function, rows)
            wanted = layout is not None and worth_it(layout, len(rows.x))
            self._chosen = like, compiled_for(layout, dtype, gradients=True) if wanted and layout else None
        return self._chosen[1]
