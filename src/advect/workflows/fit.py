"""`train`: from a request to a finished run, resumable at every moment.

The same command does the right thing whatever it finds: it starts, continues an interrupted run, says that a run is
done, or refuses with the list of settings that differ.
"""

import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from advect.data import on_disk
from advect.errors import AdvectError, RunFolderError
from advect.files import write_text
from advect.run import (
    CONFIG,
    EVALUATION,
    MODEL,
    REPORT,
    Artefact,
    FolderSink,
    MemorySink,
    RunFolder,
    has_checkpoint,
    remove_sets,
    render,
    values,
    write_artefact,
)
from advect.training import ALONE, Outcome, Workers, average_words, lowest_losses
from advect.workflows.calibrate import calibrated
from advect.workflows.continuing import continue_settings
from advect.workflows.effort import figures_deadline
from advect.workflows.evaluate import evaluate_rows
from advect.workflows.first_stage import BUDGET_SHARE, stage_deadline, with_first_stage
from advect.workflows.growth import growth_of
from advect.workflows.listen import Listener, Silence
from advect.workflows.preflight import describe
from advect.workflows.prepare import Prepared, prepare
from advect.workflows.probes import probes_of
from advect.workflows.reflow import keep_pairs, with_pairs
from advect.workflows.request import TrainRequest
from advect.workflows.snapshots import stored_timeline
from advect.workflows.together import Lead, follow, leading, with_processes
from advect.workflows.trainer import (
    can_time,
    load_checkpoint,
    make_trainer,
    parts_for,
    reserve_seconds,
    steps_for_budget,
)

# Seconds of a budget that the report takes, and the share of what is kept for figures that measuring solvers may take.
REPORT_SECONDS = 5.0
CALIBRATION_SHARE = 0.3


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        artefact: The model; None when training was interrupted or the run was finished before.
        folder: The run folder, or None for a training in memory.
        state: ``finished``, ``interrupted`` or ``already finished``.
        step: Steps done.
        steps: Steps in all.
        seconds: Training time over all continuations.
        evaluation: Held-out figures as `evaluate` gives them.
        files: What was written, by name.
        next_commands: Commands worth trying next.
    """

    artefact: Artefact | None
    folder: Path | None
    state: str
    step: int
    steps: int
    seconds: float
    evaluation: Mapping = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    next_commands: tuple[str, ...] = ()


def train(
    request: TrainRequest,
    *,
    listener: Listener = Silence(),  # noqa: B008 - has no state
    stop: Callable[[], bool] = lambda: False,
    evaluate: bool = True,
    started: float | None = None,
    workers: Workers = ALONE,
) -> TrainResult:
    """Train as asked, in a run folder or in memory.

    Args:
        request: What to do.
        listener: Hears how it goes.
        stop: Asked before every step; True checkpoints and leaves.
        evaluate: Whether to compute figures and the report afterwards.
        started: ``time.monotonic()`` at the beginning of the budget; now by default.
        workers: Which of several processes this is. The first one does everything; of the others, which have the same
            request, the result is no more than how the loop ended.

    Raises:
        AdvectError: Data or settings that must be mended, a folder that cannot be used, a training that diverged.
    """
    started = time.monotonic() if started is None else started
    if not workers.leads:
        outcome = follow(prepare(request), workers, stop, listener.phase)
        state = "finished" if outcome.finished else "interrupted"
        return TrainResult(None, request.out, state, outcome.step, outcome.step, outcome.seconds)
    with leading(workers) as lead:
        return _lead(request, listener, stop, evaluate, started, workers, lead)


def _lead(
    request: TrainRequest,
    listener: Listener,
    stop: Callable[[], bool],
    evaluate: bool,
    started: float,
    workers: Workers,
    lead: Lead,
) -> TrainResult:
    folder = None if request.out is None else RunFolder(request.out)
    if folder is not None and folder.state == "foreign":
        raise RunFolderError(
            f"this {'folder' if folder.path.is_dir() else 'file'} is there already and is no run",
            where=str(folder.path),
            remedy="Choose another name with --out, or remove it.",
        )
    # Everything that may be refused about the input is, before a folder is made or an old run is moved.
    listener.phase("reading")
    prepared = with_processes(prepare(request), workers)
    for text in prepared.table.notes:
        listener.note(f"{prepared.table.origin}: {text}")
    if folder is not None and request.restart and folder.state in ("started", "finished"):
        listener.note(f"The old run was moved to {folder.move_aside()}.")
    with folder.locked(listener.note) if folder is not None else nullcontext():
        if folder is not None and folder.state in ("started", "finished"):
            prepared = continue_settings(folder, prepared)
            if folder.state == "finished":
                return _finish_again(folder, prepared, listener, evaluate)
        return _train(prepared, folder, listener, stop, evaluate, started, workers, lead)


def _train(
    prepared: Prepared,
    folder: RunFolder | None,
    listener: Listener,
    stop: Callable[[], bool],
    evaluate: bool,
    started: float,
    workers: Workers,
    lead: Lead,
) -> TrainResult:
    request = prepared.request
    sink = MemorySink(listener.progress) if folder is None else FolderSink(folder, listener.progress)
    begun = folder is not None and has_checkpoint(folder)
    prepared = with_pairs(prepared, folder, listener, workers)
    deadline = end = None
    if prepared.training.compile:
        listener.phase("compiling the network, once: half a minute to some minutes, by its size and the machine")
    if request.budget_seconds is not None:
        end = started + request.budget_seconds - REPORT_SECONDS
        # Once in the configuration the number of steps stays, also where a crash came before the first checkpoint.
        if folder is None or folder.state == "empty":
            spent = started - (0.0 if prepared.stage is None else BUDGET_SHARE * request.budget_seconds)
            prepared = steps_for_budget(prepared, spent, reserve=evaluate, workers=workers)
        deadline = started + request.budget_seconds - reserve_seconds(request.budget_seconds, evaluate)
    if not begun:
        listener.preflight(describe(prepared, workers=workers))
    if folder is not None and folder.state == "empty":
        write_text(folder.destination(CONFIG), render(prepared.sections, head=_head(request)))
    if folder is not None:
        keep_pairs(prepared, folder)
    with lead.together() if prepared.stage is not None else nullcontext():
        ends = stage_deadline(prepared, started)
        prepared, stopped = with_first_stage(prepared, folder, listener, stop, deadline=ends, workers=workers)
    if stopped is not None:
        steps = prepared.training.steps
        return TrainResult(None, None if folder is None else folder.path, "interrupted", 0, steps, stopped.seconds)
    # What is measured on the way is for the report, which a run in memory does not get.
    probes = () if folder is None or not can_time(prepared, workers) else probes_of(prepared)
    lead.begin(prepared.training.steps)
    trainer = make_trainer(prepared, sink, probes, workers, parts_for(prepared, workers), listener.note)
    if folder is not None:
        remove_sets(folder)
        if load_checkpoint(trainer, folder):
            listener.note(f"Continuing at step {trainer.state.step} of {prepared.training.steps}.")
    listener.phase("training")
    outcome = trainer.run(stop=stop, deadline=deadline)
    far = on_disk(prepared.table)
    for text in far.rows.notes() if far is not None else ():
        listener.note(f"{prepared.table.origin}: {text}")
    if not outcome.finished:
        return TrainResult(
            None,
            None if folder is None else folder.path,
            "interrupted",
            outcome.step,
            prepared.training.steps,
            outcome.seconds,
        )
    if outcome.reason == "deadline":
        listener.note(
            f"The budget ended at step {outcome.step} of {prepared.training.steps}: the machine was slower than in the "
            "timed steps."
        )
    for told in (average_words(lowest_losses(sink.history)), trainer.state.scale.sentence(outcome.step)):
        if told:
            listener.note(told)
    end = figures_deadline(outcome.seconds) if end is None else end
    return _finish(prepared, folder, tuple(sink.history), outcome, listener, evaluate, end)


def _finish(
    prepared: Prepared,
    folder: RunFolder | None,
    history: tuple,
    outcome: Outcome,
    listener: Listener,
    evaluate: bool,
    end: float,
) -> TrainResult:
    # Training may have been on an accelerator; figures and later use start from the processor.
    prepared.built.core.to("cpu")
    artefact = Artefact(
        flow=prepared.flow.eval(),
        schema=prepared.schema,
        codec=prepared.codec,
        condition=prepared.condition,
        config=values(prepared.sections) | {"outcome": _outcome_card(outcome)},
        history=history,
        growth=growth_of(prepared),
    )
    if folder is not None:
        # The solver is measured on the weights that are kept, so it is written with them.
        listener.phase("measuring solvers")
        artefact = calibrated(artefact, seconds=(end - time.monotonic()) * CALIBRATION_SHARE)
        write_artefact(folder, artefact)
    return _figures(prepared, folder, artefact, listener, evaluate, "finished", end)


def _outcome_card(outcome: Outcome) -> dict:
    best = outcome.best_value
    chosen = {} if outcome.half_life is None else {"best_half_life": outcome.half_life}
    if outcome.product_share == outcome.product_share:
        chosen |= {"product_share": round(outcome.product_share, 4)}
    chosen |= {"skipped_steps": outcome.skipped} if outcome.skipped else {}
    return {
        "step": outcome.step,
        "seconds": round(outcome.seconds, 3),
        "best_step": outcome.best_step,
        "time": {name: round(share, 4) for name, share in outcome.shares.items()},
    } | (chosen | {"best_validation_loss": best} if best == best else chosen)


def _finish_again(folder: RunFolder, prepared: Prepared, listener: Listener, evaluate: bool) -> TrainResult:
    """A finished run: nothing to train; figures that a crash cut off are made up for."""
    from advect.workflows.open import open_run

    artefact = open_run(folder.path, parts=prepared.request.parts)
    missing = evaluate and not (folder.file(EVALUATION).exists() and folder.file(REPORT).exists())
    result = _figures(prepared, folder, artefact, listener, missing, "already finished")
    return result if missing else replace(result, evaluation=artefact.evaluation)


def _figures(
    prepared: Prepared,
    folder: RunFolder | None,
    artefact: Artefact,
    listener: Listener,
    evaluate: bool,
    state: str,
    end: float | None = None,
) -> TrainResult:
    """Held-out figures and the report; a failure here never loses the model, which is written already."""
    files: dict[str, Path] = {}
    if folder is not None:
        files["model"] = folder.file(MODEL)
    if evaluate and len(prepared.split.test) >= 2:
        try:
            artefact = _evaluated(prepared, folder, artefact, listener, files, end)
        except AdvectError as error:
            listener.note(f"The model is trained and kept, but its figures or report could not be made: {error}")
    evaluation = artefact.evaluation if evaluate else {}
    outcome = artefact.config.get("outcome", {})
    return TrainResult(
        artefact=artefact,
        folder=None if folder is None else folder.path,
        state=state,
        step=int(outcome.get("step", 0)),
        steps=int(artefact.config["training"]["steps"]),
        seconds=float(outcome.get("seconds", 0.0)),
        evaluation=evaluation,
        files=files,
        next_commands=() if folder is None else next_commands(folder.path, prepared),
    )


def _evaluated(
    prepared: Prepared,
    folder: RunFolder | None,
    artefact: Artefact,
    listener: Listener,
    files: dict[str, Path],
    end: float | None,
) -> Artefact:
    """The artefact with its figures; what is written is added to ``files``. At ``end`` the report should begin."""
    from advect.workflows.report import write_run_report

    listener.phase("evaluating")
    evaluation = evaluate_rows(artefact, prepared.table, prepared.split, seed=prepared.request.seed, deadline=end)
    artefact = replace(artefact, evaluation=evaluation)
    if folder is not None:
        folder.write_json(EVALUATION, evaluation)
        listener.phase("writing the report")
        done = None if end is None or prepared.request.budget_seconds is None else end + REPORT_SECONDS
        files |= write_run_report(folder, artefact, prepared.table, prepared.split, prepared.findings, deadline=done)
    return artefact


def next_commands(path: Path, prepared: Prepared) -> tuple[str, ...]:
    """Three commands worth trying after a training."""
    run, source = shlex.quote(str(path)), shlex.quote(str(prepared.sections["data"]["origin"].value))
    ending = {"csv": "csv", "tsv": "tsv", "parquet": "parquet", "h5ad": "h5ad"}.get(prepared.schema.container, "npz")
    ending = "png" if prepared.schema.image else ending
    timeline = stored_timeline(values(prepared.sections).get("data", {}))
    if timeline is not None:
        last = shlex.quote(timeline.words[-1])
        between = shlex.quote(timeline.word(sum(timeline.times[-2:]) / 2))
        return (
            f"advect sample {run} -n 1000 --at {between} --out new.{ending}",
            f"advect transport {run} {source} --to {last} --out moved.{ending}",
            f"advect velocity {run} {source} --out velocity.{ending}",
        )
    if prepared.schema.image:
        return (
            f"advect sample {run} -n 1000 --out new.{ending}",
            f"advect evaluate {run}",
            f"advect sample {run} -n 1000 --out pictures"
            if prepared.stage is not None
            else f"advect score {run} {source} --out scores.csv",
        )
    start = values(prepared.sections).get("data", {}).get("source")
    if start is not None:  # it has no density, so nothing can be scored
        return (
            f"advect sample {run} -n 1000 --out new.{ending}",
            f"advect transport {run} {shlex.quote(str(start))} --to target --out moved.{ending}",
            f"advect transport {run} {source} --to source --out back.{ending}",
        )
    return (
        f"advect sample {run} -n 1000 --out new.{ending}",
        f"advect score {run} {source} --out scores.csv",
        f"advect transport {run} {source} --to source --out latent.npz",
    )


def _head(request: TrainRequest) -> str:
    return (
        "The settings of this run, all of them. Behind each stands where it came from (given, default, derived) and\n"
        f"what it means. `advect explain {request.method}` tells the theory. Editing it changes nothing."
    )
