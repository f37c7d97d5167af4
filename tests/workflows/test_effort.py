"""Fewer rows where time is short, the same ones and the same draws as where it is not."""

import time

import numpy as np
import pytest

from advect.data import read_table
from advect.workflows.effort import LEAST_ROWS, affordable_rows, figures_deadline
from advect.workflows.evaluate import evaluate_table
from advect.workflows.held_out import held_out_scores
from tests.workflows.tiny import mixed, moons, run


@pytest.fixture(scope="module")
def artefact():
    return run(moons()).artefact


def test_rows_follow_the_time(artefact, monkeypatch):
    assert affordable_rows(artefact, 1000, deadline=None, share=0.1) == 1000
    assert affordable_rows(artefact, 10, deadline=time.monotonic(), share=0.1) == 10
    assert affordable_rows(artefact, 1000, deadline=time.monotonic() - 5, share=0.5) == LEAST_ROWS

    class Slow:
        seconds = 4 * 0.05  # of the four rows that are tried

    monkeypatch.setattr("advect.workflows.effort.generate", lambda *_, **__: Slow)
    found = affordable_rows(artefact, 1000, deadline=time.monotonic() + 20, share=0.5)
    assert found == pytest.approx(200, abs=2)  # half of twenty seconds at a twentieth of a second each


def test_a_deadline_that_has_passed_leaves_the_first_rows_with_the_same_scores(artefact):
    """Scores, even of drawn coordinates, do not depend on how many rows there was time for."""
    for made, rows in ((artefact, read_table(moons(40, seed=1))), (run(mixed()).artefact, mixed(40, seed=1))):
        whole = held_out_scores(made, rows, seed=3)
        few = held_out_scores(made, rows, seed=3, deadline=time.monotonic())
        count = len(few.scored.estimate.value)
        assert count == 4
        assert len(whole.scored.estimate.value) == 40
        # Equal up to the tolerance of a solver whose steps look at each row alone.
        np.testing.assert_allclose(few.scored.estimate.value, whole.scored.estimate.value[:count], rtol=1e-6)


def test_figures_are_whole_but_smaller_in_a_hurry(artefact):
    held_out, train = read_table(moons(400, seed=1)), read_table(moons())
    found = evaluate_table(artefact, held_out, train, deadline=time.monotonic())
    assert found["sampling"]["rows"] == LEAST_ROWS
    assert found["likelihood"]["rows"] == 4
    assert found["transport"]["straightness"] > 0
    assert len(found["metrics"]) > 3


def test_long_trainings_leave_more_time_for_figures():
    now = time.monotonic()
    assert figures_deadline(1.0) - now == pytest.approx(180, abs=1)
    assert figures_deadline(3600.0) - now == pytest.approx(900, abs=1)
