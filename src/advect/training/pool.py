"""Many batches paired at once, while the loop is busy with those before.

Optimal transport between few rows pairs near and far alike; a plan over the rows of several batches is closer to the
plan of the distributions, and E|x1 − x0|² never rises with the number of rows (Pooladian et al. 2304.14772). Exact
assignments cost more than their rows, so the pool is prepared in the background: the assignment leaves Python's lock
to the loop.

A pool depends on the seed and its number alone, as a step does, so that a run continued in the middle of one draws it
again. It is always made by the worker thread, never by the loop's own: a library may round differently under another
number of threads.
"""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from advect.records import Batch, take
from advect.training.batches import BatchSource, Phase, untimed
from advect.training.seeding import POOL, generator_for, mix
from advect.training.snapshots import SnapshotBatches
from advect.typing import Coupling


@runtime_checkable
class Poolable(Protocol):
    """Batches that can be drawn and paired several at a time.

    Attributes:
        batch_size: Rows per batch.
        coupling: Pairs them; None where nothing is paired.
        report: What the coupling said of its last plan.
    """

    batch_size: int
    coupling: Coupling | None
    report: dict[str, float]

    @property
    def num_rows(self) -> int:
        """How many data rows there are."""
        ...

    def draw(self, step: int, generator: Generator, phase: Phase = untimed, *, steps: int = 1) -> Batch:
        """The paired rows of ``steps`` steps from ``step`` on."""
        ...


class Pool:
    """Batches whose rows are drawn and paired ``size`` batches at a time.

    Args:
        batches: What is pooled.
        size: Batches in a pool, at least 1.
        seed: Of every draw.
        steps: Steps of the training: no pool is begun for those after the last.
        uses: Times that the pairs of a pool are gone through, each time in another order.
    """

    def __init__(self, batches: Poolable, size: int, seed: int, steps: int, uses: int = 1) -> None:
        self.batches, self.size, self.seed, self.steps, self.uses = batches, size, seed, steps, uses
        self.report = batches.report
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="advect-pool")
        self._coming: dict[int, Future[Batch]] = {}
        self._held: tuple[int, Batch] | None = None
        self._seconds: list[float] = []

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """The batch of a step; ``generator`` is not used, as the pool has its own."""
        turn, place = divmod(step, self.size)
        block, use = divmod(turn, self.uses)
        with phase("coupling"):
            if self._held is None or self._held[0] != block:
                self._held = (block, self._ahead(block).result())
                self._coming.pop(block)
                self.report = self.batches.report
                if (block + 1) * self.uses * self.size < self.steps:
                    self._ahead(block + 1)
            pool = self._held[1]
            rows = self._order(block, use)[place * self.batches.batch_size :][: self.batches.batch_size]
            return take(pool, rows.to(pool.x1.device))

    def _order(self, block: int, use: int) -> Tensor:
        """The order in which the pairs are gone through: their own at first."""
        count = self.size * self.batches.batch_size
        return (
            torch.randperm(count, generator=generator_for(self.seed, POOL, block, use)) if use else torch.arange(count)
        )

    def step_seconds(self, seconds: float) -> float:
        """Seconds per step of a loop whose own part takes ``seconds``: one faster than the worker has to wait."""
        own = sum(self._seconds) / (len(self._seconds) * self.size * self.uses) if self._seconds else 0.0
        return max(seconds, own)

    def _ahead(self, block: int) -> Future[Batch]:
        if block not in self._coming:
            self._coming[block] = self._worker.submit(self._make, block)
        return self._coming[block]

    @torch.no_grad()
    def _make(self, block: int) -> Batch:
        started = time.perf_counter()
        generator = generator_for(self.seed, POOL, block)
        pool = self.batches.draw(block * self.size, generator, steps=self.size)
        self._seconds.append(time.perf_counter() - started)
        return pool


def pooled(batches: BatchSource, size: int, uses: int, seed: int, steps: int) -> BatchSource:
    """``batches`` in pools of ``size``, or of the whole set where that is 0; as they are where nothing is paired.

    Of batches from several times each pair of neighbours has pools of its own, of as many of its turns.

    ``uses`` 0 pairs once for all steps.
    """
    if isinstance(batches, SnapshotBatches):
        turns = math.ceil(steps / len(batches.own))
        pools = (pooled(one, size, uses, mix(seed, k), turns) for k, one in enumerate(batches.own))
        return SnapshotBatches(batches.snapshots, batches.batch_size, batches.seed, tuple(pools))
    if not isinstance(batches, Poolable) or batches.coupling is None:
        return batches
    size = size or math.ceil(batches.num_rows / batches.batch_size)
    if size * uses == 1:
        return batches
    return Pool(batches, size, seed, steps, uses or math.ceil(steps / size))
