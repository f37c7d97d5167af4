"""Is a solver what it should be? It is asked for the ends of an equation whose answer is known.

    dx_i/dt = cos(2t)·x_i²,    x(t) = x0 / (1 − x0·s(t)),    s(t) = sin(2t)/2,    log |∂x/∂x0| = −2 log(1 − x0·s(t))

It is not linear, and its field changes with time, so that a slope taken at the wrong time shows. Where a solver has a
number of ``steps``, they are doubled twice: the error must fall with them, and tells the order.
"""

import copy
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from advect.errors import AdvectError, ConfigError
from advect.evaluation.verification.probe import generator_of
from advect.evaluation.verification.record import FAIL, PASS, SKIPPED, Check, Verification
from advect.records import Solution
from advect.solvers import ExactDivergence

ROWS, COLUMNS = 8, 2
COARSE = 0.05  # an error that no solver worth its steps leaves on this equation, whose rows are about 1 in size
ROUNDING = 1e-9
LOWEST_ORDER = 0.7  # order 1, seen at a finite step
CONTRACT = (
    "A solver is called as solver(field, x, t0, t1, *, times=None, condition=None, divergence=None, generator=None) "
    "and returns a Solution."
)


class KnownField:
    """The field above, which counts the rows that it was asked for."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity ``(rows, columns)``."""
        self.rows += len(x)
        time = torch.as_tensor(t, dtype=x.dtype)
        return torch.cos(2 * time.reshape(-1, 1) if time.ndim else 2 * time) * x.square()


def known_end(x0: Tensor, t0: float, t1: float) -> Tensor:
    """Where the equation goes from ``x0`` at ``t0``, exactly."""
    return x0 / (1 - x0 * _gained(t0, t1))


def _gained(t0: float, t1: float) -> float:
    return (math.sin(2 * t1) - math.sin(2 * t0)) / 2


def verify_solver(solver: Any, *, seed: int = 0, name: str | None = None) -> Verification:
    """Try every law of a solver of ordinary differential equations.

    Args:
        solver: ``solver(field, x, t0, t1, …) -> Solution``.
        seed: Of the rows.
        name: What to call it; its class where nothing is said.

    Raises:
        AdvectError: It raises on the plainest call, or returns no `records.Solution`.
    """
    x0 = torch.rand(ROWS, COLUMNS, generator=generator_of(seed, "rows"), dtype=torch.float64) * 1.6 - 0.8
    checks = (
        _converges(solver, x0),
        _backwards(solver, x0),
        _times(solver, x0),
        _alone(solver, x0),
        _counts(solver, x0),
        _confesses(solver, x0),
        _determinant(solver, x0),
    )
    return Verification(name or type(solver).__name__, checks, ROWS, (COLUMNS,), seed)


def _solved(solver: Any, field: Any, x0: Tensor, t0: float = 0.0, t1: float = 1.0, **more: Any) -> Solution:
    try:
        with torch.no_grad():
            solution = solver(field, x0, t0, t1, **more)
    except AdvectError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the solver raised {type(error).__name__}: {error}", where="verify", remedy=CONTRACT
        ) from error
    if not isinstance(solution, Solution):
        raise ConfigError(f"the solver returns {type(solution).__name__}", where="verify", remedy=CONTRACT)
    return solution


def _error(solver: Any, x0: Tensor, t0: float, t1: float) -> tuple[float, Tensor]:
    """Largest distance to the exact end, and the row it is at."""
    off = (_solved(solver, KnownField(), x0, t0, t1).state - known_end(x0, t0, t1)).abs().amax(1)
    off = torch.where(off.isfinite(), off, torch.inf)
    return float(off.max()), x0[int(off.argmax())]


def _refined(solver: Any, times: int) -> Any:
    """The same solver with as many times its steps; None where it has none."""
    steps = getattr(solver, "steps", None)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        return None
    if dataclasses.is_dataclass(solver) and not isinstance(solver, type):
        return dataclasses.replace(solver, steps=times * steps)
    finer = copy.copy(solver)
    finer.steps = times * steps
    return finer


def _converges(solver: Any, x0: Tensor) -> Check:
    """The error falls when the steps are doubled; of a solver without steps it is small."""
    whole, where = _error(solver, x0, 0.0, 1.0)
    facts: dict[str, Any] = {"value": whole, "t": 1.0, "x": tuple(where.tolist())}
    finer, finest = _refined(solver, 2), _refined(solver, 4)
    if finer is None:
        facts |= {"tolerance": COARSE, "reason": "largest error at t = 1, of rows about 1 in size"}
        told = f"it ends {whole:.2g} from the exact end"
        return (
            Check("arrival", FAIL, told, fix=_CONSISTENT, **facts)
            if whole > COARSE
            else Check("arrival", PASS, told, **facts)
        )
    twice, four = (_error(one, x0, 0.0, 1.0)[0] for one in (finer, finest))
    facts |= {
        "reason": "largest error at t = 1, of rows about 1 in size; with twice and four times the steps it must fall"
    }
    if four < ROUNDING:
        return Check("arrival", PASS, f"it ends {whole:.2g} from the exact end, with more steps at it", **facts)
    order = math.log2(twice / four) if math.isfinite(twice) and math.isfinite(four) else -math.inf
    if order > LOWEST_ORDER:
        return Check("arrival", PASS, f"it ends {whole:.2g} from the exact end; order {order:.1f}", **facts)
    message = (
        f"it ends {whole:.2g} from the exact end, with four times the steps {four:.2g}: it converges to something else"
    )
    return Check("arrival", FAIL, message, fix=_CONSISTENT, **facts)


_CONSISTENT = "The weights of one step must add up to 1, and each slope be taken at its own time between t and t + h."


def _backwards(solver: Any, x0: Tensor) -> Check:
    """From t1 to t0 it does as well as from t0 to t1."""
    forward, _ = _error(solver, x0, 0.0, 1.0)
    end = known_end(x0, 0.0, 1.0)
    try:
        backward, where = _error(solver, end, 1.0, 0.0)
    except AdvectError as error:
        return Check("backwards", FAIL, f"it does not run from 1 to 0: {error.what}", fix=_SIGNED)
    allowed = 5 * forward + 1e-6
    facts: dict[str, Any] = {
        "value": backward,
        "tolerance": allowed,
        "reason": "largest error from t = 1 back to 0; five times that of the way there",
        "t": 0.0,
        "x": tuple(where.tolist()),
    }
    if backward <= allowed:
        return Check("backwards", PASS, f"from t = 1 to 0 it ends {backward:.2g} from the exact start", **facts)
    return Check("backwards", FAIL, "from t = 1 to 0 it does not come back", fix=_SIGNED, **facts)


_SIGNED = "Let the step h = (t1 − t0)/n keep its sign: encoding runs from 1 to 0."


def _times(solver: Any, x0: Tensor) -> Check:
    """States at requested times belong to the solution there."""
    law, times = "requested times", torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    try:
        states = _solved(solver, KnownField(), x0, 0.0, 1.0, times=times).states
    except AdvectError as error:
        return Check(law, SKIPPED, f"it takes no times: {error.what}")
    if states is None or tuple(states.shape) != (len(times), *x0.shape):
        shape = None if states is None else tuple(states.shape)
        return Check(
            law, FAIL, f"states is {shape}, for {len(times)} times", fix="Return states (times, rows, *event)."
        )
    exact = torch.stack([known_end(x0, 0.0, float(t)) for t in times])
    off = (states - exact).abs().amax((1, 2))
    worst, allowed = int(off.argmax()), 5 * _error(solver, x0, 0.0, 1.0)[0] + 1e-3
    facts: dict[str, Any] = {
        "value": float(off[worst]),
        "tolerance": allowed,
        "reason": "largest error there; five times that of the end, and what an interpolant of low order adds",
        "t": float(times[worst]),
    }
    if float(off[worst]) <= allowed:
        return Check(law, PASS, f"states there are {float(off[worst]):.2g} from the exact ones", **facts)
    return Check(law, FAIL, "states are not those of the requested times", fix="Keep the order of times.", **facts)


def _alone(solver: Any, x0: Tensor) -> Check:
    """A row's end does not depend on the rows beside it."""
    together = _solved(solver, KnownField(), x0).state
    alone = torch.cat([_solved(solver, KnownField(), row[None]).state for row in x0])
    off = float((together - alone).abs().max())
    facts: dict[str, Any] = {"value": off, "tolerance": 1e-10, "reason": "largest change; rounding in float64"}
    if off <= 1e-10:
        return Check("rows are independent", PASS, "a row alone has the same end", **facts)
    fix = "Control the step of each row by its own error."
    return Check("rows are independent", FAIL, "a row's end changes with the rows beside it", fix=fix, **facts)


def _counts(solver: Any, x0: Tensor) -> Check:
    """The evaluations that are told are those that were made."""
    field = KnownField()
    told = int(_solved(solver, field, x0).nfe.sum())
    facts: dict[str, Any] = {"value": float(field.rows - told), "tolerance": 0.0, "reason": "evaluations not told"}
    if told == field.rows:
        return Check("evaluations", PASS, f"{told / ROWS:g} a row, as it says", **facts)
    message = f"it made {field.rows / ROWS:g} evaluations a row and tells {told / ROWS:g}"
    return Check("evaluations", FAIL, message, fix="Count every call of the field for the rows in it.", **facts)


def _confesses(solver: Any, x0: Tensor) -> Check:
    """A row whose field is NaN fails by itself, and says so."""
    law, plain = "failures are told", KnownField()

    def broken(t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.where(x > 5, math.nan, plain(t, x))

    rows = torch.cat([x0[:-1], torch.full_like(x0[-1:], 9.0)])
    try:
        solution = _solved(solver, broken, rows)
    except AdvectError as error:
        return Check(law, FAIL, f"one bad row stops all: {error.what}", fix="Mark the row, and go on with the others.")
    status = solution.status
    if int(status[-1]) == 0 or bool((status[:-1] != 0).any()):
        message = "a row whose field is NaN is called ok" if int(status[-1]) == 0 else "good rows fail beside a bad one"
        return Check(law, FAIL, message, fix="Give each row its own status; a failed row is NaN with a reason.")
    if not bool(solution.state[-1].isnan().all()):
        return Check(law, FAIL, "a failed row still holds numbers", fix="A failed row is NaN: nobody must use it.")
    return Check(law, PASS, "a row whose field is NaN is NaN and says so; the others are as they were")


def _determinant(solver: Any, x0: Tensor) -> Check:
    """∫ div along the path is the log-determinant."""
    law = "log-determinant"
    try:
        told = _solved(solver, KnownField(), x0, divergence=ExactDivergence()).log_abs_det
    except (AdvectError, NotImplementedError) as error:
        return Check(law, SKIPPED, f"it carries no divergence: {getattr(error, 'what', error)}")
    if told is None:
        fix = "Return log_abs_det where a divergence is given, or refuse it."
        return Check(law, FAIL, "a divergence was given, and no log-determinant came back", fix=fix)
    exact = -2 * torch.log1p(-x0 * _gained(0.0, 1.0)).sum(1)
    off = float((told - exact).abs().max())
    allowed = 20 * _error(solver, x0, 0.0, 1.0)[0] + 1e-4
    facts: dict[str, Any] = {"value": off, "tolerance": allowed, "reason": "in nats; twenty times the error of the end"}
    if off <= allowed:
        return Check(law, PASS, f"{off:.2g} nats from the exact one", **facts)
    fix = "Integrate the divergence with the steps and weights of the state, and the sign of time."
    return Check(law, FAIL, "the integral of the divergence is not the log-determinant", fix=fix, **facts)
