"""Flows of angles. One angle alone has no normal source, as the law of the integral wants: see tests/flows."""

import torch

from advect.flows.architectures.circular import circular_nsf
from advect.networks.conditioner import Conditioner
from advect.transforms import Bijection
from tests.laws.maps.case import Case


def built(*args: int, periodic: tuple[int, ...] | None = None) -> Bijection:
    """A small flow in float64 that is not the identity."""
    g = torch.Generator().manual_seed(5)
    flow = circular_nsf(*args, periodic=periodic, layers=3, bins=4, width=8, generator=g).double()
    for module in flow.modules():
        if isinstance(module, Conditioner):
            module.perturb(0.3, generator=g)
    return flow


MAPS: dict[str, Case] = {
    "circular-nsf-2": Case(lambda: built(2)),
    "circular-nsf-3-conditional": Case(lambda: built(3, 2)),
    "circular-nsf-mixed": Case(lambda: built(4, periodic=(0, 3))),
    "circular-nsf-mixed-conditional": Case(lambda: built(3, 1, periodic=(1,))),
    "circular-nsf-line": Case(lambda: built(1, periodic=())),
}
