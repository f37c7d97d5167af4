"""How far a training has come, from its folder alone."""

import os

import pytest
import torch

from advect.errors import RunFolderError
from advect.files import write_text
from advect.run import FolderSink, RunFolder, standing_of
from advect.run.folder import CHECKPOINT, CONFIG, METRICS, MODEL, REPORT

CONFIGURATION = "method = 'i-cfm'\n[training]\nsteps = 1000\ncheckpoint_seconds = 20.0\n"


@pytest.fixture
def folder(tmp_path):
    made = RunFolder(tmp_path / "run")
    write_text(made.file(CONFIG), CONFIGURATION)
    return made


def report(folder, step, seconds, *, at=None):
    """A line of the history, written at a time of the clock."""
    FolderSink(folder).metrics(step, {"train_loss": 1.0, "seconds": seconds})
    if at is not None:
        os.utime(folder.file(METRICS), (at, at))


def checkpoint(folder, step, seconds, *, at):
    FolderSink(folder).checkpoint({"weight": torch.zeros(3)}, {"step": step, "seconds": seconds})
    os.utime(folder.file(CHECKPOINT), (at, at))


def test_a_training_that_has_said_nothing_yet(folder):
    standing = standing_of(folder)
    assert (standing.state, standing.step, standing.steps) == ("started", 0, 1000)
    assert (standing.rate, standing.seconds_left, standing.age, standing.silent) == (None, None, None, False)
    assert (standing.history, standing.model, standing.report) == ((), "", False)


def test_rate_and_time_left(folder):
    """100 steps in 4 seconds are 25 a second; 800 more take 32, of which 2 are gone."""
    report(folder, 100, 6.0)
    report(folder, 200, 10.0, at=5000.0)
    standing = standing_of(folder, now=5002.0)
    assert (standing.step, standing.rate, standing.seconds, standing.age) == (200, 25.0, 10.0, 2.0)
    assert standing.seconds_left == 30.0
    assert [line["step"] for line in standing.history] == [100, 200]


def test_the_last_marks_give_the_rate(folder):
    """A slow beginning is forgotten: of marks a second apart with 10 steps each, and first steps that took a minute."""
    for step, seconds in ((10, 60.0), (20, 61.0), (30, 62.0), (40, 63.0), (50, 64.0)):
        report(folder, step, seconds)
    assert standing_of(folder).rate == 10.0


def test_a_checkpoint_is_a_mark_between_two_lines(folder):
    report(folder, 100, 4.0, at=100.0)
    checkpoint(folder, 160, 6.0, at=103.0)
    standing = standing_of(folder, now=104.0)
    assert (standing.step, standing.rate, standing.seconds, standing.age) == (160, 30.0, 6.0, 1.0)
    checkpoint(folder, 90, 3.5, at=105.0)  # an older one, as after a line was written
    assert standing_of(folder, now=106.0).step == 100


def test_silence(folder):
    """Four checkpoints that did not come are too many."""
    report(folder, 100, 4.0, at=1000.0)
    assert not standing_of(folder, now=1079.0).silent
    assert standing_of(folder, now=1081.0).silent


def test_finished_and_gone(folder):
    report(folder, 1000, 40.0, at=100.0)
    folder.file(MODEL).write_bytes(b"weights")
    first = standing_of(folder, now=10_000.0)
    assert (first.state, first.silent, first.seconds_left, first.report) == ("finished", False, None, False)
    assert first.model
    folder.file(REPORT).write_text("page")
    folder.file(MODEL).write_bytes(b"others")
    os.utime(folder.file(MODEL), (5.0, 5.0))
    second = standing_of(folder)
    assert second.model not in ("", first.model)
    assert second.report
    assert standing_of(RunFolder(folder.path / "nothing")).state == "absent"


def test_damage_is_told(folder):
    folder.file(CHECKPOINT).parent.mkdir()
    folder.file(CHECKPOINT).write_bytes(b"no tensors at all")
    with pytest.raises(RunFolderError, match="damaged"):
        standing_of(folder)
    folder.file(CHECKPOINT).unlink()
    write_text(folder.file(CONFIG), "training = 3\n")
    assert standing_of(folder).steps is None
    write_text(folder.file(CONFIG), "= 3\n")
    with pytest.raises(RunFolderError, match="damaged"):
        standing_of(folder)


def test_nothing_is_written(folder):
    report(folder, 100, 4.0)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.path.rglob("*") if path.is_file()}
    standing_of(folder)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.path.rglob("*") if path.is_file()}
    assert before == after
