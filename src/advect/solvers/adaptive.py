"""Adaptive steps, row by row.

Every row has its own time, step, evaluations and end. All rows that are still on their way are evaluated together, each
at its own time; a row that has arrived or failed leaves the batch and costs nothing more. No row's step looks at
another row, so a result does not depend on the neighbours. The pairs are first-same-as-last: an accepted step hands
its last slope on, so a step costs one evaluation less than it has stages.

Gradients flow through the accepted steps; step sizes are constants (discretise, then optimise).

How a row can fail, and how the causes are told apart:

- a slope is NaN at a finite point, and steps down to the smallest do not get around it: `NAN_FIELD`;
- the state passes the magnitude limit, or steps shrink to the smallest while the motion accelerates along itself
  (⟨k_2 − k_1, k_1⟩ > 0, as on the way to a pole): `BLOW_UP`;
- steps shrink to the smallest on a finite field whose motion is turned back (⟨k_2 − k_1, k_1⟩ ≤ 0, the mark of
  decay too fast to follow), or the steps are used up and stability set their size (see `stability`): `STIFF`;
- the steps are used up, and accuracy set their size: `STEP_LIMIT`.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, unknown_name
from advect.records import Solution, Status
from advect.solvers.along import Along, System, board
from advect.solvers.control import Tolerance, first_step, next_factor, remembered
from advect.solvers.fixed import drop_unusable, stand_still
from advect.solvers.grid import check_times
from advect.solvers.ledger import Evaluation, Ledger, healthy, judge
from advect.solvers.stability import POWER_ITERATIONS, bound_by_stability
from advect.solvers.tableau import BOSH3, DOPRI5, TSIT5, Tableau, weighted
from advect.typing import Divergence, Field

PAIRS = {tableau.name: tableau for tableau in (TSIT5, DOPRI5, BOSH3)}
_SMALLEST = 1e-12  # of the interval, unless the user says otherwise


@dataclass(frozen=True)
class Adaptive:
    """An embedded Runge–Kutta pair with per-row step control.

    Args:
        method: ``tsit5``, ``dopri5`` (order 5) or ``bosh3`` (order 3).
        rtol: Relative tolerance per step.
        atol: Absolute tolerance per step, in the units of the state.
        max_steps: Attempts per row, rejected ones included.
        min_step: Smallest step, in units of time; None for 1e-12 of the interval.
        first_step: First step to try; None for an estimate, which costs one evaluation.
        log_det_tolerance: Error of the log-determinant per step, in nats; None for the tolerances of the state.

    Raises:
        ConfigError: A tolerance, step or count that is not positive.
        UnknownNameError: Another method.
    """

    method: str = "tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000
    min_step: float | None = None
    first_step: float | None = None
    log_det_tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.method not in PAIRS:
            raise unknown_name("adaptive method", self.method, PAIRS)
        given = {
            name: getattr(self, name)
            for name in ("rtol", "atol", "max_steps", "min_step", "first_step", "log_det_tolerance")
        }
        for name, value in given.items():
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(
                    f"{name} must be positive and finite, got {value!r}",
                    where="Adaptive",
                    remedy="A tolerance such as 1e-5 is usual." if "tol" in name else "Give a positive number.",
                )

    @property
    def tableau(self) -> Tableau:
        """The table of the pair."""
        return PAIRS[self.method]

    def __call__(
        self,
        field: Field,
        x: Float[Tensor, "batch *event"],
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        times: Tensor | None = None,
        condition: Tensor | None = None,
        divergence: Divergence | None = None,
        generator: Generator | None = None,
        along: tuple[Along, ...] = (),
    ) -> Solution:
        """Integrate ``field`` from ``t0`` to ``t1``, see `advect.typing.Solver`.

        Args:
            field: The velocity; it sees ``t`` of shape ``(rows,)`` in the dtype of ``x``, for the rows under way.
            x: Rows at ``t0``, float32 or float64.
            t0: First time.
            t1: Last time, on either side.
            times: Where to report ``states``, from ``t0`` towards ``t1``; they cost no evaluation.
            condition: One row per row of ``x``.
            divergence: Integrate the log-determinant too, under error control.
            generator: For the probes of a stochastic divergence.
            along: Other quantities to integrate, under error control.

        Raises:
            ConfigError: ``x`` in half precision, whose rounding hides the embedded error.
        """
        if x.is_floating_point() and torch.finfo(x.dtype).bits < 32:
            raise ConfigError(
                f"adaptive steps need float32 or float64, got {x.dtype}",
                where="Adaptive",
                remedy="Convert the rows with .float(), or take a solver with fixed steps.",
            )
        stops = check_times(times, t0, t1)
        system, y = board(field, x, condition, divergence, generator, along)
        ledger = Ledger(y, len(stops or ()))
        if t0 == t1 or y.numel() == 0:
            stand_still(ledger, y, stops)
        else:
            _Walk(self, float(t0), float(t1), ledger, _clock(stops or [], y)).run(system, y)
        return ledger.close(system, times)


def _clock(times: list[float], y: Tensor) -> Tensor:
    """Times in float64, whatever the dtype of the state; float32 on devices that have nothing longer."""
    dtype = torch.float32 if y.device.type == "mps" else torch.float64
    return torch.tensor(times, dtype=dtype, device=y.device)


@dataclass(frozen=True)
class _Rows:
    """The rows under way: who they are, and where, and how they walk. First axis ``(rows,)`` throughout."""

    system: System
    number: Tensor
    y: Tensor
    slope: Tensor
    t: Tensor
    step: Tensor
    error_before: Tensor
    cautious: Tensor
    attempts: Tensor

    def take(self, index: Tensor) -> "_Rows":
        kept = {
            name: getattr(self, name)[index]
            for name in ("number", "y", "slope", "t", "step", "error_before", "cautious", "attempts")
        }
        return _Rows(system=self.system.take(index), **kept)


@dataclass(frozen=True)
class _Attempt:
    """One attempted step of every row under way."""

    evaluations: list[Evaluation]
    slopes: list[Tensor]
    y: Tensor
    error: Tensor
    ratio: Tensor
    t: Tensor
    length: Tensor
    last: Tensor


@dataclass(frozen=True)
class _Walk:
    """One solve: the loop, its phases as methods."""

    solver: Adaptive
    t0: float
    t1: float
    ledger: Ledger
    stops: Tensor

    @property
    def sign(self) -> float:
        return 1.0 if self.t1 > self.t0 else -1.0

    @property
    def smallest(self) -> float:
        return self.solver.min_step or _SMALLEST * abs(self.t1 - self.t0)

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.solver.rtol, self.solver.atol, self.solver.log_det_tolerance)

    def run(self, system: System, y: Tensor) -> None:
        """Walk every row to its end."""
        rows = self.begin(system, y)
        while rows.number.numel():
            attempt = self.attempt(rows)
            self.ledger.spend(rows.number, self.solver.tableau.stages - 1)
            rows = self.settle(rows, attempt)

    def begin(self, system: System, y: Tensor) -> _Rows:
        """The slopes at ``t0`` and the first steps."""
        number, system, y = drop_unusable(system, y, self.t0, self.ledger)
        for index in (self.stops == self.t0).nonzero().flatten().tolist():
            self.ledger.stop(index, number, y)
        t = self.stops.new_full(number.shape, self.t0)
        slope = y
        while number.numel():
            slope = system(t, y)
            self.ledger.spend(number, 1)
            bad = ~torch.isfinite(slope.detach()).all(1)
            if not bool(bad.any()):
                break
            status, at = judge([(t, y, slope)], t, y)
            self.ledger.fail(number[bad], status[bad], at[bad])
            keep = (~bad).nonzero().squeeze(1)
            number, system, y, t, slope = number[keep], system.take(keep), y[keep], t[keep], slope[keep]
            if not slope.requires_grad:  # else once more without them, see `fixed.march`
                break
        one = torch.ones_like(t)
        rows = _Rows(system, number, y, slope, t, one, one, one < 0, torch.zeros_like(number))
        return replace(rows, step=self.first(rows)) if number.numel() else rows

    def first(self, rows: _Rows) -> Tensor:
        """The first step sizes, as given or estimated."""
        if self.solver.first_step is not None:
            step = torch.full_like(rows.t, self.solver.first_step)
        else:
            step = first_step(
                rows.system, self.tolerance, self.t0, self.t1, rows.y, rows.slope, self.solver.tableau.order
            ).to(rows.t.dtype)
            self.ledger.spend(rows.number, 1)
        return step.clamp(min=self.smallest, max=abs(self.t1 - self.t0))

    def attempt(self, rows: _Rows) -> _Attempt:
        """Take one step of every row, not yet believing it."""
        table = self.solver.tableau
        left = (self.t1 - rows.t) * self.sign
        last = rows.step * 1.01 >= left  # a hair longer rather than a hair's breadth left over
        length = torch.where(last, left, rows.step)
        end = torch.where(last, self.t1, rows.t + self.sign * length)
        scale = (self.sign * length).to(rows.y.dtype).unsqueeze(1)
        evaluations: list[Evaluation] = []
        slopes, point = [rows.slope], rows.y
        for fraction, weights in zip(table.c[1:], table.a[1:], strict=True):
            point = rows.y + scale * weighted(weights, slopes)
            t = end if fraction == 1.0 else rows.t + (end - rows.t) * fraction
            slopes.append(rows.system(t, point))
            evaluations.append((t, point, slopes[-1]))
        error = scale * weighted(table.error, [slope.detach() for slope in slopes])
        # First same as last: the point of the last stage is the end of the step.
        ratio = self.tolerance.ratio(rows.system, error, rows.y, point).to(rows.t.dtype)
        return _Attempt(evaluations, slopes, point, error, ratio, end, length, last)

    def settle(self, rows: _Rows, attempt: _Attempt) -> _Rows:
        """Accept or reject, close the rows that have come to an end, choose the next steps."""
        finite = torch.isfinite(attempt.ratio)
        decided = torch.ones_like(finite)
        if attempt.y.requires_grad and not bool(finite.all()):
            # With gradients on, a row that is not finite must not share a graph with the others (see `fixed.march`):
            # it alone is decided, and the others attempt the same step again without it.
            decided = ~finite
        accepted = decided & (attempt.ratio <= 1.0)
        self.report(rows, attempt, accepted)
        factor = next_factor(
            attempt.ratio, rows.error_before, accepted, rows.cautious, self.solver.tableau.error_order + 1
        )
        rejected = decided & ~accepted
        attempts = rows.attempts + decided.to(rows.attempts.dtype)
        arrived = accepted & attempt.last
        status, at = self.failures(rows, attempt, accepted, rejected, attempts >= self.solver.max_steps)
        done = arrived & (status == 0)
        moved = replace(
            rows,
            y=_chosen(accepted, attempt.y, rows.y),
            slope=_chosen(accepted, attempt.slopes[-1], rows.slope),
            t=torch.where(accepted, attempt.t, rows.t),
            step=torch.where(decided, (attempt.length * factor).clamp(min=self.smallest), rows.step),
            error_before=torch.where(accepted, remembered(attempt.ratio), rows.error_before),
            cautious=torch.where(decided, rejected, rows.cautious),
            attempts=attempts,
        )
        stay = ~done & (status == 0)
        if bool(stay.all()):
            return moved
        self.ledger.finish(moved.number[done], moved.y[done])
        failed = status != 0
        self.ledger.fail(moved.number[failed], status[failed], at[failed])
        return moved.take(stay.nonzero().squeeze(1))

    def failures(
        self, rows: _Rows, attempt: _Attempt, accepted: Tensor, rejected: Tensor, used_up: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Status and time of the rows that end here without a value; 0 for the others."""
        status = torch.zeros(rows.number.shape, dtype=torch.int8, device=rows.y.device)
        at = torch.where(accepted, attempt.t, rows.t)
        grown = accepted & ~healthy(attempt.y)
        status[grown] = int(Status.BLOW_UP)
        stuck = rejected & (attempt.length <= self.smallest * (1 + 1e-9))
        if bool(stuck.any()):
            why, _ = judge(attempt.evaluations, attempt.t, attempt.y)
            start, second = attempt.slopes[0].detach(), attempt.slopes[1].detach()
            accelerating = ((second - start) * start)[:, : rows.system.size].sum(1) > 0
            turned = torch.where(accelerating, int(Status.BLOW_UP), int(Status.STIFF)).to(torch.int8)
            status = torch.where(stuck, torch.where(why != 0, why, turned), status)
        exhausted = used_up & (status == 0) & ~(accepted & attempt.last)
        if bool(exhausted.any()):
            index = exhausted.nonzero().squeeze(1)
            stiff = bound_by_stability(
                rows.system.take(index),
                self.solver.tableau,
                rows.t[index],
                rows.y[index],
                rows.slope[index],
                attempt.length[index],
                attempt.error[index],
            )
            self.ledger.spend(rows.number[index], POWER_ITERATIONS)
            status[index] = torch.where(stiff, int(Status.STIFF), int(Status.STEP_LIMIT)).to(torch.int8)
        return status, at

    def report(self, rows: _Rows, attempt: _Attempt, accepted: Tensor) -> None:
        """Hand in the states at the requested times that this step passes: those in (t, t + h]."""
        if not self.stops.numel():
            return
        ahead = (self.stops - rows.t.unsqueeze(1)) * self.sign > 0
        passed = (self.stops - attempt.t.unsqueeze(1)) * self.sign <= 0
        who, which = (ahead & passed & accepted.unsqueeze(1)).nonzero(as_tuple=True)
        if not who.numel():
            return
        fraction = ((self.stops[which] - rows.t[who]) * self.sign / attempt.length[who]).unsqueeze(1)
        weights = [w.to(rows.y.dtype) for w in self.solver.tableau.weights_at(fraction)]
        scale = (self.sign * attempt.length[who]).to(rows.y.dtype).unsqueeze(1)
        inside = rows.y[who] + scale * weighted(weights, [slope[who] for slope in attempt.slopes])
        at_end = (self.stops[which] == attempt.t[who]).unsqueeze(1)
        self.ledger.stop(which, rows.number[who], torch.where(at_end, attempt.y[who], inside))


def _chosen(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new rows where accepted; without copying where all are."""
    return new if bool(accepted.all()) else torch.where(accepted.unsqueeze(1), new, old)
