"""Residual blocks and flows whose contractions are near their bound, dense, convolutional and differentiated."""

from collections.abc import Callable

import torch
from torch import Generator, nn

from advect.flows.architectures.residual import residual
from advect.networks.conditioner import Conditioner
from advect.networks.lipschitz_network import LipschitzNetwork, lipschitz_convolutions, lipschitz_mlp
from advect.transforms import Bijection
from advect.transforms.inverse import Inverse
from advect.transforms.residual import Residual
from advect.transforms.residual_trace import SeriesLogDet
from tests.laws.maps.case import Case

Build = Callable[[Generator], Bijection]


class Curved(nn.Module):
    """A module that knows nothing of residual maps: 0.9 sin(A x) for an orthogonal A."""

    def __init__(self, features: int, generator: Generator) -> None:
        super().__init__()
        drawn = torch.randn(features, features, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(torch.linalg.qr(drawn)[0].contiguous())
        self.bias = nn.Parameter(torch.randn(features, generator=generator, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.9 * torch.sin(x @ self.weight.T + self.bias)


def made(build: Build) -> Callable[[], Bijection]:
    """The map in float64, every parameter moved away from where it starts, the same at every call."""

    def perturbed() -> Bijection:
        generator = torch.Generator().manual_seed(13)
        bijection = build(generator).double()
        for module in bijection.modules():
            if isinstance(module, LipschitzNetwork):
                _perturb(module, generator)
            if isinstance(module, Conditioner):
                module.perturb(0.3, generator=generator)
        return bijection.eval()

    return perturbed


@torch.no_grad()
def _perturb(network: LipschitzNetwork, generator: Generator) -> None:
    """Weights above their bound, so that the scaling is at work, and shifts that depend on the condition."""
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def block(features: int, condition_features: int = 0, lipschitz: float = 0.9, **options) -> Callable[[], Bijection]:
    def build(generator: Generator) -> Bijection:
        network = lipschitz_mlp(features, condition_features, width=8, lipschitz=lipschitz, generator=generator)
        condition_shape = (condition_features,) if condition_features else None
        return Residual(network, (features,), condition_shape=condition_shape, **options)

    return made(build)


def picture(condition_features: int = 0) -> Callable[[], Bijection]:
    def build(generator: Generator) -> Bijection:
        network = lipschitz_convolutions((2, 3, 2), condition_features, channels=3, lipschitz=0.9, generator=generator)
        condition_shape = (condition_features,) if condition_features else None
        return Residual(network, (2, 3, 2), condition_shape=condition_shape)

    return made(build)


def flow(features: int, condition_features: int = 0) -> Callable[[], Bijection]:
    return made(
        lambda g: residual(features, condition_features, layers=1, lipschitz=0.9, depth=1, width=6, generator=g)
    )


ITERATED = "the inverse is iterated to ε^0.7 = 1.1e-11 of the norm of a row (1.4e-5 in float32), and scaled afterwards"
SERIES = "the series is cut where the bound on its rest falls below 1e-11"

MAPS: dict[str, Case] = {
    "residual-1": Case(block(1)),
    "residual-2": Case(block(2)),
    "residual-1-conditional": Case(block(1, 2)),
    "residual-3-conditional": Case(block(3, 2)),
    "residual-inverse": Case(lambda: Inverse(block(3)())),
    "residual-picture": Case(picture(2)),
    "residual-any-module": Case(made(lambda g: Residual(Curved(3, g), (3,), lipschitz=0.9))),
    "residual-series": Case(block(3, evaluation_log_det=SeriesLogDet(None, 1e-11)), round_trip=1e-9, reason=SERIES),
    "residual-flow-1": Case(flow(1), round_trip=1e-9, round_trip_float32=1e-3, reason=ITERATED),
    "residual-flow-3-conditional": Case(flow(3, 2), round_trip=1e-9, round_trip_float32=1e-3, reason=ITERATED),
}
