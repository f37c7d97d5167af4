"""Batches from rows at several times: each step takes two neighbouring snapshots and pairs rows of the one with rows of
the other.

A whole batch is of one pair of snapshots, so that a coupling sees as many rows as it would between two populations. In
every K steps each of the K pairs has its turn once, in an order of its own: the loss of `objectives.VelocityMatching`
is that of displacements, in which every step from one snapshot to the next counts alike, however long it took.

Rows that have conditions are drawn like to like: for each row of the later snapshot one of the earlier that has its
condition, or one near it (`couplings.Alike`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from advect.couplings import Alike
from advect.records import Batch, Pairs
from advect.training.batches import BatchSource, DataRows, Epochs, Phase, paired, untimed
from advect.training.seeding import SHUFFLE, generator_for, mix
from advect.typing import Coupling


@dataclass(frozen=True)
class Snapshots:
    """Rows at K + 1 times.

    Attributes:
        rows: Those of each time, in order.
        positions: Each time on the flow's axis: rising from 0 to 1.
        couplings: Of each of the K neighbouring pairs; `Alike` ones where rows have conditions.
        smooth: Whether paths are splines through all times rather than straight between two, see `chains`.
    """

    rows: tuple[DataRows, ...]
    positions: tuple[float, ...]
    couplings: tuple[Coupling, ...]
    smooth: bool = False


@dataclass(frozen=True)
class Picked:
    """Rows of one snapshot.

    Attributes:
        x: ``(batch, *event)``.
        condition: ``(batch, *condition)`` or None.
    """

    x: Tensor
    condition: Tensor | None

    @classmethod
    def of(cls, rows: DataRows, index: Tensor, generator: Generator) -> "Picked":
        """The rows of these indices."""
        condition = None if rows.condition is None else rows.condition[index.to(rows.condition.device)]
        return cls(rows.draw(index, generator), condition)

    def some(self, index: Tensor) -> "Picked":
        """Those of some places."""
        return Picked(self.x[index], None if self.condition is None else self.condition[index])


def drawn_beside(later: Picked, rows: DataRows, index: Tensor, coupling: Coupling, generator: Generator) -> Picked:
    """Rows of the snapshot before: those of the indices, or where they have conditions others that are alike."""
    if later.condition is not None and rows.condition is not None:
        assert isinstance(coupling, Alike)
        index = coupling.choose(rows.condition, later.condition, generator).cpu()
    return Picked.of(rows, index, generator)


def pair(coupling: Coupling, early: Picked, late: Picked, generator: Generator) -> Pairs:
    """The pairs of two sets of rows drawn beside one another."""
    if isinstance(coupling, Alike):
        given: dict[str, Any] = {"condition": late.condition, "source_condition": early.condition}
        return coupling.draw(early.x, late.x, **given, generator=generator)
    return coupling.draw(early.x, late.x, generator=generator)


class IntervalBatches:
    """Paired batches of two neighbouring snapshots, turn by turn; the same verbs as `Batches`.

    Args:
        snapshots: All rows.
        place: Which pair of them.
        batch_size: Rows per batch, of either side.
        seed: Of the shuffling.
    """

    def __init__(self, snapshots: Snapshots, place: int, batch_size: int, seed: int) -> None:
        self.snapshots, self.place, self.batch_size = snapshots, place, batch_size
        self.coupling = snapshots.couplings[place]
        self.early, self.late = snapshots.rows[place : place + 2]
        # Rows of a snapshot between two others are shuffled anew for either pair.
        self.epochs = tuple(
            Epochs(rows.num_rows, batch_size, mix(seed, place, side))
            for side, rows in enumerate((self.early, self.late))
        )
        self.report: dict[str, float] = {}

    @property
    def num_rows(self) -> int:
        """Of the later snapshot."""
        return self.late.num_rows

    def draw(self, step: int, generator: Generator, phase: Phase = untimed, *, steps: int = 1) -> Batch:
        """Rows of the two snapshots, as their coupling pairs them; of several turns all together."""
        with phase("data"):
            before, after = (torch.cat([side.rows(step + i) for i in range(steps)]) for side in self.epochs)
            late = Picked.of(self.late, after, generator)
            early = drawn_beside(late, self.early, before, self.coupling, generator)
        with phase("coupling"):
            pairs = pair(self.coupling, early, late, generator)
            self.report = dict(pairs.report) | {"interval": float(self.place)}
            both = Batch(x1=late.x, x0=early.x, condition=late.condition, interval=self._interval(late.x))
            return paired(both, pairs)

    def step_seconds(self, seconds: float) -> float:
        """Nothing is prepared beside the loop."""
        return seconds

    def _interval(self, like: Tensor) -> Tensor:
        """``(batch, 2)``: where the two snapshots stand."""
        ends: Sequence[float] = self.snapshots.positions[self.place : self.place + 2]
        return torch.tensor(ends, dtype=like.dtype, device=like.device).expand(len(like), 2)


class SnapshotBatches:
    """Paired batches of neighbouring snapshots; the same verbs as `Batches`.

    Args:
        snapshots: The rows.
        batch_size: Rows per batch, of either side.
        seed: Of the shuffling.
        intervals: Where the batches of each pair of neighbours come from; by default they are paired one by one.
    """

    def __init__(
        self, snapshots: Snapshots, batch_size: int, seed: int, intervals: tuple[BatchSource, ...] | None = None
    ) -> None:
        self.snapshots, self.batch_size, self.seed = snapshots, batch_size, seed
        self.own = tuple(IntervalBatches(snapshots, k, batch_size, seed) for k in range(len(snapshots.couplings)))
        self.intervals: tuple[BatchSource, ...] = self.own if intervals is None else intervals
        self.report: dict[str, float] = {}

    def place(self, step: int) -> tuple[int, int]:
        """Which pair has its turn in step ``step``, and how often it had one before."""
        cycle, place = divmod(step, len(self.intervals))
        order = torch.randperm(len(self.intervals), generator=generator_for(self.seed, SHUFFLE, cycle, 1))
        return int(order[place]), cycle

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """Rows of two neighbouring snapshots, as their coupling pairs them."""
        place, turn = self.place(step)
        batch = self.intervals[place].draw(turn, generator, phase)
        self.report = self.intervals[place].report
        return batch

    def step_seconds(self, seconds: float) -> float:
        """Seconds per step of a loop whose own part takes ``seconds``; intervals have their turns equally often."""
        return sum(one.step_seconds(seconds) for one in self.intervals) / len(self.intervals)
