"""Calibration in closed form: the exact posterior passes, what is too sure or too vague or shifted is found out."""

import math

import pytest
import torch
from scipy.stats import norm
from torch.distributions import Normal

from advect.errors import DataError, ShapeError
from advect.evaluation.calibration import expected_coverage, rank_uniformity, sbc_ranks

PAIRS, DRAWS = 2000, 99


def pairs(widen=1.0, shift=0.0, seed=0):
    """θ ~ N(0, I) in the plane, x = θ + ε: the posterior is N(x/2, 1/2). Truth, draws, densities of both."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(PAIRS, 2, generator=generator, dtype=torch.float64)
    x = theta + torch.randn(PAIRS, 2, generator=generator, dtype=torch.float64)
    posterior = Normal(x / 2 + shift, widen / math.sqrt(2))
    draws = posterior.mean + posterior.stddev * torch.randn(DRAWS, PAIRS, 2, generator=generator, dtype=torch.float64)
    return theta, draws, posterior.log_prob(draws).sum(-1), posterior.log_prob(theta).sum(-1)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def test_ranks_by_hand():
    draws = torch.tensor([[1.0], [2.0], [3.0]]).unsqueeze(-1)
    truth = torch.tensor([[0.5], [1.5], [3.5]])
    assert sbc_ranks(draws.expand(3, 3, 1), truth).flatten().tolist() == [0, 1, 3]


def test_the_exact_posterior_has_uniform_ranks():
    theta, draws, *_ = pairs()
    ranks = sbc_ranks(draws, theta, generator=seeded())
    assert int(ranks.min()) == 0
    assert int(ranks.max()) == DRAWS
    assert (rank_uniformity(ranks, DRAWS, generator=seeded()) > 0.01).all()
    # mean of 0 … L is L/2, its standard error L/√(12 · pairs)
    assert torch.allclose(
        ranks.double().mean(0), torch.tensor(DRAWS / 2).double(), atol=4 * DRAWS / math.sqrt(12 * PAIRS)
    )


@pytest.mark.parametrize(("widen", "shift"), [(0.8, 0.0), (1.25, 0.0), (1.0, 0.1)])
def test_a_wrong_posterior_has_not(widen, shift):
    theta, draws, *_ = pairs(widen, shift)
    assert (rank_uniformity(sbc_ranks(draws, theta), DRAWS, generator=seeded()) < 1e-3).all()


def test_p_values_are_uniform_themselves():
    """The test of the test: without the spreading of whole numbers its p-values would crowd."""
    ranks = torch.randint(0, 6, (100, 200), generator=seeded())
    p_values = rank_uniformity(ranks, 5, generator=seeded(8))
    assert float((p_values < 0.5).double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 200**0.5)
    assert float((p_values < 0.1).double().mean()) == pytest.approx(0.1, abs=4 * 0.3 / 200**0.5)


def test_ties_are_broken_evenly():
    """Whole numbers: truth and draws are fair coins, of which most draws are equal to the truth."""
    draws = torch.randint(0, 2, (9, 4000, 1), generator=seeded()).double()
    truth = torch.randint(0, 2, (4000, 1), generator=seeded(8)).double()
    ranks = sbc_ranks(draws, truth, generator=seeded(9))
    assert float(rank_uniformity(ranks, 9, generator=seeded(10))) > 0.01


@pytest.mark.parametrize("widen", [1.0, 0.7, 1.4])
def test_coverage_is_that_of_the_closed_form(widen):
    """In two dimensions with deviation w σ, the region of mass c holds the truth with probability 1 − (1 − c)^(w²)."""
    _, _, draws, truth = pairs(widen)
    found = expected_coverage(draws, truth, generator=seeded())
    expected = 1 - (1 - found.levels) ** widen**2
    error = (expected * (1 - expected) / PAIRS).sqrt()
    assert ((found.coverage - expected).abs() < 4 * error + 1 / DRAWS).all()
    if widen == 1.0:
        assert found.p_value > 0.01
        assert torch.allclose(found.standard_error, error)
    else:
        assert found.p_value < 1e-6
        assert (found.excess < 0) == (widen < 1)  # overconfident: below


def test_coverage_does_not_mind_a_constant_of_the_observation():
    """An unnormalised density will do."""
    _, _, draws, truth = pairs()
    constant = torch.randn(PAIRS, generator=seeded(), dtype=torch.float64)
    first = expected_coverage(draws, truth, generator=seeded())
    second = expected_coverage(draws + constant, truth + constant, generator=seeded())
    assert torch.equal(first.coverage, second.coverage)


def test_a_truth_outside_the_support_is_in_no_region():
    draws = torch.zeros(50, 4) + torch.arange(50.0).unsqueeze(1)
    found = expected_coverage(draws, torch.full((4,), -math.inf), torch.tensor([0.5, 0.97]), generator=seeded())
    assert found.coverage.tolist() == [0.0, 0.0]


def test_the_prior_passes_both_as_the_words_say():
    """Necessary, not sufficient: a posterior that has learned nothing is calibrated."""
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(PAIRS, 1, generator=generator, dtype=torch.float64)
    draws = torch.randn(DRAWS, PAIRS, 1, generator=generator, dtype=torch.float64)
    assert float(rank_uniformity(sbc_ranks(draws, theta), DRAWS, generator=seeded())) > 0.01
    log_prob = torch.from_numpy(norm.logpdf(draws.squeeze(-1).numpy()))
    truth = torch.from_numpy(norm.logpdf(theta.squeeze(-1).numpy()))
    assert expected_coverage(log_prob, truth, generator=seeded()).p_value > 0.01


def test_a_seed_gives_the_same_figures():
    _, _, draws, truth = pairs()
    first, second = (expected_coverage(draws, truth, generator=seeded()) for _ in range(2))
    assert torch.equal(first.coverage, second.coverage)
    assert first.p_value == second.p_value


def test_what_is_refused():
    with pytest.raises(ShapeError, match="one axis more"):
        sbc_ranks(torch.zeros(5, 4, 2), torch.zeros(5, 2))
    with pytest.raises(DataError, match="1 of the draws"):
        sbc_ranks(torch.tensor([[[math.nan]]]), torch.zeros(1, 1))
    with pytest.raises(DataError, match="no draws"):
        expected_coverage(torch.zeros(0, 4), torch.zeros(4))
    with pytest.raises(DataError, match="outside 0 … 9"):
        rank_uniformity(torch.tensor([[10]]), 9)
