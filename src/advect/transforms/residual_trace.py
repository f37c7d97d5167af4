"""The log-determinant of I + J for a contraction with Jacobian J, from products vᵀJ alone.

    log det(I + J) = Σ_{k≥1} (−1)^{k+1}/k tr J^k,   tr J^k = E[vᵀ J^k v] for E[v vᵀ] = I
                                                        (Behrmann et al. 2019, arXiv 1811.00995, section 3.1)

- `ExactLogDet`: all of J and a determinant; n products for rows of n numbers.
- `SeriesLogDet`: terms until a bound on the rest is small. With w_n = vᵀJⁿ and Lip(g) ≤ L < 1 the rest is at most
  ‖w_n‖ ‖v‖ L / ((1 − L)(n + 1)), far below the a-priori L^{n+1}.
- `RouletteLogDet`: a random number of terms, each divided by the probability of being reached; unbiased
  (Chen et al. 2019, arXiv 1906.02735, theorem 1).

The gradient of the two series is that of another series (same paper, theorem 2),

    ∂ log det(I + J) = tr((I + J)⁻¹ ∂J) = E[ Σ_{k≥0} (−1)^k (vᵀJ^k) ∂J v ],

whose vectors vᵀJ^k are those of the value and need no graph: one product with a graph is kept, however many terms. The
value and its gradient are separately unbiased. The value returned is always the estimate of the log-determinant; what
only serves the gradient is added as s − s, so no surrogate can be mistaken for a likelihood. Each row has its own
vectors, so the weights that a loss puts on rows reach each gradient as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.solvers.divergence import HutchinsonDivergence

Pull = Callable[[Tensor], Tensor]
"""Vectors ``(batch or 1, vectors, *event)`` to vᵀJ ``(batch, vectors, *event)``, differentiable."""

LEAST_PROBABILITY = 0.5  # of one more term: below it little time is saved, and weights grow


@dataclass(frozen=True)
class LogDet:
    """log det(I + J) with what is known of its error.

    Attributes:
        value: ``(batch,)``, differentiable.
        standard_error: ``(batch,)`` from the spread over the probes, NaN for a single one; None without probes.
        remainder: ``(batch,)`` bound on the terms left out, None where nothing is.
        terms: Number of products vᵀJ, one after the other.
    """

    value: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"] | None = None
    remainder: Float[Tensor, " batch"] | None = None
    terms: int = 0

    @property
    def error(self) -> Float[Tensor, " batch"] | None:
        """Standard error and remainder together; None where the value is exact."""
        parts = [part for part in (self.standard_error, self.remainder) if part is not None]
        return sum(parts[1:], parts[0]) if parts else None


@runtime_checkable
class LogDetEstimator(Protocol):
    """How to find log det(I + J)."""

    def __call__(
        self, pull: Pull, x: Float[Tensor, "batch *event"], lipschitz: float, generator: Generator | None
    ) -> LogDet:
        """For the Jacobian behind ``pull`` at ``x`` ``(batch, *event)``, of norm at most ``lipschitz`` < 1."""
        ...


@dataclass(frozen=True)
class ExactLogDet:
    """The whole Jacobian and its determinant, differentiable by ordinary means."""

    def __call__(
        self, pull: Pull, x: Float[Tensor, "batch *event"], lipschitz: float, generator: Generator | None
    ) -> LogDet:
        """One product with all unit vectors."""
        size = x.shape[1:].numel()
        units = torch.eye(size, dtype=x.dtype, device=x.device).reshape(1, size, *x.shape[1:])
        jacobian = pull(units).reshape(len(x), size, size)
        return LogDet(_log_det(jacobian), terms=1)


def _log_det(jacobian: Tensor) -> Tensor:
    """log det(I + J) ``(batch,)`` of ``(batch, n, n)``: positive, as I + tJ is never singular for ‖J‖ < 1."""
    size = jacobian.shape[1]
    if size > 2:
        unit = torch.eye(size, dtype=jacobian.dtype, device=jacobian.device)
        return torch.linalg.slogdet(jacobian + unit).logabsdet
    entries = jacobian.flatten(1).unbind(1)
    if size == 1:
        return torch.log1p(entries[0])
    a, b, c, d = entries
    return torch.log1p(a + d + (a * d - b * c))


@dataclass(frozen=True)
class SeriesLogDet:
    """The series, row by row until the bound on its rest is below a tolerance.

    Args:
        probes: Vectors per row; None for all unit vectors, so that every trace is exact.
        tolerance: Largest rest in nats.
        max_terms: Terms at most; the rest is then larger, and is reported.
    """

    probes: int | None = 8
    tolerance: float = 1e-4
    max_terms: int = 1000

    def __post_init__(self) -> None:
        if not (self.tolerance > 0 and self.max_terms > 0 and (self.probes is None or self.probes > 0)):
            raise ConfigError(f"{self} has a number that is not positive", where="SeriesLogDet")

    def __call__(
        self, pull: Pull, x: Float[Tensor, "batch *event"], lipschitz: float, generator: Generator | None
    ) -> LogDet:
        """``generator`` draws the probes."""
        size = x.shape[1:].numel()
        if self.probes is None:
            units = math.sqrt(size) * torch.eye(size, dtype=x.dtype, device=x.device)  # the mean is then the trace
            vectors = units.reshape(1, size, *x.shape[1:]).expand(len(x), *[-1] * x.ndim)
        else:
            vectors = HutchinsonDivergence(self.probes).probes(x, generator)
        stop = _Tolerance(vectors, lipschitz, self.tolerance, self.max_terms)
        columns, terms = _sum_series(pull, vectors, stop)
        error = None if self.probes is None else _standard_error(columns)
        return LogDet(columns.mean(1), error, stop.remainder, terms)


@dataclass(frozen=True)
class RouletteLogDet:
    """The series cut at random, without bias.

    After ``exact_terms`` each further term is taken with a probability p and divided by it. By default p follows the
    vectors: it is the factor by which the last product shortened them. The weights then grow no faster than the
    vectors shrink, so the variance is finite whatever the Jacobian, and as few terms are taken as that allows. (With a
    Poisson number of terms, as published, the weights grow like k! and the variance is infinite for every Jacobian
    but zero; with a fixed p it is finite if p > ‖J‖².) The draw is one for all rows, the vectors are each row's own.

    Args:
        exact_terms: Terms that are always taken.
        continue_probability: A fixed p instead: a geometric number of terms.
        probes: Vectors per row, each with its own number of terms; two or more for a standard error.
    """

    exact_terms: int = 2
    continue_probability: float | None = None
    probes: int = 1

    def __post_init__(self) -> None:
        p = self.continue_probability
        if self.exact_terms < 1 or self.probes < 1 or not (p is None or 0 < p < 1):
            raise ConfigError(
                f"{self} is out of range",
                where="RouletteLogDet",
                remedy="Take at least 1 exact term and 1 probe, and a probability strictly between 0 and 1.",
            )

    def __call__(
        self, pull: Pull, x: Float[Tensor, "batch *event"], lipschitz: float, generator: Generator | None
    ) -> LogDet:
        """``generator`` draws the probes, then one number for each that says when it ends."""
        vectors = HutchinsonDivergence(self.probes).probes(x, generator)
        device = None if generator is None else generator.device
        drawn = torch.rand(self.probes, dtype=torch.float64, generator=generator, device=device).to(x.device)
        fixed = self.continue_probability
        highest = max(LEAST_PROBABILITY, lipschitz) if fixed is None else fixed
        stop = _Survival(drawn, self.exact_terms, LEAST_PROBABILITY if fixed is None else fixed, highest)
        columns, terms = _sum_series(pull, vectors, stop)
        return LogDet(columns.mean(1), _standard_error(columns), None, terms)


class _Tolerance:
    """Goes on, row by row, while the bound on the terms that follow is above a tolerance."""

    def __init__(self, vectors: Tensor, lipschitz: float, tolerance: float, max_terms: int) -> None:
        self.norms = _norm(vectors)
        self.factor = lipschitz / (1 - lipschitz)
        self.tolerance, self.max_terms = tolerance, max_terms
        self.live = vectors.new_ones(len(vectors), 1)
        self.remainder = vectors.new_zeros(len(vectors))

    def __call__(self, term: int, chain: Tensor) -> Tensor | None:
        """1 for the rows that need term number ``term``, 0 for the others; None to stop."""
        bound = (_norm(chain) * self.norms).mean(1) * (self.factor / term)
        self.remainder = torch.where(self.live.squeeze(1) > 0, bound, self.remainder)
        self.live = self.live * (bound > self.tolerance).unsqueeze(1)
        return self.live if term <= self.max_terms and bool(self.live.any()) else None


class _Survival:
    """Goes on while a probe survives: while its number, uniform in [0, 1), is below the product of all p so far."""

    def __init__(self, drawn: Tensor, exact_terms: int, lowest: float, highest: float) -> None:
        self.drawn, self.exact_terms, self.lowest, self.highest = drawn, exact_terms, lowest, highest
        self.reaching, self.length = torch.ones_like(drawn), torch.ones_like(drawn)

    def __call__(self, term: int, chain: Tensor) -> Tensor | None:
        """1/P(term is reached) for the probes that reach it, 0 for the others; None to stop."""
        length = chain.transpose(0, 1).flatten(1).norm(dim=1).to(self.drawn.dtype)
        if term > self.exact_terms:
            shortening = (length / self.length).nan_to_num(self.lowest)
            self.reaching = self.reaching * shortening.clamp(self.lowest, self.highest)
        self.length = length
        alive = self.drawn < self.reaching
        if not bool(alive.any()):
            return None
        return torch.where(alive, 1 / self.reaching, 0.0).to(chain.dtype).unsqueeze(0)


def _sum_series(pull: Pull, vectors: Tensor, weight: Callable[[int, Tensor], Tensor | None]) -> tuple[Tensor, int]:
    """Σ_k (−1)^{k+1}/k ω_k vᵀJ^k v for each probe, ``(batch, probes)``, with the gradient of theorem 2.

    ``weight(k, vᵀJ^{k−1})`` gives ω_k, broadcastable to ``(batch, probes)``, or None to stop before term k.
    """
    with torch.no_grad():
        chain, total = vectors, vectors.new_zeros(vectors.shape[:2])
        direction, term = vectors, 0
        while (factor := weight(term + 1, chain)) is not None:
            term += 1
            chain = pull(chain)
            sign = 1.0 if term % 2 else -1.0
            total = total + factor * _dot(chain, vectors) * (sign / term)
            direction = direction - chain * (sign * _over(factor, chain))
    if not torch.is_grad_enabled():
        return total, term
    surrogate = _dot(pull(direction), vectors)  # its gradient is right, its value is not the log-determinant
    return total + (surrogate - surrogate.detach()), term


def _standard_error(columns: Tensor) -> Tensor:
    """Of the mean over ``(batch, probes)``; NaN for a single probe, whose spread is unknown."""
    columns, probes = columns.detach(), columns.shape[1]
    spread = (columns - columns.mean(1, keepdim=True)).square().sum(1)
    return (spread / (probes * (probes - 1))).sqrt() if probes > 1 else torch.full_like(spread, torch.nan)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products ``(batch, probes)`` over the event."""
    return (a * b).flatten(2).sum(2) if a.ndim > 2 else a * b


def _norm(a: Tensor) -> Tensor:
    """Euclidean norms ``(batch, probes)`` over the event."""
    return a.flatten(2).norm(dim=2) if a.ndim > 2 else a.abs()


def _over(factor: Tensor, like: Tensor) -> Tensor:
    """``(batch, probes)`` with the axes of the event."""
    return factor.reshape(*factor.shape, *([1] * (like.ndim - 2)))
