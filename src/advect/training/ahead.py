"""Data rows drawn beside the loop, ahead of the step that takes them.

What is drawn for a step (or a block of steps) follows from its number alone, by a generator of its own, so it does not
matter who draws it, or when: a training that waits for its rows and one that finds them ready are the same, bit for
bit. Workers fetch and draw; source rows and pairing stay with the loop, whose number of threads they may depend on.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from advect.records import Batch
from advect.training.batches import Batches, BatchSource, Phase, untimed
from advect.training.seeding import TRAINING, generator_for

SPARE = 2  # fetches that lie ready or under way beside those that the workers are at
WAITING = "waiting for data"

Plan = Callable[[int], tuple[Tensor, Generator]]
"""``plan(number)``: the row indices of a step or block, and its generator."""


@dataclass(frozen=True)
class Draw:
    """The data rows of a step or block.

    Attributes:
        index: ``(batch,)`` which rows.
        x1: ``(batch, *event)``.
        generator: From which everything that follows is to be drawn.
    """

    index: Tensor
    x1: Tensor
    generator: Generator


class Draws:
    """Data rows by number; drawn when asked for, or ahead where they must be fetched.

    Args:
        batches: Whose rows.
        plan: What is drawn for each number.
        count: Numbers in all: nothing is begun for those after the last.
        size: Rows of one number.
    """

    def __init__(self, batches: Batches, plan: Plan, count: int, size: int) -> None:
        self._batches, self._plan, self._count = batches, plan, count
        fetching = batches.data.fetching
        self.ahead = fetching is not None
        self._group = max(1, fetching.at_once // size) if fetching else 1
        self._threads = fetching.workers if fetching else 1
        self._pool: ThreadPoolExecutor | None = None
        self._first = 0
        self._coming: dict[int, Future[list[Draw]]] = {}
        self._seconds, self._drawn = 0.0, 0

    def take(self, number: int) -> Draw:
        """The rows of a number. Numbers rise by one from call to call, or begin anew anywhere."""
        if not self.ahead:
            index, generator = self._plan(number)
            return Draw(index, self._batches.data.draw(index, generator), generator)
        start = self._first + (number - self._first) // self._group * self._group
        if start not in self._coming:
            self._begin_at(number)
            start = number
        for passed in [other for other in self._coming if other < start]:
            del self._coming[passed]
        for ahead in range(self._threads + SPARE):
            self._submit(start + ahead * self._group)
        return self._coming[start].result()[number - start]

    def seconds_each(self) -> float:
        """What a number costs the workers, all of them together: a loop faster than that would have to wait."""
        return self._seconds / self._drawn / self._threads if self._drawn else 0.0

    def _begin_at(self, number: int) -> None:
        for future in self._coming.values():
            future.cancel()
        self._first, self._coming = number, {}

    def _submit(self, start: int) -> None:
        if start in self._coming or start >= self._count:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="advect-data")
        # The plan is asked here: permutations of epochs are kept by whoever makes them, for one thread.
        wanted = [self._plan(number) for number in range(start, min(start + self._group, self._count))]
        self._coming[start] = self._pool.submit(self._fetched, wanted)

    @torch.no_grad()
    def _fetched(self, wanted: list[tuple[Tensor, Generator]]) -> list[Draw]:
        started, fetching = time.perf_counter(), self._batches.data.fetching
        assert fetching is not None
        drawing = fetching.fetch(torch.cat([index for index, _ in wanted]))
        made, first = [], 0
        for index, generator in wanted:
            made.append(Draw(index, drawing(torch.arange(first, first + len(index)), generator), generator))
            first += len(index)
        self._seconds += time.perf_counter() - started
        self._drawn += len(wanted)
        return made


class BatchesAhead:
    """`Batches` whose data rows are drawn ahead; the same verbs.

    Args:
        batches: What is drawn.
        seed: Of the training: the generator of each step follows from it.
        steps: Of the training.
    """

    def __init__(self, batches: Batches, seed: int, steps: int) -> None:
        self.batches = batches

        def plan(step: int) -> tuple[Tensor, Generator]:
            return batches.epochs.rows(step), generator_for(seed, TRAINING, step)

        self._draws = Draws(batches, plan, steps, batches.batch_size)
        self.report: dict[str, float] = {}

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """The paired rows of a step; ``generator`` goes on from where the data rows left it."""
        with phase(WAITING):
            drawn = self._draws.take(step)
        with phase("data"):
            generator.set_state(drawn.generator.get_state())
            batch = self.batches.around(drawn.index, drawn.x1, generator)
        batch = self.batches.pair(batch, generator, phase)
        self.report = self.batches.report
        return batch

    def step_seconds(self, seconds: float) -> float:
        """Seconds per step of a loop whose own part takes ``seconds``: one faster than the workers has to wait."""
        return max(seconds, self._draws.seconds_each())


def drawn_ahead(batches: BatchSource, seed: int, steps: int) -> BatchSource:
    """``batches`` with their rows drawn ahead where they must be fetched; as they are where they lie in memory."""
    if isinstance(batches, Batches) and batches.data.fetching is not None and batches.chooser is None:
        return BatchesAhead(batches, seed, steps)
    return batches
