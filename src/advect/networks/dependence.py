"""Which output may look at which input: orders, adjacency matrices, and the levels in which they can be walked.

An adjacency matrix A is boolean, A[i, j] for "output i may look at input j". A map whose Jacobian has that pattern can
be inverted coordinate by coordinate exactly if A has no cycle: sorted by the longest path that leads to them,

    level(i) = 1 + max level(j) over j with A[i, j],   0 where there is none,

coordinates of one level need only those of lower ones and are found together. The chain of an order has as many levels
as coordinates, two independent halves half as many, a coupling two (Wehenkel & Louppe 2021, arXiv 2006.02548).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from advect.errors import ConfigError


@dataclass(frozen=True)
class Levels:
    """The coordinates in an order in which they can be found one after another.

    Attributes:
        of: Level of each coordinate, counted from 0.
        order: All coordinates, by level.
        sizes: Number of coordinates of each level.
    """

    of: tuple[int, ...]
    order: tuple[int, ...]
    sizes: tuple[int, ...]


def chain(order: Sequence[int]) -> Bool[Tensor, "features features"]:
    """The adjacency of a full chain: each coordinate may look at all those before it in ``order``.

    >>> chain([1, 0]).tolist()
    [[False, True], [False, False]]

    Raises `ConfigError` unless ``order`` names each of 0 … features−1 once.
    """
    order = list(order)
    if sorted(order) != list(range(len(order))):
        raise ConfigError(
            f"the order {order} does not name each of 0 … {len(order) - 1} once",
            where="order",
            remedy="Give a permutation of the coordinates, counted from 0.",
        )
    place = torch.empty(len(order), dtype=torch.long)
    place[order] = torch.arange(len(order))
    return place[:, None] > place[None, :]


def find_levels(adjacency: Bool[Tensor, "features features"]) -> Levels:
    """Sort the coordinates so that each comes after all it may look at.

    Raises `ConfigError` for a coordinate that looks at itself, and for a cycle, which is named.
    """
    alone = adjacency.diagonal().nonzero().flatten().tolist()
    if alone:
        raise ConfigError(
            f"output {alone[0]} looks at its own input (entry [{alone[0]}, {alone[0]}] is true)",
            where="adjacency",
            remedy="Leave the diagonal false: the function of a coordinate is monotone in it anyway.",
        )
    waits = adjacency.sum(1)
    level = torch.full((len(adjacency),), -1)
    order: list[int] = []
    sizes: list[int] = []
    while len(order) < len(adjacency):
        ready = ((waits == 0) & (level < 0)).nonzero().flatten()
        if not len(ready):
            cycle = " → ".join(map(str, _cycle(adjacency, level < 0)))
            raise ConfigError(
                f"the outputs look at one another in a circle: {cycle}",
                where="adjacency",
                remedy="Make one of these entries [i, j], i → j, false; only without cycles is the map invertible.",
            )
        level[ready] = len(sizes)
        waits = waits - adjacency[:, ready].sum(1)
        order += ready.tolist()
        sizes.append(len(ready))
    return Levels(tuple(level.tolist()), tuple(order), tuple(sizes))


def _cycle(adjacency: Tensor, left: Tensor) -> list[int]:
    """A closed walk among the coordinates ``left``, each of which looks at another of them."""
    walk = [int(left.nonzero()[0])]
    while walk.count(walk[-1]) == 1:
        walk.append(int((adjacency[walk[-1]] & left).nonzero()[0]))
    return walk[walk.index(walk[-1]) :]


def check_adjacency(adjacency: Tensor, features: int) -> Bool[Tensor, "features features"]:
    """The matrix as booleans on the CPU; raises `ConfigError` unless it is ``(features, features)`` of 0 and 1."""
    matrix = torch.as_tensor(adjacency).detach().cpu()
    if tuple(matrix.shape) != (features, features):
        raise ConfigError(
            f"it has shape {tuple(matrix.shape)}, expected ({features}, {features})",
            where="adjacency",
            remedy="Entry [i, j] says whether output i may look at input j.",
        )
    if matrix.dtype != torch.bool and not bool(((matrix == 0) | (matrix == 1)).all()):
        raise ConfigError("it has entries other than 0 and 1", where="adjacency", remedy="Give booleans.")
    return matrix.bool()


def within(
    inner: Bool[Tensor, "first features"], outer: Bool[Tensor, "second features"]
) -> Bool[Tensor, "second first"]:
    """Entry [v, u]: whether set u of ``inner`` is a subset of set v of ``outer``; sets are rows."""
    missing = (~outer).to(torch.float32) @ inner.to(torch.float32).T
    return missing == 0
