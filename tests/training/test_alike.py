"""Pairing like with like: rows of the right condition, plans inside classes, scales weighed, pools and splines too."""

import math
from collections import Counter

import pytest
import torch

from advect.couplings import Alike, Assignment, Classwise, Conditioned, Entropic, Independent, Partial, rows_alike
from advect.errors import ConfigError, ShapeError
from advect.flows import ConditionedBase
from advect.training import DataRows, SnapshotBatches, Snapshots, generator_for
from advect.training.chains import ChainBatches
from advect.training.pool import Pool, pooled

LABELS = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
SCALE = torch.ones(3)


def given(*labels: int) -> torch.Tensor:
    return LABELS[list(labels)]


# Rows of a condition


def test_rows_of_a_label_come_equally_often():
    chosen = rows_alike(
        given(0, 1, 0, 0, 1), given(*[0] * 6, *[1] * 6), scale=SCALE, labels=True, generator=generator_for(1)
    )
    assert Counter(chosen.tolist()) == {0: 2, 2: 2, 3: 2, 1: 3, 4: 3}
    assert set(chosen[:6].tolist()) == {0, 2, 3}


def test_a_label_that_is_not_there_takes_all_that_share_most():
    two = torch.tensor([[1.0, 1, 0, 1, 0], [1.0, 1, 0, 0, 1], [1.0, 0, 1, 1, 0]])  # (a, x), (a, y), (b, x)
    wanted = torch.tensor([[1.0, 0, 1, 0, 1]]).expand(300, -1)  # (b, y)
    chosen = rows_alike(two, wanted, scale=torch.ones(5), labels=True, generator=generator_for(2))
    assert Counter(chosen.tolist()) == {1: 150, 2: 150}


def test_rows_of_near_scales():
    conditions = torch.stack([torch.ones(400), torch.linspace(-2, 2, 400)], 1)
    wanted = torch.tensor([[1.0, -1.0], [1.0, 0.5]]).repeat(500, 1)
    chosen = rows_alike(conditions, wanted, scale=torch.ones(2), labels=False, generator=generator_for(3))
    apart = (conditions[chosen] - wanted)[:, 1]
    # √400 = 20 rows at distances of 0.01 around each: all within 0.1, and drawn evenly.
    assert apart.abs().max() <= 0.11
    assert len(set(chosen[::2].tolist())) == 20
    assert abs(float(apart.mean())) < 4 * 0.06 / math.sqrt(1000)


def test_a_base_of_rows_with_conditions(tmp_path):
    base = ConditionedBase(torch.tensor([[0.0], [1.0], [2.0]]), given(0, 1, 1), scale=SCALE, labels=True)
    drawn = base.sample(40, given(*[0, 1] * 20), generator=generator_for(4))
    assert drawn[::2].unique().tolist() == [0.0]
    assert drawn[1::2].unique().tolist() == [1.0, 2.0]
    assert base.sample(50, generator=generator_for(4)).unique().tolist() == [0.0, 1.0, 2.0]
    other = ConditionedBase(torch.zeros(1, 1), torch.zeros(1, 3), scale=torch.zeros(3), labels=False)
    other.load_state_dict(base.state_dict())
    again = other.sample(40, given(*[0, 1] * 20), generator=generator_for(4))
    assert torch.equal(again, drawn)
    with pytest.raises(ShapeError, match="2 conditions for 3 rows"):
        base.sample(3, given(0, 1))
    with pytest.raises(ShapeError, match="1 conditions for 2 rows"):
        ConditionedBase(torch.zeros(2, 1), torch.zeros(1, 3), scale=SCALE, labels=True)


# Plans


def test_labels_are_paired_among_themselves():
    generator = generator_for(5)
    which = torch.randint(2, (40,), generator=generator)
    x0, x1 = (torch.randn(40, 2, generator=generator) for _ in range(2))
    alike = Alike.of(Classwise(Assignment(), continuous=Conditioned(0.2)), labels=True, scale=SCALE)
    pairs = alike.draw(x0, x1, condition=LABELS[which], generator=generator)
    assert torch.equal(which[pairs.index0], which[pairs.index1])
    for label in (0, 1):  # and optimally so
        rows = (which == label).nonzero()[:, 0]
        best = Assignment().draw(x0[rows], x1[rows]).report["mean_cost"]
        own = which[pairs.index1] == label
        cost = (x0[pairs.index0] - x1[pairs.index1])[own].square().sum(1).mean()
        assert float(cost) == pytest.approx(best, rel=1e-6)
    assert alike.bandwidth == 0.2
    assert pairs.report["classes"] == 2


def test_scales_lie_between_both_limits():
    """A narrow bandwidth pairs conditions by order, whatever the rows; a wide one is the plan of the rows alone."""
    generator = generator_for(6)
    x0, x1 = (torch.randn(60, 1, generator=generator).double() for _ in range(2))
    c0, c1 = (torch.stack([torch.ones(60), torch.randn(60, generator=generator)], 1) for _ in range(2))
    how = {"condition": c1, "source_condition": c0, "generator": generator}

    def drawn(bandwidth):
        return Alike(Assignment(), False, torch.ones(2), bandwidth).draw(x0, x1, **how)

    narrow, wide = drawn(1e-6), drawn(1e6)
    assert torch.equal(narrow.index0[c1[:, 1].argsort()], c0[:, 1].argsort())
    assert torch.equal(wide.index0[x1[:, 0].argsort()], x0[:, 0].argsort())
    for pairs in (narrow, wide):
        cost = (x0[pairs.index0] - x1[pairs.index1]).square().mean()
        assert pairs.report["mean_cost"] == pytest.approx(float(cost))
        assert pairs.report["independent_cost"] == pytest.approx(float((x0 - x1.T).square().mean()))
    assert narrow.report["condition_mismatch"] < 0.5 < wide.report["condition_mismatch"]
    middle = drawn(0.1)
    assert narrow.report["condition_mismatch"] <= middle.report["condition_mismatch"]
    assert wide.report["mean_cost"] <= middle.report["mean_cost"] <= narrow.report["mean_cost"]


@pytest.mark.parametrize("inner", [Independent(), Partial(0.5), Entropic.for_bridge(1.0), Assignment(replacement=True)])
@pytest.mark.parametrize("labels", [True, False])
def test_every_plan_of_squared_distances(inner, labels):
    generator = generator_for(7)
    x0, x1 = (torch.randn(30, 2, generator=generator) for _ in range(2))
    condition = LABELS[torch.randint(2, (30,), generator=generator)]
    alike = Alike.of(Classwise(inner), labels=labels, scale=10 * SCALE).prepare(x0, x1, generator=generator)
    pairs = alike.draw(x0, x1, condition=condition, source_condition=condition, generator=generator)
    mass = torch.ones(30) if pairs.weight is None else pairs.weight
    alive = mass > 0
    assert torch.equal(condition[pairs.index0][alive], condition[pairs.index1][alive])
    assert len(pairs.index1) == 30


def test_what_cannot_be_paired():
    with pytest.raises(ConfigError, match="cannot weigh a condition of numbers"):
        Alike.of(Assignment(cost="distance"), labels=False, scale=SCALE)
    rows = torch.zeros(3, 1)
    alike = Alike.of(Assignment(), labels=False, scale=SCALE)
    with pytest.raises(ShapeError, match="2 conditions"):
        alike.draw(rows, rows, condition=given(0, 1))
    with pytest.raises(ShapeError, match="without conditions of their own"):
        alike.draw(rows, rows, condition=given(0, 1, 1))
    assert len(alike.draw(rows, rows, generator=generator_for(0)).index0) == 3


# Batches


def snapshots(coupling, *sizes: int) -> Snapshots:
    """Rows (time, index, label) of some snapshots; labels alternate."""
    rows = []
    for k, size in enumerate(sizes):
        index = torch.arange(float(size))
        values = torch.stack([torch.full((size,), float(k)), index, index % 2], 1)
        rows.append(DataRows(lambda index, generator, v=values: v[index], size, LABELS[(index % 2).long()]))
    places = torch.linspace(0, 1, len(sizes)).tolist()
    return Snapshots(tuple(rows), tuple(places), (coupling,) * (len(sizes) - 1))


def alike(inner=None):
    inner = Assignment() if inner is None else inner
    return Alike.of(Classwise(inner), labels=True, scale=SCALE)


@pytest.mark.parametrize("inner", [Assignment(), Assignment(replacement=True), Independent(), Entropic.for_bridge(1.0)])
@pytest.mark.parametrize("kind", [SnapshotBatches, ChainBatches])
def test_batches_pair_like_with_like(kind, inner):
    source = kind(snapshots(alike(inner), 30, 21, 40), 17, seed=1)
    for step in range(6):
        batch = source.draw(step, generator_for(0, step))
        assert torch.equal(batch.x0[:, 2], batch.x1[:, 2])
        assert torch.equal(batch.condition.argmax(1), LABELS[batch.x1[:, 2].long()].argmax(1))
        assert torch.equal(batch.condition, LABELS[batch.x1[:, 2].long()])
        assert torch.equal(batch.x0[:, 0] + 1, batch.x1[:, 0])


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("kind", [SnapshotBatches, ChainBatches])
def test_pools_through_times(kind, conditioned):
    """The rows are those of as many batches, paired all together and dearer for none."""
    found = snapshots(alike() if conditioned else Assignment(), 60, 60, 60)
    if not conditioned:
        rows = tuple(DataRows(one.draw, one.num_rows) for one in found.rows)
        found = Snapshots(rows, found.positions, found.couplings)
    one, many = kind(found, 6, seed=1), pooled(kind(found, 6, seed=1), 5, 1, 1, 40)
    assert isinstance(many, Pool if kind is ChainBatches else SnapshotBatches)
    seen = {step: many.draw(step, generator_for(0)) for step in range(20)}
    again = pooled(kind(found, 6, seed=1), 5, 1, 1, 40)
    for step in (13, 2):  # a function of the step alone
        assert torch.equal(again.draw(step, generator_for(9)).x0, seen[step].x0)
    alone, together = Counter(), Counter()
    for step in range(20):
        batch = one.draw(step, generator_for(0, step))
        alone.update(map(tuple, batch.x1[:, :2].tolist()))
        together.update(map(tuple, seen[step].x1[:, :2].tolist()))
        assert (seen[step].interval == torch.stack([seen[step].x0[:, 0], seen[step].x1[:, 0]], 1) / 2).all()
    if kind is SnapshotBatches:
        assert alone == together
    cost = lambda batches: sum(float((b.x0[:, 1] - b.x1[:, 1]).square().sum()) for b in batches)  # noqa: E731
    single = [one.draw(step, generator_for(0, step)) for step in range(20)]
    assert cost(seen.values()) < cost(single)
    assert many.step_seconds(0.0) > 0


def test_the_whole_set_of_each_pair_of_times_is_a_pool():
    found = pooled(SnapshotBatches(snapshots(alike(), 30, 24, 50), 10, seed=1), 0, 0, 1, 40)
    assert [one.size for one in found.intervals] == [3, 5]
    assert [one.uses for one in found.intervals] == [7, 4]  # 20 turns of each
    for step in range(8):
        found.draw(step, generator_for(0))
    assert found.report["interval"] in (0.0, 1.0)
