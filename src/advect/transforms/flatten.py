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
        super().__init__(tuple(event_shape), getattr(inner, "condition_shape", ANY_CONDITION))
        self.inner = inner
        self._width = math.prod(event_shape)

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return _shaped(self.inner.encode(self._flat(x), condition, log_det=log_det, generator=generator), x)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return _shaped(self.inner.decode(self._flat(z), condition, log_det=log_det, generator=generator), z)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self._width)


def _shaped(found: Mapped, like: Tensor) -> Mapped:
    return Mapped(
        value=found.value.reshape(like.shape),
        log_abs_det_jacobian=found.log_abs_det_jacobian,
        status=found.status,
        standard_error=found.standard_error,
        nfe=found.nfe,
    )
