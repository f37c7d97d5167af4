"""Probes: when they are asked, what they may cost, and that no bit of the training depends on them."""

from types import SimpleNamespace

import pytest
import torch

from advect.errors import ConfigError, SolverError
from advect.training import Probes, Trainer, TrainingConfig
from advect.training import probes as module
from advect.training.probes import MOMENTS, TRIED
from tests.training.small import SmallField, matching_trainer, same


class Clocked:
    """A probe that moves a clock, and notes how many rows it was asked for."""

    def __init__(self, clock, each=0.0, rows=100, fixed=0.0):
        self.clock, self.each, self.rows, self.fixed, self.asked = clock, each, rows, fixed, []

    def __call__(self, rows):
        self.asked.append(rows)
        self.clock.now += self.fixed + self.each * rows
        return {"figure": float(len(self.asked))}


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@pytest.mark.parametrize(("steps", "interval"), [(5000, 100), (300, 50), (7, 50), (60, 7), (1000, 333)])
def test_moments_depend_on_the_step_alone(clock, steps, interval):
    probes = Probes([Clocked(clock)], 0.03)
    validated = [*range(interval, steps, interval), steps]
    due = [step for step in validated if probes.due(step, (step - 1) // interval * interval, steps)]
    assert due[-1] == steps
    assert len(due) == min(MOMENTS, len(validated))


def test_their_share_of_the_time_is_kept(clock):
    """Steps of a second, measurements of 4 s and of 1000 s: never above 3 %, but for what the first tries take."""
    cheap, dear = Clocked(clock, each=0.04), Clocked(clock, each=10.0)
    probes = Probes([cheap, dear], 0.03)
    clock.now += 5.0  # set-up does not count
    probes.begin()
    steps, began = 2000, clock.now
    for _ in range(steps):
        clock.now += 1.0
        probes.measure()
    spent = clock.now - began - steps
    tried = 0.04 * 25 + 10.0 * 25
    assert cheap.asked[0] == dear.asked[0] == 100 // TRIED
    assert len(dear.asked) == 1  # it was tried, and is too dear for this training
    assert spent - tried <= 0.03 * (steps + spent)
    # Half of the share is the cheap one's, less its try, in measurements of 4 s.
    assert cheap.asked.count(100) == pytest.approx((0.015 * (steps + spent) - 1.0) / 4.0, abs=1.0)


def test_a_probe_that_fails_stops_nothing(clock):
    def fails(rows):
        raise SolverError("nothing converges")

    fails.rows = 10
    fine = Clocked(clock, each=0.001)
    probes = Probes([fails, fine], 0.5)
    clock.now += 10.0
    assert probes.measure() == {"figure": 2.0}


def test_a_share_of_nothing_measures_nothing(clock):
    assert not Probes([Clocked(clock)], 0.0).due(10, 0, 10)
    assert not Probes([], 0.5).due(10, 0, 10)
    with pytest.raises(ConfigError, match="probe_share"):
        TrainingConfig(probe_share=1.5)
    with pytest.raises(ConfigError, match="probe_share"):
        TrainingConfig(probe_share=float("nan"))


class Norm:
    """The size of the weights, after draws that would change a training if they were taken from its generators."""

    rows = 8

    def __init__(self, field):
        self.field = field
        self.training: list[bool] = []

    def __call__(self, rows):
        self.training.append(self.field.training)
        torch.randn(5)
        return {"norm": float(sum(p.square().sum() for p in self.field.parameters()))}


def probed(steps=42, share=1.0, **more) -> tuple[Trainer, Norm]:
    field = SmallField(dropout=0.2)
    trainer = matching_trainer(steps=steps, field=field, probe_share=share, **more)
    probe = Norm(field)
    trainer.probes = Probes([probe], share)
    return trainer, probe


def test_no_bit_depends_on_probes():
    with_probes, probe = probed()
    with_probes.run()
    without = matching_trainer(steps=42, field=SmallField(dropout=0.2))
    without.run()
    assert same(with_probes.sink.checkpoints[-1][0], without.sink.checkpoints[-1][0])
    assert not any(probe.training)
    measured = [line for line in with_probes.sink.history if "norm" in line]
    assert [line["step"] for line in measured] == [7, 14, 21, 28, 35, 42]
    assert with_probes.flow.training == without.flow.training


def test_the_averaged_weights_are_measured():
    trainer, _ = probed()
    trainer.run()
    last = trainer.sink.history[-1]["norm"]
    assert last == pytest.approx(float(sum(p.square().sum() for p in trainer.state.average.shadow)), rel=1e-6)
    assert last != pytest.approx(float(sum(v.square().sum() for v in trainer.state.tensors().values())), rel=1e-3)


def test_probes_need_no_validation_rows():
    trainer, _ = probed()
    trainer.validation = None
    trainer.run()
    assert all("norm" in line and "validation_loss" not in line for line in trainer.sink.history)
