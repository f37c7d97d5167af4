"""Velocities in the units of the data, and where they stand in annotated cells."""

from dataclasses import replace

import numpy as np
import pytest

from advect.data import read_table
from advect.errors import AdvectError, ConfigError, UnsupportedError
from advect.records import Table
from advect.workflows.between import followed
from advect.workflows.velocity import velocities, velocity_key
from tests.workflows.tiny import mixed, run


def cells(rows: int = 300, seed: int = 0) -> Table:
    """Two columns of very different units, and one with heavy tails, at days 0, 2 and 10."""
    random = np.random.default_rng(seed)
    day = random.choice([0.0, 2.0, 10.0], rows)
    a = 1000 * random.standard_normal(rows) + 500 * day
    b = 0.01 * random.standard_normal(rows) - 0.002 * day
    heavy = np.exp(2 * random.standard_normal(rows)) + day
    return Table(("a", "b", "heavy", "day"), (a, b, heavy, day), "csv", (4,), ("float64",) * 4, "cells")


@pytest.fixture(scope="module")
def trained():
    return run(cells(), time_key="day", steps=60, network="mlp-2x16").artefact


@pytest.mark.parametrize("at", [0.5, 2.0, 7.0])
def test_a_velocity_is_the_slope_of_the_way_in_the_user_s_units_and_times(trained, at):
    rows = cells(60, seed=1)
    found = velocities(trained, rows, at=at).values
    plain = replace(
        rows, names=rows.names[:3], columns=rows.columns[:3], dtypes=rows.dtypes[:3], event_shape=(3,), sides={}
    )
    step = 0.02
    there = followed(trained, plain, [at, at + step], origin=at)
    slope = (there[1] - there[0]) / step
    scale = np.abs(slope).mean(0)
    # Of first order in the step; float32 rounding of the state over 0.02 of 10 is some 1e-4 of the slope.
    assert np.abs(found - slope).mean(0) / scale == pytest.approx(0, abs=0.03)
    assert (np.abs(found).max(0) > 0).all()


def test_each_row_at_its_own_time(trained):
    rows = cells(60, seed=2)
    own = velocities(trained, rows).values
    day = rows.columns[3]
    for time in (0.0, 2.0, 10.0):
        here = day == time
        np.testing.assert_allclose(own[here], velocities(trained, rows, at=time).values[here], rtol=1e-5)


def test_as_a_table(trained):
    found = velocities(trained, cells(60))
    table = found.table()
    assert table.names == ("velocity a", "velocity b", "velocity heavy")
    np.testing.assert_array_equal(np.stack(table.columns, 1), found.values)
    assert found.unit == "day"


def test_what_has_no_velocity(trained):
    rows = cells(60)
    timeless = replace(rows, names=("a", "b", "heavy", "other"))
    with pytest.raises(ConfigError, match="which time these rows are of"):
        velocities(trained, timeless)
    with pytest.raises(ConfigError, match="outside the times"):
        velocities(trained, rows, at=11)
    with pytest.raises(ConfigError, match="knows no times"):
        velocities(run(cells(), steps=5).artefact, rows, at=0)
    houses = mixed()
    houses = replace(houses, sides={"day": np.arange(300) % 3})
    with pytest.raises(UnsupportedError, match="only numbers on a line"):
        velocities(run(houses, time_key="day", steps=5).artefact, houses)


# Annotated cells

GENES, COMPONENTS = 12, 4


def annotated(rows: int = 150, seed: int = 0):
    """Cells with a sparse X, components of it, loadings, and obs of several kinds."""
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    random = np.random.default_rng(seed)
    stage = random.integers(0, 3, rows)
    pca = random.standard_normal((rows, COMPONENTS)) * [5, 2, 1, 0.5]
    pca[:, 0] += 3 * stage
    loadings = np.linalg.qr(random.standard_normal((GENES, COMPONENTS)))[0]
    loadings[-2:] = 0  # genes that took no part
    index = pandas.Index([f"cell{i}" for i in range(rows)], dtype=object)
    words = pandas.Index(["day0", "day2", "day6"], dtype=object)
    obs = pandas.DataFrame(
        {
            "day": pandas.Categorical.from_codes(stage, words),
            "stage": pandas.Categorical.from_codes(
                stage, pandas.Index(["early", "middle", "late"], dtype=object), ordered=True
            ),
            "batch": random.integers(0, 4, rows),
        },
        index=index,
    )
    genes = pandas.DataFrame(index=pandas.Index([f"gene{i}" for i in range(GENES)], dtype=object))
    counts = sparse.random(rows, GENES, density=0.3, format="csr", random_state=0)
    return anndata.AnnData(
        X=counts,
        obs=obs,
        var=genes,
        obsm={"X_pca": pca.astype(np.float32), "X_umap": pca[:, :2].copy()},
        varm={"PCs": loadings},
    )


@pytest.fixture(scope="module")
def on_cells():
    return run(annotated(), time_key="day", steps=40, network="mlp-2x16").artefact


def test_the_representation_and_obs_are_read(tmp_path):
    made = annotated()
    made.write_h5ad(tmp_path / "cells.h5ad")
    for source in (made, tmp_path / "cells.h5ad"):
        table = read_table(source)
        assert table.container == "h5ad"
        assert table.key == "X_pca"
        assert table.names == ("pca1", "pca2", "pca3", "pca4")
        assert set(table.dtypes) == {"float32"}
        np.testing.assert_array_equal(np.stack(table.columns, 1), made.obsm["X_pca"])
        assert table.sides["day"].tolist() == made.obs["day"].tolist()
        assert table.ordered == {"stage"}
        assert table.categories["stage"] == ("early", "middle", "late")
    assert read_table(f"{tmp_path}/cells.h5ad:X_umap").names == ("umap1", "umap2")
    genes = read_table(made, key="X")
    assert genes.names[:2] == ("gene0", "gene1")
    np.testing.assert_array_equal(np.stack(genes.columns, 1), made.X.toarray())
    with pytest.raises(AdvectError, match="Known: X_pca, X_umap, X"):
        read_table(made, key="X_pac")
    del made.obsm["X_pca"]
    with pytest.raises(AdvectError, match="not clear which representation"):
        read_table(made)


def test_one_scale_for_all_columns_of_a_representation(on_cells):
    assert {coordinate.scaling for coordinate in on_cells.codec.coordinates} == {"common"}
    rows = read_table(annotated())
    from advect.training import generator_for
    from advect.workflows.transport import to_latent

    latent = to_latent(on_cells, rows, generator_for(0)).double().numpy()
    spread = np.stack(rows.columns, 1).std(0) / latent.std(0)
    np.testing.assert_allclose(spread, spread[0], rtol=1e-5)
    assert 0.8 < np.sqrt((latent**2).mean()) < 1.2


def test_velocities_stand_where_others_look_for_them(on_cells):
    from advect.workflows.velocity import annotate

    made = annotated()
    annotate(on_cells, made)
    assert velocity_key("X_pca") == "velocity_pca"
    velocity = made.obsm["velocity_pca"]
    assert velocity.shape == (150, COMPONENTS)
    assert velocity.dtype == np.float32
    np.testing.assert_allclose(made.layers["velocity"], velocity @ made.varm["PCs"].T, atol=1e-6)
    assert (made.layers["velocity"][:, -2:] == 0).all()
    again = annotated()
    annotate(on_cells, again, genes=False)
    assert "velocity" not in again.layers


def test_a_file_is_copied_with_its_velocities(on_cells, tmp_path, monkeypatch):
    anndata = pytest.importorskip("anndata")
    from advect.workflows.velocity import annotate, annotate_file

    monkeypatch.setattr("advect.workflows.velocity.ROWS_AT_ONCE", 64)  # several blocks
    made = annotated()
    made.write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    added = annotate_file(on_cells, tmp_path / "cells.h5ad", tmp_path / "with.h5ad")
    assert added == ("obsm['velocity_pca']", "layers['velocity']")
    assert (tmp_path / "cells.h5ad").read_bytes() == before
    read = anndata.read_h5ad(tmp_path / "with.h5ad")
    annotate(on_cells, made)
    np.testing.assert_allclose(read.obsm["velocity_pca"], made.obsm["velocity_pca"], rtol=1e-6)
    np.testing.assert_allclose(read.layers["velocity"], made.layers["velocity"], rtol=1e-6)
    assert (read.X != made.X).nnz == 0
    annotate_file(on_cells, tmp_path / "with.h5ad", tmp_path / "with.h5ad")  # again, over itself
    assert anndata.read_h5ad(tmp_path / "with.h5ad").obsm["velocity_pca"].shape == (150, COMPONENTS)


def test_samples_go_out_as_cells(on_cells, tmp_path):
    anndata = pytest.importorskip("anndata")
    from advect.data import write_table
    from advect.workflows.between import between
    from advect.workflows.generate import generate

    write_table(generate(on_cells, 20, at=("day3",)).table, tmp_path / "new.h5ad")
    read = anndata.read_h5ad(tmp_path / "new.h5ad")
    assert read.obsm["X_pca"].shape == (20, COMPONENTS)
    assert set(read.obs["day"]) == {"day3"}
    back = read_table(tmp_path / "new.h5ad")
    moved = between(on_cells, back, end="day0").table
    assert set(moved.sides["day"]) == {"day0"}
    write_table(read_table(np.zeros((5, 2))), tmp_path / "plain.h5ad")
    assert anndata.read_h5ad(tmp_path / "plain.h5ad").X.shape == (5, 2)


def test_a_file_that_is_none(tmp_path):
    pytest.importorskip("anndata")
    (tmp_path / "bad.h5ad").write_bytes(b"nothing of the kind")
    with pytest.raises(AdvectError, match="cannot be read"):
        read_table(tmp_path / "bad.h5ad")
