"""Residual maps z = x + g(x) with a contraction g.

For Lip(g) ≤ L < 1 the map is invertible, by iterating x ← z − g(x) (Behrmann et al. 2019, arXiv 1811.00995, theorem 1
and algorithm 1), and stretches by a factor between 1 − L and 1 + L. The inverse is `solvers.fixed_point`: accelerated,
with a bound on its error from L, a status for every row, and the gradient of the implicit function. The Jacobian
needs no structure; its log-determinant is that of `residual_trace`, always taken at the data side x, in both
directions: the inverse is found first, then log |det ∂x/∂z| = −log det(I + ∂g/∂x) there.

The log-determinant is exact for rows of few numbers. Above, training uses the unbiased roulette (Chen et al. 2019,
arXiv 1906.02735), evaluation the series up to a bound with several probes; both draw from the generator given and
report a standard error. N blocks whose g is a field v(k/N, ·)/N are Euler's method for dx/dt = v.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, ShapeError
from advect.records import Mapped, Status
from advect.solvers.inverse import Root, fixed_point
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.residual_trace import (
    ExactLogDet,
    LogDetEstimator,
    Pull,
    RouletteLogDet,
    SeriesLogDet,
)

EXACT_TRAINING_LIMIT = 8  # numbers in a row up to which training takes the whole Jacobian: about the price of a series
EXACT_EVALUATION_LIMIT = 64  # the same for evaluation, where no graph is kept and noise is worth more time


@runtime_checkable
class _Function(Protocol):
    """g with everything but x given."""

    lipschitz: float

    def __call__(self, x: Tensor) -> Tensor:
        """g(x)."""
        ...

    def linearise(self, x: Tensor) -> tuple[Tensor, Pull]:
        """g(x) and its vector–Jacobian product."""
        ...


class Residual(Bijection):
    """z = x + g(x | condition); `Inverse` of it has the sum on the other side, for fast sampling.

    Args:
        network: g. Our Lipschitz networks offer ``bind(condition)``, which scales their weights once per call and gives
            the vector–Jacobian product in closed form; any other module ``network(x)`` or ``network(x, condition)``,
            with rows that do not feel one another, is differentiated by autograd.
        event_shape: Shape of one row, of any rank.
        condition_shape: Shape of one condition, None for none.
        lipschitz: Bound L < 1 on the Lipschitz constant of g in x; None for the network's own ``lipschitz``.
        log_det: Estimator in training; exact up to 8 numbers in a row, `RouletteLogDet` above.
        evaluation_log_det: Estimator in evaluation; exact up to 64 numbers in a row, `SeriesLogDet` above.
        tolerance: Of the inverse, on ‖x − x*‖₂ relative to max(1, ‖x‖₂); None for what the precision allows.
        max_iterations: Evaluations of g per row and inverse. Rows that are not done by then are NaN, with
            `Status.NOT_CONVERGED`.

    Raises:
        ConfigError: No bound on the Lipschitz constant, or one outside [0, 1).
    """

    def __init__(
        self,
        network: nn.Module,
        event_shape: tuple[int, ...],
        *,
        condition_shape: tuple[int, ...] | None = None,
        lipschitz: float | None = None,
        log_det: LogDetEstimator | None = None,
        evaluation_log_det: LogDetEstimator | None = None,
        tolerance: float | None = None,
        max_iterations: int = 500,
    ) -> None:
        super().__init__(tuple(event_shape), condition_shape)
        found = getattr(network, "lipschitz", None) if lipschitz is None else lipschitz
        if not isinstance(found, float | int) or not 0 <= found < 1:
            raise ConfigError(
                f"The Lipschitz constant of {type(network).__name__} is {found!r}, not a number in [0, 1)",
                where="Residual",
                remedy="Take a network of advect.networks.lipschitz_network, or give a bound that holds as lipschitz.",
            )
        self.network, self.lipschitz = network, float(found)
        self._size = size = math.prod(event_shape)
        self.log_det = log_det or (ExactLogDet() if size <= EXACT_TRAINING_LIMIT else RouletteLogDet())
        self.evaluation_log_det = evaluation_log_det or (
            ExactLogDet() if size <= EXACT_EVALUATION_LIMIT else SeriesLogDet()
        )
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        g = self._function(condition, x)
        if not log_det:
            return mapped(x + g(x), None)
        change, pull = g.linearise(x)
        found = self._estimator()(pull, x, self._bound(g), generator)
        return Mapped(x + change, found.value, mapped(x, None).status, standard_error=found.error)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        g = self._function(condition, z)
        root = self._root(g, z)
        if not log_det:
            return Mapped(root.value, None, root.status, nfe=root.iterations)
        failed = root.status >= Status.NAN_FIELD
        x = torch.where(_over(failed, z), 0.0, root.value)  # NaN must not reach the gradient of shared weights
        found = self._estimator()(g.linearise(x)[1], x, self._bound(g), generator)
        value = torch.where(failed, torch.nan, -found.value)
        error = None if found.error is None else torch.where(failed, torch.nan, found.error)
        return Mapped(root.value, value, root.status, standard_error=error, nfe=root.iterations + 1)

    def root(self, z: Tensor, condition: Tensor | None = None) -> Root:
        """Solve x + g(x | condition) = z ``(batch, *event)``, with evaluations, residual and status per row."""
        self._check(z, condition, self.source_shape)
        return self._root(self._function(condition, z), z)

    def _root(self, g: _Function, z: Tensor) -> Root:
        known = torch.isfinite(z).reshape(len(z), self._size).all(1)  # others would keep all rows iterating to the end
        start = torch.where(_over(known, z), z, 0.0)
        bound = self._bound(g)
        root = fixed_point(g, start, bound, tolerance=self._tolerance(z, bound), max_iterations=self.max_iterations)
        status = torch.where(known, root.status, int(Status.NOT_CONVERGED)).to(torch.int8)
        return replace(root, value=torch.where(_over(known, z), root.value, torch.nan), status=status)

    def _bound(self, g: _Function) -> float:
        """The smaller of the bound given and that of the weights of the moment."""
        return min(self.lipschitz, g.lipschitz)

    def _tolerance(self, z: Tensor, lipschitz: float) -> float:
        """What was asked for, or ε^0.7, or what the rounding of g leaves: its residual is magnified by L/(1 − L)."""
        if self.tolerance is not None:
            return self.tolerance
        epsilon = max(torch.finfo(d).eps for d in (z.dtype, self._dtype(z)))
        return max(epsilon**0.7, 8 * epsilon * lipschitz / (1 - lipschitz))

    def _estimator(self) -> LogDetEstimator:
        return self.log_det if self.training else self.evaluation_log_det

    def _dtype(self, like: Tensor) -> torch.dtype:
        """The precision of the network; that of the rows if it has no parameters."""
        first = next(self.network.parameters(), None)
        return like.dtype if first is None else first.dtype

    def _function(self, condition: Tensor | None, like: Tensor) -> _Function:
        """g for this call, in the precision of the rows on both ends."""
        dtype = self._dtype(like)
        condition = None if condition is None else condition.to(dtype)
        bind = getattr(self.network, "bind", None)
        inner = bind(condition) if callable(bind) else _Differentiated(self.network, condition, self.lipschitz)
        return inner if dtype == like.dtype else _Cast(inner, dtype)


class _Differentiated:
    """Any module as g, its products by autograd."""

    def __init__(self, network: Callable[..., Tensor], condition: Tensor | None, lipschitz: float) -> None:
        self.network, self.lipschitz = network, lipschitz
        self.given = () if condition is None else (condition,)

    def __call__(self, x: Tensor) -> Tensor:
        """g(x)."""
        return self._checked(self.network(x, *self.given), x)

    def _checked(self, change: Tensor, x: Tensor) -> Tensor:
        if change.shape != x.shape:
            raise ShapeError(
                f"The network returned {tuple(change.shape)} for rows {tuple(x.shape)}",
                where="Residual",
                remedy="g has the shape of its rows.",
            )
        return change

    def linearise(self, x: Tensor) -> tuple[Tensor, Pull]:
        """g(x) and products that keep a graph where gradients are on."""
        wanted = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            # Tensors made in inference mode cannot enter a graph; clones of them can.
            point, *given = (t.clone() if t.is_inference() else t for t in (x, *self.given))
            point = point if wanted and x.requires_grad else point.detach().requires_grad_()
            change = self._checked(self.network(point, *given), point)

        def pull(v: Tensor) -> Tensor:
            graph = torch.is_grad_enabled()
            columns = v.expand(len(x), *v.shape[1:]).unbind(1)
            if not change.requires_grad:  # a constant
                return torch.zeros_like(v).expand(len(x), *v.shape[1:])
            rows = [
                torch.autograd.grad(
                    change, point, column, retain_graph=True, create_graph=graph, materialize_grads=True
                )[0]
                for column in columns
            ]
            return torch.stack(rows, 1)

        return change if wanted else change.detach(), pull


class _Cast:
    """g in the precision of its network, between rows of another."""

    def __init__(self, inner: _Function, dtype: torch.dtype) -> None:
        self.inner, self.dtype, self.lipschitz = inner, dtype, inner.lipschitz

    def __call__(self, x: Tensor) -> Tensor:
        """g(x) in the dtype of x."""
        return self.inner(x.to(self.dtype)).to(x.dtype)

    def linearise(self, x: Tensor) -> tuple[Tensor, Pull]:
        """The same with its products."""
        change, pull = self.inner.linearise(x.to(self.dtype))
        return change.to(x.dtype), lambda v: pull(v.to(self.dtype)).to(v.dtype)


def _over(rows: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` as ``(batch, 1, …)`` to broadcast over events."""
    return rows.reshape(-1, *([1] * (like.ndim - 1)))
