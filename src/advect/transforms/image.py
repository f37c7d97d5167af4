"""Maps on pictures ``(channels, height, width)``: half the numbers move, by a shift and a scale read off the others.

    z_moved = x_moved ⊙ exp(s(x_kept)) + t(x_kept),    z_kept = x_kept,    log |det ∂z/∂x| = Σ s

(Dinh et al. 2017, Real NVP, arXiv 1605.08803, eq. 4–8). What moves is a colour of the checkerboard or every other
channel (§3.4); layers alternate, so every number changes.

The log-scale is s = a tanh(·) with a learned factor a per channel. The factor is itself held below a bound, so a chain
of couplings stays finite and invertible whatever its networks return.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, ShapeError
from advect.networks.conv import GLOW_KERNELS, ConvNet, Kernels
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.halves import halves_of
from advect.transforms.linear import bounded
from advect.transforms.squeeze import check_picture, squeeze, squeezed_shape
from advect.typing import sum_event

LOG_SCALE_BOUND = 3.0
"""A coupling scales by at most e³ ≈ 20 either way; a few of them reach the scale of one level in 256."""

_FACTOR_START = 1 / 2
"""Of the bound: enough for the few layers of a small flow to reach the scale of paper white early, and still gentle."""


class ShiftAndScale(nn.Module):
    """Shift t and log-scale s of some channels, read off others: s = a tanh(·), |a| below the bound.

    Args:
        channels_in: Channels that are looked at.
        channels_out: Channels to shift and scale.
        condition_shape: See `ConvNet`.
        width: Channels of the hidden layers.
        kernels: See `ConvNet`.
        bound: Largest log-scale; positive.
        generator: Draws the initial weights.

    At the start both are zero: the identity.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        condition_shape: tuple[int, ...] | None = None,
        *,
        width: int = 64,
        kernels: Kernels = GLOW_KERNELS,
        bound: float = LOG_SCALE_BOUND,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if not bound > 0:
            raise ConfigError(f"The bound is {bound}", where="ShiftAndScale", remedy="Choose a positive log-scale.")
        self.network = ConvNet(
            channels_in, 2 * channels_out, condition_shape, width=width, kernels=kernels, generator=generator
        )
        self.factor = nn.Parameter(torch.full((channels_out, 1, 1), bound * math.atanh(_FACTOR_START)))
        self.bound = bound

    def forward(
        self, context: Float[Tensor, "batch channels_in h w"], condition: Tensor | None
    ) -> tuple[Float[Tensor, "batch channels_out h w"], Float[Tensor, "batch channels_out h w"]]:
        """Shift and log-scale in the dtype of ``context``; the network runs in its own."""
        own = self.factor.dtype
        found = self.network(context.to(own), None if condition is None else condition.to(own))
        shift, bend = found.chunk(2, dim=1)
        factor = bounded(self.factor, self.bound)
        return shift.to(context.dtype), (factor * torch.tanh(bend)).to(context.dtype)


class ImageCoupling(Bijection):
    """An affine coupling on pictures.

    Args:
        event_shape: ``(c, h, w)``, any sizes that leave both halves something: a checkerboard needs two pixels, a
            split of channels two channels. Odd sizes and odd numbers of channels are fine.
        condition_shape: ``(features,)`` for a vector per row, ``(channels, h, w)`` for a picture, None for none.
        mask: ``checkerboard`` or ``channel``.
        flip: Move the half that otherwise stays.
        width: Channels of the network's hidden layers.
        kernels: Sizes of its kernels.
        bound: Largest log-scale.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_shape: tuple[int, ...] | None = None,
        *,
        mask: str = "checkerboard",
        flip: bool = False,
        width: int = 64,
        kernels: Kernels = GLOW_KERNELS,
        bound: float = LOG_SCALE_BOUND,
        generator: Generator | None = None,
    ) -> None:
        shape = check_picture(event_shape, "ImageCoupling")
        super().__init__(shape, condition_shape)
        self.halves = halves_of(shape, mask, flip)
        self._squeeze_condition = False
        seen = condition_shape
        if condition_shape is not None and len(condition_shape) == 3:
            if condition_shape[1:] != shape[1:]:
                raise ShapeError(
                    f"Pictures of {shape[1:]} pixels come with a condition of {condition_shape[1:]}",
                    where="ImageCoupling",
                    remedy="Give a condition of the same height and width, or a vector.",
                )
            self._squeeze_condition = self.halves.at_half_resolution
            seen = squeezed_shape(condition_shape) if self._squeeze_condition else condition_shape
        self.parameters_of = ShiftAndScale(
            self.halves.channels_kept,
            self.halves.channels_moved,
            seen,
            width=width,
            kernels=kernels,
            bound=bound,
            generator=generator,
        )

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        kept, moved, shift, log_scale = self._parts(x, condition)
        z = self.halves.join(kept, torch.addcmul(shift, moved, log_scale.exp()))
        return mapped(z, sum_event(log_scale) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        kept, moved, shift, log_scale = self._parts(z, condition)
        x = self.halves.join(kept, (moved - shift) * (-log_scale).exp())
        return mapped(x, -sum_event(log_scale) if log_det else None)

    def _parts(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The half that stays, the half that moves, its shift and its log-scale."""
        kept, moved = self.halves.split(x)
        if condition is not None and self._squeeze_condition:
            condition = squeeze(condition)
        shift, log_scale = self.parameters_of(kept, condition)
        return kept, moved, self.halves.only_moved(shift), self.halves.only_moved(log_scale)
