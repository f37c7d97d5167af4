"""Conditions beside times: populations that move differently, against their closed form, through every verb."""

import numpy as np
import pytest

import advect
from advect.data import take_rows
from advect.errors import AdvectError
from advect.records import Table
from advect.workflows.between import between, followed
from advect.workflows.course import course
from advect.workflows.fit import train
from advect.workflows.generate import generate
from advect.workflows.open import open_run
from advect.workflows.prepare import prepare
from advect.workflows.velocity import velocities
from tests.workflows.tiny import request, run, stop_after

TIMES, EACH = (0.0, 1.0, 3.0), 240
MEANS = {"a": (-2.0, 2.0, 0.0), "b": (2.0, -2.0, 0.0)}  # they cross: a plan that knew of no labels would let them stand
SPREADS = (0.7, 0.4, 0.8)


def table_of(parts: list[tuple], kind: str, seed: int = 0) -> Table:
    """Rows (x, y, kind, day) from (mean, spread, kind, day, rows) in a random order."""
    random = np.random.default_rng(seed)
    x = np.concatenate([mean + spread * random.standard_normal(n) for mean, spread, _, _, n in parts])
    dtype = object if kind == "str" else float
    given = np.concatenate([np.full(n, what, dtype) if np.ndim(what) == 0 else what for _, _, what, _, n in parts])
    day = np.concatenate([np.full(n, day) for _, _, _, day, n in parts])
    y, mixed = random.standard_normal(len(x)), random.permutation(len(x))
    columns = tuple(column[mixed] for column in (x, y, given, day))
    return Table(("x", "y", "kind", "day"), columns, "csv", (4,), ("float64", "float64", kind, "float64"), "cells")


def cells(seed: int = 0, rows: int = EACH) -> Table:
    parts = [
        (mean, spread, kind, day, rows if kind == "a" else rows // 2)
        for kind, means in MEANS.items()
        for mean, spread, day in zip(means, SPREADS, TIMES, strict=True)
    ]
    return table_of(parts, "str", seed)


HOW = {"time_key": "day", "condition": ("kind",), "method": "ot-cfm", "steps": 900, "batch_size": 128,
       "network": "residual-2x32", "training": {"learning_rate": 3e-3, "ema_decay": 0.99}}  # fmt: skip
LITTLE = HOW | {"steps": 20, "network": "residual-1x8", "batch_size": 32, "training": {}}


@pytest.fixture(scope="module")
def trained():
    return run(cells(), **HOW, evaluate=True).artefact


def column(table: Table, name: str) -> np.ndarray:
    return table.columns[table.names.index(name)]


def check_law(artefact, kind: str, day: float) -> None:
    """In each class the plan of Gaussians is that of order: mean and spread are interpolated linearly."""
    table = generate(artefact, 1000, condition=kind, at=(day,), seed=1).table
    x, y = column(table, "x"), column(table, "y")
    # As in `test_times`: four standard errors of a mean of some 100 to 200 training rows are 0.3, and a field trained
    # for seconds is to be no worse than that.
    assert x.mean() == pytest.approx(np.interp(day, TIMES, MEANS[kind]), abs=0.3)
    assert x.std() == pytest.approx(np.interp(day, TIMES, SPREADS), abs=0.2)
    assert y.mean() == pytest.approx(0, abs=0.3)
    assert set(column(table, "kind")) == {kind}


# Laws


@pytest.mark.parametrize("day", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("kind", ["a", "b"])
def test_each_label_goes_its_own_way(trained, kind, day):
    check_law(trained, kind, day)


def test_numbers_as_conditions():
    """x | c at time 1 is N(3c, 0.3²), at time 0 it is N(0, 0.3²) whatever c: in between N(3ct, 0.3²)."""
    random = np.random.default_rng(3)
    dose = random.uniform(-1, 1, (2, 2800))
    table = table_of([(3 * day * dose[day], 0.3, dose[day], float(day), 2800) for day in (0, 1)], "float64")
    artefact = run(table, **HOW).artefact
    for asked in (-0.7, 0.1, 0.7):
        for day in (0.0, 0.5, 1.0):
            x = column(generate(artefact, 600, condition=asked, at=(day,)).table, "x")
            # √2240 = 48 rows of near dose reach over 48/2240 of the range of 2, a mean 3·0.043/2 off at most. Theirs is
            # off by 0.3/√48 = 0.043 by chance, and their spread by 0.3/√96 = 0.031: four of each are left.
            assert x.mean() == pytest.approx(3 * asked * day, abs=0.24)
            assert x.std() == pytest.approx(0.3, abs=0.12)


@pytest.mark.parametrize("more", [{"training": HOW["training"] | {"pool": 4}}, {"spline": True}, {"method": "i-cfm"}])
def test_pools_splines_and_other_methods(more):
    artefact = run(cells(), **HOW | {"steps": 500} | more).artefact
    for kind in ("a", "b"):
        for day in (1.0, 3.0):  # a spline bends between the times
            x = column(generate(artefact, 800, condition=kind, at=(day,)).table, "x")
            assert x.mean() == pytest.approx(np.interp(day, TIMES, MEANS[kind]), abs=0.35)


# Verbs


def test_without_a_condition_labels_come_as_they_do_at_the_last_time(trained):
    table = generate(trained, 600, at=(0.0, 3.0)).table
    assert (column(table, "kind") == "a").mean() == pytest.approx(2 / 3, abs=0.08)  # four standard errors
    assert (column(table, "kind")[:600] == column(table, "kind")[600:]).all()  # the same rows on their way
    first = column(table, "x")[:600]
    assert np.corrcoef(first, column(table, "kind")[:600] == "b")[0, 1] > 0.9


def test_rows_move_under_their_own_condition(trained):
    rows = generate(trained, 200, condition="a", at=(0.5,)).table
    there = between(trained, rows, end=1)
    assert column(there.table, "x").mean() == pytest.approx(2, abs=0.3)
    assert set(column(there.table, "kind")) == {"a"}
    back = between(trained, there.table, end=0.5)
    assert np.median(abs(column(back.table, "x") - column(rows, "x"))) < 1e-3  # two solves at 1e-5 in float32
    ways = followed(trained, 300, (0, 1), condition="b")
    assert ways[:, :, 0].mean(1) == pytest.approx([2, -2], abs=0.3)
    own = followed(trained, take_rows(rows, np.arange(5)), (0.5, 1), origin=0.5)
    # Adaptive solves at 1e-5 in float32, across a sharp turn of the field and with other stops.
    np.testing.assert_allclose(own[1, :, 0], column(there.table, "x")[:5], atol=2e-2)


def test_velocities_differ_by_label(trained):
    rows = generate(trained, 200, at=(0.5,)).table
    speed = velocities(trained, rows).values[:, 0]
    kinds = column(rows, "kind")
    assert speed[kinds == "a"].mean() == pytest.approx(4, abs=0.6)  # from −2 to 2 in a day
    assert speed[kinds == "b"].mean() == pytest.approx(-4, abs=0.6)


def test_figures_are_those_of_the_conditions_at_hand(trained):
    facts = {one["time"]: one for one in trained.evaluation["snapshots"]}
    # Labels that took each other's way at time 1 would lie 4 units apart in two of three rows.
    assert facts[1.0]["model"] < facts[1.0]["floor"] + 0.25
    found = course(trained, cells(), prepare(request(cells(), **LITTLE)).split)
    assert [one.word for one in found.snapshots] == ["0", "1", "3"]
    for one in found.snapshots:
        assert one.samples[:, 0].mean() == pytest.approx(one.real[:, 0].mean(), abs=0.5)


def test_a_time_left_out_is_judged_label_by_label():
    """The plan that is interpolated keeps to the labels, too: between times it has the law of the closed form."""
    ways = {"a": (-2, 0, 2), "b": (2, 0, -2)}
    parts = [(mean, 0.3, kind, float(day), 150) for kind, way in ways.items() for day, mean in enumerate(way)]
    run_ = run(table_of(parts, "str"), **HOW | {"leave_out": (1,), "steps": 600}, evaluate=True)
    facts = next(one for one in run_.evaluation["snapshots"] if one["left_out"])
    # Plans of all rows stand still here, 2 units and so one standard deviation of the data away from the rows.
    assert facts["interpolation"] < facts["floor"] + 0.1
    assert facts["model"] < facts["floor"] + 0.25
    assert facts["still"] > 0.8


def test_labels_that_the_first_time_lacks_start_from_all_its_rows():
    parts = [(0.0, 0.5, None, 0.0, 200)] + [(s * 3.0, 0.5, kind, 1.0, 200) for kind, s in (("a", 1), ("b", -1))]
    artefact = run(table_of(parts, "str"), **HOW | {"steps": 500}).artefact
    for kind, mean in (("a", 3.0), ("b", -3.0)):
        table = generate(artefact, 500, condition=kind, at=(0.0, 1.0)).table
        assert column(table, "x")[:500].mean() == pytest.approx(0, abs=0.2)
        assert column(table, "x")[500:].mean() == pytest.approx(mean, abs=0.35)


def test_written_stopped_continued_and_opened(tmp_path):
    how = LITTLE | {"training": {"pool": 2}}
    whole = run(cells(), **how, out=tmp_path / "whole")
    run(cells(), **how, out=tmp_path / "parts", stop=stop_after(7))
    again = train(request(cells(), **how, out=tmp_path / "parts"))
    for name, one in whole.artefact.flow.state_dict().items():
        assert (one == again.artefact.flow.state_dict()[name]).all(), name
    opened = open_run(tmp_path / "parts")
    drawn = [generate(one, 20, condition="b", at=(0.5,)).table for one in (again.artefact, opened)]
    np.testing.assert_array_equal(column(drawn[0], "x"), column(drawn[1], "x"))
    assert any(line.get("coupling_classes") == 2 for line in opened.history)


def test_from_python():
    table = cells()
    x, kind, day = np.stack(table.columns[:2], 1), table.columns[2], table.columns[3]
    model = advect.fit(x, time_key=day, condition=kind, steps=20, network="residual-1x8")
    early = day == 0
    assert model.transport(x[early], start=0, to=1, condition=kind[early]).shape == (early.sum(), 2)
    assert model.trajectory(4, condition="a").shape == (3, 4, 2)
    assert model.trajectory(x[early], [0, 1], condition=kind[early]).shape == (2, early.sum(), 2)
    assert model.velocity(x[early], at=0, condition=kind[early]).shape == (early.sum(), 2)


# Refusals


def lost(kinds):
    return table_of([(0.0, 1.0, kind, float(day), 60) for day, names in enumerate(kinds) for kind in names], "str")


@pytest.mark.parametrize(
    ("table", "more", "message"),
    [
        (lost(["ab", "ab", "a"]), {}, "2 has no training rows of kind = b"),
        (lost(["ab", "a", "ab"]), {}, "1 has no training rows of kind = b"),
        (lost(["ab", "a", "a"]), {}, "1 has no training rows of kind = b, which 0 has"),
        (cells(), {"source": "moons"}, "put them into the data with their time"),
    ],
)
def test_what_is_refused(table, more, message):
    with pytest.raises(AdvectError, match=message):
        run(table, **LITTLE | more)
