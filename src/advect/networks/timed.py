"""What all networks ``network(t, x, condition)`` share: shapes checked once, and a start at zero."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from advect.errors import ShapeError


class TimedNetwork(nn.Module, ABC):
    """Base of networks ``network(t, x, condition) -> (batch, *event)``.

    Args:
        event_shape: Shape of one row, of any rank.
        condition_features: Numbers in one condition, 0 for none. A condition is ``(batch, *condition)`` with that many
            numbers; all zeros stand for "no condition".
    """

    def __init__(self, event_shape: tuple[int, ...], condition_features: int = 0) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.condition_features = condition_features
        self.features = math.prod(self.event_shape)

    @abstractmethod
    def forward(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity at time ``t`` (a number or ``(batch,)``) and points ``x`` ``(batch, *event)``."""

    @abstractmethod
    def start_at_zero(self) -> None:
        """Make the output zero everywhere, for networks that learn what a baseline leaves."""

    def _checked(self, t: Tensor | float, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Check the shapes; time ``(1,)`` or ``(batch,)``, the condition ``(batch, numbers)`` or None."""
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
        return t.reshape(-1), condition

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
