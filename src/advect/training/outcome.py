"""How a training ended."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from advect.training.state import TrainingState


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
        product_share: What the products of this call's steps are of the device's best, see `work`; NaN where that was
            not measured.
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
    product_share: float = math.nan


def outcome_of(
    state: TrainingState,
    half_lives: Sequence[float],
    reason: str,
    shares: Mapping[str, float],
    product_share: float,
) -> Outcome:
    """How a call ended that left this state."""
    return Outcome(
        finished=reason != "stopped",
        step=state.step,
        best_value=state.best_value if state.best else math.nan,
        best_step=state.best_step,
        seconds=state.seconds,
        reason=reason,
        shares=shares,
        half_life=half_lives[state.best_average] if half_lives else None,
        skipped=state.scale.skipped,
        product_share=product_share,
    )
