"""The report of a run, the command in it, where samples may be written, and the state of the machine."""

import shlex

import numpy as np
import pytest

import advect.cli.app
from advect.errors import AdvectError, ConfigError
from advect.run import RunFolder
from advect.workflows.again import report_run
from advect.workflows.doctor import examine, time_step
from advect.workflows.generate import generate
from advect.workflows.open import open_run
from advect.workflows.report import check_destination, command_line, write_samples
from advect.workflows.trainer import reserve_seconds
from tests.workflows.tiny import moons, request, run


def written_csv(tmp_path, rows: int = 120):
    random = np.random.default_rng(0)
    table = np.concatenate([moons(rows), random.integers(0, 3, (rows, 1)), random.random((rows, 1))], 1)
    path = tmp_path / "some rows.csv"
    np.savetxt(path, table, delimiter=",", header="x,y,the label,w", comments="")
    return path


def test_the_command_in_the_report_makes_the_run_again(tmp_path):
    """Given in the same place it finds the run finished: not one setting differs."""
    path = written_csv(tmp_path)
    run(
        path,
        out=tmp_path / "my run",
        method="ot-cfm",
        condition=("the label",),
        weights="w",
        options={"sigma": 0.125, "times": "logit-normal", "replacement": True},
        training={"learning_rate": 2e-5, "betas": (0.8, 0.95), "decay": "constant"},
        settings={"condition_dropout": 0.25, "likelihood_tolerance": 1e-4, "baseline": False},
        seed=3,
    )
    command = command_line(RunFolder(tmp_path / "my run"), open_run(tmp_path / "my run"))
    before = (tmp_path / "my run" / "config.toml").read_bytes()
    words = shlex.split(command)
    assert words[:3] == ["advect", "train", str(path)]
    assert advect.cli.app.run(words[1:]) == 0
    assert (tmp_path / "my run" / "config.toml").read_bytes() == before
    assert not (tmp_path / "my run.old-1").exists()


def test_a_plain_command_is_short(tmp_path):
    run("moons", out=tmp_path / "run", steps=2)
    command = command_line(RunFolder(tmp_path / "run"), open_run(tmp_path / "run"))
    assert command == (
        f"advect train moons --method i-cfm --out {tmp_path / 'run'} --network residual-1x8 --steps 2 --batch-size 32 "
        "--seed 0"
    )
    run(moons(), out=tmp_path / "given", steps=2)
    assert "advect train DATA " in command_line(RunFolder(tmp_path / "given"), open_run(tmp_path / "given"))
    np.savez(tmp_path / "two.npz", a=moons(60), b=moons(50))
    run(f"{tmp_path}/two.npz:b", out=tmp_path / "keyed", steps=2)
    command = command_line(RunFolder(tmp_path / "keyed"), open_run(tmp_path / "keyed"))
    assert f"advect train {tmp_path}/two.npz:b " in command


def test_report_is_made_anew(tmp_path):
    run(written_csv(tmp_path), out=tmp_path / "run", steps=5)
    files = report_run(tmp_path / "run")
    page = files["report"].read_text(encoding="utf-8")
    assert files["report"] == tmp_path / "run" / "report.html"
    for word in ("the label", "i-cfm", "some rows.csv", "optimiser steps"):
        assert word in page, word
    assert open_run(tmp_path / "run").evaluation["metrics"]
    assert set(report_run(tmp_path / "run")) == {"report"}


def test_report_of_pictures_shows_some(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 17, (60, 1, 4, 4)).astype(np.uint8)
    result = run(pixels, out=tmp_path / "run", steps=3, evaluate=True)
    assert result.files["picture"].read_bytes().startswith(b"\x89PNG")
    assert result.files["report"].exists()
    drawn = generate(result.artefact, 9).table
    assert write_samples(drawn, tmp_path / "a.png", result.artefact.schema).read_bytes().startswith(b"\x89PNG")
    write_samples(drawn, tmp_path / "a.npz", result.artefact.schema)
    with np.load(tmp_path / "a.npz") as stored:
        assert stored[stored.files[0]].shape == (9, 1, 4, 4)


def test_destinations(tmp_path):
    check_destination(tmp_path / "new.csv")
    check_destination(tmp_path / "new.png")
    check_destination(tmp_path / "new")  # a folder of pictures
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for wrong, pictures in (("a.txt", True), ("a", False), ("a.png", False), ("folder.csv", True)):
        with pytest.raises(ConfigError):
            check_destination(tmp_path / wrong, pictures=pictures)
    with pytest.raises(AdvectError, match="cannot be written"):
        check_destination(tmp_path / "file" / "a.csv")


def test_machine_state():
    facts = examine()
    assert {"advect", "python", "torch", "torch threads", "cuda", "pandas"} <= set(facts)
    assert all(isinstance(value, str | int) for value in facts.values())
    assert time_step("i-cfm", rows=300, steps=2) > 0


@pytest.mark.parametrize("budget", [0.5, 3.0, 20.0, 3600.0])
def test_part_of_a_budget_is_kept_for_the_figures(budget):
    assert 0 < reserve_seconds(budget, figures=True) <= budget / 2
    assert reserve_seconds(budget, figures=False) == 0
    assert request(moons(), steps=None, budget_seconds=budget).budget_seconds == budget
