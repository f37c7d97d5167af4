"""Is an invertible map what it should be? It returns, in both directions, with the log-determinant of the one called.

`decode` undoing `encode` proves little: a wrong log-determinant with the wrong sign on the way back passes. So both are
compared with the determinant of the Jacobian that automatic differentiation finds, in float64.
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advect.errors import AdvectError, ConfigError, ShapeError, UnsupportedError
from advect.evaluation.verification.probe import generator_of
from advect.evaluation.verification.record import FAIL, NOTE, PASS, SKIPPED, Check, Verification
from advect.transforms import Precision

POINTS = 16
LARGEST = 256  # numbers in a row whose Jacobian is still found: 16 of them are 8 MB
ALLOWED, TOLD = 1e-3, 1e-6
ROUNDINGS = 100  # of a chain of layers, in units of the last place
REASON = (
    "relative to 1 + the size of what it is compared with, in float64; layers in closed form leave rounding, numeric "
    "inverses and solvers at their usual tolerances a tenth of this"
)
CONTRACT = "A map has encode(x, condition=None, *, log_det=True, generator=None) -> Mapped, and decode likewise."


@dataclass(frozen=True)
class _Sides:
    """Rows on both sides of a map, and what it says of them.

    Attributes:
        x: ``(rows, *event)`` on the data side.
        z: The same rows on the source side, by `encode`.
        back: ``decode(z)``.
        encoded: ``(rows,)`` log-determinant of `encode` at x; None where the map has none.
        decoded: Of `decode` at z.
        error: ``(rows,)`` standard errors of the two together, zero for exact ones.
        jacobian: ``(rows, numbers, numbers)`` of `encode` at x, by automatic differentiation; None where rows are too
            wide, or the two sides differ in shape.
    """

    x: Tensor
    z: Tensor
    back: Tensor
    encoded: Tensor | None
    decoded: Tensor | None
    error: Tensor
    jacobian: Tensor | None

    @property
    def rounding(self) -> Tensor:
        """``(rows,)`` what rounding may leave: an extreme map magnifies it by the condition number of its Jacobian."""
        if self.jacobian is None:
            return torch.zeros(len(self.x), dtype=self.x.dtype)
        return ROUNDINGS * torch.finfo(self.x.dtype).eps * torch.linalg.cond(self.jacobian).nan_to_num(torch.inf)


def verify_map(
    map: Any, *, data: Tensor | None = None, event_shape: tuple[int, ...] = (3,), seed: int = 0, name: str | None = None
) -> Verification:
    """Try every law of an invertible map.

    Args:
        map: ``encode`` and ``decode``, which return a `records.Mapped` or the pair (value, log-determinant). A module
            is copied, and tried in evaluation mode.
        data: ``(rows, *event)`` rows that it encodes; by default what it decodes from standard-normal rows.
        event_shape: Shape of one row, where neither rows nor the map's own ``event_shape`` say it.
        seed: Of every draw.
        name: What to call the map; its class where nothing is said.

    Raises:
        AdvectError: Its methods raise, or return other shapes.
    """
    name = name or type(map).__name__
    if isinstance(map, nn.Module):
        map = _in_double(map)
    shape = tuple(data.shape[1:]) if data is not None else getattr(map, "event_shape", None) or tuple(event_shape)
    generator = generator_of(seed, "rows")
    if data is None:
        x = _asked(map, "decode", torch.randn(POINTS, *shape, generator=generator, dtype=torch.float64), seed)[0]
    else:
        x = data.double()[torch.randperm(len(data), generator=generator)[:POINTS]]
    finite, x = _finite_check(map, x.detach(), seed)
    checks: list[Check] = [finite]
    if not finite.failed:
        sides = _sides(map, x, seed)
        checks += [_returns(sides), *_determinants(sides), _alone(map, sides, seed), _plain(map, sides, seed)]
    return Verification(name, tuple(checks), len(x), tuple(shape), seed)


def _in_double(map: nn.Module) -> nn.Module:
    """A copy in float64 from end to end, also where the map would go down to float32 on its way."""
    copied = copy.deepcopy(map).double().eval()
    for part in copied.modules():
        if isinstance(part, Precision):
            part.inner = part.outer = torch.float64
    return copied


def _asked(
    map: Any, direction: str, rows: Tensor, seed: int, log_det: bool = True
) -> tuple[Tensor, Tensor | None, Any]:
    """Value, log-determinant and whatever else one direction returns, its shapes checked."""
    call = getattr(map, direction)
    extra = {"log_det": log_det} if not log_det or "log_det" in inspect.signature(call).parameters else {}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = call(rows, **extra)
    except AdvectError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the map's {direction} raised {type(error).__name__}: {error}", where=f"{direction}(x)", remedy=CONTRACT
        ) from error
    value, log_abs_det = (made.value, made.log_abs_det_jacobian) if hasattr(made, "value") else made
    for what, found, shape in (("value", value, rows.shape), ("log-determinant", log_abs_det, rows.shape[:1])):
        if found is not None and found.shape != shape:
            raise ShapeError(
                f"{direction} returns a {what} of shape {tuple(found.shape)}, for {tuple(shape)}",
                where=direction,
                remedy=CONTRACT,
            )
    return value, log_abs_det, made


def _finite_check(map: Any, x: Tensor, seed: int) -> tuple[Check, Tensor]:
    """Every row has a value or a status that says why not; the rows that have one are kept."""
    value, log_abs_det, made = _asked(map, "encode", x, seed)
    good = value.isfinite().flatten(1).all(1) & x.isfinite().flatten(1).all(1)
    if log_abs_det is not None:
        good &= log_abs_det.isfinite()
    status = getattr(made, "status", None)
    if bool(good.all()):
        return Check("finite", PASS, f"{len(x)} of {len(x)} rows have a value"), x
    hidden = ~good if status is None else ~good & (status == 0)
    bad = int((~good).nonzero()[0])
    facts: dict[str, Any] = {"x": tuple(x[bad].flatten().tolist()), "value": float((~good).sum()), "tolerance": 0.0}
    if bool(hidden.any()) or not bool(good.any()):
        fix = "Return finite values on the whole domain, or NaN with a status; give data= of the map's domain."
        message = f"{int((~good).sum())} of {len(x)} rows are not finite, and no status says so"
        return Check("finite", FAIL, message, reason="rows without a value", fix=fix, **facts), x
    return Check("finite", NOTE, f"{int((~good).sum())} of {len(x)} rows failed, and say so", **facts), x[good]


def _sides(map: Any, x: Tensor, seed: int) -> _Sides:
    z, encoded, there = _asked(map, "encode", x, seed)
    back, decoded, again = _asked(map, "decode", z.detach(), seed)
    errors = [getattr(made, "standard_error", None) for made in (there, again)]
    error = sum((e.detach().square() for e in errors if e is not None), torch.zeros(len(x), dtype=x.dtype)).sqrt()
    return _Sides(
        x,
        z.detach(),
        back.detach(),
        None if encoded is None else encoded.detach(),
        None if decoded is None else decoded.detach(),
        error,
        _jacobian(map, x, seed) if x.shape == z.shape and x[0].numel() <= LARGEST else None,
    )


def _jacobian(map: Any, x: Tensor, seed: int) -> Tensor:
    """``(rows, numbers, numbers)`` of `encode`, a row at a time."""
    size = x[0].numel()

    def encode(row: Tensor) -> Tensor:
        return _asked(map, "encode", row[None], seed)[0][0]

    return torch.stack([torch.autograd.functional.jacobian(encode, row).reshape(size, size) for row in x])


def _judged(
    law: str, told: Tensor, true: Tensor, sides: _Sides, words: tuple[str, str], fix: str, chance: bool = False
) -> Check:
    """Numbers against what they should be, row by row, beyond rounding and (with ``chance``) six standard errors.

    Args:
        law: Its name.
        told: ``(rows, …)`` what the map says.
        true: What it should say.
        sides: The rows.
        words: What to say where it holds, and where it does not.
        fix: The likely remedy.
        chance: Whether the numbers have the log-determinants' standard errors.
    """
    rows, rounding = len(sides.x), sides.rounding
    slack = 6 * sides.error[:, None] if chance else 0.0
    off, size = (told - true).abs().reshape(rows, -1), 1 + true.abs().reshape(rows, -1)
    wrong = ((off - slack).clamp(min=0) / size).amax(1)
    over = torch.where(wrong.isfinite(), wrong - rounding, torch.inf)
    worst = int(over.argmax())
    facts: dict[str, Any] = {
        "value": float(wrong[worst]),
        "tolerance": ALLOWED,
        "reason": REASON,
        "x": tuple(sides.x[worst].flatten().tolist()),
    }
    held, broken = words
    if float(over[worst]) > ALLOWED:
        return Check(law, FAIL, broken, fix=fix, **facts)
    largest = float(wrong.max())
    extreme = "; the map stretches so unevenly here that rounding shows" if largest > float(over[worst]) + TOLD else ""
    return Check(law, PASS if largest <= TOLD else NOTE, f"{held}, to {largest:.1g}{extreme}", **facts)


def _returns(sides: _Sides) -> Check:
    fix = "Write decode as the exact inverse of encode, with the same parameters."
    words = ("decode undoes encode", "decode(encode(x)) is not x")
    return _judged("round trip", sides.back, sides.x, sides, words, fix)


def _determinants(sides: _Sides) -> list[Check]:
    """Both log-determinants against the Jacobian of `encode`."""
    laws = {"log-determinant of encode": (sides.encoded, 1.0), "log-determinant of decode": (sides.decoded, -1.0)}
    if sides.jacobian is None:
        why = f"the Jacobian is found for rows of up to {LARGEST} numbers, of one shape on both sides"
        return [Check(law, SKIPPED, why) for law in laws]
    true = torch.linalg.slogdet(sides.jacobian).logabsdet
    words = ("as automatic differentiation finds it", "not that of the Jacobian that automatic differentiation finds")
    return [
        Check(law, SKIPPED, "it gives none")
        if told is None
        else _judged(law, told, sign * true, sides, words, _cause(told, sign * true), chance=True)
        for law, (told, sign) in laws.items()
    ]


def _cause(told: Tensor, true: Tensor) -> str:
    """The likely mistake, by trying what would mend it."""
    if torch.allclose(told, -true, atol=ALLOWED):
        return "It is that of the other direction: change its sign."
    if torch.allclose(told - true, (told - true).mean(), atol=ALLOWED):
        return f"It is off by {float((told - true).mean()):.4g} in every row: a constant is missing or too much."
    ratio = float((told * true).sum() / true.square().sum())
    if torch.allclose(told, ratio * true, atol=ALLOWED):
        return f"It is {ratio:.4g} times the right one in every row: a mean taken for a sum, or a factor."
    return "Add up log |∂z_i/∂x_i| of every coordinate that moves, at the x (or z) the method was called with."


def _alone(map: Any, sides: _Sides, seed: int) -> Check:
    """A row's answer does not depend on the rows beside it."""
    alone = torch.cat([_asked(map, "encode", sides.x[k : k + 1], seed)[0].detach() for k in range(len(sides.x))])
    fix = "Let no statistic of the batch reach a row: use running averages in evaluation mode."
    words = ("a row alone has the same answer", "a row's answer changes with the rows beside it")
    return _judged("rows are independent", alone, sides.z, sides, words, fix)


def _plain(map: Any, sides: _Sides, seed: int) -> Check:
    """The value is the same where no log-determinant is asked for."""
    law = "without log-determinant"
    try:
        value = _asked(map, "encode", sides.x, seed, log_det=False)[0].detach()
    except (ConfigError, UnsupportedError) as error:
        return Check(law, SKIPPED, f"it takes no log_det=False: {error.what}")
    fix = "Skip only the log-determinant where it is not asked for."
    return _judged(law, value, sides.z, sides, ("the same value", "another value where log_det is False"), fix)
