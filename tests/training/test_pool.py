"""Many batches paired at once: the same rows, a lower cost, the same bits after a break, in the background."""

import threading
from itertools import pairwise

import pytest
import torch

from advect.couplings import Assignment, Independent, Semidiscrete
from advect.errors import ConfigError, DataError
from advect.flows import EmpiricalBase, StandardNormal
from advect.training import Batches, Pool, TrainingConfig, generator_for
from advect.training.pool import pooled as as_asked
from tests.training.small import rows_of


def pooled(size, *, steps=40, coupling=None, num_rows=60, batch_size=8, **beside):
    x1 = torch.randn(num_rows, 2, generator=generator_for(7))
    batches = Batches(rows_of(x1, **beside), batch_size, 0, StandardNormal((2,)), coupling or Assignment())
    return x1, batches, Pool(batches, size, 0, steps)


def batch(pool, step):
    return pool.draw(step, generator_for(99, step))


def test_the_rows_of_a_step_are_those_it_has_without_a_pool():
    x1, batches, pool = pooled(5)
    for step in range(12):
        assert torch.equal(batch(pool, step).x1, x1[batches.epochs.rows(step)])


def test_one_index_permutes_every_tensor_of_a_pool():
    label = torch.arange(60).float()[:, None]
    x1, _, pool = pooled(4, condition=label, weight=1 + label[:, 0])
    for step in range(9):
        found = batch(pool, step)
        row = found.condition[:, 0].long()
        assert torch.equal(found.x1, x1[row])
        assert torch.equal(found.weight, 1 + row.float())


def test_a_pool_depends_on_its_number_alone():
    """Drawn backwards, from the middle, by another object: the same bits, as a continued run needs."""
    _, _, first = pooled(4)
    walked = [batch(first, step) for step in range(12)]
    _, _, other = pooled(4)
    for step in (11, 2, 7, 6):
        again = batch(other, step)
        assert torch.equal(again.x0, walked[step].x0)
        assert torch.equal(again.x1, walked[step].x1)
    assert not torch.equal(walked[0].x0, walked[4].x0)


def test_the_cost_never_rises_with_the_pool():
    """Trap C16 and Pooladian et al. (2304.14772): on the same rows a plan over all beats plans over parts."""
    num_rows, costs = 512, []
    x1 = torch.randn(num_rows, 2, generator=generator_for(1)).sign() * 2
    x0 = torch.randn(num_rows, 2, generator=generator_for(2))

    class Fixed(EmpiricalBase):
        """Gives its rows in turn, so that every pool has the same ones."""

        place = 0

        def sample(self, num_rows, condition=None, *, generator=None):
            rows = self.points[self.place : self.place + num_rows]
            self.place += num_rows
            return rows

    for size in (1, 2, 4, 16):
        pool = Pool(Batches(rows_of(x1), 32, 0, Fixed(x0), Assignment()), size, 0, 16)
        drawn = [batch(pool, step) for step in range(16)]
        assert torch.equal(torch.cat([b.x0 for b in drawn]).sort(0).values, x0.sort(0).values)
        costs.append(sum(float((b.x0 - b.x1).square().sum()) for b in drawn) / num_rows)
    assert all(later <= earlier for earlier, later in pairwise(costs))
    assert costs[-1] < 0.95 * costs[0]


def test_pools_are_made_by_the_worker_and_ahead():
    seen, ready = [], threading.Event()

    class Watched(Independent):
        def draw(self, x0, x1, **options):
            seen.append((threading.current_thread().name, len(x1)))
            if len(seen) == 2:
                ready.set()
            return super().draw(x0, x1, **options)

    _, _, pool = pooled(5, coupling=Watched(), steps=10)
    batch(pool, 0)
    assert ready.wait(10)  # the second pool, though nobody asked for its steps yet
    for step in range(1, 10):
        batch(pool, step)
    assert seen == [(seen[0][0], 40)] * 2  # and none beyond the last step
    assert seen[0][0].startswith("advect-pool")
    assert pool.step_seconds(0.0) > 0
    assert pool.step_seconds(1e3) == 1e3


def test_pairs_of_a_pool_are_used_again_in_another_order():
    _, batches, _ = pooled(3)
    pool = Pool(batches, 3, 0, 40, uses=2)
    pairs = [
        sorted(map(tuple, torch.cat([torch.cat([b.x0, b.x1], 1) for b in turn]).tolist()))
        for turn in ([batch(pool, step) for step in range(first, first + 3)] for first in (0, 3, 6))
    ]
    assert pairs[0] == pairs[1] != pairs[2]
    assert not torch.equal(batch(pool, 0).x1, batch(pool, 3).x1)


def test_the_whole_set_is_paired_once_where_that_is_asked():
    """Eight batches of 8 hold the 60 rows."""
    _, batches, _ = pooled(1)
    always = as_asked(batches, 0, 0, 0, 40)
    first, later = (torch.cat([batch(always, s).x0 for s in range(n, n + 8)]).sort(0).values for n in (0, 32))
    assert torch.equal(first, later)


@pytest.mark.parametrize("pool", [1, 8])
def test_pairing_once_needs_the_whole_set(pool):
    with pytest.raises(ConfigError, match="never be seen"):
        TrainingConfig(pool=pool, pool_uses=0)


def test_an_error_in_the_background_reaches_the_loop():
    bad = torch.randn(60, 2, generator=generator_for(1))
    bad[3] = torch.nan
    pool = Pool(Batches(rows_of(bad), 30, 0, StandardNormal((2,)), Assignment()), 2, 0, 2)
    with pytest.raises(DataError, match="not finite"):
        batch(pool, 0)


def test_batches_of_a_prepared_set_coupling():
    """The coupling chooses the data rows; condition and weight follow, and the class is the one whose turn it is."""
    x1 = torch.cat([torch.randn(30, 2, generator=generator_for(1)), 4 + torch.randn(30, 2, generator=generator_for(2))])
    label = (torch.arange(60) // 30).float()[:, None]
    weight = 1 + torch.arange(60).float()
    coupling = Semidiscrete().prepare(None, x1, condition=label, generator=generator_for(3))
    rows = rows_of(x1, condition=label, weight=weight)
    batches = Batches(rows, 20, 0, StandardNormal((2,)), coupling, prepared=True)
    row_of = {tuple(row.tolist()): index for index, row in enumerate(x1)}
    for step in range(5):
        drawn = batches.draw(step, generator_for(4, step))
        index = torch.tensor([row_of[tuple(row.tolist())] for row in drawn.x1])
        assert torch.equal(drawn.condition, label[index])
        assert torch.equal(drawn.weight, weight[index])
        assert torch.equal(drawn.condition, label[batches.epochs.rows(step)])
    assert "chi_square" in batches.report
    # Rows that it was not prepared with are paired among themselves.
    other = Batches(rows, 20, 0, StandardNormal((2,)), coupling)
    assert torch.equal(other.draw(0, generator_for(4)).x1, x1[other.epochs.rows(0)])
