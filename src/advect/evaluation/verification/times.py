"""Singular times, and the size of the regression target on the way to them."""

import torch
from torch import Tensor

from advect.errors import AdvectError
from advect.evaluation.verification.probe import Probe
from advect.evaluation.verification.record import FAIL, NOTE, PASS, SKIPPED, Check

FINITE, TARGET = "singular times", "target variance"
EDGES = (0.0, 1.0, 1e-7, 1 - 1e-7, 1e-30, 0.5)
DISTANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
GROWS_LIKE = 0.9  # power of 1/distance at which ∫ E|u|² dt is taken to diverge; 1 does
TALL = 100.0
LIMIT = (
    "Where the path has no width left, leave out the term that divides by it: its mean is 0. The limit of the rest is "
    "finite; see BrownianBridge and GaussianPath."
)


def finite_check(probe: Probe) -> Check:
    """Whether points, velocities and scores are finite at both ends and next to them, in both precisions."""
    if not probe.can_sample:
        return Check(FINITE, SKIPPED, "the path draws no samples")
    rows = slice(0, min(16, probe.rows))
    for dtype in (torch.float64, torch.float32):
        precision = "" if dtype == torch.float64 else " in float32"
        for t in EDGES:
            try:
                found = _not_finite(probe, t, rows, dtype)
            except AdvectError as error:  # right in float64, where the laws are tried; training needs the other
                return Check(FINITE, NOTE, f"with rows{precision}, as in training, {error.what}", t=t)
            if found is not None:
                what, x = found
                return Check(FINITE, FAIL, f"{what} is not finite at t = {t:g}{precision}", t=t, x=x, fix=LIMIT)
    return Check(FINITE, PASS, "x, velocity and score are finite at t = 0 and t = 1 and next to them")


def _not_finite(probe: Probe, t: float, rows: slice, dtype: torch.dtype) -> tuple[str, tuple[float, ...] | None] | None:
    """What is not finite at a time, and where; None where all is."""
    count = probe.x1[rows].shape[0]
    time = torch.full((count,), t, dtype=dtype)
    drawn = probe.draw(time, rows, dtype)
    values: dict[str, Tensor | None] = {"x": drawn.x, "the velocity": drawn.velocity, "the score": drawn.score}
    if probe.has_velocity and bool(drawn.x.isfinite().all()):
        values["velocity(t, x, x0, x1)"] = probe.velocity(
            time, drawn.x, probe.x0[rows].to(dtype), probe.x1[rows].to(dtype)
        )
    for name, value in values.items():
        if value is not None and not bool(value.isfinite().all()):
            row = int((~value.isfinite()).reshape(count, -1).any(1).nonzero()[0])
            place = drawn.x[row].double().flatten()
            return name, tuple(place.tolist()) if bool(place.isfinite().all()) else None
    return None


def target_check(probe: Probe) -> Check:
    """Whether the loss has a mean: w(t) E|u_t|² must not grow like 1/distance towards an end.

    E|u|² is the second moment of the regression target per coordinate. The part of it that a network can learn is
    E|v|², the rest is the variance that stays in the loss.
    """
    if not probe.can_sample:
        return Check(TARGET, SKIPPED, "the path draws no samples")
    weight = getattr(probe.path, "time_weight", None)
    middle = [_moment(probe, t, weight) for t in (0.25, 0.5, 0.75)]
    usual = sorted(middle)[1]
    weighed = ", weighted by time_weight(t)" if callable(weight) else ""
    tallest, place = usual, 0.5
    for side in (0.0, 1.0):
        times = [abs(side - distance) for distance in DISTANCES]
        moments = [_moment(probe, t, weight) for t in times]
        highest = max(moments)
        if highest > tallest:
            tallest, place = highest, times[moments.index(highest)]
        # Two decades next to the end: a cut that lies further out has flattened the growth by there.
        growth = moments[-1] / max(moments[-3], 1e-300)
        if not growth < 10 ** (2 * GROWS_LIKE) and moments[-1] > 10 * usual:
            return _diverges(side, moments[-1], times[-1], usual, weighed)
    facts = {"value": tallest / max(usual, 1e-300), "t": place, "reason": _REASON}
    message = f"E|u|² is {usual:.3g} per coordinate at t = ½{weighed}"
    if tallest > TALL * usual:
        return Check(
            TARGET, NOTE, f"{message} and {tallest:.3g} at t = {place:.6g}: gradients are noisy there", **facts
        )
    return Check(TARGET, PASS, f"{message} and at most {tallest:.3g}", **facts)


_REASON = "largest E|u|² over that in the middle"


def _diverges(side: float, moment: float, t: float, usual: float, weighed: str) -> Check:
    distance = "1/t" if side == 0 else "1/(1 − t)"
    return Check(
        TARGET,
        FAIL,
        f"E|u|²{weighed} grows like {distance} or faster at t = {side:g}, to {moment:.3g} at t = {t:.8g}: the loss has "
        "no finite mean",
        value=moment / max(usual, 1e-300),
        t=side,
        reason=_REASON,
        fix="Weigh the loss: give the path time_weight(t), such as t(1 − t); or keep t away from that end (Shortened), "
        "or take a clock that slows down there.",
    )


def _moment(probe: Probe, t: float, weight: object) -> float:
    """w(t) E|u|² per coordinate."""
    rows = slice(0, min(2048, probe.rows))
    count = probe.x1[rows].shape[0]
    velocity = probe.draw(torch.full((count,), t, dtype=torch.float64), rows).velocity
    moment = float(velocity.square().mean())
    if not callable(weight):
        return moment
    time = torch.tensor([t], dtype=torch.float64)
    return moment * float(torch.as_tensor(weight(time)).reshape(-1)[0])
