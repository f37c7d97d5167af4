"""Trainings on sets that stay on disk: those of the same rows in memory, bit for bit, resumed in the middle too."""

import io
import subprocess

import numpy as np
import pytest
import torch

from advect.data import infer_schema, mapped, read_table, split_rows, stored, take_rows
from advect.errors import ConfigError, DataError
from advect.run import MODEL, read_tensors
from advect.training.ahead import BatchesAhead
from advect.training.blocks import Blocks
from advect.transforms import Standardise
from advect.workflows.again import evaluate_run, report_run
from advect.workflows.open import open_run
from advect.workflows.picture_features import pixels, run_features
from advect.workflows.prepare import prepare
from advect.workflows.score import score
from advect.workflows.trainer import MemorySink, make_trainer
from tests.data.test_decoded import archive
from tests.data.test_folders import picture
from tests.training.test_workers import command, environment
from tests.workflows.tiny import Ear, moons, request, run, stop_after


def on_disk(monkeypatch, far: bool = True):
    """Let every array stay on disk, or none."""
    monkeypatch.setattr(mapped, "MAPPED_VALUES", 1 if far else 1 << 28)


def save(tmp_path, kind: str):
    """A set and what else to ask for."""
    random = np.random.default_rng(0)
    if kind == "pictures":
        path, labels = tmp_path / "x-images-idx3-ubyte", tmp_path / "x-labels-idx1-ubyte"
        x, y = random.integers(0, 256, (200, 5, 5), dtype=np.uint8), random.integers(0, 3, 200, dtype=np.uint8)
        path.write_bytes(b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in x.shape) + x.tobytes())
        labels.write_bytes(b"\0\0\x08\x01" + len(y).to_bytes(4, "big") + y.tobytes())
        return path, {"flip": True, "condition": ("label",), "method": "ot-cfm", "network": "auto", "steps": 12}
    x = np.concatenate([moons(), np.exp(2 * random.standard_normal((300, 1))), random.integers(0, 5, (300, 1))], 1)
    if kind == "wide":  # a batch is too large for blocks of several
        x = np.concatenate([x, random.standard_normal((300, 2**11))], 1)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    return tmp_path / "x.npy", {"weights": "x3"} if kind == "weights" else {}


@pytest.mark.parametrize("kind", ["table", "wide", "weights", "pictures"])
def test_the_weights_are_those_of_the_rows_in_memory(tmp_path, monkeypatch, kind):
    path, more = save(tmp_path, kind)
    weights = []
    for far in (False, True):
        on_disk(monkeypatch, far)
        result = run(str(path), **more)
        assert result.state == "finished"
        weights.append(result.artefact.flow.state_dict())
        assert result.artefact.config["data"].get("kept") == ("on disk" if far else None)
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.parametrize(("kind", "source"), [("table", Blocks), ("wide", BatchesAhead)])
def test_a_run_goes_on_in_the_middle_and_has_figures_a_page_and_scores(tmp_path, monkeypatch, kind, source):
    path, more = save(tmp_path, kind)
    on_disk(monkeypatch)
    whole = run(str(path), out=tmp_path / "whole", evaluate=kind == "table", **more)
    assert run(str(path), out=tmp_path / "half", stop=stop_after(17), **more).state == "interrupted"
    ear = Ear()
    assert run(str(path), out=tmp_path / "half", listener=ear, **more).state == "finished"
    assert "Continuing at step 17" in ear.notes[-1]
    weights = [read_tensors(tmp_path / name / MODEL)[0] for name in ("whole", "half")]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    trainer = make_trainer(prepare(request(str(path), **more)), MemorySink())
    assert isinstance(trainer.batches, source)
    if kind == "wide":
        return
    assert whole.evaluation == evaluate_run(tmp_path / "whole") | {"sampling": whole.evaluation["sampling"]}
    assert report_run(tmp_path / "whole")["report"].exists()
    artefact = open_run(tmp_path / "whole")
    scored = score(artefact, read_table(str(path), min_rows=1))
    on_disk(monkeypatch, far=False)
    assert torch.equal(scored.estimate.value, score(artefact, read_table(str(path))).estimate.value)


@pytest.mark.parametrize("kind", ["plain", "far", "heavy", "empty column", "levels"])
def test_scales_of_rows_on_disk_are_those_of_all_rows_in_as_few_passes_as_can_be(tmp_path, monkeypatch, kind):
    """Besides the two passes that find bounds and rules, a third only where those do not tell."""
    x = np.random.default_rng(0).standard_normal((3000, 4)) * [1, 1e3, 1e-4, 1] + [0, 5, 0, 2]
    x[:, 1] += {"far": 1e9}.get(kind, 0.0)
    x[:, 2] = np.exp(2 * x[:, 0]) if kind == "heavy" else x[:, 2]
    x[:, 3] = {"empty column": 0.0, "levels": np.arange(3000) % 5}.get(kind, x[:, 3])
    np.save(tmp_path / "x.npy", x)
    on_disk(monkeypatch)
    for name in ("SAMPLE_VALUES", "BLOCK_VALUES"):
        monkeypatch.setattr(stored, name, 2000)
    read, take = [0], mapped.MappedRows.take

    def counted(self, index):
        read[0] += len(index)
        return take(self, index)

    monkeypatch.setattr(mapped.MappedRows, "take", counted)
    made = prepare(request(str(tmp_path / "x.npy")))
    train = made.split.train
    passes = (read[0] - 3000 - len(train)) / len(train)  # what is left also has samples of 500 rows
    assert (passes > 1) == (kind in ("far", "heavy", "levels")), passes
    parts = [part for part in made.flow.map.modules() if isinstance(part, Standardise)]
    plain = next(part for part in parts if part.shift.numel() > 1 or kind == "heavy")
    # Means and spreads in float64 by blocks, against NumPy's of the whole: some roundings of 3000 sums.
    if kind in ("plain", "empty column"):
        wanted = x[train][:, : 3 if kind == "empty column" else 4]
        np.testing.assert_allclose(plain.shift, wanted.mean(0), rtol=1e-12, atol=1e-12 * wanted.std(0).max())
        np.testing.assert_allclose(plain.scale, wanted.std(0), rtol=1e-12)


def test_what_looks_at_all_rows_at_once_is_refused(tmp_path, monkeypatch):
    path, _ = save(tmp_path, "table")
    on_disk(monkeypatch)
    for more in (
        {"time_key": "x3"},
        {"training": {"pool": 0}, "method": "ot-cfm"},
        {"method": "ot-cfm", "options": {"plan": "semidiscrete"}},
    ):
        with pytest.raises(ConfigError, match="needs all of them in memory"):
            run(str(path), **more)


def save_pictures(tmp_path):
    """Two classes in two tar files."""
    for shard in range(2):
        members = []
        for i in range(30):
            stream = io.BytesIO()
            picture((6, 6), 30 * shard + i).save(stream, "jpeg", quality=95)
            members += [(f"{i}.jpg", stream.getvalue()), (f"{i}.cls", str(shard).encode())]
        archive(tmp_path / f"{shard}.tar", members)
    return str(tmp_path)


def test_pictures_decoded_while_training_are_those_in_memory(tmp_path, monkeypatch):
    more = {"condition": ("label",), "flip": True, "steps": 12, "network": "auto"}
    path, weights = save_pictures(tmp_path), []
    for far in (False, True):
        on_disk(monkeypatch, far)
        monkeypatch.setattr("advect.data.decoded.AT_ONCE", 80)  # several batches in a fetch, several fetches in the run
        weights.append(run(path, **more).artefact.flow.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_features_are_of_as_many_pictures_as_can_be_held(tmp_path, monkeypatch):
    """All 48 pictures for training hold 48 × 108 numbers, and 30 × 108 may be in memory at once."""
    on_disk(monkeypatch)
    monkeypatch.setattr("advect.data.stored.HELD_VALUES", 30 * 108)
    monkeypatch.setattr("advect.data.stored.SAMPLE_VALUES", 25 * 108)
    table = read_table(save_pictures(tmp_path), key=None)
    split = split_rows(table.num_rows, seed=0)
    with pytest.raises(DataError, match="in memory at once"):
        pixels(take_rows(table, split.train))
    schema = infer_schema(table, condition=("label",))
    found = run_features(table, split, schema, seed=0)
    assert found.card["classes"] == ["0", "1"]
    assert found(take_rows(table, split.test)).shape == (len(split.test), 64)


def test_a_damaged_picture_ends_no_run_and_the_run_goes_on_as_it_would_have(tmp_path, monkeypatch):
    on_disk(monkeypatch)
    monkeypatch.setattr("advect.data.decoded.AT_ONCE", 80)
    place = tmp_path / "set"
    for i in range(40):
        place.mkdir(exist_ok=True)
        picture((8, 8), i).save(place / f"{i:02}.jpg", quality=95)
    file = place / "11.jpg"
    file.write_bytes(file.read_bytes()[:-60])
    more = {"steps": 12, "network": "auto", "evaluate": True}
    ear = Ear()
    whole = run(str(place), out=tmp_path / "whole", listener=ear, **more)
    assert any("1 picture left out while training (damaged)" in note and "11.jpg" in note for note in ear.notes)
    assert whole.evaluation["held_out_rows"] == 4
    assert run(str(place), out=tmp_path / "half", stop=stop_after(5), **more).state == "interrupted"
    assert run(str(place), out=tmp_path / "half", **more).state == "finished"
    weights = [read_tensors(tmp_path / name / MODEL)[0] for name in ("whole", "half")]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    assert evaluate_run(tmp_path / "whole")["metrics"] == whole.evaluation["metrics"]
    (place / "40.jpg").write_bytes((place / "00.jpg").read_bytes())
    with pytest.raises(DataError, match="has changed"):
        evaluate_run(tmp_path / "whole")


def test_two_processes_train_as_one(tmp_path):
    """Up to the order in which rows are added: about 1e-7 per step, and Adam carries it on."""
    found = []
    for count in (1, 2):
        line = command(tmp_path, count, f"out{count}", steps=40)
        script = (tmp_path / "script.py").read_text()
        low = "from advect.data import mapped\nmapped.MAPPED_VALUES = 1\n"
        (tmp_path / "script.py").write_text(low + script)
        done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        found.append(read_tensors(tmp_path / f"out{count}" / MODEL)[0])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=0, atol=2e-3)


def test_the_rows_of_a_step_do_not_depend_on_who_asked_before(tmp_path, monkeypatch):
    path, more = save(tmp_path, "wide")
    on_disk(monkeypatch)
    trainer = make_trainer(prepare(request(str(path), **more)), MemorySink())
    assert trainer.time_steps(3) > 0
    there = [trainer.batches.draw(step, torch.Generator()).x1 for step in (0, 1, 2, 30, 31, 1, 2, 0, 39)]
    again = [trainer.batches.draw(step, torch.Generator()).x1 for step in (2, 31)]
    assert torch.equal(there[2], again[0])
    assert torch.equal(there[6], again[0])
    assert torch.equal(there[4], again[1])
