"""When a run diverges: a loss that stays far above where it began.

A loss may be large for a while (heavy tails, a likelihood that starts badly) and one batch may be odd. What is taken
for divergence is a loss that in each of many steps in a row lies a thousand times farther above the first losses than
these are from zero.
"""

import math
import statistics

from advect.errors import TrainingError

FIRST, IN_A_ROW, TIMES = 10, 20, 1000.0


def not_finite(loss: float, where: str, precision: str) -> TrainingError:
    """What to tell of a step whose loss, or else gradient, is not finite."""
    what = (
        f"gradient is not finite, at a loss of {loss:.3g}"
        if math.isfinite(loss)
        else f"loss is not finite ({loss:.3g})"
    )
    finer = "Take precision=bfloat16, lower" if precision == "float16" else "Lower"
    return TrainingError(
        f"the {what}; the step was not taken and the state before it is kept",
        where=where,
        remedy=f"{finer} the learning rate, look for extreme values in the data, or continue from the checkpoint "
        "with another seed.",
    )


class DivergenceWatch:
    """Sees every loss.

    Attributes:
        kept: Step of the state that was kept last; None where there is none.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self._above = 0
        self.kept: int | None = None

    @property
    def calm(self) -> bool:
        """Whether the last loss was not far too high, so that the state is worth keeping."""
        return self._above == 0

    def see(self, loss: float, *, step: int, learning_rate: float) -> None:
        """Take the loss of a step.

        Raises:
            TrainingError: The run diverges; says which state is kept and what to try.
        """
        if len(self._first) < FIRST:
            self._first.append(loss)
            return
        start = statistics.median(self._first)
        self._above = self._above + 1 if loss > start + TIMES * max(1.0, abs(start)) else 0
        if self._above < IN_A_ROW:
            return
        kept = "no state was kept yet" if self.kept is None else f"the state of step {self.kept} is kept"
        raise TrainingError(
            f"the run diverges: the loss was {start:.3g} at first, and is {loss:.3g} after {IN_A_ROW} steps far above; "
            f"{kept}",
            where=f"step {step}",
            remedy=f"Lower the learning rate (--set learning_rate={learning_rate / 10:.1g}) and give --restart, or "
            "look for extreme values in the data.",
        )
