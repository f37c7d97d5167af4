"""Batches by counting: which rows a step sees depends on the seed and the step, and pairing takes everything along."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advect.couplings import Assignment, Classwise, Entropic, Independent
from advect.flows import EmpiricalBase, StandardNormal
from advect.records import Pairs
from advect.training import Batches, Epochs, generator_for, mix
from tests.training.small import rows_of


@given(num_rows=st.integers(1, 23), batch_size=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_every_row_once_per_epoch(num_rows, batch_size, seed):
    epochs = Epochs(num_rows, batch_size, seed)
    # num_rows steps of batch_size rows are exactly batch_size epochs.
    seen = torch.cat([epochs.rows(step) for step in range(num_rows)])
    for epoch in seen.reshape(batch_size, num_rows):
        assert torch.equal(epoch.sort().values, torch.arange(num_rows))


def test_rows_depend_on_seed_and_step_alone():
    through = Epochs(50, 8, seed=3)
    walked = [through.rows(step) for step in range(40)]
    for step in (39, 0, 17, 6):  # backwards, across epochs, on an object that has seen nothing before
        assert torch.equal(Epochs(50, 8, seed=3).rows(step), walked[step])
        assert torch.equal(through.rows(step), walked[step])
    assert not torch.equal(Epochs(50, 50, seed=3).rows(0), Epochs(50, 50, seed=3).rows(1))
    assert not torch.equal(Epochs(50, 50, seed=3).rows(0), Epochs(50, 50, seed=4).rows(0))


def test_mixing_separates_its_arguments():
    places = [(a, b, c) for a in range(5) for b in range(5) for c in range(5)] + [(0,), (0, 0), (0, 0, 0, 0)]
    assert len({mix(*place) for place in places}) == len(places)
    assert all(0 <= mix(*place) < 2**63 for place in places)
    draws = [torch.randn(3, generator=generator_for(1, 2, step)) for step in (4, 4, 5)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


COUPLINGS = {
    "independent": Independent(),
    "assignment": Assignment(),
    "assignment with replacement": Assignment(replacement=True),
    "entropic": Entropic.for_bridge(1.0),
    "classwise assignment": Classwise(Assignment()),
    "classwise entropic": Classwise(Entropic.for_bridge(1.0)),
}


@pytest.mark.parametrize("name", COUPLINGS)
def test_one_index_permutes_every_tensor(name):
    """Trap C7: after pairing, label and weight of every row are still its own."""
    num_rows = 64
    generator = torch.Generator().manual_seed(0)
    x1 = torch.randn(num_rows, 2, generator=generator)
    label = (torch.arange(num_rows) % 3).float().unsqueeze(1)
    weight = 1 + torch.arange(num_rows).float()
    source = torch.randn(500, 2, generator=generator)
    batches = Batches(
        rows_of(x1, condition=label, weight=weight), 32, seed=0, source=EmpiricalBase(source), coupling=COUPLINGS[name]
    )
    unpaired = Batches(batches.data, 32, seed=0, source=EmpiricalBase(source))
    row_of = {tuple(row.tolist()): index for index, row in enumerate(x1)}
    moved = 0
    for step in range(4):
        drawn = unpaired.draw(step, generator_for(0, step))
        batch = batches.draw(step, generator_for(0, step))
        index = torch.tensor([row_of[tuple(row.tolist())] for row in batch.x1])
        assert torch.equal(batch.condition, label[index])
        assert torch.equal(batch.weight, weight[index])
        # x0 comes from the rows that were drawn, and a permutation uses each of them once.
        key = lambda rows: sorted(map(tuple, rows.tolist()))  # noqa: E731
        assert set(key(batch.x0)) <= set(key(drawn.x0))
        if "replacement" not in name and "entropic" not in name:
            assert key(batch.x0) == key(drawn.x0)
            assert sorted(index.tolist()) == sorted(batches.epochs.rows(step).tolist())
        moved += int((batch.x0 != drawn.x0).any(1).sum())
    assert moved > 64  # of 128: the couplings did pair anew


def test_coupling_weights_multiply_row_weights():
    class Halves:
        def prepare(self, source, data, *, condition=None, generator=None):
            return self

        def draw(self, x0, x1, *, condition=None, generator=None):
            order = torch.arange(len(x1)).flip(0)
            return Pairs(order, order, weight=torch.full((len(x1),), 0.5), report={"halves": 1.0})

    weight = torch.arange(6).float()
    data = rows_of(torch.arange(6).float().reshape(6, 1), weight=weight)
    batches = Batches(data, 6, 0, StandardNormal((1,)), Halves())
    batch = batches.draw(0, generator_for(0))
    assert torch.equal(batch.weight, 0.5 * batch.x1[:, 0])
    assert batches.report == {"halves": 1.0}

    plain = Batches(rows_of(torch.ones(6, 1)), 6, 0, StandardNormal((1,)), Halves())
    assert torch.equal(plain.draw(0, generator_for(0)).weight, torch.full((6,), 0.5))


def test_objectives_without_a_source_get_none():
    batches = Batches(rows_of(torch.ones(4, 2)), 2, 0)
    batch = batches.draw(0, generator_for(0))
    assert batch.x0 is None
    assert batch.x1.shape == (2, 2)
