"""x + g(x) = y by fixed points, with an error bound.

The plain iteration x ← y − g(x) contracts by the Lipschitz constant L of g. Anderson acceleration of depth m (Walker
& Ni 2011) mixes the last m iterates so that the residual is least; where its step makes the residual
larger, the row goes back to its best iterate and takes a plain step. A row is done when a bound on ‖x − x*‖₂, and not
merely the last step, is below the tolerance:

    L known:    after a plain step, ‖x⁺ − x*‖ ≤ L/(1 − L) ‖x⁺ − x‖                               (Banach)
    L unknown:  ‖x − x*‖ ≈ κ ‖F(x)‖ with κ the largest ‖Δx‖/‖ΔF‖ seen, F(x) = x + g(x) − y.

The gradient is that of the implicit function: (I + ∂g/∂x)ᵀ w = v is solved the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError, UnsupportedError
from advect.records import Status
from advect.solvers.root import Root

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Setting:
    lipschitz: float | None
    tolerance: float
    max_iterations: int
    memory: int
    derivatives: int


def fixed_point(
    g: Map,
    y: Float[Tensor, "batch *event"],
    lipschitz: float | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int = 500,
    memory: int = 5,
    derivatives: int = 1,
) -> Root:
    """Solve x + g(x) = y row by row.

    Args:
        g: Maps ``(batch, *event)`` to the same shape; rows must be independent.
        y: The right-hand side, also the start.
        lipschitz: A bound L < 1 on the Lipschitz constant of ``g`` in the Euclidean norm of a row; None if unknown, in
            which case the error is estimated instead of bounded.
        tolerance: On ‖x − x*‖₂ relative to max(1, ‖x‖₂); None for ε^0.7 (1.4e-5 in float32, 1.1e-11 in float64).
        max_iterations: Evaluations of ``g`` per row.
        memory: Iterates that Anderson acceleration mixes; 0 for the plain iteration.
        derivatives: 2 to make second derivatives possible, at the price of another evaluation and solve.

    Raises:
        ConfigError: ``lipschitz`` outside [0, 1), or a tolerance or count out of range.
    """
    if lipschitz is not None and not 0 <= lipschitz < 1:
        raise ConfigError(
            f"the Lipschitz constant must lie in [0, 1), got {lipschitz!r}",
            where="fixed_point",
            remedy="Constrain g to be a contraction, or pass lipschitz=None.",
        )
    tolerance = torch.finfo(y.dtype).eps ** 0.7 if tolerance is None else tolerance
    if not (tolerance > 0 and max_iterations > 0 and memory >= 0 and derivatives in (1, 2)):
        raise ConfigError(
            f"tolerance {tolerance!r}, max_iterations {max_iterations!r}, memory {memory!r} or derivatives "
            f"{derivatives!r} is out of range",
            where="fixed_point",
            remedy="Give a positive tolerance and count, a memory of 0 or more, and derivatives 1 or 2.",
        )
    setting = _Setting(lipschitz, tolerance, max_iterations, memory, derivatives)
    with torch.no_grad():
        x, residual, iterations, done = _iterate(g, y.detach(), setting)
    value = _implicit(g, x, y, done, setting) if torch.is_grad_enabled() else x
    status = torch.where(done, int(Status.OK), int(Status.NOT_CONVERGED)).to(torch.int8)
    return Root(torch.where(_over(done, y), value, torch.nan), iterations, residual, status)


def _iterate(g: Map, y: Tensor, setting: _Setting) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The accelerated iteration: value, residual norm, evaluations and success per row."""
    shape, flat_y = y.shape, y.reshape(y.shape[0], y.shape[1:].numel())
    x = flat_y.clone()
    best, best_miss, best_norm = x, torch.zeros_like(x), x.new_full((len(x),), torch.inf)
    result, done = x, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    iterations = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    condition = x.new_ones(len(x))
    history = _History(setting.memory, x)
    for _ in range(setting.max_iterations):
        miss = flat_y - g(x.reshape(shape)).reshape(x.shape) - x  # −F(x), and the plain step
        iterations += ~done
        norm = miss.norm(dim=1)
        norm = torch.where(torch.isfinite(norm), norm, torch.inf)
        condition = torch.where(done, condition, torch.maximum(condition, history.condition(x, miss)))
        bound, candidate = _bound(setting.lipschitz, condition, norm, x, miss)
        arrived = ~done & (bound <= setting.tolerance * candidate.norm(dim=1).clamp(min=1.0))
        result = torch.where(arrived.unsqueeze(1), candidate, result)
        better = norm <= best_norm
        best_norm_next = torch.where(better & ~done, norm, best_norm)
        done = done | arrived
        if bool(done.all()):
            best_norm = best_norm_next
            break
        best = torch.where(better.unsqueeze(1), x, best)
        best_miss = torch.where(better.unsqueeze(1), miss, best_miss)
        best_norm = best_norm_next
        history.push(x, miss, keep=better)
        mixed = torch.where(better.unsqueeze(1), history.mix(x, miss), best + best_miss)
        x = torch.where(done.unsqueeze(1), x, mixed)
    return result.reshape(shape), best_norm, iterations, done


def _bound(lipschitz: float | None, condition: Tensor, norm: Tensor, x: Tensor, miss: Tensor) -> tuple[Tensor, Tensor]:
    """A bound on the error ``(rows,)`` and the point it holds for."""
    if lipschitz is None:
        return condition * norm, x
    # Rounding of g and of the sum stays in the residual however long one iterates, and 1/(1 − L) magnifies it.
    return lipschitz / (1 - lipschitz) * norm, x + miss


class _History:
    """The last differences of iterates and residuals, row by row."""

    def __init__(self, memory: int, like: Tensor) -> None:
        self.steps = like.new_zeros(len(like), memory, like.shape[1])
        self.turns = torch.zeros_like(self.steps)
        self.last: tuple[Tensor, Tensor] | None = None
        self.memory, self.place = memory, 0

    def condition(self, x: Tensor, miss: Tensor) -> Tensor:
        """‖Δx‖/‖ΔF‖ of the newest pair, ``(rows,)``; 0 where there is none."""
        if self.last is None:
            return x.new_zeros(len(x))
        moved, turned = (x - self.last[0]).norm(dim=1), (miss - self.last[1]).norm(dim=1)
        usable = torch.isfinite(turned) & (turned > 0)
        return torch.where(usable, moved / turned, 0.0)

    def push(self, x: Tensor, miss: Tensor, keep: Tensor) -> None:
        """Remember the newest pair; where ``keep`` is False the row starts afresh from its best iterate."""
        if self.last is not None and self.memory:
            slot = self.place % self.memory
            self.steps[:, slot] = x - self.last[0]
            self.turns[:, slot] = miss - self.last[1]
            self.place += 1
        fresh = ~keep
        self.steps[fresh] = 0.0
        self.turns[fresh] = 0.0
        self.last = (x, miss)

    def mix(self, x: Tensor, miss: Tensor) -> Tensor:
        """x + miss − (ΔX + ΔM) γ with γ minimising ‖miss − ΔM γ‖; the plain step while there is no history."""
        if not self.memory:
            return x + miss
        gram = self.turns @ self.turns.mT
        scale = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=torch.finfo(x.dtype).tiny)
        ridge = 10 * torch.finfo(x.dtype).eps * scale
        gram = gram + torch.diag_embed(ridge.unsqueeze(1).expand(-1, self.memory))
        right = self.turns @ miss.unsqueeze(2)
        weights, info = torch.linalg.solve_ex(gram, right)
        mixed = x + miss - ((self.steps + self.turns).mT @ weights).squeeze(2)
        usable = torch.isfinite(mixed).all(1) & (info == 0)
        return torch.where(usable.unsqueeze(1), mixed, x + miss)


def _implicit(g: Map, x: Tensor, y: Tensor, done: Tensor, setting: _Setting) -> Tensor:
    """The value with the gradient of the implicit function: dx = (I + ∂g/∂x)⁻¹ (dy − ∂_θ g dθ).

    One Newton step from the root leaves it where it is and carries its first derivatives; a second one carries the
    second (and third) derivatives, as Newton's error is squared each time, in the value as in its expansion.
    """
    over = _over(done, y)
    root = torch.where(over, x, 0.0)  # a failed row must not send NaN into shared parameters
    attached = root
    for _ in range(setting.derivatives):
        change = y - attached - g(attached)
        if not change.requires_grad:
            return x
        change = torch.where(over, change - change.detach(), 0.0)  # zero, with its graph
        change.register_hook(_TransposedSolve(g, root, setting))
        attached = attached + change
    return attached


@dataclass(frozen=True)
class _TransposedSolve:
    """v ↦ w with w + (∂g/∂x)ᵀ w = v at the root: again a fixed point, with the same Lipschitz constant."""

    g: Map
    root: Tensor
    setting: _Setting

    def __call__(self, cotangent: Tensor | None) -> Tensor | None:
        """Called by autograd with the gradient that flows back."""
        if cotangent is None:  # nothing does
            return None
        if torch.is_grad_enabled() and self.setting.derivatives < 2:
            raise UnsupportedError(
                "second derivatives of a fixed point were not prepared",
                where="fixed_point",
                remedy="Call it with derivatives=2.",
            )
        with torch.enable_grad():
            point = self.root.detach().requires_grad_()
            image = self.g(point)

        def pulled(w: Tensor) -> Tensor:
            if not image.requires_grad:
                return torch.zeros_like(w)
            (row,) = torch.autograd.grad(
                image, point, w, retain_graph=True, create_graph=torch.is_grad_enabled(), allow_unused=True
            )
            return torch.zeros_like(w) if row is None else row

        setting = self.setting
        return fixed_point(
            pulled,
            cotangent,
            setting.lipschitz,
            tolerance=setting.tolerance,
            max_iterations=setting.max_iterations,
            memory=setting.memory,
            derivatives=setting.derivatives,
        ).value


def _over(rows: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` as ``(batch, 1, …)`` to broadcast over events."""
    return rows.reshape(-1, *([1] * (like.ndim - 1)))
