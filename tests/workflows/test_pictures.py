"""A folder of pictures from training to samples in a folder that reads back."""

import numpy as np
import pytest
import torch

from advect.data import read_table
from advect.errors import ConfigError, RunFolderError
from advect.files import WriteError, atomic_folder
from advect.run import RunFolder, read_config
from advect.training import generator_for
from advect.workflows.again import find_data
from advect.workflows.generate import SolverChoice, generate
from advect.workflows.loop_rows import mirrored
from advect.workflows.open import open_run
from advect.workflows.report import _history, check_destination, command_line, write_samples
from tests.workflows.tiny import bright_pictures, moons, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bright_pictures(tmp_path_factory.mktemp("pictures") / "all", side=12, each=40)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    run(f"{folder}:6", out=out, condition=("label",), network="unet-tiny", steps=3, batch_size=8, flip=True)
    return out


def test_a_run_remembers_its_folder_size_and_mirroring(folder, trained):
    config = read_config(RunFolder(trained))
    assert config["data"]["path"] == str(folder)
    assert config["data"]["key"] == "6"
    assert config["data"]["flip"]
    artefact = open_run(trained)
    table, split = find_data(artefact)
    assert table.event_shape == (1, 6, 6)
    assert len(split.train) == 64
    command = command_line(RunFolder(trained), artefact)
    assert f"{folder}:6" in command
    assert "--flip" in command


def test_samples_go_into_a_folder_by_class_and_read_back(trained, tmp_path):
    artefact = open_run(trained)
    drawn = generate(artefact, 6, condition=None, seed=1).table
    write_samples(drawn, tmp_path / "drawn", artefact.schema)
    back = read_table(tmp_path / "drawn")
    assert back.event_shape == (1, 6, 6)
    assert back.num_rows == 6
    wanted = sorted(drawn.sides["label"].tolist())
    assert back.sides.get("label", np.array(wanted)).tolist() == wanted or len(set(wanted)) == 1
    # The run's black and white are 0 and its brightest pixel, so brightness is kept up to that stretch.
    rows = np.stack(drawn.columns, 1)
    order = np.argsort(drawn.sides["label"], kind="stable")
    highest = max(column.maximum for column in artefact.schema.columns)
    lowest = min(column.minimum for column in artefact.schema.columns)
    stretched = 255 * (rows[order] - lowest) / (highest - lowest)
    np.testing.assert_allclose(np.stack(back.columns, 1), stretched, atol=0.5)  # bytes are whole numbers


def test_a_folder_that_holds_something_is_refused_before_any_work(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    with pytest.raises(WriteError, match="something is there already"):
        check_destination(tmp_path / "full")
    check_destination(tmp_path / "new")
    with pytest.raises(ConfigError, match="cannot be written here"):
        check_destination(tmp_path / "new", pictures=False)
    with pytest.raises(RuntimeError):
        _half_written(tmp_path / "half")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def _half_written(folder):
    with atomic_folder(folder) as temporary:
        (temporary / "one").write_text("")
        raise RuntimeError


def test_half_of_the_pictures_are_mirrored_and_nothing_else_happens():
    pictures = torch.arange(400 * 6.0).reshape(400, 1, 2, 3)
    found = mirrored(pictures, generator_for(0, 1))
    turned = (found != pictures).flatten(1).any(1)
    assert torch.equal(found[turned], pictures[turned].flip(-1))
    assert 150 < int(turned.sum()) < 250  # 200 ± 5 standard deviations of √(400/4) = 10
    assert torch.equal(found, mirrored(pictures, generator_for(0, 1)))


def test_tables_are_not_mirrored():
    with pytest.raises(ConfigError, match="only pictures"):
        run(moons(), flip=True)


def test_a_transformer_with_switches_and_half_lives_opens_without_them(folder, tmp_path):
    """Train, open, draw with guidance; continue with a switch left out; refuse other half-lives."""
    out = tmp_path / "run"
    how = {"condition": ("label",), "network": "dit-tiny/4", "steps": 3, "batch_size": 8}
    loop = {"ema": (1, 10), "validation_every": 1, "channels_last": True, "checkpoint": True}
    result = run(f"{folder}:6", out=out, training=loop, **how)
    stored = read_config(RunFolder(out))["training"]
    assert (stored["ema"], stored["channels_last"], stored["checkpoint"], stored["compile"]) == (
        [1, 10],
        True,
        True,
        False,
    )
    artefact = open_run(out)
    ours, reopened = (made.flow.state_dict() for made in (result.artefact, artefact))
    assert all(torch.equal(ours[name], reopened[name]) for name in ours)
    best = artefact.config["outcome"]["best_half_life"]
    losses = {h: [line[f"validation_loss_half_life_{h}"] for line in artefact.history] for h in (1, 10)}
    assert min(losses[best]) == min(min(values) for values in losses.values())
    assert f"half-life {best:g}: {min(losses[best]):.4g}" in _history(artefact).averages
    drawn = generate(artefact, 3, condition={"label": "top"}, choice=SolverChoice("euler", steps=2, guidance=1.0))
    assert drawn.table.event_shape == (1, 6, 6)
    again = run(f"{folder}:6", out=out, training={"ema": (1, 10), "validation_every": 1}, **how)
    assert again.state == "already finished"
    with pytest.raises(RunFolderError, match=r"training\.ema"):
        run(f"{folder}:6", out=out, training=loop | {"ema": (1, 20)}, **how)
