"""Pictures at half the resolution, with four times the channels.

Each 2×2 square of pixels becomes four channels (Dinh et al. 2017, arXiv 1605.08803, §3.6). That moves numbers about
and costs no volume; a map inside `Squeezed` then looks further with the same kernels, and can split the picture by
channels.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError
from advect.records import Mapped
from advect.transforms.bijection import Bijection

Shape = tuple[int, int, int]
"""``(channels, height, width)``."""


def squeeze(x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c4 h2 w2"]:
    """``(batch, c, h, w)`` to ``(batch, 4c, h/2, w/2)``, even h and w: each 2×2 square becomes four channels.

    The channels of the upper left pixel come first, then lower right, upper right, lower left: the first half of the
    new channels is one colour of the checkerboard, the second half the other. What leaves early (`MultiScale`) then has
    neighbours on all four sides among what stays.
    """
    places = (x[:, :, 0::2, 0::2], x[:, :, 1::2, 1::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2])
    return torch.cat(places, dim=1)


def unsqueeze(x: Float[Tensor, "batch c4 h2 w2"]) -> Float[Tensor, "batch c h w"]:
    """The inverse of `squeeze`."""
    upper_left, lower_right, upper_right, lower_left = x.chunk(4, dim=1)
    upper = torch.stack([upper_left, upper_right], dim=-1).flatten(-2)
    lower = torch.stack([lower_left, lower_right], dim=-1).flatten(-2)
    return torch.stack([upper, lower], dim=-2).flatten(-3, -2)


class Squeezed(Bijection):
    """A map at half the resolution: squeeze, map, and give the shape back.

    Args:
        inner: A map on ``(4c, h/2, w/2)``.
        event_shape: ``(c, h, w)`` with even h and w.
    """

    def __init__(self, inner: Bijection, event_shape: tuple[int, ...]) -> None:
        shape = check_picture(event_shape, "Squeezed")
        super().__init__(shape, inner.condition_shape)
        if not can_squeeze(shape):
            raise ConfigError(
                f"A picture of {shape[1]} × {shape[2]} pixels cannot be cut into squares of four",
                where="Squeezed",
                remedy="Use checkerboard couplings at this resolution.",
            )
        expected = squeezed_shape(shape)
        if inner.event_shape not in (None, expected):
            raise ShapeError(f"The map inside takes {inner.event_shape}, expected {expected}", where="Squeezed")
        self.inner = inner

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return _unsqueezed(self.inner.encode(squeeze(x), condition, log_det=log_det, generator=generator))

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return _unsqueezed(self.inner.decode(squeeze(z), condition, log_det=log_det, generator=generator))


def _unsqueezed(found: Mapped) -> Mapped:
    return Mapped(
        value=unsqueeze(found.value),
        log_abs_det_jacobian=found.log_abs_det_jacobian,
        status=found.status,
        standard_error=found.standard_error,
        nfe=found.nfe,
    )


def can_squeeze(event_shape: Shape) -> bool:
    """Whether height and width are even."""
    return event_shape[1] % 2 == 0 and event_shape[2] % 2 == 0


def squeezed_shape(shape: tuple[int, ...]) -> Shape:
    """``(4c, h/2, w/2)`` of ``(c, h, w)``."""
    channels, height, width = shape
    return 4 * channels, height // 2, width // 2


def check_picture(event_shape: tuple[int, ...], where: str) -> Shape:
    """``event_shape`` as ``(c, h, w)``; raises `ShapeError` for anything else."""
    if len(event_shape) != 3 or min(event_shape) < 1:
        raise ShapeError(
            f"The event shape is {tuple(event_shape)}, expected (channels, height, width)",
            where=where,
            remedy="Give pictures with an axis of channels, of size 1 for grey ones.",
        )
    channels, height, width = event_shape
    return channels, height, width
