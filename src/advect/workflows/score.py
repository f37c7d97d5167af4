"""Log-probabilities of given rows, in nats and in the user's units, with their standard errors.

A row is turned into coordinates by adding noise inside the cell of every discrete value and by filling its gaps from
a known law. With K such draws y_k of density q(y_k | row) the estimate

    log p(row) ≈ log (1/K) Σ_k exp(log p(y_k) − log q(y_k | row))

is the log of an unbiased estimate of the row's probability (density in its continuous columns, mass in its discrete
ones, gaps integrated out); its own expectation is a lower bound that tightens with K (Burda et al. 2015, arXiv
1509.00519, eq. 8–9). Where nothing is drawn, K is 1 and the value is exact up to the solver's tolerance. Where the
trace is stochastic its noise would be turned into bias by the exponential: the mean of the logarithms is taken instead,
and the estimate says that it is a bound.

A model that draws codes (`vae`) knows of each draw an unbiased estimate of the density in place of the density. The
same formula then gives its importance-weighted bound, and the mean of the logarithms its evidence lower bound.

Where the plan of a run makes and loses mass, p is the law in which rows count by what they carry.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from advect.data import PreparedRows, on_disk, take_rows
from advect.errors import ConfigError, UnsupportedError
from advect.flows import EmpiricalBase
from advect.records import Estimate, Status, Table
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.growth import log_weight
from advect.workflows.streams import SCORE

DEFAULT_IMPORTANCE_SAMPLES = 4
# Where the model itself draws: a pass is cheap there, and the bound is loose without many.
BOUND_IMPORTANCE_SAMPLES = 64
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Scored:
    """Scores of rows.

    Attributes:
        estimate: log-probability ``(rows,)`` in nats with standard error and status.
        importance_samples: K.
        bound: Whether the expectation is a lower bound rather than the value itself (K draws, or a stochastic trace).
        elbo: ``(rows,)`` the bound of a single draw, of models that know no more than bounds; else None.
    """

    estimate: Estimate
    importance_samples: int
    bound: bool
    elbo: Tensor | None = None


@torch.no_grad()
def score(
    artefact: Artefact,
    table: Table,
    *,
    importance_samples: int | None = None,
    seed: int = 0,
) -> Scored:
    """Score every row of a table.

    Args:
        artefact: The model.
        table: Rows with the model's columns, and its condition columns.
        importance_samples: K; by default 1 where nothing is drawn, 4 where coding draws, 64 where the model does.
        seed: Of the draws.

    Raises:
        AdvectError: Rows that do not fit the model, or a model whose source has no density.
    """
    if importance_samples is not None and importance_samples < 1:
        raise ConfigError(
            f"importance samples must be at least 1, not {importance_samples}", where="importance_samples"
        )
    if isinstance(artefact.flow.base, EmpiricalBase):
        raise UnsupportedError(
            "this model's source is a data set, which has no density, so rows cannot be scored",
            remedy="Move rows with transport, or train without --source and --time-key to score them.",
        )
    codec = artefact.codec
    draws = importance_samples or default_draws(artefact)
    whole = codec.prepare(table, dtype=torch.float64) if on_disk(table) is None else None
    condition = None if artefact.condition is None else artefact.condition.encode(table).float()
    parts = []
    for first in range(0, table.num_rows, ROWS_AT_ONCE):
        index = torch.arange(first, min(first + ROWS_AT_ONCE, table.num_rows))
        block = None if condition is None else condition[index]
        prepared = whole or codec.prepare(take_rows(table, index.numpy()), dtype=torch.float64)
        parts.append(_score_block(artefact, prepared, index - (0 if whole else first), block, draws, seed, first))
    blocks = [part for part, _ in parts]
    estimate = Estimate(
        value=torch.cat([p.value for p in blocks]),
        standard_error=torch.cat([p.standard_error for p in blocks]),
        status=torch.cat([p.status for p in blocks]),
        nfe=torch.cat([p.nfe for p in blocks if p.nfe is not None]),
    )
    stochastic = bool((estimate.standard_error > 0).any())
    only_bound = artefact.flow.likelihood == "bound"
    elbo = torch.cat([mean for _, mean in parts]) if only_bound else None
    return Scored(estimate, draws, bound=stochastic or only_bound or not codec.exact, elbo=elbo)


def coding_draws(artefact: Artefact) -> int:
    """Draws per row that the coding of its cells asks for: 1 where it draws nothing."""
    return 1 if artefact.codec.exact else DEFAULT_IMPORTANCE_SAMPLES


def default_draws(artefact: Artefact) -> int:
    """K where nobody says."""
    return BOUND_IMPORTANCE_SAMPLES if artefact.flow.likelihood == "bound" else coding_draws(artefact)


def _score_block(
    artefact: Artefact,
    prepared: PreparedRows,
    index: Tensor,
    condition: Tensor | None,
    draws: int,
    seed: int,
    first: int,
) -> tuple[Estimate, Tensor]:
    """The estimate, and the mean of the logarithms, of rows that begin with the ``first`` of the table."""
    # All draws in one solve: few rows with several draws cost little more than one.
    coded = [prepared.draw(index, generator_for(seed, SCORE, number, first)) for number in range(draws)]
    values = torch.cat([draw.values for draw in coded])
    given = None if condition is None else condition.repeat(draws, *([1] * (condition.ndim - 1)))
    scored = artefact.flow.score(values, given, generator=generator_for(seed, SCORE, draws, first))

    def by_draw(column: Tensor) -> Tensor:
        return column.cpu().reshape(draws, len(index))

    proposal = torch.stack([draw.log_proposal for draw in coded]).double()
    logs = by_draw(scored.value).double() - proposal
    weight = log_weight(artefact, values, given)
    logs = logs if weight is None else logs + by_draw(weight)
    value, error = combine(logs, by_draw(scored.standard_error).double())
    statuses = torch.cat([by_draw(scored.status), torch.stack([draw.status for draw in coded]).to(torch.int8)])
    status = statuses.amax(0).to(torch.int8)
    nfe = torch.zeros(len(index), dtype=torch.long) if scored.nfe is None else by_draw(scored.nfe).sum(0)
    # A value that cannot occur has probability zero: that is an answer, with a status beside it.
    value = torch.where(status == Status.OUTSIDE_SUPPORT, torch.full_like(value, -math.inf), value)
    error = torch.where(torch.isinf(value), torch.zeros_like(error), error)
    return Estimate(value, error, status, nfe), logs.mean(0)


def combine(logs: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """From ``(draws, rows)`` log-weights and their trace errors to the estimate and its standard error.

    With exact traces the mean is taken of the weights; its error by the delta method is sd(w)/(mean(w)√K). With
    stochastic traces it is taken of the logarithms.
    """
    draws = logs.shape[0]
    if bool((errors > 0).any()):
        spread = logs.std(0) / math.sqrt(draws) if draws > 1 else torch.zeros_like(logs[0])
        # The spread over draws holds the trace noise already; a single draw has only its own error.
        return logs.mean(0), torch.maximum(spread, errors.square().sum(0).sqrt() / draws)
    value = torch.logsumexp(logs, 0) - math.log(draws)
    if draws == 1:
        return value, torch.zeros_like(value)
    weights = torch.exp(logs - value)
    return value, weights.std(0) / math.sqrt(draws)


def score_table(scored: Scored) -> Table:
    """Scores as a table: log_prob (nats), standard_error, and the status in words."""
    estimate = scored.estimate
    names = ("log_prob", "standard_error", "status")
    words = np.array([Status(int(code)).name.lower().replace("_", " ") for code in estimate.status], dtype=object)
    return Table(
        names=names,
        columns=(estimate.value.double().numpy(), estimate.standard_error.double().numpy(), words),
        container="csv",
        event_shape=(len(names),),
        dtypes=("float64", "float64", "str"),
        origin="scores",
    )
