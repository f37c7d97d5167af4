"""A network as a field: shapes checked once, any event rank, and the exact divergence.

The divergence Σ_i ∂v_i/∂x_i needs d tangents, one per coordinate. Pushed forward through the layers together, they are
rows of ordinary matrix products: the first layer's tangents are its weight columns, the last layer is needed only
through its diagonal, so a net of k inner linear layers costs k products over (rows · d) tangents and no graph at all.
Rows go in blocks, so that the tangents stay in cache. The result is exact, and differentiable where gradients are on.
"""

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from advect.errors import ConfigError
from advect.networks.timed import TimedNetwork

TANGENT_ROWS = 2048  # tangents in flight: 2 MB per buffer at width 256 in float32, about one core's cache


class FieldNetwork(TimedNetwork):
    """Base of networks of linear layers, which know their exact divergence; arguments of `TimedNetwork`."""

    output: nn.Linear

    @final
    def forward(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity at time ``t`` (a number or ``(batch,)``) and points ``x`` ``(batch, *event)``."""
        t, flat, condition = self.flatten(t, x, condition)
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
        t, flat, condition = self.flatten(t, x, condition)
        found = self._at_once(t, flat, condition)
        if found is not None:
            return found[0].reshape(x.shape), found[1]
        velocity, divergence = self._by_blocks(t, flat, condition)
        # Under autocast products are rounded, and results have the dtype of the points all the same.
        return velocity.reshape(x.shape).to(x.dtype), divergence.to(x.dtype)

    def _by_blocks(self, t: Tensor, flat: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        rows = max(1, TANGENT_ROWS // max(1, self._tangents))
        if len(flat) <= rows:
            return self._velocity_and_divergence(t, flat, condition)
        parts = [
            self._velocity_and_divergence(
                t if len(t) == 1 else t[start : start + rows],
                flat[start : start + rows],
                None if condition is None else condition[start : start + rows],
            )
            for start in range(0, len(flat), rows)
        ]
        return torch.cat([v for v, _ in parts]), torch.cat([d for _, d in parts])

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

    def _at_once(self, t: Tensor, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The same for any number of rows, where there is a quicker way; arguments likewise."""
        return None

    def flatten(self, t: Tensor | float, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Check the shapes; time ``(1,)`` or ``(batch,)``, everything else ``(batch, numbers)``."""
        t, condition = self._checked(t, x, condition)
        return t, x.reshape(len(x), self.features), condition


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
    flat = tangents.reshape(len(tangents), weight.numel()).to(weight.dtype)  # autocast leaves this product alone
    return torch.mv(flat, weight.reshape(-1))


def check_sizes(where: str, **sizes: int) -> None:
    """Raise `ConfigError` for a size below one."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"The {name} is {size}", where=where, remedy="Choose at least 1.")
