"""Pictures as short codes: an autoencoder as a stage in front of a flow.

    z = (E(x) − μ) / σ,    x = D(μ + σ z),    μ, σ of each channel of the training codes

A flow behind it learns the law of the codes, and its samples are decoded (the two stages of Rombach et al. 2022, arXiv
2112.10752, §3). No log-density of pictures follows from one of codes: D maps codes onto a thin sheet of pictures, and
E ∘ D is not the identity. So this map has no log-determinant.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, UnsupportedError
from advect.networks import PictureDecoder, PictureEncoder
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped

LEAST_SIDE = 2  # of a code


class Autoencoder(Bijection):
    """Pictures to standardised codes and back, by two convolutional networks.

    Args:
        event_shape: ``(channels, height, width)`` of a picture.
        channels: Of a code.
        halvings: How often the sides are halved.
        width: Channels of the first convolution; later ones have twice as many.
        generator: Draws the initial weights; None where weights will be loaded.

    Raises:
        ConfigError: Pictures too small to be halved so often, or a size below one.
    """

    likelihood = "none"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        channels: int = 4,
        halvings: int = 2,
        width: int = 32,
        generator: Generator | None = None,
    ) -> None:
        if len(event_shape) != 3 or min(channels, width) < 1 or halvings < 0:
            raise ConfigError(
                f"rows of shape {event_shape} cannot have codes of {channels} channels after {halvings} halvings",
                where="latent",
            )
        sides = tuple(-(-side // 2**halvings) for side in event_shape[1:])
        if min(sides) < LEAST_SIDE:
            raise ConfigError(
                f"pictures of {event_shape[1]} × {event_shape[2]} are too small to be halved {halvings} times",
                where="latent",
                remedy="Give --set latent_halvings=1, or train without --latent.",
            )
        super().__init__(tuple(event_shape), None, (channels, *sides))
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        sizes = (tuple(event_shape), channels, halvings, width, generator)
        self.encoder, self.decoder = PictureEncoder(*sizes), PictureDecoder(*sizes)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def standardise(self, codes: Float[Tensor, "rows channels height width"]) -> None:
        """Take μ and σ from codes of training pictures, as `encode` gives them now."""
        self.mean = self.mean + self.spread * codes.mean((0, 2, 3))[:, None, None]
        self.spread = self.spread * codes.std((0, 2, 3)).clamp_min(1e-6)[:, None, None]

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        if log_det:
            raise _no_density()
        return mapped(((self.encoder(x) - self.mean) / self.spread).to(x.dtype), None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        if log_det:
            raise _no_density()
        return mapped(self.decoder(self.mean + self.spread * z).to(z.dtype), None)


def _no_density() -> UnsupportedError:
    return UnsupportedError(
        "this run's flow learnt codes of an autoencoder, and a density of codes is none of pictures",
        where="latent",
        remedy="Train without --latent to score pictures; compare samples with advect evaluate.",
    )
