"""One training by several processes: the first leads, with the files and the figures; the others follow it.

All of them prepare the same rows from the same command. What depends on a clock or on a folder, the leader decides and
says: how many steps there are, and whether there is anything to train at all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from advect.run import MemorySink, RunFolder, read_config
from advect.run.card import Setting
from advect.training import LostWorkerError, Outcome, Workers
from advect.workflows.continuing import with_draws_of
from advect.workflows.prepare import Prepared
from advect.workflows.trainer import load_checkpoint, make_trainer, parts_for, with_steps

NOTHING_TO_DO = 0


@contextmanager
def leading(workers: Workers) -> Iterator[Callable[[int], None]]:
    """Yield what tells the followers how many steps are to be done; however it ends, they are told something."""
    said = []

    def begin(steps: int) -> None:
        said.append(workers.leading(steps))

    try:
        yield begin
    finally:
        if not said:
            with suppress(LostWorkerError):  # who is gone need not be sent home
                workers.leading(NOTHING_TO_DO)


def follow(prepared: Prepared, workers: Workers, stop: Callable[[], bool], phase: Callable[[str], None]) -> Outcome:
    """The part of a process that does not lead: the same steps from the same state, and nothing written.

    Args:
        prepared: The rows and the model, as the leader has them.
        workers: Which process this is.
        stop: Asked before every step; where it is True all of them stop.
        phase: Told that the training begins.

    Raises:
        LostWorkerError: The leader is gone.
    """
    steps = workers.leading(NOTHING_TO_DO)
    if steps == NOTHING_TO_DO:
        return Outcome(True, 0, float("nan"), 0, 0.0, "finished")
    prepared = with_steps(prepared, steps)
    if prepared.request.out is not None:
        prepared = with_draws_of(read_config(RunFolder(prepared.request.out)), prepared)
    trainer = make_trainer(prepared, MemorySink(), workers=workers, parts=parts_for(prepared, workers))
    # Before the first message of the run is sent, which waits for everyone, the leader writes no other checkpoint.
    if prepared.request.out is not None:
        load_checkpoint(trainer, RunFolder(prepared.request.out))
    phase("training")
    return trainer.run(stop=stop)


def with_processes(prepared: Prepared, workers: Workers) -> Prepared:
    """The same training with the number of its processes among what is written down."""
    if workers.count == 1:
        return prepared
    setting = Setting(workers.count, "processes that shared every batch; part of what fixes the bits", "derived")
    environment = {**prepared.sections["environment"], "processes": setting}
    return replace(prepared, sections={**prepared.sections, "environment": environment})
