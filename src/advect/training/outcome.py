"""How a training ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """How a call of `Trainer.run` ended.

    Attributes:
        finished: All steps were done (or the deadline closed the run); False after a request to stop.
        step: Steps done.
        best_value: Lowest validation loss (NaN without validation).
        best_step: Where it was.
        seconds: Training time over all continuations.
        reason: ``finished``, ``stopped`` or ``deadline``.
        shares: Where the time of this call went: phase name to fraction.
        skipped: Steps that were not taken, as their gradients did not fit float16.
        half_life: Of the average that the best weights are of, in steps; None where half-lives were not asked for.
    """

    finished: bool
    step: int
    best_value: float
    best_step: int
    seconds: float
    reason: str
    shares: Mapping[str, float] = field(default_factory=dict)
    half_life: float | None = None
    skipped: int = 0
