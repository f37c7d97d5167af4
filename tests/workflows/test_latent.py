"""``--latent``: an autoencoder first, the flow on its codes; stopped, killed, continued and reopened."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from advect.cli.app import run as command_of
from advect.data import read_table, take_rows
from advect.errors import ConfigError, UnknownNameError, UnsupportedError
from advect.run import RunFolder, read_config, read_tensors
from advect.training import generator_for
from advect.workflows.again import evaluate_run, find_data
from advect.workflows.autoencoding import Autoencoding, autoencoding
from advect.workflows.generate import generate
from advect.workflows.open import open_run
from advect.workflows.report import command_line
from advect.workflows.score import score
from advect.workflows.transport import to_latent
from tests.training.test_workers import environment
from tests.workflows.tiny import Ear, bright_pictures, moons, run

CODING = Autoencoding(channels=2, halvings=1, width=4, steps=20, batch_size=16)
TINY = {"condition": ("label",), "steps": 6, "batch_size": 16, "network": "residual-1x8", "latent": CODING}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sides that do not halve."""
    return bright_pictures(tmp_path_factory.mktemp("pictures") / "all", side=9, each=60)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return run(str(folder), out=out, **TINY).folder


def weights(path):
    return dict(open_run(path).flow.state_dict())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_samples_are_pictures_and_the_flow_is_on_codes(finished):
    artefact = open_run(finished)
    assert artefact.flow.base.event_shape == (2, 5, 5)
    assert artefact.flow.event_shape == (1, 9, 9)
    drawn = generate(artefact, 4, seed=1).table
    assert drawn.image
    assert drawn.event_shape == (1, 9, 9)
    config = read_config(RunFolder(finished))
    assert config["latent"]["channels"] == 2
    assert config["model"]["event_shape"] == [2, 5, 5]


def test_the_command_of_the_run_names_the_stage(finished):
    words = command_line(RunFolder(finished), open_run(finished))
    assert "--latent --set latent_channels=2" in words
    assert "--set latent_steps=20" in words


def test_codes_of_training_pictures_are_standardised(folder, finished):
    artefact = open_run(finished)
    table, split = find_data(artefact)
    found = to_latent(artefact, take_rows(table, split.train), generator_for(0))
    # The pixels' noise within a level is drawn anew: means and spreads agree to a few hundredths.
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(2), atol=0.05, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(2), atol=0.05, rtol=0)


def test_pictures_have_no_likelihood_and_the_refusal_says_what_to_do(folder, finished):
    artefact = open_run(finished)
    assert artefact.flow.likelihood == "none"
    with pytest.raises(UnsupportedError, match="a density of codes is none of pictures") as refused:
        score(artefact, read_table(str(folder)))
    assert "without --latent" in str(refused.value)


def test_figures_are_of_decoded_pictures(finished):
    found = evaluate_run(finished, deadline=time.monotonic())
    assert "a density of codes" in found["likelihood"]["reason"]
    names = {metric["name"] for metric in found["metrics"]}
    assert {"sliced Wasserstein-2", "classifier two-sample test"} <= names


def test_a_run_stopped_in_either_stage_ends_with_the_same_bits(folder, finished, tmp_path):
    out = tmp_path / "run"

    def after(count):
        asked = iter(range(10**9))
        return lambda: next(asked) >= count

    first = run(str(folder), out=out, stop=after(7), **TINY)
    # On from step 7 of the autoencoder's 20, and three steps of the flow.
    second = run(str(folder), out=out, stop=after(16), **TINY)
    assert (first.state, second.state, second.step) == ("interrupted", "interrupted", 3)
    ear = Ear()
    assert run(str(folder), out=out, listener=ear, **TINY).state == "finished"
    assert any("Continuing at step 3" in note for note in ear.notes)
    assert same(weights(out), weights(finished))


def test_memory_and_folder_give_the_same(folder, finished):
    in_memory = run(str(folder), **TINY).artefact
    assert in_memory is not None
    assert same(dict(in_memory.flow.state_dict()), weights(finished))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder/checkpoint/state.safetensors", "checkpoint/state.safetensors"])
def test_a_killed_run_goes_on(folder, finished, tmp_path, stage):
    """SIGKILL once the stage has written its first checkpoint; the same command ends with the bits of a quiet run."""
    out = tmp_path / "run"
    words = [str(folder), "--condition", "label", "--steps", "6", "--batch-size", "16", "--network", "residual-1x8"]
    words += ["--method", "i-cfm", "--latent", "--out", str(out), "--set", "checkpoint_seconds=0"]
    for name in ("channels=2", "halvings=1", "width=4", "steps=20", "batch_size=16"):
        words += ["--set", f"latent_{name}"]
    command = [sys.executable, "-m", "advect", "train", *words]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / stage).exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert same(weights(out), weights(finished))


def test_mirrored_pictures_are_coded_as_they_are_drawn(folder):
    assert run(str(folder), flip=True, **TINY).state == "finished"


def test_a_budget_is_shared_by_both_stages(folder, tmp_path):
    settings = {**TINY, "steps": None, "budget_seconds": 6.0}
    started = time.monotonic()
    result = run(str(folder), out=tmp_path / "run", **settings)
    assert result.state == "finished"
    assert time.monotonic() - started < 60  # no more than that it ends; machines may be busy


def test_what_cannot_be_coded_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="made for pictures"):
        run(moons(), latent=CODING)
    with pytest.raises(ConfigError, match="too small to be halved"):
        run(str(folder), **{**TINY, "latent": Autoencoding(halvings=4)})
    with pytest.raises(ConfigError, match="cannot be used with codes"):
        run(str(folder), source=str(folder), **TINY)
    with pytest.raises(UnknownNameError, match="latent_chanels"):
        autoencoding(True, {"chanels": 3})
    with pytest.raises(ConfigError, match="no autoencoder to set up"):
        autoencoding(False, {"channels": 3})
    with pytest.raises(ConfigError, match="no whole number"):
        autoencoding(True, {"channels": 3.5})
    assert command_of(["train", "moons", "--latent", "--out", str(tmp_path / "run")]) == 2


TOGETHER = """
import json, sys
from pathlib import Path
import torch
from advect.run import RunFolder
from advect.training import joined
from advect.workflows.first_stage import with_first_stage
from advect.workflows.fit import train
from advect.workflows.listen import Silence
from advect.workflows.prepare import prepare
from advect.workflows.request import TrainRequest
from tests.workflows.test_latent import TINY
torch.set_num_threads(1)
data, out = sys.argv[1], Path(sys.argv[2])
request, told = TrainRequest(data, out=out, **TINY), {}
with joined() as workers:
    steps = iter(range(100))
    # The second process alone is asked to stop, in the middle of the first stage.
    stop = lambda: not workers.leads and next(steps) >= 7
    told["stopped"] = train(request, evaluate=False, workers=workers, stop=stop).state
    told["finished"] = train(request, evaluate=False, workers=workers).state
    prepared, _ = with_first_stage(prepare(request), RunFolder(out), Silence(), lambda: False, workers=workers)
    told["weights"] = [value.double().sum().item() for value in prepared.stage.state_dict().values()]
    told["again"] = train(request, evaluate=False, workers=workers).state
    # Without a folder nothing is read back: what is equal has gone over the wire.
    fresh, _ = with_first_stage(prepare(TrainRequest(data, **TINY)), None, Silence(), lambda: False, workers=workers)
    codes = fresh.train.draw(torch.arange(fresh.train.num_rows), torch.Generator())
    told["fresh"] = [value.double().sum().item() for value in (*fresh.stage.state_dict().values(), codes)]
    Path(f"{out}.{workers.rank}").write_text(json.dumps(told))
"""


@pytest.mark.slow
def test_two_processes_train_it_together_stop_together_and_have_the_same(folder, tmp_path):
    (tmp_path / "script.py").write_text(TOGETHER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*launcher, str(tmp_path / "script.py"), str(folder), str(tmp_path / "run")]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"run.{rank}").read_text()) for rank in (0, 1))
    assert (first.pop("again"), second.pop("again")) == ("already finished", "finished")  # who follows is sent home
    assert first == second
    assert (first["stopped"], first["finished"]) == ("interrupted", "finished")
    stage, card = read_tensors(tmp_path / "run" / "autoencoder" / "model.safetensors")
    assert card["step"] == CODING.steps
    assert sorted(first["weights"]) == sorted(value.double().sum().item() for value in stage.values())
    # Its noise is drawn for each share anew, so the codes are not those of one process; the curve is near all the same.
    losses = [last_loss(path) for path in (tmp_path / "run", run(str(folder), out=tmp_path / "alone", **TINY).folder)]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert generate(open_run(tmp_path / "run"), 3, seed=1).table.event_shape == (1, 9, 9)


def last_loss(path) -> float:
    """Of the first stage, on validation pictures."""
    return json.loads((path / "autoencoder" / "metrics.jsonl").read_text().splitlines()[-1])["validation_loss"]
