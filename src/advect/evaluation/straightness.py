"""How much a flow moves things about, and how far from straight.

    path energy              E ∫₀¹ |v_t(x_t)|² dt
    straightness             E ∫₀¹ |v_t(x_t) − (x_1 − x_0)|² dt = path energy − E|x_1 − x_0|² (Liu et al. 2209.03003)
    normalised path energy   |path energy − W2²| / W2²            (Tong et al. 2302.00482)

The second is zero exactly for straight lines at constant speed, the third only for those of optimal transport. From
states at times t_k the energy is Σ |x_{k+1} − x_k|²/(t_{k+1} − t_k): that of the polygon through them, equal to the sum
of |v|² dt of an Euler solve on those times, and never above the energy of the curve (Jensen).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError, ShapeError


def path_energy(states: Float[Tensor, "times batch *event"], times: Float[Tensor, " knots"]) -> Float[Tensor, " batch"]:
    """∫ |v|² dt of each row's polygon, in squared units of the rows per unit of time.

    Args:
        states: Positions at ``times``.
        times: Strictly increasing or strictly decreasing; a path run backwards has the same energy.

    Raises:
        ShapeError: Fewer than two times, or another number of states.
        ConfigError: Times that repeat or turn back.
    """
    if len(times) != len(states) or len(times) < 2:
        raise ShapeError(f"{len(states)} states for {len(times)} times", where="path_energy")
    steps = times.diff().to(states)
    if not bool((steps > 0).all() | (steps < 0).all()):
        raise ConfigError("the times repeat or change direction", where="path_energy")
    moved = states.diff(dim=0).reshape(len(steps), states.shape[1], -1).square().sum(2)
    return (moved / steps.abs()[:, None]).sum(0)


def straightness(
    states: Float[Tensor, "times batch *event"], times: Float[Tensor, " knots"]
) -> Float[Tensor, " batch"]:
    """Energy above that of the straight line between each row's ends: 0 for a straight path at constant speed."""
    ends = torch.stack([states[0], states[-1]])
    return (path_energy(states, times) - path_energy(ends, torch.stack([times[0], times[-1]]))).clamp_min(0.0)


def normalised_path_energy(path_energy: float, w2_squared: float) -> float:
    """|path energy − W2²|/W2², with the mean path energy over t from 0 to 1 and the squared distance of the ends.

    Both should come from the same source and target; W2² of n points is biased upwards.
    """
    if not w2_squared > 0:
        raise ConfigError(
            f"W2² is {w2_squared}, but must be positive",
            where="normalised_path_energy",
            remedy="Source and target are equal: report the path energy itself.",
        )
    return abs(path_energy - w2_squared) / w2_squared
