"""Batches from rows at several times: each step takes two neighbouring snapshots and pairs rows of the one with rows of
the other.

A whole batch is of one pair of snapshots, so that a coupling sees as many rows as it would between two populations. In
every K steps each of the K pairs has its turn once, in an order of its own: the loss of `objectives.VelocityMatching`
is that of displacements, in which every step from one snapshot to the next counts alike, however long it took.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from advect.records import Batch
from advect.training.batches import DataRows, Epochs, Phase, paired, untimed
from advect.training.seeding import SHUFFLE, generator_for, mix
from advect.typing import Coupling


@dataclass(frozen=True)
class Snapshots:
    """Rows at K + 1 times.

    Attributes:
        rows: Those of each time, in order.
        positions: Each time on the flow's axis: rising from 0 to 1.
        couplings: Of each of the K neighbouring pairs.
        smooth: Whether paths are splines through all times rather than straight between two, see `chains`.
    """

    rows: tuple[DataRows, ...]
    positions: tuple[float, ...]
    couplings: tuple[Coupling, ...]
    smooth: bool = False


class SnapshotBatches:
    """Paired batches of neighbouring snapshots; the same verbs as `Batches`.

    Args:
        snapshots: The rows.
        batch_size: Rows per batch, of either side.
        seed: Of the shuffling.
    """

    def __init__(self, snapshots: Snapshots, batch_size: int, seed: int) -> None:
        self.snapshots, self.batch_size, self.seed = snapshots, batch_size, seed
        count = len(snapshots.rows) - 1
        # Rows of a snapshot between two others are shuffled anew for either pair.
        self.epochs = [
            tuple(Epochs(snapshots.rows[k + side].num_rows, batch_size, mix(seed, k, side)) for side in (0, 1))
            for k in range(count)
        ]
        self.report: dict[str, float] = {}

    def place(self, step: int) -> tuple[int, int]:
        """Which pair has its turn in step ``step``, and how often it had one before."""
        cycle, place = divmod(step, len(self.epochs))
        order = torch.randperm(len(self.epochs), generator=generator_for(self.seed, SHUFFLE, cycle, 1))
        return int(order[place]), cycle

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """Rows of two neighbouring snapshots, as their coupling pairs them."""
        pair, turn = self.place(step)
        earlier, later = self.snapshots.rows[pair : pair + 2]
        before, after = self.epochs[pair]
        with phase("data"):
            x1 = later.draw(after.rows(turn), generator)
            x0 = earlier.draw(before.rows(turn), generator)
        with phase("coupling"):
            pairs = self.snapshots.couplings[pair].draw(x0, x1, generator=generator)
            self.report = dict(pairs.report) | {"interval": float(pair)}
            return paired(Batch(x1=x1, x0=x0, interval=self._interval(pair, x1)), pairs)

    def step_seconds(self, seconds: float) -> float:
        """Nothing is prepared beside the loop."""
        return seconds

    def _interval(self, pair: int, like: Tensor) -> Tensor:
        """``(batch, 2)``: where the two snapshots stand."""
        ends: Sequence[float] = self.snapshots.positions[pair : pair + 2]
        return torch.tensor(ends, dtype=like.dtype, device=like.device).expand(len(like), 2)
