"""The verbs that use a run: sample, score, transport, evaluate, report; one of each as a real process."""

import numpy as np
import pandas as pd
import pytest

from tests.faces.made_runs import QUICK, TRAIN, advect, cloud, houses, only_json, succeed, table

# animate


def test_an_animation_of_two_columns_of_choice(here, capsys):
    out, _ = succeed("animate run -n 30 --frames 3 --columns rooms,price --out moving.gif", capsys)
    assert "moving.gif" in out
    assert (here / "moving.gif").read_bytes().startswith(b"GIF89a")
    files = only_json(succeed("animate run -n 30 --frames 2 --json", capsys)[0])["files"]
    assert files["gif"].endswith("run/animation.gif")


# sample


def test_samples_are_the_same_kind_of_table(here, capsys):
    head, rows = table(here / "houses.csv")
    done = advect("sample run -n 60 --out new.csv", here)
    assert done.returncode == 0, done.stderr
    new_head, new_rows = table(here / "new.csv")
    assert new_head == head
    assert len(new_rows) == 60
    assert {r[2] for r in new_rows} <= {r[2] for r in rows}
    assert {r[3].lower() for r in new_rows} <= {"true", "false"}
    assert all(r[1].lstrip("-").isdecimal() for r in new_rows)  # whole rooms are written as whole numbers
    assert all(float(r[0]) > 0 for r in new_rows)
    old, new = pd.read_csv(here / "houses.csv"), pd.read_csv(here / "new.csv")
    assert new.dtypes.to_dict() == old.dtypes.to_dict()


def test_gaps_come_back_in_samples(here, capsys):
    succeed("sample run -n 400 --out new.csv", capsys)
    gaps = [row[4] == "" for row in table(here / "new.csv")[1]]
    # A tenth of the ages is missing; after thirty steps the share is rough, but it is neither none nor all.
    assert 0 < sum(gaps) < 200


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "npz", "csv.gz", "tsv.gz"])
def test_what_sample_writes_train_and_score_read(here, capsys, ending):
    succeed(f"sample run -n 50 --out new.{ending}", capsys)
    out, _ = succeed(f"score run new.{ending} --json", capsys)
    value = only_json(out)
    assert len(value["columns"]["log_prob"]) == 50
    assert value["failed_rows"] == value["impossible_rows"] == 0
    out, _ = succeed(f"train new.{ending} {QUICK} --dry-run --json", capsys)
    assert {f["where"] for f in only_json(out)["findings"]} >= {"place", "age"}  # text and gaps are still there


def test_the_same_seed_gives_the_same_file(here, capsys):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        succeed(f"sample run -n 20 --seed {seed} --out {name}.csv", capsys)
    a, b, c = ((here / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    "solver", ["--solver euler --steps 3", "--solver dopri5 --tol 1e-3", "--steps 5", "--tol 1e-4"]
)
def test_solvers_of_choice(here, capsys, solver):
    value = only_json(succeed(f"sample run -n 7 {solver} --json", capsys)[0])
    assert value["failed_rows"] == 0
    assert value["nfe"] > 0
    if "euler" in solver:
        assert value["nfe"] == 3


# score, transport


def test_scores_are_one_row_for_each_row(here):
    done = advect("score run houses.csv --out scores.csv", here)
    assert done.returncode == 0, done.stderr
    assert "nats per row" in done.stderr
    head, rows = table(here / "scores.csv")
    assert head == ["log_prob", "standard_error", "status"]
    assert len(rows) == 120
    assert all(np.isfinite(float(row[0])) for row in rows)
    gaps = [row[4] == "" for row in table(here / "houses.csv")[1]]
    assert [row[2] == "imputed" for row in rows] == gaps


def test_the_error_of_the_solver_can_be_asked_for(here):
    done = advect("score run houses.csv --tol 1e-4 --solver-error --out scores.csv", here)
    assert done.returncode == 0, done.stderr
    assert "solver error" in done.stderr
    head, rows = table(here / "scores.csv")
    assert head == ["log_prob", "standard_error", "solver_error", "status"]
    assert all(0 <= float(row[2]) < 0.1 for row in rows)


def test_a_single_row_can_be_scored(here, capsys):
    lines = (here / "houses.csv").read_text().splitlines()
    (here / "one.csv").write_text("\n".join(lines[:2]) + "\n")
    value = only_json(succeed("score run one.csv --json", capsys)[0])
    assert value["rows"] == len(value["columns"]["log_prob"]) == 1


def test_a_value_that_cannot_occur_has_probability_zero(here, capsys):
    (here / "odd.csv").write_text("price,rooms,place,garden,age\n200000.5,2,SEA,true,30.5\n200000.5,2,BAY,true,30.5\n")
    value = only_json(succeed("score run odd.csv --json", capsys)[0])
    assert value["impossible_rows"] == 1
    assert value["columns"]["status"] == ["outside support", "ok"]
    assert value["columns"]["log_prob"][0] is None


def test_there_and_back(here):
    """Discrete cells get noise on the way to the source, so the way back returns the very row."""
    there = advect("transport run houses.csv --to source --out z.npz", here)
    assert there.returncode == 0, there.stderr
    back = advect("transport run z.npz --to target --out back.csv", here)
    assert back.returncode == 0, back.stderr
    old, new = pd.read_csv(here / "houses.csv"), pd.read_csv(here / "back.csv")
    assert list(new.columns) == list(old.columns)
    assert (new["place"] == old["place"]).all()
    assert (new["garden"] == old["garden"]).all()
    assert (new["rooms"] == old["rooms"]).all()
    assert (new["age"].isna() == old["age"].isna()).all()
    # 23 bits of a single, an adaptive solver at 1e-5 both ways, and an asinh to unbend.
    np.testing.assert_allclose(new["price"], old["price"], rtol=2e-3)
    np.testing.assert_allclose(new["age"].dropna(), old["age"].dropna(), rtol=2e-3, atol=0.05)


# evaluate, report


def test_evaluate_and_report(here):
    done = advect("evaluate run", here)
    assert done.returncode == 0, done.stderr
    assert "12 held-out rows" in done.stdout
    assert "floor" in done.stdout
    (here / "run/report.html").unlink()
    done = advect("report run", here)
    assert done.returncode == 0, done.stderr
    assert "<html" in (here / "run/report.html").read_text()


def test_evaluate_given_rows(here, capsys):
    houses(here / "more.csv", rows=40)
    out, _ = succeed("evaluate run more.csv", capsys)
    assert "40 held-out rows" in out


# --json


def test_every_verb_has_json(here, capsys):
    for command in (
        TRAIN,
        f"{TRAIN} --dry-run",
        "sample run -n 4",
        "sample run -n 4 --out new.csv",
        "score run houses.csv",
        "transport run houses.csv",
        "evaluate run",
        "report run",
        "methods",
        "data",
        "explain ot-cfm",
        "doctor",
    ):
        only_json(succeed(f"{command} --json", capsys)[0])


def test_json_of_a_training_is_whole_also_as_a_process(tmp_path):
    cloud(tmp_path / "cloud.csv", 0)
    done = advect(f"train cloud.csv {QUICK} --out run --json", tmp_path)
    assert done.returncode == 0, done.stderr
    value = only_json(done.stdout)
    assert value["state"] == "finished"
    assert value["step"] == value["steps"] == 30
    assert value["run"] == "run"
    assert {m["name"] for m in value["evaluation"]["metrics"]} >= {"sliced Wasserstein-2"}
    assert len(value["next_commands"]) == 3


def test_json_of_samples_holds_them(here, capsys):
    value = only_json(succeed("sample run -n 6 --json", capsys)[0])
    assert list(value["columns"]) == ["price", "rooms", "place", "garden", "age"]
    assert all(len(column) == 6 for column in value["columns"].values())
    assert all(isinstance(room, int) for room in value["columns"]["rooms"])
