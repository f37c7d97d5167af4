"""Flows of low-rank layers: each bends space along a few directions, so the determinant costs next to nothing.

Planar and radial flows after Rezende & Mohamed 2015 (arXiv 1505.05770), Sylvester flows after van den Berg et al. 2018
(arXiv 1803.05649), taken from data to source, the direction in which they are closed formulas.
"""

from torch import Generator

from advect.transforms.bijection import Bijection
from advect.transforms.compose import Compose
from advect.transforms.linear import LULinear
from advect.transforms.planar import Planar
from advect.transforms.radial import Radial
from advect.transforms.sylvester import Sylvester


def planar(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 32,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Planar layers, then a linear map: a kink each."""
    kinks = [Planar(features, condition_features, depth=depth, width=width, generator=generator) for _ in range(layers)]
    return Compose(*kinks, LULinear(features))


def radial(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 32,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Radial layers, then a linear map: a centre each."""
    centres = [
        Radial(features, condition_features, depth=depth, width=width, generator=generator) for _ in range(layers)
    ]
    return Compose(*centres, LULinear(features))


def sylvester(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 16,
    variant: str = "householder",
    kinks: int | None = None,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Sylvester layers, then a linear map; ``kinks`` in each, as many as features if None."""
    bends = [
        Sylvester(
            features,
            condition_features,
            variant=variant,
            kinks=kinks,
            reverse=bool(index % 2),
            depth=depth,
            width=width,
            generator=generator,
        )
        for index in range(layers)
    ]
    return Compose(*bends, LULinear(features))
