"""Where batches come from: data rows, source rows and their pairing, as a function of the step alone.

Rows are visited in epochs: each epoch is a permutation seeded by its number, and step s takes the rows from
s·batch_size on. A batch never holds a row twice unless it straddles two epochs.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from advect.records import Batch, Pairs
from advect.training.seeding import SHUFFLE, generator_for
from advect.typing import Base, Coupling, SetCoupling

Phase = Callable[[str], AbstractContextManager[None]]


def untimed(name: str) -> AbstractContextManager[None]:
    """A phase whose time nobody wants."""
    return nullcontext()


Drawing = Callable[[Tensor, Generator], Tensor]
"""``drawing(rows, generator) -> (batch, *event)``: rows by their indices, with what is drawn beside them."""


@dataclass(frozen=True)
class Fetching:
    """How rows that cost something to get are fetched before they are drawn from.

    Attributes:
        fetch: ``fetch(rows)``: the rows of these indices, without any randomness, as a `Drawing` by their places.
        at_once: Rows that are best fetched together.
        workers: How many may fetch at the same time, to some use.
    """

    fetch: Callable[[Tensor], Drawing]
    at_once: int = 1
    workers: int = 1


@dataclass(frozen=True)
class DataRows:
    """Training rows in the coordinates of the flow's map.

    Attributes:
        draw: The rows of some indices; fresh dequantisation noise and fills for gaps come from the generator.
        num_rows: How many there are.
        condition: ``(num_rows, *condition)`` or None.
        weight: ``(num_rows,)`` or None.
        fetching: How they are got where they are not in memory: such rows are drawn ahead of the step (`ahead`).
    """

    draw: Drawing
    num_rows: int
    condition: Tensor | None = None
    weight: Tensor | None = None
    fetching: Fetching | None = None


class Epochs:
    """Row indices for any step, by permutations that depend on (seed, epoch) only."""

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def rows(self, step: int, steps: int = 1) -> Tensor:
        """The ``(batch_size,)`` row indices of step ``step``; of ``steps`` steps from there, one after another."""
        first, parts, left = step * self.batch_size, [], steps * self.batch_size
        while left:
            epoch, offset = divmod(first, self.num_rows)
            part = self._permutation(epoch)[offset : offset + left]
            parts.append(part)
            first, left = first + len(part), left - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self.num_rows, generator=generator_for(self.seed, SHUFFLE, epoch))
        return self._order


@runtime_checkable
class BatchSource(Protocol):
    """Where the loop gets its batches from: a function of the step alone.

    Attributes:
        report: What the coupling said of its last plan.
    """

    report: dict[str, float]

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """The paired rows of a step; ``phase`` keeps the time of ``data`` and ``coupling``."""
        ...

    def step_seconds(self, seconds: float) -> float:
        """Seconds per step of a loop whose own part of a step takes ``seconds``: with the preparation it waits for."""
        ...


class Batches:
    """Paired batches: data rows of the step, as many source rows, and the coupling's choice between them.

    Args:
        data: The data rows.
        batch_size: Rows per batch.
        seed: Of the shuffling.
        source: The flow's base; None for objectives that need no source rows.
        coupling: Pairs the rows; None for objectives that need no source rows.
        prepared: Whether the coupling was prepared with these very data rows, and so may choose among all of them.
    """

    def __init__(
        self,
        data: DataRows,
        batch_size: int,
        seed: int,
        source: Base | None = None,
        coupling: Coupling | None = None,
        *,
        prepared: bool = False,
    ) -> None:
        self.data, self.batch_size, self.source, self.coupling = data, batch_size, source, coupling
        self.chooser = coupling if prepared and isinstance(coupling, SetCoupling) else None
        self.epochs = Epochs(data.num_rows, batch_size, seed)
        self.report: dict[str, float] = {}

    @property
    def num_rows(self) -> int:
        """How many data rows there are."""
        return self.data.num_rows

    def draw(self, step: int, generator: Generator, phase: Phase = untimed, *, steps: int = 1) -> Batch:
        """The rows of ``steps`` steps from ``step`` on, paired all together.

        Args:
            step: The first of them.
            generator: Of every draw.
            phase: Keeps the time of ``data`` and ``coupling``.
            steps: How many.
        """
        rows = self.epochs.rows(step, steps)
        return self._chosen(rows, generator, phase) if self.chooser else self._paired(rows, generator, phase)

    def step_seconds(self, seconds: float) -> float:
        """Seconds per step of a loop whose own part takes ``seconds``: the preparation is a part of it."""
        return seconds

    def _paired(self, rows: Tensor, generator: Generator, phase: Phase) -> Batch:
        with phase("data"):
            batch = self.rows(rows, generator)
        return self.pair(batch, generator, phase)

    def rows(self, index: Tensor, generator: Generator) -> Batch:
        """Data rows and as many source rows, not yet paired."""
        return self.around(index, self.data.draw(index, generator), generator)

    def around(self, index: Tensor, x1: Tensor, generator: Generator) -> Batch:
        """The same where the data rows have been drawn."""
        condition, weight = self._beside(index)
        x0 = None if self.source is None else self.source.sample(len(index), condition, generator=generator)
        return Batch(x1=x1, x0=x0, condition=condition, weight=weight)

    def pair(self, batch: Batch, generator: Generator, phase: Phase = untimed) -> Batch:
        """Let the coupling choose; one pair of indices permutes every tensor of its side."""
        if batch.x0 is None or self.coupling is None:
            return batch
        with phase("coupling"):
            pairs = self.coupling.draw(batch.x0, batch.x1, condition=batch.condition, generator=generator)
            self.report = dict(pairs.report)
            return paired(batch, pairs)

    def _chosen(self, rows: Tensor, generator: Generator, phase: Phase) -> Batch:
        """Source rows first; the coupling finds the data row of each, in the class of the row whose turn it is."""
        assert self.chooser is not None
        assert self.source is not None
        with phase("coupling"):
            wanted, _ = self._beside(rows)
            x0 = self.source.sample(len(rows), wanted, generator=generator)
            pairs = self.chooser.choose(x0, condition=wanted, generator=generator)
            self.report = dict(pairs.report)
        with phase("data"):
            index1 = pairs.index1.cpu()
            condition, weight = self._beside(index1)
            x1 = self.data.draw(index1, generator)
        return Batch(x1=x1, x0=x0[pairs.index0], condition=condition, weight=_weighed(weight, pairs.weight))

    def _beside(self, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Condition and weight of data rows."""
        condition = None if self.data.condition is None else self.data.condition[rows]
        weight = None if self.data.weight is None else self.data.weight[rows]
        return condition, weight


def paired(batch: Batch, pairs: Pairs) -> Batch:
    """The batch with its rows as the pairs say: one index permutes every tensor of its side."""
    assert batch.x0 is not None
    own = (batch.condition, batch.weight, batch.interval)
    condition, weight, interval = (None if tensor is None else tensor[pairs.index1] for tensor in own)
    return Batch(
        x1=batch.x1[pairs.index1],
        x0=batch.x0[pairs.index0],
        condition=condition,
        weight=_weighed(weight, pairs.weight),
        interval=interval,
    )


def _weighed(own: Tensor | None, pairs: Tensor | None) -> Tensor | None:
    """The rows' weights times the pairs'."""
    return own if pairs is None else pairs if own is None else own * pairs
