"""Held-out figures of a run with weights are those of the weighted law."""

import numpy as np
import pytest
import torch

from advect.records import Table
from advect.training import generator_for
from advect.workflows.evaluate import figures
from advect.workflows.weighted import by_weight
from tests.workflows.tiny import run

ROWS, HEAVY = 2000, 5.0


def table(heavy=HEAVY):
    """Two groups of equal size, of which the right one weighs ``heavy`` times as much."""
    random = np.random.default_rng(0)
    right = random.random(ROWS) < 0.5
    x = np.where(right, 2.0, -2.0) + 0.3 * random.standard_normal(ROWS)
    return Table(
        names=("x", "w"),
        columns=(x, np.where(right, heavy, 1.0)),
        container="csv",
        event_shape=(2,),
        dtypes=("float64", "float64"),
        origin="groups",
    )


def share(rows):
    return float((rows.columns[0] > 0).mean())


@pytest.fixture(scope="module")
def weighted():
    return run(table(), weights="w", steps=1000, training={"learning_rate": 3e-3}, evaluate=True)


def test_rows_are_kept_as_they_weigh(weighted):
    rows = by_weight(weighted.artefact, table(), generator_for(0))
    right = share(table())
    expected = HEAVY * right / (HEAVY * right + 1 - right)
    # Kept rows are independent draws: five standard errors.
    assert share(rows) == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / rows.num_rows))
    assert len(np.unique(rows.columns[0])) == rows.num_rows
    assert rows.num_rows < ROWS
    # So heavy that few would be kept: drawn with replacement, as many as the effective number.
    few = table()
    weight = np.ones(ROWS)
    weight[:20] = 1000.0
    few = by_weight(weighted.artefact, Table(**(vars(few) | {"columns": (few.columns[0], weight)})), generator_for(0))
    assert few.num_rows == int(weight.sum() ** 2 / np.square(weight).sum())


def test_rows_without_weights_stay(weighted):
    plain = table()
    alone = Table(**(vars(plain) | {"names": ("x", "v")}))
    assert by_weight(weighted.artefact, alone, generator_for(0)) is alone


def test_figures_are_of_the_weighted_law(weighted):
    found = weighted.evaluation
    assert found["held_out_rows_by_weight"] < found["held_out_rows"] == ROWS // 10
    assert any(name == "weights" for name, _ in figures(found))
    worst = next(m for m in found["metrics"] if m["name"] == "Kolmogorov–Smirnov, worst column")
    # Against rows that count alike the model would be off by the mass that weights move: 5/6 − 1/2.
    assert worst["value"] < 0.25
    with torch.no_grad():
        samples = weighted.artefact.flow.sample(2000, generator=generator_for(1))
    assert float((samples > 0).double().mean()) == pytest.approx(5 / 6, abs=0.1)


def test_a_run_without_weights_says_nothing_of_them():
    found = run(table(), evaluate=True).evaluation
    assert "held_out_rows_by_weight" not in found
