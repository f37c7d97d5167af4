"""What weights of draws say: the normalising constant, and how many independent draws they are worth.

For x ~ q and w = p̃(x)/q(x),

    Z = E[w],   log Ẑ = log (1/n) Σ w,   se(log Ẑ) = √(Σ (w/w̄ − 1)²/(n (n − 1)))   (delta method),
    ESS = (Σ w)²/Σ w²                                                            (Kong 1992; Owen 2013, ch. 9)
    E[log w] = log Z − KL(q ‖ p),  a lower bound.

All of it is computed from log-weights, none of which is exponentiated before the largest is subtracted.

What the draws have not met they cannot tell: a mode that q misses leaves the weights even, and log Ẑ short by the
logarithm of the mass that was found.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import DataError
from advect.flows.flow import Flow
from advect.objectives.reverse import TargetLogDensity, target_at


@dataclass(frozen=True)
class ImportanceDiagnostics:
    """Figures from log-weights; all logarithms in nats.

    Attributes:
        num_draws: n.
        log_normaliser: log Ẑ; −∞ if every weight is zero.
        standard_error: Of log Ẑ; ∞ for a single draw or without any weight. Not to be trusted where the effective
            sample size is small: the variance is estimated from the same few draws.
        effective_sample_size: Between 1 and n; 0 without any weight.
        largest_share: Of the total weight in one draw; 1/n at best.
        bound: Mean log-weight, E[log w] ≤ log Z; −∞ if any weight is zero.
        bound_error: Its standard error; ∞ where it has none.
    """

    num_draws: int
    log_normaliser: float
    standard_error: float
    effective_sample_size: float
    largest_share: float
    bound: float
    bound_error: float


def importance_diagnostics(log_weights: Float[Tensor, " draws"]) -> ImportanceDiagnostics:
    """log Ẑ with its standard error, and the effective sample size.

    Args:
        log_weights: log p̃(x) − log q(x) of independent draws x ~ q; −∞ where the target has no density.

    Raises:
        DataError: No draws, or a weight that is NaN or +∞.
    """
    log_w = log_weights.detach().double()
    if not len(log_w):
        raise DataError("There are no weights", where="importance_diagnostics")
    bad = log_w.isnan() | (log_w == math.inf)
    if bad.any():
        place = int(bad.nonzero()[0])
        raise DataError(
            f"{int(bad.sum())} of {len(log_w)} log-weights are NaN or infinite, the first is {float(log_w[place])}",
            where=f"draw {place}",
            remedy="Draws that failed carry no weight and no zero either: find out why they failed.",
        )
    num_draws, largest = len(log_w), log_w.max()
    if largest == -math.inf:
        return ImportanceDiagnostics(num_draws, -math.inf, math.inf, 0.0, 0.0, -math.inf, math.inf)

    weights = (log_w - largest).exp()
    mean, total = weights.mean(), weights.sum()
    finite = num_draws > 1
    spread = float((weights / mean).std() / math.sqrt(num_draws)) if finite else math.inf
    bounded = finite and bool(torch.isfinite(log_w).all())
    return ImportanceDiagnostics(
        num_draws=num_draws,
        log_normaliser=float(largest + mean.log()),
        standard_error=spread,
        effective_sample_size=float(total.square() / weights.square().sum()),
        largest_share=float(weights.max() / total),
        bound=float(log_w.mean()),
        bound_error=float(log_w.std() / math.sqrt(num_draws)) if bounded else math.inf,
    )


@torch.no_grad()
def importance_draws(
    flow: Flow,
    target: TargetLogDensity,
    num_rows: int,
    condition: Tensor | None = None,
    *,
    generator: Generator | None = None,
) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
    """Draws from the flow ``(num_rows, *event)`` with their log-weights log p̃(x) − log q(x), ``(num_rows,)``.

    ``condition`` is ``(num_rows, *condition)``, repeated rows for one posterior. Expectations under the target are
    averages over the draws with weights ``softmax(log_weights)``.
    """
    x, log_q = flow.sample_and_log_prob(num_rows, condition, generator=generator)
    return x, target_at(target, x, condition) - log_q
