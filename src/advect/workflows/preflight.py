"""Before the start: what was understood, what will be done about it, how long it will take."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from advect.couplings import CONTINUOUS_NOTICE
from advect.flows import IsotropicNormal, data_moments, start_law
from advect.methods import Built, get_method
from advect.records import Finding
from advect.run import MemorySink, render, values
from advect.training import ALONE, Workers
from advect.workflows.prepare import Prepared, prepare
from advect.workflows.request import TrainRequest
from advect.workflows.snapshots import stored_timeline
from advect.workflows.trainer import can_time, make_trainer, steps_for_budget

TIMED_STEPS = 2
NOTABLE_START = 1e-6  # nats per row
NOTABLE_REMAINDER = 1e-3  # of x0, or of noise, at the data end: less is below what a training resolves


@dataclass(frozen=True)
class Preflight:
    """What a training would do.

    Attributes:
        data: One line on the rows.
        model: One line on the model.
        findings: What the check noticed, and what will be done about it.
        steps: Optimiser steps.
        seconds_per_step: From two timed steps; NaN where no process can take one by itself.
        seconds: Estimated training time.
        config: The resolved configuration as TOML.
    """

    data: str
    model: str
    findings: tuple[Finding, ...]
    steps: int
    seconds_per_step: float
    seconds: float
    config: str


def preflight(request: TrainRequest, *, started: float | None = None) -> Preflight:
    """Everything `train` does before its first step.

    Raises:
        AdvectError: What `train` would refuse.
    """
    return describe(prepare(request), started=started)


def describe(prepared: Prepared, *, started: float | None = None, workers: Workers = ALONE) -> Preflight:
    """The preflight of a prepared training; the timed steps leave no trace."""
    request = prepared.request
    if request.budget_seconds is not None and started is not None:
        prepared = steps_for_budget(prepared, started, reserve=True)
    per_step: float = math.nan
    report: Mapping[str, float] = {}
    if can_time(prepared, workers):
        trainer = make_trainer(prepared, MemorySink(), workers=workers.silent())
        per_step = trainer.time_steps(TIMED_STEPS)
        report = trainer.batches.report
    schema, split, method = prepared.schema, prepared.split, get_method(request.method)
    kinds: dict[str, int] = {}
    for column in schema.columns:
        kinds[column.kind] = kinds.get(column.kind, 0) + 1
    words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    shape = f"pictures of shape {schema.event_shape}" if schema.image else f"{len(schema.columns)} columns ({words})"
    given = f"; given {', '.join(c.name for c in schema.condition)}" if schema.condition else ""
    parameters = sum(p.numel() for p in prepared.built.core.parameters())
    return Preflight(
        data=f"{prepared.table.origin}: {prepared.table.num_rows} rows, {shape}{given}{_times(prepared)}; "
        f"{len(split.train)} train, {len(split.validation)} validate, {len(split.test)} held out",
        model=f"{method.title} ({method.name}), network {prepared.blueprint.network} with {parameters:,} parameters, "
        f"{len(prepared.codec.coordinates)} coordinates, on {prepared.device}",
        findings=(
            *prepared.findings,
            *_path_findings(prepared.built.objective),
            *_start_findings(prepared.built),
            *_coupling_findings(prepared, report),
        ),
        steps=prepared.training.steps,
        seconds_per_step=per_step,
        seconds=per_step * prepared.training.steps,
        config=render(prepared.sections, head="What this run would be trained with."),
    )


def _times(prepared: Prepared) -> str:
    """The times in words; empty where there are none."""
    timeline = stored_timeline(values(prepared.sections)["data"])
    if timeline is None:
        return ""
    left_out = ", ".join(timeline.word(time) for time in timeline.left_out)
    told = f"; {len(timeline.times)} times {timeline.key} from {timeline.words[0]} to {timeline.words[-1]}"
    return told + (f", {left_out} left out" if left_out else "")


def _path_findings(objective: object) -> tuple[Finding, ...]:
    """What the path leaves at the data end; it is then part of the model, and said."""
    end = getattr(getattr(objective, "path", None), "end", None)
    if end is None:
        return ()
    weights = end()
    left = []
    if abs(weights.source) > NOTABLE_REMAINDER:
        left.append(f"{weights.source:.3g} of the source row")
    if weights.noise > NOTABLE_REMAINDER:
        left.append(f"noise of standard deviation {weights.noise:.3g}")
    if not left:
        return ()
    message = f"at t = 1 the path leaves {' and '.join(left)} (standardised units)"
    return (Finding("path end", "path", message, "learned as part of the model: samples are blurred by as much"),)


def _start_findings(built: Built) -> tuple[Finding, ...]:
    """How far the law at the start of a diffusion's path is from the normal that sampling starts from."""
    start = getattr(getattr(built.objective, "path", None), "start", None)
    if start is None or not isinstance(built.core.base, IsotropicNormal):
        return ()
    ode = built.core.split_at_ode("preflight")[1]
    told = start_law(start(), built.core.base.scale, *data_moments(ode.field, built.core.event_shape))
    if told.bound < NOTABLE_START:
        return ()
    message = (
        f"at t = 0 the path still holds {told.data_weight:.3g} of the data: its law there is {told.gaussian:.2g} nats "
        f"from the normal that sampling starts from (KL of the Gaussian fit; at most {told.bound:.2g})"
    )
    return (Finding("start law", "path", message, "sampling starts from the normal; the model is what comes out"),)


def _coupling_findings(prepared: Prepared, report: Mapping[str, float]) -> tuple[Finding, ...]:
    """What the coupling of the timed steps had to say."""
    if "chi_square" in report and report.get("converged", 1.0) < 1:
        message = (
            f"the semidiscrete plan draws the data rows with χ² = {report['chi_square']:.3g} ± "
            f"{report['chi_square_noise']:.1g}, more than was asked for"
        )
        return (Finding("uneven plan", "plan=semidiscrete", message, "trained on: rows are drawn that unevenly"),)
    if "continuous_condition" not in report:
        return ()
    where = ", ".join(column.name for column in prepared.schema.condition)
    return (Finding("continuous condition", where, CONTINUOUS_NOTICE, "paired independently"),)
