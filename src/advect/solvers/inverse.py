"""The inverse of an elementwise monotone function, by brackets.

The bracket is widened until it holds the root; then Newton steps are taken while they stay inside and converge fast
enough, and bisection otherwise (Press et al. 2007, section 9.4). A row whose root is not found fails; it never gets an
end of the bracket as its value. Gradients are those of the implicit function,

    f(x(y, θ), θ) = y   ⇒   dx = (dy − ∂_θ f dθ) / f'(x),

whatever the search did: two Newton steps from the root leave it where it is and carry derivatives up to the third.
`fixed_point`, for x + g(x) = y, stands in `advect.solvers.contraction`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError
from advect.records import Status
from advect.solvers.contraction import fixed_point
from advect.solvers.root import Root

__all__ = ["Root", "bracketed_root", "fixed_point"]

Elementwise = Callable[[Tensor], Tensor]

_DOUBLINGS = 128  # from a width of one past the largest float32


def bracketed_root(
    f: Elementwise,
    y: Float[Tensor, "batch *event"],
    *,
    derivative: Elementwise | None = None,
    start: Float[Tensor, "batch *event"] | float = 0.0,
    width: float = 1.0,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> Root:
    """Solve f(x) = y element by element for a monotone ``f``, rising or falling.

    Args:
        f: Maps ``(batch, *event)`` to the same shape, element by element, on the whole real line.
        y: The values to hit.
        derivative: f'; None for autograd's.
        start: Middle of the first bracket.
        width: Half its width.
        tolerance: On x, relative to max(1, |x|); None for four units in the last place.
        max_iterations: Evaluations after the root has been bracketed.

    Raises:
        ConfigError: A width, tolerance or count that is not positive.
    """
    tolerance = 4 * torch.finfo(y.dtype).eps if tolerance is None else tolerance
    if not (width > 0 and tolerance > 0 and max_iterations > 0):
        raise ConfigError(
            f"width {width!r}, tolerance {tolerance!r} and max_iterations {max_iterations!r} must be positive",
            where="bracketed_root",
            remedy="Give positive numbers.",
        )
    slope = derivative or (lambda x: _slope(f, x, graph=False)[1])
    with torch.no_grad():
        middle = torch.as_tensor(start, dtype=y.dtype, device=y.device).expand(y.shape)
        low, high, sign, held, widenings = _bracket(f, y.detach(), middle, width)
        x, done, rounds = _refine(f, slope, y.detach(), low, high, sign, held, tolerance, max_iterations)
        residual = (f(x) - y.detach()).abs()
        sure = _verified(f, y.detach(), x, sign, tolerance)
    row_done = _per_row(done & held & sure, torch.all)
    if torch.is_grad_enabled():
        x = _implicit(f, x, y, row_done)
    keep = row_done.reshape(-1, *([1] * (y.ndim - 1)))
    status = torch.where(row_done, int(Status.OK), int(Status.NOT_CONVERGED)).to(torch.int8)
    return Root(
        value=torch.where(keep, x, torch.nan),
        iterations=_per_row(widenings + rounds, torch.amax),
        residual=_per_row(residual, torch.amax),
        status=status,
    )


def _bracket(f: Elementwise, y: Tensor, middle: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Widen until f(low) and f(high) lie on either side of y.

    Returns ``low``, ``high``, the direction of f (±1), where the root is held, and evaluations.
    """
    reach = torch.full_like(y, width)
    low, high = middle - reach, middle + reach
    below, above = f(low), f(high)
    rounds = torch.full_like(y, 2, dtype=torch.int64)
    sign = torch.ones_like(y)
    held = torch.zeros_like(y, dtype=torch.bool)
    for _ in range(_DOUBLINGS):
        sign = torch.where(above < below, -1.0, 1.0).to(y.dtype)
        too_high, too_low = (below - y) * sign > 0, (above - y) * sign < 0
        defined = ~(torch.isnan(below) | torch.isnan(above))
        held = defined & ~too_high & ~too_low
        seeking = defined & ~held & torch.isfinite(reach)
        if not bool(seeking.any()):
            break
        reach = torch.where(seeking, reach * 2, reach)
        low = torch.where(seeking & too_high, middle - reach, low)
        high = torch.where(seeking & too_low, middle + reach, high)
        below, above = f(low), f(high)
        rounds += 2 * seeking
    return low, high, sign, held & torch.isfinite(low) & torch.isfinite(high), rounds


def _refine(
    f: Elementwise,
    slope: Elementwise,
    y: Tensor,
    low: Tensor,
    high: Tensor,
    sign: Tensor,
    held: Tensor,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton inside the bracket, bisection where it would leave it or does not halve its steps."""
    x = low + (high - low) / 2
    move_before = high - low
    done = ~held
    rounds = torch.zeros_like(y, dtype=torch.int64)
    for _ in range(max_iterations):
        if bool(done.all()):
            break
        miss = f(x) - y
        rounds += ~done
        rising = miss * sign
        low = torch.where(done | (rising > 0), low, x)
        high = torch.where(done | (rising < 0), high, x)
        newton = -miss / slope(x)
        target = x + newton
        trusted = (target > low) & (target < high) & (newton.abs() < 0.5 * move_before)
        halfway = low + (high - low) / 2
        move = torch.where(trusted, newton, halfway - x)
        close = tolerance * x.abs().clamp(min=1.0)
        move = torch.where(done | (miss == 0), 0.0, move)
        arrived = ((miss == 0) | (move.abs() <= close)) & torch.isfinite(miss)
        x = torch.where(done, x, x + move)
        move_before = torch.where(done, move_before, move.abs())
        done = done | arrived
    return x, done, rounds


def _verified(f: Elementwise, y: Tensor, x: Tensor, sign: Tensor, tolerance: float) -> Tensor:
    """Whether f passes y within twice the tolerance of x, up to the rounding of f: a short Newton step is no proof."""
    near = 2 * tolerance * x.abs().clamp(min=1.0)
    below, above = f(x - near), f(x + near)
    rounding = 16 * torch.finfo(y.dtype).eps * (torch.maximum(below.abs(), above.abs()) + y.abs())
    return ((below - y) * sign <= rounding) & ((above - y) * sign >= -rounding)


def _slope(f: Elementwise, x: Tensor, *, graph: bool) -> tuple[Tensor, Tensor]:
    """f(x) and f'(x), by one backward pass: f is elementwise."""
    with torch.enable_grad():
        point = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = f(point)
        if not value.requires_grad:
            return value, torch.zeros_like(x)
        (slope,) = torch.autograd.grad(value.sum(), point, create_graph=graph, allow_unused=True)
    return value, torch.zeros_like(x) if slope is None else slope


def _implicit(f: Elementwise, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Two Newton steps with their graph, for the rows whose root was found.

    Newton's error is squared by each step, in the value as in its expansion in (y, θ): after two steps from the root
    derivatives up to the third are exact.
    """
    keep = rows.reshape(-1, *([1] * (y.ndim - 1)))
    root = torch.where(keep, x, 0.0)  # a failed row must not send NaN into shared parameters
    polished = root
    for _ in range(2):
        value, slope = _slope(f, polished, graph=True)
        if not (value.requires_grad or y.requires_grad):
            return x
        safe = torch.where(keep & (slope != 0), slope, 1.0)
        miss = torch.where(keep, y - value, 0.0)
        polished = polished + miss / safe
    return polished


def _per_row(values: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce the elements of each row to ``(batch,)``."""
    return values if values.ndim == 1 else reduce(values.reshape(values.shape[0], -1), dim=1)
