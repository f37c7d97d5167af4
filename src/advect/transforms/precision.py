"""A change of floating-point precision as a map: data in one dtype, the source side in another."""

import torch
from torch import Generator, Tensor

from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped


class Precision(Bijection):
    """Hands rows on in another precision; as a map it is the identity, with log-determinant 0.

    Tables are scaled in float64 (a value of 500001.37 keeps its digits), networks run in float32.

    Args:
        inner: The dtype on the source side.
        outer: The dtype on the data side.
        event_shape: Shape of one row; None accepts any.
    """

    def __init__(
        self, event_shape: tuple[int, ...], inner: torch.dtype = torch.float32, outer: torch.dtype = torch.float64
    ) -> None:
        super().__init__(event_shape)
        self.inner, self.outer = inner, outer

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return mapped(x.to(self.inner), x.new_zeros(x.shape[0]) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        value = z.to(self.outer)
        return mapped(value, value.new_zeros(z.shape[0]) if log_det else None)
