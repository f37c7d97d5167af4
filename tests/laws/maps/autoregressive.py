"""Autoregressive maps with random weights, alone, turned round and assembled, by orders and by adjacencies."""

from collections.abc import Callable

import torch

from advect.flows.architectures.autoregressive import iaf, maf, nsf_ar, umnn
from advect.networks.dependence import chain
from advect.networks.masked import MaskedMLP
from advect.transforms import Bijection
from advect.transforms.autoregressive import Autoregressive
from advect.transforms.integral import MonotoneIntegral
from advect.transforms.inverse import Inverse
from advect.transforms.monotone import Monotone
from advect.transforms.scale import Scale
from advect.transforms.spline import RationalQuadraticSpline
from tests.laws.maps.case import Case

Build = Callable[[torch.Generator], Bijection]

SMALL = {"depth": 2, "width": 8}
# 1 and 2 look at 0, 3 at both of them; 4 is alone: levels {0, 4}, {1, 2}, {3}.
DIAMOND = torch.tensor(
    [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool
)
SEARCHED = "the inverse is searched to four units in the last place of x, and the next layers enlarge that"


def made(build: Build, size: float = 0.3) -> Callable[[], Bijection]:
    """The map in float64 with parameters of standard deviation about ``size``, the same at every call."""

    def perturbed() -> Bijection:
        generator = torch.Generator().manual_seed(11)
        bijection = build(generator)
        for module in bijection.modules():
            if isinstance(module, MaskedMLP):
                module.perturb(size, generator=generator)
                # Steep units in two layers of networks have third derivatives of 1e7, too curved for the step of the
                # laws' finite differences (which approach the gradients with its square).
                for layer in module.layers:
                    layer.weight.data.mul_(0.5)
        return bijection.double()

    return perturbed


def layer(
    adjacency: torch.Tensor, function: Callable[[torch.Generator], Monotone], condition_features: int = 0
) -> Callable[[], Bijection]:
    def build(generator: torch.Generator) -> Bijection:
        made_function = function(generator)
        network = MaskedMLP(
            adjacency, made_function.num_parameters, condition_features, depth=2, width=8, generator=generator
        )
        return Autoregressive(made_function, network)

    return made(build)


def scale(_: torch.Generator) -> Monotone:
    return Scale()


def spline(_: torch.Generator) -> Monotone:
    return RationalQuadraticSpline(5, 3.0)


def integral(generator: torch.Generator) -> Monotone:
    return MonotoneIntegral(4, 4, generator=generator)


def turned(build: Callable[[], Bijection]) -> Callable[[], Bijection]:
    return lambda: Inverse(build())


MAPS: dict[str, Case] = {
    # One layer: by an order, by an adjacency, with nothing to look at but the condition, with nothing at all.
    "autoregressive-scale": Case(layer(chain([2, 0, 1]), scale)),
    "autoregressive-spline-conditional": Case(layer(chain([1, 0]), spline, 2)),
    "autoregressive-integral": Case(layer(chain([1, 0]), integral), reason=SEARCHED),
    "autoregressive-diamond": Case(layer(DIAMOND, spline)),
    "autoregressive-diamond-conditional": Case(layer(DIAMOND, scale, 1)),
    "autoregressive-nothing-seen": Case(layer(torch.zeros(3, 3, dtype=torch.bool), spline)),
    "inverse-autoregressive": Case(turned(layer(chain([1, 2, 0]), spline, 1))),
    # Named architectures, in one, two and three coordinates.
    "maf-1": Case(made(lambda g: maf(1, generator=g, **SMALL))),
    "maf-1-conditional": Case(made(lambda g: maf(1, 2, generator=g, **SMALL))),
    "maf-2": Case(made(lambda g: maf(2, layers=3, generator=g, **SMALL))),
    "maf-3-random": Case(made(lambda g: maf(3, layers=3, order="random", generator=g, **SMALL))),
    "maf-conditional": Case(made(lambda g: maf(3, 2, layers=2, generator=g, **SMALL))),
    "maf-adjacency": Case(made(lambda g: maf(5, layers=2, adjacency=DIAMOND, generator=g, **SMALL))),
    "iaf-1": Case(made(lambda g: iaf(1, generator=g, **SMALL))),
    "iaf-2": Case(made(lambda g: iaf(2, layers=2, generator=g, **SMALL))),
    "iaf-conditional": Case(made(lambda g: iaf(3, 2, layers=2, generator=g, **SMALL))),
    "nsf-ar-1": Case(made(lambda g: nsf_ar(1, generator=g, **SMALL))),
    "nsf-ar-1-conditional": Case(made(lambda g: nsf_ar(1, 2, generator=g, **SMALL))),
    "nsf-ar-2": Case(made(lambda g: nsf_ar(2, layers=2, generator=g, **SMALL))),
    "nsf-ar-3": Case(made(lambda g: nsf_ar(3, layers=3, generator=g, **SMALL))),
    "nsf-ar-conditional": Case(made(lambda g: nsf_ar(2, 2, layers=2, generator=g, **SMALL))),
    "nsf-ar-adjacency-conditional": Case(
        made(lambda g: nsf_ar(5, 1, layers=2, adjacency=DIAMOND, generator=g, **SMALL))
    ),
    "umnn-1": Case(made(lambda g: umnn(1, layers=2, generator=g, **SMALL)), reason=SEARCHED, nodes=2001),
    "umnn-1-conditional": Case(made(lambda g: umnn(1, 2, layers=1, generator=g, **SMALL)), reason=SEARCHED, nodes=2001),
    "umnn-2": Case(made(lambda g: umnn(2, layers=2, generator=g, **SMALL)), reason=SEARCHED),
    "umnn-3-conditional": Case(made(lambda g: umnn(3, 2, layers=2, generator=g, **SMALL)), reason=SEARCHED),
}
