"""A code and a row drawn from one another: the variational autoencoder, in the place of an invertible map.

    z ~ q(z|x) = N(μ(x), diag τ(x)²),    x ~ p(x|z) = N(m(z), diag s²)

In the change of variables log p(x) = log p(z) + log |det ∂z/∂x| the log-determinant of a map that draws z at random is

    log p(x|z) − log q(z|x)

(Nielsen et al. 2020, SurVAE Flows, arXiv 2007.02731, table 1), and the sum is then an estimate: its expectation over z
is the evidence lower bound (Kingma & Welling 2014, arXiv 1312.6114, eq. 3), and the logarithm of the mean of exp of K
of them is the tighter bound of Burda et al. 2016 (arXiv 1509.00519, eq. 8). Where q is the exact posterior, every draw
is log p(x).
"""

import math

import torch
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, UnsupportedError
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped

LOG_SPREAD = 5.0  # largest |log τ|: codes neither vanish nor explode before training has begun
NOISE_FLOOR = 1e-2  # least s, in the units of the rows: a density on a thin sheet must not grow without bound


class GaussianLatent(Bijection):
    """Gaussian codes of rows, drawn in both directions.

    Args:
        encoder: ``(x, condition) -> (batch, 2 × code)``: μ and an unbounded form of log τ.
        decoder: ``(z, condition) -> (batch, features)``: m.
        features: Numbers in one row.
        code: Numbers in one code.
        condition_features: Numbers in one condition, 0 for none.
        noise: s at the start, above `NOISE_FLOOR`; learned, one for each number of a row.

    Raises:
        ConfigError: A size below one, or a noise at or below its floor.
    """

    likelihood = "bound"

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        features: int,
        code: int,
        condition_features: int = 0,
        *,
        noise: float = 1.0,
    ) -> None:
        if min(features, code) < 1:
            raise ConfigError(f"rows have {features} numbers and codes {code}", where="GaussianLatent")
        if not NOISE_FLOOR < noise < math.inf:
            raise ConfigError(f"the noise is {noise}", where="noise", remedy=f"Give a number above {NOISE_FLOOR}.")
        super().__init__((features,), (condition_features,) if condition_features else None, (code,))
        self.encoder, self.decoder = encoder, decoder
        self.log_noise = nn.Parameter(torch.full((features,), 0.5 * math.log(noise**2 - NOISE_FLOOR**2)))

    @property
    def noise(self) -> Tensor:
        """s, ``(features,)``."""
        return (torch.exp(2 * self.log_noise) + NOISE_FLOOR**2).sqrt()

    def posterior(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """μ and τ of q(z|x), ``(batch, code)`` each."""
        mean, raw = self.encoder(x, condition).chunk(2, dim=1)
        return mean, torch.exp(LOG_SPREAD * torch.tanh(raw / LOG_SPREAD))

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        mean, spread = self.posterior(x, condition)
        noise = drawn_like(mean, generator)
        z = mean + spread * noise
        if not log_det:
            return mapped(z, None)
        log_q = _log_normal(noise, spread)
        scale = self.noise.to(x.dtype)
        return mapped(z, _log_normal((x - self.decoder(z, condition)) / scale, scale) - log_q)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        if log_det:
            raise UnsupportedError(
                "a row drawn from a code has many codes, so its log-density is not known with the draw",
                where="vae",
                remedy="Draw rows with sample and bound their log-density with score.",
            )
        mean = self.decoder(z, condition)
        return mapped(mean + self.noise.to(z.dtype) * drawn_like(mean, generator), None)


def drawn_like(x: Tensor, generator: Generator | None) -> Tensor:
    """Standard-normal numbers of the shape of ``x``, drawn on the generator's device."""
    place = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=place).to(x.device)


def _log_normal(standard: Tensor, scale: Tensor) -> Tensor:
    """log N of numbers ``scale · standard`` away from the mean, summed over each row."""
    return (-0.5 * standard.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(1)
