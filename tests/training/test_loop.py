"""The one loop: exact resume, one counter, no trace left behind, and a stop before damage is done."""

import time

import pytest
import torch
from torch import nn

from advect.errors import TrainingError, UnknownNameError
from advect.records import Batch
from advect.run import read_tensors, write_tensors
from advect.training import Batches, Trainer, TrainingConfig
from tests.training.small import (
    Number,
    Recorder,
    SmallField,
    cloud,
    matching_trainer,
    number_trainer,
    rows_of,
    same,
    squares,
)


def stop_after(trainer: Trainer, step: int):
    return lambda: trainer.state.step >= step


@pytest.mark.parametrize(("dropout", "pool", "uses"), [(0.0, 1, 1), (0.4, 1, 1), (0.0, 4, 1), (0.0, 4, 2), (0.0, 0, 0)])
def test_stop_and_resume_equals_a_straight_run(dropout, pool, uses, tmp_path):
    """Traps O6 and O7: weights, average, optimiser, best weights and counter, bit for bit, through a file.

    Step 25 lies inside a pool of four batches and inside one of the whole set.
    """
    straight = matching_trainer(steps=60, pool=pool, pool_uses=uses, field=SmallField(dropout=dropout))
    outcome = straight.run()
    assert (outcome.finished, outcome.step, outcome.reason) == (True, 60, "finished")

    first = matching_trainer(steps=60, pool=pool, pool_uses=uses, field=SmallField(dropout=dropout))
    stopped = first.run(stop=stop_after(first, 25))
    assert (stopped.finished, stopped.step, stopped.reason) == (False, 25, "stopped")
    write_tensors(tmp_path / "state", *first.sink.checkpoints[-1])

    # Another start and another global state: all that matters must come from the file.
    torch.manual_seed(99)
    second = matching_trainer(steps=60, pool=pool, pool_uses=uses, field=SmallField(dropout=dropout, seed=7))
    second.state.load(*read_tensors(tmp_path / "state"))
    assert second.state.step == 25
    resumed = second.run()
    assert (resumed.step, resumed.best_step, resumed.best_value) == (60, outcome.best_step, outcome.best_value)
    assert same(straight.sink.checkpoints[-1][0], second.sink.checkpoints[-1][0])
    assert same(straight.flow.state_dict(), second.flow.state_dict())
    left, right = (t.sink.checkpoints[-1][1] for t in (straight, second))
    assert {k: v for k, v in left.items() if k != "seconds"} == {k: v for k, v in right.items() if k != "seconds"}


def test_dropout_is_at_work():
    """The test above would pass with dropout switched off; this one would not."""
    plain, dropped = (matching_trainer(steps=5, field=SmallField(dropout=p)) for p in (0.0, 0.4))
    plain.run()
    dropped.run()
    assert not same(plain.flow.state_dict(), dropped.flow.state_dict())


def test_resume_at_any_step():
    """Stopping at a validation, right after one, before the first and before the last step."""
    straight = matching_trainer(steps=30)
    straight.run()
    for step in (0, 7, 8, 29, 30):
        first = matching_trainer(steps=30)
        first.run(stop=stop_after(first, step))
        second = matching_trainer(steps=30)
        second.state.load(*first.sink.checkpoints[-1])
        second.run()
        assert same(straight.flow.state_dict(), second.flow.state_dict()), step


def test_seed_decides():
    runs = []
    for seed in (0, 0, 1):
        trainer = matching_trainer(steps=10, seed=seed)
        trainer.run()
        runs.append(trainer.flow.state_dict())
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("done", [0, 9], ids=["fresh", "half-way"])
def test_timed_steps_leave_no_trace(done):
    trainer = matching_trainer(steps=20, field=SmallField(dropout=0.3))
    trainer.run(stop=stop_after(trainer, done))
    torch.manual_seed(5)
    before = {k: v.clone() for k, v in trainer.state.tensors().items()}, trainer.state.numbers(), torch.get_rng_state()
    lines, checkpoints = len(trainer.sink.lines), len(trainer.sink.checkpoints)
    assert trainer.time_steps(3) > 0
    assert same(before[0], trainer.state.tensors())
    assert before[1] == trainer.state.numbers()
    assert torch.equal(before[2], torch.get_rng_state())
    assert (lines, checkpoints) == (len(trainer.sink.lines), len(trainer.sink.checkpoints))

    trainer.run()
    straight = matching_trainer(steps=20, field=SmallField(dropout=0.3))
    straight.run()
    assert same(straight.flow.state_dict(), trainer.flow.state_dict())


def test_global_random_state_is_the_callers():
    torch.manual_seed(11)
    state = torch.get_rng_state()
    matching_trainer(steps=5, field=SmallField(dropout=0.5)).run()
    assert torch.equal(state, torch.get_rng_state())


def test_stop_is_asked_before_every_step():
    asked = []
    trainer = matching_trainer(steps=9)
    trainer.run(stop=lambda: asked.append(trainer.state.step))
    assert asked == list(range(9))


def test_deadline_closes_the_run():
    trainer = matching_trainer(steps=10**6)
    outcome = trainer.run(deadline=time.monotonic() + 0.3)
    assert outcome.reason == "deadline"
    assert outcome.finished
    assert 0 < outcome.step < 10**6
    assert trainer.sink.checkpoints[-1][1]["step"] == outcome.step
    # A closed run is a model: the best averaged weights are in place.
    assert outcome.best_value == trainer.state.best_value
    now = dict(trainer.flow.named_parameters())
    assert all(torch.equal(now[name], trainer.state.best[name]) for name in now)


def test_a_passed_deadline_takes_no_step():
    trainer = matching_trainer(steps=10)
    assert trainer.run(deadline=time.monotonic() - 1).step == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_non_finite_data_stops_before_the_step(value):
    """Trap O9: step and batch named, weights as before the step, checkpoint the last good state."""
    data = cloud()
    bad_step = 4

    def draw(index, generator):
        rows = data[index].clone()
        rows[bad_step * 16 + 3, 1] = value  # of the first block of steps
        return rows

    trainer = matching_trainer(steps=20)
    trainer.batches.batches.data = rows_of(data).__class__(draw=draw, num_rows=len(data))
    with pytest.raises(TrainingError, match="not finite") as caught:
        trainer.run()
    assert f"step {bad_step}," in caught.value.message
    assert "batch" in caught.value.message
    good = matching_trainer(steps=20)
    good.run(stop=stop_after(good, bad_step))
    assert same(good.state.tensors(), trainer.state.tensors())
    tensors, numbers = trainer.sink.checkpoints[-1]
    assert same(good.state.tensors(), tensors)
    assert numbers["step"] == bad_step
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_non_finite_gradient_of_a_finite_loss_stops_too():
    """√0 has the value 0 and an infinite slope, times the slope 0 of the square: NaN."""

    def root(flow, batch, generator=None):
        return (flow.weight * batch.x1).square().sqrt()

    data = torch.tensor([0.0, 1.0])
    trainer = number_trainer(root, data, module=Number(1.0))
    with pytest.raises(TrainingError, match=r"the gradient is not finite, at a loss of 0\.5; the step"):
        trainer.run()
    assert trainer.flow.weight.item() == 1.0
    assert trainer.sink.checkpoints[-1][1]["step"] == 0


def test_caller_gets_its_random_state_back_after_a_failure():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with pytest.raises(TrainingError):
        number_trainer(squares, torch.tensor([float("nan"), 1.0])).run()
    assert torch.equal(state, torch.get_rng_state())


def gradients_of_one_step(data, weight=None, **more) -> float:
    module = Number(0.5)
    seen = []
    module.weight.register_hook(lambda gradient: seen.append(gradient.item()))
    number_trainer(squares, data, module=module, weight=weight, steps=1, **more).run()
    assert len(seen) == 1
    return seen[0]


def test_loss_uses_all_rows():
    """Trap O2: every row of the batch pulls."""
    data = torch.tensor([0.1, -2.0, 3.0, 5.0])
    # d/dw mean (w − x)² = 2 (w − mean x); one float32 rounding per term
    assert gradients_of_one_step(data) == pytest.approx(2 * (0.5 - 1.525), rel=1e-6)
    for row in range(4):
        nudged = data.clone()
        nudged[row] += 1
        assert gradients_of_one_step(nudged) == pytest.approx(2 * (0.5 - 1.775), rel=1e-6)


def test_rows_of_weight_zero_do_not_pull():
    data = torch.tensor([0.1, 1e6, 3.0, -1e6])
    weighted = gradients_of_one_step(data, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert weighted == gradients_of_one_step(data[[0, 2]])
    # w = (1, 3): the weighted mean of the rows is 2.275
    assert gradients_of_one_step(data[[0, 2]], torch.tensor([1.0, 3.0])) == pytest.approx(2 * (0.5 - 2.275), rel=1e-6)


def test_a_batch_without_any_weight_changes_nothing():
    """Where most rows have weight zero, some batch will hold no other."""
    trainer = number_trainer(
        squares, torch.tensor([1.0, 2.0]), module=Number(0.5), weight=torch.zeros(2), steps=3, ema_decay=0.0
    )
    trainer.run()
    assert trainer.flow.weight.item() == 0.5


def test_gradient_clipping_bounds_the_norm():
    moved = {}
    for clip in (0.0, 1e-3):
        # Adam is blind to the scale of a constant gradient, but not to one large step among small ones.
        losses = iter([1.0, 1000.0, 1.0, 1.0])
        scale = {}

        def objective(flow, batch, generator=None, losses=losses, scale=scale):
            scale["now"] = next(losses)
            return scale["now"] * flow.weight + 0 * batch.x1

        trainer = number_trainer(objective, torch.zeros(2), steps=4, gradient_clip=clip, ema_decay=0.0)
        trainer.run()
        moved[clip] = trainer.flow.weight.item()
        rate_sum = sum(line["lr"] for line in trainer.state.optimizer.param_groups)
        assert rate_sum > 0
    assert moved[0.0] != moved[1e-3]
    # Every gradient clipped to one size: equal steps, as in the test of the learning rate.
    straight = number_trainer(
        lambda flow, batch, generator=None: flow.weight + 0 * batch.x1, torch.zeros(2), steps=4, ema_decay=0.0
    )
    straight.run()
    assert moved[1e-3] == pytest.approx(straight.flow.weight.item(), rel=1e-4)


def test_validation_uses_fixed_draws():
    """Weights that do not change (decay 1 keeps the start) have one validation loss, at every validation."""
    trainer = matching_trainer(steps=30, ema_decay=1.0)
    trainer.run()
    losses = [line["validation_loss"] for line in trainer.sink.history]
    assert len(losses) == 5
    assert len(set(losses)) == 1
    steps = [line["step"] for line in trainer.sink.history]
    assert steps == [7, 14, 21, 28, 30]


def test_best_weights_are_kept():
    """Training pulls the weight to 1, validation likes 0.3: the weight that came nearest is the model."""
    trainer = number_trainer(
        squares,
        torch.ones(4),
        validation=torch.full((4,), 0.3),
        steps=60,
        learning_rate=0.05,
        decay="constant",
        ema_decay=0.0,
        validation_every=1,
    )
    outcome = trainer.run()
    assert trainer.sink.checkpoints[-1][0]["model.weight"].item() > 0.6  # training went past it
    assert 0 < outcome.best_step < 20
    assert abs(trainer.flow.weight.item() - 0.3) < 0.025  # half a step of the learning rate
    losses = {line["step"]: line["validation_loss"] for line in trainer.sink.history}
    assert outcome.best_value == min(losses.values()) == losses[outcome.best_step]
    assert outcome.best_value == pytest.approx((trainer.flow.weight.item() - 0.3) ** 2, abs=1e-7)


def test_validation_does_not_change_training():
    with_validation = matching_trainer(steps=20, field=SmallField(dropout=0.2))
    with_validation.run()
    without = matching_trainer(steps=20, field=SmallField(dropout=0.2), validation_every=20)
    without.validation = None
    without.run()
    raw = [
        {k: v for k, v in t.sink.checkpoints[-1][0].items() if k.startswith(("model.", "optimizer.", "average."))}
        for t in (with_validation, without)
    ]
    assert same(*raw)


def test_checkpoints_come_by_the_clock_and_at_the_end():
    eager = matching_trainer(steps=6, checkpoint_seconds=0.0)
    eager.run()
    steps = [numbers["step"] for _, numbers in eager.sink.checkpoints]
    assert steps == [1, 2, 3, 4, 5, 6, 6]
    seconds = [numbers["seconds"] for _, numbers in eager.sink.checkpoints]
    assert seconds == sorted(seconds)
    lazy = matching_trainer(steps=6, checkpoint_seconds=1e6)
    lazy.run()
    assert [numbers["step"] for _, numbers in lazy.sink.checkpoints] == [6]


def test_progress_tells_where_the_time_goes():
    trainer = matching_trainer(steps=8)
    trainer.run()
    last = trainer.sink.lines[-1]
    assert (last.step, last.steps) == (8, 8)
    assert last.rate > 0
    assert last.seconds_left == 0
    assert {"data", "coupling", "network", "optimiser", "other"} <= set(last.shares)
    assert sum(last.shares.values()) == pytest.approx(1, abs=0.05)
    assert last.loss == pytest.approx(last.loss)  # a number


def test_nothing_to_train_is_refused():
    module = Number()
    module.weight.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable parameters"):
        number_trainer(squares, torch.zeros(2), module=module)


def test_frozen_parts_stay_frozen():
    """Trap L12: flags are identical before and after, and frozen weights do not move."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.fixed = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(2.0), False)

    module = Pair()
    number_trainer(lambda flow, batch, generator=None: (flow.weight * flow.fixed - batch.x1).square(), torch.ones(3),
                   module=module).run()  # fmt: skip
    assert module.fixed.item() == 2.0
    assert not module.fixed.requires_grad
    assert module.weight.requires_grad
    assert module.weight.item() != 0.0


def test_one_generator_serves_one_step():
    """The same step draws the same, whatever happened before: losses of step s agree from run to run."""
    seen: dict[str, list[torch.Tensor]] = {"a": [], "b": []}
    for name in seen:

        def objective(flow, batch: Batch, *, generator=None, kept=seen[name]):
            kept.append(torch.rand(2, generator=generator))
            return squares(flow, batch)

        trainer = Trainer(
            Number(),
            objective,
            Batches(rows_of(torch.ones(8)), 4, 0),
            TrainingConfig(steps=5, batch_size=4),
            Recorder(),
        )
        trainer.run()
    assert len(seen["a"]) == 5
    assert all(torch.equal(a, b) for a, b in zip(seen["a"], seen["b"], strict=True))
    assert len({tuple(draw.tolist()) for draw in seen["a"]}) == 5


def test_half_precision_is_in_the_training_loss_alone():
    """Products are rounded to eight bits in training, and only there; weights stay float32 and learn as much."""
    seen = []

    class Watched(SmallField):
        def velocity(self, t, x, condition=None):
            found = super().velocity(t, x, condition)
            seen.append((torch.is_grad_enabled(), found.dtype))
            return found

    field = Watched()
    half = matching_trainer(steps=60, field=field, precision="bfloat16")
    half.run()
    assert {dtype for training, dtype in seen if training} == {torch.bfloat16}
    assert {dtype for training, dtype in seen if not training} == {torch.float32}
    assert all(p.dtype == torch.float32 for p in field.parameters())
    full = matching_trainer(steps=60)
    full.run()
    ends = [trainer.sink.history[-1]["validation_loss"] for trainer in (half, full)]
    starts = full.sink.history[0]["validation_loss"]
    # Rounding of 2⁻⁸ per product is far below the noise of 16 rows a step: the loss falls as far.
    assert abs(ends[0] - ends[1]) < 0.1 * (starts - ends[1])
    with pytest.raises(UnknownNameError, match="bfloat16"):
        TrainingConfig(precision="bfloat61")


def test_the_outcome_says_where_the_time_went():
    outcome = matching_trainer(steps=20).run()
    assert {"data", "coupling", "network", "optimiser", "validation", "other"} == set(outcome.shares)
    assert sum(outcome.shares.values()) == pytest.approx(1.0, abs=1e-6)
    assert all(share >= 0 for share in outcome.shares.values())
