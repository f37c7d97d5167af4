"""Blocks: every row in its step as without them, resumed in the middle to the bit, refused where they would err."""

import threading

import pytest
import torch
from torch import nn

from advect.couplings import Assignment, Independent
from advect.errors import DataError
from advect.flows import StandardNormal
from advect.flows.bases import DiagonalNormal
from advect.records import Bridge, Drawn
from advect.training import blocks as module
from advect.training.batches import Batches, DataRows
from advect.training.blocks import MOST_PAIRED, MOST_STEPS, NUMBERS, Blocks, in_blocks
from advect.training.seeding import TRAINING, generator_for

from .small import Recorder, cloud, matching_trainer, rows_of

X1 = torch.arange(60.0).reshape(30, 2)


def batches(coupling=None, *, base=None, batch_size=8, x1=X1, **beside):
    coupling = Independent() if coupling is None else coupling
    return Batches(rows_of(x1, **beside), batch_size, 0, base or StandardNormal((2,)), coupling)


def drawn(source, step):
    return source.draw(step, generator_for(0, TRAINING, step))


@pytest.mark.parametrize("coupling", [Independent(), Assignment()])
def test_a_step_gets_its_rows_with_what_belongs_to_them(coupling):
    condition, weight = X1[:, :1] * 10, X1[:, 0] + 1
    plain = batches(coupling, condition=condition, weight=weight)
    blocks = in_blocks(batches(coupling, condition=condition, weight=weight), 0, 1000)
    assert isinstance(blocks, Blocks)
    assert blocks.size == (MOST_STEPS if coupling == Independent() else MOST_PAIRED)
    for step in (0, 1, 63, 64, 200):  # past the end of an epoch and of a block
        expected, found = drawn(plain, step), drawn(blocks, step)
        assert found.x0.shape == (8, 2)
        assert torch.equal(found.x1.sort(0).values, expected.x1.sort(0).values)
        assert torch.equal(found.condition, found.x1[:, :1] * 10)
        assert torch.equal(found.weight, found.x1[:, 0] + 1)


def test_any_order_of_steps_gives_the_same_batches():
    forward, backward = (in_blocks(batches(), 0, 1000) for _ in range(2))
    ahead = [drawn(forward, step) for step in (3, 70, 130)]
    back = [drawn(backward, step) for step in (130, 70, 3)][::-1]
    for one, other in zip(ahead, back, strict=True):
        assert torch.equal(one.x0, other.x0)
        assert torch.equal(one.x1, other.x1)
    assert not torch.equal(ahead[0].x0, drawn(in_blocks(batches(), 1, 1000), 3).x0)


def test_a_coupling_that_looks_sees_one_batch_and_reports_it():
    blocks = in_blocks(batches(Assignment()), 0, 1000)
    found = drawn(blocks, 5)
    best = Assignment().draw(found.x0, found.x1, generator=torch.Generator())
    assert torch.equal(best.index0[best.index1.argsort()], torch.arange(8))  # already the cheapest pairing
    assert blocks.report.keys() == dict(best.report).keys()


def test_noise_of_a_block_is_standard_normal_and_of_no_two_steps_alike():
    blocks = in_blocks(batches(), 0, 1000)
    noise = torch.stack([drawn(blocks, step).x0 for step in range(300)])
    assert len(noise.flatten(1).unique(dim=0)) == 300
    count = noise.numel()  # 4800 numbers: four standard errors of mean and variance
    assert abs(float(noise.mean())) < 4 / count**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / count) ** 0.5


def test_large_rows_learned_sources_and_choosers_are_drawn_step_by_step():
    many = Batches(rows_of(torch.zeros(4096, 1)), 4096, 0, StandardNormal((1,)), Assignment())
    assert in_blocks(many, 0, 1000) is many  # a pairing of so many takes long enough by itself
    wide = torch.zeros(4, NUMBERS // 4)
    large = Batches(rows_of(wide), 4, 0)
    assert in_blocks(large, 0, 1000) is large
    learned = batches(base=DiagonalNormal((2,)))
    assert in_blocks(learned, 0, 1000) is learned
    frozen = batches(base=DiagonalNormal((2,)).requires_grad_(False))
    assert isinstance(in_blocks(frozen, 0, 1000), Blocks)


def test_rows_that_draw_are_drawn_afresh_in_every_epoch():
    noisy = DataRows(lambda index, generator: torch.rand(len(index), 2, generator=generator), 8)
    blocks = in_blocks(Batches(noisy, 8, 0), 0, 1000)
    assert not torch.equal(drawn(blocks, 0).x1, drawn(blocks, 1).x1)


def test_a_run_continued_in_the_middle_of_a_block_ends_in_the_same_bits():
    whole = matching_trainer(steps=40)
    assert isinstance(whole.batches, Blocks)
    whole.run()
    sink = Recorder()
    first = matching_trainer(steps=40, sink=sink)
    steps = iter(range(100))
    first.run(stop=lambda: next(steps) == 23)
    second = matching_trainer(steps=40)
    second.state.load(*sink.checkpoints[-1])
    second.run()
    ours, theirs = (nn.utils.parameters_to_vector(t.flow.parameters()) for t in (second, whole))
    assert torch.equal(ours, theirs)
    assert len(cloud()) < 40 * 16  # several epochs


def test_everything_random_is_drawn_with_the_rows(monkeypatch):
    def draw(batch, generator):
        assert batch.x1.shape == (8 * MOST_PAIRED, 2)
        t = torch.rand(len(batch.x1), generator=generator)
        return Drawn(Bridge(t=t, x=batch.x1 * 2, velocity=batch.x1 - batch.x0))

    blocks = in_blocks(batches(Assignment()), 0, 1000, draw)
    for step in (0, 5, 17):
        found = drawn(blocks, step)
        assert torch.equal(found.drawn.bridge.x, found.x1 * 2)
        assert torch.equal(found.drawn.bridge.velocity, found.x1 - found.x0)
        assert found.drawn.bridge.t.shape == (8,)


@pytest.mark.parametrize("free", [True, False])
def test_pairings_are_made_by_the_worker_and_ahead_where_a_processor_is_free(monkeypatch, free):
    monkeypatch.setattr(module, "_processor_is_free", lambda: free)
    made = []

    class Watched(Assignment):
        def draw(self, x0, x1, **more):
            made.append(threading.current_thread().name)
            return super().draw(x0, x1, **more)

    blocks = in_blocks(batches(Watched()), 0, 2 * MOST_PAIRED)
    first = [drawn(blocks, step) for step in range(MOST_PAIRED)]
    if free:
        blocks._coming[1].result()
    assert len(made) == MOST_PAIRED * (2 if free else 1)
    assert all(name.startswith("advect-blocks") for name in made)
    [drawn(blocks, MOST_PAIRED + step) for step in range(MOST_PAIRED)]
    assert not blocks._coming  # nothing after the last step
    other = in_blocks(batches(Assignment()), 0, 1000)
    assert all(torch.equal(batch.x0, drawn(other, step).x0) for step, batch in enumerate(first))
    slow = blocks._held.seconds / MOST_PAIRED
    assert blocks.step_seconds(1.0) == (1.0 if free else 1.0 + slow)


@pytest.mark.parametrize("coupling", [Independent(), Assignment()])
def test_paths_are_drawn_from_by_the_thread_of_the_loop(coupling):
    """Forward derivatives, which a path may take, have one level for all threads."""
    threads = set()

    def draw(batch, generator):
        threads.add(threading.current_thread())
        return Drawn(Bridge(t=torch.rand(len(batch.x1), generator=generator), x=batch.x1, velocity=batch.x1))

    blocks = in_blocks(batches(coupling), 0, 1000, draw)
    assert isinstance(blocks, Blocks)
    for step in range(3 * MOST_PAIRED):
        assert drawn(blocks, step).drawn is not None
    assert threads == {threading.current_thread()}


def test_rows_that_cannot_be_paired_are_told_at_their_step():
    x1 = X1.clone()
    x1[9, 1] = torch.nan
    first = next(step for step in range(4) if bool(torch.isnan(drawn(batches(x1=x1), step).x1).any()))
    blocks = in_blocks(batches(Assignment(), x1=x1), 0, 1000)
    for step in range(first):
        assert torch.isfinite(drawn(blocks, step).x1).all()
    with pytest.raises(DataError, match="not finite"):
        drawn(blocks, first)
