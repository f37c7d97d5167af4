"""The short forms of what `python -m benchmarks.reliability` does at length, and whether its instruments see faults.

Everything runs in children that are forked from this process, so that a kill is a real one and costs a fraction of a
second.
"""

import os
import time

import pytest

from benchmarks.reliability import folders, kills, long_runs, places
from benchmarks.reliability.children import Child
from benchmarks.reliability.jobs import Ground, inside, job, training, write_points
from benchmarks.reliability.operations import Operation, kill_before, unflushed, watch
from benchmarks.reliability.table import write_table

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux which file a handle is")


# The instruments


def test_a_child_is_killed_and_heard(tmp_path):
    def work():
        print("begun", flush=True)
        time.sleep(60)

    ended = Child(work, tmp_path).wait(kill_after=0.5)
    assert ended.killed
    assert ended.said == "begun\n"
    assert Child(lambda: 7, tmp_path).wait().code == 7
    failed = Child(lambda: 1 // 0, tmp_path).wait()
    assert failed.code == 99
    assert "ZeroDivisionError" in failed.said


def test_a_child_is_killed_before_the_operation_that_was_asked_for(tmp_path):
    def work():
        watch(tmp_path, kill_before(3, tmp_path))
        for name in "abcdef":
            (tmp_path / name).write_text(name)

    assert Child(work, tmp_path).wait().killed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_flush_that_is_killed_tears_the_file(tmp_path):
    def work():
        watch(tmp_path, kill_before(1, tmp_path))
        with open(tmp_path / "a", "w") as stream:
            stream.write("0123456789")
            stream.flush()
            os.fsync(stream.fileno())

    assert Child(work, tmp_path).wait().killed
    assert (tmp_path / "a").read_text() == "01234"


def test_a_missing_flush_is_seen():
    write, flush = Operation("open", "/d/.a"), Operation("fsync", "/d/.a")
    rename, folder = Operation("rename", "/d/.a", "/d/a"), Operation("fsync", "/d")
    assert not unflushed([write, flush, rename, folder])
    assert unflushed([write, rename, folder]) == ["/d/a was renamed before it was flushed"]
    assert unflushed([flush, write, rename, folder]) == ["/d/a was renamed before it was flushed"]
    assert unflushed([write, flush, rename]) == ["the folder of /d/a was not flushed after the rename"]


def test_torn_and_foreign_files_are_seen(tmp_path):
    write_points(tmp_path / "points.csv")
    inside(lambda: training(2), tmp_path)
    assert not folders.unreadable(tmp_path)
    (tmp_path / "torn.csv").write_text("x,y\n1,2\n3")
    for name in ("model.safetensors", "checkpoint/state.safetensors", "metrics.jsonl"):
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[:-3])
    assert len(folders.unreadable(tmp_path)) == 4
    (tmp_path / "run" / "config.toml").unlink()
    assert "run: a run folder that is foreign" in folders.unreadable(tmp_path)


def test_what_a_dead_process_left_counts_as_different(tmp_path):
    before = folders.contents(tmp_path)
    (tmp_path / ".points.csv.left").touch()
    (tmp_path / ".lock").touch()
    assert folders.differing(before, folders.contents(tmp_path)) == [".points.csv.left"]


# The short forms


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit():
    found = kills.random_kills({"job": "train", "kills": 8, "seed": 5})
    assert found["kills"] == 8
    assert found["runs_compared"] >= 2
    assert found["first_faults"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("work", "stride"), [("steps", 5), ("sample", 7), ("parts", 29)])
def test_a_kill_before_any_file_operation_changes_no_bit(work, stride):
    """Every part of write, flush, rename, flush comes by: a file takes six, and no stride shares a factor with that."""
    found = kills.every_operation({"job": work, "first": 1, "stride": stride})
    assert found["kills"] == found["runs_compared"] >= 5
    assert found["first_faults"] == []


@pytest.mark.slow
def test_a_full_disk_is_refused_and_costs_nothing():
    found = places.full_disk({"job": "train", "sizes": [0, 1_000, 4_000]})
    assert found["refused"] == 3
    assert found["faults"] == []


@pytest.mark.slow
def test_no_format_of_samples_is_left_half_written_by_a_full_disk():
    found = places.full_disk({"job": "sample", "sizes": [2_000]})
    assert found["refused"] == 1
    assert found["faults"] == []


@pytest.mark.slow
@pytest.mark.parametrize("check", [places._removed, places._moved, places._taken, places._jumping_clock])
def test_other_places(check, tmp_path):
    assert check(Ground(job("train"), tmp_path)) == []


@pytest.mark.slow
def test_thirty_pieces_are_one_run():
    found = long_runs.resumed({"as": "call", "pieces": 30, "steps_each": 1})
    assert found["differing"] == []


@pytest.mark.slow
def test_memory_does_not_grow_with_runs():
    """Nothing holds on to a training, and what is in use stays: 16 runs may add a page here and there, no model."""
    found = long_runs.memory({"seconds": 600, "runs": 16})
    assert found["trainers_left"] == 0
    assert found["mb_end"] - found["mb_warm"] < 8


def test_a_growing_curve_is_seen():
    found = long_runs.judged([(3600.0 * i / 100, i, 100 + 0.5 * i) for i in range(1, 101)])
    assert found["mb_per_hour"] == pytest.approx(50)
    assert found["mb_per_1000_runs"] == pytest.approx(500)


def test_the_table_is_written_from_what_there_is(tmp_path):
    path = write_table(tmp_path, tmp_path / "results.md")
    assert path.read_text().startswith("# Reliability")
