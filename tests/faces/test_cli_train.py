"""`advect train` as a user meets it: what it says, what it leaves, and what the same command does again."""

import gzip
import tomllib

import numpy as np
import pandas as pd

from advect.run import RunFolder
from advect.workflows.open import open_run
from advect.workflows.report import command_line
from tests.faces.made_runs import QUICK, TRAIN, cloud, digests, only_json, refuse, succeed, table


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


def test_the_command_in_the_report_is_the_command(here, capsys):
    out, _ = succeed(command_line(RunFolder("run"), open_run("run")).removeprefix("advect "), capsys)
    assert "finished" in out


def test_how_the_data_is_named_does_not_matter(here, capsys):
    out, _ = succeed(TRAIN.replace("houses.csv", str(here / "houses.csv")), capsys)
    assert "finished" in out


def test_other_settings_are_refused_with_their_list(here, capsys):
    before = digests(here)
    message = refuse("train houses.csv --steps 40 --network mlp-1x9 --set sigma=0.1 --out run", capsys)
    for text in (
        "training.steps: 30 → 40",
        "model.network: 'mlp-1x8' → 'mlp-1x9'",
        "options.sigma: 0.0 → 0.1",
        "--restart",
    ):
        assert text in message
    assert "data.split" not in message
    assert digests(here) == before


def test_restart_moves_the_old_run_aside(here, capsys):
    before = digests(here / "run")
    _, err = succeed("train houses.csv --steps 12 --network mlp-1x8 --out run --restart", capsys)
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


# Other data, conditions, a source


def test_arrays_inside_an_npz(here, capsys):
    draw = np.random.default_rng(0)
    np.savez(here / "pair.npz", left=draw.normal(size=(80, 2)), right=draw.normal(size=(90, 3)).astype(np.float32))
    succeed(f"train pair.npz:right {QUICK} --out right", capsys)
    succeed("sample right -n 5 --out new.npz", capsys)
    with np.load(here / "new.npz", allow_pickle=False) as arrays:
        assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {"X": ((5, 3), np.dtype("float32"))}
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
    cloud(here / "a.csv", 0, scale=0.5)  # well inside the other one: values beyond it would be clipped to its bounds
    cloud(here / "b.csv", 0, scale=2)
    succeed(f"train b.csv --source a.csv {QUICK} --out moved", capsys)
    succeed("transport moved a.csv --to target --out as_b.csv", capsys)
    succeed("transport moved as_b.csv --to source --out as_a.csv", capsys)
    old, there, back = (pd.read_csv(here / name) for name in ("a.csv", "as_b.csv", "as_a.csv"))
    assert list(there.columns) == list(back.columns) == ["x", "y"]
    np.testing.assert_allclose(back, old, atol=2e-3)  # two solves at 1e-5 in single precision
    assert not np.allclose(there, old, atol=1e-2)


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
