"""A loss that stays far above its beginning ends the run; one odd batch does not."""

import pytest

from advect.errors import TrainingError
from advect.training.divergence import FIRST, IN_A_ROW, DivergenceWatch
from advect.workflows.doubt import doubt


def fed(losses) -> DivergenceWatch:
    watch = DivergenceWatch()
    for step, loss in enumerate(losses):
        watch.see(loss, step=step, learning_rate=0.1)
    return watch


def test_a_run_that_diverges_is_ended_and_says_what_to_try():
    with pytest.raises(TrainingError, match=r"no state was kept yet.*learning_rate=0\.01"):
        fed([2.0] * FIRST + [1e7] * IN_A_ROW)


def test_an_odd_batch_is_no_divergence():
    assert fed([2.0] * FIRST + ([1e7] * (IN_A_ROW - 1) + [2.0]) * 3).calm


def test_a_likelihood_that_says_nothing_is_in_doubt():
    good = {"mean": -1.0, "gaussian": -1.2, "standard_error": 0.1}
    assert doubt(good, (), rows=100, columns=2) is None
    assert "without bound" in doubt(good, ("x: repeats",), rows=100, columns=2)
    assert "no density" in doubt(good, (), rows=2, columns=2)
    assert "lower learning rate" in doubt({**good, "mean": -9.0}, (), rows=100, columns=2)
