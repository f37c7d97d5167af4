"""Flows of angles: spline couplings on the torus, or on a torus times a space (Rezende et al. 2020, arXiv 2002.02428).

Angles move by circular splines with a rotation, and are seen by the networks as sine and cosine, so that the density
has no seam at ±π; the source of an angle is uniform on the circle (`circular_base`). Nothing is mixed linearly: a
rotation of the plane means nothing on a torus. Instead the coordinates are split by the binary digits of their index,
one digit per pair of layers, so that after ⌈log₂ d⌉ pairs any two have been apart (Müller et al. 2019, arXiv
1808.03856).
"""

import math
from collections.abc import Sequence

from torch import Generator

from advect.errors import ConfigError
from advect.flows.base import StandardNormal
from advect.flows.bases import Uniform
from advect.flows.product import Product
from advect.networks.angles import AngleConditioner
from advect.networks.field import check_sizes
from advect.transforms.assorted import Assorted
from advect.transforms.bijection import Bijection
from advect.transforms.compose import Compose
from advect.transforms.coupling import Coupling, Elementwise
from advect.transforms.monotone import Monotone
from advect.transforms.spline import CircularSpline, RationalQuadraticSpline
from advect.typing import Base


def circular_nsf(
    features: int,
    condition_features: int = 0,
    *,
    periodic: Sequence[int] | None = None,
    layers: int = 6,
    bins: int = 8,
    bound: float = 5.0,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Each coordinate by a spline of its own, then couplings.

    Args:
        features: Coordinates of a row.
        condition_features: Numbers in one condition, 0 for none.
        periodic: Which coordinates are angles in radians; None for all. They must not be standardised, and the base
            must be `circular_base` of the same coordinates. The others should have unit scale.
        layers: Couplings.
        bins: Bins of every spline of a coupling; those of the first layer have twice as many.
        bound: Half the box of the splines of coordinates that are no angles.
        depth: Hidden layers of each network.
        width: Units in each.
        generator: Draws the initial weights.

    Raises:
        ConfigError: If ``periodic`` names a coordinate that is not there, or one twice.
    """
    check_sizes("circular_nsf", features=features, layers=layers)
    angles = _angles(features, periodic)
    size = {"depth": depth, "width": width, "generator": generator}
    every = list(range(features))
    maps: list[Bijection] = [
        Elementwise(_function(every, angles, 2 * bins, bound), features, condition_features, **size)
    ]
    for layer in range(layers if features > 1 else 0):
        digit = (layer // 2) % (features - 1).bit_length()
        moved = [i for i in every if (i >> digit) % 2 == layer % 2]
        kept = [i for i in every if i not in moved]
        function = _function(moved, angles, bins, bound)
        outputs = len(moved) * function.num_parameters
        conditioner = AngleConditioner([i in angles for i in kept], outputs, condition_features, **size)
        maps.append(Coupling(kept, moved, function, conditioner, condition_features))
    return Compose(*maps)


def circular_base(features: int, periodic: Sequence[int] | None = None) -> Base:
    """Uniform on [−π, π] for the angles, standard normal for the rest; arguments as for `circular_nsf`."""
    angles = _angles(features, periodic)
    others = [i for i in range(features) if i not in angles]
    if not others:
        return Uniform(-math.pi, math.pi, (features,))
    if not angles:
        return StandardNormal((features,))
    uniform = Uniform(-math.pi, math.pi, (len(angles),))
    return Product([(sorted(angles), uniform), (others, StandardNormal((len(others),)))])


def _angles(features: int, periodic: Sequence[int] | None) -> frozenset[int]:
    """The coordinates that are angles, checked."""
    if periodic is None:
        return frozenset(range(features))
    found = frozenset(periodic)
    if len(found) != len(periodic) or not found <= frozenset(range(features)):
        raise ConfigError(
            f"The periodic coordinates are {list(periodic)}",
            where="circular_nsf",
            remedy=f"Name each once, from 0 to {features - 1}.",
        )
    return found


def _function(columns: Sequence[int], angles: frozenset[int], bins: int, bound: float) -> Monotone:
    """The function of these coordinates: circular splines for angles, splines with straight tails for the rest."""
    turning = [place for place, column in enumerate(columns) if column in angles]
    straight = [place for place, column in enumerate(columns) if column not in angles]
    if not straight:
        return CircularSpline(bins)
    if not turning:
        return RationalQuadraticSpline(bins, bound)
    return Assorted([(turning, CircularSpline(bins)), (straight, RationalQuadraticSpline(bins, bound))])
