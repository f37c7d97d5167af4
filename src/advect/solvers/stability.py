"""Is it stability, rather than accuracy, that sets the step?

An explicit method follows a decaying mode λ < 0 only while h |λ| stays below the stability limit s of its table on
the real axis. On a stiff field the error control settles near h |λ| = s; on a smooth one accuracy keeps h |λ| well
below. A few power iterations on the Jacobian, by differences of the field, give |λ| of the dominant mode. The rule:
a row that has used up its steps is *stiff* if h |λ| > s/2, and has merely met the *step limit* otherwise. The iteration
starts from the embedded error, in which the stiff mode dominates. (Hairer & Wanner 1996, IV.2, use the same quotient
along the solution.) The evaluations are counted, and are made only for rows that fail.
"""

import torch
from torch import Tensor

from advect.solvers.along import System
from advect.solvers.tableau import Tableau, real_stability_limit

POWER_ITERATIONS = 6


def bound_by_stability(
    system: System, tableau: Tableau, t: Tensor, y: Tensor, slope: Tensor, step: Tensor, error: Tensor
) -> Tensor:
    """Which rows the rule calls stiff, ``(rows,)``. Costs `POWER_ITERATIONS` evaluations."""
    bare, size = system.bare(), system.size
    point, speed = y[:, :size].detach(), slope[:, :size].detach()
    small = torch.finfo(y.dtype).eps ** 0.5 * point.norm(dim=1, keepdim=True).clamp(min=1.0)
    direction = _unit(error[:, :size].detach(), speed)
    rate = torch.zeros_like(small)
    with torch.no_grad():
        for _ in range(POWER_ITERATIONS):
            change = (bare(t, point + small * direction) - speed) / small
            rate = change.norm(dim=1, keepdim=True)
            direction = _unit(change, direction)
    return step * rate.squeeze(1) > 0.5 * real_stability_limit(tableau)


def _unit(vector: Tensor, otherwise: Tensor) -> Tensor:
    """``vector`` of length one; where it has none, ``otherwise``, and failing that the diagonal."""
    diagonal = torch.ones_like(vector)
    for candidate in (otherwise, diagonal):
        length = vector.norm(dim=1, keepdim=True)
        vector = torch.where(torch.isfinite(length) & (length > 0), vector, candidate)
    return vector / vector.norm(dim=1, keepdim=True)
