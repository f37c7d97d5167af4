"""Growth of the rows of a run: rates and masses against the counts they were made with, and where they are written."""

from itertools import pairwise

import numpy as np
import pytest

import advect
from advect.data import read_table
from advect.errors import UnsupportedError
from advect.workflows.between import between
from advect.workflows.generate import generate
from advect.workflows.growth import MASS
from advect.workflows.open import open_run
from advect.workflows.velocity import GROWTH, velocities

SHARES = {0.0: 1 / 2, 1.0: 1 / 3, 3.0: 1 / 6}  # of the first of two kinds, at three times
ROWS = 240


def cells() -> tuple[np.ndarray, np.ndarray]:
    """Two kinds six apart, which drift by half a standard deviation; one dies out."""
    random = np.random.default_rng(0)
    parts = []
    for place, share in enumerate(SHARES.values()):
        first = round(share * ROWS)
        kind = np.repeat([0.0, 6.0], [first, ROWS - first])
        parts.append(np.stack([random.normal(0.4 * place, 1.0, ROWS), kind + random.normal(0, 0.3, ROWS)], 1))
    return np.concatenate(parts), np.repeat(list(SHARES), ROWS)


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
