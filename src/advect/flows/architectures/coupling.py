"""Flows of coupling layers: one half of the coordinates says how the other half moves, then they change places.

`nice` (Dinh et al. 2015, arXiv 1410.8516) shifts, `realnvp` (Dinh et al. 2017, arXiv 1605.08803) shifts and scales,
`nsf` (Durkan et al. 2019, arXiv 1906.04032) bends by splines, `flowpp` (Ho et al. 2019, arXiv 1902.00275) by the
distribution functions of mixtures. The halves alternate, so a pair of layers moves every coordinate; between pairs the
coordinates are mixed linearly, so that other halves face each other. Of an odd number the first half is the larger.

A single coordinate has no other to look at. Its parameters then come from the condition, or are learned; and because a
shift and a scale would leave it a Gaussian, `nice` and `realnvp` bend it by a spline as `nsf` does.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator

from advect.errors import ConfigError, unknown_name
from advect.networks.conditioner import Conditioner
from advect.transforms.bijection import Bijection
from advect.transforms.compose import Compose
from advect.transforms.coupling import Coupling, Elementwise
from advect.transforms.linear import LULinear, Permutation
from advect.transforms.mixture import MixtureCDF
from advect.transforms.monotone import Monotone
from advect.transforms.scale import Scale, Shift
from advect.transforms.spline import RationalQuadraticSpline

MIXINGS = ("lu", "permutation", "none")

# Where all bending comes from the networks they start sharper: SiLU'' is 1/2 at 0 and GELU'' is 2φ(0) = 0.8, so
# SiLU(1.6 a)/1.6 bends there as GELU(a) does. A plain SiLU was 0.06 nats behind in the plane, this one was not.
_SHARPNESS = {"silu": 1.6}


def nice(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 8,
    mixing: str = "none",
    bins: int = 16,
    bound: float = 5.0,
    log_scale_bound: float = 3.0,
    activation: str = "silu",
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Additive couplings, which keep volume, then a scale for each coordinate.

    Args:
        features: Coordinates of a row.
        condition_features: Numbers in one condition, 0 for none.
        layers: Couplings, at least 2.
        mixing: What stands between pairs of couplings: ``lu``, ``permutation`` or ``none``.
        bins: Bins of the spline that a single coordinate gets.
        bound: Half the box of that spline.
        log_scale_bound: Largest log-scale of one layer, in nats.
        activation: Of the networks: ``silu``, which then starts as sharp as a GELU, or ``gelu``, at twice the cost.
        depth: Hidden layers of each network.
        width: Units in each.
        generator: Draws the initial weights.
    """
    size = _Size(features, condition_features, depth, width, generator, activation, _SHARPNESS.get(activation, 1.0))
    if features == 1:
        return _single(size, lambda: RationalQuadraticSpline(bins, bound), log_scale_bound)
    return Compose(*_couplings(size, Shift, layers, mixing), size.elementwise(Scale(log_scale_bound)))


def realnvp(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 8,
    mixing: str = "lu",
    bins: int = 16,
    bound: float = 5.0,
    log_scale_bound: float = 3.0,
    activation: str = "silu",
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Affine couplings with bounded log-scales; arguments as for `nice`."""
    size = _Size(features, condition_features, depth, width, generator, activation, _SHARPNESS.get(activation, 1.0))
    if features == 1:
        return _single(size, lambda: RationalQuadraticSpline(bins, bound), log_scale_bound)
    return _mixed(size, lambda: Scale(log_scale_bound), layers, mixing, log_scale_bound)


def nsf(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 6,
    mixing: str = "lu",
    bins: int = 8,
    bound: float = 5.0,
    log_scale_bound: float = 3.0,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Rational-quadratic spline couplings; ``bins`` and ``bound`` are theirs, other arguments as for `nice`."""
    size = _Size(features, condition_features, depth, width, generator)
    if features == 1:
        return _single(size, lambda: RationalQuadraticSpline(2 * bins, bound), log_scale_bound)
    return _mixed(size, lambda: RationalQuadraticSpline(bins, bound), layers, mixing, log_scale_bound)


def flowpp(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 6,
    mixing: str = "lu",
    components: int = 8,
    log_scale_bound: float = 3.0,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Couplings by mixtures of ``components`` logistics, inverted numerically; other arguments as for `nice`."""
    size = _Size(features, condition_features, depth, width, generator)
    if features == 1:
        return _single(size, lambda: MixtureCDF(components, log_scale_bound), log_scale_bound)
    return _mixed(size, lambda: MixtureCDF(components, log_scale_bound), layers, mixing, log_scale_bound)


@dataclass(frozen=True)
class _Size:
    """What every layer of one flow has in common."""

    features: int
    condition_features: int
    depth: int
    width: int
    generator: Generator | None
    activation: str = "silu"
    sharpness: float = 1.0

    def elementwise(self, function: Monotone) -> Coupling:
        return _started(
            Elementwise(
                function,
                self.features,
                self.condition_features,
                depth=self.depth,
                width=self.width,
                generator=self.generator,
            )
        )

    def coupling(self, function: Monotone, *, first_moves: bool) -> Coupling:
        middle = (self.features + 1) // 2
        halves = range(middle), range(middle, self.features)
        moved, kept = halves if first_moves else halves[::-1]
        outputs = len(moved) * function.num_parameters
        conditioner = Conditioner(
            len(kept),
            outputs,
            self.condition_features,
            depth=self.depth,
            width=self.width,
            activation=self.activation,
            sharpness=self.sharpness,
            generator=self.generator,
        )
        return _started(Coupling(kept, moved, function, conditioner, self.condition_features))

    def mixer(self, mixing: str) -> list[Bijection]:
        if mixing == "lu":
            return [LULinear(self.features, start="rotation", generator=self.generator)]
        if mixing == "permutation":
            return [Permutation.random(self.features, generator=self.generator)]
        return []


def _started(layer: Coupling) -> Coupling:
    """The layer, with the components of a mixture apart."""
    if isinstance(layer.function, MixtureCDF) and isinstance(layer.conditioner, Conditioner):
        layer.conditioner.start_at(layer.function.start())
    return layer


def _single(size: _Size, function: Callable[[], Monotone], log_scale_bound: float) -> Bijection:
    """One coordinate: placed and scaled, then bent."""
    return Compose(size.elementwise(Scale(log_scale_bound)), size.elementwise(function()))


def _mixed(
    size: _Size, function: Callable[[], Monotone], layers: int, mixing: str, log_scale_bound: float
) -> Bijection:
    """Couplings with mixing; with a condition, rows are first placed and scaled by what it says about them."""
    placed = [size.elementwise(Scale(log_scale_bound))] if size.condition_features else []
    return Compose(*placed, *_couplings(size, function, layers, mixing))


def _couplings(size: _Size, function: Callable[[], Monotone], layers: int, mixing: str) -> list[Bijection]:
    """Pairs of couplings, each of which moves every coordinate, with mixing between pairs.

    Inside a pair a permutation could hide a coordinate from both halves, and an LU map costs more than it brings.
    """
    if layers < 2:
        raise ConfigError(
            f"The number of layers is {layers}",
            where="coupling flow",
            remedy="Choose at least 2: one coupling leaves half of the coordinates as they are.",
        )
    if mixing not in MIXINGS:
        raise unknown_name("mixing", mixing, MIXINGS)
    maps: list[Bijection] = []
    for layer in range(layers):
        maps += size.mixer(mixing) if layer and layer % 2 == 0 else []
        maps.append(size.coupling(function(), first_moves=bool(layer % 2)))
    return maps
