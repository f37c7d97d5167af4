"""The plain network of flow matching on low-dimensional data.

t, x and the condition are concatenated and pass through ``depth`` hidden layers; the output is linear and the
initialisation PyTorch's. With 3 layers of 64 SELU units it is the network of Tong et al. 2024 (arXiv 2302.00482,
appendix on 2-D experiments).
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from advect.errors import ConfigError
from advect.networks.embed import RawTime
from advect.networks.field import FieldNetwork, check_sizes, push, scale, trace
from advect.networks.inference import MLPInference
from advect.networks.layers import activation as find_activation
from advect.networks.layers import linear
from advect.networks.perceptron import rows_of
from advect.networks.perceptron_pass import said, said_and_traced
from advect.networks.perceptron_regressor import PerceptronRegressor
from advect.networks.regressor import plain_linears
from advect.records import Regression
from advect.typing import written_for


class MLP(FieldNetwork):
    """Concatenate (x, t, condition), ``depth`` hidden layers of ``width``, linear output.

    Args:
        event_shape: Shape of one row.
        condition_features: Numbers in one condition, 0 for none.
        width: Units in each hidden layer.
        depth: Number of hidden layers.
        activation: ``selu``, ``silu``, ``elu``, ``gelu``, ``tanh`` or ``softplus``.
        time: A module from ``(batch,)`` to ``(batch, features)`` with an attribute ``features``; t itself by default.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_features: int = 0,
        *,
        width: int = 64,
        depth: int = 3,
        activation: str = "selu",
        time: nn.Module | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(event_shape, condition_features)
        check_sizes("MLP", width=width, depth=depth)
        self.time = RawTime() if time is None else time
        inputs = self.features + _time_features(self.time) + condition_features
        sizes = [inputs, *[width] * depth]
        self.hidden = nn.ModuleList(linear(a, b, generator=generator) for a, b in pairwise(sizes))
        self.output = linear(width, self.features, generator=generator)
        self.activation = find_activation(activation)

    def for_inference(self, dtype: torch.dtype | None = None) -> MLPInference:
        """The same velocity without a graph, with the weights of now; the layers in ``dtype``."""
        return MLPInference(self, dtype)

    @property
    def _tangents(self) -> int:
        return 1 if len(self.hidden) == 2 else self.features  # see `_two_layers`

    def inputs(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        """What the first layer sees, ``(batch, numbers)``, of what `flatten` gave."""
        time = self.time(t).expand(len(x), -1)
        return torch.cat([x, time] if condition is None else [x, time, condition], dim=1)

    def _velocity(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        by_points = torch.is_grad_enabled() and x.requires_grad  # which `said` leaves to the plain way
        if not by_points and type(self).inputs is MLP.inputs:
            found = said([*self.hidden, self.output], self.activation.function, rows_of(x, self.time(t), condition))
            if found is not None:
                return found
        return self._plain(t, x, condition)

    def _plain(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        """The velocity by torch's operations."""
        h = self.inputs(t, x, condition)
        for layer in self.hidden:
            h = self.activation.function(layer(h))
        return self.output(h)

    def regressor(
        self, gradients: Mapping[nn.Parameter, Tensor], precision: torch.dtype
    ) -> Callable[[Regression], Tensor] | None:
        """See `typing.RegressionNetwork`; None with time features that are learned or layers that were replaced."""
        layers = plain_linears([*self.hidden, self.output])
        learned = any(True for _ in self.time.parameters())
        if layers is None or learned or not self.features or not written_for(type(self), "regressor", "_velocity"):
            return None
        return PerceptronRegressor(layers, self.activation, self.time, gradients, precision)

    def _at_once(self, t: Tensor, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor] | None:
        few = len(self.hidden) != 2 or self.features <= 4  # `_two_layers` does not push a tangent for each coordinate
        if not few or type(self).inputs is not MLP.inputs:
            return None
        rows = rows_of(x, self.time(t), condition)
        return said_and_traced([*self.hidden, self.output], self.activation.function, rows)

    def _velocity_and_divergence(self, t: Tensor, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        # Values first: they are small beside the tangents, of which only one buffer then lives at a time.
        h = self.inputs(t, x, condition)
        slopes = []
        for layer in self.hidden:
            h, slope = self.activation.with_derivative(layer(h))
            slopes.append(slope)

        # Tangents of x: the first layer's are the columns of its weight, the same for every row.
        first, *inner = self.hidden
        columns = first.get_parameter("weight")[:, : self.features]
        if len(inner) == 1:
            return self.output(h), self._two_layers(slopes, columns, inner[0].get_parameter("weight"))
        tangents = columns.T.contiguous() * slopes[0].unsqueeze(1)
        for layer, slope in zip(inner, slopes[1:], strict=True):
            tangents = scale(push(tangents, layer), slope)
        return self.output(h), trace(tangents, self.output.weight)

    def _two_layers(self, slopes: list[Tensor], columns: Tensor, weight: Tensor) -> Tensor:
        """tr(W₃ D₂ W₂ D₁ W₁) = s₂ᵀ (W₂ ∘ (W₁ W₃)ᵀ) s₁: free of the dimension, for D = diag(s)."""
        around = (columns @ self.output.weight).T
        return ((slopes[0] @ (weight * around).T) * slopes[1]).sum(1)


def _time_features(time: nn.Module) -> int:
    """The number of features a time embedding says it makes."""
    features = getattr(time, "features", None)
    if not isinstance(features, int):
        raise ConfigError(
            f"The time embedding {type(time).__name__} has no whole number 'features'",
            where="MLP",
            remedy="Give it the attribute features, the width of its output.",
        )
    return features
