"""A flow under one condition, or a batch of them, as a `torch.distributions.Distribution`.

Shapes follow that library: conditions ``(*batch, *condition)`` make ``batch_shape = batch``; a value has the shape
``sample_shape + batch_shape + event_shape`` and is broadcast against the batch, so one observation can be scored under
many conditions and many under one. Rows outside the support get −∞, as everywhere in advect, rather than an exception.

That interface has no generator: draws, and the probes of a stochastic trace, come from PyTorch's global generator.
This is the only place in advect that reads it; `Flow.sample` takes one of your own.
"""

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from advect.errors import ShapeError
from advect.transforms.bijection import ANY_CONDITION
from advect.typing import Base, Bijection

Shape = Size | list[int] | tuple[int, ...]
ONE_DRAW = Size()


@runtime_checkable
class Density(Protocol):
    """What is asked of the flow."""

    base: Base
    map: Bijection
    event_shape: tuple[int, ...]

    def sample(self, num_rows: int, condition: Tensor | None = None) -> Tensor:
        """Draw ``(num_rows, *event)``."""
        ...

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-density ``(batch,)`` in nats."""
        ...


class FlowDistribution(Distribution):
    """``flow`` given ``condition``; made by `Flow.distribution`.

    Args:
        flow: The flow; gradients reach its parameters through `log_prob` and `rsample`.
        condition: ``(*batch, *condition)``, or None for a flow that takes none.
        validate_args: As in PyTorch: check shapes, and that values are numbers, before scoring.

    Raises:
        ShapeError: If the condition is missing, not taken, or of another shape.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012  PyTorch's own form
    has_rsample = True

    def __init__(self, flow: Density, condition: Tensor | None = None, validate_args: bool | None = None) -> None:
        self.flow, self.condition = flow, condition
        batch, self._one = _split_shape(condition, _condition_shape(flow))
        super().__init__(batch, Size(flow.event_shape), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        """All real events; where the flow's own support is smaller, `log_prob` is −∞."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Shape, _instance: Any = None) -> "FlowDistribution":
        """The same with its condition broadcast to ``batch_shape``; nothing is copied."""
        batch_shape = Size(batch_shape)
        new = self._get_checked_instance(FlowDistribution, _instance)
        new.flow, new.condition, new._one = self.flow, self._condition(batch_shape), self._one
        Distribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Shape = ONE_DRAW) -> Tensor:
        """Draw ``sample_shape + batch_shape + event_shape``, differentiable in the flow and the condition."""
        shape = Size(sample_shape) + self.batch_shape
        drawn = self.flow.sample(shape.numel(), self._rows(shape))
        return drawn.reshape(shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, of the shape of ``value`` and the batch broadcast together, without the event."""
        if self._validate_args and value.numel():  # PyTorch's constraints cannot reshape an empty batch
            self._validate_sample(value)
        shape = self._shape_of(value)
        rows = value.expand(shape + self.event_shape).reshape(shape.numel(), *self.event_shape)
        return self.flow.log_prob(rows, self._rows(shape)).reshape(shape)

    def _shape_of(self, value: Tensor) -> Size:
        """The batch and the leading shape of ``value`` broadcast together.

        Raises `ShapeError` for rows of another shape, also where a program has switched PyTorch's own checks off.
        """
        places = value.ndim - len(self.event_shape)
        leading, event = value.shape[: max(places, 0)], value.shape[max(places, 0) :]
        try:
            if event != self.event_shape:
                raise RuntimeError
            return Size(torch.broadcast_shapes(leading, self.batch_shape))
        except RuntimeError:
            raise ShapeError(
                f"The value has shape {tuple(value.shape)}, and the distribution batch_shape {tuple(self.batch_shape)} "
                f"and event_shape {tuple(self.event_shape)}",
                where="log_prob",
                remedy="Give (*sample, *batch, *event).",
            ) from None

    def _condition(self, shape: Size) -> Tensor | None:
        """The condition broadcast to ``(*shape, *condition)``."""
        return None if self.condition is None else self.condition.expand(shape + self._one)

    def _rows(self, shape: Size) -> Tensor | None:
        """The condition broadcast to ``shape`` and laid out as ``(rows, *condition)``."""
        condition = self._condition(shape)
        return None if condition is None else condition.reshape(shape.numel(), *self._one)


def _condition_shape(flow: Density) -> tuple[int, ...] | Literal["any"] | None:
    """Shape of one condition: as the map declares it, else the base; ``any`` where the map leaves it to its parts."""
    of_map = getattr(flow.map, "condition_shape", ANY_CONDITION)
    of_base = getattr(flow.base, "condition_shape", None)
    return of_base if of_base is not None else of_map


def _split_shape(condition: Tensor | None, one: tuple[int, ...] | Literal["any"] | None) -> tuple[Size, Size]:
    """The batch shape of ``condition`` and the shape of one condition in it; raises `ShapeError` if it has another."""
    if condition is None:
        if isinstance(one, tuple):
            raise ShapeError(
                f"No condition was given, expected (*batch, {', '.join(map(str, one))})",
                where="distribution",
                remedy="Give one; a condition of zeros stands for none.",
            )
        return Size(), Size()
    if one is None:
        raise ShapeError(
            f"A condition of shape {tuple(condition.shape)} was given to a flow that takes none",
            where="distribution",
            remedy="Leave the condition out.",
        )
    if one == ANY_CONDITION:  # an ODE's field: conditions are vectors
        one = tuple(condition.shape[-1:])
    lead = condition.ndim - len(one)
    if lead < 0 or not one or tuple(condition.shape[lead:]) != tuple(one):
        raise ShapeError(
            f"The condition has shape {tuple(condition.shape)}, expected (*batch, {', '.join(map(str, one))})",
            where="distribution",
        )
    return condition.shape[:lead], condition.shape[lead:]
