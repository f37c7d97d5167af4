"""The loop over prepared rows, and how many steps fit into a time budget."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from advect.run import FolderSink, MemorySink
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
    note: Callable[[str], None] = lambda _: None,
) -> Trainer:
    """The loop over the prepared rows, or the part of it that one of several processes has.

    Args:
        prepared: Rows, flow, objective and settings.
        sink: Where everything goes.
        probes: Measured on the way.
        workers: The processes.
        note: Hears what a user should know.
    """
    core, config, coupling = prepared.built.core, prepared.training, prepared.built.coupling
    source = None if coupling is None else core.base

    def batches(rows: DataRows | Snapshots, seed: int, *, prepared: bool) -> BatchSource:
        if isinstance(rows, Snapshots):
            return (ChainBatches if rows.smooth else SnapshotBatches)(rows, config.batch_size, seed)
        return Batches(rows, config.batch_size, seed, source, coupling, prepared=prepared)

    validate, seed = prepared.validate, config.seed
    turns = len(prepared.train.couplings) if isinstance(prepared.train, Snapshots) else 1
    return Trainer(
        core,
        prepared.built.objective,
        batches(prepared.train, seed, prepared=True),
        config,
        sink,
        validation=None if validate is None else batches(validate, seed + 1, prepared=False),
        validation_batches=turns * math.ceil(VALIDATION_BATCHES / turns),  # every pair of snapshots equally often
        workers=workers,
        probes=probes,
        note=note,
    )


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
    """
    budget = prepared.request.budget_seconds or 0.0
    trainer = make_trainer(with_steps(prepared, 10**6), MemorySink(), workers=workers.silent())
    per_step = trainer.time_steps(2)
    per_step = trainer.time_steps(max(2, min(TIMED_STEPS, int(TIMED_SHARE * budget / per_step))))
    left = budget - (time.monotonic() - started) - reserve_seconds(budget, reserve)
    left *= 1 - prepared.training.probe_share
    return with_steps(prepared, max(1, int(BUDGET_MARGIN * left / per_step)))
