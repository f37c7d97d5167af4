"""What the processes of a training agree on between two steps: whether to go on, to write a checkpoint, to tell.

Each has a clock and may be asked to stop. One message a step brings the answers together, so that all do the same.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from advect.training.clock import Clock
from advect.training.workers import Workers

REASONS = ("finished", "deadline", "stopped")
LINE_SECONDS = 0.5


@dataclass(frozen=True)
class Agreed:
    """What all processes do next.

    Attributes:
        reason: ``stopped`` or ``deadline`` as soon as one of them has that reason to leave, else ``finished``.
        checkpoint: Whether a checkpoint follows the step.
        line: Whether a line of life does.
    """

    reason: str
    checkpoint: bool
    line: bool


def agree(
    workers: Workers, clock: Clock, *, stop: Callable[[], bool], deadline: float | None, checkpoint_seconds: float
) -> Agreed:
    """Ask all processes; what is due by the clock is so by the leader's.

    Args:
        workers: The processes.
        clock: Of this one.
        stop: Whether this one was asked to stop.
        deadline: ``time.monotonic()`` at which this one leaves.
        checkpoint_seconds: Time between checkpoints.
    """
    late = deadline is not None and time.monotonic() > deadline
    checkpoint = workers.leads and clock.since_checkpoint() > checkpoint_seconds
    line = workers.leads and clock.since_line() > LINE_SECONDS
    asked = (2 if stop() else int(late), checkpoint, line)
    if workers.count == 1:
        answers = [*asked]
    else:
        with clock.phase("messages"):
            answers = workers.largest(*asked)
    return Agreed(REASONS[answers[0]], bool(answers[1]), bool(answers[2]))


def shares_of_all(workers: Workers, shares: Mapping[str, float]) -> tuple[dict[str, float], ...]:
    """Where the time of each process went, in their order; nothing for a process by itself."""
    if workers.count == 1:
        return ()
    return tuple(json.loads(told) for told in workers.exchange(json.dumps(dict(shares)).encode()))
