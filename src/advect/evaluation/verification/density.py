"""Do the parts of a path belong to one another: samples, velocity, log-density and score?

That a density is the law of the samples is Stein's identity, E[g·∇log p + div g] = 0 over x ~ p for smooth g, whatever
the norm of p; that the norm does not change in time is part of the continuity equation.
"""

import torch
from torch import Tensor

from advect.evaluation.verification.functions import SINES
from advect.evaluation.verification.probe import Probe, generator_of
from advect.evaluation.verification.record import FAIL, PASS, SKIPPED, Check
from advect.evaluation.verification.statistics import ZeroMeans, reason_of, zero_means

AGREEMENT, DENSITY, SCORE = "agreement", "density", "score"
TIMES = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
TOLERANCE = 1e-6
EXACT = "difference as a part of the size; both are exact, and rounding divided by a narrow width stays below 1e-6"


def agreement_check(probe: Probe) -> Check:
    """Whether velocity(t, x, x0, x1) at a drawn point is the velocity that came with it."""
    if not (probe.can_sample and probe.has_velocity):
        return Check(AGREEMENT, SKIPPED, "the path has only one of sample and velocity")
    rows = slice(0, min(256, probe.rows))
    x0, x1 = probe.x0[rows], probe.x1[rows]
    t = torch.linspace(0.01, 0.99, len(x1), dtype=x1.dtype)
    drawn = probe.draw(t, rows)
    asked = probe.velocity(t, drawn.x, x0, x1).detach()
    off, worst = _largest(asked, drawn.velocity)
    facts = {"value": off, "tolerance": TOLERANCE, "reason": EXACT, "t": float(t[worst])}
    if off <= TOLERANCE:
        return Check(AGREEMENT, PASS, "sample and velocity tell the same velocity", **facts)
    return Check(
        AGREEMENT,
        FAIL,
        "the velocity that comes with a sample is not velocity(t, x, x0, x1) at that sample",
        x=tuple(drawn.x[worst].flatten().tolist()),
        fix="One of the two is wrong; the lines on the continuity equation say which. The weak form tries the one of "
        "sample, the other form the one of velocity.",
        **facts,
    )


def density_checks(probe: Probe) -> list[Check]:
    """Whether log_density is that of the samples, and the score its gradient."""
    levels = probe.densities_given() if probe.can_sample else ()
    if not probe.normal_source:
        levels = tuple(level for level in levels if level != "data")
    if not levels:
        why = "the path has no log_density" if probe.can_sample else "the path draws no samples"
        if probe.densities_given() and probe.can_sample:
            why = "the density given the data row is that for a standard-normal source, and the source is another"
        return [Check(DENSITY, SKIPPED, why), Check(SCORE, SKIPPED, why)]
    t = torch.full((probe.rows,), TIMES[0], dtype=probe.x1.dtype)
    if not bool(_gradient(probe, levels[0], t, probe.draw(t).x).isfinite().any()):
        why = "gradients do not go through log_density"
        return [Check(DENSITY, SKIPPED, why), Check(SCORE, SKIPPED, why)]
    return [_density(probe, levels), _score(probe, levels)]


def _density(probe: Probe, levels: tuple[str, ...]) -> Check:
    tests = SINES * len(TIMES) * len(levels)
    worst: tuple[float, ZeroMeans, float] | None = None
    for level in levels:
        for t in TIMES:
            means = _stein(probe, level, t, tests)
            if worst is None or (not means.holds, means.ratio) > (not worst[1].holds, worst[0]):
                worst = (means.ratio, means, t)
    assert worst is not None
    _, means, t = worst
    facts = {
        "value": abs(means.mean),
        "error": means.error,
        "tolerance": means.limit * means.error,
        "reason": reason_of(means.limit, tests),
        "t": t,
    }
    if means.holds:
        return Check(DENSITY, PASS, f"log_density is that of the samples, given {' and given '.join(levels)}", **facts)
    return Check(
        DENSITY,
        FAIL,
        f"log_density is not that of the samples: E[g·∇log p + div g] is {means.ratio:.0f} standard errors from 0",
        fix="Compare mean and spread in log_density with those in sample.",
        **facts,
    )


def _stein(probe: Probe, level: str, t: float, tests: int) -> ZeroMeans:
    """The identity at one time with g = v sin(k·x/s + φ), for a direction v and a frequency k each."""
    time = torch.full((probe.rows,), t, dtype=probe.x1.dtype)
    x = probe.draw(time).x
    gradient = _gradient(probe, level, time, x).reshape(len(x), -1)
    flat = x.reshape(len(x), -1)
    finite = gradient.isfinite().all(1)  # a density may vanish at a point
    flat, gradient = flat[finite], gradient[finite]
    if len(flat) < 2:
        return ZeroMeans(0, float("inf"), float("nan"), float("nan"), 0.0)
    generator = generator_of(probe.seed, "test functions")
    scale = flat.std(0).clamp(min=1e-12)
    width = flat.shape[1]
    frequency, direction = (torch.randn(width, SINES, generator=generator, dtype=x.dtype) for _ in range(2))
    phase = 2 * torch.pi * torch.rand(SINES, generator=generator, dtype=x.dtype)
    argument = (flat / scale) @ frequency / width**0.5 + phase
    pulled = argument.sin() * (gradient @ direction)
    spread = argument.cos() * ((frequency / scale[:, None]) * direction).sum(0) / width**0.5
    return zero_means(pulled + spread, (pulled.abs() + spread.abs()).mean(0), tests)


def _gradient(probe: Probe, level: str, t: Tensor, x: Tensor) -> Tensor:
    """∇ log p at the points; NaN where the path's code lets no gradient through."""
    log_density = probe.density_given(level)
    x = x.clone().requires_grad_()
    value = log_density(t, x, probe.x0[: len(x)], probe.x1[: len(x)])
    if not value.requires_grad:
        return torch.full_like(x, torch.nan).detach()
    slope = torch.autograd.grad(value.sum(), x, allow_unused=True)[0]
    return torch.full_like(x, torch.nan).detach() if slope is None else slope


def _score(probe: Probe, levels: tuple[str, ...]) -> Check:
    rows = slice(0, min(256, probe.rows))
    t = torch.linspace(0.01, 0.99, probe.x1[rows].shape[0], dtype=probe.x1.dtype)
    drawn = probe.draw(t, rows)
    if drawn.score is None:
        return Check(SCORE, SKIPPED, "samples come without a score")
    found = {level: _largest(drawn.score, _gradient(probe, level, t, drawn.x)) for level in levels}
    level = min(found, key=lambda level: found[level][0])
    off, worst = found[level]
    facts = {"value": off, "tolerance": TOLERANCE, "reason": EXACT, "t": float(t[worst])}
    if off <= TOLERANCE:
        return Check(SCORE, PASS, f"the score is ∇log p given {level}", **facts)
    return Check(
        SCORE,
        FAIL,
        "the score that comes with a sample is not ∇log p there",
        x=tuple(drawn.x[worst].flatten().tolist()),
        fix="For x = μ + s·ε the score is −ε/s: check its sign and that it is divided by s once.",
        **facts,
    )


def _largest(one: Tensor, other: Tensor) -> tuple[float, int]:
    """The largest difference of two fields as a part of their size in that row, and its row."""
    one, other = (value.detach().reshape(len(value), -1) for value in (one, other))
    off = (one - other).norm(dim=1) / (1 + one.norm(dim=1) + other.norm(dim=1))
    worst = int(torch.where(off.isnan(), torch.inf, off).argmax())
    return float(off[worst]), worst
