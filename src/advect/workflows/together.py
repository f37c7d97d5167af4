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
from advect.workflows.first_stage import NOTHING_TO_DO, with_first_stage
from advect.workflows.listen import Silence
from advect.workflows.prepare import Prepared
from advect.workflows.trainer import load_checkpoint, make_trainer, parts_for, with_steps


class Lead:
    """What the leader says to the followers.

    Args:
        workers: The processes.

    Attributes:
        waiting: Whether the followers wait for a word.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers, self.waiting = workers, True

    def begin(self, steps: int) -> None:
        """So many steps are to be done."""
        self.waiting = False
        self._workers.leading(steps)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside all processes do the same; whoever fails there is missed by the others."""
        self.waiting = False
        yield
        self.waiting = True


@contextmanager
def leading(workers: Workers) -> Iterator[Lead]:
    """Yield what speaks to the followers; however it ends, they are told something."""
    lead = Lead(workers)
    try:
        yield lead
    finally:
        if lead.waiting:
            with suppress(LostWorkerError):  # who is gone need not be sent home
                workers.leading(NOTHING_TO_DO)


class _Phases(Silence):
    """Hears of phases alone.

    Args:
        heard: Told their names.
    """

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard

    def phase(self, name: str) -> None:
        """Passed on."""
        self._heard(name)


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
    folder = None if prepared.request.out is None else RunFolder(prepared.request.out)
    prepared, ended = with_first_stage(prepared, folder, _Phases(phase), stop, workers=workers)
    if ended is not None:
        if not ended.finished:  # stopped: the leader has yet to say that nothing follows
            workers.leading(NOTHING_TO_DO)
        return ended
    steps = workers.leading(NOTHING_TO_DO)
    if steps == NOTHING_TO_DO:
        return Outcome(True, 0, float("nan"), 0, 0.0, "finished")
    prepared = with_steps(prepared, steps)
    if folder is not None:
        prepared = with_draws_of(read_config(folder), prepared)
    trainer = make_trainer(prepared, MemorySink(), workers=workers, parts=parts_for(prepared, workers))
    # Before the first message of the run is sent, which waits for everyone, the leader writes no other checkpoint.
    if folder is not None:
        load_checkpoint(trainer, folder)
    phase("training")
    return trainer.run(stop=stop)


def with_processes(prepared: Prepared, workers: Workers) -> Prepared:
    """The same training with the number of its processes among what is written down."""
    if workers.count == 1:
        return prepared
    setting = Setting(workers.count, "processes that shared every batch; part of what fixes the bits", "derived")
    environment = {**prepared.sections["environment"], "processes": setting}
    return replace(prepared, sections={**prepared.sections, "environment": environment})
