"""What pairing costs, from the lines of a run to its page."""

import dataclasses
import json
import math

import numpy as np
import pytest

from advect.report.pairing import PairingCost, pairing_card, pairing_figure, pairing_words
from advect.run import METRICS, REPORT
from advect.workflows.pairing import pairing_costs
from tests.workflows.tiny import moons, run


def line(cost, independent=4.0, **more):
    return {"step": 1, "coupling_mean_cost": cost, "coupling_independent_cost": independent} | {
        f"coupling_{name}": value for name, value in more.items()
    }


def test_means_over_batches():
    history = (line(1.0), {"step": 2}, line(2.0), line(3.0, lower_bound=0.5))
    artefact = run(moons(), steps=1).artefact
    (found,) = pairing_costs(dataclasses.replace(artefact, history=history))
    assert found == PairingCost("", 2.0, 1 / math.sqrt(3), 4.0, 0.5, None, 3)
    assert pairing_words((found,)) == (
        "2.00 ± 0.58 a pair, 50 % of what pairs at random cost (4); no plan between the same rows costs less than "
        "0.500.",
    )
    assert pairing_costs(dataclasses.replace(artefact, history=({"step": 1, "coupling_chi_square": 0.1},))) == ()
    assert pairing_card(()) is None


def test_a_run_tells_what_its_pairs_cost(tmp_path):
    result = run(moons(), method="ot-cfm", out=tmp_path / "run", evaluate=True, training={"validation_every": 4})
    (found,) = pairing_costs(result.artefact)
    lines = [json.loads(one) for one in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert found.batches == len(lines) == 10
    assert found.cost == pytest.approx(np.mean([one["coupling_mean_cost"] for one in lines]))
    # A standard normal source and standardised rows of two columns: E|x0 − x1|² = 2 + 2, to the chance of 10 batches
    # of 32 and of the validation split.
    assert found.independent == pytest.approx(4.0, abs=0.5)
    assert found.cost < 0.5 * found.independent
    page = (tmp_path / "run" / REPORT).read_text(encoding="utf-8")
    assert "What pairing costs" in page
    assert "of what pairs at random cost" in page


def test_a_pool_has_its_bound():
    settings = {"pool": 0, "validation_every": 10}
    (found,) = pairing_costs(run(moons(9000), method="ot-cfm", training=settings, batch_size=512, steps=20).artefact)
    assert found.bound is not None
    assert found.bound <= found.cost <= found.independent


def test_independent_pairs_cost_nothing_to_find():
    assert pairing_costs(run(moons()).artefact) == ()


def test_each_pair_of_times_has_its_own(tmp_path):
    random = np.random.default_rng(0)
    # Two clouds that move by (3, 0), then stay: in units of all rows the first plan costs far more than the second.
    rows = np.concatenate([random.normal(size=(80, 2)) * 0.2 + [shift, 0] for shift in (0, 3, 3)])
    np.savez(tmp_path / "cells.npz", X=rows, day=np.repeat([0, 1, 2], 80))
    result = run(
        str(tmp_path / "cells.npz"), method="ot-cfm", time_key="day", training={"validation_every": 2}, steps=60
    )
    first, second = pairing_costs(result.artefact)
    assert (first.label, second.label) == ("0 → 1", "1 → 2")
    assert first.batches + second.batches == 30
    assert first.cost > 20 * second.cost


@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300, math.nan, math.inf])
def test_any_cost_is_drawn(value):
    costs = tuple(PairingCost("<b>", value, value, 1.0, value, 0.5) for _ in range(20))
    pairing_figure(costs)
    assert len(pairing_words(costs)) == 20
    assert "first 12 of 20" in pairing_card(costs).caption
