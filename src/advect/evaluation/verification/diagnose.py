"""From a broken law to its likely cause: mends are tried until one restores the law.

Velocities that are wrong in a usual way become right by a usual change: a sign, a time, a factor. Each is tried with
the very law that failed, so that the advice has been checked. Where none helps, the velocity is compared part by part
with how the drawn points move when their noise is held fixed: x = a x1 + b x0 + c ε moves as a' x1 + b' x0 + c' ε.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advect.evaluation.verification.probe import Drawn, Probe
from advect.evaluation.verification.record import Check
from advect.evaluation.verification.statistics import fitted
from advect.evaluation.verification.strong import Function, Points, points_of, terms_of, tolerance_of
from advect.evaluation.verification.weak import Mend, Window, level_that_holds

TIMES = (0.1, 0.25, 0.4, 0.6, 0.75, 0.9)
CLOSE = 0.02  # of the size of a part: what is exact agrees far better, what is wrong far worse

SIGN = "The sign is swapped: with −u in place of u the law holds."
TIME = "The velocity is that of the time 1 − t: with u(1 − t, x) the law holds."
BOTH = (
    "The velocity is written for time running from the data to the source: with −u(1 − t, x) the law holds. advect has "
    "t = 0 at the source."
)
DISPLACEMENT = (
    "This is a displacement and not a velocity: with u/(1 − t) the law holds. x1 − x is a parameterisation "
    "(predict='displacement'), to be divided by 1 − t before it is integrated."
)
UNKNOWN = "None of the usual mends (sign, time, factor, one wrong part) restores the law."


def diagnose(check: Check, probe: Probe, windows: list[Window] | None) -> Check:
    """A failed continuity check with its likely fix; others as they are.

    Args:
        check: Of the weak form where ``windows`` are given, else of the other one.
        probe: The path.
        windows: The points of the weak form.
    """
    if not check.failed or check.fix is not None:
        return check
    fix = _weakly(probe, windows) if windows is not None else _pointwise(probe)
    return replace(check, fix=fix or UNKNOWN)


def _weakly(probe: Probe, windows: list[Window]) -> str | None:
    """The first mend with which the samples move as told."""
    for words, mend in _MENDS.items():
        needs_velocity = words in (TIME, BOTH)
        if (probe.has_velocity or not needs_velocity) and level_that_holds(probe, windows, mend)[0] is not None:
            return words
    return _by_parts(probe, lambda drawn: drawn.velocity)


def _at_reversed_time(drawn: Drawn, probe: Probe) -> Tensor:
    return probe.velocity(1 - drawn.t, drawn.x, probe.x0, probe.x1).detach()


def _over_remaining_time(drawn: Drawn, probe: Probe) -> Tensor:
    return drawn.velocity / (1 - _as_rows(drawn.t, drawn.x))


_MENDS: dict[str, Mend] = {
    SIGN: lambda drawn, probe: -drawn.velocity,
    DISPLACEMENT: _over_remaining_time,
    TIME: _at_reversed_time,
    BOTH: lambda drawn, probe: -_at_reversed_time(drawn, probe),
}


def _pointwise(probe: Probe) -> str | None:
    """The first mend with which density and velocity fit, else what the parts say."""
    for level in probe.densities_given():
        points = points_of(probe, level)
        fix = None if points is None else _mended(points)
        if fix is not None:
            return fix
    if not probe.can_sample:
        return None
    return _by_parts(probe, lambda drawn: probe.velocity(drawn.t, drawn.x, probe.x0, probe.x1).detach())


def _mended(points: Points) -> str | None:
    u = points.velocity
    mends: dict[str, Function] = {
        SIGN: lambda t, x: -u(t, x),
        DISPLACEMENT: lambda t, x: u(t, x) / (1 - _as_rows(t, x)),
        TIME: lambda t, x: u(1 - t, x),
        BOTH: lambda t, x: -u(1 - t, x),
    }
    tolerance, _ = tolerance_of(points.x.dtype, False)
    for words, velocity in mends.items():
        if float(terms_of(points, velocity).defect.max()) <= tolerance:
            return words
    terms = terms_of(points)
    flow = terms.transport + terms.divergence
    factor = -float((terms.in_time * flow).sum() / flow.square().sum())
    if float(terms_of(points, lambda t, x: factor * u(t, x)).defect.max()) <= tolerance:
        return _factor(torch.full((1,), 1 / factor, dtype=torch.float64))
    return None


@dataclass(frozen=True)
class Parts:
    """Weights of a velocity along x1, x0 and the noise of the path (x − mean), by time; each ``(times,)``."""

    data: Tensor
    source: Tensor
    noise: Tensor


def _by_parts(probe: Probe, told: Callable[[Drawn], Tensor]) -> str | None:
    """What is wrong with a velocity beside the motion of the points; None where that cannot be seen."""
    found, wanted, ratios, noisy = [], [], [], False
    for t in TIMES:
        time = torch.full((probe.rows,), t, dtype=probe.x1.dtype)
        drawn, motion = probe.draw(time), probe.motion(time)
        if motion is None:
            return None
        velocity = told(drawn)
        ratios.append(_ratio(velocity, motion))
        columns, width = _columns(probe, drawn.x)
        noisy = noisy or width > 1e-9
        found.append(_weights(velocity, columns))
        wanted.append(_weights(motion, columns))
    ratio = torch.tensor(ratios, dtype=torch.float64)
    if bool(ratio.isfinite().all()):
        return _factor(ratio)
    return _wrong_part(Parts(*torch.tensor(found).T), Parts(*torch.tensor(wanted).T), noisy)


def _ratio(velocity: Tensor, motion: Tensor) -> float:
    """c with velocity = c · motion; NaN where there is none."""
    size = motion.square().sum()
    if not float(size) > 0:
        return float("nan")
    c = (velocity * motion).sum() / size
    off = (velocity - c * motion).norm() / (c.abs() * motion.norm()).clamp(min=1e-300)
    return float(c) if float(off) < CLOSE else float("nan")


def _factor(ratio: Tensor) -> str:
    """Advice where the velocity is a multiple of the right one, by time or everywhere."""
    if float((ratio - ratio[0]).abs().max()) < CLOSE * float(ratio.abs().max()):
        c = float(ratio.mean())
        return f"The velocity is {c:.5g} times what it should be at every time: divide it by {c:.5g}."
    shown = ", ".join(f"{1 / c:.3g} at t = {t:g}" for c, t in zip(ratio.tolist(), TIMES, strict=True))
    return (
        "The velocity has the right direction and the wrong speed: a chain factor τ'(t) of the path's clock is "
        f"missing. It should be multiplied by {shown}."
    )


def _wrong_part(found: Parts, wanted: Parts, noisy: bool) -> str | None:
    """The one part that is wrong, if the others are right."""
    words = {
        "data": "the weight of x1, α'(t)",
        "source": "the weight of x0, σ'(t)",
        "noise": "the weight of x − mean, σ'(t)/σ(t)",
    }
    wrong = []
    for name in words:
        have, need = getattr(found, name), getattr(wanted, name)
        if name == "noise" and not noisy:
            continue
        if float((have - need).abs().max()) > CLOSE * (1 + float(need.abs().max())):
            wrong.append(name)
    if not wrong:
        return None
    told = [_told(words[name], getattr(found, name), getattr(wanted, name)) for name in wrong]
    if len(wrong) == 1:
        return f"One part of the velocity is wrong: {told[0]}. Is it the derivative of what sample uses?"
    return f"Beside how the points move, these parts of the velocity are wrong: {'; '.join(told)}."


def _told(words: str, found: Tensor, wanted: Tensor) -> str:
    worst = int((found - wanted).abs().argmax())
    return f"{words}, is {float(found[worst]):.3g} at t = {TIMES[worst]:g} and should be {float(wanted[worst]):.3g}"


def _columns(probe: Probe, x: Tensor) -> tuple[list[Tensor], float]:
    """Centred x1, x0 and what they leave of x, flat; and the size of the latter."""
    x1, x0, x = (rows - rows.mean(0) for rows in (probe.x1, probe.x0, x))
    ends = [x1.flatten(), x0.flatten()]
    rest = x.flatten() - torch.stack(ends, 1) @ fitted(ends, x.flatten())
    return [x1.flatten(), x0.flatten(), rest], float(rest.square().mean().sqrt())


def _weights(velocity: Tensor, columns: list[Tensor]) -> list[float]:
    """Least-squares weights of the columns; 0 for noise that is only rounding."""
    used = columns if float(columns[2].abs().max()) > 1e-9 else columns[:2]
    centred = (velocity - velocity.mean(0)).flatten()
    weights = fitted(used, centred).tolist()
    return weights + [0.0] * (3 - len(weights))


def _as_rows(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(-1, *([1] * (x.ndim - 1)))
