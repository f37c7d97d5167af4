"""Probabilities of whole numbers from a density of real ones, with learned noise.

A level x stands for the cell x + [0, 1)^d, and its probability is the integral of the model's density over it. For any
law q(u | x) of noise on the unit cube, and w = p(x + u) / q(u | x),

    log P(x) = log E_q[w]  ≥  E_q log (1/K) Σ_k w_k  ≥  E_q[log p(x + u) − log q(u | x)]

(variational dequantisation: Ho et al. 2019, Flow++, arXiv 1902.00275, eq. 11–12; K draws: Burda et al. 2015, arXiv
1509.00519, eq. 8). Uniform noise is q = 1; a flow for q learns where in its cell the model likes a level to lie, which
closes the bound instead of asking the model for a density that is flat on every cell.

q may ignore what the model is given: any law of noise leaves the inequalities true.
"""

import math
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError
from advect.flows.flow import Flow
from advect.records import Batch, Estimate
from advect.typing import Rows, Scalars


class Noise(Protocol):
    """A law on the unit cube given a picture; any flow whose condition is a picture is one."""

    def sample_and_log_prob(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw ``(num_rows, *event)`` in [0, 1] with log-density ``(num_rows,)``."""
        ...


class UniformNoise(nn.Module):
    """Uniform noise on the unit cube, whatever the picture: log q = 0."""

    def sample_and_log_prob(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw noise of the condition's shape, dtype and device."""
        if condition is None:
            raise ConfigError("No picture was given", where="UniformNoise", remedy="Give the rows as the condition.")
        place = condition.device if generator is None else generator.device
        noise = torch.rand(condition.shape, generator=generator, dtype=condition.dtype, device=place)
        return noise.to(condition.device), condition.new_zeros(num_rows)


class VariationalDequantisation(nn.Module):
    """The bound on log P(x) as a loss, and its importance-weighted estimate.

    Args:
        noise: q(u | x): a `Flow` on ``(c, h, w)`` with values in [0, 1) that takes the picture, scaled to [−1, 1], as
            its condition (`flows.architectures.image.dequantisation_noise` builds its map), or `UniformNoise`. Its
            parameters are learned with the model's and belong to the same optimiser.
        levels: L; rows hold whole numbers 0 … L − 1. Noise already on them is dropped.
        importance_samples: K, draws per row in the loss.
    """

    def __init__(self, noise: nn.Module, levels: int, *, importance_samples: int = 1) -> None:
        super().__init__()
        if levels < 2:
            raise ConfigError(f"levels is {levels}", where="VariationalDequantisation", remedy="Give at least 2.")
        self.noise = noise
        self.levels = levels
        self.importance_samples = _at_least_one(importance_samples)

    def forward(self, flow: nn.Module, batch: Batch, *, generator: Generator | None = None) -> Scalars:
        """Loss ``(batch,)``: minus the bound with K draws, in nats.

        Args:
            flow: A `Flow` on rows in levels, for y in [0, L); its map holds the scaling.
            batch: ``x1`` are the rows; the source plays no part.
            generator: Of the noise.
        """
        weights = self.log_weights(flow, batch.x1, batch.condition, self.importance_samples, generator=generator)
        return math.log(self.importance_samples) - weights.logsumexp(0)

    def log_weights(
        self,
        flow: nn.Module,
        x: Rows,
        condition: Tensor | None = None,
        importance_samples: int = 1,
        *,
        generator: Generator | None = None,
    ) -> Float[Tensor, "draws batch"]:
        """log p(x + u) − log q(u | x) for each of K draws, ``(draws, batch)`` in nats; differentiable in both."""
        scored, log_q = self._scored(flow, x, condition, importance_samples, generator)
        return (scored.value - log_q).reshape(importance_samples, len(x))

    def _scored(
        self, flow: nn.Module, x: Rows, condition: Tensor | None, importance_samples: int, generator: Generator | None
    ) -> tuple[Estimate, Tensor]:
        """log p(x + u) with its status, and log q(u | x), draw after draw: ``(draws · batch,)``."""
        draws = _at_least_one(importance_samples)
        whole = _repeat(x.floor(), draws)
        noise = cast(Noise, self.noise)
        seen = (2 * whole + 1) / self.levels - 1
        u, log_q = noise.sample_and_log_prob(len(whole), seen, generator=generator)
        # Rounding may carry x + u into the next cell, whose probability is another's.
        y = torch.minimum(whole + u.to(whole.dtype), torch.nextafter(whole + 1, whole))
        return cast(Flow, flow).score(y, None if condition is None else _repeat(condition, draws)), log_q

    @torch.no_grad()
    def estimate(
        self,
        flow: nn.Module,
        x: Rows,
        condition: Tensor | None = None,
        *,
        importance_samples: int = 16,
        generator: Generator | None = None,
    ) -> Estimate:
        """log P(x) in nats, ``(batch,)``, with K draws averaged inside the logarithm.

        Its expectation is a lower bound that rises to log P(x) with K (one draw: the plain bound). The standard error
        is that of the average by the delta method, sd(w) / (mean(w) √K): 0 for one draw, which says nothing, and too
        small where q has lighter tails than the model inside a cell.
        """
        scored, log_q = self._scored(flow, x, condition, importance_samples, generator)
        logs = (scored.value - log_q).reshape(importance_samples, len(x))
        value = logs.logsumexp(0) - math.log(importance_samples)
        # A row whose every draw lies outside the support has probability zero, exactly.
        weights = torch.where(torch.isneginf(value), 0.0, (logs - value).exp())
        spread = weights.std(0) if importance_samples > 1 else torch.zeros_like(value)
        status = scored.status.reshape(importance_samples, len(x)).amax(0)
        return Estimate(value, spread / math.sqrt(importance_samples), status)


def _repeat(rows: Tensor, draws: int) -> Tensor:
    """All rows ``draws`` times, one copy of the batch after another."""
    return rows.repeat(draws, *([1] * (rows.ndim - 1)))


def _at_least_one(importance_samples: int) -> int:
    if importance_samples < 1:
        raise ConfigError(
            f"importance_samples is {importance_samples}", where="importance_samples", remedy="Give at least 1."
        )
    return importance_samples
