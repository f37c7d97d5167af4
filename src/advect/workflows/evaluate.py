"""Held-out figures: log-likelihood and two-sample metrics, each beside what real data and a Gaussian fit would get.

Samples and real rows are compared in the latent coordinates of the preprocessing (standardised, categories and gaps
as coordinates of their own), so that one scale serves every column. As many rows are drawn as are held out, and under
the held-out rows' own conditions where the model has one.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.data import Split, some_rows, take_rows
from advect.errors import DataError, UnsupportedError
from advect.evaluation import (
    column_suite,
    gaussian_fit_log_prob,
    path_energy,
    straightness,
    summarise_log_prob,
    two_sample_suite,
)
from advect.flows import EmpiricalBase
from advect.records import Estimate, Metric, Status, Table
from advect.run import Artefact
from advect.training import generator_for, mix
from advect.workflows.generate import SolverChoice, generate
from advect.workflows.prepare import EVALUATE
from advect.workflows.score import Scored, score
from advect.workflows.transport import to_latent

MAX_ROWS = 2000
LIKELIHOOD_ROWS = 500
SCORED_AT_ONCE = 8
PATH_ROWS, PATH_TIMES = 500, 33
# Exact traces cost d evaluations each: beyond this many coordinates fewer rows are scored.
LIKELIHOOD_EFFORT = 16_000


def evaluate_rows(
    artefact: Artefact,
    table: Table,
    split: Split,
    *,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    likelihood_rows: int | None = None,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Figures on the test rows of a split, with the training rows as reference."""
    held_out = take_rows(table, split.test)
    return evaluate_table(
        artefact,
        held_out,
        take_rows(table, split.train),
        seed=seed,
        max_rows=max_rows,
        likelihood_rows=likelihood_rows,
        deadline=deadline,
    )


def evaluate_table(
    artefact: Artefact,
    held_out: Table,
    reference: Table,
    *,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    likelihood_rows: int | None = None,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Figures on given held-out rows.

    Args:
        artefact: The model.
        held_out: Rows the model has not seen.
        reference: Training rows: for the floor (real against real) and the Gaussian fit.
        seed: Of every draw.
        max_rows: Rows in the two-sample metrics.
        likelihood_rows: Rows scored; by default up to 500, fewer in many dimensions.
        deadline: ``time.monotonic()`` after which no further rows are scored; at least one block always is.

    Returns:
        Plain values, ready for JSON (a number that is not finite is None): ``metrics``, ``columns``, ``transport``,
        ``likelihood``, ``sampling``.

    Raises:
        DataError: Fewer than two held-out rows.
    """
    if held_out.num_rows < 2:
        raise DataError(f"{held_out.num_rows} held-out rows cannot be compared with anything", where=held_out.origin)
    generator = generator_for(seed, EVALUATE)
    real_table = some_rows(held_out, max_rows, generator)
    generated = generate(
        artefact,
        real_table.num_rows,
        condition=real_table if artefact.condition is not None else None,
        choice=SolverChoice(),
        seed=seed + 1,
    )
    real = _flat(artefact, real_table, generator)
    if generated.usable.sum() < 2:
        raise DataError(
            f"{generated.failed} of {real_table.num_rows} samples have no value: the solver failed on them",
            remedy="Train longer or with a smaller learning rate.",
        )
    samples = _flat(artefact, take_rows(generated.table, np.flatnonzero(generated.usable)), generator)
    train = _flat(artefact, some_rows(reference, 4 * max_rows, generator), generator)
    metrics = two_sample_suite(samples, real, train, generator=generator, max_rows=max_rows)
    columns: tuple[Metric, ...] = ()
    if not artefact.schema.image:  # a pixel is no column that anyone looks up
        names = [c.name for c in artefact.codec.coordinates]
        columns = column_suite(samples, real, train, names, generator=generator)
    evaluation = {
        "metrics": [asdict(m) for m in metrics],
        "columns": [asdict(m) for m in columns],
        "transport": _transport(artefact, generator),
        "likelihood": _likelihood(artefact, held_out, reference, seed, likelihood_rows, deadline, generator),
        "sampling": {
            **{name: artefact.config.get("sampling", {}).get(name) for name in ("solver", "steps", "tolerance")},
            "nfe": generated.nfe,
            "rows": real_table.num_rows,
            "rows_per_second": real_table.num_rows / max(generated.seconds, 1e-9),
            "failed_rows": generated.failed,
        },
        "held_out_rows": held_out.num_rows,
        "reference_rows": reference.num_rows,
        "seed": seed,
    }
    return finite(evaluation)


@torch.no_grad()
def _transport(artefact: Artefact, generator: torch.Generator) -> dict[str, float]:
    """Energy and straightness of the paths of samples, in latent coordinates; empty for maps without an ODE."""
    ode = artefact.flow.ode
    if ode is None:
        return {}
    condition = None if artefact.condition is None else artefact.condition.draw(PATH_ROWS, generator).float()
    start = artefact.flow.base.sample(PATH_ROWS, condition, generator=generator)
    times = torch.linspace(0, 1, PATH_TIMES)
    states = ode.trajectory(start, times, condition).double()
    return {
        "path_energy": float(path_energy(states, times.double()).mean()),
        "straightness": float(straightness(states, times.double()).mean()),
    }


@torch.no_grad()
def _flat(artefact: Artefact, table: Table, generator: torch.Generator) -> Tensor:
    latent = to_latent(artefact, table, generator)
    return latent.reshape(latent.shape[0], -1).double()


def _likelihood(
    artefact: Artefact,
    held_out: Table,
    reference: Table,
    seed: int,
    likelihood_rows: int | None,
    deadline: float | None,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Mean held-out log-probability, beside a Gaussian fitted to the same coordinates."""
    if isinstance(artefact.flow.base, EmpiricalBase):
        return {"reason": "the source is a data set, which has no density"}
    width = len(artefact.codec.coordinates)
    draws = 1 if artefact.codec.exact else 4
    count = likelihood_rows or min(LIKELIHOOD_ROWS, max(50, LIKELIHOOD_EFFORT // (width * draws)))
    rows = some_rows(held_out, count, generator)
    try:
        scored = _score_until(artefact, rows, draws, seed, deadline)
    except UnsupportedError as error:
        return {"reason": str(error)}
    rows = take_rows(rows, np.arange(len(scored.estimate.value)))
    gaussian = _gaussian_scores(artefact, rows, reference, draws, generator)
    return summary(scored, gaussian) | _kind(artefact)


def _score_until(artefact: Artefact, rows: Table, draws: int, seed: int, deadline: float | None) -> Scored:
    """Scores of the rows, or of as many as fit before the deadline."""
    if deadline is None:
        return score(artefact, rows, importance_samples=draws, seed=seed)
    parts: list[Scored] = []
    for first in range(0, rows.num_rows, SCORED_AT_ONCE):
        block = take_rows(rows, np.arange(first, min(first + SCORED_AT_ONCE, rows.num_rows)))
        parts.append(score(artefact, block, importance_samples=draws, seed=mix(seed, first)))
        if time.monotonic() > deadline:
            break
    whole = {
        name: torch.cat([getattr(part.estimate, name) for part in parts])
        for name in ("value", "standard_error", "status")
    }
    return Scored(Estimate(**whole), parts[0].importance_samples, any(part.bound for part in parts))


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


def _gaussian_scores(
    artefact: Artefact, rows: Table, reference: Table, draws: int, generator: torch.Generator
) -> Tensor:
    """The same estimate with a Gaussian fit in latent coordinates in place of the flow: preprocessing for both."""
    from advect.workflows.transport import preprocessing

    train = _flat(artefact, some_rows(reference, 20_000, generator), generator)
    prepared = artefact.codec.prepare(rows, dtype=torch.float64)
    index = torch.arange(rows.num_rows)
    logs = []
    for _ in range(draws):
        coded = prepared.draw(index, generator)
        value, log_det = coded.values, -coded.log_proposal.double()
        with torch.no_grad():
            for part in preprocessing(artefact):
                mapped = part.encode(value)
                value = mapped.value
                assert mapped.log_abs_det_jacobian is not None
                log_det = log_det + mapped.log_abs_det_jacobian.double()
        logs.append(gaussian_fit_log_prob(train, value.reshape(len(index), -1).double()) + log_det)
    return torch.logsumexp(torch.stack(logs), 0) - math.log(draws)


def _kind(artefact: Artefact) -> dict[str, str]:
    discrete = {c.kind for c in artefact.schema.columns} - {"continuous"}
    continuous = any(c.kind == "continuous" for c in artefact.schema.columns)
    kind = "mixed" if discrete and continuous else "log-probability" if discrete else "log-density"
    return {"kind": kind, "unit": "nats per row, in the units of the data"}


def figures(evaluation: Mapping) -> list[tuple[str, str]]:
    """The evaluation as lines of text: name and figure with floor and ceiling."""
    lines = []
    like = evaluation.get("likelihood", {})
    if like.get("mean") is not None:
        spread = "" if like["standard_error"] is None else f" ± {like['standard_error']:.3f}"
        text = f"{like['mean']:.3f}{spread} nats per row ({like['rows']} rows)"
        if like.get("gaussian") is not None:
            text += f"; Gaussian fit {like['gaussian']:.3f}"
        lines.append(("log-likelihood", text))
    elif "mean" in like:
        lines.append(
            ("log-likelihood", f"none: {like['failed_rows']} rows failed, {like['impossible_rows']} impossible")
        )
    elif "reason" in like:
        lines.append(("log-likelihood", f"none: {like['reason']}"))
    for metric in evaluation.get("metrics", ()):
        text = "undefined here" if metric["value"] is None else f"{metric['value']:.4g}"
        if metric["floor"] is not None:
            spread = f" ± {metric['floor_error']:.2g}" if metric["floor_error"] is not None else ""
            text += f" (floor {metric['floor']:.4g}{spread}"
            text += f", Gaussian fit {metric['ceiling']:.4g})" if metric["ceiling"] is not None else ")"
        lines.append((metric["name"], text))
    moved = evaluation.get("transport", {})
    if moved:
        lines.append(
            ("path energy", f"{moved['path_energy']:.4g}; straightness {moved['straightness']:.4g} (0 is straight)")
        )
    return lines


def finite(value: Any) -> Any:
    """Numbers that JSON knows: NaN and infinities become None."""
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
