"""How far a learnt field is from the one it was trained towards, and how much of that one it has learnt by heart.

The loss of flow matching is E|v − u|² = E|v − u*|² + E|u* − u|²: the regression gap to the marginal field u* of the
training rows, and what is left of the loss for the best field there is, the variance of the target. u* is known
(`flows.EmpiricalField`), so both are measured, on the same points.

A gap of 0 would be no feat: u* generates the training rows and nothing else. How much of it was learnt by heart shows
on rows that were not trained on. A velocity implies a denoiser D = E[x1|x_t] with |ΔD| = (σ/R)|Δv|; let e be its square
error of x1, and e_G that of the Gaussian fitted to the training rows, which knows none of them by heart. Then

    share = (E_held-out − E_training)(e_v − e_G) / (E_held-out − E_training)(e_u* − e_G)

is 1 for u* and 0 for a field that treats new rows as it treats its own, like the Gaussian fit. Taking e_G away leaves
the value and removes what differs from row to row for every field alike. Errors of x1 and not of u: off the training
rows u* grows like 1/σ and has no finite mean square.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from advect.errors import DataError
from advect.flows import EmpiricalField, GaussianBaseline
from advect.paths import wronskian
from advect.typing import Field, expand_time, sum_event

MINIMUM = 16
SPANS = 16  # of time, in each of which the gap is told
CERTAIN = 3.0  # standard errors by which memorising must show at all, before a share of it is told


@dataclass(frozen=True)
class GapSpan:
    """The same mean squares over a span of time.

    Attributes:
        time: Its middle.
        gap: E|v − u*|².
        gap_error: Its standard error.
        loss: E|v − u|².
        floor: E|u* − u|².
    """

    time: float
    gap: float
    gap_error: float
    loss: float
    floor: float


@dataclass(frozen=True)
class RegressionGap:
    """Mean squares per row, summed over coordinates, over uniform times; each with its standard error.

    Attributes:
        gap: E|v − u*|² on the way to training rows.
        gap_error: Its standard error.
        loss: E|v − u|² on the same points: what training minimises, without its weights.
        floor: E|u* − u|²: the smallest loss there is on these rows.
        size: E|u*|².
        memorised: See the module; None where memorising cannot be told from knowing the law with these rows.
        memorised_error: Its standard error.
        rows: Points of each kind.
        first: First time.
        last: Last time.
        spans: Gap, loss and floor by time, in order of time; empty for fewer than 128 points.
    """

    gap: float
    gap_error: float
    loss: float
    floor: float
    size: float
    memorised: float | None
    memorised_error: float | None
    rows: int
    first: float
    last: float
    spans: tuple[GapSpan, ...] = ()


@torch.no_grad()
def regression_gap(
    velocity: Field,
    exact: EmpiricalField,
    held_out: Tensor,
    *,
    generator: Generator,
    rows: int = 1024,
    interval: tuple[float, float] = (0.0, 1.0),
) -> RegressionGap:
    """Compare a learnt velocity with the exact field of its training rows.

    Args:
        velocity: ``velocity(t, x, condition=None)`` of a path with a standard-normal source and independent pairs.
        exact: The field of the training rows under the same schedule.
        held_out: ``(rows, *event)`` rows that were not trained on.
        generator: Draws rows, noise and times.
        rows: Points of each kind.
        interval: First and last time; cut to where the exact field may be integrated.

    Raises:
        DataError: Fewer than 16 held-out rows.
    """
    if len(held_out) < MINIMUM:
        raise DataError(
            f"{len(held_out)} held-out rows are too few", where="regression gap", remedy="Give at least 16."
        )
    first, last = _common(exact, interval)
    t, noise, chosen = _on_the_way(exact, rows, (first, last), generator)
    others = _draw(len(held_out), rows, generator)
    gaussian = GaussianBaseline.fit(exact.data.double(), exact.schedule).double()
    known = _errors(velocity, exact, gaussian, exact.data[chosen].double(), noise, t)
    unseen = _errors(velocity, exact, gaussian, held_out[others].double(), noise, t)
    memorised, error = _share((known, chosen), (unseen, others))
    mean = {name: float(getattr(known, name).mean()) for name in ("gap", "loss", "floor", "size")}
    return RegressionGap(
        **mean,
        gap_error=_standard_error(known.gap),
        memorised=memorised,
        memorised_error=error,
        rows=rows,
        first=first,
        last=last,
        spans=_by_time(known, t),
    )


@dataclass(frozen=True)
class FieldPoints:
    """Points on the way to training rows and the exact velocity there, drawn once so that fields compare.

    Attributes:
        t: ``(rows,)`` float64, in no order.
        x: ``(rows, *event)`` float64.
        velocity: The exact one, ``(rows, *event)`` float64.
    """

    t: Tensor
    x: Tensor
    velocity: Tensor

    @classmethod
    @torch.no_grad()
    def draw(
        cls, exact: EmpiricalField, rows: int, *, generator: Generator, interval: tuple[float, float] = (0.0, 1.0)
    ) -> "FieldPoints":
        """Points as `regression_gap` takes them."""
        t, noise, chosen = _on_the_way(exact, rows, _common(exact, interval), generator)
        x, _ = _bridge(exact, exact.data[chosen].double(), noise.to(exact.data.device), t.to(exact.data.device))
        order = torch.randperm(rows, generator=generator)  # the first few are of all times, too
        return cls(*(values[order.to(values.device)] for values in (t.to(x.device), x, exact(t.to(x.device), x))))

    def gap(self, velocity: Field, rows: int | None = None) -> tuple[float, float]:
        """E|v − u*|² over the first ``rows`` of the points, with its standard error."""
        learnt = velocity(self.t[:rows], self.x[:rows]).double()
        squares = _square(learnt - self.velocity[:rows])
        return float(squares.mean()), _standard_error(squares)


def _common(exact: EmpiricalField, interval: tuple[float, float]) -> tuple[float, float]:
    """Where both fields are known."""
    return max(interval[0], exact.interval[0]), min(interval[1], exact.interval[1])


def _on_the_way(
    exact: EmpiricalField, rows: int, interval: tuple[float, float], generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Times, noise and indices of training rows; rising times, one in each of as many slices, which leaves less chance
    in a mean than independent ones."""
    first, last = interval
    slices = torch.arange(rows, dtype=torch.float64) + torch.rand(rows, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, *exact.event_shape, generator=generator, dtype=torch.float64)
    return first + (last - first) * slices / rows, noise, _draw(len(exact.data), rows, generator)


def _bridge(exact: EmpiricalField, x1: Tensor, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """α x1 + σ x0 and its derivative in time."""
    schedule, time = exact.schedule, expand_time(t, x1)
    x = schedule.alpha(time) * x1 + schedule.sigma(time) * x0
    return x, schedule.alpha_derivative(time) * x1 + schedule.sigma_derivative(time) * x0


@dataclass(frozen=True)
class _Errors:
    """Squares per row, each ``(rows,)`` float64; the last two are those of x1, beyond the Gaussian fit's."""

    gap: Tensor
    loss: Tensor
    floor: Tensor
    size: Tensor
    learnt: Tensor
    best: Tensor


def _by_time(errors: _Errors, t: Tensor) -> tuple[GapSpan, ...]:
    """Means over spans of time of equal length; ``t`` rises."""
    if len(t) < 8 * SPANS:
        return ()
    spans = []
    for part in torch.arange(len(t)).chunk(SPANS):
        gap, loss, floor = (getattr(errors, name)[part] for name in ("gap", "loss", "floor"))
        spans.append(
            GapSpan(
                float(t[part].mean()), float(gap.mean()), _standard_error(gap), float(loss.mean()), float(floor.mean())
            )
        )
    return tuple(spans)


def _errors(velocity: Field, exact: EmpiricalField, gaussian: Field, x1: Tensor, x0: Tensor, t: Tensor) -> _Errors:
    """Learnt and exact velocity beside the conditional one, at α x1 + σ x0."""
    schedule = exact.schedule
    x, target = _bridge(exact, x1, x0, t)
    learnt = velocity(t.to(exact.data.dtype), x.to(exact.data.dtype)).double()
    best = exact(t, x)
    scale = (schedule.sigma(t) / wronskian(schedule, t)).square()
    loss, floor, plain = (_square(field - target) for field in (learnt, best, gaussian(t, x)))
    return _Errors(_square(learnt - best), loss, floor, _square(best), scale * (loss - plain), scale * (floor - plain))


def _share(known: tuple[_Errors, Tensor], unseen: tuple[_Errors, Tensor]) -> tuple[float | None, float | None]:
    """The share and its standard error by the delta method.

    Both kinds are draws of rows, and one training set is luckier than another, so rows that were used more than once
    count once in the error.
    """
    learnt, _ = _difference(*((errors.learnt, index) for errors, index in (unseen, known)))
    best, best_error = _difference(*((errors.best, index) for errors, index in (unseen, known)))
    if not best > CERTAIN * best_error:
        return None, None
    share = learnt / best
    _, error = _difference(*((errors.learnt - share * errors.best, index) for errors, index in (unseen, known)))
    return share, error / best


def _difference(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Difference of two means over (values, data row of each), and its standard error over data rows."""
    means = [float(values.mean()) for values, _ in (one, other)]
    return means[0] - means[1], math.hypot(*(_standard_error(_by_row(*pair)) for pair in (one, other)))


def _by_row(values: Tensor, index: Tensor) -> Tensor:
    """The mean for each data row that occurs."""
    _, group = index.unique(return_inverse=True)
    sums = torch.zeros(int(group.max()) + 1, dtype=values.dtype).index_add_(0, group, values)
    return sums / group.bincount()


def _draw(available: int, rows: int, generator: Generator) -> Tensor:
    """Indices of rows, each at most once more often than any other."""
    rounds = [torch.randperm(available, generator=generator) for _ in range(math.ceil(rows / available))]
    return torch.cat(rounds)[:rows]


def _square(x: Tensor) -> Tensor:
    return sum_event(x.square())


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))
