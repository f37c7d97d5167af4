"""The adaptive walk: every row at its own pace.

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
from torch import Tensor

from advect.records import Status
from advect.solvers.along import System
from advect.solvers.control import Tolerance, next_factor, remembered, starting_step
from advect.solvers.fixed import drop_unusable
from advect.solvers.ledger import Evaluation, Ledger, healthy, judge
from advect.solvers.stability import POWER_ITERATIONS, bound_by_stability
from advect.solvers.tableau import Tableau, weighted


def clock(times: list[float], y: Tensor) -> Tensor:
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
class Walk:
    """One solve: the loop, its phases as methods.

    Attributes:
        table: An embedded pair, first same as last.
        tolerance: What error a step may make.
        max_steps: Attempts per row.
        first_step: First step to try, or None for an estimate.
        smallest: Smallest step.
        t0: First time.
        t1: Last time.
        stops: Requested times, see `clock`.
        ledger: Where rows are closed.
    """

    table: Tableau
    tolerance: Tolerance
    max_steps: int
    first_step: float | None
    smallest: float
    t0: float
    t1: float
    stops: Tensor
    ledger: Ledger

    @property
    def sign(self) -> float:
        """+1 forwards, −1 backwards."""
        return 1.0 if self.t1 > self.t0 else -1.0

    def run(self, system: System, y: Tensor) -> None:
        """Walk every row to its end."""
        rows = self.begin(system, y)
        while rows.number.numel():
            attempt = self.attempt(rows)
            self.ledger.spend(rows.number, self.table.stages - 1)
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
        if self.first_step is not None:
            step = torch.full_like(rows.t, self.first_step)
        else:
            step = starting_step(
                rows.system, self.tolerance, self.t0, self.t1, rows.y, rows.slope, self.table.order
            ).to(rows.t.dtype)
            self.ledger.spend(rows.number, 1)
        return step.clamp(min=self.smallest, max=abs(self.t1 - self.t0))

    def attempt(self, rows: _Rows) -> _Attempt:
        """Take one step of every row, not yet believing it."""
        left = (self.t1 - rows.t) * self.sign
        last = rows.step * 1.01 >= left  # a hair longer rather than a hair's breadth left over
        length = torch.where(last, left, rows.step)
        end = torch.where(last, self.t1, rows.t + self.sign * length)
        scale = (self.sign * length).to(rows.y.dtype).unsqueeze(1)
        evaluations: list[Evaluation] = []
        slopes, point = [rows.slope], rows.y
        for fraction, weights in zip(self.table.c[1:], self.table.a[1:], strict=True):
            point = rows.y + scale * weighted(weights, slopes)
            t = end if fraction == 1.0 else rows.t + (end - rows.t) * fraction
            slopes.append(rows.system(t, point))
            evaluations.append((t, point, slopes[-1]))
        error = scale * weighted(self.table.error, [slope.detach() for slope in slopes])
        # First same as last: the point of the last stage is the end of the step.
        ratio = self.tolerance.ratio(rows.system, error, rows.y, point).to(rows.t.dtype)
        return _Attempt(evaluations, slopes, point, error, ratio, end, length, last)

    def settle(self, rows: _Rows, attempt: _Attempt) -> _Rows:
        """Accept or reject, close the rows that have come to an end, choose the next steps."""
        decided = torch.ones_like(attempt.last)
        if attempt.y.requires_grad:
            finite = torch.isfinite(attempt.ratio) & healthy(attempt.y)
            # With gradients on, a row that is not finite must not share a graph with the others (see `fixed.march`):
            # nothing of this attempt is used, that row alone is decided, and the others attempt the same step again.
            decided = decided if bool(finite.all()) else ~finite
        accepted = decided & (attempt.ratio <= 1.0)
        used = accepted & bool(decided.all())
        self.report(rows, attempt, used)
        factor = next_factor(attempt.ratio, rows.error_before, accepted, rows.cautious, self.table.error_order + 1)
        rejected = decided & ~accepted
        attempts = rows.attempts + decided.to(rows.attempts.dtype)
        arrived = accepted & attempt.last
        status, at = self.failures(rows, attempt, accepted, rejected, attempts >= self.max_steps)
        done = arrived & (status == 0)
        moved = replace(
            rows,
            y=_chosen(used, attempt.y, rows.y),
            slope=_chosen(used, attempt.slopes[-1], rows.slope),
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
                self.table,
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
        weights = [w.to(rows.y.dtype) for w in self.table.weights_at(fraction)]
        scale = (self.sign * attempt.length[who]).to(rows.y.dtype).unsqueeze(1)
        inside = rows.y[who] + scale * weighted(weights, [slope[who] for slope in attempt.slopes])
        at_end = (self.stops[which] == attempt.t[who]).unsqueeze(1)
        self.ledger.stop(which, rows.number[who], torch.where(at_end, attempt.y[who], inside))


def _chosen(used: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new rows where used; without copying, and without a graph to the new ones, where that can be."""
    count = int(used.sum())
    if count == used.numel():
        return new
    return torch.where(used.unsqueeze(1), new, old) if count else old
