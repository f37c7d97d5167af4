"""Which source row goes with which data row: indices and weights only.

Every coupling has one verb, ``draw(x0, x1, condition=…, generator=…) -> Pairs``, and returns indices, never rows, so
that the same two index tensors permute every per-row tensor of a batch: data, labels, weights. `Independent` pairs
at random, `Assignment` by exact optimal transport, `Entropic` by a plan tied to the noise of a Schrödinger bridge,
and `Classwise` lets any of them act inside each class of a condition.
"""

from advect.couplings.assignment import Assignment, solve_assignment
from advect.couplings.classwise import CONTINUOUS_NOTICE, Classwise
from advect.couplings.cost import centred_rows, distance_cost, squared_cost
from advect.couplings.entropic import Entropic, NotConvergedError
from advect.couplings.independent import Independent
from advect.couplings.sinkhorn import EntropicPlan, solve_entropic

__all__ = [
    "CONTINUOUS_NOTICE",
    "Assignment",
    "Classwise",
    "Entropic",
    "EntropicPlan",
    "Independent",
    "NotConvergedError",
    "centred_rows",
    "distance_cost",
    "solve_assignment",
    "solve_entropic",
    "squared_cost",
]
