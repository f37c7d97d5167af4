"""Log-likelihood of held-out rows: which rows are scored, how, and what a Gaussian fit gets on the same ones.

The rows depend on the seed alone, not on the model: two models of one split are scored on the same rows, and their
difference can be taken row by row.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from advect.data import some_rows, take_rows
from advect.data.check import unbounded_likelihood
from advect.errors import UnsupportedError
from advect.evaluation import gaussian_fit_log_prob, summarise_log_prob
from advect.flows import EmpiricalBase
from advect.records import Estimate, Status, Table
from advect.run import Artefact
from advect.training import generator_for, mix
from advect.workflows.doubt import doubt
from advect.workflows.score import Scored, coding_draws, default_draws, score
from advect.workflows.streams import EVALUATE
from advect.workflows.transport import preprocessing, scaled, to_latent

LIKELIHOOD_ROWS = 500
DOUBT_ROWS = 5000  # training rows looked at for what makes a likelihood say nothing
FIRST_SCORED = 4
# Exact traces cost d evaluations each: beyond this many coordinates fewer rows are scored.
LIKELIHOOD_EFFORT = 16_000
_ROWS, _GAUSSIAN = 1, 2  # streams below EVALUATE


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of some held-out rows, or the reason why there are none.

    Attributes:
        rows: The rows that were scored.
        scored: Their scores; None for a model without a density.
        reason: Why there are none.
    """

    rows: Table
    scored: Scored | None
    reason: str = ""


def held_out_scores(
    artefact: Artefact, held_out: Table, *, seed: int = 0, most_rows: int | None = None, deadline: float | None = None
) -> HeldOutScores:
    """Score held-out rows that are chosen by the seed alone.

    Args:
        artefact: The model.
        held_out: Rows the model has not seen.
        seed: Of the choice of rows and of the draws inside discrete cells.
        most_rows: Rows scored; by default up to 500, fewer in many dimensions.
        deadline: ``time.monotonic()`` after which no further rows are scored; a few always are.
    """
    draws = default_draws(artefact)
    width = len(artefact.codec.coordinates)
    # The model's own draws are left out of the account, or models of one data set would be scored on other rows.
    count = most_rows or min(LIKELIHOOD_ROWS, max(50, LIKELIHOOD_EFFORT // (width * coding_draws(artefact))))
    rows = some_rows(held_out, count, generator_for(seed, EVALUATE, _ROWS))
    if isinstance(artefact.flow.base, EmpiricalBase):
        return HeldOutScores(rows, None, "the source is a data set, which has no density")
    try:
        scored = _score_until(artefact, rows, draws, seed, deadline)
    except UnsupportedError as error:
        return HeldOutScores(rows, None, error.what)
    return HeldOutScores(take_rows(rows, np.arange(len(scored.estimate.value))), scored)


def likelihood_facts(artefact: Artefact, scores: HeldOutScores, reference: Table, *, seed: int = 0) -> dict[str, Any]:
    """Mean held-out log-probability, beside a Gaussian fitted to the training rows in the same coordinates."""
    if scores.scored is None:
        return {"reason": scores.reason}
    generator = generator_for(seed, EVALUATE, _GAUSSIAN)
    try:
        gaussian = gaussian_scores(artefact, scores.rows, reference, coding_draws(artefact), generator)
    except UnsupportedError:  # flat in some direction: the model has a score, the Gaussian has none
        gaussian = None
    facts = summary(scores.scored, gaussian) | _kind(artefact)
    reasons = unbounded_likelihood(some_rows(reference, DOUBT_ROWS, generator), artefact.schema)
    said = doubt(facts, reasons, rows=reference.num_rows, columns=len(artefact.codec.coordinates))
    return facts if said is None else facts | {"doubt": said}


@torch.no_grad()
def flat_latent(artefact: Artefact, table: Table, generator: Generator) -> Tensor:
    """Rows in latent coordinates, ``(rows, coordinates)`` float64."""
    latent = to_latent(artefact, table, generator)
    return latent.reshape(latent.shape[0], -1).double()


@torch.no_grad()
def flat_scaled(artefact: Artefact, table: Table, generator: Generator) -> Tensor:
    """Rows in scaled coordinates, ``(rows, coordinates)`` float64: latent ones, except behind an autoencoder."""
    value = scaled(artefact, table, generator)
    return value.reshape(value.shape[0], -1).double()


def _score_until(artefact: Artefact, rows: Table, draws: int, seed: int, deadline: float | None) -> Scored:
    """Scores of the rows, or of as many as fit before the deadline, in blocks that double while there is time.

    The blocks do not depend on the time, so a row has the same draws whether or not others were scored.
    """
    parts: list[Scored] = []
    first, size = 0, FIRST_SCORED
    while first < rows.num_rows:
        started = time.monotonic()
        count = min(size, rows.num_rows - first)
        block = take_rows(rows, np.arange(first, first + count))
        parts.append(score(artefact, block, importance_samples=draws, seed=mix(seed, first)))
        first, size = first + count, 2 * size
        now = time.monotonic()
        coming = min(size, rows.num_rows - first) / count
        if deadline is not None and now + coming * (now - started) > deadline:
            break
    whole = {
        name: torch.cat([getattr(part.estimate, name) for part in parts])
        for name in ("value", "standard_error", "status")
    }
    elbos = [part.elbo for part in parts if part.elbo is not None]
    elbo = torch.cat(elbos) if elbos else None
    return Scored(Estimate(**whole), parts[0].importance_samples, any(part.bound for part in parts), elbo)


def summary(scored: Scored, gaussian: Tensor | None = None) -> dict[str, Any]:
    """Mean and standard error over rows; failed and impossible rows are counted, never dropped in silence."""
    value, status = scored.estimate.value, scored.estimate.status
    usable = torch.isfinite(value)
    found = summarise_log_prob(value, scored.estimate.standard_error)
    result: dict[str, Any] = {
        "mean": found.mean_of_rest_nats,
        "standard_error": found.standard_error_nats,
        "rows": int(usable.sum()),
        "failed_rows": found.num_failed,
        "impossible_rows": found.num_outside_support,
        "imputed_rows": int((status == Status.IMPUTED).sum()),
        "row_error": float(scored.estimate.standard_error[usable].mean()) if usable.any() else math.nan,
        "importance_samples": scored.importance_samples,
        "bound": scored.bound,
    }
    if scored.elbo is not None:
        result["elbo"] = float(scored.elbo[usable].mean()) if usable.any() else math.nan
    if gaussian is not None:
        both = usable & torch.isfinite(gaussian)  # the same rows for both, or the two means do not compare
        paired, other = (value - gaussian)[both], gaussian[both]
        result |= {
            "gaussian": float(other.mean()) if len(other) else math.nan,
            "gaussian_error": _standard_error(other),
            "difference": float(paired.mean()) if len(paired) else math.nan,
            "difference_error": _standard_error(paired),
        }
    return result


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def gaussian_scores(artefact: Artefact, rows: Table, reference: Table, draws: int, generator: Generator) -> Tensor:
    """The same estimate with a Gaussian fit in latent coordinates in place of the flow: preprocessing for both."""
    train = flat_latent(artefact, some_rows(reference, 20_000, generator), generator)
    latent, offset = coded_latent(artefact, rows, draws, generator)
    logs = [gaussian_fit_log_prob(train, value.flatten(1)) + log for value, log in zip(latent, offset, strict=True)]
    return torch.logsumexp(torch.stack(logs), 0) - math.log(draws)


@torch.no_grad()
def coded_latent(artefact: Artefact, rows: Table, draws: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rows in latent coordinates, coded several times, and what a log-density there lacks to one of the rows.

    Returns:
        ``(draws, rows, *event)`` float64, and ``(draws, rows)``: the log-determinant of the preprocessing less the
        log-density of what coding drew.
    """
    prepared = artefact.codec.prepare(rows, dtype=torch.float64)
    values, offsets = [], []
    for _ in range(draws):
        coded = prepared.draw(torch.arange(rows.num_rows), generator)
        value, offset = coded.values, -coded.log_proposal.double()
        for part in preprocessing(artefact):
            mapped = part.encode(value)
            value = mapped.value
            assert mapped.log_abs_det_jacobian is not None
            offset = offset + mapped.log_abs_det_jacobian.double()
        values.append(value.double())
        offsets.append(offset)
    return torch.stack(values), torch.stack(offsets)


def _kind(artefact: Artefact) -> dict[str, str]:
    discrete = {c.kind for c in artefact.schema.columns} - {"continuous"}
    continuous = any(c.kind == "continuous" for c in artefact.schema.columns)
    kind = "mixed" if discrete and continuous else "log-probability" if discrete else "log-density"
    return {"kind": kind, "unit": "nats per row, in the units of the data"}
