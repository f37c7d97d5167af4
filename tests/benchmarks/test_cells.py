"""The queue of benchmark cells: it resumes, never runs a finished cell again, and distrusts torn files."""

import json

import pytest

from advect.errors import ConfigError
from benchmarks.cells import ROOT, Cell, read_record, read_records, run_queue

WORKER = """
from pathlib import Path

def square(settings):
    with open(settings["log"], "a") as log:
        log.write(f"{settings['seed']}\\n")
    if settings["seed"] < 0:
        raise ValueError("a negative seed")
    return {"square": float("nan") if settings["seed"] == 13 else settings["seed"] ** 2}
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Make cells whose worker notes every call, and run them."""
    (tmp_path / "noted_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Queue(tmp_path)


class Queue:
    def __init__(self, folder):
        self.results, self.log = folder / "results", folder / "calls"
        self.log.touch()
        self.said = []

    def cell(self, seed, **settings):
        settings = {"seed": seed, "log": str(self.log), "betas": (0.9, 0.999)} | settings
        return Cell(f"cell-{seed}", "noted_worker:square", settings, f"python -m something --seeds {seed}")

    def run(self, *cells, jobs=1, **options):
        return run_queue(cells, self.results, jobs=jobs, say=self.said.append, **options)

    def calls(self):
        return sorted(map(int, self.log.read_text().split()))


def test_finished_cells_are_kept_and_torn_ones_run_again(queue):
    new = []
    assert queue.run(queue.cell(2), queue.cell(3), jobs=2, on_result=lambda: new.append(1)) == []
    assert queue.calls() == [2, 3]
    assert len(new) == 2
    first, second = (queue.cell(seed).file(queue.results) for seed in (2, 3))
    kept = first.read_bytes()

    # the record is cut in the middle, as by a full disk; a third cell is new
    second.write_bytes(second.read_bytes()[:-40])
    assert read_record(second) is None
    assert queue.run(queue.cell(2), queue.cell(3), queue.cell(4)) == []
    assert queue.calls() == [2, 3, 3, 4]
    assert first.read_bytes() == kept
    assert [record["figures"]["square"] for record in read_records(queue.results)] == [4, 9, 16]

    assert queue.run(queue.cell(2), queue.cell(3), queue.cell(4)) == []
    assert queue.calls() == [2, 3, 3, 4]


def test_a_file_that_is_no_record_counts_as_missing(queue):
    path = queue.cell(2).file(queue.results)
    path.parent.mkdir()
    for content in ("", "[]", "null", '{"figures": {"square": 4}}'):
        path.write_text(content)
        assert read_record(path) is None
    path.write_bytes(b"\xff\xfe")
    assert read_record(path) is None


def test_a_failed_cell_leaves_no_file_and_does_not_stop_the_others(queue):
    # 13 returns NaN, which no result may hold
    assert queue.run(queue.cell(-1), queue.cell(13), queue.cell(5)) == ["cell--1", "cell-13"]
    assert [path.name for path in queue.results.iterdir()] == ["cell-5.json"]
    assert "a negative seed" in "\n".join(queue.said)


def test_a_record_says_how_it_was_made_without_places(queue):
    queue.run(queue.cell(7))
    path = queue.cell(7).file(queue.results)
    record = read_record(path)
    assert record["command"] == "python -m something --seeds 7"
    assert record["seed"] == record["settings"]["seed"] == 7
    assert record["machine"]["threads"] == 1
    assert record["machine"]["processor"]
    assert record["versions"].keys() >= {"python", "advect", "torch", "numpy", "scipy"}
    assert record["seconds"] >= 0
    assert str(ROOT) not in json.dumps(record)


def test_results_of_other_settings_stop_the_queue(queue):
    queue.run(queue.cell(2, steps=200))
    with pytest.raises(ConfigError, match=r"cell-2.json.*steps 200 instead of 20000.*--out"):
        queue.run(queue.cell(3, steps=20000), queue.cell(2, steps=20000))
    assert queue.calls() == [2]


def test_no_jobs_are_refused(queue):
    with pytest.raises(ConfigError, match="at least 1"):
        queue.run(queue.cell(2), jobs=0)
