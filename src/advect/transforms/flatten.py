"""Rows of any shape for maps on vectors."""

import math

from torch import Generator, Tensor

from advect.records import Mapped
from advect.transforms.bijection import ANY_CONDITION, Bijection
from advect.typing import Bijection as Map


class Flattened(Bijection):
    """A map on vectors, applied to events of any rank: each row is flattened, mapped, and given its shape back.

    Args:
        inner: A map on ``(batch, numbers)`` with as many numbers as the event holds.
        event_shape: Shape of one row; ``()`` for scalars.
    """

    def __init__(self, inner: Map, event_shape: tuple[int, ...]) -> None:
        width = math.prod(event_shape)
        # A source side of other numbers than the data's is a vector and stays one.
        code = getattr(inner, "source_shape", None) or (width,)
        source_shape = tuple(event_shape) if code == (width,) else code
        super().__init__(tuple(event_shape), getattr(inner, "condition_shape", ANY_CONDITION), source_shape)
        self.inner = inner
        self.likelihood = getattr(inner, "likelihood", "exact")

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        found = self.inner.encode(_rows(x, self.event_shape), condition, log_det=log_det, generator=generator)
        return _shaped(found, self.source_shape)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        found = self.inner.decode(_rows(z, self.source_shape), condition, log_det=log_det, generator=generator)
        return _shaped(found, self.event_shape)


def _rows(x: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    assert shape is not None
    return x.reshape(x.shape[0], math.prod(shape))


def _shaped(found: Mapped, shape: tuple[int, ...] | None) -> Mapped:
    assert shape is not None
    return Mapped(
        value=found.value.reshape(-1, *shape),
        log_abs_det_jacobian=found.log_abs_det_jacobian,
        status=found.status,
        standard_error=found.standard_error,
        nfe=found.nfe,
    )
