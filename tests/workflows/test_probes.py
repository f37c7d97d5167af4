"""Figures on the way: what they are of each method, against other routes to the same numbers, and on the page."""

import json
import math

import numpy as np
import pytest
import torch

from advect.data import take_rows
from advect.evaluation import energy_distance
from advect.evaluation.regression_gap import FieldPoints, regression_gap
from advect.flows import EmpiricalField, Flow
from advect.paths import Linear
from advect.run import METRICS, MODEL, REPORT, Artefact
from advect.workflows import probes as module
from advect.workflows.prepare import prepare
from advect.workflows.probes import FIGURES, RegressionGapProbe, RowLikelihood, SampleDistance, probes_of
from advect.workflows.score import score
from tests.workflows.test_train import assert_equal_weights
from tests.workflows.tiny import mixed, moons, request, run, stop_after

OFTEN = {"validation_every": 8}


def made(data, **more):
    prepared = prepare(request(data, **more))
    prepared.built.core.eval()
    return prepared, {type(probe): probe for probe in probes_of(prepared)}


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("nsf", {SampleDistance, RowLikelihood}),
        ("maf", {SampleDistance, RowLikelihood}),
        ("iaf", {SampleDistance, RowLikelihood}),
        ("residual", {SampleDistance, RowLikelihood}),
        ("cnf", {SampleDistance}),
        ("i-cfm", {SampleDistance, RegressionGapProbe}),
        ("ot-cfm", {SampleDistance}),
        ("sf2m", {SampleDistance}),
        ("vp", {SampleDistance, RegressionGapProbe}),
        ("edm", {SampleDistance, RegressionGapProbe}),
        ("vae", {SampleDistance}),
        ("gan", {SampleDistance}),
    ],
)
def test_what_is_measured_of_each_method(method, kinds):
    prepared, probes = made(moons(400), method=method, network="auto")
    assert set(probes) == kinds
    known = {figure.key for figure in FIGURES} | {figure.level for figure in FIGURES}
    known |= {figure.spread for figure in FIGURES}
    prepared.flow.sample(2)  # layers that start from their first rows have seen some
    for probe in probes.values():
        with torch.no_grad():
            found, again, few = probe(probe.rows), probe(probe.rows), probe(10)
        assert found == again  # fixed rows and noise
        assert set(found) <= known
        assert set(few) == set(found)
        assert np.isfinite(list(found.values())).all()


def test_mixed_rows_and_conditions():
    _, probes = made(mixed(600), method="realnvp", network="auto", condition=("place",))
    assert set(probes) == {SampleDistance, RowLikelihood}
    with torch.no_grad():
        assert all(np.isfinite(list(probe(probe.rows).values())).all() for probe in probes.values())


def test_a_model_that_repeats_its_rows_is_on_the_floor():
    """Training rows in the place of samples: the figure is one of the very splits that the floor is the mean of."""
    rows = torch.randn(700, 2, generator=torch.Generator().manual_seed(0))

    class Repeats(Flow):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def sample(self, count, condition=None, *, generator=None):
            return rows[500 : 500 + count]

    probe = SampleDistance(Repeats(), rows[:200], rows[200:])
    found = probe(200)
    assert found["energy_distance"] == energy_distance(rows[500:].double(), rows[:200].double())
    # The floor's spread is that of five splits, so a chance of one in some thousands lies beyond six of them.
    assert abs(found["energy_distance"] - found["energy_distance_floor"]) < 6 * found["energy_distance_spread"]


@pytest.mark.parametrize("data", [moons(400), mixed(600)], ids=["exact", "mixed"])
def test_the_likelihood_is_that_of_the_scores(data):
    """`score` codes the rows and maps them through the whole flow; the probe holds latent rows and an offset."""
    prepared, probes = made(data, method="nsf", network="auto")
    probe = probes[RowLikelihood]
    artefact = Artefact(prepared.flow.eval(), prepared.schema, prepared.codec, prepared.condition, {})
    validation = take_rows(prepared.table, prepared.split.validation)
    assert probe.rows == validation.num_rows  # fewer than a probe takes
    scored = score(artefact, validation, importance_samples=4, seed=1).estimate
    usable = torch.isfinite(scored.value)
    with torch.no_grad():
        found = probe(probe.rows)["log_likelihood"]
    # Exact rows differ by the rounding of float32; others by two draws inside their cells, which the errors tell.
    noise = float(scored.standard_error[usable].square().sum().sqrt()) / int(usable.sum())
    assert found == pytest.approx(float(scored.value[usable].mean()), abs=1e-4 + 6 * 2**0.5 * noise)


def test_the_gap_is_that_of_the_evaluation():
    """The same field by the full estimate, on other points: equal within both errors."""
    rows = torch.from_numpy(moons(500)).float()
    exact = EmpiricalField(rows, Linear())
    field = lambda t, x, condition=None: 0.5 * x  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    value, error = FieldPoints.draw(exact, 512, generator=generator).gap(field)
    found = regression_gap(field, exact, rows[:100], generator=generator, rows=1024)
    assert abs(value - found.gap) < 5 * np.hypot(error, found.gap_error)
    assert FieldPoints.draw(exact, 512, generator=generator).gap(exact)[0] < 1e-20


def test_a_run_keeps_its_figures_and_its_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("advect.training.probes._Account._left", lambda account, began: math.inf)
    run(moons(400), out=tmp_path / "probed", training=OFTEN, evaluate=True)
    lines = [json.loads(line) for line in (tmp_path / "probed" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [8, 16, 24, 32, 40]
    assert all({"energy_distance", "regression_gap"} <= line.keys() for line in lines)
    run(moons(400), out=tmp_path / "plain", training=OFTEN | {"probe_share": 0.0})
    assert_equal_weights(tmp_path / "probed", tmp_path / "plain")
    assert "energy_distance" not in (tmp_path / "plain" / METRICS).read_text()

    run(moons(400), out=tmp_path / "cut", training=OFTEN, stop=stop_after(20))
    run(moons(400), out=tmp_path / "cut", training=OFTEN | {"probe_share": 0.5})  # may change on the way
    assert_equal_weights(tmp_path / "probed", tmp_path / "cut")
    assert (tmp_path / "cut" / MODEL).exists()

    page = (tmp_path / "probed" / REPORT).read_text(encoding="utf-8")
    assert "Figures on the way" in page
    assert "Energy distance from" in page


def test_weighted_rows_and_few_rows_are_not_compared():
    assert made(moons(60))[1].keys() <= {RegressionGapProbe}
    assert module.FEWEST_ROWS > 6
