"""The loop over prepared rows, and how many steps fit into a time budget."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from advect.errors import ConfigError
from advect.run import FolderSink, MemorySink, RunFolder, SetWriter, read_checkpoint
from advect.run.card import Setting
from advect.training import (
    ALONE,
    Batches,
    BatchSource,
    ChainBatches,
    DataRows,
    Probe,
    SnapshotBatches,
    Snapshots,
    TaughtBatches,
    TaughtRows,
    Trainer,
    Workers,
)
from advect.workflows.prepare import Prepared

# Share of a time budget kept for figures and report, and the least of it in seconds.
RESERVE_SHARE, RESERVE_SECONDS = 0.2, 6.0
# Steps timed before a budget is turned into a number of steps: enough to average, few enough not to matter.
TIMED_STEPS, TIMED_SHARE = 30, 0.03
# The timed steps run without interruptions; real ones also wait for validations and checkpoints.
BUDGET_MARGIN = 0.9
VALIDATION_BATCHES = 4


def make_trainer(
    prepared: Prepared,
    sink: FolderSink | MemorySink,
    probes: Sequence[Probe] = (),
    workers: Workers = ALONE,
    parts: SetWriter | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Trainer:
    """The loop over the prepared rows, or the part of it that one of several processes has.

    Args:
        prepared: Rows, flow, objective and settings.
        sink: Where everything goes.
        probes: Measured on the way.
        workers: The processes.
        parts: Where checkpoints go, of a training whose weights may be spread over processes.
        note: Hears what a user should know.
    """
    core, config, coupling = prepared.built.core, prepared.training, prepared.built.coupling
    source = None if coupling is None else core.base

    def batches(rows: DataRows | Snapshots | TaughtRows, seed: int, *, prepared: bool) -> BatchSource:
        if isinstance(rows, TaughtRows):
            return TaughtBatches(rows, config.batch_size, seed)
        if isinstance(rows, Snapshots):
            return (ChainBatches if rows.smooth else SnapshotBatches)(rows, config.batch_size, seed)
        return Batches(rows, config.batch_size, seed, source, coupling, prepared=prepared)

    train, validate = (prepared.train, prepared.validate) if prepared.taught is None else prepared.taught
    seed = config.seed
    turns = len(prepared.train.couplings) if isinstance(prepared.train, Snapshots) else 1
    return Trainer(
        core,
        prepared.built.objective,
        batches(train, seed, prepared=True),
        config,
        sink,
        validation=None if validate is None else batches(validate, seed + 1, prepared=False),
        validation_batches=turns * math.ceil(VALIDATION_BATCHES / turns),  # every pair of snapshots equally often
        workers=workers,
        probes=probes,
        parts=parts,
        note=note,
    )


def parts_for(prepared: Prepared, workers: Workers) -> SetWriter | None:
    """What writes the checkpoints of a run in parts, where its settings ask for that."""
    out = prepared.request.out
    return SetWriter(RunFolder(out), workers) if prepared.training.shard and out is not None else None


def load_checkpoint(trainer: Trainer, folder: RunFolder) -> bool:
    """Bring a loop to the last checkpoint of a run, and say whether there is one.

    Of weights that are spread over processes each reads its own rows.

    Raises:
        RunFolderError: It is damaged.
        TrainingError: It does not fit the model.
    """
    found = read_checkpoint(folder, None if trainer.shards is None else trainer.shards.wanted_rows)
    if found is not None:
        trainer.state.load(*found)
    return found is not None


def with_steps(prepared: Prepared, steps: int) -> Prepared:
    """The same training with another number of steps, derived from a budget."""
    setting = Setting(steps, "optimiser steps, from the budget", "derived")
    sections = {**prepared.sections, "training": {**prepared.sections["training"], "steps": setting}}
    return replace(prepared, training=replace(prepared.training, steps=steps), sections=sections)


def reserve_seconds(budget: float, figures: bool) -> float:
    """Seconds of a budget that are kept for figures and report."""
    return min(0.5 * budget, max(RESERVE_SECONDS, RESERVE_SHARE * budget)) if figures else 0.0


def steps_for_budget(prepared: Prepared, started: float, *, reserve: bool, workers: Workers = ALONE) -> Prepared:
    """Turn a time budget into a number of steps, once; from then on the run is as exact as any other.

    Args:
        prepared: A training with a budget.
        started: ``time.monotonic()`` at the beginning of the budget.
        reserve: Whether figures and a report follow.
        workers: The processes; what their messages cost is not timed.

    Raises:
        ConfigError: The weights are spread over the processes: no step is timed by one of them alone.
    """
    if not can_time(prepared, workers):
        raise ConfigError(
            "a budget needs timed steps, and no process can take one alone where the weights are spread out",
            where="--budget",
            remedy="Give --steps, or leave shard out.",
        )
    budget = prepared.request.budget_seconds or 0.0
    trainer = make_trainer(with_steps(prepared, 10**6), MemorySink(), workers=workers.silent())
    per_step = trainer.time_steps(2)
    per_step = trainer.time_steps(max(2, min(TIMED_STEPS, int(TIMED_SHARE * budget / per_step))))
    left = budget - (time.monotonic() - started) - reserve_seconds(budget, reserve)
    left *= 1 - prepared.training.probe_share
    return with_steps(prepared, max(1, int(BUDGET_MARGIN * left / per_step)))


def can_time(prepared: Prepared, workers: Workers) -> bool:
    """Whether one process can take a step by itself."""
    return not prepared.training.shard or workers.count == 1
