"""The loss on validation rows with draws of its own, the same every time, so that two validations compare.

Rows, and all else that can be drawn before the losses, are drawn once and kept. Few rows then pass through the network
all together: compiled networks then pack their weights once, and rows are enough to be worth that.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from advect.records import Batch
from advect.training.batches import BatchSource
from advect.training.config import TrainingConfig
from advect.training.direct import drawn_for
from advect.training.parts import joined
from advect.training.seeding import VALIDATION, generator_for
from advect.training.shares import row_losses, total_weight
from advect.training.workers import Workers
from advect.typing import DrawingObjective, Objective, written_for

NUMBERS = 2**16
"""In the rows of all batches, up to which they go together: what a network makes of more fills memory."""


class Validation:
    """Batches that are drawn once and kept.

    Args:
        flow: What is trained.
        objective: Loss per row.
        batches: Where they come from.
        count: How many.
        config: Its seed, and how many rows pass through the network at once.
        losses: The mean loss of a batch, or what this process has of it, in shares that add up to it.
        workers: The processes that share the rows.
    """

    def __init__(
        self,
        flow: nn.Module,
        objective: Objective,
        batches: BatchSource,
        count: int,
        config: TrainingConfig,
        losses: Callable[[Batch, Generator], Iterable[Tensor]],
        workers: Workers,
    ) -> None:
        self._flow, self._objective, self._batches, self._count = flow, objective, batches, count
        self._seed, self._losses, self._workers = config.seed, losses, workers
        self._at_once = workers.count == 1 and not config.microbatch
        self._draws_first = workers.count == 1 and _draws_first(objective)
        self._held: list[Batch] | None = None
        self._drawn: list[Batch] | None = None
        self._together: Batch | None = None

    def look_again(self) -> None:
        """Forget what was drawn besides the rows: it may speak of a network that was put in the place of another."""
        self._drawn = self._together = None

    def loss(self) -> float:
        """Of the weights as they are, over all processes."""
        if self._held is None:
            self._held = [self._batches.draw(i, generator) for i, generator in enumerate(self._draws(0))]
        if self._drawn is None:
            self._drawn = [self._with_draws(batch, g) for batch, g in zip(self._held, self._draws(1), strict=True)]
            self._together = self._all_of(self._drawn)
        if self._together is not None:
            of_rows = row_losses(self._objective, self._flow, self._together, Generator())
            losses = self._means(of_rows, self._together.weight)
        else:
            pairs = zip(self._drawn, self._draws(1), strict=True)
            losses = torch.stack([torch.stack([*self._losses(batch, generator)]).sum() for batch, generator in pairs])
        self._workers.add([losses])
        return float(losses.mean())

    def _with_draws(self, batch: Batch, generator: Generator) -> Batch:
        """The batch with what the objective draws for it, where it does so apart from its loss."""
        if batch.drawn is not None or not self._draws_first:
            return batch
        return replace(batch, drawn=drawn_for(self._objective, self._flow, batch, generator))

    def _all_of(self, batches: list[Batch]) -> Batch | None:
        """The rows of all batches as one; None where each has its loss alone."""
        numbers = sum(batch.x1.numel() for batch in batches)
        alike = {(len(batch.x1), batch.weight is None) for batch in batches}
        if not self._at_once or numbers > NUMBERS or len(alike) > 1:
            return None
        return None if any(batch.drawn is None for batch in batches) else joined(batches)

    def _means(self, losses: Tensor, weight: Tensor | None) -> Tensor:
        """The mean loss of each batch, from those of the rows of all."""
        losses = losses.reshape(self._count, -1)
        if weight is None:
            return losses.mean(1)
        weight = weight.reshape(self._count, -1)
        totals = torch.stack([total_weight(of_batch, losses.dtype) for of_batch in weight])
        return (losses * weight).sum(1) / totals

    def _draws(self, stream: int) -> list[Generator]:
        """The same generators in every validation: of the rows (0) and of the losses (1)."""
        return [generator_for(self._seed, VALIDATION, stream, index) for index in range(self._count)]


def _draws_first(objective: Objective) -> bool:
    """Whether the loss of an objective is that of what it draws, and no other that was written over it."""
    names = ("draw", "loss")
    if not isinstance(objective, DrawingObjective) or not all(hasattr(type(objective), name) for name in names):
        return False
    return all(written_for(type(objective), name, "__call__") for name in names)
