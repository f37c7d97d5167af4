"""Part of a picture leaves early, judged by what stays: multi-scale flows with a learned split prior.

A flow that carries every number through every layer is slow. Half of the channels leave after each scale (Dinh et al.
2017, arXiv 1605.08803, §3.6) and are scored at once, given the half h that stays (Kingma & Dhariwal 2018, Glow, arXiv
1807.03039: a Gaussian whose mean and scale a convolution reads off h),

    p(x) = p(h) N(out; μ(h), σ(h)²) |det|.

Written as a map the prior is one more affine step, z_out = (out − μ(h)) / σ(h): the base stays a standard normal on the
shape of the data, and what two halves have in common is not paid for twice.
"""

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError
from advect.networks.conv import Kernels
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.compose import merge
from advect.transforms.image import LOG_SCALE_BOUND, ShiftAndScale
from advect.transforms.squeeze import check_picture
from advect.typing import sum_event


class MultiScale(Bijection):
    """The second half of the channels leaves through a learned prior; the first half goes on through ``inner``.

    Args:
        inner: A map on the half that stays, ``(⌈c/2⌉, h, w)``.
        event_shape: ``(c, h, w)`` with at least two channels. The source side has the same shape: the mapped half
            first, then the half that left.
        condition_shape: ``(features,)``, or None; the prior sees it too, and ``inner`` if it takes one.
        width: Channels of the hidden layer of the prior's network.
        kernels: Sizes of its kernels.
        bound: Largest |log σ|.
        generator: Draws the initial weights.

    At the start the prior is a standard normal and the map does what ``inner`` does.
    """

    def __init__(
        self,
        inner: Bijection,
        event_shape: tuple[int, ...],
        condition_shape: tuple[int, ...] | None = None,
        *,
        width: int = 64,
        kernels: Kernels = (3, 3),
        bound: float = LOG_SCALE_BOUND,
        generator: Generator | None = None,
    ) -> None:
        channels, *size = check_picture(event_shape, "MultiScale")
        super().__init__((channels, *size), condition_shape)
        if channels < 2:
            raise ConfigError(
                f"A picture of shape {event_shape} has no channels to spare",
                where="MultiScale",
                remedy="Squeeze it first (Squeezed), or leave the split out.",
            )
        stay, leave = (channels + 1) // 2, channels // 2
        staying = (stay, *size)
        if inner.event_shape not in (None, staying):
            raise ShapeError(f"The map inside takes {inner.event_shape}, expected {staying}", where="MultiScale")
        self.inner = inner
        self._sizes = [stay, leave]
        self.prior = ShiftAndScale(
            stay,
            leave,
            condition_shape,
            width=width,
            kernels=kernels,
            bound=bound,
            generator=generator,
        )

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        stays, leaves = x.split(self._sizes, dim=1)
        mean, log_scale = self.prior(stays, condition)
        gone = mapped((leaves - mean) * (-log_scale).exp(), -sum_event(log_scale) if log_det else None)
        gone_on = self.inner.encode(stays, self._for_inner(condition), log_det=log_det, generator=generator)
        return merge(torch.cat([gone_on.value, gone.value], dim=1), [gone_on, gone], log_det)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        z_stays, z_leaves = z.split(self._sizes, dim=1)
        stays = self.inner.decode(z_stays, self._for_inner(condition), log_det=log_det, generator=generator)
        mean, log_scale = self.prior(stays.value, condition)
        back = mapped(torch.addcmul(mean, z_leaves, log_scale.exp()), sum_event(log_scale) if log_det else None)
        return merge(torch.cat([stays.value, back.value], dim=1), [stays, back], log_det)

    def _for_inner(self, condition: Tensor | None) -> Tensor | None:
        return None if self.inner.condition_shape is None else condition
