"""`train`: it starts, continues, says that it is done, or refuses; and never loses what was written before."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import advect.workflows.fit as fit_module
from advect.errors import AdvectError, DataError, RunFolderError, TrainingError
from advect.methods import Parts
from advect.paths import AffinePath, Linear
from advect.run import CHECKPOINT, CONFIG, METRICS, MODEL, RunFolder, read_tensors
from advect.workflows.fit import train
from advect.workflows.generate import generate
from advect.workflows.open import open_run
from tests.workflows.tiny import Ear, mixed, moons, request, run, stop_after


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / MODEL)[0]


def assert_equal_weights(left: Path, right: Path) -> None:
    a, b = weights_of(left), weights_of(right)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_request_same_bits(tmp_path):
    """Issue, "It must show" 4; the card holds the seconds it took, so files are compared tensor by tensor."""
    for name in ("a", "b"):
        run(mixed(), out=tmp_path / name, method="ot-cfm")
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    run(mixed(), out=tmp_path / "c", method="ot-cfm", seed=1)
    with pytest.raises(AssertionError):
        assert_equal_weights(tmp_path / "a", tmp_path / "c")


def test_memory_and_folder_give_the_same_model(tmp_path):
    memory = run(moons()).artefact
    run(moons(), out=tmp_path / "run")
    kept = weights_of(tmp_path / "run")
    state = memory.flow.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[name], kept[name]) for name in state)


@pytest.mark.parametrize("stops", [(0,), (1, 1), (13, 20), (39,)], ids=str)
def test_interrupted_and_continued_equals_straight(tmp_path, stops):
    run(mixed(), out=tmp_path / "straight")
    ear = Ear()
    for number, steps in enumerate(stops):
        result = run(mixed(), out=tmp_path / "run", stop=stop_after(steps), listener=ear)
        assert (result.state, result.artefact, result.step) == ("interrupted", None, sum(stops[: number + 1]))
        assert RunFolder(tmp_path / "run").state == "started"
        with pytest.raises(RunFolderError, match="not finished"):
            open_run(tmp_path / "run")
    result = run(mixed(), out=tmp_path / "run", listener=ear)
    assert (result.state, result.step, result.steps) == ("finished", 40, 40)
    assert_equal_weights(tmp_path / "straight", tmp_path / "run")
    assert ear.notes[-1] == f"Continuing at step {sum(stops)} of 40."
    assert len(ear.plans) == 1  # the plan is shown once


def test_a_run_begun_before_there_was_a_setting_is_continued_with_its_default(tmp_path):
    """Another value than the default would be a change, and is refused."""
    run(mixed(), out=tmp_path / "straight")
    run(mixed(), out=tmp_path / "run", stop=stop_after(13))
    config = tmp_path / "run" / CONFIG
    kept = [line for line in config.read_text().splitlines() if not line.startswith(("microbatch", "sigma"))]
    assert len(kept) == len(config.read_text().splitlines()) - 2
    config.write_text("\n".join(kept) + "\n")
    with pytest.raises(RunFolderError, match=r"training\.microbatch: not set → 5"):
        run(mixed(), out=tmp_path / "run", training={"microbatch": 5})
    run(mixed(), out=tmp_path / "run")
    assert_equal_weights(tmp_path / "straight", tmp_path / "run")


KILLED = """
import sys
import torch
from pathlib import Path
from advect.workflows.fit import train
from advect.workflows.request import TrainRequest
torch.set_num_threads(1)
request = TrainRequest(
    sys.argv[1], out=Path(sys.argv[2]), steps=300, batch_size=32, network="residual-1x8", method="ot-cfm",
    training={"checkpoint_seconds": 0.0, "validation_every": 50},
)
train(request, evaluate=False)
"""


@pytest.mark.slow
def test_killed_and_continued_equals_straight(tmp_path):
    """Issue, "It must show" 4: kill -9 whenever it happens to come, the same command continues to the same weights."""
    np.save(tmp_path / "rows.npy", moons())
    same = {"data": str(tmp_path / "rows.npy"), "steps": 300, "method": "ot-cfm", "training": {"validation_every": 50}}
    run(out=tmp_path / "straight", **same)
    checkpoint = tmp_path / "killed" / CHECKPOINT
    arguments = [sys.executable, "-c", KILLED, same["data"], str(tmp_path / "killed")]
    with subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 60
        while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / MODEL).exists()
    assert 0 < read_tensors(checkpoint)[1]["step"] < 300
    run(out=tmp_path / "killed", **same)
    assert_equal_weights(tmp_path / "straight", tmp_path / "killed")
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed" / METRICS).read_text().splitlines()]
    assert steps == list(range(50, 301, 50))


def test_a_finished_run_says_so_and_is_left_alone(tmp_path):
    run(moons(), out=tmp_path / "run")
    before = bytes_of(tmp_path / "run")
    ear = Ear()
    again = run(moons(), out=tmp_path / "run", listener=ear)
    assert (again.state, again.step) == ("already finished", 40)
    assert bytes_of(tmp_path / "run") == before
    assert (
        generate(again.artefact, 5).table.columns[0].tolist()
        == generate(open_run(tmp_path / "run"), 5).table.columns[0].tolist()
    )


def test_figures_that_a_crash_cut_off_are_made_up_for(tmp_path):
    run(moons(), out=tmp_path / "run")
    again = run(moons(), out=tmp_path / "run", evaluate=True)
    assert again.state == "already finished"
    assert (tmp_path / "run" / "evaluation.json").exists()
    assert (tmp_path / "run" / "report.html").exists()
    assert again.evaluation["metrics"]
    stamp = (tmp_path / "run" / "report.html").stat().st_mtime_ns
    third = run(moons(), out=tmp_path / "run", evaluate=True)
    assert third.evaluation == again.evaluation
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"steps": 41}, "training.steps: 40 → 41"),
        ({"seed": 1}, "seed: 0 → 1"),
        ({"method": "ot-cfm"}, "method: 'i-cfm' → 'ot-cfm'"),
        ({"options": {"sigma": 0.1}}, "options.sigma: 0.0 → 0.1"),
        ({"network": "residual-1x9"}, "model.network"),
        ({"test": 0.2}, "data.test: 0.1 → 0.2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("steps", [5, 100], ids=["started", "finished"])
def test_changed_settings_are_listed_and_refused(tmp_path, changed, named, steps):
    run(moons(), out=tmp_path / "run", stop=stop_after(steps))
    before = bytes_of(tmp_path / "run")
    with pytest.raises(RunFolderError, match="other settings") as caught:
        run(moons(), out=tmp_path / "run", **changed)
    assert named in caught.value.message
    assert "--restart" in caught.value.message
    assert bytes_of(tmp_path / "run") == before


def test_changed_data_are_refused(tmp_path):
    run(moons(), out=tmp_path / "run", stop=stop_after(3))
    with pytest.raises(RunFolderError, match=r"data\.sha256"):
        run(moons(seed=1), out=tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"data\.source"):
        run(moons(), out=tmp_path / "run", source=moons(seed=2))


def test_a_changed_source_is_refused(tmp_path):
    run(moons(), out=tmp_path / "run", source=moons(seed=2), stop=stop_after(3))
    with pytest.raises(RunFolderError, match=r"data\.source"):
        run(moons(), out=tmp_path / "run", source=moons(seed=3))


def test_restart_moves_the_old_run_aside(tmp_path):
    run(moons(), out=tmp_path / "run")
    before = bytes_of(tmp_path / "run")
    ear = Ear()
    result = run(moons(), out=tmp_path / "run", restart=True, steps=10, listener=ear)
    assert result.step == 10
    assert bytes_of(tmp_path / "run.old-1") == before
    assert ear.notes == [f"The old run was moved to {tmp_path / 'run.old-1'}."]


def test_restart_of_a_run_in_progress_is_refused(tmp_path):
    run(moons(), out=tmp_path / "run", stop=stop_after(3))
    before = bytes_of(tmp_path / "run")
    with RunFolder(tmp_path / "run").locked(), pytest.raises(RunFolderError, match="another process"):
        run(moons(), out=tmp_path / "run", restart=True)
    with RunFolder(tmp_path / "run").locked(), pytest.raises(RunFolderError, match="another process"):
        run(moons(), out=tmp_path / "run")
    assert bytes_of(tmp_path / "run") == before


def test_restart_with_bad_input_leaves_the_old_run(tmp_path):
    run(moons(), out=tmp_path / "run")
    with pytest.raises(DataError):
        run(np.array([[1.0, np.nan]] * 20), out=tmp_path / "run", restart=True)
    assert (tmp_path / "run" / MODEL).exists()
    assert not (tmp_path / "run.old-1").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    for restart in (False, True):
        with pytest.raises(RunFolderError, match="no run"):
            run(moons(), out=tmp_path / "run", restart=restart)
    with pytest.raises(RunFolderError, match="no run"):
        run(moons(), out=tmp_path / "run" / "thesis.tex")
    assert os.listdir(tmp_path / "run") == ["thesis.tex"]


def test_bad_input_makes_no_folder(tmp_path):
    with pytest.raises(AdvectError):
        run(np.array([[1.0, np.inf]] * 20), out=tmp_path / "run")
    with pytest.raises(AdvectError):
        run(moons(), out=tmp_path / "run", condition=("colour",))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04rubbish", b"half"], ids=repr)
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    run(moons(), out=tmp_path / "run", stop=stop_after(3))
    (tmp_path / "run" / CHECKPOINT).write_bytes(content)
    with pytest.raises(RunFolderError, match="damaged"):
        run(moons(), out=tmp_path / "run")


def test_a_checkpoint_that_was_lost_means_from_the_start(tmp_path):
    run(moons(), out=tmp_path / "straight")
    run(moons(), out=tmp_path / "run", stop=stop_after(30))
    (tmp_path / "run" / CHECKPOINT).unlink()
    run(moons(), out=tmp_path / "run")
    assert_equal_weights(tmp_path / "straight", tmp_path / "run")


def test_damaged_models_are_refused(tmp_path):
    run(moons(), out=tmp_path / "run")
    good = (tmp_path / "run" / MODEL).read_bytes()
    checkpoint = (tmp_path / "run" / CHECKPOINT).read_bytes()
    for content in (b"", good[:50], good[:-4], b"\x80\x05" + good, checkpoint, good.replace(b"price", b"xxxxx")[:-1]):
        (tmp_path / "run" / MODEL).write_bytes(content)
        with pytest.raises(RunFolderError):
            open_run(tmp_path / "run")


PICKLE_MARKS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def test_no_pickle_in_a_run_folder(tmp_path):
    """Trap A7: no file starts like a pickle, none is a zip that holds one, and none names torch's pickled storage."""
    run(mixed(), out=tmp_path / "run", condition=("place",), evaluate=True)
    run(mixed(), out=tmp_path / "open", stop=stop_after(5))
    files = [p for folder in ("run", "open") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    names = {p.name for p in files}
    assert {CONFIG, MODEL, METRICS, "evaluation.json", "report.html", "state.safetensors"} <= names
    for path in files:
        content = path.read_bytes()
        assert not content.startswith(PICKLE_MARKS), path
        assert not zipfile.is_zipfile(path), path
        if path.suffix == ".safetensors":
            assert content[8:9] == b"{", path  # the header is JSON
        if path.suffix == ".json":
            json.loads(content, parse_constant=lambda word, p=path: pytest.fail(f"{word} in {p}"))
        if path.suffix == ".toml":
            tomllib.loads(content.decode())


def test_configuration_is_the_one_that_was_used(tmp_path):
    result = run(moons(), out=tmp_path / "run", training={"ema_decay": 0.9})
    stored = tomllib.loads((tmp_path / "run" / CONFIG).read_text())
    card = read_tensors(tmp_path / "run" / MODEL)[1]["config"]
    # What was asked for is in config.toml; how training ended and which solver is enough are in the card.
    asked = {k: v for k, v in card.items() if k not in ("outcome", "calibration", "sampling")}
    assert asked == {k: v for k, v in stored.items() if k != "sampling"}
    assert stored["sampling"] == {"solver": "adams3", "steps": 24}
    trials = card["calibration"]["trials"]
    assert any((t["solver"], t["steps"]) == tuple(card["sampling"].values()) for t in trials)
    assert card["outcome"]["step"] == 40
    assert stored["training"]["ema_decay"] == 0.9
    assert result.artefact.config == card
    text = (tmp_path / "run" / CONFIG).read_text()
    assert "ema_decay = 0.9  # given" in text
    assert "gradient_clip = 1.0  # default" in text


class Poisoned:
    """The linear path, until one day its velocity is not a number. Times in strata are drawn once a step."""

    def __init__(self, calls: int):
        self.path, self.left = AffinePath(Linear()), calls

    def sample(self, t, x0, x1, *, generator=None):
        self.left -= 1
        bridge = self.path.sample(t, x0, x1, generator=generator)
        return bridge if self.left >= 0 else replace(bridge, velocity=bridge.velocity * math.nan)

    def velocity(self, t, x, x0, x1):
        return self.path.velocity(t, x, x0, x1)


def test_divergence_keeps_the_run(tmp_path):
    """Trap O9 from the outside: the last good state is on the disk, and the same command goes on from it."""
    strata = {"times": "stratified"}
    for number, out in enumerate((None, tmp_path / "run")):
        with pytest.raises(TrainingError, match=r"step \d+, batch of 32 rows: the loss is not finite"):
            run(moons(), out=out, parts=Parts(path=Poisoned(20 + number)), options=strata)
    assert RunFolder(tmp_path / "run").state == "started"
    tensors, numbers = read_tensors(tmp_path / "run" / CHECKPOINT)
    assert 10 < numbers["step"] < 20
    assert all(torch.isfinite(t).all() for t in tensors.values())
    ear = Ear()
    run(moons(), out=tmp_path / "run", parts=Parts(path=Poisoned(100)), options=strata, listener=ear)
    assert RunFolder(tmp_path / "run").state == "finished"
    assert ear.notes == [f"Continuing at step {numbers['step']} of 40."]


def test_a_failing_evaluation_never_loses_the_model(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise DataError("no figures today")

    monkeypatch.setattr(fit_module, "evaluate_rows", refuse)
    for out in (None, tmp_path / "run"):
        ear = Ear()
        result = run(moons(), out=out, evaluate=True, listener=ear)
        assert result.state == "finished"
        assert generate(result.artefact, 3).failed == 0
        assert any("no figures today" in note for note in ear.notes)
        assert result.evaluation == {}
    assert open_run(tmp_path / "run").evaluation == {}


def test_a_crash_while_evaluating_leaves_a_finished_run(tmp_path, monkeypatch):
    def crash(*_, **__):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "evaluate_rows", crash)
        with pytest.raises(RuntimeError, match="killed"):
            run(moons(), out=tmp_path / "run", evaluate=True)
    assert RunFolder(tmp_path / "run").state == "finished"
    assert generate(open_run(tmp_path / "run"), 3).failed == 0
    assert run(moons(), out=tmp_path / "run", evaluate=True).evaluation["metrics"]


def test_budget_is_honoured_and_becomes_steps(tmp_path):
    started = time.monotonic()
    result = run(moons(), out=tmp_path / "run", steps=None, budget_seconds=2.0)
    # The budget is a promise about wall time: nothing but the last step and the writing may come after it.
    assert time.monotonic() - started < 3.0
    assert result.state == "finished"
    stored = tomllib.loads((tmp_path / "run" / CONFIG).read_text())
    assert stored["training"]["steps"] == result.steps
    assert stored["training"]["budget_seconds"] == 2.0
    assert result.step <= result.steps
    again = run(moons(), out=tmp_path / "run", steps=None, budget_seconds=2.0)
    assert again.state == "already finished"


def test_budget_run_keeps_its_steps_when_continued(tmp_path):
    """DESIGN: a budget run fixes its step count after the timed steps, also when killed before its first checkpoint."""
    run(moons(), out=tmp_path / "run", steps=None, budget_seconds=2.0, stop=stop_after(2))
    (tmp_path / "run" / CHECKPOINT).unlink()
    before = (tmp_path / "run" / CONFIG).read_bytes()
    steps = tomllib.loads(before.decode())["training"]["steps"]
    result = run(moons(), out=tmp_path / "run", steps=None, budget_seconds=2.0, stop=stop_after(2))
    assert result.steps == steps
    assert (tmp_path / "run" / CONFIG).read_bytes() == before


def test_history_and_progress_reach_their_listeners(tmp_path):
    ear = Ear()
    result = run(moons(), out=tmp_path / "run", listener=ear, training={"validation_every": 10})
    assert [line["step"] for line in result.artefact.history] == [10, 20, 30, 40]
    assert all(math.isfinite(line["validation_loss"]) for line in result.artefact.history)
    assert open_run(tmp_path / "run").history == result.artefact.history
    assert ear.lines[-1].step == 40
    assert ear.phases[:2] == ["reading", "training"]
    assert ear.plans[0].steps == 40


def test_four_rows_are_enough():
    result = run(np.array([[0.0, 1.0], [2.0, -1.0], [1.0, 0.5], [0.5, 0.0]]), steps=3)
    assert generate(result.artefact, 4).failed == 0


def test_training_leaves_the_global_random_state(tmp_path):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - it is the global state that is looked at
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train(request(mixed(), out=tmp_path / "run", method="ot-cfm"), evaluate=True)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32
