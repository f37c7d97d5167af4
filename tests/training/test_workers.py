"""Several processes at one training, as torchrun starts them: real processes, gloo on this machine alone."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from advect.errors import ConfigError
from advect.run import CHECKPOINT, CONFIG, METRICS, MODEL, read_tensors
from advect.training import ALONE, joined
from tests.workflows.tiny import moons

SCRIPT = """
import sys
from pathlib import Path
import torch
from advect.training import joined
from advect.workflows.fit import train
from advect.workflows.request import TrainRequest
torch.set_num_threads(1)
data, out, steps, seconds, method, budget = sys.argv[1:7]
with joined() as workers:
    request = TrainRequest(
        data, out=Path(out), steps=None if budget else int(steps), budget_seconds=float(budget) if budget else None,
        batch_size=32, network="auto" if method == "residual" else "residual-1x8", method=method,
        training={"checkpoint_seconds": float(seconds), "validation_every": 50},
    )
    result = train(request, evaluate=False, workers=workers)
    Path(f"{out}.{workers.rank}").write_text(f"{result.state} {result.step}")
"""


def command(tmp_path, processes: int, out: str, *, steps=200, seconds=15.0, method="ot-cfm", budget="") -> list[str]:
    """The command line of a training by so many processes."""
    (tmp_path / "script.py").write_text(SCRIPT)
    np.save(tmp_path / "rows.npy", moons())
    values = [str(tmp_path / "rows.npy"), str(tmp_path / out), str(steps), str(seconds), method, budget]
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*start, str(tmp_path / "script.py"), *values]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def trained(tmp_path, processes: int, out: str, **more) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """A finished training: its history and its weights."""
    line = command(tmp_path, processes, out, **more)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    history = [json.loads(line) for line in (tmp_path / out / METRICS).read_text().splitlines()]
    return history, read_tensors(tmp_path / out / MODEL)[0]


def ends(tmp_path, out: str) -> list[str]:
    """How the training ended, as each process saw it."""
    return [(tmp_path / f"{out}.{rank}").read_text() for rank in (0, 1)]


CURVES = ("train_loss", "validation_loss")


def assert_near(left, right, tolerance: float = 1e-4, only: str = "", curves=CURVES) -> None:
    """Equal up to the order in which rows are added: about 1e-7 per step, and Adam carries it on."""
    assert [line["step"] for line in left[0]] == [line["step"] for line in right[0]]
    for name in curves:
        np.testing.assert_allclose([x[name] for x in left[0]], [x[name] for x in right[0]], rtol=0, atol=tolerance)
    assert left[1].keys() == right[1].keys()
    for name, weight in ((name, weight) for name, weight in left[1].items() if only in name):
        torch.testing.assert_close(weight, right[1][name], rtol=0, atol=20 * tolerance)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One process, uninterrupted."""
    return trained(tmp_path_factory.mktemp("straight"), 1, "run")


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path, straight):
    """Issue on many machines, "It must show" 4, and trap O12: the same loss curve, whatever the number of processes."""
    two = trained(tmp_path, 2, "run")
    assert_near(straight, two)
    assert ends(tmp_path, "run") == ["finished 200", "finished 200"]
    assert "processes = 2" in (tmp_path / "run" / CONFIG).read_text()
    trained(tmp_path, 2, "run")
    assert ends(tmp_path, "run") == ["already finished 200", "finished 0"]


@pytest.mark.slow
def test_layers_that_start_from_the_first_batch_start_alike(tmp_path):
    """Trap T14: residual blocks between ActNorm layers; their mean and deviation are of the rows of all processes.

    The first look is one more step of the power iterations too, so losses near 2.6 differ by more than roundings.
    """
    runs = [trained(tmp_path, n, f"run{n}", steps=60, method="residual") for n in (1, 2)]
    assert_near(*runs, tolerance=1e-3, only="log_scale")


@pytest.mark.slow
def test_saved_by_two_continued_by_one_and_by_two(tmp_path, straight):
    """A process is killed, later one is asked to stop; each time the same command continues, by any number of them."""
    checkpoint = tmp_path / "run" / CHECKPOINT

    def step() -> int:
        return int(str(read_tensors(checkpoint)[1]["step"])) if checkpoint.exists() else 0

    def begin(processes: int, least: int) -> subprocess.Popen:
        line = command(tmp_path, processes, "run", seconds=0.0)
        process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 100
        while step() < least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return process

    first = begin(2, 20)
    children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    started = time.monotonic()
    assert first.wait(timeout=120) != 0
    assert time.monotonic() - started < 90  # it ends within the patience of a message, and does not hang
    held = step()
    assert 20 <= held < 200

    second = begin(1, held + 20)
    second.send_signal(signal.SIGKILL)
    second.wait(timeout=100)
    assert held + 20 <= step() < 200
    # The training loss that is written is a mean since the last start; the other is one of fixed rows.
    assert_near(straight, trained(tmp_path, 2, "run"), curves=("validation_loss",))


@pytest.mark.slow
def test_a_budget_is_the_leader_s(tmp_path):
    """Each process has a clock of its own; all of them do the steps that the leader planned."""
    trained(tmp_path, 2, "run", budget="4")
    leader, follower = ends(tmp_path, "run")
    assert leader == follower
    assert leader.startswith("finished ")


def test_by_oneself_nobody_is_met():
    with joined({}) as workers:
        assert workers is ALONE
    with joined({"WORLD_SIZE": "1", "RANK": "0"}) as workers:
        assert workers is ALONE


@pytest.mark.parametrize("left", [{}, {"RANK": "x"}, {"RANK": "0", "MASTER_ADDR": "localhost"}], ids=str)
def test_half_an_environment_is_refused(left):
    with pytest.raises(ConfigError, match="several processes are asked for"), joined({"WORLD_SIZE": "2", **left}):
        raise AssertionError("not reached")
