"""The harness of the speed suite: ratios inside rounds, goals, memory, and a table made of the records alone."""

import json
import sys
import time

import pytest

from benchmarks.speed.harness import Contender, Goal, Race, Sample, growth, judged, peak_megabytes, race, spread, task
from benchmarks.speed.rows import Row, all_rows
from benchmarks.speed.table import table


def raced(**samples):
    return Race({name: [Sample(value, value / 2) for value in values] for name, values in samples.items()})


def test_a_ratio_is_taken_inside_each_round():
    # the machine is twice as slow in the second round; the ratio does not see it
    timed = raced(ours=[1.0, 2.0, 1.0], theirs=[4.0, 8.0, 4.0])
    assert timed.ratio("ours", "theirs") == {"median": 4.0, "low": 4.0, "high": 4.0}
    assert timed.seconds("theirs", "cpu") == 2.0


def test_spread_gives_median_and_quartiles():
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "low": 1.5, "high": 4.5}
    assert spread([2.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}


@pytest.mark.parametrize(("must", "stretch", "reached"), [(2, 3, "stretch"), (2, 5, "must"), (5, 9, "missed")])
def test_a_goal_is_judged_against_the_fastest_peer(must, stretch, reached):
    timed = raced(ours=[1.0] * 3, slow=[9.0] * 3, fast=[4.0] * 3)
    found = judged(Goal("ours", ("slow", "fast"), must, stretch), timed)
    assert (found["against"], found["value"]["median"], found["reached"]) == ("fast", 4.0, reached)


def test_a_goal_of_at_most_is_a_share_of_the_other():
    found = judged(Goal("ours", ("theirs",), 1.3, 1.1, at_most=True), raced(ours=[1.2] * 3, theirs=[1.0] * 3))
    assert found["value"]["median"] == pytest.approx(1.2)
    assert found["reached"] == "must"


def test_contenders_take_turns_in_changing_order_and_start_afresh():
    calls, restarts = [], []
    contenders = [
        Contender(name, lambda name=name: (calls.append(name), time.sleep(0.001)), restart=lambda: restarts.append(1))
        for name in "abc"
    ]
    timed = race(contenders, 8, least=0.0)
    assert all(len(samples) == 8 for samples in timed.samples.values())
    orders = {tuple(calls[start : start + 3]) for start in range(6, len(calls), 3)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 1
    assert len(restarts) == len(calls)
    assert 0.001 <= timed.seconds("a") < 1.0


def test_two_contenders_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name"):
        race([Contender("a", int), Contender("a", int)], 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux tells it")
def test_memory_is_what_the_contender_took_at_its_peak():
    held = peak_megabytes(Contender("a", lambda: bytearray(64 * 2**20)))
    assert held == pytest.approx(64, abs=4)  # a few pages of the interpreter's own besides


def test_the_table_holds_every_goal_of_the_records():
    def contender(name, milliseconds, setting=""):
        return Contender(name, lambda: time.sleep(milliseconds / 1000), setting)

    goal = Goal("ours", ("theirs",), 1.5, 1000.0, label="beside theirs")
    block = task("sleep", [contender("ours", 1), contender("theirs", 4, "slowly")], [goal], rounds=3, memory=False)
    figures = {
        "tasks": [block],
        "growth": [growth("milliseconds", (1, 2), lambda n: [contender("ours", n)], least=0)],
        "notes": ["A note."],
    }
    record = {
        "cell": "X1",
        "date": "2026-01-01T00:00:00",
        "machine": {"processor": "a processor", "cores": 2, "load_at_start": 1.25},
        "settings": {"clock": "wall", "threads": 1},
        "figures": json.loads(json.dumps(figures)),
    }
    page = table([record], {"X1": Row("X1", "sleeping", "module:function")})
    (line,) = [line for line in page.splitlines() if line.startswith("| X1 ")]
    assert "| sleep | beside theirs |" in line
    assert "| 1.5× | 1000× |" in line
    assert "**" not in line
    for text in ("## X1: sleeping", "| theirs | slowly |", "Growth along milliseconds", "load 1.2", "A note."):
        assert text in page


def test_every_row_has_a_name_of_its_own_and_a_function():
    import importlib

    rows = all_rows()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        module, _, function = row.work.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
