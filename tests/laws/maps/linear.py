"""Permutations, LU, QR and Householder layers, 1×1 convolutions and ActNorm."""

import torch
from torch import nn

from advect.transforms.actnorm import ActNorm
from advect.transforms.linear import Invertible1x1, LULinear, Permutation, whitening
from advect.transforms.orthogonal import Householder, QRLinear
from tests.laws.maps.case import Case


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(module: nn.Module, seed: int, scale: float = 0.4) -> nn.Module:
    """Every parameter a step away from its start."""
    module = module.double()
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, dtype=torch.float64, generator=seeded(seed))
        parameter.data.add_(scale * noise)
    return module


def normed(channels: int, rank: int = 1, size: tuple[int, ...] | None = None) -> ActNorm:
    """Already initialised: what it encodes must not depend on the first batch it sees."""
    layer = moved(ActNorm(channels, rank, size=size), 3)
    layer.initialised.fill_(True)
    return layer


def correlated() -> torch.Tensor:
    x = torch.randn(50, 3, dtype=torch.float64, generator=seeded(5))
    return x @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.1, 3.0], [0.5, 0.0, 1.0]], dtype=torch.float64) + 2


MAPS: dict[str, Case] = {
    "permutation": Case(lambda: Permutation([2, 0, 1]), mixed=True),
    "permutation-reverse": Case(lambda: Permutation.reverse(2), mixed=True),
    "lu-1": Case(lambda: moved(LULinear(1), 0), mixed=True),
    "lu-2": Case(lambda: moved(LULinear(2, start="rotation", generator=seeded(1)), 1), mixed=True),
    "lu-3": Case(lambda: moved(LULinear(3, start="rotation", generator=seeded(2)), 2), mixed=True),
    "lu-3-plain": Case(lambda: moved(LULinear(3, bias=False), 2), mixed=True),
    "lu-whitening": Case(lambda: whitening(correlated()), mixed=True),
    "qr-1": Case(lambda: moved(QRLinear(1), 0), mixed=True),
    "qr-2": Case(lambda: moved(QRLinear(2), 1), mixed=True),
    "qr-3": Case(lambda: moved(QRLinear(3, start="rotation", generator=seeded(2)), 2), mixed=True),
    "householder-2": Case(lambda: Householder(2, 1, generator=seeded(1)).double(), mixed=True),
    "householder-3": Case(lambda: Householder(3, generator=seeded(1)).double(), mixed=True),
    "conv1x1-1": Case(lambda: moved(Invertible1x1(1, size=(2, 2), generator=seeded(1)), 1), mixed=True),
    "conv1x1-3": Case(lambda: moved(Invertible1x1(3, size=(2, 1), generator=seeded(1)), 1), mixed=True),
    "actnorm-1": Case(lambda: normed(1), mixed=True),
    "actnorm-3": Case(lambda: normed(3), mixed=True),
    "actnorm-picture": Case(lambda: normed(3, 3, (2, 1)), mixed=True),
}
