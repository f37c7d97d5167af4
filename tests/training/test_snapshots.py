"""Batches of neighbouring snapshots: the right rows, at the right times, as a function of the step alone."""

from collections import Counter

import pytest
import torch

from advect.couplings import Assignment, Independent
from advect.training import BatchSource, DataRows, SnapshotBatches, Snapshots, generator_for

POSITIONS = (0.0, 0.25, 1.0)


def snapshots(*sizes: int, couplings=None) -> Snapshots:
    """Rows (time, index) of some snapshots."""
    rows = []
    for k, size in enumerate(sizes):
        values = torch.stack([torch.full((size,), float(k)), torch.arange(float(size))], 1)
        rows.append(DataRows(lambda index, generator, values=values: values[index], size))
    pairs = len(sizes) - 1
    return Snapshots(tuple(rows), POSITIONS[: pairs + 1], couplings or (Independent(),) * pairs)


def batch(source: BatchSource, step: int):
    generator = generator_for(0, step)
    return source.draw(step, generator)


def test_rows_of_neighbours_stand_at_the_ends_of_their_interval():
    source = SnapshotBatches(snapshots(30, 20, 40), 16, seed=1)
    for step in range(12):
        drawn = batch(source, step)
        k = int(drawn.x0[0, 0])
        assert drawn.x0[:, 0].unique().tolist() == [k]
        assert drawn.x1[:, 0].unique().tolist() == [k + 1]
        assert drawn.interval.tolist() == [list(POSITIONS[k : k + 2])] * 16


def test_every_pair_has_its_turn_in_every_cycle():
    source = SnapshotBatches(snapshots(30, 20, 40), 8, seed=1)
    places = [source.place(step) for step in range(200)]
    assert all({places[i][0], places[i + 1][0]} == {0, 1} for i in range(0, 200, 2))
    assert {first for first, _ in places[::2]} == {0, 1}  # not always in the same order
    assert [turn for _, turn in places] == [step // 2 for step in range(200)]


def test_rows_are_used_equally_often():
    source = SnapshotBatches(snapshots(30, 20, 40), 10, seed=1)
    seen = Counter()
    for step in range(2 * 12):  # a pair has 12 turns of 10 rows: 120 is a multiple of 30, 20 and 40
        drawn = batch(source, step)
        seen.update(("x0", *row) for row in drawn.x0.tolist())
        seen.update(("x1", *row) for row in drawn.x1.tolist())
    for side, k, size in (("x0", 0, 30), ("x1", 1, 20), ("x0", 1, 20), ("x1", 2, 40)):
        assert {seen[side, float(k), float(i)] for i in range(size)} == {120 // size}


def test_batches_are_a_function_of_the_step():
    one, other = (SnapshotBatches(snapshots(30, 20, 40), 8, seed=1) for _ in range(2))
    for step in range(9):
        batch(one, step)
    assert torch.equal(batch(one, 9).x0, batch(other, 9).x0)
    assert not torch.equal(batch(one, 9).x0, batch(SnapshotBatches(snapshots(30, 20, 40), 8, seed=2), 9).x0)


def test_each_pair_has_its_own_coupling():
    class Marked(Independent):
        def __init__(self, number):
            object.__setattr__(self, "number", number)

        def draw(self, x0, x1, *, condition=None, generator=None):
            pairs = super().draw(x0, x1, generator=generator)
            return type(pairs)(pairs.index0, pairs.index1, report={"number": float(self.number)})

    source = SnapshotBatches(snapshots(30, 20, 40, couplings=(Marked(0), Marked(1))), 8, seed=1)
    for step in range(6):
        drawn = batch(source, step)
        assert source.report["number"] == drawn.x0[0, 0]


def test_a_snapshot_smaller_than_the_batch_is_drawn_again():
    source = SnapshotBatches(snapshots(30, 5, couplings=(Assignment(),)), 20, seed=1)
    drawn = batch(source, 0)
    assert Counter(drawn.x1[:, 1].tolist()) == dict.fromkeys(map(float, range(5)), 4)


@pytest.mark.parametrize("step", [0, 1])
def test_it_is_a_batch_source(step):
    assert isinstance(SnapshotBatches(snapshots(30, 20), 8, seed=1), BatchSource)
