"""The functions and maps that adapters bring with them, with random weights, without the libraries they come from."""

from collections.abc import Callable

from torch import Generator

from advect.adapters.nflows import SigmoidScale, SoftplusScale, SoftplusSpline
from advect.adapters.passes import PassByPass
from advect.adapters.zuko import SoftScale, SoftSpline
from advect.networks.dependence import chain
from advect.networks.masked import MaskedMLP
from advect.transforms import Bijection
from advect.transforms.monotone import Monotone
from tests.laws.maps.case import Case
from tests.laws.maps.coupling import elementwise


def pass_by_pass(function: Monotone, features: int, condition_features: int = 0) -> Callable[[], Bijection]:
    def build() -> Bijection:
        generator = Generator().manual_seed(11)
        adjacency = chain(list(range(features)))
        size = function.num_parameters
        network = MaskedMLP(adjacency, size, condition_features, depth=2, width=8, generator=generator)
        network.perturb(0.3, generator=generator)
        return PassByPass(function, network, adjacency, condition_features).double()

    return build


MAPS: dict[str, Case] = {
    "adapted-sigmoid-scale": Case(elementwise(SigmoidScale(), 2)),
    "adapted-softplus-scale-conditional": Case(elementwise(SoftplusScale(), 1, 2)),
    "adapted-softplus-spline": Case(elementwise(SoftplusSpline(4, 3.0), 1)),
    "adapted-soft-scale": Case(elementwise(SoftScale(), 1)),
    "adapted-soft-spline-conditional": Case(elementwise(SoftSpline(4, 3.0), 2, 2)),
    "adapted-pass-by-pass": Case(pass_by_pass(SoftplusScale(), 3)),
    "adapted-pass-by-pass-conditional": Case(pass_by_pass(SoftSpline(3, 2.0), 2, 1)),
}
