"""A training survives signals and kills: the same command continues, and the weights are those of a straight run.

Every training here is a real process. Moments are found by what the process says and by random waits, not by timing
assertions: a machine that is too quick for a kill only makes the test easier.
"""

import json
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from advect.cli.interrupt import stop_on_signals
from tests.faces.made_runs import advect, houses

STEPS = 2000
TRAIN = f"train houses.csv --steps {STEPS} --network mlp-1x8 --set checkpoint_seconds=0.2 --set validation_every=50"
PATIENCE = 90.0


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The folder of a run that nobody disturbed, with its data."""
    folder = tmp_path_factory.mktemp("straight")
    houses(folder / "houses.csv")
    done = advect(f"{TRAIN} --out run", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(straight, tmp_path) -> Path:
    (tmp_path / "houses.csv").write_bytes((straight / "houses.csv").read_bytes())
    return tmp_path


class Training:
    """A running `advect train` whose standard error can be watched."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "stderr.txt"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "advect", *shlex.split(f"{TRAIN} --out run")],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=stream,
            )

    def wait_for(self, words: str) -> bool:
        """Wait until the process says ``words``; False if it ended without."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            if words in self.log.read_text():
                return True
            if ended:
                return False
            time.sleep(0.01)
        self.process.kill()
        raise AssertionError(f"the training never said {words!r}: {self.log.read_text()}")

    def send(self, number: int) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def same_bits(one: Path, other: Path) -> bool:
    """Whether two runs hold the same weights, bit by bit."""
    left, right = load_file(one / "run/model.safetensors"), load_file(other / "run/model.safetensors")
    assert len(left) > 10
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def history(folder: Path) -> list[dict]:
    """The metrics without the clock."""
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.slow
def test_signals_checkpoint_and_the_same_command_continues(straight, folder):
    for number, before in ((signal.SIGINT, "of training\n"), (signal.SIGTERM, "Continuing at step")):
        training = Training(folder)
        assert training.wait_for(before)
        assert training.wait_for("\nstep "), training.log.read_text()  # a line of life: the loop runs
        assert training.send(number) == 130, training.log.read_text()
        said = training.log.read_text()
        assert "Stopped after step" in said
        assert "Traceback" not in said
        assert (folder / "run/checkpoint/state.safetensors").exists()
        assert not (folder / "run/model.safetensors").exists()
    done = advect(f"{TRAIN} --out run", folder)
    assert done.returncode == 0, done.stderr
    assert "Continuing at step" in done.stderr
    assert same_bits(straight, folder)
    assert {line["step"] for line in history(folder)} >= {line["step"] for line in history(straight)}


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit(straight, folder):
    """Issue item: kill −9 at a random point and continue gives the same final weights."""
    moments = random.Random(20)
    killed = 0
    for first in (True, False, False):
        training = Training(folder)
        if training.wait_for("of training" if first else "Continuing at step"):
            time.sleep(moments.uniform(0, 1.0))
        killed += training.send(signal.SIGKILL) == -signal.SIGKILL
    assert killed  # the first is still in its seven hundred steps, whatever the machine
    done = advect(f"{TRAIN} --out run", folder)
    assert done.returncode == 0, done.stderr
    assert same_bits(straight, folder)


def test_a_signal_before_the_loop_ends_the_command_with_130(folder):
    training = Training(folder)
    assert training.wait_for("reading")
    assert training.send(signal.SIGTERM) == 130, training.log.read_text()
    said = training.log.read_text()
    assert "continues" in said
    assert "Traceback" not in said


# The request itself


def test_while_the_loop_runs_a_signal_is_only_remembered():
    with stop_on_signals() as stop:
        stop.phase("reading")
        stop.phase("training")
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)  # asked twice


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_the_loop_a_signal_ends_at_once(number):
    with stop_on_signals() as stop:
        stop.phase("reading")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_a_signal_too_late_for_the_loop_is_followed_in_the_next_phase():
    with stop_on_signals() as stop:
        stop.phase("training")
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.phase("evaluating")


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
