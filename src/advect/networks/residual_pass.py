"""What a residual network says, its divergence and its gradients, by one compiled call.

None is the answer wherever only torch's own operations will do; see `residual_compiled`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from advect import compiled
from advect.networks.perceptron import Rows, rows_of
from advect.networks.residual_compiled import Compiled, Layers, functions_for
from advect.networks.residual_regressor import ResidualRegressor
from advect.records import Regression


def said(layers: Layers, rows: Rows, *, trace: bool = False) -> tuple[Tensor, Tensor | None] | None:
    """What a network says ``(rows, features)``, and the trace of its Jacobian ``(rows,)`` where asked for.

    Returns: None where only torch's own operations will do, or autograd wants to know.
    """
    if torch.is_grad_enabled() and any(part.requires_grad for part in rows.tensors):
        return None
    if compiled.heard(layers.all):
        return None
    functions = functions_for(layers, rows, tangents=trace)
    if functions is None:
        return None
    numbers = layers.numbers()
    if torch.is_grad_enabled() and any(number is not None and number.requires_grad for number in numbers):
        return None
    return functions.forward(functions.packed(numbers), rows, trace=trace)


class Quick:
    """``quick(rows) -> velocity`` without gradients, with the weights the layers have when it is first asked.

    Args:
        layers: Of the network.
    """

    _CALLS = 8  # that are expected of one solve, at least

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._last: tuple[Any, Compiled | None] | None = None
        self._packed: dict[Compiled, Tensor] = {}

    def __call__(self, rows: Rows) -> Tensor | None:
        """What the network says; None where only the plain way will do."""
        if compiled.watched() or not all(compiled.in_rows(part, rows.x.dtype) for part in rows.tensors):
            return None
        like = rows.x.dtype, rows.x.shape, rows.time.shape, None if rows.condition is None else rows.condition.shape
        if self._last is None or self._last[0] != like:
            self._last = like, functions_for(self._layers, rows, times=self._CALLS)
        functions = self._last[1]
        if functions is None:
            return None
        if functions not in self._packed:
            self._packed[functions] = functions.packed(self._layers.numbers())
        return functions.forward(self._packed[functions], rows, trace=False)[0]


class CompiledResidualRegressor(ResidualRegressor):
    """As `ResidualRegressor`, in one compiled call where that is the quicker way.

    Args:
        layers: Of the network.
        time: Features of the times, without parameters.
        gradients: See `typing.RegressionNetwork.regressor`.
        precision: See there.
    """

    def __init__(
        self, layers: Layers, time: nn.Module, gradients: Mapping[nn.Parameter, Tensor], precision: torch.dtype
    ) -> None:
        plain: list[Any] = layers.all
        super().__init__(plain, time, gradients, precision, conditioned=layers.condition is not None)
        numbers: list[Any] = layers.numbers()
        self._plain_layers = layers
        self._from = compiled.pointers(numbers)
        self._to = compiled.pointers([None if number is None else gradients[number] for number in numbers])
        self._found: tuple[Any, Compiled | None] | None = None
        self._memory: tuple[Compiled, Tensor, Tensor] | None = None

    def __call__(self, regression: Regression) -> Tensor:
        """Put the gradient of the mean loss where it belongs and return the loss."""
        loss = None if self._rounded else self._at_once(regression)
        return super().__call__(regression) if loss is None else loss

    def _at_once(self, regression: Regression) -> Tensor | None:
        x, condition, weight = regression.x.flatten(1), regression.condition, regression.weight
        rows = rows_of(x, self.time(regression.t), None if condition is None else condition.flatten(1))
        target, dtype = regression.target.reshape(x.shape).contiguous(), x.dtype
        if compiled.watched() or not all(compiled.in_rows(part, dtype) for part in (*rows.tensors, target)):
            return None
        if weight is not None and (weight.shape != x.shape[:1] or not compiled.in_rows(weight, dtype)):
            return None
        like = dtype, rows.sizes, x.shape, rows.time.shape
        if self._found is None or self._found[0] != like:
            self._found = like, functions_for(self._plain_layers, rows, gradients=True)
        functions = self._found[1]
        if functions is None:
            return None
        if self._memory is None or self._memory[0] is not functions:
            self._memory = functions, functions.empty(), functions.room()
        _, packed, room = self._memory
        functions.pack(self._from, packed)
        return torch.tensor(functions.back(packed, rows, room, target, weight, self._to), dtype=dtype)
