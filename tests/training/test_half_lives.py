"""Averages of several half-lives: each as if alone, the best one kept, continued to the same bits."""

import math

import pytest
import torch

from advect.errors import ConfigError
from advect.training import TrainingConfig, WeightAverage, average_words, lowest_losses
from advect.training.half_lives import COLUMN, averages_of
from tests.training.small import Number, Recorder, matching_trainer, number_trainer, same, squares

HALF_LIVES = (2, 5, 40)


def test_after_a_half_life_the_past_weighs_half():
    module = Number(1.0)
    average = averages_of(module, TrainingConfig(ema=(7,)))[0]
    # Far from the start, where the decay is still smaller: (1 + s)/(10 + s) > 2^(−1/7) from s = 86 on.
    with torch.no_grad():
        module.weight.fill_(0.0)
    for step in range(1000, 1007):
        average.update(step)
    assert float(average.tensors()["weight"]) == pytest.approx(0.5, rel=1e-5)  # seven float32 roundings
    assert averages_of(module, TrainingConfig(ema_decay=0.9))[0].decay == 0.9


def test_each_average_is_what_it_is_alone():
    together = matching_trainer(steps=30, ema=HALF_LIVES)
    together.run()
    for index, half_life in enumerate(HALF_LIVES):
        alone = matching_trainer(steps=30, ema=(half_life,))
        alone.run()
        ours, theirs = together.state.averages[index].tensors(), alone.state.average.tensors()
        assert same(ours, theirs)
        column = f"{COLUMN}{half_life}"
        losses = [[line[column] for line in made.sink.history] for made in (together, alone)]
        assert losses[0] == losses[1] == [line["validation_loss"] for line in alone.sink.history]


def test_the_lowest_validation_loss_of_all_is_kept():
    made = matching_trainer(steps=60, ema=HALF_LIVES)
    outcome = made.run()
    history = made.sink.history
    every = {(line[f"{COLUMN}{h}"], h, line["step"]) for line in history for h in HALF_LIVES if f"{COLUMN}{h}" in line}
    best, half_life, step = min(every)
    assert (outcome.best_value, outcome.half_life, outcome.best_step) == (best, half_life, step)
    assert all(line["validation_loss"] == min(line[f"{COLUMN}{h}"] for h in HALF_LIVES) for line in history)
    # The weights that are left in the flow are those: they have this loss on the same rows and noise.
    made.flow.eval()
    with torch.no_grad():
        assert made.validation.loss() == best
    found = lowest_losses(history)
    assert [one.half_life for one in found] == sorted(HALF_LIVES)
    assert min((one.loss, one.half_life, one.step) for one in found) == (best, half_life, step)
    words = average_words(found)
    assert f"half-life {half_life:g}: {best:.4g} at step {step};" in words
    assert words.count("half-life") == 4
    assert average_words(found[:1]) == ""


def test_a_long_memory_wins_where_weights_jump_about_and_a_short_one_where_they_travel():
    """One weight, chasing the mean of noisy rows with a large rate or walking to a far mean with a small one."""
    rows = torch.randn(64, generator=torch.Generator().manual_seed(0))
    common = {"decay": "constant", "warmup_steps": 0, "gradient_clip": 0.0, "ema": (1, 50), "validation_every": 20}
    noisy = number_trainer(squares, rows, validation=rows, steps=400, batch_size=2, learning_rate=0.3, **common)
    noisy.run()
    late = [line for line in noisy.sink.history if line["step"] > 200]  # each may be lucky once
    assert sum(line[f"{COLUMN}50"] for line in late) < sum(line[f"{COLUMN}1"] for line in late)
    far = number_trainer(squares, rows + 100, validation=rows + 100, steps=400, learning_rate=0.01, **common)
    assert far.run().half_life == 1


def test_a_run_goes_on_to_the_same_bits():
    whole, sink = matching_trainer(steps=40, ema=HALF_LIVES), Recorder()
    whole.run()
    part = matching_trainer(steps=40, ema=HALF_LIVES, sink=sink)
    part.run(stop=lambda: part.state.step == 17)
    rest = matching_trainer(steps=40, ema=HALF_LIVES)
    rest.state.load(*sink.checkpoints[-1])
    outcome = rest.run()
    assert same(whole.state.tensors(), rest.state.tensors())
    assert {k: v for k, v in whole.state.numbers().items() if k != "seconds"} == {
        k: v for k, v in rest.state.numbers().items() if k != "seconds"
    }
    assert outcome.half_life == HALF_LIVES[whole.state.best_average]


def test_without_half_lives_nothing_is_other_than_before():
    made = matching_trainer(steps=20)
    outcome = made.run()
    assert outcome.half_life is None
    assert not any(name.startswith(COLUMN) for line in made.sink.history for name in line)
    assert not lowest_losses(made.sink.history)
    assert {name.partition(".")[0] for name in made.state.tensors()} == {"model", "average", "best", "optimizer"}
    tensors, numbers = made.state.tensors(), made.state.numbers()
    del numbers["best_average"]  # as written before there was one
    again = matching_trainer(steps=20)
    again.state.load(tensors, numbers)
    assert again.state.best_average == 0
    assert isinstance(again.state.average, WeightAverage)


@pytest.mark.parametrize("wrong", [(0,), (-1.0, 3), (3, 3), (math.inf,), (math.nan,)])
def test_half_lives_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigError, match="half-lives"):
        TrainingConfig(ema=wrong)


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ConfigError, match="both"):
        TrainingConfig(ema=(5,), ema_decay=0.9)
    with pytest.raises(ConfigError, match="no validation rows"):
        number_trainer(squares, torch.zeros(4), ema=(5, 6))
    number_trainer(squares, torch.zeros(4), ema=(5,), steps=2).run()
