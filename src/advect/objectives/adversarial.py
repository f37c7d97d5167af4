"""The game of a generator of rows and its discriminator, as one loss per row.

The two sides of a generative adversarial network (Goodfellow et al. 2014, arXiv 1406.2661) want opposite things of one
number, so there is no single function both descend. There is a single sum whose gradient is each side's own: where a
term belongs to one side, the parameters of the other are held constant in it. One optimiser, one step for both at once.

The game is the relativistic one with zero-centred penalties on real and made rows (Huang et al. 2024, R3GAN, arXiv
2501.05441, §2), for which such steps converge near the solution. With s(a) = log(1 + eᵃ), D the discriminator and
pairs of a real x and a made y,

    discriminator   s(D(y) − D(x)) + γ/2 (‖∇D(x)‖² + ‖∇D(y)‖²),        generator   s(D(x) − D(y)).

Neither falls while training goes well, so neither can choose the best weights. Out of training the loss is the energy
score (Gneiting & Raftery 2007, §4.3), E‖Y − x‖ − ½E‖Y − Y'‖, which is least for the right law.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.func import functional_call

from advect.errors import ConfigError
from advect.flows import Flow
from advect.records import Batch
from advect.transforms import Pushforward
from advect.typing import Scalars


@dataclass(frozen=True)
class Adversarial:
    """The two-sided loss in training, the energy score otherwise.

    Attributes:
        penalty: γ, of the discriminator's gradients; not negative.

    Raises:
        ConfigError: A negative penalty, or, when called, a flow without a discriminator.
    """

    penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < math.inf:
            raise ConfigError(f"the penalty is {self.penalty}", where="penalty", remedy="Give 0 or more.")

    def __call__(self, flow: nn.Module, batch: Batch, *, generator: Generator | None = None) -> Scalars:
        """Loss ``(batch,)``; as many rows are made as there are, under the same conditions.

        Args:
            flow: A `Flow` whose map is a `transforms.Pushforward`.
            batch: ``x1`` and ``condition`` are used; row weights are left to the caller.
            generator: Of the codes.
        """
        assert isinstance(flow, Flow)
        rows = len(batch.x1)
        made = flow.sample(rows, batch.condition, generator=generator).reshape(rows, -1)
        real = batch.x1.reshape(rows, -1)
        if not flow.training:
            return energy_score(_beside(made, batch.condition), _beside(real, batch.condition))
        discriminator = discriminator_of(flow)
        return self._discriminator_loss(discriminator, real, made.detach(), batch.condition) + _generator_loss(
            discriminator, real, made, batch.condition
        )

    def _discriminator_loss(
        self, discriminator: nn.Module, real: Tensor, made: Tensor, condition: Tensor | None
    ) -> Tensor:
        on_real, steep_real = self._judged(discriminator, real, condition)
        on_made, steep_made = self._judged(discriminator, made, condition)
        return F.softplus(on_made - on_real) + 0.5 * self.penalty * (steep_real + steep_made)

    def _judged(self, discriminator: nn.Module, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """D and ‖∇D‖² of every row."""
        x = x.detach().requires_grad_()
        value = discriminator(x, condition).squeeze(1)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value, slope.square().sum(1)


def _generator_loss(discriminator: nn.Module, real: Tensor, made: Tensor, condition: Tensor | None) -> Tensor:
    """The generator's side: the discriminator's parameters are constants here."""
    fixed = {name: value.detach() for name, value in discriminator.named_parameters()}
    on_made = functional_call(discriminator, fixed, (made, condition)).squeeze(1)
    with torch.no_grad():
        on_real = discriminator(real, condition).squeeze(1)
    return F.softplus(on_real - on_made)


def discriminator_of(flow: nn.Module) -> nn.Module:
    """The discriminator that comes with a flow's map.

    Raises:
        ConfigError: There is none.
    """
    for module in flow.modules():
        if isinstance(module, Pushforward):
            return module.discriminator
    raise ConfigError(
        "this flow has no discriminator", where="objective", remedy="Build it with `gan`, or use another loss."
    )


def energy_score(
    made: Float[Tensor, "made features"], real: Float[Tensor, "batch features"]
) -> Float[Tensor, " batch"]:
    """E‖Y − x‖ − ½E‖Y − Y'‖ for each real x, over the made rows; unbiased, least in expectation for the right law.

    The mean over x is half the squared energy distance and a number that depends on the data alone. A single row leaves
    no pair of made rows, whose term is then zero.
    """
    across = torch.cdist(real, made).mean(1)
    within = torch.cdist(made, made).sum() / max(len(made) * (len(made) - 1), 1)
    return across - 0.5 * within


def _beside(x: Tensor, condition: Tensor | None) -> Tensor:
    return x if condition is None else torch.cat([x, condition.reshape(len(x), -1).to(x.dtype)], 1)
