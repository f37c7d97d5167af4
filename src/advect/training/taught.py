"""Batches of pairs that another flow made: each source row beside the data row to which that flow takes it.

The reflow step of rectified flow (Liu et al. 2209.03003): a flow regressed on such pairs keeps their two laws, moves
rows at no higher convex cost, and on straighter lines.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Generator, Tensor

from advect.records import Batch
from advect.training.batches import Epochs, Phase, untimed


@dataclass(frozen=True)
class TaughtRows:
    """Pairs in the coordinates of the flow's map.

    Attributes:
        x0: ``(pairs, *event)`` source rows.
        x1: ``(pairs, *event)`` where they are taken.
        condition: ``(pairs, *condition)`` given which, or None.
    """

    x0: Float[Tensor, "pairs *event"]
    x1: Float[Tensor, "pairs *event"]
    condition: Tensor | None = None

    def cost(self) -> dict[str, float]:
        """Mean squared distance of the pairs, and what it would be at random."""
        x0, x1 = (x.flatten(1).double() for x in (self.x0, self.x1))
        paired = (x1 - x0).square().sum(1).mean()
        crossed = x0.square().sum(1).mean() + x1.square().sum(1).mean() - 2 * (x0.mean(0) @ x1.mean(0))
        return {"mean_cost": float(paired), "independent_cost": float(crossed)}


class TaughtBatches:
    """The same verbs as `Batches`, epoch by epoch over the pairs.

    Args:
        rows: The pairs.
        batch_size: Pairs per batch.
        seed: Of the shuffling.
    """

    def __init__(self, rows: TaughtRows, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.epochs = Epochs(len(rows.x0), batch_size, seed)
        self.report = rows.cost()

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """The pairs of a step; nothing is drawn."""
        with phase("data"):
            index = self.epochs.rows(step).to(self.rows.x0.device)
            condition = self.rows.condition
            return Batch(
                x1=self.rows.x1[index],
                x0=self.rows.x0[index],
                condition=None if condition is None else condition[index],
            )

    def step_seconds(self, seconds: float) -> float:
        """Seconds per step of a loop whose own part takes ``seconds``: the preparation is a part of it."""
        return seconds
