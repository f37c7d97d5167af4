"""The loss on validation rows with draws of its own, the same every time, so that two validations compare."""

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor

from advect.records import Batch
from advect.training.batches import BatchSource
from advect.training.seeding import VALIDATION, generator_for
from advect.training.workers import Workers


class Validation:
    """Batches that are drawn once and kept.

    Args:
        batches: Where they come from.
        count: How many.
        seed: Of every draw.
        losses: The mean loss of a batch, or what this process has of it, in shares that add up to it.
        workers: The processes that share the rows.
    """

    def __init__(
        self,
        batches: BatchSource,
        count: int,
        seed: int,
        losses: Callable[[Batch, Generator], Iterable[Tensor]],
        workers: Workers,
    ) -> None:
        self._batches, self._count, self._seed = batches, count, seed
        self._losses, self._workers = losses, workers
        self._held: list[Batch] | None = None

    def loss(self) -> float:
        """Of the weights as they are, over all processes."""
        if self._held is None:
            self._held = [self._batches.draw(i, generator) for i, generator in enumerate(self._draws(0))]
        pairs = zip(self._held, self._draws(1), strict=True)
        losses = torch.stack([torch.stack([*self._losses(batch, generator)]).sum() for batch, generator in pairs])
        self._workers.add([losses])
        return float(losses.mean())

    def _draws(self, stream: int) -> list[Generator]:
        """The same generators in every validation: of the rows (0) and of the losses (1)."""
        return [generator_for(self._seed, VALIDATION, stream, index) for index in range(self._count)]
