"""Rows that are no flows, through the same verbs: bounds are called bounds, and what is not known is not made up."""

import math

import numpy as np
import pytest
import torch

from advect.data import read_table, take_rows
from advect.errors import UnsupportedError
from advect.workflows.compare import compare
from advect.workflows.comparison import measure as measuring
from advect.workflows.comparison.request import CompareRequest
from advect.workflows.evaluate import evaluate_table, figures
from advect.workflows.generate import generate
from advect.workflows.score import score
from advect.workflows.transport import transport
from tests.workflows.tiny import mixed, moons, run

SMALL = {"network": "mlp-1x16"}


@pytest.fixture(scope="module")
def codes():
    return run(moons(), method="vae", **SMALL).artefact


@pytest.fixture(scope="module")
def made():
    return run(moons(), method="gan", **SMALL).artefact


def test_a_bound_rises_with_the_draws_and_says_what_it_is(codes):
    rows = read_table(moons(60, seed=1))
    few, many = (score(codes, rows, importance_samples=k) for k in (2, 128))
    by_default = score(codes, rows)
    assert by_default.importance_samples == 64
    assert few.bound
    assert many.bound
    # In expectation the bound of more draws is higher; over 60 rows of this loose a bound it is so in the mean.
    assert float(many.estimate.value.mean()) > float(few.estimate.value.mean())
    # Any mean of exp is above the exp of the mean, row by row and whatever the draws.
    assert (many.estimate.value >= many.elbo).all()
    # The evidence lower bound does not depend on the draws, beyond their noise.
    spread = (many.elbo - few.elbo).std() / math.sqrt(60)
    assert abs(float((many.elbo - few.elbo).mean())) < 5 * float(spread)


def test_a_bound_is_below_the_density_that_many_samples_show(codes):
    """The model's density by a kernel over a million of its rows, whose smoothing is known to be small here."""
    point = np.array([[0.5, 0.25]])
    bound = float(score(codes, read_table(point, min_rows=1), importance_samples=2000).estimate.value)
    drawn = np.stack(generate(codes, 400_000, seed=3).table.columns, 1)
    radius = 0.1
    inside = int((np.linalg.norm(drawn - point, axis=1) < radius).sum())
    density = inside / len(drawn) / (math.pi * radius**2)
    # Counts are binomial; the density changes by its curvature · radius²/8 inside the disc, some percent here.
    assert bound == pytest.approx(math.log(density), abs=5 / math.sqrt(inside) + 0.05)


def test_figures_name_the_bound(codes):
    evaluation = evaluate_table(codes, read_table(moons(80, seed=2)), read_table(moons()), max_rows=100)
    like = evaluation["likelihood"]
    assert like["bound"]
    assert like["importance_samples"] == 64
    assert like["elbo"] <= like["mean"]
    line = dict(figures(evaluation))["log-likelihood"]
    assert line.startswith("at least")
    assert "ELBO" in line


def test_no_likelihood_is_said_and_the_rest_is_measured(made):
    evaluation = evaluate_table(made, read_table(moons(80, seed=2)), read_table(moons()), max_rows=100)
    assert "no likelihood" in evaluation["likelihood"]["reason"]
    assert len(evaluation["metrics"]) > 3
    assert dict(figures(evaluation))["log-likelihood"].startswith("none")
    for refused in (lambda: score(made, read_table(moons(5))), lambda: transport(made, read_table(moons(5)))):
        with pytest.raises(UnsupportedError, match="no likelihood and no code"):
            refused()


def test_codes_have_columns_of_their_own_number(codes):
    artefact = run(moons(), method="vae", options={"code": 3}, **SMALL).artefact
    there = transport(artefact, read_table(moons(20)), seed=1)
    assert there.table.names == ("z0", "z1", "z2")
    back = transport(artefact, there.table, to="target", seed=1)
    assert back.table.names == ("x0", "x1")
    assert np.isfinite(np.stack(back.table.columns, 1)).all()
    assert torch.equal(back.status, torch.zeros(20, dtype=torch.int8))


@pytest.mark.parametrize("method", ["vae", "gan"])
def test_mixed_tables_and_conditions(method):
    artefact = run(mixed(), method=method, condition=("place",), **SMALL).artefact
    given = take_rows(mixed(), np.arange(3))
    drawn = generate(artefact, 3, condition=given)
    assert drawn.failed == 0
    assert set(drawn.table.names) >= {"price", "rooms", "sold"}


def test_training_goes_on_bit_for_bit(tmp_path):
    from tests.workflows.tiny import stop_after

    whole = run(moons(), method="gan", out=tmp_path / "whole", **SMALL).artefact.flow.state_dict()
    assert run(moons(), method="gan", out=tmp_path / "parts", stop=stop_after(15), **SMALL).state == "interrupted"
    parts = run(moons(), method="gan", out=tmp_path / "parts", **SMALL).artefact.flow.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_compare_sets_them_beside_flows(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "write_run_report", lambda *_: {})
    request = CompareRequest(
        data=moons(200),
        methods=("nice", "vae", "gan"),
        out=tmp_path / "c",
        steps=8,
        batch_size=32,
        seeds=1,
        settings={"vae": {"code": 3}},
    )
    flow, codes, made = compare(request).rows
    assert flow.likelihood.label == "log-density"
    assert codes.likelihood.label == "lower bound of the log-density"
    assert codes.likelihood.difference is None  # the only one of its kind: not ranked with the others
    assert flow.likelihood.best
    assert made.likelihood.value is None
    assert "no likelihood" in made.likelihood.reason
    assert made.metrics
    page = (tmp_path / "c" / "compare.html").read_text(encoding="utf-8")
    assert "lower bound" in page
    assert "--set vae.code=3" in page
