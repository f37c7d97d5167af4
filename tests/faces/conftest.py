"""A small trained run that the tests of the command share."""

import shutil
from pathlib import Path

import pytest

from tests.faces.made_runs import TRAIN, advect, houses


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
