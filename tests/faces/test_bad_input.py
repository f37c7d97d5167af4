"""A gallery of bad input: every case leaves with 2, one paragraph that says where and what to do, and nothing changed.

The cases run in one process, in a folder that holds small files and trained runs; what lies in the folder is compared
byte by byte before and after.
"""

import hashlib
import shlex
import shutil
from pathlib import Path

import pytest

import advect
from advect.cli.app import run
from benchmarks.reliability.gallery import PAGE, answer, prepare
from tests.faces.gallery_cases import CASES
from tests.faces.gallery_more import CALLS, COMMANDS

ALL = [*CASES, *COMMANDS]
# What another library, or this machine, has a word in: random bytes, damaged weights, a full path.
VARIES = (
    "random bytes",
    "not gzip",
    "weights cut",
    "weights of",
    "checkpoint cut",
    "an archive",
    "that is text",
    "that are",
)


@pytest.fixture(scope="session")
def gallery(tmp_path_factory) -> Path:
    """A folder with data and four runs: of a mixed table, with a condition, between two populations, through times.

    Runs know the absolute path of their data: cases use this very folder and start from `pristine` beside it.
    """
    folder = tmp_path_factory.mktemp("gallery") / "work"
    prepare(folder)
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
    assert len({case.name for case in ALL}) == len(ALL) >= 120


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
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
    if not any(word in case.name for word in VARIES):
        assert paragraph.strip().replace(f"{gallery}/", "") in PAGE.read_text(), "write the page anew, and read it"
    assert case.place in paragraph
    assert case.remedy in paragraph
    assert contents(gallery) == before


@pytest.fixture(scope="session")
def small_model(gallery):
    cloud = gallery.with_name("pristine") / "cloud.csv"
    return advect.fit(str(cloud), steps=5, network="mlp-1x8", evaluate=False)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_bad_input_from_python_is_refused_with_the_same_care(call, small_model):
    said = answer(call, small_model)
    assert call.place in said
    assert call.remedy in said
    assert said in PAGE.read_text(), "write the page anew, and read it"
