"""Weights beside times: every snapshot counts as its weights say, in pairs, start and figures."""

import numpy as np
import pytest
import torch

from advect.errors import DataError
from advect.records import Table
from advect.workflows.prepare import prepare
from tests.workflows.tiny import request, run

ROWS = 600


def cells(zero_at=None):
    """Two groups at each of three times, far apart; the right one weighs nine times as much as the left."""
    random = np.random.default_rng(0)
    right = random.random(ROWS) < 0.5
    day = np.arange(ROWS) % 3
    weight = np.where(right, 9.0, 1.0)
    weight[day == zero_at] = 0.0
    x = np.where(right, 3.0, -3.0) + 0.2 * random.standard_normal(ROWS)
    return Table(
        names=("x", "y"),
        columns=(x, day + 0.1 * random.standard_normal(ROWS)),
        sides={"day": day.astype(float), "w": weight},
        container="npz",
        event_shape=(2,),
        dtypes=("float64", "float64"),
        origin="cells",
    )


def right_share(latent):
    """The groups are far apart, so halfway between the ends lies between them."""
    middle = (latent[:, 0].min() + latent[:, 0].max()) / 2
    return float((latent[:, 0] > middle).double().mean())


def test_snapshots_are_weighted_populations():
    table = cells()
    prepared = prepare(request(table, time_key="day", weights="w"))
    x, day, weight = table.columns[0], table.sides["day"], table.sides["w"]
    train = prepared.split.train
    for time, rows in enumerate(prepared.train.rows):
        own = train[day[train] == time]
        expected = weight[own][x[own] > 0].sum() / weight[own].sum()
        drawn = rows.draw(torch.arange(rows.num_rows), torch.Generator())
        assert rows.num_rows == 4 * len(own)
        # Rows of equal weight are right together to one copy.
        assert right_share(drawn) == pytest.approx(expected, abs=1 / rows.num_rows + 1e-6)
    assert len(prepared.built.core.base.points) == prepared.train.rows[0].num_rows


def test_a_run_is_judged_by_the_weighted_populations():
    found = run(cells(), time_key="day", weights="w", steps=150, evaluate=True)
    assert found.evaluation["held_out_rows_by_weight"] < found.evaluation["held_out_rows"]
    assert len(found.evaluation["snapshots"]) == 2
    points = found.artefact.flow.base.points
    # Left rows are a tenth of the mass.
    assert right_share(points) == pytest.approx(0.9, abs=0.05)


def test_a_time_without_weight_is_refused():
    with pytest.raises(DataError, match="all rows of time 1"):
        prepare(request(cells(zero_at=1), time_key="day", weights="w"))
