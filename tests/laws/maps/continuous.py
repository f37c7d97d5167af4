"""ODEs as maps, with fixed and with adaptive steps, outside training mode as they are used."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from advect.flows import ContinuousMap, VelocityField
from advect.flows.architectures.continuous import cnf, ot_flow, rnode
from advect.networks import MLP
from advect.solvers import RK4, Adaptive
from advect.solvers.checkpointed import Checkpointed
from advect.typing import Solver
from tests.laws.maps.case import Case

STEPS = 16  # the fewest that a likelihood by RK4 may have


@dataclass(frozen=True)
class Tight:
    """Adaptive steps as fine as the dtype of the rows allows."""

    def __call__(self, field, x, *arguments, **options):
        tolerance = 1e-9 if x.dtype is torch.float64 else 1e-5
        return Adaptive(rtol=tolerance, atol=tolerance)(field, x, *arguments, **options)


def _woken(map: ContinuousMap, solver: Solver, scale: float) -> ContinuousMap:
    """With weights drawn large enough to move points and volumes."""
    generator = torch.Generator().manual_seed(4)
    for parameter in map.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    return map.double().with_options(solver=solver, likelihood_solver=solver).eval()


def _pictures() -> ContinuousMap:
    network = MLP((2, 2), width=5, depth=2, activation="tanh")
    return ContinuousMap(VelocityField(network), event_shape=(2, 2), condition_shape=None)


def _fixed(build: Callable[[], ContinuousMap], scale: float = 0.35, solver: Solver = RK4(STEPS)) -> Case:  # noqa: B008
    return Case(
        lambda: _woken(build(), solver, scale),
        round_trip=1e-9,
        round_trip_float32=1e-5,
        reason="the error of the steps, below 1e-9 at these weights; float32 sums some hundred evaluations",
    )


def _adaptive(build: Callable[[], ContinuousMap], scale: float = 0.5) -> Case:
    return Case(
        lambda: _woken(build(), Tight(), scale),
        log_det=1e-8,
        round_trip=1e-8,
        round_trip_float32=2e-4,
        reason="each of some twenty steps may be off by the tolerance, 1e-9 in float64 and 1e-5 in float32",
    )


MAPS: dict[str, Case] = {
    "cnf-1": _fixed(lambda: cnf(1, width=5)),
    "cnf-2-conditional": _fixed(lambda: cnf(2, 3, width=5)),
    "cnf-3-deep": _adaptive(lambda: cnf(3, width=5, depth=3)),
    "rnode-2": _fixed(lambda: rnode(2, width=5), 0.3),
    "ot-flow-1-conditional": _fixed(lambda: ot_flow(1, 2, width=5)),
    "ot-flow-2": _adaptive(lambda: ot_flow(2, width=5)),
    "continuous-pictures": _fixed(_pictures, 0.3, solver=Checkpointed(RK4(STEPS))),
}
