"""A batch in shares: however its rows are shared out, the losses and their gradients add up to those of the whole."""

from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch

from advect.errors import ConfigError
from advect.flows import Flow, StandardNormal
from advect.objectives import BridgeMatching, Denoising, MaximumLikelihood, VelocityMatching
from advect.paths import AffinePath, BrownianBridge, Linear
from advect.records import Batch
from advect.training import ALONE, Batches, Trainer, TrainingConfig, Workers
from advect.training.shares import pieces_of, share_losses
from advect.transforms import ActNorm
from tests.training.small import Number, Recorder, SmallField, cloud, matching_trainer, rows_of, same, squares

DOUBLE = torch.float64
ROWS = 11


class Predictor(SmallField):
    """Answers every question an objective may ask, and sees the condition."""

    def velocity(self, t, x, condition=None):
        told = 0.0 if condition is None else condition
        return super().velocity(t, x) * (1 + told)

    predict = marginal_score = velocity


def batch_of(**more) -> Batch:
    generator = torch.Generator().manual_seed(3)
    x1, x0 = (torch.randn(ROWS, 2, generator=generator, dtype=DOUBLE) for _ in range(2))
    return Batch(x1=x1, x0=x0, **more)


START = torch.linspace(0, 0.5, ROWS, dtype=DOUBLE)
BATCHES = {
    "plain": {},
    "weights": {"weight": torch.linspace(0, 2, ROWS, dtype=DOUBLE)},
    "condition": {"condition": torch.linspace(-1, 1, ROWS, dtype=DOUBLE).reshape(-1, 1)},
    "no weight at all": {"weight": torch.zeros(ROWS, dtype=DOUBLE)},
    "intervals": {"interval": torch.stack([START, START + 0.3], 1), "slopes": torch.ones(ROWS, 2, 2, dtype=DOUBLE)},
}
OBJECTIVES = {
    "velocity": VelocityMatching(AffinePath(Linear(), sigma=0.2), condition_dropout=0.5),
    "bridge": BridgeMatching(BrownianBridge(0.7), condition_dropout=0.5),
    "denoising": Denoising(AffinePath(Linear()), "x1", condition_dropout=0.5),
}


def total(losses, module) -> tuple[float, list[torch.Tensor]]:
    """The sum of some losses and its gradient, each loss by its own backward pass."""
    module.zero_grad()
    value = 0.0
    for loss in losses:
        loss.backward()
        value += float(loss.detach())
    return value, [p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize("rows", BATCHES, ids=str)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("cuts", [(0, 11), (0, 4, 11), (0, 1, 2, 10, 11)], ids=str)
def test_shares_add_up(objective, rows, cuts):
    """Sums of at most 11 numbers of order one in another order: 1e-13 in float64 is a hundred roundings."""
    if rows == "intervals" and objective == "denoising":
        pytest.skip("denoising knows no intervals")
    loss, batch, field = OBJECTIVES[objective], batch_of(**BATCHES[rows]), Predictor().double()
    pieces = [slice(a, b) for a, b in pairwise(cuts)]
    shares = share_losses(loss, field, batch, torch.Generator().manual_seed(1), pieces, nullcontext())
    value, gradient = total(shares, field)

    rowwise = loss(field, batch, generator=torch.Generator().manual_seed(1))
    weight = torch.ones(ROWS, dtype=DOUBLE) if batch.weight is None else batch.weight
    whole = (rowwise * weight).sum() / max(float(weight.sum()), 1e-300)
    expected, wanted = total([whole], field)
    assert value == pytest.approx(expected, abs=1e-13)
    for got, want in zip(gradient, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    assert (expected > 0) == (rows != "no weight at all")


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_loss_is_that_of_what_was_drawn(objective):
    """`DrawingObjective`: calling it is drawing and then taking the loss, bit for bit, and the loss draws nothing."""
    loss, batch, field = OBJECTIVES[objective], batch_of(**BATCHES["condition"]), Predictor().double()
    drawn = loss.draw(batch, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    again = loss.loss(field, drawn)
    assert torch.equal(again, loss(field, batch, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(before, torch.get_rng_state())


def test_pieces_cover_every_row_once_and_differ_by_at_most_one():
    for count in (1, 2, 3, 7):
        for rows in (7, 8, 100):
            for most in (0, 1, 3):
                all_pieces = [pieces_of(rows, Workers(rank, count), most) for rank in range(count)]
                covered = [i for pieces in all_pieces for piece in pieces for i in range(piece.start, piece.stop)]
                assert covered == list(range(rows))
                sizes = [sum(p.stop - p.start for p in pieces) for pieces in all_pieces]
                assert max(sizes) - min(sizes) <= 1
                assert not most or max(p.stop - p.start for pieces in all_pieces for p in pieces) <= most


def test_a_microbatch_changes_memory_and_no_result():
    """Sums in another order: a rounding of 1e-7 per step, which 60 steps of Adam at 1e-2 turn into less than 1e-4.
    Another seed differs by more than 1e-2."""
    whole, parts, other = (matching_trainer(microbatch=m, seed=s) for m, s in ((0, 0), (5, 0), (0, 1)))
    for trainer in (whole, parts, other):
        trainer.run()
    curves = [[line["validation_loss"] for line in t.sink.history] for t in (whole, parts, other)]
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    distances = [
        max(float((a - b).abs().max()) for a, b in zip(whole.flow.parameters(), t.flow.parameters(), strict=True))
        for t in (parts, other)
    ]
    assert distances[0] < 1e-4 < 1e-2 < distances[1]


@pytest.mark.parametrize("size", [16, 100])
def test_a_microbatch_of_the_whole_batch_is_the_plain_loop(size):
    whole, same_rows = (matching_trainer(microbatch=m) for m in (0, size))
    for trainer in (whole, same_rows):
        trainer.run()
    assert same(whole.flow.state_dict(), same_rows.flow.state_dict())


def test_layers_that_start_from_what_they_see_see_the_whole_batch():
    """ActNorm takes mean and deviation of the first rows it meets: those of all 40 rows, not of the first four."""
    rows = cloud(40).double() * 3 + 5
    flow = Flow(StandardNormal((2,)), ActNorm(2)).double()
    config = TrainingConfig(steps=1, batch_size=40, microbatch=4, learning_rate=1e-12, weight_decay=0.0)
    Trainer(flow, MaximumLikelihood(), Batches(rows_of(rows), 40, 0), config, Recorder())._train_step()
    location = next(m for m in flow.modules() if isinstance(m, ActNorm)).location
    torch.testing.assert_close(location.detach(), rows.mean(0), rtol=1e-9, atol=1e-9)


def test_an_objective_that_cannot_draw_ahead_is_given_rows_and_weights_of_its_own():
    data = torch.arange(6.0)
    weight = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 4.0])
    config = TrainingConfig(steps=1, batch_size=6, microbatch=2)
    trainer = Trainer(Number(), squares, Batches(rows_of(data, weight=weight), 6, 0), config, Recorder())
    trainer.run()
    expected = float((weight * data.square()).sum() / weight.sum())  # the weight starts at 0
    assert trainer.sink.history[-1]["train_loss"] == pytest.approx(expected, rel=1e-6)


def test_more_processes_than_rows_are_refused():
    config = TrainingConfig(batch_size=3)
    with pytest.raises(ConfigError, match="4 processes cannot share a batch of 3 rows"):
        Trainer(Number(), squares, Batches(rows_of(torch.arange(6.0)), 3, 0), config, Recorder(), workers=Workers(0, 4))


def test_a_process_by_itself_sends_no_message():
    tensor = torch.ones(3)
    for workers in (ALONE, Workers(1, 4, connected=False)):
        workers.add([tensor])
        workers.spread([tensor])
        assert (workers.largest(3), workers.leading(2)) == ([3], 2)
    assert torch.equal(tensor, torch.ones(3))
