"""Blocks: every row in its step as without them, resumed in the middle to the bit, refused where they would err."""

import pytest
import torch
from torch import nn

from advect.couplings import Assignment, Independent
from advect.flows import StandardNormal
from advect.flows.bases import DiagonalNormal
from advect.training.batches import Batches, DataRows
from advect.training.blocks import MOST_STEPS, NUMBERS, Blocks, in_blocks
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
    blocks = in_blocks(batches(coupling, condition=condition, weight=weight), 0)
    assert isinstance(blocks, Blocks)
    assert blocks.size == MOST_STEPS
    for step in (0, 1, 63, 64, 200):  # past the end of an epoch and of a block
        expected, found = drawn(plain, step), drawn(blocks, step)
        assert found.x0.shape == (8, 2)
        assert torch.equal(found.x1.sort(0).values, expected.x1.sort(0).values)
        assert torch.equal(found.condition, found.x1[:, :1] * 10)
        assert torch.equal(found.weight, found.x1[:, 0] + 1)


def test_any_order_of_steps_gives_the_same_batches():
    forward, backward = (in_blocks(batches(), 0) for _ in range(2))
    ahead = [drawn(forward, step) for step in (3, 70, 130)]
    back = [drawn(backward, step) for step in (130, 70, 3)][::-1]
    for one, other in zip(ahead, back, strict=True):
        assert torch.equal(one.x0, other.x0)
        assert torch.equal(one.x1, other.x1)
    assert not torch.equal(ahead[0].x0, drawn(in_blocks(batches(), 1), 3).x0)


def test_a_coupling_that_looks_sees_one_batch_and_reports_it():
    blocks = in_blocks(batches(Assignment()), 0)
    found = drawn(blocks, 5)
    best = Assignment().draw(found.x0, found.x1, generator=torch.Generator())
    assert torch.equal(best.index0[best.index1.argsort()], torch.arange(8))  # already the cheapest pairing
    assert blocks.report.keys() == dict(best.report).keys()


def test_noise_of_a_block_is_standard_normal_and_of_no_two_steps_alike():
    blocks = in_blocks(batches(), 0)
    noise = torch.stack([drawn(blocks, step).x0 for step in range(300)])
    assert len(noise.flatten(1).unique(dim=0)) == 300
    count = noise.numel()  # 4800 numbers: four standard errors of mean and variance
    assert abs(float(noise.mean())) < 4 / count**0.5
    assert abs(float(noise.var()) - 1) < 4 * (2 / count) ** 0.5


def test_large_rows_learned_sources_and_choosers_are_drawn_step_by_step():
    wide = torch.zeros(4, NUMBERS // 4)
    large = Batches(rows_of(wide), 4, 0)
    assert in_blocks(large, 0) is large
    learned = batches(base=DiagonalNormal((2,)))
    assert in_blocks(learned, 0) is learned
    frozen = batches(base=DiagonalNormal((2,)).requires_grad_(False))
    assert isinstance(in_blocks(frozen, 0), Blocks)


def test_rows_that_draw_are_drawn_afresh_in_every_epoch():
    noisy = DataRows(lambda index, generator: torch.rand(len(index), 2, generator=generator), 8)
    blocks = in_blocks(Batches(noisy, 8, 0), 0)
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
