"""Where batches come from: data rows, source rows and their pairing, as a function of the step alone.

Rows are visited in epochs: each epoch is a permutation seeded by its number, and step s takes the rows from
s·batch_size on. A batch never holds a row twice unless it straddles two epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from advect.records import Batch, Pairs
from advect.training.seeding import SHUFFLE, generator_for
from advect.typing import Base, Coupling


@dataclass(frozen=True)
class DataRows:
    """Training rows in the coordinates of the flow's map.

    Attributes:
        draw: ``draw(rows, generator) -> (batch, *event)``: the rows of these indices; fresh dequantisation noise and
            fills for gaps come from the generator.
        num_rows: How many there are.
        condition: ``(num_rows, *condition)`` or None.
        weight: ``(num_rows,)`` or None.
    """

    draw: Callable[[Tensor, Generator], Tensor]
    num_rows: int
    condition: Tensor | None = None
    weight: Tensor | None = None


class Epochs:
    """Row indices for any step, by permutations that depend on (seed, epoch) only."""

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def rows(self, step: int) -> Tensor:
        """The ``(batch_size,)`` row indices of step ``step``."""
        first, parts, left = step * self.batch_size, [], self.batch_size
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
    """Where the loop gets its batches from: a function of the step alone, drawn and then paired.

    Attributes:
        report: What the coupling said of its last plan.
    """

    report: dict[str, float]

    def draw_rows(self, step: int, generator: Generator) -> Batch:
        """The rows of a step, not yet paired."""
        ...

    def pair(self, batch: Batch, generator: Generator) -> Batch:
        """The same rows as the coupling pairs them."""
        ...


class Batches:
    """Paired batches: data rows of the step, as many source rows, and the coupling's choice between them.

    Args:
        data: The data rows.
        batch_size: Rows per batch.
        seed: Of the shuffling.
        source: The flow's base; None for objectives that need no source rows.
        coupling: Pairs the rows; None for objectives that need no source rows.
    """

    def __init__(
        self, data: DataRows, batch_size: int, seed: int, source: Base | None = None, coupling: Coupling | None = None
    ) -> None:
        self.data, self.source, self.coupling = data, source, coupling
        self.epochs = Epochs(data.num_rows, batch_size, seed)
        self.report: dict[str, float] = {}

    def draw_rows(self, step: int, generator: Generator) -> Batch:
        """Data and source rows of a step, not yet paired."""
        rows = self.epochs.rows(step)
        x1 = self.data.draw(rows, generator)
        condition = None if self.data.condition is None else self.data.condition[rows]
        weight = None if self.data.weight is None else self.data.weight[rows]
        x0 = None if self.source is None else self.source.sample(len(rows), condition, generator=generator)
        return Batch(x1=x1, x0=x0, condition=condition, weight=weight)

    def pair(self, batch: Batch, generator: Generator) -> Batch:
        """Let the coupling choose; one pair of indices permutes every tensor of its side."""
        if batch.x0 is None or self.coupling is None:
            return batch
        pairs = self.coupling.draw(batch.x0, batch.x1, condition=batch.condition, generator=generator)
        self.report = dict(pairs.report)
        return paired(batch, pairs)


def paired(batch: Batch, pairs: Pairs) -> Batch:
    """The batch with its rows as the pairs say: one index permutes every tensor of its side."""
    assert batch.x0 is not None
    condition = None if batch.condition is None else batch.condition[pairs.index1]
    weight = None if batch.weight is None else batch.weight[pairs.index1]
    if pairs.weight is not None:
        weight = pairs.weight if weight is None else weight * pairs.weight
    interval = None if batch.interval is None else batch.interval[pairs.index1]
    return Batch(
        x1=batch.x1[pairs.index1], x0=batch.x0[pairs.index0], condition=condition, weight=weight, interval=interval
    )
