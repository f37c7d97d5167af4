"""The regression gap in the figures of a run: where it is told, that it does not disturb other figures, and why not."""

import numpy as np
import pytest

import advect
from advect.workflows.evaluate import figures
from tests.workflows.tiny import moons, run


@pytest.mark.slow
def test_an_evaluation_tells_the_gap(tmp_path):
    result = run(moons(400), evaluate=True, out=tmp_path / "run")
    found = result.evaluation["regression"]
    assert found["training_rows"] == 320
    assert found["gap"] > 0
    # The three are averages over the same points; their cross term has mean 0, and the error of a mean of 1024.
    assert abs(found["loss"] - found["floor"] - found["gap"]) < 4 * 2 * (found["gap"] * found["floor"] / 1024) ** 0.5
    assert dict(figures(result.evaluation))["regression gap"].startswith(f"{found['gap']:.3g} ±")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Regression gap of the learnt field" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"method": "ot-cfm"}, "paired at random"),  # the coupling bends the field
        ({"method": "nsf", "network": "auto"}, "paired at random"),  # no path at all
        ({"options": {"sigma": 0.2}}, "paired at random"),  # points are no longer α x1 + σ x0
    ],
)
def test_runs_without_such_a_field_say_why(how, reason):
    result = run(moons(), evaluate=True, **how)
    assert reason in result.evaluation["regression"]["reason"]
    assert "regression gap" not in dict(figures(result.evaluation))


@pytest.mark.slow
def test_rows_that_are_no_fixed_set_have_none():
    whole = np.random.default_rng(0).integers(0, 5, (300, 2))
    assert "discrete cells" in run(whole, evaluate=True).evaluation["regression"]["reason"]


@pytest.mark.slow
def test_only_the_rows_of_the_training_count():
    """Another reference than the training rows has another exact field."""
    data = moons(300)
    model = advect.fit(data, method="i-cfm", steps=5, network="mlp-1x8", seed=0)
    found = model.evaluate(moons(50, seed=1), reference=moons(100, seed=2))
    assert "not at hand" in found["regression"]["reason"]
