"""Everything that is measured about one trained run of a comparison, kept beside the run so that it is done once.

Times are those of the fastest of up to three repetitions: what else the machine does only ever adds to them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.data import take_rows
from advect.errors import AdvectError, DataError
from advect.evaluation import ClosestRecord, Lesson, TrainedOn, closest_record, train_on_synthetic
from advect.methods import Blueprint
from advect.records import Table
from advect.report.comparison.content import CurvePoint
from advect.run import EVALUATION, Artefact, RunFolder
from advect.solvers import SOLVERS
from advect.training import generator_for
from advect.workflows.comparison.ground import Ground, Yardstick, classes_of, label_target
from advect.workflows.evaluate import evaluate_rows, finite
from advect.workflows.generate import Generated, SolverChoice, generate
from advect.workflows.grown import grown
from advect.workflows.held_out import held_out_scores
from advect.workflows.report import write_run_report
from advect.workflows.streams import EVALUATE

COMPARISON = "comparison.json"
EVALUATIONS = (2, 4, 8, 16, 32, 64)
TIMED_ROWS, WARM_ROWS, REPEATS, PATIENCE = 1000, 16, 3, 2.0
LESSON_ROWS = 5000
_FEATURES = 21  # a stream below EVALUATE


@dataclass(frozen=True)
class Measurement:
    """One run.

    Attributes:
        label: The column that was predicted, part of what makes a kept measurement valid; None for none.
        seed: Of the measurement's draws, likewise.
        parameters: Trainable numbers.
        steps: Optimiser steps done.
        training_seconds: In the loop.
        scores: Log-probability of each of the shared held-out rows; None where it is not finite.
        sampling_seconds: For 1000 rows at the run's own setting.
        nfe: Network evaluations per row there; 0 for a map that is one pass.
        point: That setting as a point of the curve.
        curve: Error against evaluations with a fixed solver.
        closest: Distances to training rows; None for pictures.
        synthetic: Train on synthetic, test on real; None without a label.
        remarks: What could not be measured, and why.
    """

    label: str | None
    seed: int
    parameters: int
    steps: int
    training_seconds: float
    scores: tuple[float | None, ...]
    sampling_seconds: float
    nfe: float
    point: CurvePoint | None
    curve: tuple[CurvePoint, ...]
    closest: ClosestRecord | None
    synthetic: TrainedOn | None
    remarks: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Measurement":
        """The inverse of `asdict` through JSON, where None stands for a number that is not finite.

        Raises:
            KeyError: Something is missing.
        """
        known = {f.name: stored[f.name] for f in fields(cls)}
        for name, kind in (("point", CurvePoint), ("closest", ClosestRecord), ("synthetic", TrainedOn)):
            known[name] = None if known[name] is None else kind(**_numbers(known[name]))
        known["curve"] = tuple(CurvePoint(**_numbers(point)) for point in known["curve"])
        known["scores"], known["remarks"] = tuple(known["scores"]), tuple(known["remarks"])
        return cls(**known)


def _numbers(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as they were; only a spread may be None for its own reasons."""
    return {k: float("nan") if v is None and k != "spread" else v for k, v in stored.items()}


def kept_measurement(folder: RunFolder, ground: Ground) -> Measurement | None:
    """The measurement in a run folder, if it is whole and of the same rows and label."""
    if not (folder.file(COMPARISON).exists() and folder.file(EVALUATION).exists()):
        return None
    try:
        found = Measurement.from_dict(folder.read_json(COMPARISON))
    except (AdvectError, KeyError, TypeError, ValueError):
        return None  # damaged: measured anew
    label = None if ground.label is None else ground.label.name
    return found if (found.label, found.seed) == (label, ground.seed) else None


def measure(folder: RunFolder, artefact: Artefact, ground: Ground, stick: Yardstick) -> Measurement:
    """Figures, report and measurement of a finished run, written into its folder.

    Raises:
        AdvectError: The run cannot be judged at all: every sample failed.
    """
    scores = held_out_scores(artefact, ground.held_out, seed=ground.seed)
    evaluation = evaluate_rows(artefact, ground.table, ground.split, seed=ground.seed, scores=scores)
    with folder.locked():
        folder.write_json(EVALUATION, evaluation)
    values = [] if scores.scored is None else scores.scored.estimate.value.double().tolist()
    remarks: list[str] = []

    def tried(what: str, figure: Callable[[], Any]) -> Any:
        """A figure, or None with a remark: one that fails takes no other with it."""
        try:
            return figure()
        except AdvectError as error:
            remarks.append(f"{what}: {error}")
            return None

    best, nfe = _timed(artefact, TIMED_ROWS, SolverChoice(), seed=ground.seed + 1)
    drawn = grown(artefact, min(LESSON_ROWS, stick.train_table.num_rows), seed=ground.seed + 2)
    outcome = artefact.config.get("outcome", {})
    result = Measurement(
        label=None if ground.label is None else ground.label.name,
        seed=ground.seed,
        parameters=_parameters(artefact),
        steps=int(outcome.get("step", 0)),
        training_seconds=float(outcome.get("seconds", 0.0)),
        scores=tuple(finite(value) for value in values),
        sampling_seconds=best * 1000 / TIMED_ROWS,
        nfe=nfe,
        point=tried("its own setting", lambda: _point(artefact, stick, SolverChoice())),
        curve=tried("the curve", lambda: _curve(artefact, stick)) or (),
        closest=None if ground.schema.image else tried("distances to training rows", lambda: _closest(drawn, stick)),
        synthetic=tried("learning from samples", lambda: _synthetic(drawn, ground, stick)),
        remarks=tuple(remarks),
    )
    with folder.locked():
        write_run_report(folder, replace(artefact, evaluation=evaluation), ground.table, ground.split, ground.findings)
        folder.write_json(COMPARISON, finite(asdict(result)))
    return result


def _parameters(artefact: Artefact) -> int:
    """Trainable numbers of the flow; those of the preprocessing are fitted, not trained."""
    return sum(p.numel() for p in artefact.flow.parameters() if p.requires_grad)


def _timed(artefact: Artefact, rows: int, choice: SolverChoice, *, seed: int, condition: Table | None = None) -> tuple:
    """Seconds of the fastest of up to three draws, and evaluations per row."""
    generate(artefact, WARM_ROWS, choice=choice, seed=seed)
    started, seconds, nfe = time.monotonic(), [], 0.0
    for _ in range(REPEATS):
        drawn = generate(artefact, rows, condition=condition, choice=choice, seed=seed)
        seconds.append(drawn.seconds)
        nfe = drawn.nfe
        if time.monotonic() - started > PATIENCE:
            break
    return min(seconds), nfe


def _point(artefact: Artefact, stick: Yardstick, choice: SolverChoice) -> CurvePoint:
    """Error and cost of one setting, as many samples as held-out rows and under their conditions."""
    condition = stick.shown if artefact.condition is not None else None
    rows = stick.shown.num_rows
    drawn = grown(artefact, rows, condition=condition, choice=choice, seed=stick.seed + 1)
    again = grown(artefact, rows, condition=condition, choice=choice, seed=stick.seed + 1)
    seconds = min(drawn.seconds, again.seconds) * 1000 / rows
    return CurvePoint(max(drawn.nfe, 1.0), seconds, stick.error(_usable(drawn, stick)))


def _curve(artefact: Artefact, stick: Yardstick) -> tuple[CurvePoint, ...]:
    """Settings of a fixed solver by rising cost; empty for maps without an ODE."""
    if artefact.flow.ode is None:
        return ()
    name = artefact.config["sampling"]["solver"]
    if name not in SOLVERS or SOLVERS[name].adaptive:
        name = Blueprint.__dataclass_fields__["solver"].default
    choices = [SolverChoice(name, _steps(name, count)) for count in EVALUATIONS]
    return tuple(_point(artefact, stick, choice) for choice in dict.fromkeys(choices))


def _steps(solver: str, evaluations: int) -> int:
    """Steps that spend so many evaluations: a solver that remembers slopes needs one more at the start."""
    entry = SOLVERS[solver]
    start = 1 if entry.evaluations < entry.order else 0
    return max(1, (evaluations - start) // entry.evaluations)


def _usable(drawn: Generated, stick: Yardstick) -> Tensor:
    """Samples in the shared coordinates, without those that failed.

    Raises:
        DataError: Fewer than two are left.
    """
    if drawn.usable.sum() < 2:
        raise DataError(f"{drawn.failed} of {len(drawn.usable)} samples have no value")
    return stick.latent(take_rows(drawn.table, np.flatnonzero(drawn.usable)))


def _closest(drawn: Generated, stick: Yardstick) -> ClosestRecord:
    return closest_record(_usable(drawn, stick)[: len(stick.real)], stick.real, stick.train)


def _synthetic(drawn: Generated, ground: Ground, stick: Yardstick) -> TrainedOn | None:
    column = ground.label
    if column is None:
        return None
    coordinates = stick.artefact.codec.coordinates
    names = ground.schema.names
    # The label's own coordinates (and its indicator of gaps) are what is to be predicted.
    keep = torch.tensor([names[c.column] != column.name for c in coordinates])
    classes = classes_of(column)

    def lesson(table: Table, latent: Tensor) -> Lesson:
        return Lesson(latent[:, keep], label_target(table, column))

    samples = take_rows(drawn.table, np.flatnonzero(drawn.usable))
    return train_on_synthetic(
        lesson(samples, _usable(drawn, stick)),
        lesson(stick.train_table, stick.train),
        lesson(stick.shown, stick.real),
        classes=None if classes is None else len(classes),
        generator=generator_for(stick.seed, EVALUATE, _FEATURES),
    )
