"""What the solver adds to the error of a score: against a solve a thousand times finer, and the statements about it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import advect
from advect.data import read_table
from advect.errors import UnsupportedError
from advect.flows.step_error import finer
from advect.records import Estimate
from advect.solvers import RK4, Adaptive, Chunked
from advect.solvers.stochastic import ReverseSDE
from advect.workflows.score import Scored, score, score_table
from advect.workflows.solver_error import at_tolerance, doubts, solver_error, with_solver_error
from tests.workflows.tiny import moons, run


@pytest.mark.slow
def test_the_estimate_is_the_error():
    """At a loose tolerance the error against a solve at 1e-6 (float32 holds no more) is the estimate, to a tenth."""
    artefact = run(moons(), steps=200).artefact
    rows = read_table(moons(40, seed=1))
    loose = at_tolerance(artefact, 3e-3)
    scored = score(loose, rows)
    found = solver_error(loose, rows, scored)
    true = (scored.estimate.value - score(at_tolerance(artefact, 1e-6), rows).estimate.value).abs()
    assert true.max() > 3e-4  # else there is nothing to estimate
    # Ten times less is left of the error in the second solve, for errors in proportion to the tolerance; a row's may
    # fall faster or slower, so means are compared.
    assert float(found.mean()) == pytest.approx(float(true.mean()), rel=0.35)
    fine = at_tolerance(artefact, 1e-5)
    assert solver_error(fine, rows, score(fine, rows)).mean() < 0.1 * found.mean()


@pytest.mark.slow
def test_noise_is_not_taken_for_solver_error():
    """Draws inside discrete cells scatter by tenths of a nat; the same draws in both solves leave their difference."""
    data = np.random.default_rng(0).integers(0, 4, (200, 2))
    model = advect.fit(data, method="i-cfm", steps=30, network="mlp-1x8", seed=0)
    scored = model.score(data[:20])
    errors = model.solver_error(data[:20])
    assert errors.max() < 0.1 * scored.standard_error.mean()


@pytest.mark.slow
def test_layers_have_none():
    model = advect.fit(moons(), method="nsf", steps=5, seed=0)
    assert model.solver_error(moons(5)).tolist() == [0.0] * 5
    with pytest.raises(UnsupportedError, match="likelihood_solver"):
        at_tolerance(model.artefact, 1e-6)


def test_a_finer_solver():
    assert finer(Adaptive(rtol=1e-3, atol=1e-4, log_det_tolerance=1e-2)) == Adaptive(
        rtol=1e-4, atol=1e-5, log_det_tolerance=1e-3
    )
    assert finer(RK4(8)).num_steps == 16
    assert finer(Chunked(RK4(8), 100)) == Chunked(RK4(16), 100)
    with pytest.raises(UnsupportedError, match="neither steps"):
        finer(ReverseSDE)


def test_doubts_are_told():
    status = torch.tensor([0, 0, 5, 0], dtype=torch.int8)
    value = torch.tensor([-1.0, -2.0, float("nan"), -3.0]).double()
    estimate = Estimate(value, torch.tensor([0.0, 0.7, 0.0, 0.1]).double(), status)
    scored = Scored(estimate, importance_samples=4, bound=True)
    assert [words.split(" have ")[0] for words in doubts(scored)] == ["1 rows", "1 rows"]
    errors = torch.tensor([0.3, 1e-5, float("nan"), float("nan")]).double()
    told = doubts(scored, errors)
    assert any("solver error above 0.1 nats, up to 0.3" in words for words in told)
    assert any("on 1 rows the finer solve failed" in words for words in told)
    good = replace(scored, estimate=Estimate(value[:1], value[:1] * 0, status[:1]))
    assert doubts(good, errors[1:2]) == []
    table = with_solver_error(score_table(scored), errors)
    assert table.names == ("log_prob", "standard_error", "solver_error", "status")
    assert len(table.columns) == len(table.dtypes) == 4
