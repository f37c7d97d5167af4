"""Weights of draws against Gaussians, where normaliser, effective sample size and bound are known."""

import math

import pytest
import torch
from scipy import special

from advect.errors import DataError
from advect.evaluation.importance import importance_diagnostics, importance_draws
from advect.flows import Flow, StandardNormal
from advect.transforms import Compose, Standardise
from advect.transforms.support import Box

DOUBLE = torch.float64
LOG_Z = -3.2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def target(x: torch.Tensor) -> torch.Tensor:
    """Z N(0, I) in two dimensions."""
    return -0.5 * x.square().sum(1) - math.log(2 * math.pi) + LOG_Z


def flow(shift: float) -> Flow:
    """N(shift·1, I)."""
    return Flow(StandardNormal((2,)).double(), Standardise(torch.full((2,), shift), torch.ones(2)))


def test_against_shifted_gaussians():
    """q = N(s·1, I), p = N(0, I): E[w²]/E[w]² = e^{2s²}, KL = s², so ESS/n → e^{−2s²} and bound → log Z − s²."""
    shift, count = 0.5, 40_000
    _, log_weights = importance_draws(flow(shift), target, count, generator=seeded())
    found = importance_diagnostics(log_weights)
    assert found.num_draws == count
    assert abs(found.log_normaliser - LOG_Z) < 5 * found.standard_error
    # Relative variance of w is e^{2s²} − 1.
    exact_error = math.sqrt(math.expm1(2 * shift**2) / count)
    assert found.standard_error == pytest.approx(exact_error, rel=0.05)
    assert found.effective_sample_size / count == pytest.approx(math.exp(-2 * shift**2), rel=0.03)
    assert abs(found.bound - (LOG_Z - shift**2)) < 5 * found.bound_error
    # log w = s·Σx + const has standard deviation s√2.
    assert found.bound_error == pytest.approx(shift * math.sqrt(2) / math.sqrt(count), rel=0.02)
    assert found.largest_share < 0.01


def test_standard_error_covers():
    """Of 200 repetitions with 500 draws, 95 % intervals miss log Z about 10 times; 25 or more: 1e-5."""
    misses = 0
    for seed in range(200):
        found = importance_diagnostics(importance_draws(flow(0.3), target, 500, generator=seeded(seed))[1])
        misses += abs(found.log_normaliser - LOG_Z) > 1.96 * found.standard_error
    assert misses < 25


def test_exact_flow():
    x, log_weights = importance_draws(flow(0.0), target, 100, generator=seeded())
    found = importance_diagnostics(log_weights)
    assert x.shape == (100, 2)
    assert abs(found.log_normaliser - LOG_Z) < 1e-12
    assert found.standard_error < 1e-12
    assert found.effective_sample_size == pytest.approx(100)
    assert found.largest_share == pytest.approx(0.01)
    assert abs(found.bound - LOG_Z) < 1e-12


def test_weights_far_from_one_do_not_overflow():
    base = importance_diagnostics(torch.tensor([0.0, 1.0, -2.0], dtype=DOUBLE))
    for by in (-1e4, 1e4):
        found = importance_diagnostics(torch.tensor([0.0, 1.0, -2.0], dtype=DOUBLE) + by)
        assert found.log_normaliser == pytest.approx(base.log_normaliser + by)
        assert found.effective_sample_size == pytest.approx(base.effective_sample_size)
        assert found.standard_error == pytest.approx(base.standard_error)
    w = torch.tensor([1.0, math.e, math.exp(-2)], dtype=DOUBLE)
    assert base.log_normaliser == pytest.approx(math.log(w.mean()))
    assert base.effective_sample_size == pytest.approx(float(w.sum() ** 2 / w.square().sum()))


def test_draws_without_weight():
    """Zero weights count: half the draws outside halve Ẑ."""
    found = importance_diagnostics(torch.tensor([0.0, -math.inf, 0.0, -math.inf]))
    assert found.log_normaliser == pytest.approx(math.log(0.5))
    assert found.effective_sample_size == pytest.approx(2)
    assert found.bound == -math.inf
    assert found.bound_error == math.inf
    nothing = importance_diagnostics(torch.tensor([-math.inf, -math.inf]))
    assert (nothing.log_normaliser, nothing.effective_sample_size) == (-math.inf, 0.0)
    assert importance_diagnostics(torch.tensor([1.0])).standard_error == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(bad):
    with pytest.raises(DataError, match=r"draw 1.*2 of 3"):
        importance_diagnostics(torch.tensor([0.0, bad, bad]))
    with pytest.raises(DataError, match="no weights"):
        importance_diagnostics(torch.zeros(0))


def test_a_bounded_target_through_a_support_map():
    """p̃ = x (1 − x)⁴ on (0, 1): Z is the beta function B(2, 5), and no draw leaves the support."""
    bounded = Flow(StandardNormal((1,)).double(), Box(0.0, 1.0, (1,)))
    x, log_weights = importance_draws(
        bounded, lambda x: (x.log() + 4 * torch.log1p(-x)).sum(1), 5000, generator=seeded()
    )
    assert ((x > 0) & (x < 1)).all()
    found = importance_diagnostics(log_weights)
    assert abs(found.log_normaliser - math.log(special.beta(2, 5))) < 5 * found.standard_error
    assert found.standard_error < 0.03


def test_conditions_reach_the_target():
    plain = Flow(StandardNormal((2,)).double(), Compose())
    with pytest.raises(Exception, match="expected none"):
        importance_draws(plain, lambda x, c: target(x), 4, torch.zeros(4, 1), generator=seeded())
