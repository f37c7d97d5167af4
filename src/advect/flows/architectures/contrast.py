"""Models that are no flows but sample as flows do: `vae` (Kingma & Welling 2014, arXiv 1312.6114) and `gan` (Goodfellow
et al. 2014, arXiv 1406.2661). Small and plain, to be compared with.
"""

from functools import partial

from torch import Generator

from advect.networks.conditioner import Conditioner
from advect.transforms.latent import GaussianLatent
from advect.transforms.pushforward import Pushforward

MOST_CODES = 32
# A zero layer would leave code and row independent, from where no gradient leads away; this start is nearly so.
_SMALL = 0.3
# Rows arrive with unit scale; at a noise of that scale a code says nothing and training may never begin to use it.
_NOISE = 0.3


def vae(
    features: int,
    condition_features: int = 0,
    *,
    code: int = 0,
    depth: int = 2,
    width: int = 128,
    generator: Generator | None = None,
) -> GaussianLatent:
    """A variational autoencoder with a learned noise for each coordinate; the decoder starts at zero.

    Args:
        features: Coordinates of a row.
        condition_features: Numbers in one condition, 0 for none; encoder and decoder see it.
        code: Numbers in a code; 0 for as many as coordinates, at most 32.
        depth: Hidden layers of each network.
        width: Units in each.
        generator: Draws the initial weights.
    """
    code = code or min(features, MOST_CODES)
    make = partial(Conditioner, condition_features=condition_features, depth=depth, width=width, generator=generator)
    encoder, decoder = make(features, 2 * code), make(code, features)
    encoder.perturb(_SMALL, generator=generator)
    return GaussianLatent(encoder, decoder, features, code, condition_features, noise=_NOISE)


def gan(
    features: int,
    condition_features: int = 0,
    *,
    code: int = 0,
    depth: int = 2,
    width: int = 128,
    generator: Generator | None = None,
) -> Pushforward:
    """A generator of rows and its discriminator, of one size.

    Args:
        features: Coordinates of a row.
        condition_features: Numbers in one condition, 0 for none; generator and discriminator see it.
        code: Numbers in a code; 0 for as many as coordinates, at most 32.
        depth: Hidden layers of each network.
        width: Units in each.
        generator: Draws the initial weights.
    """
    code = code or min(features, MOST_CODES)
    make = partial(Conditioner, condition_features=condition_features, depth=depth, width=width, generator=generator)
    network, discriminator = make(code, features), make(features, 1)
    network.perturb(1.0, generator=generator)
    return Pushforward(network, discriminator, features, code, condition_features)
