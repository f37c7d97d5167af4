"""Switches change how a step is computed, not what: the plain training beside each, and nothing left behind."""

import pytest
import torch
from torch import nn

from advect.couplings import Independent
from advect.errors import ConfigError
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import DiffusionTransformer, DiTSize, UNet, UNetSize, make_network
from advect.objectives import VelocityMatching
from advect.paths import linear
from advect.training import ALONE, Batches, Trainer, TrainingConfig
from advect.training.switches import blocks_of, networks_of
from tests.training.small import Recorder, matching_trainer, rows_of, same

SHAPE = (2, 6, 6)
# Sums in another order change a gradient by some float32 roundings; AdamW then moves every weight by the learning rate
# times a ratio that is one at the first step, whatever the size of a gradient. Gradients that are zero up to rounding
# (a bias before a norm) may so go either way, by the rate in each step.
RATE = 1e-3


def network(kind="unet", dropout=0.0):
    if kind == "dit":
        return DiffusionTransformer(SHAPE, size=DiTSize(2, 16, 2), patch=2, generator=torch.Generator().manual_seed(0))
    size = UNetSize(8, (1, 2), 1, attention=(1,), head_channels=8, dropout=dropout)
    return UNet(SHAPE, size=size, generator=torch.Generator().manual_seed(0))


def flow_of(kind="unet", dropout=0.0):
    return Flow(StandardNormal(SHAPE), ContinuousMap(VelocityField(network(kind, dropout)), event_shape=SHAPE))


def trainer(kind="unet", *, dropout=0.0, flow=None, sink=None, said=None, workers=ALONE, **settings):
    flow = flow_of(kind, dropout) if flow is None else flow
    data = torch.rand(32, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batches, held = (Batches(rows_of(data), 8, seed, flow.base, Independent()) for seed in (0, 1))
    config = TrainingConfig(steps=4, batch_size=8, learning_rate=RATE, warmup_steps=0, validation_every=2, **settings)
    return Trainer(
        flow,
        VelocityMatching(linear()),
        batches,
        config,
        Recorder() if sink is None else sink,
        validation=held,
        note=(lambda text: None) if said is None else said.append,
        workers=workers,
    )


def first_gradients(made):
    """Loss and gradients of the first step."""
    with made._switched():
        made.flow.train()
        generator = torch.Generator().manual_seed(5)
        batch = made.batches.draw(0, generator, made._clock.phase)
        torch.manual_seed(3)
        gradients, loss, _ = made._gradients(batch, generator)
        return float(loss), [g.clone() for g in gradients]


def wake(flow):
    """No layer at zero, so that every gradient says something."""
    with torch.no_grad():
        for parameter in flow.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(7))
    return flow


def woken(made):
    wake(made.flow)
    return made


@pytest.mark.parametrize("kind", ["unet", "dit"])
@pytest.mark.parametrize("switch", ["checkpoint", "channels_last"])
def test_the_gradients_are_those_of_the_plain_step(kind, switch):
    loss, gradients = first_gradients(woken(trainer(kind)))
    again, others = first_gradients(woken(trainer(kind, **{switch: True})))
    assert again == pytest.approx(loss, rel=1e-5)
    scale = max(float(g.abs().max()) for g in gradients)
    for plain, other in zip(gradients, others, strict=True):
        # Some hundred float32 roundings of the largest terms that are summed.
        torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5 * scale)


def test_recomputed_blocks_are_exact_with_dropout_too():
    """The same operations on the same numbers, and the generator put back before they are done again."""
    loss, gradients = first_gradients(woken(trainer(dropout=0.3)))
    again, others = first_gradients(woken(trainer(dropout=0.3, checkpoint=True)))
    assert again == loss
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_checkpoint_keeps_less(kind):
    def kept(made):
        sizes = []

        def count(tensor):
            sizes.append(tensor.numel())
            return tensor

        with made._switched(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            made.flow.velocity(0.5, torch.ones(8, *SHAPE))
        return sum(sizes)

    assert kept(trainer(kind, checkpoint=True)) < 0.5 * kept(trainer(kind))


@pytest.mark.parametrize("settings", [{"checkpoint": True}, {"channels_last": True}, {"microbatch": 3}])
def test_a_training_ends_where_the_plain_one_does_and_leaves_nothing_behind(settings):
    plain, other = trainer(), trainer(**settings)
    plain.run()
    other.run()
    losses = [made.sink.history[-1]["validation_loss"] for made in (plain, other)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for a, b in zip(plain.flow.parameters(), other.flow.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=4 * RATE)
        assert b.stride() == a.stride()
    assert not any("forward" in vars(module) for module in other.flow.modules())
    assert plain.flow.state_dict().keys() == other.flow.state_dict().keys()


def test_channels_last_is_on_in_the_steps_and_in_all_that_belongs_to_a_weight():
    made = trainer(channels_last=True)
    seen = []

    def look(*_):
        weight = networks_of(made.flow)[0].down[0][0].block.conv1.weight
        state = made.optimizer.state.get(weight)
        tensors = [weight, made.state.average.tensors()["map.field.network.down.0.0.block.conv1.weight"]]
        tensors += [state["exp_avg"], state["exp_avg_sq"]] if state else []
        seen.append({tensor.stride() for tensor in tensors})

    networks_of(made.flow)[0].input.register_forward_hook(look)
    made.run()
    weight = networks_of(made.flow)[0].down[0][0].block.conv1.weight
    last = torch.empty(weight.shape).to(memory_format=torch.channels_last).stride()
    assert seen
    assert all(strides == {last} for strides in seen)


def test_a_run_goes_on_to_the_same_bits_with_channels_last():
    whole, sink = trainer(channels_last=True), Recorder()
    whole.run()
    part = trainer(channels_last=True, sink=sink)
    part.run(stop=lambda: part.state.step == 2)
    rest = trainer(channels_last=True)
    rest.state.load(*sink.checkpoints[-1])
    rest.run()
    assert same(whole.state.tensors(), rest.state.tensors())


def test_compiled_steps_give_the_same_numbers_and_validation_is_not_compiled(monkeypatch):
    """The wiring, with a stand-in for the compiler that takes seconds: see the slow test below for the compiler."""
    calls = []

    def stand_in(function, **_):
        def compiled(*arguments):
            calls.append(torch.is_grad_enabled())
            return function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", stand_in)
    plain, other = trainer(), trainer(compile=True)
    plain.run()
    other.run()
    assert calls == [True] * 4
    assert same(plain.state.tensors(), other.state.tensors())
    assert not any("forward" in vars(module) for module in other.flow.modules())


def test_where_compiling_fails_training_goes_on_and_says_so_once(monkeypatch):
    def failing(function, **_):
        def compiled(*arguments):
            raise RuntimeError("\nno C++ compiler was found\nmore")

        return compiled

    monkeypatch.setattr(torch, "compile", failing)
    said: list[str] = []
    plain, other = trainer(), trainer(compile=True, said=said)
    plain.run()
    other.run()
    assert same(plain.state.tensors(), other.state.tensors())
    assert len(said) == 1
    assert "could not be compiled (no C++ compiler was found)" in said[0]


def test_networks_and_blocks_are_found():
    flow = trainer().flow
    assert [type(found).__name__ for found in networks_of(flow)] == ["UNet"]
    assert len(blocks_of(networks_of(flow)[0])) == 2 + 2 + 4
    assert len(blocks_of(networks_of(trainer("dit").flow)[0])) == 2
    assert not blocks_of(make_network("residual-2x8", event_shape=(2,)))


def test_what_a_flow_has_no_use_for_is_refused():
    with pytest.raises(ConfigError, match="no network"):
        matching_trainer(compile=True)
    with pytest.raises(ConfigError, match="no blocks"):
        matching_trainer(checkpoint=True)

    def loss(flow, batch, *, generator=None):
        return batch.x1.flatten(1).sum(1)

    for switch in ("compile", "checkpoint"):
        with pytest.raises(ConfigError, match="regressions"):
            Trainer(
                nn.Linear(2, 2),
                loss,
                Batches(rows_of(torch.ones(8, 2)), 4, 0),
                TrainingConfig(**{switch: True}),
                Recorder(),
            )
