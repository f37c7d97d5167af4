"""A field for solvers that keep no graph, with the network's quick pass in the place of the network."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from advect.typing import Field


@runtime_checkable
class _TakesNetwork(Protocol):
    def for_inference(self, dtype: torch.dtype | None = None) -> Field: ...

    def velocity_with(
        self, network: Callable[..., Tensor], t: Tensor | float, x: Tensor, condition: Tensor | None
    ) -> Tensor: ...


class InferenceField:
    """The velocity of ``field`` by ``network``; all else that ``field`` offers (divergence, schedule, …) is its own.

    Args:
        field: A field that takes a network by `VelocityField.velocity_with`.
        network: ``network(t, x, condition)``, equal to the field's own up to rounding.
    """

    def __init__(self, field: _TakesNetwork, network: Callable[..., Tensor]) -> None:
        self._field, self._network = field, network

    def __call__(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity ``(batch, *event)``; no gradient flows to the weights."""
        return self._field.velocity_with(self._network, t, x, condition)

    def for_inference(self, dtype: torch.dtype | None = None) -> Field:
        """Itself, or the field's form in another dtype."""
        return self if dtype is None else self._field.for_inference(dtype)

    def __getattr__(self, name: str) -> Any:
        if name in ("_field", "_network"):
            raise AttributeError(name)
        return getattr(self._field, name)
