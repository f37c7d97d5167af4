"""Does the conditional field carry a point from the source to the data?

Every pair's own field is integrated from the path's point at t = 0. A field may obey every law inside (0, 1) and not
arrive: x1 − x with weight w leaves κ = exp(−∫w) of x0. One Euler step would hide that, so the solver is adaptive.
"""

import math

import torch
from torch import Tensor

from advect.errors import AdvectError
from advect.evaluation.verification.ends import ALLOWED, END, announced
from advect.evaluation.verification.probe import Probe
from advect.evaluation.verification.record import FAIL, PASS, SKIPPED, Check
from advect.records import Status
from advect.solvers import Adaptive
from advect.solvers.status import REASONS

LAW = "arrival"
PAIRS = 64
LAST = 1 - 1e-6  # fields with 1/(1 − t) are stiff without end; what is left to go there is a millionth
REASON = (
    "root mean square of x(1) − x1 beyond the blur that end() states, as a part of the spread of the data; as much "
    "as is worth telling, by default 5 %"
)


def arrival_check(probe: Probe, level: str | None, end: Check, allowed: float = ALLOWED) -> Check:
    """Whether dx/dt = u_t(x|z) from the start reaches x1.

    Args:
        probe: The path.
        level: What the continuity equation holds given: z is the data row where it holds given no more than that; then
            a pair's own field need not arrive.
        end: Where the points of the path end; blur that was accepted there is here too.
        allowed: What may be missing, as a part of the spread of the data.
    """
    if not probe.has_velocity:
        return Check(LAW, SKIPPED, "the path has no velocity(t, x, x0, x1) to integrate")
    velocity = probe.velocity_given("pair" if level in ("pair", None) else "data")
    if velocity is None or level == "marginal":
        why = "the law holds for an average over pairs, whose own fields need not arrive"
        return Check(LAW, SKIPPED, f"{why}; with both ends and the continuity equation the average does")
    rows = slice(0, min(PAIRS, probe.rows))
    x0, x1 = _flat(probe.x0[rows]), _flat(probe.x1[rows])
    event = probe.x1.shape[1:]
    first = probe.draw(torch.zeros(len(x1), dtype=x1.dtype), rows).x if probe.can_sample else probe.x0[rows]
    pairs = torch.cat([x0, x1], 1)

    def field(t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        ends = condition.reshape(len(x), 2, *event)
        time = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        return velocity(time, x, ends[:, 0], ends[:, 1])

    solver = Adaptive(rtol=1e-6, atol=1e-6, max_steps=4000)
    try:
        solution = solver(field, first, 0.0, LAST, condition=pairs)
    except AdvectError as error:
        return Check(LAW, FAIL, f"the field cannot be integrated: {error.what}", fix=error.remedy)
    failed = solution.status > 0
    if bool(failed.any()):
        row = int(failed.nonzero()[0])
        reason, _ = REASONS[Status(int(solution.status[row]))]
        return Check(
            LAW,
            FAIL,
            f"the integration from t = 0 fails for {int(failed.sum())} of {len(x1)} pairs: {reason}",
            t=float(solution.failed_at[row]),
            fix="Give the velocity its limit where it divides by 0, or cut the singular end off.",
        )
    return _judged(probe, _flat(solution.state), x0, x1, end, allowed)


def _judged(probe: Probe, end: Tensor, x0: Tensor, x1: Tensor, judged: Check, allowed: float) -> Check:
    said = announced(probe.path, END)
    blur, own = 0.0, 0.0
    if probe.can_sample:
        ones = torch.ones(len(x1), dtype=x1.dtype)
        own = _rms(_flat(probe.draw(ones, slice(0, len(x1))).x) - x1)
    if said is not None and abs(said.data - 1) <= allowed:
        blur = math.hypot(said.source * _rms(x0), said.noise)
    elif said is None and not judged.failed:
        blur = own
    off = end - x1
    spread = max(_rms(x1 - x1.mean(0)), 0.01 * _rms(x1)) or 1.0  # rows may be all alike
    wrong = max(_rms(off) - 1.2 * blur, 0.0) / spread
    way = x0 - x1
    left = float((off * way).sum() / way.square().sum())
    worst = int(off.square().sum(1).argmax())
    facts = {"value": wrong, "tolerance": allowed, "reason": REASON, "t": 1.0, "x": tuple(end[worst].tolist())}
    if wrong <= allowed:
        return Check(LAW, PASS, f"the field of each pair carries x0 to x1, to {_rms(off):.2g}", **facts)
    return Check(
        LAW,
        FAIL,
        f"integrated from t = 0 to 1 the field does not reach the data: a fraction {left:.3g} of x0 − x1 is left",
        fix=_SHORT if own < 1.2 * _rms(off) and own > 0.8 * _rms(off) else _PULL if 0.02 < left < 0.98 else _FOREIGN,
        **facts,
    )


_SHORT = "The points of the path themselves end that far from the data: see its end."
_PULL = (
    "A field w(t)(x1 − x) arrives only where ∫w diverges, as w = 1/(1 − t) does; predicting x1 − x is a "
    "parameterisation, to be divided by 1 − t before it is integrated."
)
_FOREIGN = "The velocity does not belong to the points of this path: see the continuity equation."


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
