"""The table of the 2-D transport benchmark: what it counts, what it judges, what it refuses."""

import pytest

from advect.errors import ConfigError
from benchmarks.transport_2d import METHODS, SEEDS, STEPS, TASKS, draw_sets, plan
from benchmarks.transport_2d_table import PUBLISHED, verdict, write_table

NAMES = (
    "w2_floor",
    "w2_small",
    "w2_small_floor",
    "w1_small",
    "w1_small_floor",
    "npe_small",
    "path_energy",
    "w2_by_pot",
)
NAMES += ("w2_squared_source_test", "training_seconds", "training_cpu_seconds", "best_step")


def record(cell, **figures):
    known = PUBLISHED[cell.settings["task"], cell.settings["method"]]
    usual = dict.fromkeys(NAMES, 1.0) | {"w2": known.w2[0], "npe": sum(known.npe_band) / 2}
    machine = {"processor": "a processor", "cores": 2, "threads": 1}
    return {
        "cell": cell.name,
        "seed": cell.settings["seed"],
        "settings": dict(cell.settings),
        "figures": usual | figures,
        "machine": machine,
        "versions": {"advect": "0"},
    }


def table(folder, records):
    path = folder / "table.md"
    write_table(path, records, tasks=TASKS, methods=METHODS, seeds=SEEDS, steps=STEPS)
    return path.read_text()


def summary_row(text, task, method):
    return next(line for line in text.splitlines() if line.startswith(f"| {task} | {method} |"))


def test_every_row_has_a_published_figure_and_cheap_methods_come_first():
    cells = plan(TASKS, METHODS, SEEDS, STEPS)
    assert len({cell.name for cell in cells}) == len(TASKS) * len(METHODS) * len(SEEDS)
    assert {(cell.settings["task"], cell.settings["method"]) for cell in cells} == PUBLISHED.keys()
    assert [cell.settings["method"] for cell in cells[-6:]] == ["ot-cfm"] * 6


def test_a_whole_table_passes_at_the_published_figures(tmp_path):
    text = table(tmp_path, [record(cell) for cell in plan(TASKS, METHODS, SEEDS, STEPS)])
    assert "Complete: 30 of 30 cells" in text
    assert "fail" not in text
    assert "no result" not in text


def test_a_partial_table_says_how_many_seeds_it_holds(tmp_path):
    text = table(tmp_path, [record(cell) for cell in plan(["moons"], ["fm"], SEEDS[:2], STEPS)])
    assert "**Partial**: 2 of 30 cells" in text
    assert "| 2 of 5 |" in summary_row(text, "moons", "fm")
    assert "| 0 of 5 |" in summary_row(text, "moons", "i-cfm")
    assert "no result" in summary_row(text, "moons", "i-cfm")


def test_figures_outside_their_bands_fail_with_the_side(tmp_path):
    (cell,) = plan(["moons"], ["fm"], SEEDS[:1], STEPS)
    row = summary_row(table(tmp_path, [record(cell, w2=0.5, npe=0.1)]), "moons", "fm")
    assert row.endswith("| **fail** (above the band) | **fail** (below the band) |")
    assert [verdict(value, (0.7, 0.8)) for value in (0.69, 0.7, 0.8, 0.81)] == ["below", "pass", "pass", "above"]


def test_other_numbers_of_steps_are_not_judged_and_never_mixed(tmp_path):
    (short,) = plan(["moons"], ["fm"], [42], 200)
    (whole,) = plan(["moons"], ["fm"], [43], STEPS)
    assert summary_row(table(tmp_path, [record(short)]), "moons", "fm").count("not judged (200 steps)") == 2
    with pytest.raises(ConfigError, match=r"differ.*steps"):
        table(tmp_path, [record(short), record(whole)])


def test_methods_share_the_draws_of_a_seed_and_sets_are_independent():
    by_method = [draw_sets(plan(["moons"], [method], [42], STEPS)[0].settings) for method in ("fm", "ot-cfm")]
    assert by_method[0].test.equal(by_method[1].test)
    assert by_method[0].source.equal(by_method[1].source)
    sets = by_method[0]
    assert [len(x) for x in (sets.train, sets.validation, sets.test, sets.again)] == [10_000, 1_000, 10_000, 10_000]
    firsts = {tuple(x[0].tolist()) for x in (sets.train, sets.validation, sets.test, sets.again, sets.source)}
    assert len(firsts) == 5
