"""Weights spread over processes: the training of one process, saved on any number and resumed on any other."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from advect.errors import ConfigError
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import make_network
from advect.objectives import MaximumLikelihood, VelocityMatching
from advect.paths import AffinePath, Linear, linear
from advect.run import LAST_SET, METRICS, MODEL, RunFolder, read_checkpoint, read_tensors
from advect.training import ALONE, TrainingConfig, Workers
from advect.training.sharding import _blocks, spread_over
from advect.workflows.fit import train
from advect.workflows.open import open_run
from advect.workflows.request import TrainRequest
from tests.training.test_switches import RATE, flow_of, trainer, wake
from tests.training.test_workers import assert_near, environment
from tests.workflows.tiny import moons

TOLERANCE = 1e-5  # of losses near 1: 1e-7 for each of 60 steps; one block gathered too early costs 1e-4 and more
STEPS, LAUNCHER = 60, [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = """
import sys
from pathlib import Path
import torch
from advect.training import joined
from advect.workflows.fit import train
from tests.training.test_sharding import asked
torch.set_num_threads(1)
folder, last, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
with joined() as workers:
    asked(folder, last, workers, seconds)
"""


def asked(folder: Path, last: int = STEPS, workers: Workers = ALONE, seconds: float = 15.0, **more: object) -> str:
    """A training, or the part of one process of it, that is stopped before step ``last`` + 1; how it ended."""
    request = TrainRequest(
        str(folder.parent / "rows.npy"),
        out=folder,
        steps=STEPS,
        batch_size=32,
        network="residual-1x7",  # rows that two do not share evenly
        training={"checkpoint_seconds": seconds, "validation_every": 10, "shard": True, **more},
    )
    checkpoint = read_checkpoint(RunFolder(folder))
    steps = iter(range(0 if checkpoint is None else int(checkpoint[1]["step"]), 10 * STEPS))
    return train(request, evaluate=False, workers=workers, stop=lambda: next(steps) >= last).state


def command(folder: Path, last: int = STEPS, seconds: float = 15.0) -> list[str]:
    """The command line of the same by two processes."""
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    return [*LAUNCHER, str(script), str(folder), str(last), str(seconds)]


def by_two(folder: Path, last: int = STEPS) -> None:
    done = subprocess.run(command(folder, last), env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def curve(folder: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    history = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return history, read_tensors(folder / MODEL)[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Rows, and one process' uninterrupted training on them."""
    folder = tmp_path_factory.mktemp("sharding")
    np.save(folder / "rows.npy", moons())
    assert asked(folder / "straight") == "finished"
    return folder


@pytest.mark.slow
def test_begun_by_two_continued_by_one_and_finished_by_two(place):
    """Issue on many machines, "It must show" 4."""
    run = place / "run"
    by_two(run, 20)
    checkpoint = read_checkpoint(RunFolder(run))
    assert checkpoint is not None
    assert checkpoint[1]["step"] == 20
    last = json.loads((run / LAST_SET).read_text())
    sizes = [(run / LAST_SET).parent.joinpath(last["set"], part).stat().st_size for part in last["parts"]]
    assert 0.6 < sizes[1] / sizes[0] < 1  # the leader also writes what all hold, and has the longer halves
    assert asked(run, 40) == "interrupted"
    assert read_checkpoint(RunFolder(run))[1]["step"] == 40
    by_two(run)
    # The training loss that is written is a mean since the last start; the other is one of fixed rows.
    assert_near(curve(place / "straight"), curve(run), TOLERANCE, curves=("validation_loss",))
    drawn = open_run(run).flow.sample(7, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (7, 2)
    assert bool(torch.isfinite(drawn).all())


@pytest.mark.slow
def test_both_killed_the_run_goes_on_from_the_last_whole_set(place):
    run = place / "killed"
    with subprocess.Popen(
        command(run, seconds=0.0), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        begun = time.monotonic()
        while not (run / LAST_SET).exists() and first.poll() is None and time.monotonic() - begun < 100:
            time.sleep(0.01)
        time.sleep(0.2)
        children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True)
        for child in children.stdout.split():
            os.kill(int(child), signal.SIGKILL)
        assert first.wait(timeout=100) != 0
    checkpoint = read_checkpoint(RunFolder(run))
    assert checkpoint is not None
    assert 0 < int(checkpoint[1]["step"]) < STEPS
    assert asked(run) == "finished"
    assert_near(curve(place / "straight"), curve(run), TOLERANCE, curves=("validation_loss",))


SWITCHED = """
import json, sys
from functools import partial
from pathlib import Path
import torch
from advect.training import joined
from tests.training.test_sharding import CASES, switched_training
torch.set_num_threads(1)
torch.compile = partial(torch.compile, backend="aot_eager")  # graphs as ever, without a C++ compiler
with joined() as workers:
    told = {case: switched_training(case, workers) for case in CASES}
    if workers.leads:
        Path(sys.argv[1]).write_text(json.dumps(told))
"""
CASES = ("unet", "unet checkpoint", "unet channels_last", "dit checkpoint compile")


def switched_training(case: str, workers: Workers = ALONE) -> dict[str, object]:
    """Four steps of a network on pictures, weights spread out and these switches on: what comes out, what was seen."""
    kind, *names = case.split()
    said: list[str] = []
    given = wake(flow_of(kind))
    made = trainer(flow=given, workers=workers, said=said, shard=True, **dict.fromkeys(names, True))
    kept, pixels = [0], set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += tensor.numel()
        return tensor

    def look(_: nn.Module, __: object, answer: torch.Tensor) -> None:
        pixels.add(answer.is_contiguous(memory_format=torch.channels_last))

    seen: AbstractContextManager[object] = nullcontext()
    if not made.config.compile:  # whose graphs are made of what is there when it begins
        seen = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        for module in made.flow.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(look)
    before = Counter(counters["stats"])
    with seen:
        made.run()
    return {
        "losses": [line[key] for line in made.sink.history for key in ("train_loss", "validation_loss")],
        "weights": torch.cat([p.detach().flatten() for p in given.parameters()]).tolist() if workers.leads else [],
        "kept": kept[0],
        "pixels": sorted(pixels),
        "graphs": (counters["stats"] - before)["unique_graphs"],
        "left": sum("forward" in vars(module) for module in made.flow.modules()) + len(said),
    }


@pytest.fixture(scope="module")
def switched(tmp_path_factory) -> dict[str, dict]:
    """What two processes made of every case."""
    folder = tmp_path_factory.mktemp("switched")
    (folder / "script.py").write_text(SWITCHED)
    line = [*LAUNCHER, str(folder / "script.py"), str(folder / "told.json")]
    # Without compiled norms, for which U-Nets lay pictures pixel by pixel unasked.
    plain = environment() | {"ADVECT_KERNEL": "none"}
    done = subprocess.run(line, env=plain, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_with_switches_too_it_is_the_training_of_one_process_without_them(switched, case):
    """Rounding is as for each switch by itself, see `test_switches`: a weight whose gradient is zero but for rounding
    may go either way by the rate in each of four steps."""
    plain, found = switched_training(case.split()[0]), switched[case]
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-4)
    np.testing.assert_allclose(found["weights"], plain["weights"], rtol=1e-3, atol=4 * RATE)
    assert np.median(np.abs(np.subtract(found["weights"], plain["weights"]))) < 1e-5
    assert found["left"] == 0


@pytest.mark.slow
def test_switches_are_on_where_weights_are_spread(switched):
    assert switched["unet checkpoint"]["kept"] < 0.5 * switched["unet"]["kept"]
    assert switched["unet"]["pixels"] == [False]
    assert switched["unet channels_last"]["pixels"] == [True]
    assert switched["unet"]["graphs"] == 0
    assert switched["dit checkpoint compile"]["graphs"] >= 1  # its two blocks are alike


class Listed(nn.Module):
    """A network that lists blocks, and blocks of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.SiLU()])
        self.levels = nn.ModuleList([nn.ModuleList([nn.Sequential(nn.Linear(3, 3))]), nn.ModuleList([])])


def test_blocks_are_what_a_network_lists_and_then_the_network():
    network = Listed()
    assert [*_blocks(network)] == [network.blocks[0], network.levels[0][0], network]


def test_what_cannot_be_spread_is_refused_before_a_message():
    two, flow = Workers(0, 2), nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="not that of a network"):
        spread_over(flow, MaximumLikelihood(), TrainingConfig(shard=True), two)
    assert spread_over(flow, MaximumLikelihood(), TrainingConfig(), two) is None
    assert spread_over(flow, MaximumLikelihood(), TrainingConfig(shard=True), two.silent()) is None


def test_processes_that_pass_through_the_network_unequally_often_are_refused():
    uneven = TrainingConfig(shard=True, batch_size=33, microbatch=8)
    with pytest.raises(ConfigError, match="microbatch"):
        spread_over(nn.Linear(2, 2), VelocityMatching(AffinePath(Linear())), uneven, Workers(0, 2))
    even = TrainingConfig(shard=True, batch_size=32, microbatch=8)
    with pytest.raises(ConfigError, match="no network of a velocity"):
        spread_over(nn.Linear(2, 2), VelocityMatching(AffinePath(Linear())), even, Workers(0, 2))


def test_a_network_of_single_layers_has_nothing_to_compile_between_two_gatherings():
    network = make_network("residual-2x8", event_shape=(2,))
    flow = Flow(StandardNormal((2,)), ContinuousMap(VelocityField(network), event_shape=(2,)))
    with pytest.raises(ConfigError, match="single layers"):
        spread_over(flow, VelocityMatching(linear()), TrainingConfig(shard=True, compile=True), Workers(0, 2))
