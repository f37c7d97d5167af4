"""How large the next step of each row is.

The embedded error of a step is measured against atol + rtol |y|, the state by its root mean square over the event,
the log-determinant by that over the probes with a tolerance of its own, other passengers one by one; the largest
counts. It behaves like h^k, k = q + 1, and a PI controller (Gustafsson 1991; Hairer & Wanner 1996, IV.2, with
β = 0.2/k as in their DOPRI5) chooses

    h ← h · 0.9 · err^(−1/k + 0.75 β) · err_before^β,   between a fifth and ten times h.

Nothing here looks at another row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from advect.solvers.along import System

SAFETY = 0.9
SHRINK, GROW = 0.2, 10.0
SHRINK_UNDEFINED = 0.1  # after a step into a region where the field is not finite
_ERROR_FLOOR = 1e-4  # a smaller error says no more about the next step


@dataclass(frozen=True)
class Tolerance:
    """What error a step may make.

    Attributes:
        relative: Against the larger of the two ends of a step.
        absolute: In the units of the state.
        log_det: Of the log-determinant, in nats.
    """

    relative: float
    absolute: float
    log_det: float

    def ratio(self, system: System, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        """Error over tolerance ``(rows,)`` in float64 where the device has it: at most 1 is accepted."""
        size, traces = system.size, system.traces
        magnitude = torch.maximum(y.detach().abs(), y_next.detach().abs())
        allowed = self.absolute + self.relative * magnitude
        if traces:
            allowed[:, size : size + traces] = self.log_det
        # What rounding makes of the state no step size mends.
        allowed = torch.maximum(allowed, 10 * torch.finfo(y.dtype).eps * magnitude)
        scaled = (error.detach() / allowed).square()
        parts = [scaled[:, :size].mean(1)]
        if traces:
            parts.append(scaled[:, size : size + traces].mean(1))
        parts.extend(scaled[:, size + traces :].unbind(1))
        return torch.stack(parts).amax(0).sqrt()


def next_factor(ratio: Tensor, before: Tensor, accepted: Tensor, cautious: Tensor, exponent: int) -> Tensor:
    """The factor on h ``(rows,)``.

    Args:
        ratio: Error over tolerance of this attempt; NaN or infinite where something was not finite.
        before: The same of the last accepted step.
        accepted: Which rows' attempts were accepted.
        cautious: Which rows were rejected just before; they may not grow at once.
        exponent: k, the power of h in the error.
    """
    beta = 0.2 / exponent
    error = ratio.clamp(min=_ERROR_FLOOR)
    growing = SAFETY * error.pow(0.75 * beta - 1 / exponent) * before.pow(beta)
    growing = growing.clamp(SHRINK, GROW)
    growing = torch.where(cautious, growing.clamp(max=1.0), growing)
    shrinking = (SAFETY * error.pow(-1 / exponent)).clamp(SHRINK, SAFETY)
    shrinking = torch.where(torch.isfinite(ratio), shrinking, SHRINK_UNDEFINED)
    return torch.where(accepted, growing, shrinking)


def remembered(ratio: Tensor) -> Tensor:
    """What the controller keeps of an accepted error."""
    return ratio.clamp(min=_ERROR_FLOOR)


def starting_step(
    system: System, tolerance: Tolerance, t0: float, t1: float, y: Tensor, slope: Tensor, order: int
) -> Tensor:
    """A first step size per row ``(rows,)`` (Hairer et al. 1993, II.4, starting step). One evaluation."""
    zero = torch.zeros_like(y)
    length, sign = abs(t1 - t0), 1.0 if t1 > t0 else -1.0
    with torch.no_grad():
        size, speed = (tolerance.ratio(system, value, y, zero) for value in (y, slope))
        small = (size < 1e-5) | (speed < 1e-5)
        guess = torch.where(small, 1e-6, 0.01 * size / speed).clamp(max=length)
        guess = torch.where(torch.isfinite(guess), guess, 1e-6 * length)
        there = (t0 + sign * guess).clamp(min(t0, t1), max(t0, t1))
        ahead = system(there, y + sign * guess.unsqueeze(1) * slope)
        bend = tolerance.ratio(system, ahead - slope, y, zero) / guess
        most = torch.maximum(speed, bend)
        flat = torch.maximum(guess * 1e-3, torch.full_like(guess, 1e-6))
        refined = torch.where(most <= 1e-15, flat, (0.01 / most).pow(1 / (order + 1)))
        step = torch.minimum(100 * guess, refined)
        # Where the trial point is outside the field's domain, begin with the guess alone.
        return torch.where(torch.isfinite(step), step, guess).clamp(max=length)
