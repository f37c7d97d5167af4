"""Rows made from codes and judged by a discriminator: the generative adversarial network, in the place of a bijection.

The law of the rows is that of G(z), z the source. Nothing inverts G, and where codes have fewer numbers than rows their
law has no density at all: there is no likelihood, no bound of one, and no code of a given row (Goodfellow et al. 2014,
arXiv 1406.2661, §3).
"""

from torch import Generator, Tensor, nn

from advect.errors import ConfigError, UnsupportedError
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped


class Pushforward(Bijection):
    """x = G(z), one way; the discriminator that trains G comes along, because it is trained with it.

    Args:
        network: G, the generator, ``(z, condition) -> (batch, features)``.
        discriminator: ``(x, condition) -> (batch, 1)``; only training looks at it.
        features: Numbers in one row.
        code: Numbers in one code.
        condition_features: Numbers in one condition, 0 for none.

    Raises:
        ConfigError: A size below one.
    """

    likelihood = "none"

    def __init__(
        self, network: nn.Module, discriminator: nn.Module, features: int, code: int, condition_features: int = 0
    ) -> None:
        if min(features, code) < 1:
            raise ConfigError(f"rows have {features} numbers and codes {code}", where="Pushforward")
        super().__init__((features,), (condition_features,) if condition_features else None, (code,))
        self.network, self.discriminator = network, discriminator

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        raise UnsupportedError(
            "rows are made from codes in one direction only: there is no likelihood and no code of a given row",
            where="gan",
            remedy="Compare its samples with real rows, or train a flow such as i-cfm, or a vae for a bound.",
        )

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        if log_det:
            raise UnsupportedError(
                "the rows have no log-density", where="gan", remedy="Draw them with sample, which asks for none."
            )
        return mapped(self.network(z, condition), None)
