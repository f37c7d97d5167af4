"""``advect verify`` as a real process, and what it says in one."""

import json

import pytest

from tests.faces.made_runs import QUICK, advect, cloud, only_json, succeed


def test_every_method_with_a_path_passes(tmp_path):
    done = advect("verify --all --rows 1024 --json", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] is True
    names = {one["name"] for one in found["verifications"]}
    assert {"fm", "i-cfm", "rf", "ot-cfm", "sb-cfm", "sf2m", "ddpm", "vp", "subvp", "cosine", "ve", "edm"} <= names
    assert "nsf" not in names
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_a_broken_law_leaves_with_one_and_says_where_and_what_to_do(tmp_path):
    """Noise five times the data is too little for the start of a variance-exploding path: x1 is still there."""
    done = advect("verify ve --set sigma_max=5 --rows 512", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "fail\tstart\t" in done.stdout
    assert "x1 + 5·x0" in done.stdout
    assert "t = 0" in done.stdout
    assert "likely fix" in done.stdout
    assert "1 law is broken" in done.stderr


def test_a_method_with_settings(capsys):
    out, err = succeed("verify sb-cfm --set sigma=0.3 --rows 256", capsys)
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["", "law", "found", "size (allowed)"]
    assert {line[1] for line in lines[1:]} >= {"start", "end", "continuity", "continuity (weak form)", "arrival"}
    assert "every law holds" in err


@pytest.mark.slow
def test_a_run_is_verified_on_its_own_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cloud(tmp_path / "cloud.csv", 0)
    succeed(f"train cloud.csv {QUICK} --out run", capsys)
    found = only_json(succeed("verify run --rows 256 --json", capsys)[0])
    assert found["passed"] is True
    assert found["event_shape"] == [2]
    (tmp_path / "cloud.csv").unlink()  # without its rows, on reference rows
    assert only_json(succeed("verify run --rows 256 --json", capsys)[0])["passed"] is True


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("verify", "name one method"),
        ("verify fm --all", "name one method"),
        ("verify --all --set sigma=1", "belong to one method"),
        ("verify fmm", "Did you mean 'fm'"),
        ("verify nsf", "no path"),
        ("verify fm --set steps=5", "no setting 'steps'"),
        ("verify fm --set learning_rate=0.1", "no setting of the path"),
        ("verify fm --set sigma_min=2", "sigma_min"),
        ("verify fm --rows 3", "at least 64"),
        ("verify .", "not a run folder"),
    ],
)
def test_what_cannot_be_verified_is_refused(tmp_path, monkeypatch, capsys, line, words):
    from advect.cli.app import run

    monkeypatch.chdir(tmp_path)
    assert run(line.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error:")
    assert words in said
    assert list(tmp_path.iterdir()) == []


def test_a_path_of_the_users_own_is_never_imported_from_a_run(tmp_path):
    import advect as library
    from advect.errors import RunFolderError
    from advect.paths import linear

    model = library.fit("moons", path=linear(), method="i-cfm", steps=2, seed=0)
    model.save(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"advect\.verify\(path\)"):
        library.verify(tmp_path / "run")
