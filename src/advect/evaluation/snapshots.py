"""How well a time that no model was shown is told: Wasserstein-1 to its rows, beside what it should be judged by.

    model          rows of the time before, moved by the model
    interpolation  (1 − s) x0 + s x1 over the optimal plan between the times before and after: what no training gets
    still          the rows of the time before, where they are
    floor          real rows against real rows

All under one number of rows, because the distance shrinks as rows are added; means over random halves of the real rows.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings import centred_rows, solve_assignment, squared_cost
from advect.errors import DataError
from advect.evaluation.noise_floor import spread_of
from advect.evaluation.wasserstein import wasserstein

MOST_ROWS = 1000  # in one comparison: a quarter of a second for a distance
REPEATS = 5
MOST_PLANNED = 2000  # rows of either side of the plan that is interpolated


@dataclass(frozen=True)
class Distance:
    """A distance to the real rows of a time.

    Attributes:
        value: Mean over the repeats.
        spread: Standard deviation over them; None for a single one.
    """

    value: float
    spread: float | None


def interpolated(
    before: Float[Tensor, "before dim"], after: Float[Tensor, "after dim"], share: float, *, generator: Generator
) -> Float[Tensor, "rows dim"]:
    """Rows on the straight lines of the exact optimal plan (squared cost) between two samples, at ``share`` of the way.

    Equally many rows of both, drawn without replacement: McCann's displacement interpolation of the two samples.
    """
    count = min(len(before), len(after), MOST_PLANNED)
    x0, x1 = _some(before, count, generator), _some(after, count, generator)
    plan = torch.from_numpy(solve_assignment(squared_cost(*centred_rows(x0, x1)).cpu().numpy()))
    return torch.lerp(x0, x1[plan], share)


def snapshot_distances(
    real: Float[Tensor, "real dim"],
    candidates: dict[str, Float[Tensor, "rows dim"]],
    *,
    reference: Float[Tensor, "reference dim"] | None = None,
    generator: Generator,
) -> tuple[dict[str, Distance], int]:
    """Wasserstein-1 between the real rows of a time and each candidate, and the floor.

    Args:
        real: Rows of the time that the model has not seen.
        candidates: Rows that stand for it, by name.
        reference: Further real rows, for the floor; without them ``real`` is halved.
        generator: Draws halves and subsets.

    Returns:
        The distances by name, ``floor`` among them, and the number of rows in each.

    Raises:
        DataError: Fewer than two rows on one side.
    """
    pool = len(real) // 2 if reference is None else min(len(real), len(reference))
    count = min([pool, MOST_ROWS, *(len(rows) for rows in candidates.values())])
    if count < 2:
        raise DataError(f"{count} rows of a time cannot be compared with anything", where="snapshots")
    found: dict[str, list[float]] = {name: [] for name in ("floor", *candidates)}
    for _ in range(REPEATS):
        if reference is None:
            halves = _some(real, 2 * count, generator)
            one, other = halves[:count], halves[count:]
        else:
            one, other = _some(real, count, generator), _some(reference, count, generator)
        found["floor"].append(wasserstein(one, other, 1))
        for name, rows in candidates.items():
            found[name].append(wasserstein(_some(rows, count, generator), one, 1))
    spreads = {name: spread_of(values) for name, values in found.items()}
    return {name: Distance(one.value, one.spread) for name, one in spreads.items()}, count


def _some(rows: Tensor, count: int, generator: Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)[:count]]
