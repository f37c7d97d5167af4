"""How a picture is cut in two for a coupling: the half that stays and is looked at, the half that moves.

A colour of the checkerboard, or every other channel (Dinh et al. 2017, arXiv 1605.08803, §3.4, figure 3). On pictures
of even sides the colours are the two halves of the squeezed channels: the network then works on a quarter of the
positions, none of them blank, and sees twice as far with the same kernels.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from advect.errors import ConfigError, unknown_name
from advect.transforms.squeeze import Shape, can_squeeze, squeeze, unsqueeze

MASKS = ("checkerboard", "channel")
"""The ways to cut."""


class Halves(nn.Module, ABC):
    """A picture as two parts of one height and width.

    Attributes:
        channels_kept: Channels of the part that stays.
        channels_moved: Channels of the part that moves.
        at_half_resolution: Whether the parts have half the picture's height and width.
    """

    channels_kept: int
    channels_moved: int
    at_half_resolution: bool = False

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What stays ``(batch, channels_kept, h, w)`` and what moves ``(batch, channels_moved, h, w)``."""

    @abstractmethod
    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """The picture again."""

    @abstractmethod
    def only_moved(self, parameters: Tensor) -> Tensor:
        """Parameters of the moved part, zero where it holds numbers that stay."""


class EvenCheckerboard(Halves):
    """The two colours of the checkerboard on a picture of even sides, the squares of four as channels.

    Args:
        event_shape: ``(c, h, w)``, h and w even.
        flip: Move the colour of the upper left pixel: by default it stays.
    """

    at_half_resolution = True

    def __init__(self, event_shape: Shape, flip: bool) -> None:
        super().__init__()
        self.channels_kept = self.channels_moved = 2 * event_shape[0]
        self._flip = flip

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels of each colour."""
        one, other = squeeze(x).chunk(2, dim=1)
        return (other, one) if self._flip else (one, other)

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """The picture again."""
        return unsqueeze(torch.cat([moved, kept] if self._flip else [kept, moved], dim=1))

    def only_moved(self, parameters: Tensor) -> Tensor:
        """All of them."""
        return parameters


class Checkerboard(Halves):
    """The two colours of the checkerboard on a picture of any sides, in every channel alike.

    Args:
        event_shape: ``(c, h, w)`` of at least two pixels.
        flip: Move the colour of the upper left pixel: by default it stays.
    """

    moved: Tensor

    def __init__(self, event_shape: Shape, flip: bool) -> None:
        super().__init__()
        channels, height, width = event_shape
        self.channels_kept = self.channels_moved = channels
        odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2 == 1
        self.register_buffer("moved", odd != flip, persistent=False)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The picture with the moving colour blank, and the picture."""
        return x.masked_fill(self.moved, 0.0), x

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """The picture, which was moved as a whole."""
        return moved

    def only_moved(self, parameters: Tensor) -> Tensor:
        """Zero, the identity, at pixels that stay."""
        return parameters.masked_fill(~self.moved, 0.0)


class AlternateChannels(Halves):
    """Channels 0, 2, 4, … and channels 1, 3, 5, …; of an odd number the even ones are one more.

    Every other channel, not the first half: after `squeeze`, whose halves are the colours of the checkerboard, that
    cuts the picture another way than the checkerboard before it did.

    Args:
        event_shape: ``(c, h, w)`` of at least two channels.
        flip: Move the even channels: by default they stay.
    """

    def __init__(self, event_shape: Shape, flip: bool) -> None:
        super().__init__()
        even, odd = (event_shape[0] + 1) // 2, event_shape[0] // 2
        self.channels_kept, self.channels_moved = (odd, even) if flip else (even, odd)
        self._flip = flip

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The channels that stay and those that move."""
        even, odd = x[:, 0::2], x[:, 1::2]
        return (odd, even) if self._flip else (even, odd)

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """The picture again."""
        even, odd = (moved, kept) if self._flip else (kept, moved)
        pairs = torch.stack([even[:, : odd.shape[1]], odd], dim=2).flatten(1, 2)
        return pairs if even.shape[1] == odd.shape[1] else torch.cat([pairs, even[:, -1:]], dim=1)

    def only_moved(self, parameters: Tensor) -> Tensor:
        """All of them."""
        return parameters


def masks_of(event_shape: Shape) -> tuple[str, ...]:
    """The masks that leave both halves of such a picture something; none for a single number."""
    channels, height, width = event_shape
    return ("checkerboard",) * (height * width > 1) + ("channel",) * (channels > 1)


def halves_of(event_shape: Shape, mask: str, flip: bool) -> Halves:
    """The halves that ``mask`` cuts such a picture into.

    Raises:
        UnknownNameError: Another mask than `MASKS`.
        ConfigError: A mask that leaves one half empty.
    """
    if mask not in MASKS:
        raise unknown_name("mask", mask, MASKS)
    if mask not in masks_of(event_shape):
        other = " or ".join(map(repr, masks_of(event_shape)))
        raise ConfigError(
            f"A picture of shape {event_shape} has no second half for the mask {mask!r}",
            where="mask",
            remedy=f"Use the mask {other}." if other else "Give single numbers as vectors, to a flow on vectors.",
        )
    if mask == "channel":
        return AlternateChannels(event_shape, flip)
    return EvenCheckerboard(event_shape, flip) if can_squeeze(event_shape) else Checkerboard(event_shape, flip)
