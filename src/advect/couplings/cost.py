"""What it costs to bring one row to another: the matrix under every transport plan.

Rows of any event shape are flattened, detached and centred by their common mean in float64 before anything is
multiplied: |x − y|² = |x|² + |y|² − 2x·y loses all its digits in float32 when the rows sit far from the origin, and
none that matter here (the rounding is 1e-16 of the spread of the rows). The matrix is one matrix product: memory is
rows0 × rows1 whatever the event. Devices without float64 hand the work to the CPU.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import DataError, ShapeError, unknown_name


def check_rows(x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."], where: str) -> None:
    """Refuse rows that cannot be paired: none at all, different event shapes, devices, or not finite.

    Raises:
        ShapeError: Empty sides or unequal event shapes.
        DataError: NaN or ±inf, with the side and the row.
    """
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
    for side, x in (("source", x0), ("data", x1)):
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            row = int((~finite.reshape(len(x), -1).all(1)).nonzero()[0])
            raise DataError(
                f"{side} row {row} is not finite",
                where=where,
                remedy="Remove or mend that row; a plan over NaN or infinite costs means nothing.",
            )


def centred_rows(
    x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."]
) -> tuple[Float[Tensor, "source dim"], Float[Tensor, "data dim"]]:
    """Both sides as flat float64 rows without a graph, moved by one common shift so that they surround the origin."""
    device = x1.device if x1.device.type != "mps" else torch.device("cpu")
    flat0, flat1 = (x.detach().to(device, torch.float64).reshape(len(x), -1) for x in (x0, x1))
    centre = (flat0.mean(0) + flat1.mean(0)) / 2
    return flat0 - centre, flat1 - centre


def squared_cost(x0: Float[Tensor, "rows0 dim"], x1: Float[Tensor, "rows1 dim"]) -> Float[Tensor, "rows0 rows1"]:
    """|x0 − x1|² for every pair; the cost of Wasserstein-2 and the default everywhere."""
    cost = torch.addmm(x1.square().sum(1)[None], x0, x1.T, alpha=-2.0)
    return cost.add_(x0.square().sum(1, keepdim=True)).clamp_(min=0.0)


def distance_cost(x0: Float[Tensor, "rows0 dim"], x1: Float[Tensor, "rows1 dim"]) -> Float[Tensor, "rows0 rows1"]:
    """|x0 − x1| for every pair; the cost of Wasserstein-1. Below 1e-8 of the spread it is rounding."""
    return squared_cost(x0, x1).sqrt_()


COSTS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"squared": squared_cost, "distance": distance_cost}
"""The costs by the name written in a configuration."""


def cost_named(name: str, where: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The cost function called ``name``; an `UnknownNameError` offers the nearest."""
    if name not in COSTS:
        raise unknown_name("cost", name, COSTS, where=where)
    return COSTS[name]
