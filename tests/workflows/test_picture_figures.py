"""Pictures compared by features: which features, how they are kept, and what the figures find."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from advect.api.model import Model
from advect.data import infer_schema, read_table, split_rows, take_rows
from advect.errors import ConfigError, DataError, RunFolderError
from advect.run import RunFolder
from advect.training import generator_for
from advect.workflows.again import evaluate_run
from advect.workflows.evaluate import figures
from advect.workflows.open import open_run
from advect.workflows.picture_features import (
    kept_features,
    label_of,
    own_features,
    pixels,
    random_features,
    trained_features,
)
from advect.workflows.picture_figures import feature_metrics, picture_figures
from tests.workflows.tiny import bright_pictures, run


def evaluated(path, **how):
    """Figures in no time: as few rows as ever are drawn and scored."""
    return evaluate_run(path, deadline=time.monotonic(), **how)


def by_name(metrics):
    return {m["name"] if isinstance(m, dict) else m.name: m for m in metrics}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bright_pictures(tmp_path_factory.mktemp("pictures") / "all", side=10, each=110)


@pytest.fixture(scope="module")
def table(folder):
    return read_table(folder)


@pytest.fixture(scope="module")
def split(table):
    return split_rows(table.num_rows, seed=0, validation=0.1, test=0.2)


@pytest.fixture(scope="module")
def trained(table, split):
    return trained_features(table, split, "label", seed=3, steps=40)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run(str(folder), out=out, condition=("label",), steps=3, batch_size=16, network="residual-1x8", test=0.2)
    return out


def test_the_classifier_learns_and_says_how_often_it_is_right(trained, split):
    assert trained.accuracy > 0.9  # the two classes differ in whole halves of the picture
    assert trained.rows == len(split.test)
    assert "label, 2 classes, right on" in trained.words


def test_the_same_rows_and_seed_give_the_same_features(table, split, trained):
    again, other = (trained_features(table, split, "label", seed=seed, steps=40) for seed in (3, 4))
    assert torch.equal(again(table), trained(table))
    assert not torch.equal(other(table), trained(table))


def test_features_have_unit_size(table, trained):
    for features in (trained, random_features(table)):
        assert float(features(table).square().mean().sqrt()) == pytest.approx(1.0, rel=0.1)


def test_without_labels_a_network_that_nobody_trained_takes_its_place(table):
    found = random_features(table)
    assert found.accuracy is None
    assert "never trained" in found.words
    assert torch.equal(found(table), random_features(table)(table))


def test_copies_and_blank_pictures_are_told_from_fresh_ones(table, split, trained):
    train, held = take_rows(table, split.train), take_rows(table, split.test)
    copies = take_rows(train, np.arange(0, len(split.train), 3))
    figures = by_name(picture_figures(copies, held, train, trained)[0])
    assert figures["memorised share"]["value"] == 1.0
    assert figures["memorised share"]["floor"] == 0.0
    assert figures["near-copy share"]["value"] == 1.0
    blank = replace(copies, columns=tuple(np.full_like(column, 120) for column in copies.columns))
    worse = by_name(picture_figures(blank, held, train, trained)[0])
    assert worse["Fréchet distance of features"]["value"] > 2 * figures["Fréchet distance of features"]["value"]
    assert worse["recall of features"]["value"] < figures["recall of features"]["value"]


def test_equal_distributions_are_as_far_apart_as_the_floor_says():
    rows = torch.randn(900, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = by_name(feature_metrics(rows[:300], rows[300:], generator=generator_for(0)))
    for metric in found.values():
        spread = max(metric.floor_error, metric.error)
        # Five splits of the same rows: the spread itself is known to a third, and the samples are one draw.
        assert abs(metric.value - metric.floor) < 5 * spread, metric


def test_evaluate_keeps_its_features_and_uses_them_again(finished, monkeypatch):
    first = evaluated(finished)
    assert by_name(first["metrics"])["Fréchet distance of features"]["floor"] is not None
    assert first["pictures"]["accuracy"] > 0.9
    kept = finished / "features.safetensors"
    written = kept.stat().st_mtime_ns
    assert evaluated(finished)["metrics"] == first["metrics"]
    assert kept.stat().st_mtime_ns == written
    assert RunFolder(finished).read_json("evaluation.json")["pictures"] == first["pictures"]
    named = evaluated(finished, features=(str(kept),))
    assert named["metrics"] == first["metrics"]


def test_features_of_the_users_own(finished, tmp_path, monkeypatch):
    (tmp_path / "mine_of_pictures.py").write_text("def halves(x):\n    return x.flatten(1)[:, :3] / 255\n")
    monkeypatch.chdir(tmp_path)
    found = evaluated(finished, features=("mine_of_pictures:halves",))
    assert "mine_of_pictures:halves" in found["pictures"]["features"]
    for wrong in ("mine_of_pictures:third", "no_such_module_here:f", "mine_of_pictures"):
        with pytest.raises(ConfigError, match=r"cannot be (imported|called)"):
            own_features(wrong)


def test_from_python_a_function_will_do(finished, folder):
    model = Model(open_run(finished))
    rows = take_rows(read_table(folder), np.arange(0, 220, 5))
    found = model.evaluate(rows, read_table(folder), features=lambda x: x.flatten(1)[:, ::9] / 255)
    assert "coverage of features" in by_name(found["metrics"])
    assert found["pictures"]["features"] == "features of your own"


def test_features_that_were_computed_elsewhere(finished, tmp_path):
    random = np.random.default_rng(0)
    for name, rows in (("samples", 100), ("held", 200)):
        np.save(tmp_path / f"{name}.npy", random.standard_normal((rows, 4)))
    names = (str(tmp_path / "samples.npy"), str(tmp_path / "held.npy"))
    found = by_name(evaluated(finished, features=names)["metrics"])
    value = found["Fréchet distance of features"]
    assert value["value"] == pytest.approx(value["floor"], abs=6 * value["error"])
    assert "memorised share" not in found
    with pytest.raises(ConfigError, match="1 values were given"):
        evaluated(finished, features=names[:1])
    np.save(tmp_path / "held.npy", random.standard_normal((200, 5)))
    with pytest.raises(DataError, match="4 features of samples and 5"):
        evaluated(finished, features=names)


def test_few_held_out_pictures_are_said_to_be_too_few(finished, table):
    few = take_rows(table, np.arange(6))
    found = evaluated(finished, data=few)
    assert "6 held-out pictures are too few" in found["pictures"]["reason"]
    assert any("too few" in text for _, text in figures(found))


def test_damaged_features_are_refused(finished, tmp_path, table):
    wrong = tmp_path / "features.safetensors"
    wrong.write_bytes(b"nothing of the kind")
    with pytest.raises(RunFolderError):
        kept_features(wrong, table.event_shape)
    evaluated(finished)
    with pytest.raises(ConfigError, match="of pictures of shape"):
        kept_features(finished / "features.safetensors", (1, 12, 12))


def test_tables_have_no_features(tmp_path):
    random = np.random.default_rng(0)
    np.savetxt(tmp_path / "rows.csv", random.standard_normal((60, 2)), delimiter=",", header="a,b", comments="")
    run(str(tmp_path / "rows.csv"), out=tmp_path / "run", steps=3)
    assert "pictures" not in evaluated(tmp_path / "run")
    with pytest.raises(ConfigError, match="only pictures"):
        evaluated(tmp_path / "run", features=("a:b",))


def test_labels_are_found_in_the_condition_or_the_folders(table):
    assert label_of(table, infer_schema(table)) == "label"
    assert label_of(table, infer_schema(table, condition=("label",))) == "label"


def test_pixels_are_the_pictures(table):
    assert pixels(table).shape == (220, 1, 10, 10)
    assert float(pixels(table).max()) <= 255


@pytest.mark.slow
def test_the_command_says_the_figures(finished):
    command = [sys.executable, "-m", "advect", "evaluate", str(finished), "--json", "--budget", "1s"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "coverage of features" in by_name(json.loads(done.stdout)["metrics"])
