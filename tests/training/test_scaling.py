"""Training in float16: what does not fit is skipped and counted, by the rule of torch's own scaler."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, TrainingError
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import make_network
from advect.objectives import VelocityMatching
from advect.paths import linear
from advect.training import ALONE, Batches, Trainer, TrainingConfig, Workers
from advect.training.scaling import GROWTH_STEPS, LEAST, START, LossScale, check_float16, multiply
from tests.training.small import Recorder, cloud, matching_trainer, rows_of, same
from tests.training.test_workers import environment

HALF = {"precision": "float16"}
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from advect.training import joined
from tests.training.test_scaling import told_of
torch.set_num_threads(1)
with joined() as workers:
    told = [told_of(workers, shard=shard) for shard in (False, True)]
    Path(f"{sys.argv[1]}.{workers.rank}").write_text(json.dumps(told))
"""


def test_the_rule_is_that_of_torchs_scaler():
    ours, generator = LossScale(dynamic=True), torch.Generator().manual_seed(0)
    scale, calm = torch.tensor(START), torch.tensor(0, dtype=torch.int32)
    for bad in (torch.rand(20_000, generator=generator) < 2e-4).tolist():
        torch._amp_update_scale_(scale, calm, torch.tensor(float(bad)), 2.0, 0.5, GROWTH_STEPS)
        if bad:
            assert ours.skip()
        else:
            ours.factor(0.0, 0.0)
        assert (ours.value, ours.calm) == (float(scale), int(calm))
    assert ours.skipped > 0
    assert ours.value != START


@pytest.mark.parametrize("value", [1.0, START])
@pytest.mark.parametrize("most", [0.0, 0.5, 100.0])
def test_gradients_are_brought_back_and_clipped_as_torch_does(value, most):
    parameter = nn.Parameter(torch.zeros(50))
    parameter.grad = torch.randn(50, generator=torch.Generator().manual_seed(0))
    scale = LossScale(dynamic=True)
    scale.value = value
    scaled = parameter.grad * value
    multiply([scaled], scale.factor(float(scaled.norm()), most))
    if most:
        torch.nn.utils.clip_grad_norm_([parameter], most)
    torch.testing.assert_close(scaled, parameter.grad, rtol=1e-6, atol=0)  # a few float32 roundings


@dataclass(frozen=True)
class Enlarged:
    """Matching whose loss is so many times too large; of rows beyond ``odd`` another many times."""

    factor: float = 1.0
    odd: float = 1.0
    matching: VelocityMatching = VelocityMatching(linear())  # noqa: RUF009  frozen

    def draw(self, batch, *, generator=None):
        return self.matching.draw(batch, generator=generator)

    def loss(self, flow, drawn):
        loss = self.matching.loss(flow, drawn) * self.factor
        return torch.where(drawn.bridge.x1[:, 0].abs() > 50, loss * self.odd, loss)

    def __call__(self, flow, batch, *, generator=None):
        return self.loss(flow, self.draw(batch, generator=generator))


def plane_trainer(objective, *, data=None, workers=ALONE, sink=None, note=print, **settings):
    """A network on rows of the plane."""
    network = make_network("residual-2x16", event_shape=(2,), generator=torch.Generator().manual_seed(0))
    flow = Flow(StandardNormal((2,)), ContinuousMap(VelocityField(network), event_shape=(2,)))
    config = TrainingConfig(**{"steps": 40, "batch_size": 16, "validation_every": 10, **HALF, **settings})
    rows, held = (rows_of(cloud() if data is None else data), rows_of(cloud(40, seed=1)))
    sink = Recorder() if sink is None else sink
    batches, validation = Batches(rows, 16, 0, flow.base), Batches(held, 16, 1, flow.base)
    return Trainer(flow, objective, batches, config, sink, validation=validation, workers=workers, note=note)


def test_a_training_in_float16_is_that_in_float32_to_its_rounding():
    plain, half = matching_trainer(), matching_trainer(**HALF)
    plain.run()
    half.run()
    assert half.state.scale.skipped == 0
    losses = [made.sink.history[-1]["validation_loss"] for made in (plain, half)]
    # Products are rounded to 2⁻¹¹; over 60 steps weights drift apart by some of these.
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert losses[1] != losses[0]


def test_what_does_not_fit_is_skipped_counted_and_told():
    made = plane_trainer(Enlarged(1e6), learning_rate=0.01, warmup_steps=0)
    before = {name: tensor.clone() for name, tensor in made.state.average.tensors().items()}
    made.run(stop=lambda: made.state.scale.skipped == 2)
    assert made.state.step == 2
    assert all(torch.equal(p, before[name]) for name, p in made.flow.named_parameters())
    assert all(torch.equal(shadow, before[name]) for name, shadow in made.state.average.tensors().items())
    assert made.state.scale.value == START / 4
    outcome = made.run()
    skipped = made.state.scale.skipped
    assert 2 < skipped < 25  # the factor is 2²⁰
    assert outcome.skipped == skipped
    assert made.sink.lines[-1].skipped == skipped
    assert made.sink.history[-1]["skipped_steps"] == skipped
    assert made.sink.history[-1]["loss_scale"] == START / 2**skipped
    assert made.sink.history[-1]["validation_loss"] < made.sink.history[0]["validation_loss"]
    assert made.state.scale.sentence(40).startswith(f"{skipped} of 40 steps were skipped")


def test_a_run_goes_on_to_the_same_bits_with_its_scale():
    whole, sink = plane_trainer(Enlarged(1e6)), Recorder()
    whole.run()
    part = plane_trainer(Enlarged(1e6), sink=sink)
    part.run(stop=lambda: part.state.step == 5)
    rest = plane_trainer(Enlarged(1e6))
    tensors, numbers = sink.checkpoints[-1]
    rest.state.load(tensors, json.loads(json.dumps(numbers)))
    assert rest.state.scale.skipped > 0
    rest.run()
    assert same(whole.state.tensors(), rest.state.tensors())
    assert rest.state.scale.numbers() == whole.state.scale.numbers()


def test_timing_steps_leaves_the_scale_as_it_was():
    made = plane_trainer(Enlarged(1e6))
    made.time_steps(3)
    assert made.state.scale.numbers() == {"value": START, "calm": 0, "skipped": 0}


def test_accumulated_gradients_are_skipped_together():
    whole, parts = plane_trainer(Enlarged(1e6)), plane_trainer(Enlarged(1e6), microbatch=5)
    whole.run()
    parts.run()
    assert abs(parts.state.scale.skipped - whole.state.scale.skipped) <= 1  # sums of parts are smaller
    losses = [made.sink.history[-1]["validation_loss"] for made in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_what_no_scale_helps_ends_the_run_with_the_state_before():
    made = plane_trainer(Enlarged(float("inf")), steps=60)
    before = [p.detach().clone() for p in made.flow.parameters()]
    with pytest.raises(TrainingError, match="loss is not finite") as error:
        made.run()
    assert "bfloat16" in error.value.remedy
    assert made.state.scale.value == LEAST
    assert made.state.step == 30  # from 2¹⁶ down to 2⁻¹⁴
    assert all(torch.equal(p, b) for p, b in zip(made.flow.parameters(), before, strict=True))


def test_the_way_without_a_graph_is_left_alone():
    assert plane_trainer(Enlarged(), precision="float32")._direct is not None
    assert plane_trainer(Enlarged())._direct is None


def test_a_processor_is_said_to_be_slow_at_it():
    said: list[str] = []
    plane_trainer(Enlarged(), note=said.append)
    assert len(said) == 1
    assert "bfloat16" in said[0]


def test_a_device_that_cannot_is_refused(monkeypatch):
    check_float16(torch.device("cpu"), print)
    with pytest.raises(ConfigError, match="cannot train in float16"):
        check_float16(torch.device("meta"), print)
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype: autocast(kind, dtype, enabled=False))
    with pytest.raises(ConfigError, match="leaves products in float32") as error:
        plane_trainer(Enlarged())
    assert "bfloat16" in error.value.remedy


def told_of(workers: Workers = ALONE, *, shard: bool = False) -> dict:
    """A training in which one row in a hundred is far too large, in whichever process it is."""
    data = cloud()
    data[7, 0] = 100.0
    made = plane_trainer(Enlarged(odd=1e9), data=data, workers=workers, shard=shard, gradient_clip=1.0)
    made.run()
    return {
        "losses": [line["validation_loss"] for line in made.sink.history],
        "skipped": [line["skipped_steps"] for line in made.sink.history],
        "scale": made.state.scale.numbers(),
    }


@pytest.mark.slow
def test_processes_skip_the_same_steps(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*launcher, str(tmp_path / "script.py"), str(tmp_path / "told")]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"told.{rank}").read_text()) for rank in (0, 1))
    alone = told_of()
    assert alone["scale"]["skipped"] > 0
    for one, other in zip(first, second, strict=True):
        assert one["scale"] == other["scale"] == alone["scale"]
        assert one["skipped"] == alone["skipped"]
        # Sums in another order before they are rounded to 2⁻¹¹.
        assert one["losses"] == pytest.approx(alone["losses"], rel=5e-3)
