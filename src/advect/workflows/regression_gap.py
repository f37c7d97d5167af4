"""The regression gap of a run: its learnt field beside the exact one of its training rows, at a bounded cost."""

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from advect.data import split_rows
from advect.errors import UnsupportedError
from advect.evaluation.regression_gap import MINIMUM, regression_gap
from advect.flows import EmpiricalField, schedule_with_score
from advect.records import Table
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.held_out import flat_latent
from advect.workflows.streams import EVALUATE

_GAP = 3  # the stream below EVALUATE; `held_out` has the first two
MOST_ROWS, FEWEST_ROWS = 1024, 64
NUMBERS = 2**18  # of all points: networks on pictures are slow
# Products between points and training rows, coordinate by coordinate: seconds on one core.
EFFORT = 2_000_000_000


def regression_facts(
    artefact: Artefact, held_out: Tensor, reference: Table, *, seed: int = 0, deadline: float | None = None
) -> dict[str, Any]:
    """`evaluation.RegressionGap` as plain values, or the reason why there is none.

    Args:
        artefact: The model.
        held_out: ``(rows, coordinates)`` float64, in latent coordinates.
        reference: The training rows, all of them: the exact field is that of the whole set.
        seed: Of every draw.
        deadline: ``time.monotonic()`` after which nothing is begun.
    """
    reason = _refusal(artefact, held_out, reference)
    if deadline is not None and time.monotonic() > deadline:
        reason = "there was no time left"
    if reason is not None:
        return {"reason": reason}
    generator = generator_for(seed, EVALUATE, _GAP)
    train = flat_latent(artefact, reference, generator)
    shape = tuple(artefact.codec.event_shape)
    ode = artefact.flow.ode
    assert ode is not None  # else it was refused
    weights = next(ode.parameters())

    def velocity(t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return ode.field(torch.as_tensor(t).to(weights), x.to(weights)).double().cpu()

    schedule = schedule_with_score(ode.field, "regression gap")
    exact = EmpiricalField(train.reshape(-1, *shape), schedule, copy=False)
    found = regression_gap(
        velocity,
        exact,
        held_out.reshape(-1, *shape),
        generator=generator,
        rows=_rows(train),
        interval=ode.interval,
    )
    return asdict(found) | {"training_rows": len(train)}


def _refusal(artefact: Artefact, held_out: Tensor, reference: Table) -> str | None:
    """Why the exact field of the training rows is not what this model was trained towards, or cannot be had."""
    ode = getattr(artefact.flow, "ode", None)
    try:
        schedule_with_score(None if ode is None else ode.field, "regression gap")
    except UnsupportedError:
        return "its path is not affine with a Gaussian source paired at random"
    if artefact.flow.likelihood == "none":
        return "its field is one of codes"
    if artefact.condition is not None:
        return "the model is conditional"
    if not artefact.codec.exact:
        return "its rows are drawn anew inside discrete cells and gaps, and are no fixed set"
    if artefact.config.get("data", {}).get("weights"):
        return "rows were weighted"
    if reference.num_rows != _trained_rows(artefact):
        return "the rows it was trained on are not at hand"
    if len(held_out) < MINIMUM:
        return "there are too few held-out rows"
    if _affordable(reference.num_rows, math.prod(artefact.codec.event_shape)) < FEWEST_ROWS:
        return "there are too many training rows to compare with in a few seconds"
    return None


def _trained_rows(artefact: Artefact) -> int | None:
    """How many rows the run was trained on; None where it does not say."""
    data = artefact.config.get("data", {})
    if "rows" not in data:
        return None
    seed = int(data.get("split_seed", artefact.config["seed"]))
    return len(split_rows(data["rows"], seed=seed, validation=data["validation"], test=data["test"]).train)


def _affordable(train: int, width: int) -> int:
    return EFFORT // max(train * (width + 3), 1)


def _rows(train: Tensor) -> int:
    return min(MOST_ROWS, _affordable(*train.shape), max(NUMBERS // max(train.shape[1], 1), FEWEST_ROWS))


def regression_line(facts: dict[str, Any]) -> str | None:
    """The gap in a sentence; None where there is none."""
    if facts.get("gap") is None:
        return None
    text = (
        f"{facts['gap']:.3g} ± {facts['gap_error']:.1g} to the exact field of the {facts['training_rows']} training "
        f"rows, of a loss of {facts['loss']:.4g} (least possible {facts['floor']:.4g})"
    )
    if facts.get("memorised") is None:
        return f"{text}; memorising could not be told from learning"
    return f"{text}; memorised {facts['memorised']:.0%} ± {facts['memorised_error']:.0%}"
