"""`--latent`: an autoencoder is trained first, by the same loop, and the flow on its codes.

The stage lies in the run folder as ``autoencoder/``: its checkpoint and history while it trains, its weights and its
figures when it is done. The same command continues whichever stage it finds unfinished. A trained stage is the map in
front of the flow's own, and nothing behind it knows.

Several processes train it together as they train the flow; the leader has the folder and says whether the stage is
there. What codes are standardised by, each computes, and all take the leader's weights at the end.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from advect.methods import build, full_flow
from advect.objectives import Reconstruction
from advect.run import FolderSink, MemorySink, RunFolder, load_weights, read_checkpoint, read_tensors, write_tensors
from advect.run.folder import MODEL
from advect.training import ALONE, Batches, DataRows, Outcome, Trainer, TrainingConfig, Workers, generator_for
from advect.transforms import Autoencoder
from advect.workflows.listen import Listener
from advect.workflows.prepare import Prepared
from advect.workflows.streams import FIT, PAIR
from advect.workflows.transport import scaling_of

STAGE = "autoencoder"
BUDGET_SHARE = 0.3  # of a time budget, at most
VALIDATION_BATCHES, _ROWS_AT_ONCE = 4, 512

NOTHING_TO_DO = 0  # what a leader says that gives up, or has nothing to train
_THERE, _MISSING = 1, 2


@dataclass(frozen=True)
class Coded:
    """How well the stage does.

    Attributes:
        error: Root mean squared error of pictures that were coded and decoded, validation rows where there are some, in
            standard deviations of the pixels as the flow's scaling gives them.
        step: Steps it trained.
        seconds: Time it took.
    """

    error: float
    step: int
    seconds: float


def with_first_stage(
    prepared: Prepared,
    folder: RunFolder | None,
    listener: Listener,
    stop: Callable[[], bool],
    *,
    deadline: float | None = None,
    workers: Workers = ALONE,
) -> tuple[Prepared, Outcome | None]:
    """The training behind its trained stage; where there is none, as it is.

    Args:
        prepared: A training, whose stage is trained in place.
        folder: Of the run, locked by the leader; None keeps nothing.
        listener: Hears how it goes.
        stop: Asked before every step.
        deadline: ``time.monotonic()`` at which the stage ends as it is.
        workers: The processes, all of which call this; those that do not lead write nothing.

    Returns:
        The training; and, if the stage was stopped, how far it came: the training cannot begin then. What a leader
        gives up before the stage is finished, with no step.
    """
    stage = prepared.stage
    if stage is None:
        return prepared, None
    place = None if folder is None else RunFolder(folder.path / STAGE)
    with nullcontext() if place is None or not workers.leads else place.locked(listener.note):
        there = place is not None and place.file(MODEL).exists()
        said = workers.leading(_THERE if there else _MISSING)
        if said == NOTHING_TO_DO:
            return prepared, Outcome(True, 0, float("nan"), 0, 0.0, "finished")
        if said == _MISSING:
            listener.phase("training the autoencoder")
            outcome = _trained(prepared, stage, place, listener, stop, deadline, workers)
            if not outcome.finished:
                return prepared, outcome
            told = _finished(prepared, stage, place if workers.leads else None, outcome)
            listener.note(
                f"The autoencoder's pictures are off by {told.error:.2f} standard deviations of a pixel; "
                f"codes are {' × '.join(map(str, stage.source_shape or ()))}."
            )
        elif place is not None and workers.leads:
            tensors, _ = read_tensors(place.file(MODEL))
            load_weights(stage, tensors, str(place.path))
        workers.spread(list(stage.state_dict().values()))
    return behind(prepared, stage), None


def _trained(
    prepared: Prepared,
    stage: Autoencoder,
    place: RunFolder | None,
    listener: Listener,
    stop: Callable[[], bool],
    deadline: float | None,
    workers: Workers,
) -> Outcome:
    coding = prepared.request.latent
    assert coding is not None
    seed = prepared.training.seed
    config = TrainingConfig(
        steps=coding.steps,
        batch_size=coding.batch_size,
        ema_decay=0.99,
        seed=seed,
        probe_share=0.0,
        precision=prepared.training.precision,
        checkpoint_seconds=prepared.training.checkpoint_seconds,
    )
    assert prepared.pictures is not None
    rows, validate = prepared.pictures
    trainer = Trainer(
        stage,
        Reconstruction(coding.noise, coding.penalty),
        Batches(rows, coding.batch_size, seed),
        config,
        FolderSink(place, listener.progress) if place is not None and workers.leads else MemorySink(listener.progress),
        validation=None if validate is None else Batches(validate, coding.batch_size, seed + 1),
        validation_batches=VALIDATION_BATCHES,
        workers=workers,
    )
    checkpoint = None if place is None else read_checkpoint(place)
    if checkpoint is not None:
        trainer.state.load(*checkpoint)
        listener.note(f"Continuing the autoencoder at step {trainer.state.step} of {coding.steps}.")
    return trainer.run(stop=stop, deadline=deadline)


@torch.no_grad()
def _finished(prepared: Prepared, stage: Autoencoder, place: RunFolder | None, outcome: Outcome) -> Coded:
    """Standardise the codes, look how well the stage does, and keep it."""
    assert prepared.pictures is not None
    rows, validate = prepared.pictures
    stage.eval()
    stage.standardise(_codes(rows, stage, prepared.request.seed))
    shown = rows if validate is None else validate
    index = torch.arange(min(shown.num_rows, 2000))
    squares = []
    for part in index.split(_ROWS_AT_ONCE):
        x = shown.draw(part, generator_for(prepared.request.seed, FIT))
        back = stage.decode(stage.encode(x, log_det=False).value, log_det=False).value
        squares.append((back - x).square().mean((1, 2, 3)))
    told = Coded(float(torch.cat(squares).mean().sqrt()), outcome.step, round(outcome.seconds, 3))
    if place is not None:
        write_tensors(place.destination(MODEL), dict(stage.state_dict()), asdict(told))
    return told


@torch.no_grad()
def _codes(rows: DataRows, stage: Autoencoder, seed: int) -> Tensor:
    """The codes of all rows, one after another."""
    generator = generator_for(seed, FIT, 1)
    parts = torch.arange(rows.num_rows).split(_ROWS_AT_ONCE)
    return torch.cat([stage.encode(rows.draw(part, generator), log_det=False).value for part in parts])


def behind(prepared: Prepared, stage: Autoencoder) -> Prepared:
    """The training of a flow on the codes of a trained stage, whose weights stay as they are."""
    stage.eval().requires_grad_(False)
    request = prepared.request
    assert prepared.pictures is not None
    rows, validate = (
        None
        if part is None
        else replace(part, draw=_drawn(part, stage, request.seed, fixed=not request.flip), fetching=None)
        for part in prepared.pictures
    )
    assert rows is not None
    latent = rows.draw(torch.arange(rows.num_rows), generator_for(request.seed, FIT))
    built = build(prepared.blueprint, seed=request.seed, latent=latent.cpu(), parts=request.parts)
    built = replace(built, core=built.core.to(prepared.device))
    if built.coupling is not None:
        generator = generator_for(request.seed, PAIR)
        coupling = built.coupling.prepare(None, latent, condition=rows.condition, generator=generator)
        built = replace(built, coupling=coupling)
    scaling = scaling_of(prepared.flow)
    flow = full_flow(built.core, *scaling, stage)
    return replace(prepared, built=built, flow=flow, train=rows, validate=validate)


def _drawn(
    rows: DataRows, stage: Autoencoder, seed: int, *, fixed: bool
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Codes of rows: of all of them at once where rows are the same in every step, else as they are drawn."""
    if fixed:
        codes = _codes(rows, stage, seed)
        return lambda index, generator: codes[index.to(codes.device)]

    @torch.no_grad()
    def draw(index: Tensor, generator: torch.Generator) -> Tensor:
        return stage.encode(rows.draw(index, generator), log_det=False).value

    return draw


def stage_deadline(prepared: Prepared, started: float) -> float | None:
    """When the stage must end so that a budget is kept; None without a budget or a stage."""
    budget = prepared.request.budget_seconds
    return None if budget is None or prepared.stage is None else started + BUDGET_SHARE * budget
