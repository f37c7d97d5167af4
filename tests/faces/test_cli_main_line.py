"""The main line as a user walks it: train, sample, score, transport, evaluate, report, on a small mixed table.

One training and one of each verb are real processes; the rest calls the same entry point in this process.
"""

import csv
import gzip
import hashlib
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from advect.cli.app import run
from tests.faces.made_runs import QUICK, advect, cloud, houses, only_json

TRAIN = f"train houses.csv {QUICK} --out run"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, str, str]:
    """A folder with the table and a run trained by a real process; standard output and standard error of it."""
    folder = tmp_path_factory.mktemp("main_line")
    houses(folder / "houses.csv")
    done = advect(TRAIN, folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of that folder to work in."""
    folder = tmp_path / "work"
    shutil.copytree(trained[0], folder)
    monkeypatch.chdir(folder)
    return folder


def succeed(command: str, capsys) -> tuple[str, str]:
    """Standard output and standard error of a command in this process, which must succeed."""
    capsys.readouterr()
    code = run(shlex.split(command))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out, captured.err


def refuse(command: str, capsys) -> str:
    """The message of a command in this process, which must be refused."""
    capsys.readouterr()
    code = run(shlex.split(command))
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    return captured.err


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as stream:
        head, *rows = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
    return head, rows


# train


def test_training_says_what_it_does_and_leaves_a_whole_run(trained):
    folder, out, err = trained
    for text in ("120 rows, 5 columns", "place, discrete", "age, missing", "network mlp-1x8", "step 30/30"):
        assert text in err
    for text in ("Trained 30 steps", "log-likelihood", "run/model.safetensors", "run/report.html", "Next:"):
        assert text in out
    files = {p.relative_to(folder / "run").as_posix() for p in (folder / "run").rglob("*") if p.is_file()}
    assert files - {".lock"} == {
        "config.toml",
        "model.safetensors",
        "metrics.jsonl",
        "evaluation.json",
        "checkpoint/state.safetensors",
        "report.html",
    }
    assert tomllib.loads((folder / "run/config.toml").read_text())["training"]["steps"] == 30


def test_the_commands_it_names_work(trained, here, capsys):
    commands = [line.strip() for line in trained[1].splitlines() if line.startswith("  advect ")]
    assert len(commands) == 3
    for command in commands:
        succeed(command.removeprefix("advect "), capsys)
    assert (here / "new.csv").exists()
    assert (here / "scores.csv").exists()


def test_the_same_command_again_says_that_it_is_done(here, capsys):
    before = digests(here)
    out, _ = succeed(TRAIN, capsys)
    assert "finished" in out
    assert "log-likelihood" in out
    assert digests(here) == before


def test_how_the_data_is_named_does_not_matter(here, capsys):
    out, _ = succeed(TRAIN.replace("houses.csv", str(here / "houses.csv")), capsys)
    assert "finished" in out


def test_other_settings_are_refused_with_their_list(here, capsys):
    before = digests(here)
    message = refuse(f"train houses.csv --steps 40 --network mlp-1x9 --set sigma=0.1 --out run", capsys)
    for text in ("training.steps: 30 → 40", "model.network: 'mlp-1x8' → 'mlp-1x9'", "options.sigma: 0.0 → 0.1", "--restart"):
        assert text in message
    assert "data.split" not in message
    assert digests(here) == before


def test_restart_moves_the_old_run_aside(here, capsys):
    before = digests(here / "run")
    _, err = succeed(f"train houses.csv --steps 12 --network mlp-1x8 --out run --restart", capsys)
    assert "run.old-1" in err
    assert digests(here / "run.old-1") == before
    assert tomllib.loads((here / "run/config.toml").read_text())["training"]["steps"] == 12


def test_a_foreign_folder_is_left_alone(here, capsys):
    (here / "thesis").mkdir()
    (here / "thesis/chapter.txt").write_text("years of work\n")
    before = digests(here)
    for command in (f"train houses.csv {QUICK} --out thesis", f"train houses.csv {QUICK} --out thesis --restart"):
        assert "is no run" in refuse(command, capsys)
    assert digests(here) == before


def test_a_dry_run_shows_the_configuration_and_writes_nothing(here, capsys):
    before = sorted(here.rglob("*"))
    out, _ = succeed(f"train houses.csv {QUICK} --out fresh --dry-run", capsys)
    assert sorted(here.rglob("*")) == before
    assert "it would be made" in out
    config = tomllib.loads(out[out.index("# What this run") :])
    assert config["training"]["steps"] == 30
    assert config["model"]["network"] == "mlp-1x8"
    out, _ = succeed(f"train houses.csv {QUICK} --out run --dry-run", capsys)
    assert "a finished run is there" in out


def test_a_dry_run_as_json(here, capsys):
    value = only_json(succeed(f"train houses.csv {QUICK} --out fresh --dry-run --json", capsys)[0])
    assert value["steps"] == 30
    assert value["run_state"] == "absent"
    assert {f["where"] for f in value["findings"]} >= {"place", "age", "garden"}


def test_a_budget_becomes_steps_and_the_run_ends_finished(here, capsys):
    """No time is asserted: steps come from timed steps, they are in the configuration, and that many were done."""
    value = only_json(succeed("train houses.csv --network mlp-1x8 --budget 8s --out timed --json", capsys)[0])
    config = tomllib.loads((here / "timed/config.toml").read_text())
    assert value["state"] == "finished"
    assert value["steps"] == config["training"]["steps"] != 5000
    assert 0 < value["step"] <= value["steps"]
    assert config["training"]["budget_seconds"] == 8
    assert (here / "timed/report.html").exists()
    again = only_json(succeed("train houses.csv --network mlp-1x8 --budget 8s --out timed --json", capsys)[0])
    assert again["state"] == "already finished"


def test_the_default_folder(here, capsys):
    succeed(f"train houses.csv {QUICK} --method i-cfm", capsys)
    assert (here / "runs/houses-i-cfm/model.safetensors").exists()


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
    if ending != "npz":
        assert {f["where"] for f in only_json(out)["findings"]} >= {"place"}


def test_the_same_seed_gives_the_same_file(here, capsys):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        succeed(f"sample run -n 20 --seed {seed} --out {name}.csv", capsys)
    a, b, c = ((here / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("solver", ["--solver euler --steps 3", "--solver dopri5 --tol 1e-3", "--steps 5", "--tol 1e-4"])
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


# Other data, conditions, a source


def test_arrays_inside_an_npz(here, capsys):
    draw = np.random.default_rng(0)
    np.savez(here / "pair.npz", left=draw.normal(size=(80, 2)), right=draw.normal(size=(90, 3)).astype(np.float32))
    succeed(f"train pair.npz:right {QUICK} --out right", capsys)
    succeed("sample right -n 5 --out new.npz", capsys)
    with np.load(here / "new.npz", allow_pickle=False) as arrays:
        assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {"right": ((5, 3), np.dtype("float32"))}
    assert only_json(succeed("score right pair.npz:right --json", capsys)[0])["rows"] == 90
    succeed("evaluate right", capsys)


def test_gzipped_input_is_the_same_data(here, capsys):
    (here / "packed.csv.gz").write_bytes(gzip.compress((here / "houses.csv").read_bytes()))
    plain = only_json(succeed("score run houses.csv --json", capsys)[0])
    packed = only_json(succeed("score run packed.csv.gz --json", capsys)[0])
    assert plain["columns"] == packed["columns"]
    value = only_json(succeed(f"train packed.csv.gz {QUICK} --out packed --json", capsys)[0])
    assert value["state"] == "finished"


def test_conditions_and_guidance(here, capsys):
    succeed(f"train houses.csv {QUICK} --condition place --out given", capsys)
    succeed("sample given -n 30 --condition BAY --guidance 1 --out bay.csv", capsys)
    head, rows = table(here / "bay.csv")
    assert sorted(head) == ["age", "garden", "place", "price", "rooms"]
    assert {row[head.index("place")] for row in rows} == {"BAY"}
    succeed("sample given -n 60 --out any.csv", capsys)
    head, rows = table(here / "any.csv")
    assert {row[head.index("place")] for row in rows} == {"BAY", "INLAND", "ISLAND"}  # as often as in training
    value = only_json(succeed("score given any.csv --json", capsys)[0])
    assert value["rows"] == 60
    named = only_json(succeed("sample given -n 3 --condition place=ISLAND --json", capsys)[0])
    assert named["columns"]["place"] == ["ISLAND"] * 3


def test_from_one_population_to_another(here, capsys):
    cloud(here / "a.csv", 0)
    cloud(here / "b.csv", 4)
    succeed(f"train b.csv --source a.csv {QUICK} --out moved", capsys)
    succeed("transport moved a.csv --to target --out as_b.csv", capsys)
    succeed("transport moved as_b.csv --to source --out as_a.csv", capsys)
    old, there, back = (pd.read_csv(here / name) for name in ("a.csv", "as_b.csv", "as_a.csv"))
    assert list(there.columns) == list(back.columns) == ["x", "y"]
    np.testing.assert_allclose(back, old, atol=2e-3)  # two solves at 1e-5 in single precision
    assert not np.allclose(there, old, atol=0.5)


def test_weights_and_settings_reach_the_run(here, capsys):
    rows = pd.read_csv(here / "houses.csv").assign(weight=np.linspace(0.5, 2, 120))
    rows.to_csv(here / "weighted.csv", index=False)
    command = "train weighted.csv --weights weight --batch-size 32 --set learning_rate=0.01 --set times=stratified"
    succeed(f"{command} {QUICK} --out weighted", capsys)
    config = tomllib.loads((here / "weighted/config.toml").read_text())
    assert config["data"]["weights"] == "weight"
    assert config["training"]["learning_rate"] == 0.01
    assert config["training"]["batch_size"] == 32
    assert config["options"]["times"] == "stratified"
