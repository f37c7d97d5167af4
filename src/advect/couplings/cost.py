"""What it costs to bring one row to another: the matrix under every transport plan.

Rows of any event shape are flattened, detached and centred by their common mean in float64 before anything is
multiplied: |x − y|² = |x|² + |y|² − 2x·y loses all its digits in float32 when the rows sit far from the origin, and
none that matter here (the rounding is 1e-16 of the spread of the rows). The matrix is one matrix product: memory is
rows0 × rows1 whatever the event. Devices without float64 hand the work to the CPU.

A ground cost is any function of two sets of rows, ``(rows0, *event)`` and ``(rows1, *event)``, that gives the matrix
``(rows0, rows1)``. Two have names; `periodic_cost` and `great_circle_cost` make others; users write their own. Rows
reach it in float64, as they are: a cost need not be the same everywhere in space.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError, DataError, ShapeError, unknown_name

GroundCost = Callable[[Tensor, Tensor], Tensor]


def check_rows(x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."], where: str) -> None:
    """Refuse rows that cannot be paired: none at all, different event shapes, or not finite.

    Raises:
        ShapeError: Empty sides or unequal event shapes.
        DataError: NaN or ±inf, with the side and the row.
    """
    check_shapes(x0, x1, where)
    check_finite(x0, x1, where)


def check_shapes(x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."], where: str) -> None:
    """The part of `check_rows` that looks at no number."""
    if x0.ndim == 0 or x1.ndim == 0 or not len(x0) or not len(x1):
        raise ShapeError(
            f"source of shape {tuple(x0.shape)} and data of shape {tuple(x1.shape)} cannot be paired",
            where=where,
            remedy="Give at least one row on each side.",
        )
    if x0.shape[1:] != x1.shape[1:]:
        raise ShapeError(
            f"source rows have shape {tuple(x0.shape[1:])}, data rows {tuple(x1.shape[1:])}",
            where=where,
            remedy="Give both sides the same event shape.",
        )


def check_finite(x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."], where: str) -> None:
    """The part of `check_rows` that reads all rows."""
    for side, x in (("source", x0), ("data", x1)):
        # One pass over the rows: a sum is finite only if they are, unless it overflows.
        if x.is_floating_point() and math.isfinite(x.detach().sum()):
            continue
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            row = int((~finite.reshape(len(x), -1).all(1)).nonzero()[0])
            raise DataError(
                f"{side} row {row} is not finite",
                where=where,
                remedy="Remove or mend that row; a plan over NaN or infinite costs means nothing.",
            )


def exact_rows(
    x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."]
) -> tuple[Float[Tensor, "source ..."], Float[Tensor, "data ..."]]:
    """Both sides in float64 without a graph, on one device that has it."""
    device = x1.device if x1.device.type != "mps" else torch.device("cpu")
    x0, x1 = (x.detach().to(device, torch.float64) for x in (x0, x1))
    return x0, x1


def centred_rows(
    x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."]
) -> tuple[Float[Tensor, "source dim"], Float[Tensor, "data dim"]]:
    """Both sides as flat float64 rows without a graph, moved by one common shift so that they surround the origin."""
    flat0, flat1 = (x.reshape(len(x), -1) for x in exact_rows(x0, x1))
    centre = (flat0.mean(0) + flat1.mean(0)) / 2
    return flat0 - centre, flat1 - centre


def squared_cost(x0: Float[Tensor, "rows0 dim"], x1: Float[Tensor, "rows1 dim"]) -> Float[Tensor, "rows0 rows1"]:
    """|x0 − x1|² for every pair; the cost of Wasserstein-2 and the default everywhere."""
    cost = torch.addmm(x1.square().sum(1)[None], x0, x1.T, alpha=-2.0)
    return cost.add_(x0.square().sum(1, keepdim=True)).clamp_(min=0.0)


def distance_cost(x0: Float[Tensor, "rows0 dim"], x1: Float[Tensor, "rows1 dim"]) -> Float[Tensor, "rows0 rows1"]:
    """|x0 − x1| for every pair; the cost of Wasserstein-1. Below 1e-8 of the spread it is rounding."""
    return squared_cost(x0, x1).sqrt_()


def periodic_cost(period: float) -> GroundCost:
    """Squared distance where every coordinate repeats after ``period``: rows on a torus, such as angles.

    >>> periodic_cost(360.0)(torch.tensor([[10.0]]), torch.tensor([[350.0]]))
    tensor([[400.]])
    """
    if not 0 < period < float("inf"):
        raise ConfigError(f"the period is {period}, but must be a positive number", where="periodic_cost")

    def cost(x0: Tensor, x1: Tensor) -> Tensor:
        flat0, flat1 = x0.reshape(len(x0), -1), x1.reshape(len(x1), -1)
        total = flat0.new_zeros(len(flat0), len(flat1))
        for column0, column1 in zip(flat0.T, flat1.T, strict=True):
            apart = column0[:, None] - column1
            total += (apart - period * torch.round(apart / period)).square_()
        return total

    return cost


def great_circle_cost(radius: float = 1.0) -> GroundCost:
    """Squared length of the shortest way along a sphere about the origin; rows are scaled to lie on it.

    The angle is 2·atan2(|u − v|, |u + v|) of the unit vectors (Kahan), which keeps its digits at 0 and at π.
    """
    if not 0 < radius < float("inf"):
        raise ConfigError(f"the radius is {radius}, but must be a positive number", where="great_circle_cost")

    def cost(x0: Tensor, x1: Tensor) -> Tensor:
        unit0, unit1 = (torch.nn.functional.normalize(x.reshape(len(x), -1), dim=1) for x in (x0, x1))
        apart, together = torch.cdist(unit0, unit1), torch.cdist(unit0, -unit1)
        return (2 * radius * torch.atan2(apart, together)).square_()

    return cost


COSTS: Mapping[str, GroundCost] = {
    "squared": lambda x0, x1: squared_cost(*centred_rows(x0, x1)),
    "distance": lambda x0, x1: distance_cost(*centred_rows(x0, x1)),
}
"""The ground costs by the name written in a configuration."""


def ground_cost(cost: str | GroundCost, where: str) -> GroundCost:
    """The ground cost called ``cost``, or the user's own with its answer checked.

    Raises:
        UnknownNameError: No cost of that name; the nearest is offered.
    """
    if isinstance(cost, str):
        if cost not in COSTS:
            raise unknown_name("cost", cost, COSTS, where=where)
        return COSTS[cost]
    own = cost

    def checked(x0: Tensor, x1: Tensor) -> Tensor:
        x0, x1 = exact_rows(x0, x1)
        matrix = own(x0, x1)
        if not isinstance(matrix, Tensor) or tuple(matrix.shape) != (len(x0), len(x1)):
            shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise ShapeError(
                f"the cost gave {shape} for {len(x0)} source and {len(x1)} data rows",
                where=where,
                remedy="Return a tensor of shape (source rows, data rows).",
            )
        if not bool(torch.isfinite(matrix).all()):
            row, column = (~torch.isfinite(matrix)).nonzero()[0].tolist()
            raise DataError(
                f"the cost between source row {row} and data row {column} is not finite",
                where=where,
                remedy="Give forbidden pairs a large finite cost.",
            )
        return matrix.detach().to(torch.float64)

    return checked
