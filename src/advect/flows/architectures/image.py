"""Flows on pictures ``(batch, channels, height, width)``, by name. They only assemble.

A picture is worked on at several resolutions: layers, squeeze, layers, half of the channels leave through their prior,
and so on with the rest (Dinh et al. 2017, arXiv 1605.08803, §3.6). Where a side is odd the picture stays at its
resolution; where there is one channel, or one pixel, the mask that needs two is left out.
"""

from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Generator

from advect.errors import ConfigError
from advect.networks.conv import GLOW_KERNELS, Kernels
from advect.transforms.actnorm import ActNorm
from advect.transforms.bijection import Bijection
from advect.transforms.compose import Compose
from advect.transforms.cumulative import Cumulative
from advect.transforms.flatten import Flattened
from advect.transforms.halves import masks_of
from advect.transforms.image import LOG_SCALE_BOUND, ImageCoupling
from advect.transforms.linear import Invertible1x1
from advect.transforms.multiscale import MultiScale
from advect.transforms.squeeze import Shape, Squeezed, can_squeeze, check_picture, squeezed_shape


@dataclass(frozen=True)
class _Parts:
    """What all layers of one flow share."""

    condition_shape: tuple[int, ...] | None
    width: int
    kernels: Kernels
    bound: float
    generator: Generator | None

    def coupling(self, shape: Shape, mask: str, flip: bool) -> Bijection:
        return ImageCoupling(
            shape,
            self.condition_shape,
            mask=mask,
            flip=flip,
            width=self.width,
            kernels=self.kernels,
            bound=self.bound,
            generator=self.generator,
        )

    def couplings(self, shape: Shape, mask: str, number: int) -> list[Bijection]:
        """So many couplings, the halves in turn; none where the mask leaves one of them empty."""
        if mask not in masks_of(shape):
            return []
        return [self.coupling(shape, mask, flip=bool(index % 2)) for index in range(number)]

    def split(self, inner: Bijection, shape: Shape) -> Bijection:
        return MultiScale(
            inner, shape, self.condition_shape, width=self.width, bound=self.bound, generator=self.generator
        )


def realnvp_image(
    event_shape: tuple[int, ...],
    condition_features: int = 0,
    *,
    scales: int = 3,
    couplings: int = 3,
    width: int = 64,
    kernels: Kernels = GLOW_KERNELS,
    bound: float = LOG_SCALE_BOUND,
    generator: Generator | None = None,
) -> Bijection:
    """Real NVP (Dinh et al. 2017, arXiv 1605.08803): checkerboards, squeeze, channel masks, split.

    An untrained one is the identity.

    Args:
        event_shape: ``(c, h, w)``.
        condition_features: Numbers in one condition, 0 for none.
        scales: Resolutions at most; fewer where a side becomes odd.
        couplings: Couplings of each mask at each resolution, at least two, so that every number moves.
        width: Channels of the hidden layers.
        kernels: Sizes of the networks' kernels.
        bound: Largest log-scale of one coupling.
        generator: Draws the initial weights.

    Raises:
        ConfigError: A picture of a single number, or too few scales or couplings.
    """
    _check(event_shape, "realnvp", scales=(scales, 1), couplings=(couplings, 2))
    parts = _Parts(_condition(condition_features), width, kernels, bound, generator)

    def at(shape: Shape, left: int) -> Bijection:
        checkers = parts.couplings(shape, "checkerboard", couplings)
        if left == 1 or not can_squeeze(shape):
            return Compose(*checkers, *parts.couplings(shape, "channel", couplings))
        squeezed = squeezed_shape(shape)
        channels = parts.couplings(squeezed, "channel", couplings)
        split = parts.split(at(_half(squeezed), left - 1), squeezed)
        return Compose(*checkers, Squeezed(Compose(*channels, split), shape))

    return at(check_picture(event_shape, "realnvp"), scales)


def glow(
    event_shape: tuple[int, ...],
    condition_features: int = 0,
    *,
    scales: int = 3,
    steps: int = 4,
    width: int = 64,
    kernels: Kernels = GLOW_KERNELS,
    bound: float = LOG_SCALE_BOUND,
    generator: Generator | None = None,
) -> Bijection:
    """Glow (Kingma & Dhariwal 2018, arXiv 1807.03039): steps of ActNorm, invertible 1×1 convolution, affine coupling.

    Args:
        event_shape: ``(c, h, w)``. One channel that cannot be squeezed is coupled along the checkerboard instead.
        condition_features: Numbers in one condition, 0 for none.
        scales: Resolutions at most, the squeezed ones; fewer where a side becomes odd.
        steps: Steps at each resolution.
        width: Channels of the hidden layers.
        kernels: Sizes of the networks' kernels.
        bound: Largest log-scale of one coupling.
        generator: Draws the initial weights and rotations.

    Raises:
        ConfigError: A picture of a single number, or too few scales or steps.
    """
    _check(event_shape, "glow", scales=(scales, 1), steps=(steps, 1))
    parts = _Parts(_condition(condition_features), width, kernels, bound, generator)

    def at(shape: Shape, left: int) -> Bijection:
        if not can_squeeze(shape):
            return Compose(*_glow_steps(shape, steps, parts))
        squeezed = squeezed_shape(shape)
        half = _half(squeezed)
        layers = _glow_steps(squeezed, steps, parts)
        if left > 1 and can_squeeze(half):
            layers.append(parts.split(at(half, left - 1), squeezed))
        return Squeezed(Compose(*layers), shape)

    return at(check_picture(event_shape, "glow"), scales)


def notes_realnvp(
    event_shape: tuple[int, ...] = (3, 32, 32),
    condition_features: int = 0,
    *,
    couplings: int = 6,
    width: int = 64,
    kernels: Kernels = (3, 3),
    bound: float = LOG_SCALE_BOUND,
    generator: Generator | None = None,
) -> Bijection:
    """The image flow of the study notes, put right: six affine couplings, 3×3 convolutions, scale through tanh.

    The notes split the channels the same way in every layer, so half of them never change, and fail on three. Here
    checkerboard and channel masks alternate with both halves in turn: every number changes, whatever the channels.
    Arguments as in `realnvp_image`, at one resolution.
    """
    _check(event_shape, "notes_realnvp", couplings=(couplings, 2))
    shape = check_picture(event_shape, "notes_realnvp")
    parts = _Parts(_condition(condition_features), width, kernels, bound, generator)
    turns = islice(cycle((mask, flip) for mask in masks_of(shape) for flip in (False, True)), couplings)
    return Compose(*(parts.coupling(shape, mask, flip) for mask, flip in turns))


def dequantisation_noise(
    event_shape: tuple[int, ...],
    *,
    couplings: int = 4,
    width: int = 32,
    kernels: Kernels = GLOW_KERNELS,
    bound: float = LOG_SCALE_BOUND,
    generator: Generator | None = None,
) -> Bijection:
    """The map of q(u | x) for `objectives.VariationalDequantisation`: noise u in the unit cube to a standard normal.

    Φ⁻¹ number by number, then couplings that see the picture x ``(batch, c, h, w)`` as their condition (Ho et al. 2019,
    arXiv 1902.00275, §3.1). They start as the identity, so untrained noise is exactly uniform. Arguments as in
    `realnvp_image`.
    """
    _check(event_shape, "dequantisation_noise", couplings=(couplings, 2))
    shape = check_picture(event_shape, "dequantisation_noise")
    parts = _Parts(shape, width, kernels, bound, generator)
    turns = islice(cycle((mask, flip) for mask in masks_of(shape) for flip in (False, True)), couplings)
    cube = Cumulative([torch.ones(1)] * (shape[0] * shape[1] * shape[2]))
    return Compose(Flattened(cube, shape), *(parts.coupling(shape, mask, flip) for mask, flip in turns))


def _glow_steps(shape: Shape, steps: int, parts: _Parts) -> list[Bijection]:
    channels, size = shape[0], shape[1:]
    layers: list[Bijection] = []
    for index in range(steps):
        layers.append(ActNorm(channels, 3, size=size))
        if channels == 1:
            layers += parts.couplings(shape, "checkerboard", 2)
            continue
        layers.append(Invertible1x1(channels, size=size, generator=parts.generator))
        layers.append(parts.coupling(shape, "channel", flip=bool(index % 2)))
    return layers


def _half(squeezed: Shape) -> Shape:
    """The shape of the half of the channels that stays at a split."""
    channels, height, width = squeezed
    return channels // 2, height, width


def _condition(features: int) -> tuple[int, ...] | None:
    return (features,) if features else None


def _check(event_shape: tuple[int, ...], name: str, **counts: tuple[int, int]) -> None:
    for option, (given, least) in counts.items():
        if given < least:
            raise ConfigError(f"{option} is {given}", where=name, remedy=f"Choose at least {least}.")
    if not masks_of(check_picture(event_shape, name)):
        raise ConfigError(
            "A picture of a single number has no second half to look at",
            where=name,
            remedy="Give the rows as vectors and choose a flow on vectors, such as 'maf'.",
        )
