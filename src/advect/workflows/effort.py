"""How much can be measured in the time there is: a large network on a processor draws few rows a second."""

import math
import time

from advect.run import Artefact
from advect.workflows.generate import SolverChoice, generate

TRIED_ROWS = 4
LEAST_ROWS = 64
# Figures after a training without a budget: a share of its time, and never less than this many seconds.
FIGURES_SHARE, FIGURES_SECONDS = 0.25, 180.0


def affordable_rows(artefact: Artefact, wanted: int, *, deadline: float | None, share: float, seed: int = 0) -> int:
    """Rows that can be drawn in a share of the time that is left, between 64 and ``wanted``.

    Args:
        artefact: The model.
        wanted: Rows drawn where there is time.
        deadline: ``time.monotonic()`` at the end; None is time enough.
        share: Of the time until then.
        seed: Of the few rows that are drawn to see how long it takes.
    """
    if deadline is None or wanted <= LEAST_ROWS:
        return wanted
    started = time.monotonic()
    drawn = generate(artefact, TRIED_ROWS, choice=SolverChoice(), seed=seed)
    each = drawn.seconds / TRIED_ROWS
    left = share * max(deadline - started, 0.0)
    return min(wanted, max(LEAST_ROWS, math.floor(left / max(each, 1e-9))))


def figures_deadline(training_seconds: float) -> float:
    """Until when figures may be measured after a training that had no budget."""
    return time.monotonic() + max(FIGURES_SECONDS, FIGURES_SHARE * training_seconds)
