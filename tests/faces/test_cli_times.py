"""The command with times: train, sample, transport, velocity, evaluate, animate."""

import numpy as np
import pytest

from tests.faces.made_runs import only_json, refuse, succeed, table

HOW = "--steps 12 --network residual-1x8 --batch-size 32"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a table of three days and a run on it."""
    folder = tmp_path_factory.mktemp("days")
    random = np.random.default_rng(0)
    lines = ["a,b,day"]
    for day, mean in ((0, 0.0), (1, 2.0), (3, 1.0)):
        lines += [f"{mean + a!r},{b!r},day{day}" for a, b in random.standard_normal((60, 2)).tolist()]
    (folder / "cells.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def here(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    if not (made / "run").exists():
        out, _ = succeed(f"train cells.csv --time-key day --leave-out day1 {HOW} --out run", capsys)
        assert "W1 at day1, left out" in out
        assert "OT interpolation" in out
        assert "advect sample run -n 1000 --at day2 --out new.csv" in out
        assert "advect velocity run cells.csv --out velocity.csv" in out
    return made


def test_samples_at_times_seen_and_unseen(here, capsys):
    succeed("sample run -n 10 --at day1 --at 2.5 --out new.csv", capsys)
    head, rows = table(here / "new.csv")
    assert head == ["a", "b", "day"]
    assert [row[2] for row in rows] == ["day1"] * 10 + ["day2.5"] * 10
    succeed("sample run -n 5 --out last.csv", capsys)
    assert {row[2] for row in table(here / "last.csv")[1]} == {"day3"}
    found = only_json(succeed("sample run -n 4 --at 0 --json", capsys)[0])
    assert found["columns"]["day"] == ["day0"] * 4


def test_rows_move_both_ways(here, capsys):
    succeed("sample run -n 30 --at day1 --out start.csv", capsys)
    succeed("transport run start.csv --to day3 --out there.csv", capsys)
    succeed("transport run there.csv --to day1 --out back.csv", capsys)
    start, back = (np.array([row[:2] for row in table(here / f"{name}.csv")[1]], float) for name in ("start", "back"))
    np.testing.assert_allclose(back, start, atol=1e-2)
    found = only_json(succeed("transport run start.csv --from 1 --to source --json", capsys)[0])
    assert found["to"] == "day0"
    assert set(found["columns"]["day"]) == {"day0"}


def test_velocities(here, capsys):
    succeed("velocity run cells.csv --out velocity.csv", capsys)
    head, rows = table(here / "velocity.csv")
    assert head == ["velocity a", "velocity b"]
    assert len(rows) == 180
    found = only_json(succeed("velocity run cells.csv --at day2 --json", capsys)[0])
    assert found["unit"] == "day"
    assert len(found["columns"]["velocity a"]) == 180


def test_again(here, capsys):
    out, _ = succeed(f"train cells.csv --time-key day --leave-out day1 {HOW} --out run", capsys)
    assert "this run is finished" in out
    found = only_json(succeed("evaluate run --json", capsys)[0])
    assert [one["word"] for one in found["snapshots"]] == ["day1", "day3"]
    out, _ = succeed("report run", capsys)
    assert "Time by time" in (here / "run" / "report.html").read_text()
    succeed("animate run -n 20 --frames 3 --out moving.gif", capsys)
    out, _ = succeed(f"train cells.csv --time-key day --spline {HOW} --out other --dry-run", capsys)
    assert "3 times day from day0 to day3" in out
    assert not (here / "other").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sample run --at day9", "outside the times"),
        ("sample run --at noon", "no time of this data"),
        ("transport run cells.csv --from day0 --to day4", "outside the times"),
        ("velocity run cells.csv --at day4", "outside the times"),
        ("score run cells.csv", "no density"),
        ("train cells.csv --leave-out day1", "this is for data with times"),
        ("train cells.csv --time-key dya", "Did you mean 'day'"),
        ("train cells.csv --time-key a", "fewer than 20 rows"),
        ("train cells.csv --time-key day --leave-out day0", "is the first time"),
        ("train cells.csv --time-key day --method nsf", "starts from Gaussian noise"),
        ("train cells.csv --rep X_pca", "only .npz and .h5ad"),
    ],
)
def test_refusals(here, capsys, line, message):
    assert message in refuse(line, capsys)
