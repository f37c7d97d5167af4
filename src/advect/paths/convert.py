"""Exact conversion between predictions of velocity, noise, score, x1, displacement and EDM's output.

With x = αD + σE, where D = E[x1|x] and E = E[x0|x], every prediction is an affine function of every other at given x
and t, on any affine schedule: velocity v = α'D + σ'E, score S = −E/σ (standard-normal source), displacement D − x. On
the linear path the displacement divided by 1 − t is the velocity. ``edm`` is what a network says inside Karras et
al.'s preconditioning D = c_skip x + c_out F (2206.00364, table 1, data of unit variance, on x/α with noise σ/α):
F = (σD − αE)/√(α² + σ²), which is minus the "v" of Salimans & Ho (2202.00512) where α² + σ² = 1; it is of unit size and
says everything at every time. So one table of two coefficients, ``target = a·x + b·value``, holds all of it, and
|Δtarget|² = b²|Δvalue|² gives the loss weights.

Where a weight vanishes, some predictions carry no information on others (at t = 1 the linear path's x says nothing
about the noise): the quotient is 0/0 and no limit exists point by point. Such a coefficient is evaluated a few units
of rounding inside the interval, so that results are finite at the ends and exact everywhere else; coefficients that
have a limit take it exactly.
"""

from collections.abc import Hashable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import unknown_name
from advect.paths.schedule import wronskian
from advect.typing import Rows, Schedule, Times, batch_time, expand_time

PREDICTIONS = ("velocity", "noise", "score", "x1", "displacement", "edm")

AnyTimes = Float[Tensor, "*times"]

# The quantity that each conversion divides by; the others divide by nothing.
_DIVISORS = {
    ("velocity", "noise"): "R",
    ("velocity", "x1"): "R",
    ("velocity", "displacement"): "R",
    ("velocity", "score"): "σR",
    ("noise", "velocity"): "α",
    ("noise", "x1"): "α",
    ("noise", "displacement"): "α",
    ("noise", "score"): "σ",
    ("score", "velocity"): "α",
    ("score", "x1"): "α",
    ("score", "displacement"): "α",
    ("x1", "velocity"): "σ",
    ("x1", "noise"): "σ",
    ("x1", "score"): "σ²",
    ("displacement", "velocity"): "σ",
    ("displacement", "noise"): "σ",
    ("displacement", "score"): "σ²",
    ("velocity", "edm"): "R",
    ("noise", "edm"): "α",
    ("score", "edm"): "α",
    ("x1", "edm"): "σ",
    ("displacement", "edm"): "σ",
    ("edm", "score"): "σ",
}


def _divisor(name: str, t: Tensor, schedule: Schedule) -> Tensor:
    product = torch.ones_like(t)
    for symbol in name.replace("σ²", "σσ"):
        match symbol:
            case "α":
                product = product * schedule.alpha(t)
            case "σ":
                product = product * schedule.sigma(t)
            case _:
                product = product * wronskian(schedule, t)
    return product


def _sound_ends(name: str, schedule: Schedule) -> tuple[bool, bool]:
    """Whether the divisor is finite and not 0 at t = 0 and at t = 1."""
    ends = _divisor(name, torch.tensor([0.0, 1.0], dtype=torch.float64), schedule)
    sound = ends.isfinite() & (ends != 0)
    return bool(sound[0]), bool(sound[1])


_sound_ends_once = lru_cache(maxsize=256)(_sound_ends)


def _inside(from_: str, to: str, t: Tensor, schedule: Schedule, margin: float) -> Tensor:
    """Times in float64, kept away by ``margin`` from an end where the divisor vanishes or is not finite."""
    name = _DIVISORS.get((from_, to))
    if name is None:
        return t.double().clamp(0, 1)
    look_up = _sound_ends_once if isinstance(schedule, Hashable) else _sound_ends
    first, last = look_up(name, schedule)
    return t.double().clamp(0.0 if first else margin, 1.0 if last else 1 - margin)


def _check(from_: str, to: str) -> None:
    for name in (from_, to):
        if name not in PREDICTIONS:
            raise unknown_name("prediction", name, PREDICTIONS)


def _of_ends(to: str, a: Tensor, s: Tensor, da: Tensor, ds: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (of D, of E) of a target."""
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    match to:
        case "velocity":
            return da, ds
        case "noise":
            return zero, one
        case "score":
            return zero, -1 / s
        case "x1":
            return one, zero
        case "edm":
            size = torch.hypot(a, s)
            return s / size, -a / size
        case _:
            return 1 - a, -s


def _direct(from_: str, to: str, s: Tensor) -> tuple[Tensor, Tensor] | None:
    """The conversions that see only one of D and E, or None."""
    one, zero = torch.ones_like(s), torch.zeros_like(s)
    match from_, to:
        case "noise", "score":
            return zero, -1 / s
        case "score", "noise":
            return zero, -s
        case "x1", "displacement":
            return -one, one
        case "displacement", "x1":
            return one, one
        case _:
            return None


def coefficients(
    from_: str, to: str, t: AnyTimes, schedule: Schedule, margin: float = 8 * torch.finfo(torch.float64).eps
) -> tuple[AnyTimes, AnyTimes]:
    """The (a, b) of ``target = a·x + b·value`` at times ``t``, in float64.

    ``margin`` is how far from a singular end they are taken at the nearest; raises `UnknownNameError` for a name
    that is not in `PREDICTIONS`.
    """
    _check(from_, to)
    if from_ == to:
        return torch.zeros_like(t, dtype=torch.float64), torch.ones_like(t, dtype=torch.float64)
    t = _inside(from_, to, t, schedule, margin)
    a, s = schedule.alpha(t), schedule.sigma(t)
    if (direct := _direct(from_, to, s)) is not None:
        return direct
    da, ds = schedule.alpha_derivative(t), schedule.sigma_derivative(t)
    of_data, of_noise = _of_ends(to, a, s, da, ds)
    # Solve for the one of D, E that `value` gives, and for the other from x = αD + σE.
    match from_:
        case "velocity":
            rate = da * s - a * ds
            return (of_noise * da - of_data * ds) / rate, (of_data * s - of_noise * a) / rate
        case "noise":
            return of_data / a, of_noise - of_data * s / a
        case "score":  # E = −σS
            return of_data / a, -s * (of_noise - of_data * s / a)
        case "x1":
            return of_noise / s, of_data - of_noise * a / s
        case "edm":  # D = (αx + σ√n F)/n, E = (σx − α√n F)/n with n = α² + σ²
            size = torch.hypot(a, s)
            return (of_data * a + of_noise * s) / size.square(), (of_data * s - of_noise * a) / size
        case _:  # displacement y: D = x + y, E = ((1 − α)x − αy)/σ
            return of_data + of_noise * (1 - a) / s, of_data - of_noise * a / s


def convert(value: Rows, from_: str, to: str, t: Times, x: Rows, schedule: Schedule) -> Rows:
    """Turn one prediction at points ``x`` and times ``t`` into another.

    Args:
        value: ``(batch, *event)`` of the kind ``from_``.
        from_: One of ``velocity``, ``noise``, ``score``, ``x1``, ``displacement``, ``edm``.
        to: Likewise.
        t: ``(batch,)`` in [0, 1].
        x: ``(batch, *event)`` points on the path.
        schedule: The affine schedule; ``noise`` and ``score`` mean a standard-normal source.

    Returns:
        ``(batch, *event)``, finite also at t = 0 and t = 1.
    """
    margin = 8 * torch.finfo(x.dtype).eps
    of_x, of_value = coefficients(from_, to, batch_time(t, x), schedule, margin)
    return expand_time(of_x, x) * x + expand_time(of_value, x) * value


def target(name: str, t: Times, x0: Rows, x1: Rows, schedule: Schedule) -> Rows:
    """What a network that predicts ``name`` is regressed on, given both ends: D = x1 and E = x0.

    Args:
        name: One of `PREDICTIONS`.
        t: ``(batch,)`` in [0, 1].
        x0: ``(batch, *event)`` source rows.
        x1: ``(batch, *event)`` data rows.
        schedule: The affine schedule.

    Returns:
        ``(batch, *event)``; the score is not finite where σ = 0.
    """
    _check(name, name)
    time = batch_time(t, x1).double()
    weights = (schedule.alpha(time), schedule.sigma(time), *_slopes_if(name, time, schedule))
    of_data, of_noise = _of_ends(name, *weights)
    return expand_time(of_data, x1) * x1 + expand_time(of_noise, x1) * x0


def _slopes_if(name: str, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """α' and σ' where the target has them, else zeros: at some ends they are not finite."""
    if name != "velocity":
        return torch.zeros_like(t), torch.zeros_like(t)
    return schedule.alpha_derivative(t), schedule.sigma_derivative(t)


def error_factor(from_: str, to: str, t: AnyTimes, schedule: Schedule) -> AnyTimes:
    """|Δto|²/|Δfrom_|² at each time: a loss on ``from_`` times this is the loss on ``to``."""
    return coefficients(from_, to, t, schedule)[1].square().to(t.dtype)
