"""The continuity equation point by point, where the path has a density.

Divided by p it reads ∂_t log p + u·∇log p + div u = 0. Derivatives are taken by automatic differentiation; where a
path's code does not let gradients through (numbers taken out of tensors), by differences of fourth order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advect.evaluation.verification.probe import Probe
from advect.evaluation.verification.record import FAIL, PASS, SKIPPED, Check

LAW = "continuity"
POINTS = 256
FIRST, LAST = 0.01, 0.99
WIDEST = 512  # coordinates: the divergence takes a derivative for each
STEP = 1e-3  # of differences: their error is about its fourth power
Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Terms:
    """The three terms at every point, each ``(points,)``."""

    in_time: Tensor
    transport: Tensor
    divergence: Tensor

    @property
    def defect(self) -> Tensor:
        """|sum| / (1 + sum of sizes)."""
        terms = torch.stack([self.in_time, self.transport, self.divergence])
        return terms.sum(0).abs() / (1 + terms.abs().sum(0))


@dataclass(frozen=True)
class Points:
    """Where the law is tried, and what is asked there.

    Attributes:
        t: ``(points,)``.
        x: ``(points, *event)``.
        log_density: Of (t, x).
        velocity: Of (t, x).
    """

    t: Tensor
    x: Tensor
    log_density: Function
    velocity: Function


def points_of(probe: Probe, level: str) -> Points | None:
    """The points of a level of `Probe.densities_given`; None where the velocity is not given the same."""
    velocity = probe.velocity_given(level)
    if velocity is None:
        return None
    density = probe.density_given(level)
    rows = slice(0, min(POINTS, probe.rows))
    x0, x1 = probe.x0[rows], probe.x1[rows]
    t = torch.linspace(FIRST, LAST, x1.shape[0], dtype=x1.dtype)
    x = probe.points(t, rows)
    inside = density(t, x, x0, x1).detach().isfinite()  # a density may vanish at a point
    t, x, x0, x1 = t[inside], x[inside], x0[inside], x1[inside]
    return None if not len(t) else Points(t, x, lambda t, x: density(t, x, x0, x1), lambda t, x: velocity(t, x, x0, x1))


def terms_of(points: Points, velocity: Function | None = None, *, by_differences: bool = False) -> Terms:
    """The three terms of the law, for the path's velocity or another one."""
    velocity = velocity or points.velocity
    gradient = _differences if by_differences else _autograd
    in_time, in_space = gradient(points.log_density, points.t, points.x, time=True)
    moved = velocity(points.t, points.x).detach()
    divergence = torch.zeros_like(points.t)
    event = points.x.shape[1:]
    for index in range(event.numel()):
        place = torch.zeros(event.numel(), dtype=points.x.dtype)
        place[index] = 1.0
        place = place.reshape(event)

        def entry(t: Tensor, x: Tensor, place: Tensor = place) -> Tensor:
            return (velocity(t, x) * place).flatten(1).sum(1) if x.ndim > 1 else velocity(t, x)

        slope = gradient(entry, points.t, points.x, time=False, along=place)[1]
        divergence = divergence + (slope * place).reshape(len(slope), -1).sum(1)
    transport = (moved * in_space).reshape(len(moved), -1).sum(1)
    return Terms(in_time, transport, divergence)


def _autograd(
    function: Function, t: Tensor, x: Tensor, *, time: bool, along: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """∂/∂t and ∇ of a function per row; what autograd does not see is taken by differences."""
    t, x = t.clone().requires_grad_(), x.clone().requires_grad_()
    value = function(t, x)
    slopes: tuple[Tensor | None, ...] = (None, None)
    if value.requires_grad:
        slopes = torch.autograd.grad(value.sum(), (t, x), allow_unused=True)
    t, x = t.detach(), x.detach()
    in_time = slopes[0] if slopes[0] is not None or not time else _differences_in_time(function, t, x)
    in_space = slopes[1] if slopes[1] is not None else _differences_in_space(function, t, x, along)
    return torch.zeros_like(t) if in_time is None else in_time.detach(), in_space.detach()


def _differences(
    function: Function, t: Tensor, x: Tensor, *, time: bool, along: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    in_time = _differences_in_time(function, t, x) if time else torch.zeros_like(t)
    return in_time.detach(), _differences_in_space(function, t, x, along).detach()


def _differences_in_time(function: Function, t: Tensor, x: Tensor) -> Tensor:
    step = STEP * torch.minimum(t, 1 - t)
    return _fourth_order(lambda shift: function(t + shift * step, x), step)


def _differences_in_space(function: Function, t: Tensor, x: Tensor, along: Tensor | None) -> Tensor:
    """The gradient, or only its part along one coordinate."""
    gradient = torch.zeros_like(x)
    width = x.shape[1:].numel()
    places = torch.eye(width, dtype=x.dtype).reshape(width, *x.shape[1:]) if along is None else along[None]
    for place in places:
        slope = _fourth_order(lambda shift, place=place: function(t, x + shift * STEP * place), STEP)
        gradient = gradient + slope.reshape(-1, *([1] * (x.ndim - 1))) * place
    return gradient


def _fourth_order(value: Callable[[float], Tensor], step: Tensor | float) -> Tensor:
    near, far = value(1.0) - value(-1.0), value(2.0) - value(-2.0)
    return (8 * near - far) / (12 * step)


def tolerance_of(dtype: torch.dtype, by_differences: bool) -> tuple[float, str]:
    """The largest defect that is rounding, and why."""
    if by_differences:
        return 1e-3, f"derivatives are differences of fourth order with steps of {STEP:g}"
    tolerance = 64 * torch.finfo(dtype).eps ** 0.5
    return tolerance, (
        f"the sum of the three terms as a part of their sizes; derivatives are exact, and 64·√ε of {dtype} leaves room "
        "for rounding magnified by 1/s² where the path is narrow"
    )


def strong_check(probe: Probe) -> Check:
    """Whether density and velocity obey the law at random points; the worst level of those that can be asked."""
    levels = probe.densities_given()
    if not levels:
        return Check(LAW, SKIPPED, "the path has no log_density; the weak form stands in for it")
    if probe.x1.shape[1:].numel() > WIDEST:
        return Check(LAW, SKIPPED, f"more than {WIDEST} coordinates; the weak form stands in for it")
    asked = {level: points for level in levels if (points := points_of(probe, level)) is not None}
    if not asked:
        message = "log_density is given x1 alone and the velocity needs x0, so they do not belong to one another"
        return Check(LAW, SKIPPED, f"{message}; the weak form stands in for it")
    checks = [_check(points, level) for level, points in asked.items()]
    return max(checks, key=lambda check: (check.failed, check.value or 0.0))


def _check(points: Points, level: str) -> Check:
    differences = False
    tolerance, reason = tolerance_of(points.log_density(points.t, points.x).dtype, False)
    defect = terms_of(points).defect
    if _largest(defect) > tolerance:
        # A detached number inside the path spoils automatic differentiation, not the path: look again without.
        rough, why = tolerance_of(torch.float64, True)
        again = terms_of(points, by_differences=True).defect
        if _largest(again) <= rough:
            defect, tolerance, reason, differences = again, rough, why, True
    worst = int(torch.where(defect.isnan(), torch.inf, defect).argmax())
    failed = not _largest(defect) <= tolerance
    given = "each pair" if level == "pair" else "the data row"
    if failed:
        message = f"∂_t p + div(p u) is not 0, given {given}"
    elif differences:
        message = f"∂_t p + div(p u) = 0 given {given}, by differences: gradients do not go through the path's code"
    else:
        message = f"∂_t p + div(p u) = 0 given {given}, at {len(points.t)} points"
    return Check(
        LAW,
        FAIL if failed else PASS,
        message,
        value=float(defect[worst]),
        tolerance=tolerance,
        reason=reason,
        t=float(points.t[worst]),
        x=tuple(points.x[worst].flatten().tolist()),
    )


def _largest(defect: Tensor) -> float:
    """The largest; infinite where any is undefined."""
    return float(torch.where(defect.isnan(), torch.inf, defect).max())
