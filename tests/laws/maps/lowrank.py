"""Planar, radial and Sylvester layers, and the flows made of them."""

import torch
from torch import nn

from advect.flows.architectures.lowrank import planar, radial, sylvester
from advect.transforms.planar import Planar
from advect.transforms.radial import Radial
from advect.transforms.sylvester import Sylvester
from tests.laws.maps.case import Case


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(module: nn.Module, seed: int, scale: float = 0.5) -> nn.Module:
    """Every parameter a step away from its start, the networks of conditions included."""
    module = module.double()
    for index, parameter in enumerate(module.parameters()):
        noise = torch.randn(parameter.shape, dtype=torch.float64, generator=seeded(100 * seed + index))
        parameter.data.add_(scale * noise)
    return module


def small(layer: type, features: int, condition: int = 0, **options) -> Case:
    def build() -> nn.Module:
        return moved(layer(features, condition, depth=1, width=4, generator=seeded(features), **options), features)

    return Case(build, mixed=not condition)


MAPS: dict[str, Case] = {
    "planar-1": small(Planar, 1),
    "planar-1-conditional": small(Planar, 1, 2),
    "planar-2": small(Planar, 2),
    "planar-3-conditional": small(Planar, 3, 1),
    "radial-1": small(Radial, 1),
    "radial-1-conditional": small(Radial, 1, 2),
    "radial-2": small(Radial, 2),
    "radial-3-conditional": small(Radial, 3, 1),
    "sylvester-1": small(Sylvester, 1),
    "sylvester-1-orthogonal": small(Sylvester, 1, variant="orthogonal"),
    "sylvester-1-triangular-conditional": small(Sylvester, 1, 2, variant="triangular"),
    "sylvester-2": small(Sylvester, 2),
    "sylvester-3-conditional": small(Sylvester, 3, 1),
    "sylvester-3-two-kinks": small(Sylvester, 3, kinks=2),
    "sylvester-3-orthogonal": small(Sylvester, 3, variant="orthogonal", kinks=2),
    "sylvester-3-orthogonal-conditional": small(Sylvester, 3, 2, variant="orthogonal"),
    "sylvester-3-triangular": small(Sylvester, 3, variant="triangular"),
    "sylvester-3-triangular-reversed": small(Sylvester, 3, 1, variant="triangular", reverse=True),
    "flow-planar": Case(lambda: moved(planar(2, layers=3, generator=seeded(1)), 1), mixed=True),
    "flow-radial": Case(lambda: moved(radial(2, 2, layers=3, depth=1, width=4, generator=seeded(1)), 1)),
    "flow-sylvester": Case(lambda: moved(sylvester(2, 1, layers=2, depth=1, width=4, generator=seeded(1)), 1)),
}
