"""Boundary conditions: p_0 is the source and p_1 the data, and time runs from one to the other.

The points at an end are fitted by x = a·x1 + b·x0 + rest. A path that says what it is made of there (``start()``,
``end()``) is held to its word; what it says about blur belongs to the model and is told as a note. What is laid at an
end without being said may be 5 % of the spread. A path that draws fresh noise at t = 0 starts at the *law* of the
source and not at x0 itself, which is enough; so laws are compared where points differ.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advect.evaluation.verification.functions import BUMPS, SINES, TestFunctions
from advect.evaluation.verification.probe import Probe, generator_of
from advect.evaluation.verification.record import FAIL, NOTE, PASS, SKIPPED, Check
from advect.evaluation.verification.statistics import fitted, zero_means

START, END, DIRECTION = "start", "end", "direction"
EXACT, ALLOWED = 1e-6, 0.05
REASON = (
    "root mean square of what is wrong at this end, as a part of the spread of the rows there; as much as is worth "
    "telling, by default 5 %"
)


@dataclass(frozen=True)
class Made:
    """What the points at one end are made of.

    Attributes:
        data: Weight of x1.
        source: Weight of x0.
        rest: Standard deviation of what neither explains, per coordinate.
        off: Root mean square of x − (row it should be), per coordinate.
        same_law: Whether the points have the law of the rows they should be, within chance.
    """

    data: float
    source: float
    rest: float
    off: float
    same_law: bool

    def __str__(self) -> str:
        return _mixture(self.data, self.source, self.rest)


def _mixture(data: float, source: float, noise: float) -> str:
    """``x1``, ``0.63·x1 + 0.37·x0``; left out is what is a millionth or less, or chance beside drawn noise."""
    chance = EXACT + 0.02 * noise
    parts = [(data, "x1"), (source, "x0")]
    words = [name if abs(w - 1) <= chance else f"{w:.3g}·{name}" for w, name in parts if abs(w) > chance]
    return " + ".join(words + ([f"{noise:.3g}·noise"] if noise > EXACT else [])) or "0"


def made_of(probe: Probe, end: float) -> Made:
    """Fit the points at t = 0 or t = 1; everything is NaN where a point is not finite."""
    x = _flat(probe.draw(torch.full((probe.rows,), end, dtype=probe.x1.dtype)).x)
    x0, x1 = _flat(probe.x0), _flat(probe.x1)
    if not bool(x.isfinite().all()):
        return Made(*[math.nan] * 4, same_law=False)
    columns = [x1.flatten(), x0.flatten()]
    weights = fitted(columns, x.flatten())
    rest = (x.flatten() - torch.stack(columns, 1) @ weights).square().mean().sqrt()
    wanted = x0 if end == 0 else x1
    functions = TestFunctions.draw(wanted, (), generator_of(probe.seed, "test functions"))
    # Rows of the two samples are paired, so the difference of the averages has the error of the differences.
    difference = functions.values(x) - functions.values(wanted)
    law = zero_means(difference, difference.abs().mean(0) + 1e-3, SINES + BUMPS)
    return Made(float(weights[0]), float(weights[1]), float(rest), _rms(x - wanted), law.holds)


def end_checks(probe: Probe, allowed: float = ALLOWED) -> list[Check]:
    """The two boundary conditions and the direction between them."""
    if not probe.can_sample:
        return [Check(law, SKIPPED, "the path draws no samples") for law in (START, END, DIRECTION)]
    start, end = made_of(probe, 0.0), made_of(probe, 1.0)
    reversed_time = _is(start, data=1.0, source=0.0) and _is(end, data=0.0, source=1.0)
    return [
        _end_check(probe, start, 0.0, reversed_time, allowed),
        _end_check(probe, end, 1.0, reversed_time, allowed),
        _direction(probe, reversed_time),
    ]


def _end_check(probe: Probe, made: Made, end: float, reversed_time: bool, allowed: float) -> Check:
    law = START if end == 0 else END
    if math.isnan(made.off):
        return Check(
            law, FAIL, f"x is not finite at t = {end:g}", t=end, fix="Give the limit there, without dividing by 0."
        )
    sizes = _rms(_flat(probe.x0)), _rms(_flat(probe.x1))
    said = announced(probe.path, law)
    status, wrong, message = (
        _undeclared(made, end, sizes, allowed) if said is None else _declared(made, said, sizes, allowed)
    )
    fix = None
    if status == FAIL:
        fix = _REVERSED if reversed_time else _REPAIR[end]
    return Check(law, status, message, value=wrong, tolerance=allowed, reason=REASON, t=end, fix=fix)


_REVERSED = (
    "Time runs the other way: advect has t = 0 at the source and t = 1 at the data. Put 1 − t for t and negate the "
    "velocity."
)
_REPAIR = {
    0.0: "At t = 0 nothing of x1 may stand beside x0: take a schedule with α(0) = 0, or more noise there. Where the "
    "source is scaled, say so in start().",
    1.0: "At t = 1 the weight of x1 must be 1 and nothing of x0 may be left: change the clock (such as "
    "pull.rescaled(), Shortened) so that it arrives; say in end() what blur is meant.",
}


@dataclass(frozen=True)
class Said:
    """What a path says it is made of at an end."""

    data: float
    source: float
    noise: float
    end: float

    @property
    def pure(self) -> bool:
        """Whether it says that the source, or the data, stands there alone."""
        return (self.data, self.source, self.noise) == ((0.0, 1.0, 0.0) if self.end == 0 else (1.0, 0.0, 0.0))

    @property
    def verb(self) -> str:
        """The method that says it."""
        return "start()" if self.end == 0 else "end()"

    def __str__(self) -> str:
        return _mixture(self.data, self.source, self.noise)


def announced(path: object, law: str) -> Said | None:
    """What a path says in ``start()`` or ``end()``; None where it says nothing."""
    asked = getattr(path, law, None)
    weights = asked() if callable(asked) else None
    if not all(hasattr(weights, name) for name in ("data", "source", "noise")):
        return None
    values = (float(getattr(weights, name)) for name in ("data", "source", "noise"))
    return Said(*values, end=0.0 if law == START else 1.0)


def _undeclared(made: Made, end: float, sizes: tuple[float, float], allowed: float) -> tuple[str, float, str]:
    """Status, size and sentence for an end that the path says nothing about."""
    wanted, name = ("x0", "source") if end == 0 else ("x1", "data")
    wrong = made.off / (sizes[int(end)] or 1.0)
    if wrong <= EXACT:
        return PASS, wrong, f"x is {wanted}"
    if wrong <= allowed:
        effect = "sampling starts without what is not x0" if end == 0 else "what is not x1 stays in the samples"
        return NOTE, wrong, f"x is {made}: {effect}"
    if made.same_law:
        return NOTE, 0.0, f"x is {made}, whose law these rows cannot tell from that of the {name}"
    return FAIL, wrong, f"p_{end:g} is not the {name}: x is {made}"


def _declared(made: Made, said: Said, sizes: tuple[float, float], allowed: float) -> tuple[str, float, str]:
    """Status, size and sentence for an end that the path has spoken about."""
    size0, size1 = sizes
    unit = math.hypot(said.data * size1, said.source * size0, said.noise) or 1.0
    rest = abs(made.rest - said.noise)
    broken = math.hypot((made.data - said.data) * size1, (made.source - said.source) * size0, rest) / unit
    # Noise that is drawn correlates with the rows by chance, and its spread is known to 1/√(2n) only.
    if broken > (0.05 if said.noise else EXACT):
        return FAIL, max(broken, allowed), f"x is {made}, while {said.verb} says {said}"
    message = f"x is {said}" if said.pure else f"x is {said}, as {said.verb} says"
    if said.end == 0:
        share = abs(said.data) * size1 / max(math.hypot(said.source * size0, said.noise), 1e-300)
        if share > EXACT:
            message += f": the start law holds {share:.2g} of the data beside the noise, which sampling leaves out"
        return FAIL if share > allowed else PASS if said.pure else NOTE, share, message
    short = abs(said.data - 1.0)
    if short > allowed:
        return FAIL, short, f"{message}: the field does not arrive at the data"
    return (PASS, short, message) if said.pure else (NOTE, short, f"{message}: what is not x1 stays in the samples")


def _direction(probe: Probe, reversed_time: bool) -> Check:
    """Whether the velocity points from source to data on the whole: ∫ E u·(x1 − x0) dt > 0."""
    t = torch.linspace(0.01, 0.99, probe.rows, dtype=probe.x1.dtype)
    drawn = probe.draw(t)
    way = _flat(probe.x1 - probe.x0)
    along = (_flat(drawn.velocity) * way).sum(1) / way.square().sum(1).mean()
    along = along[along.isfinite()]
    if len(along) < 2:
        return Check(DIRECTION, FAIL, "the velocity is not finite anywhere")
    mean, error = float(along.mean()), float(along.std() / math.sqrt(len(along)))
    facts = {
        "value": mean,
        "error": error,
        "reason": "mean of u·(x1 − x0) as a part of |x1 − x0|²; a field from the source to the data has it above 0",
    }
    if reversed_time:
        return Check(DIRECTION, FAIL, "t = 0 is the data and t = 1 the source", fix=_REVERSED, **facts)
    if mean < -4 * error and mean < -1e-3:
        return Check(
            DIRECTION,
            FAIL,
            "the velocity points from the data to the source",
            fix="Its sign is swapped, or it belongs to time running the other way: negate it.",
            **facts,
        )
    return Check(DIRECTION, PASS, "t = 0 is the source and the velocity points to the data", **facts)


def _is(made: Made, *, data: float, source: float) -> bool:
    return abs(made.data - data) < ALLOWED and abs(made.source - source) < ALLOWED


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
