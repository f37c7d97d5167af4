"""The rows of many small batches drawn at once, and everything else that is random about their losses.

In few coordinates a batch costs a few microseconds of arithmetic and many times that of calls: for its rows, its noise,
its order, its times, its points. `Blocks` makes these calls once for many steps and hands out slices. A block depends
on the seed and its number alone, so a run continued in its middle draws it again.

Couplings that look at rows see those of one batch, as ever; one that does not look pairs the block in one go. Looking
takes time and leaves Python's lock to the loop, so the rows of such blocks are paired by a worker thread (always by it,
as a library may round differently under another number of threads), and ahead where a processor is free for it. Paths
are always drawn from by the loop's own thread: one of a user's own may take forward derivatives, of which torch has one
level for all threads.
"""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from advect.errors import AdvectError
from advect.records import Batch, Drawn, Regression
from advect.training.ahead import WAITING, Draws
from advect.training.batches import Batches, BatchSource, Phase, untimed
from advect.training.parts import joined, parts_of
from advect.training.seeding import BLOCK, generator_for

NUMBERS = 2**16  # in the rows of a block: a quarter of a megabyte in float32, which stays in cache
MOST_STEPS = 64
# A block that takes a pairing a step has fewer, and not many pairs of rows to look at: nobody waits long for its first.
MOST_PAIRED, PAIRS = 16, 2**22

Draw = Callable[[Batch, Generator], Drawn | Regression | None]


@dataclass(frozen=True)
class _Block:
    """The batches of a block, what the coupling said of each, the seconds that they took, and the generator after them.

    Where the rows of a step could not be paired, there are batches for the steps before it, and the error. ``whole`` is
    all of them in one, for what is drawn for all at once.
    """

    number: int
    batches: list[Batch]
    whole: Batch | None
    reports: list[dict[str, float]]
    error: AdvectError | None
    seconds: float
    generator: Generator


class Blocks:
    """`Batches` whose rows are drawn for ``size`` steps at a time; the same verbs.

    Args:
        batches: What is drawn ahead.
        size: Steps in a block, at least 1.
        seed: Of the rows and of what is drawn beside them.
        steps: Steps of the training: no block is begun for those after the last.
        draw: What is drawn besides, row by row, for all rows of a block.
        ahead: Whether couplings that look at rows pair all steps of a block when it is made, and not each at its step.
    """

    def __init__(
        self, batches: Batches, size: int, seed: int, steps: int, draw: Draw | None = None, *, ahead: bool = True
    ) -> None:
        self.batches, self.size, self.seed, self.steps, self._draw = batches, size, seed, steps, draw
        self._rows = Draws(batches, self._plan, math.ceil(steps / size), size * batches.batch_size)
        self._blind = batches.coupling is None or getattr(batches.coupling, "blind", False)
        self._paired_late = not ahead and not self._blind
        self._held: _Block | None = None
        self._worker = (
            None if self._blind or self._paired_late else ThreadPoolExecutor(1, thread_name_prefix="advect-blocks")
        )
        self._coming: dict[int, Future[_Block]] = {}
        self.report: dict[str, float] = {}

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """The paired rows of a step; ``generator`` pairs where that is done late, else a block has its own."""
        number, place = divmod(step, self.size)
        if self._held is None or self._held.number != number:
            with phase("coupling" if not self._blind else WAITING if self._rows.ahead else "data"):
                self._held = self._found(number)
        with phase("data"):
            if place >= len(self._held.reports):
                assert self._held.error is not None
                raise self._held.error
            batch, self.report = self._held.batches[place], self._held.reports[place]
        if self._paired_late:
            batch = self.batches.pair(batch, generator, phase)
            self.report = self.batches.report
        return batch

    def step_seconds(self, seconds: float) -> float:
        """Seconds per step of a loop whose own part takes ``seconds``."""
        own = 0.0 if self._held is None else self._held.seconds / self.size
        both = max(seconds, own) if self._worker is not None and _processor_is_free() else seconds + own
        return max(both, self._rows.seconds_each() / self.size)

    def _plan(self, number: int) -> tuple[Tensor, Generator]:
        rows = self.batches.epochs.rows(number * self.size, self.size)
        return rows, generator_for(self.seed, BLOCK, number)

    def _found(self, number: int) -> _Block:
        if self._worker is None:
            return self._with_draws(self._made(number))
        found = self._coming.pop(number, None) or self._worker.submit(self._made, number)
        self._coming.clear()
        block = found.result()
        if (number + 1) * self.size < self.steps and _processor_is_free():
            self._coming[number + 1] = self._worker.submit(self._made, number + 1)
        return self._with_draws(block)

    @torch.no_grad()
    def _made(self, number: int) -> _Block:
        started = time.perf_counter()
        drawn = self._rows.take(number)
        if self._rows.ahead:  # others took that time
            started = time.perf_counter()
        generator = drawn.generator
        batch = self.batches.around(drawn.index, drawn.x1, generator)
        parts, reports, error = self._paired(batch, generator)
        whole = None if self._draw is None or not parts else joined(parts)
        return _Block(number, parts, whole, reports, error, time.perf_counter() - started, generator)

    @torch.no_grad()
    def _with_draws(self, block: _Block) -> _Block:
        """The block with all that is random about its losses."""
        if self._draw is None or block.whole is None:
            return block
        started = time.perf_counter()
        whole = replace(block.whole, drawn=self._draw(block.whole, block.generator))
        parts = parts_of(whole, [len(part.x1) for part in block.batches])
        return replace(block, batches=parts, whole=None, seconds=block.seconds + time.perf_counter() - started)

    def _paired(
        self, batch: Batch, generator: Generator
    ) -> tuple[list[Batch], list[dict[str, float]], AdvectError | None]:
        """The batch of each step, what the coupling said of it, and why there are no more of them."""
        sizes = [self.batches.batch_size] * self.size
        if self._paired_late:
            return parts_of(batch, sizes), [{}] * self.size, None
        if self._blind:
            parts = parts_of(self.batches.pair(batch, generator), sizes)
            return parts, [self.batches.report] * self.size, None
        parts, reports = [], []
        for part in parts_of(batch, sizes):
            try:
                parts.append(self.batches.pair(part, generator))
            except AdvectError as error:
                # What is drawn for the steps before is drawn as if all had been paired.
                return parts + parts[-1:] * (self.size - len(parts)), reports, error
            reports.append(self.batches.report)
        return parts, reports, None


def in_blocks(
    batches: BatchSource, seed: int, steps: int, draw: Draw | None = None, *, ahead: bool = True
) -> BatchSource:
    """``batches`` drawn many at a time where they are small and nothing about them is learned or chosen."""
    if not isinstance(batches, Batches) or batches.chooser is not None or _is_learned(batches.source):
        return batches
    numbers = batches.batch_size * max(1, batches.data.draw(torch.zeros(1, dtype=torch.long), Generator()).numel())
    blind = batches.coupling is None or getattr(batches.coupling, "blind", False)
    size = min(
        MOST_STEPS if blind or not ahead else min(MOST_PAIRED, PAIRS // batches.batch_size**2), NUMBERS // numbers
    )
    return Blocks(batches, size, seed, steps, draw if ahead else None, ahead=ahead) if size > 1 else batches


def _is_learned(source: object) -> bool:
    """Whether gradients flow into the source's draws."""
    return isinstance(source, nn.Module) and any(p.requires_grad for p in source.parameters())


def _processor_is_free() -> bool:
    """Whether there are more processors than torch keeps busy."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.get_num_threads() < there
