"""Averaged weights (trap O8), the learning rate, and the settings of the loop."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, TrainingError
from advect.training import TrainingConfig, WeightAverage, learning_rate
from advect.training.state import TrainingState
from tests.training.small import matching_trainer, number_trainer, same


def walk(average: WeightAverage, module: nn.Module, steps: int) -> list[torch.Tensor]:
    seen = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            module.weight.copy_(torch.randn(3, 2, generator=torch.Generator().manual_seed(step)))
        average.update(step)
        seen.append(module.weight.detach().clone())
    return seen


def linear() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(2, 3, bias=False)


def test_decay_one_keeps_the_start_and_zero_copies():
    """Trap O8: the decay is the weight of the past, not of the present."""
    module = linear()
    start = module.weight.detach().clone()
    keeps = WeightAverage(module, 1.0)
    walk(keeps, module, 20)
    assert torch.equal(keeps.tensors()["weight"], start)

    module = linear()
    copies = WeightAverage(module, 0.0)
    walk(copies, module, 20)
    assert torch.equal(copies.tensors()["weight"], module.weight)


def test_the_average_is_the_stated_recursion():
    module = linear()
    average = WeightAverage(module, 0.9)
    expected = module.weight.detach().double().clone()
    for step, weight in enumerate(walk(average, module, 200), start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.double()
    # 200 roundings of float32, damped by the decay: a few ulp of numbers near one.
    assert torch.allclose(average.tensors()["weight"].double(), expected, atol=1e-6)


def test_applied_gives_back_the_trained_weights():
    module = linear()
    average = WeightAverage(module, 0.5)
    trained = walk(average, module, 3)[-1]
    with average.applied():
        assert torch.equal(module.weight, average.tensors()["weight"])
        assert not torch.equal(module.weight, trained)
    assert torch.equal(module.weight, trained)
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        raise RuntimeError("inside")
    assert torch.equal(module.weight, trained)


def test_frozen_weights_are_left_out():
    module = nn.Sequential(linear(), linear())
    module[0].weight.requires_grad_(False)
    assert set(WeightAverage(module, 0.9).tensors()) == {"1.weight"}


def test_averaged_field_differs_from_the_online_one():
    """Trap O8: what is kept for use are the averaged weights, not the online ones."""
    trainer = matching_trainer(steps=30, ema_decay=0.99)
    trainer.run()
    online = {k.removeprefix("model."): v for k, v in trainer.sink.checkpoints[-1][0].items() if k.startswith("model.")}
    best = trainer.state.best
    now = dict(trainer.flow.named_parameters())
    assert all(torch.equal(now[name], best[name]) for name in best)
    assert not any(torch.equal(now[name], online[name]) for name in best)


def test_learning_rate_warms_up_and_falls_to_zero():
    config = TrainingConfig(steps=1000, warmup_steps=50, learning_rate=0.2)
    rates = [learning_rate(step, config) for step in range(1000)]
    assert rates[:50] == pytest.approx([0.2 * (s + 1) / 50 for s in range(50)])
    assert rates[50] == 0.2
    assert all(a > b > 0 for a, b in pairwise(rates[50:]))
    assert rates[525] == pytest.approx(0.1)  # half-way down the cosine
    assert rates[-1] == pytest.approx(0.2 * 0.5 * (1 - math.cos(math.pi / 950)))
    # A short run warms up for a tenth of its steps, not for all of them.
    assert learning_rate(10, TrainingConfig(steps=100, warmup_steps=200, learning_rate=0.2)) == 0.2
    flat = TrainingConfig(steps=1000, warmup_steps=0, learning_rate=0.2, decay="constant")
    assert {learning_rate(step, flat) for step in (1, 500, 999)} == {0.2}
    assert learning_rate(0, TrainingConfig(steps=1)) > 0


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_the_optimiser_uses_that_rate(decay):
    """Under a constant gradient Adam moves by exactly the rate of each step, so the weight ends at minus their sum."""
    trainer = number_trainer(
        lambda flow, batch, generator=None: flow.weight + 0 * batch.x1,
        torch.zeros(4),
        steps=40,
        learning_rate=0.1,
        decay=decay,
        ema_decay=0.0,
    )
    trainer.run()
    total = sum(learning_rate(step, trainer.config) for step in range(40))
    assert trainer.flow.weight.item() == pytest.approx(-total, rel=1e-5)  # 40 additions in float32


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"warmup_steps": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"weight_decay": -0.1},
        {"weight_decay": math.nan},
        {"gradient_clip": -1.0},
        {"gradient_clip": math.nan},
        {"ema_decay": 1.5},
        {"ema_decay": math.nan},
        {"decay": "linear"},
        {"validation_every": -1},
        {"checkpoint_seconds": -1.0},
        {"seed": -1},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_state_round_trip():
    first = matching_trainer(steps=20)
    first.run()
    other = matching_trainer(steps=20, seed=5)
    assert not same(first.state.tensors(), other.state.tensors())
    other.state.load(first.state.tensors(), first.state.numbers())
    assert same(first.state.tensors(), other.state.tensors())
    assert first.state.numbers() == other.state.numbers()
    # What was loaded is a copy: training on does not reach back into the dictionary it came from.
    assert all(
        a.data_ptr() != b.data_ptr()
        for a, b in zip(first.state.tensors().values(), other.state.tensors().values(), strict=True)
    )


def test_checkpoint_of_another_model_is_refused():
    trainer = matching_trainer(steps=5)
    trainer.run()
    tensors, numbers = trainer.state.tensors(), trainer.state.numbers()
    for name in ("model.layers.0.weight", "average.layers.0.weight"):
        short = {k: v for k, v in tensors.items() if k != name}
        with pytest.raises(TrainingError, match="does not fit"):
            matching_trainer(steps=5).state.load(short, numbers)
    with pytest.raises(TrainingError, match="does not fit"):
        matching_trainer(steps=5).state.load(tensors, {})
    wider = tensors | {"model.layers.0.weight": torch.zeros(5, 3)}
    with pytest.raises(TrainingError, match="does not fit"):
        matching_trainer(steps=5).state.load(wider, numbers)


def test_without_validation_the_last_average_is_used():
    module = linear()
    state = TrainingState(module, torch.optim.AdamW(module.parameters()), WeightAverage(module, 0.5))
    walk(state.average, module, 4)
    state.use_best()
    assert torch.equal(module.weight, state.average.tensors()["weight"])
    assert not state.remember_best(math.nan)
