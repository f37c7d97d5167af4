"""Coupling layers and elementwise functions, with random weights, alone and assembled."""

from collections.abc import Callable

import torch

from advect.flows.architectures.coupling import flowpp, nice, nsf, realnvp
from advect.networks.conditioner import Conditioner
from advect.transforms import Bijection
from advect.transforms.coupling import Coupling, Elementwise
from advect.transforms.mixture import MixtureCDF
from advect.transforms.monotone import Monotone
from advect.transforms.scale import Scale, Shift
from advect.transforms.spline import CircularSpline, RationalQuadraticSpline
from tests.laws.maps.case import Case

Build = Callable[[torch.Generator], Bijection]


def made(build: Build, size: float = 0.7) -> Callable[[], Bijection]:
    """The map in float64 with parameters of standard deviation about ``size``, the same at every call."""

    def perturbed() -> Bijection:
        generator = torch.Generator().manual_seed(11)
        bijection = build(generator)
        for module in bijection.modules():
            if isinstance(module, Conditioner):
                module.perturb(size, generator=generator)
        return bijection.double()

    return perturbed


def coupling(
    kept: tuple[int, ...], moved: tuple[int, ...], function: Monotone, condition_features: int = 0
) -> Callable[[], Bijection]:
    def build(generator: torch.Generator) -> Bijection:
        outputs = len(moved) * function.num_parameters
        conditioner = Conditioner(len(kept), outputs, condition_features, depth=2, width=8, generator=generator)
        return Coupling(kept, moved, function, conditioner, condition_features)

    return made(build)


def elementwise(
    function: Monotone, features: int, condition_features: int = 0, size: float = 0.7
) -> Callable[[], Bijection]:
    return made(lambda g: Elementwise(function, features, condition_features, width=8, generator=g), size)


SMALL = {"depth": 2, "width": 8}

MAPS: dict[str, Case] = {
    # Functions by themselves: learned constants, or parameters from the condition.
    "elementwise-shift": Case(elementwise(Shift(), 3)),
    "elementwise-scale": Case(elementwise(Scale(), 1)),
    "elementwise-scale-conditional": Case(elementwise(Scale(1.5), 3, 2)),
    "elementwise-spline": Case(elementwise(RationalQuadraticSpline(), 1)),
    "elementwise-spline-one-bin": Case(elementwise(RationalQuadraticSpline(1), 2)),
    "elementwise-spline-conditional": Case(elementwise(RationalQuadraticSpline(5, 3.0), 2, 2)),
    # A wide circle, so that the laws' inputs, which are not angles, stay off the cut.
    "elementwise-circular": Case(elementwise(CircularSpline(6, -20.0, 20.0), 2)),
    "elementwise-circular-conditional": Case(elementwise(CircularSpline(6, -20.0, 20.0), 3, 2)),
    "elementwise-mixture": Case(elementwise(MixtureCDF(4), 1)),
    "elementwise-mixture-conditional": Case(elementwise(MixtureCDF(3), 2, 2)),
    # Couplings by index: halves, interleaved, in no order, one kept, nothing kept but the condition.
    "coupling-shift": Case(coupling((0,), (1,), Shift())),
    "coupling-scale-interleaved": Case(coupling((0, 2), (1, 3), Scale())),
    "coupling-scale-conditional": Case(coupling((1, 2), (0,), Scale(), 2)),
    "coupling-spline-unordered": Case(coupling((4, 1), (3, 0, 2), RationalQuadraticSpline())),
    "coupling-spline-conditional": Case(coupling((0,), (1, 2), RationalQuadraticSpline(), 1)),
    "coupling-mixture": Case(coupling((0,), (1, 2), MixtureCDF(4))),
    # Named architectures, in one, two and three coordinates.
    "nice-1": Case(made(lambda g: nice(1, generator=g, **SMALL))),
    "nice-3": Case(made(lambda g: nice(3, layers=4, generator=g, **SMALL))),
    "nice-conditional": Case(made(lambda g: nice(2, 2, layers=3, generator=g, **SMALL))),
    "realnvp-1": Case(made(lambda g: realnvp(1, generator=g, **SMALL))),
    "realnvp-2": Case(made(lambda g: realnvp(2, layers=4, generator=g, **SMALL))),
    "realnvp-3-permutation": Case(made(lambda g: realnvp(3, layers=4, mixing="permutation", generator=g, **SMALL))),
    "realnvp-conditional": Case(made(lambda g: realnvp(3, 2, layers=2, generator=g, **SMALL))),
    "nsf-1": Case(made(lambda g: nsf(1, generator=g, **SMALL))),
    "nsf-1-conditional": Case(made(lambda g: nsf(1, 2, generator=g, **SMALL))),
    "nsf-2": Case(made(lambda g: nsf(2, layers=2, generator=g, **SMALL))),
    "nsf-3": Case(made(lambda g: nsf(3, layers=3, generator=g, **SMALL), size=0.4)),
    "nsf-conditional": Case(made(lambda g: nsf(2, 2, layers=2, generator=g, **SMALL))),
    "flowpp-1": Case(made(lambda g: flowpp(1, components=4, generator=g, **SMALL))),
    "flowpp-1-conditional": Case(made(lambda g: flowpp(1, 2, components=3, generator=g, **SMALL))),
    "flowpp-2": Case(made(lambda g: flowpp(2, layers=2, components=4, generator=g, **SMALL))),
    "flowpp-3-conditional": Case(made(lambda g: flowpp(3, 2, layers=2, components=3, generator=g, **SMALL))),
}
