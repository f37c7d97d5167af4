"""The gradient of a squared error through linear layers in one compiled call; see `regressor` and `perceptron`."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from advect import compiled
from advect.networks.layers import Activation
from advect.networks.perceptron import Choice, Compiled, rows_of
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
        own = [layer._parameters[name] for layer in layers for name in ("weight", "bias")]
        weights = [None if parameter is None else parameter.detach() for parameter in own]
        put = [None if parameter is None else gradients[parameter] for parameter in own]
        self._choice = Choice(weights, activation.function, precision, gradients=True, times=1)
        self._from, self._to = compiled.pointers(weights), compiled.pointers(put)
        self._held: tuple[Compiled, Tensor, Tensor] | None = None

    def __call__(self, regression: Regression) -> Tensor:
        """Put the gradient of the mean loss where it belongs and return the loss."""
        loss = self._at_once(regression)
        return super().__call__(regression) if loss is None else loss

    def _at_once(self, regression: Regression) -> Tensor | None:
        x, time, condition = regression.x, self.time(regression.t), regression.condition
        if x.ndim != 2 or (condition is not None and condition.ndim != 2):
            x, condition = x.flatten(1), None if condition is None else condition.flatten(1)
        rows = rows_of(x, time, condition)
        functions = self._choice.functions(rows)
        target, weight = regression.target.reshape(x.shape).contiguous(), regression.weight
        if functions is None or not compiled.in_rows(target, functions.dtype):
            return None
        if weight is not None and (weight.shape != x.shape[:1] or not compiled.in_rows(weight, functions.dtype)):
            return None
        if self._held is None or self._held[0] is not functions:
            self._held = functions, functions.empty(), functions.room()
        _, packed, room = self._held
        functions.pack(self._from, packed)
        loss = functions.back(packed, rows, room, target=target, weight=weight, gradients=self._to)
        return torch.tensor(loss, dtype=functions.dtype)
