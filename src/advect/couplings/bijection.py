"""A cheap one-to-one pairing of very many rows, in n log n time and linear memory.

The matrix of an exact assignment has n² numbers and its solution takes about n^2.5 operations: at 10⁵ rows neither is
to be had. Here the pairing is made good by exact assignments of small blocks, which can only lower its cost:

1. groups of 256 drawn from all rows, then from blocks of a quarter of them, a sixteenth, and so on: plans between few
   rows of a region bring every row to the right place on that scale;
2. sweeps over blocks of 256 neighbours, cut by medians along random directions: neighbours among the sources, then
   among the targets, then among the sums x0 + x1, the middles of the ways. Blocks of another sweep lie across the
   borders of the last, so that what one could not mend the next does.

A plan is optimal for the squared distance if no cycle of pairs can be improved, and the cycles that can are short where
the map is nearly right: so local repairs lead to near the optimum in few dimensions. In many dimensions blocks hold few
true neighbours and a share of the gain is left; the bounds of `bounds` say how much at most.

Cost above the optimum (squared distance, standard normal to eight Gaussians of standard deviation 0.3, rest of the
coordinates normal, 4000 rows, where the exact assignment is at hand): d = 2: 0.002 %, d = 16: 1.3 %, d = 50: 1.9 %
after three sweeps of each kind.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.couplings.cost import GroundCost
from advect.couplings.draws import integers
from advect.couplings.exact import solve_assignment

_BLOCK, _FINER = 256, 4


@dataclass(frozen=True)
class Bijection:
    """A one-to-one pairing that local repairs found.

    Attributes:
        index0: ``(rows,)`` the source row of each data row.
        mean_cost: Its mean cost.
        sweeps: Rounds over all rows, the first one over random groups included.
        last_gain: What the last round of three sweeps still gained, as a share of the cost.
    """

    index0: Int[Tensor, " rows"]
    mean_cost: float
    sweeps: int
    last_gain: float


def blocks_of(
    points: Float[np.ndarray, "rows dim"], size: int, random: np.random.Generator
) -> list[Int[np.ndarray, " block"]]:
    """Row indices in blocks of at most ``size`` neighbours, halved at medians along random directions."""
    order, edges = np.arange(len(points)), np.array([0, len(points)])
    while np.diff(edges).max() > size:
        sizes = np.diff(edges)
        block = np.repeat(np.arange(len(sizes)), sizes)
        direction = random.standard_normal((len(sizes), points.shape[1])).astype(points.dtype)
        along = np.einsum("rd,rd->r", points[order], direction[block])
        order = order[np.lexsort((along, block))]
        edges = np.unique(np.concatenate([edges, edges[:-1] + sizes // 2]))
    return np.split(order, edges[1:-1])


def solve_bijection(
    x0: Float[Tensor, "rows ..."],
    x1: Float[Tensor, "rows ..."],
    cost: GroundCost,
    *,
    generator: Generator,
    tolerance: float = 1e-3,
    max_rounds: int = 10,
) -> Bijection:
    """A one-to-one pairing of low cost between equally many rows.

    Args:
        x0: Source rows.
        x1: Data rows, as many.
        cost: The ground cost. Blocks are cut in the space of the flattened rows, whatever it is.
        generator: Makes the groups and the directions.
        tolerance: Stop after a round of three sweeps that gained less than this share of the cost.
        max_rounds: Rounds of three sweeps at most.
    """
    rows, device = len(x0), x1.device
    random = np.random.default_rng(int(integers(2**62, 1, generator, torch.device("cpu"))))
    flat0, flat1 = (x.detach().reshape(rows, -1).cpu().float().numpy() for x in (x0, x1))
    index0, costs = random.permutation(rows), np.zeros(rows)

    def repair(block: Int[np.ndarray, " block"]) -> None:
        """Pair the data rows of a block anew with the source rows they have."""
        ends0, ends1 = torch.from_numpy(index0[block]).to(device), torch.from_numpy(block).to(device)
        matrix = cost(x0[ends0], x1[ends1]).cpu().numpy().T
        chosen = solve_assignment(matrix.copy())
        costs[block] = matrix[np.arange(len(block)), chosen]
        index0[block] = index0[block][chosen]

    def sweep(place: Float[np.ndarray, "rows dim"], size: int) -> None:
        """Repair all rows in groups of `_BLOCK`, drawn at random from blocks of ``size`` neighbours."""
        for block in blocks_of(place, size, random):
            for group in np.array_split(random.permutation(block), math.ceil(len(block) / _BLOCK)):
                repair(group)

    places = (lambda: flat0[index0], lambda: flat1, lambda: flat0[index0] + flat1)
    size, sweeps = rows, 0
    while size > _BLOCK:
        sweep(places[-1](), size)
        size, sweeps = size // _FINER, sweeps + 1
    total, gain = math.inf, math.inf
    for _ in range(max_rounds):
        for place in places:
            sweep(place(), _BLOCK)
        before, total, sweeps = total, float(costs.sum()), sweeps + len(places)
        gain = (before - total) / abs(before) if math.isfinite(before) and before else 0.0
        if math.isinf(before):
            continue
        if gain < tolerance:
            break
    return Bijection(torch.from_numpy(index0).to(device), total / rows, sweeps, gain)
