"""A network as a field: shapes checked once, any event rank, and the exact divergence.

The divergence Σ_i ∂v_i/∂x_i needs d tangents, one per coordinate. Pushed forward through the layers together, they are
rows of ordinary matrix products: the first layer's tangents are its weight columns, the last layer is needed only
through its diagonal, so a net of k inner linear layers costs k products over (rows · d) tangents and no graph at all.
Rows go in blocks, so that the tangents stay in cache. The result is exact, and differentiable where gradients are on.
"""

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from advect.errors import ConfigError, ShapeError

TANGENT_ROWS = 2048  # tangents in flight: 2 MB per buffer at width 256 in float32, about one core's cache


class FieldNetwork(nn.Module, ABC):
    """Base of networks ``network(t, x, condition) -> (batch, *event)``.

    Args:
        event_shape: Shape of one row, of any rank.
        condition_features: Numbers in one condition, 0 for none. A condition is ``(batch, *condition)`` with that many
            numbers; all zeros stand for "no condition".
    """

    output: nn.Linear

    def __init__(self, event_shape: tuple[int, ...], condition_features: int = 0) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.condition_features = condition_features
        self.features = math.prod(self.event_shape)

    @final
    def forward(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity at time ``t`` (a number or ``(batch,)``) and points ``x`` ``(batch, *event)``."""
        t, flat, condition = self._flatten(t, x, condition)
        return self._velocity(t, flat, condition).reshape(x.shape)

    @final
    def divergence(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Exact Σ_i ∂v_i/∂x_i, ``(batch,)``."""
        return self.velocity_and_divergence(t, x, condition)[1]

    @final
    def velocity_and_divergence(
        self, t: Tensor | float, x: Tensor, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Velocity ``(batch, *event)`` and its exact divergence ``(batch,)`` in one pass."""
        t, flat, condition = self._flatten(t, x, condition)
        rows = max(1, TANGENT_ROWS // max(1, self._tangents))
        if len(x) <= rows:
            velocity, divergence = self._velocity_and_divergence(t, flat, condition)
            return velocity.reshape(x.shape), divergence
        parts = [
            self._velocity_and_divergence(
                t if len(t) == 1 else t[start : start + rows],
                flat[start : start + rows],
                None if condition is None else condition[start : start + rows],
            )
            for start in range(0, len(x), rows)
        ]
        return torch.cat([v for v, _ in parts]).reshape(x.shape), torch.cat([d for _, d in parts])

    def start_at_zero(self) -> None:
        """Make the output zero everywhere, for networks that learn what a baseline leaves."""
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    @property
    def _tangents(self) -> int:
        """Tangents that each row has in flight, which decides how many rows go at once."""
        return self.features

    @abstractmethod
    def _velocity(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        """Velocity ``(batch, features)`` for ``t`` ``(batch,)`` or ``(1,)``, ``x`` ``(batch, features)``."""

    @abstractmethod
    def _velocity_and_divergence(self, t: Tensor, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same with the divergence ``(batch,)``; no more than a block of rows."""

    def _flatten(self, t: Tensor | float, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Check the shapes; time ``(1,)`` or ``(batch,)``, everything else ``(batch, numbers)``."""
        rows = len(x) if x.ndim else 0
        if tuple(x.shape[1:]) != self.event_shape or x.ndim == 0:
            raise ShapeError(
                f"Rows have shape {tuple(x.shape)}, expected (batch, *{self.event_shape})", where=type(self).__name__
            )
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if t.ndim > 1 or (t.ndim == 1 and len(t) != rows):
            raise ShapeError(f"Times have shape {tuple(t.shape)}, expected () or ({rows},)", where=type(self).__name__)
        if condition is not None or self.condition_features:
            condition = self._flat_condition(condition, rows)
        return t.reshape(-1), x.reshape(rows, self.features), condition

    def _flat_condition(self, condition: Tensor | None, rows: int) -> Tensor:
        if condition is None:
            raise ShapeError(
                f"No condition was given, expected ({rows}, {self.condition_features})",
                where=type(self).__name__,
                remedy="Give one per row; a condition of zeros stands for none.",
            )
        wanted = self.condition_features
        if not wanted or condition.ndim == 0 or len(condition) != rows or math.prod(condition.shape[1:]) != wanted:
            expected = f"({rows}, {wanted})" if wanted else "none"
            raise ShapeError(
                f"The condition has shape {tuple(condition.shape)}, expected {expected}", where=type(self).__name__
            )
        return condition.reshape(rows, wanted)


def push(tangents: Tensor, layer: nn.Module, onto: Tensor | None = None) -> Tensor:
    """Tangents ``(rows, d, inputs)`` through a linear layer in one product, added to ``onto`` if given."""
    rows, d, inputs = tangents.shape
    weight = layer.get_parameter("weight")
    flat = tangents.reshape(rows * d, inputs)
    if onto is None:
        return torch.mm(flat, weight.T).reshape(rows, d, len(weight))
    return torch.addmm(onto.reshape(rows * d, len(weight)), flat, weight.T).reshape(onto.shape)


def scale(tangents: Tensor, slope: Tensor) -> Tensor:
    """Tangents ``(rows, d, width)``, fresh and owned by the caller, times the slopes ``(rows, width)`` of a layer."""
    slope = slope.unsqueeze(1)
    return tangents * slope if torch.is_grad_enabled() else tangents.mul_(slope)


def trace(tangents: Tensor, weight: Tensor) -> Tensor:
    """Σ_i (W T_i)_i for tangents ``(rows, d, width)`` and the last layer's ``weight`` ``(d, width)``: ``(rows,)``."""
    return torch.mv(tangents.reshape(len(tangents), weight.numel()), weight.reshape(-1))


def check_sizes(where: str, **sizes: int) -> None:
    """Raise `ConfigError` for a size below one."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"The {name} is {size}", where=where, remedy="Choose at least 1.")
