"""Growth of the rows of a run: rates and masses against the counts they were made with, and where they are written."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import advect
from advect.data import Split, beside, read_table, split_rows
from advect.errors import UnsupportedError
from advect.training import generator_for
from advect.workflows.between import between
from advect.workflows.course import course
from advect.workflows.evaluate import evaluate_rows, figures
from advect.workflows.generate import generate
from advect.workflows.growth import MASS
from advect.workflows.held_out import flat_latent
from advect.workflows.open import open_run
from advect.workflows.snapshot_scores import snapshot_facts
from advect.workflows.snapshots import timeline_of
from advect.workflows.velocity import GROWTH, velocities

SHARES = {0.0: 1 / 2, 1.0: 1 / 3, 3.0: 1 / 6}  # of the first of two kinds, at three times
ROWS = 240


def cells(count: int = ROWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two kinds six apart, which drift by half a standard deviation; one dies out."""
    random = np.random.default_rng(seed)
    parts = []
    for place, share in enumerate(SHARES.values()):
        first = round(share * count)
        kind = np.repeat([0.0, 6.0], [first, count - first])
        parts.append(np.stack([random.normal(0.4 * place, 1.0, count), kind + random.normal(0, 0.3, count)], 1))
    return np.concatenate(parts), np.repeat(list(SHARES), count)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growth")
    rows, day = cells()
    np.savetxt(folder / "cells.csv", np.column_stack([rows, day]), delimiter=",", header="a,b,day", comments="")
    advect.fit(
        str(folder / "cells.csv"), time_key="day", method="ot-cfm", plan="unbalanced", relaxation=0.1, steps=150,
        batch_size=64, network="residual-1x16", out=folder / "run",
    )  # fmt: skip
    return folder


def column(table, name):
    return np.asarray(table.columns[table.names.index(name)], dtype=np.float64)


def kinds(table):
    return column(table, "b") > 3


def test_each_kind_grows_as_its_share_does(path):
    """M averages over a kind to the ratio of its shares; the split leaves 80 % of the rows, at random in each time."""
    artefact, table = open_run(path / "run"), read_table(str(path / "cells.csv"))
    found = velocities(artefact, table)
    assert found.table().names == ("velocity a", "velocity b", GROWTH)
    day = column(table, "day")
    times = list(SHARES)
    for early, late in pairwise(times):
        for kind, before, after in ((0, SHARES[early], SHARES[late]), (1, 1 - SHARES[early], 1 - SHARES[late])):
            here = (day == early) & (kinds(table) == kind)
            mean = np.exp(found.growth[here] * (late - early)).mean()
            # Shares of 192 rows on either side: binomial errors, and the rows that the split kept for other ends.
            error = np.hypot(np.sqrt((1 - before) / before / 192), np.sqrt((1 - after) / after / 192))
            assert mean == pytest.approx(after / before, rel=4 * error)
    assert np.isfinite(found.growth).all()
    assert found.growth[(day == 3) & ~kinds(table)].mean() < 0 < found.growth[(day == 3) & kinds(table)].mean()


def test_rows_carry_their_mass(path):
    artefact = open_run(path / "run")
    drawn = generate(artefact, 300, seed=1, at=(0, 1, 2, 3)).table
    mass, day = column(drawn, MASS), column(drawn, "day")
    assert (mass[day == 0] == 1).all()
    # m0^(1−t) m1^t between two times: day 2 is half-way from day 1 to day 3.
    assert np.allclose(mass[day == 2], np.sqrt(mass[day == 1] * mass[day == 3]), rtol=1e-4)
    first = ~kinds(drawn)[day == 0]
    share = mass[day == 3][first].sum() / mass[day == 3].sum()
    assert share == pytest.approx(SHARES[3.0], abs=0.09)  # of a start that is binomial: 300 rows, 0.5 ± 0.03
    assert first.mean() > 0.4


def test_masses_of_a_way_there_and_back_cancel(path):
    artefact, table = open_run(path / "run"), read_table(str(path / "cells.csv"))
    early = advect.data.take_rows(table, np.flatnonzero(column(table, "day") == 0))
    there = between(artefact, early, start=0, end=2).table
    back = between(artefact, there, start=2, end=0).table
    product = column(there, MASS) * column(back, MASS)
    # The solver's tolerance is 1e-5 in the state, and log M has slopes of some tens at the edges of a kind.
    assert np.allclose(product, 1.0, rtol=0.02)


def test_times_between_take_rows_back_first(path):
    """The rate is constant along the way of a row."""
    artefact, table = open_run(path / "run"), read_table(str(path / "cells.csv"))
    early = advect.data.take_rows(table, np.flatnonzero(column(table, "day") == 1))
    moved = between(artefact, early, start=1, end=2).table
    rates = velocities(artefact, moved).growth
    assert np.allclose(rates, velocities(artefact, early, at=1).growth, atol=0.01)


def figures_both_ways(artefact, tmp_path):
    """Of fresh rows: samples counted by mass, and alike; with the distance of the kinds in the figures' units."""
    rows, day = cells(600, seed=1)
    np.savetxt(tmp_path / "fresh.csv", np.column_stack([rows, day]), delimiter=",", header="a,b,day", comments="")
    table = read_table(str(tmp_path / "fresh.csv"))
    split = split_rows(table.num_rows, seed=0, validation=0.0, test=0.5)
    latent = flat_latent(artefact, table, generator_for(0))[:, 1]
    apart = float(latent[rows[:, 1] > 3].mean() - latent[rows[:, 1] < 3].mean())
    both = [evaluate_rows(one, table, split) for one in (artefact, replace(artefact, growth=()))]
    return apart, *both


def test_figures_count_samples_by_their_mass(path, tmp_path):
    """Counted alike the first kind has a half of the samples for ever, so that (1/2 − p) of the mass stands a distance
    of the kinds away: by the coordinate that parts them, which is 1-Lipschitz, W1 is at least that."""
    apart, by_mass, alike = figures_both_ways(open_run(path / "run"), tmp_path)
    assert by_mass["samples_by_mass"]
    assert "samples_by_mass" not in alike
    assert ("growth", "samples count by the mass that they carry") in figures(by_mass)
    for time, share in list(SHARES.items())[1:]:
        one, other = (next(f for f in found["snapshots"] if f["time"] == time) for found in (by_mass, alike))
        # The shares of 300 real rows and of the start are binomial: 0.03 each; fields of 150 steps add to both sides.
        wrong = (0.5 - share) * apart
        assert other["model"] > wrong - 2 * 0.04 * apart
        assert one["model"] < other["model"] - wrong / 2
        assert one["model"] < one["floor"] + 0.09 * apart + 0.15
    energy = [next(m["value"] for m in found["metrics"] if "energy" in m["name"]) for found in (by_mass, alike)]
    assert energy[0] < energy[1] / 3


def test_the_report_shows_samples_by_their_mass(path):
    artefact, table = open_run(path / "run"), read_table(str(path / "cells.csv"))
    shown = course(artefact, table, split_rows(table.num_rows, seed=0, validation=0.0, test=0.5))
    for one, share in zip(shown.snapshots, SHARES.values(), strict=True):
        # 600 rows at most, of masses that 192 rows taught: as in the test of rows and their mass.
        assert (one.samples[:, 1] < 3).mean() == pytest.approx(share, abs=0.1)


def test_a_time_left_out_counts_by_the_mass_on_the_way(tmp_path):
    """Masses 1/3 and 5/3 at day 3 are to the power of 1/3 at day 1: a share of 0.37, where a third is right."""
    rows, day = cells()
    how = {"plan": "unbalanced", "relaxation": 0.1, "steps": 150, "batch_size": 64, "network": "residual-1x16"}
    model = advect.fit(rows, time_key=day, leave_out=1, **how)
    fresh, when = cells(600, seed=1)
    table = beside(read_table(fresh), {"time": when}, ("float64",))
    split = Split(*(np.zeros(0, dtype=np.int64),) * 3)
    one, other = (
        next(f for f in snapshot_facts(artefact, timeline_of(artefact), table, split) if f["left_out"])
        for artefact in (model.artefact, replace(model.artefact, growth=()))
    )
    latent = flat_latent(model.artefact, table, generator_for(0))[:, 1]
    apart = float(latent[fresh[:, 1] > 3].mean() - latent[fresh[:, 1] < 3].mean())
    assert other["model"] > (1 / 2 - 1 / 3 - 0.08) * apart
    assert one["model"] < other["model"] - 0.05 * apart


def test_a_balanced_plan_grows_nothing():
    rows, day = cells()
    model = advect.fit(rows, time_key=day, steps=5, batch_size=32, network="mlp-1x8")
    with pytest.raises(UnsupportedError, match="unbalanced"):
        model.growth(rows, at=1)
    assert model.artefact.growth == ()


def test_a_model_in_memory_grows_too(path):
    rows, day = cells()
    model = advect.fit(rows, time_key=day, plan="unbalanced", relaxation=0.1, steps=5, batch_size=32, network="mlp-1x8")
    assert model.growth(rows[day == 1], at=1).shape == (ROWS,)
    again = advect.load(model.save(path / "saved"))
    assert np.array_equal(again.growth(rows[day == 1], at=1), model.growth(rows[day == 1], at=1))


def test_growth_stands_in_obs(tmp_path):
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    from advect.cli.app import run

    rows, day = cells()
    kind = np.where(rows[:, 1] > 3, "b", "a")
    obs = pandas.DataFrame({"day": day, "kind": kind}, index=[str(row) for row in range(len(day))])
    nothing = np.zeros((len(day), 2), dtype=np.float32)
    made = anndata.AnnData(X=nothing, obs=obs, obsm={"X_pca": rows.astype(np.float32)})
    made.write_h5ad(tmp_path / "cells.h5ad")
    model = advect.fit(
        made, time_key="day", plan="unbalanced", relaxation=0.1, steps=5, batch_size=32, network="mlp-1x8",
        out=tmp_path / "run",
    )  # fmt: skip
    model.annotate(made)
    arguments = ["velocity", tmp_path / "run", tmp_path / "cells.h5ad", "--out", tmp_path / "out.h5ad"]
    for _ in range(2):  # the second time from a file that has the column already
        assert run([str(argument) for argument in arguments]) == 0
        read = anndata.read_h5ad(tmp_path / "out.h5ad")
        assert list(read.obs.columns) == ["day", "kind", GROWTH]
        assert np.allclose(read.obs[GROWTH], made.obs[GROWTH])
        (tmp_path / "out.h5ad").replace(tmp_path / "again.h5ad")
        arguments[2] = tmp_path / "again.h5ad"
