"""The rows of many small batches drawn at once.

In few coordinates a batch costs a few microseconds of arithmetic and many times that of calls: one for its rows, one
for its noise, one for its order. `Blocks` makes these calls once for many steps and hands out slices. A block depends
on the seed and its number alone, so a run continued in its middle draws it again. Couplings that look at rows see those
of one batch, as ever; one that does not look pairs the block in one go.
"""

import math

import torch
from torch import Generator, Tensor, nn

from advect.records import Batch, take
from advect.training.ahead import WAITING, Draws
from advect.training.batches import Batches, BatchSource, Phase, untimed
from advect.training.seeding import BLOCK, generator_for

NUMBERS = 2**16  # in the rows of a block: a quarter of a megabyte in float32, which stays in cache
MOST_STEPS = 64
NO_END = 2**62


class Blocks:
    """`Batches` whose rows are drawn for ``size`` steps at a time; the same verbs.

    Args:
        batches: What is drawn ahead.
        size: Steps in a block, at least 1.
        seed: Of the rows and of what is drawn beside them.
        steps: Of the training: no block is begun after the last.
    """

    def __init__(self, batches: Batches, size: int, seed: int, steps: int) -> None:
        self.batches, self.size, self.seed = batches, size, seed
        self._draws = Draws(batches, self._plan, math.ceil(steps / size), size * batches.batch_size)
        self._blind = getattr(batches.coupling, "blind", False)
        self._block, self._held = -1, Batch(x1=torch.empty(0))
        self.report: dict[str, float] = {}

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """The paired rows of a step; ``generator`` is the coupling's where it looks at the rows of a batch."""
        block, place = divmod(step, self.size)
        with phase(WAITING if self._draws.ahead else "data"):
            if block != self._block:
                self._block, self._held = block, self._made(block)
            start = place * self.batches.batch_size
            batch = take(self._held, slice(start, start + self.batches.batch_size))
        if self._blind:
            return batch
        batch = self.batches.pair(batch, generator, phase)
        self.report = self.batches.report
        return batch

    def seconds_per_step(self) -> float:
        """What the preparation of a step costs beside the step; nothing where it is part of it."""
        return self._draws.seconds_each() / self.size

    def _plan(self, block: int) -> tuple[Tensor, Generator]:
        rows = torch.cat([self.batches.epochs.rows(block * self.size + i) for i in range(self.size)])
        return rows, generator_for(self.seed, BLOCK, block)

    @torch.no_grad()
    def _made(self, block: int) -> Batch:
        drawn = self._draws.take(block)
        batch = self.batches.around(drawn.index, drawn.x1, drawn.generator)
        return self.batches.pair(batch, drawn.generator) if self._blind else batch


def in_blocks(batches: BatchSource, seed: int, steps: int = NO_END) -> BatchSource:
    """``batches`` drawn many at a time where they are small and nothing about them is learned or chosen."""
    if not isinstance(batches, Batches) or batches.chooser is not None or _is_learned(batches.source):
        return batches
    numbers = batches.batch_size * max(1, batches.data.draw(torch.zeros(1, dtype=torch.long), Generator()).numel())
    size = min(MOST_STEPS, NUMBERS // numbers)
    return Blocks(batches, size, seed, steps) if size > 1 else batches


def _is_learned(source: object) -> bool:
    """Whether gradients flow into the source's draws."""
    return isinstance(source, nn.Module) and any(p.requires_grad for p in source.parameters())
