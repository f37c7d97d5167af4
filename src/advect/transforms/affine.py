"""Shift and scale, element by element: z = (x − shift) / scale, log |det ∂z/∂x| = −Σ log scale."""

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped


class Standardise(Bijection):
    """z = (x − shift) / scale with fixed shift and scale.

    Args:
        shift: Broadcastable to the event: ``(*event)``, or ``()`` for one number shared by all pixels.
        scale: Like ``shift``; positive and finite.
        event_shape: Shape of one row; by default that of ``shift``.

    Both are buffers in the dtype given. They move with ``.to`` and are cast to the input's dtype at use, so float32
    rows stay float32.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor, event_shape: tuple[int, ...] | None = None) -> None:
        event_shape = tuple(shift.shape) if event_shape is None else event_shape
        super().__init__(event_shape)
        check_scale(shift, scale, event_shape, "Standardise")
        self._shape = event_shape
        self.register_buffer("shift", shift.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        z = (x - self.shift.to(x.dtype)) / self.scale.to(x.dtype)
        return mapped(z, -self._log_scale(x) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        x = torch.addcmul(self.shift.to(z.dtype), z, self.scale.to(z.dtype))
        return mapped(x, self._log_scale(z) if log_det else None)

    def _log_scale(self, like: Tensor) -> Tensor:
        """Σ log scale over the event, ``(batch,)``."""
        total = self.scale.log().expand(self._shape).sum()
        return total.to(like.dtype).expand(like.shape[0])


def check_scale(location: Tensor, scale: Tensor, event_shape: tuple[int, ...], where: str) -> None:
    """Raise unless ``location`` and ``scale`` broadcast to the event and ``scale`` is positive and finite."""
    for name, tensor in (("location", location), ("scale", scale)):
        try:
            fits = torch.broadcast_shapes(tensor.shape, event_shape) == torch.Size(event_shape)
        except RuntimeError:
            fits = False
        if not fits:
            raise ShapeError(
                f"The {name} has shape {tuple(tensor.shape)}, expected one that broadcasts to {event_shape}",
                where=where,
            )
    if not (torch.isfinite(location).all() and torch.isfinite(scale).all() and (scale > 0).all()):
        raise ConfigError(
            "Location and scale must be finite and the scale positive",
            where=where,
            remedy="Use a scale of 1 for constant columns.",
        )
