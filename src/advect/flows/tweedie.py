"""Mean and covariance of the data given a point on its way, read off a velocity.

On an affine path x_t = α x1 + σ x0 with a standard-normal x0 that does not depend on x1,

    D(t, x) = E[x1 | x_t = x] = a x + b v(t, x),          C(t, x) = Cov[x1 | x_t = x] = (σ²/α) ∂D/∂x

(`paths.convert.coefficients` for a and b). The first is Tweedie's formula; the second is its derivative, exact for any
data: the law of x1 given x is the exponential family p(x1) exp(α⟨x, x1⟩/σ² − α²|x1|²/2σ²) up to its norm, whose mean D
has the derivative (α/σ²) C with respect to x (Boys et al. 2310.06721, section 2; Efron 2011). C is symmetric, so a
product C w takes one vector–Jacobian product of the velocity and the matrix itself is never made.

Towards the source C is the covariance of the data and hardly depends on t, while dividing by α magnifies whatever is
wrong with a learnt ∂D/∂x. At α < 0.05 σ the products are therefore those at α = 0.05 σ: what x tells about the data is
less than a 400th of its variance there, so C is known to that accuracy from a place where it can be read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advect.errors import UnsupportedError
from advect.paths import coefficients
from advect.typing import Field, Schedule, batch_time, expand_time

FAINTEST = 0.05
NUMBERS_AT_ONCE = 2**23  # of all products in one block: about 30 MB for the block and as much per layer of the network


@dataclass(frozen=True)
class Tweedie:
    """What a velocity says about the data behind points ``(batch, *event)``.

    Attributes:
        velocity: ``(batch, *event)`` at the points.
        mean: ``(batch, *event)``: D.
        scale: ``(batch,)`` float64: σ²/(α² + σ²), what C would be for independent data of unit variance.
        product: ``(vectors, batch, *event)`` to C times each.
    """

    velocity: Tensor
    mean: Tensor
    scale: Tensor
    product: Callable[[Tensor], Tensor]


def tweedie(field: Field, schedule: Schedule, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tweedie:
    """The data behind ``x``, by one evaluation of the field, or two where α < 0.05 σ for any row.

    Args:
        field: The velocity.
        schedule: α and σ of its path.
        t: Time, a scalar or ``(batch,)``; σ > 0 there.
        x: ``(batch, *event)``.
        condition: ``(batch, …)`` or None, for the field.
    """
    time = batch_time(t, x)
    later = torch.maximum(time, torch.full_like(time, earliest(schedule)))
    ratio = schedule.sigma(later.double()) / schedule.sigma(time.double())
    linear = torch.func.vjp(lambda point: field(later, point, condition), expand_time(ratio, x) * x)
    velocity, pull = linear[0], linear[1]
    early = later > time
    if bool(early.any()):
        velocity = torch.where(expand_time(early, x) > 0, field(time, x, condition), velocity)
    of_x, of_v = (expand_time(c, x) for c in coefficients("velocity", "x1", time, schedule))
    alpha, sigma = schedule.alpha(later.double()), schedule.sigma(later.double())
    factor = expand_time(sigma.square() / alpha, x)
    own, moved = (factor * expand_time(c, x) for c in coefficients("velocity", "x1", later, schedule))

    def product(vectors: Tensor) -> Tensor:
        at_once = max(1, NUMBERS_AT_ONCE // max(1, x.numel()))
        (pulled,) = torch.func.vmap(pull, chunk_size=at_once)(vectors)
        return own * vectors + moved * pulled

    scale = sigma.square() / (alpha.square() + sigma.square())
    return Tweedie(velocity, of_x * x + of_v * velocity, scale, product)


def earliest(schedule: Schedule) -> float:
    """The time from which C is read where it is asked for: α = 0.05 σ, or the start."""
    return float(schedule.time_of_log_snr(torch.tensor(2 * math.log(FAINTEST), dtype=torch.float64)))


def schedule_with_score(field: object, asked: str) -> Schedule:
    """The schedule of a field that knows its score.

    Raises:
        UnsupportedError: The path is not affine, or its source is not a normal independent of the data.
    """
    schedule = getattr(field, "schedule", None)
    if schedule is None or not getattr(field, "has_score", False):
        raise UnsupportedError(
            "this needs the mean of the data behind a point on its way, and this model does not know it",
            where=asked,
            remedy="It is known to models with a Gaussian source paired at random: fm, i-cfm, rf and the diffusion "
            "rows (vp, cosine, edm, …), trained without --source.",
        )
    return schedule
