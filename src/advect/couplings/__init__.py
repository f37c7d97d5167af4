"""Which source row goes with which data row: indices and weights only.

Every coupling has one verb, ``draw(x0, x1, condition=…, generator=…) -> Pairs``, and returns indices, never rows, so
that the same two index tensors permute every per-row tensor of a batch: data, labels, weights. `Independent` pairs at
random, `Assignment` by optimal transport (exact, or by local repairs where there are very many rows), `Partial`
leaves the dearest pairs out, `Entropic` draws from a plan tied to the noise of a Schrödinger bridge, `Classwise` lets
any of them act inside each class of a condition, `Conditioned` weighs the distance of continuous conditions, `Alike`
pairs two populations that both have conditions.
`Unbalanced` makes and loses mass, and `PlanGrowth` says how much; `LabelGrowth` and `ScaleGrowth` do under conditions.
`Semidiscrete` is prepared with the data set once and then finds the data row of any source row.
"""

from advect.couplings.alike import Alike, rows_alike
from advect.couplings.assignment import Assignment
from advect.couplings.bijection import Bijection, solve_bijection
from advect.couplings.bounds import dual_bound, gelbrich_bound, line_bound, lower_bound
from advect.couplings.classwise import CONTINUOUS_NOTICE, Classwise
from advect.couplings.conditioned import Conditioned
from advect.couplings.cost import (
    GroundCost,
    centred_rows,
    distance_cost,
    great_circle_cost,
    periodic_cost,
    squared_cost,
)
from advect.couplings.entropic import Entropic, NotConvergedError
from advect.couplings.exact import solve_assignment
from advect.couplings.growth import PlanGrowth
from advect.couplings.growth_given import Growth, LabelGrowth, ScaleGrowth, load_growth
from advect.couplings.independent import Independent
from advect.couplings.partial import Partial
from advect.couplings.semidiscrete import Semidiscrete
from advect.couplings.sinkhorn import EntropicPlan, solve_entropic
from advect.couplings.unbalanced import Unbalanced

__all__ = [
    "CONTINUOUS_NOTICE",
    "Alike",
    "Assignment",
    "Bijection",
    "Classwise",
    "Conditioned",
    "Entropic",
    "EntropicPlan",
    "GroundCost",
    "Growth",
    "Independent",
    "LabelGrowth",
    "NotConvergedError",
    "Partial",
    "PlanGrowth",
    "ScaleGrowth",
    "Semidiscrete",
    "Unbalanced",
    "centred_rows",
    "distance_cost",
    "dual_bound",
    "gelbrich_bound",
    "great_circle_cost",
    "line_bound",
    "load_growth",
    "lower_bound",
    "periodic_cost",
    "rows_alike",
    "solve_assignment",
    "solve_bijection",
    "solve_entropic",
    "squared_cost",
]
