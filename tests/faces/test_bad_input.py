"""A gallery of bad input: every case leaves with 2, one paragraph that says where and what to do, and nothing changed.

The cases run in one process, in a folder that holds small files and trained runs; what lies in the folder is compared
byte by byte before and after.
"""

import hashlib
import os
import shlex
import shutil
from pathlib import Path

import pytest

from advect.cli.app import run
from tests.faces.gallery_cases import CASES
from tests.faces.made_runs import QUICK, cloud, houses


@pytest.fixture(scope="session")
def gallery(tmp_path_factory) -> Path:
    """A folder with data and three runs: of a mixed table, with a condition, and between two populations.

    Runs know the absolute path of their data: cases use this very folder and start from `pristine` beside it.
    """
    folder = tmp_path_factory.mktemp("gallery") / "work"
    folder.mkdir()
    houses(folder / "houses.csv")
    cloud(folder / "cloud.csv", 0)
    cloud(folder / "other.csv", 3)
    (folder / "foreign").mkdir()
    (folder / "foreign/thesis.txt").write_text("years of work\n")
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert run(shlex.split(f"train houses.csv {QUICK} --out run")) == 0
        assert run(shlex.split(f"train houses.csv {QUICK} --condition place --out conditional")) == 0
        assert run(shlex.split(f"train cloud.csv {QUICK} --source other.csv --out moved")) == 0
    finally:
        os.chdir(before)
    shutil.copytree(folder, folder.with_name("pristine"))
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` with a digest; folders too, so that none is left behind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def test_the_gallery_is_large_and_its_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_with_one_helpful_paragraph_and_nothing_changes(case, gallery, monkeypatch, capsys):
    shutil.rmtree(gallery)
    shutil.copytree(gallery.with_name("pristine"), gallery)
    monkeypatch.chdir(gallery)
    if case.damage is not None:
        case.damage(gallery)
    before = contents(gallery)

    code = run(shlex.split(case.command))

    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    message = captured.err
    assert message.count("\nerror: ") + message.startswith("error: ") == 1, message
    paragraph = message[message.index("error: ") :]
    assert paragraph.count("\n") == 1, message
    assert paragraph.endswith("\n"), message
    assert "Traceback" not in message
    assert case.place in paragraph
    assert case.remedy in paragraph
    assert contents(gallery) == before
