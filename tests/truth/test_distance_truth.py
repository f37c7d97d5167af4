"""Two-sample figures against SciPy, POT, scikit-learn and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from advect.evaluation import (
    classifier_accuracy,
    correlation_error,
    energy_distance,
    kolmogorov_smirnov,
    median_bandwidths,
    mmd_squared,
    sliced_wasserstein,
    wasserstein,
)
from advect.evaluation.mmd import median_distance
from advect.evaluation.wasserstein import wasserstein_1d


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(num: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(num, dim, generator=seeded(seed), dtype=torch.float64)


# --- Wasserstein -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dim", [1, 2, 20])
def test_wasserstein_equals_pot(order, dim):
    ot = pytest.importorskip("ot")
    a, b = rows(150, dim, 1), rows(150, dim, 2) * 0.5 + 1
    uniform = np.full(150, 1 / 150)
    metric = "euclidean" if order == 1 else "sqeuclidean"
    expected = ot.emd2(uniform, uniform, ot.dist(a.numpy(), b.numpy(), metric=metric)) ** (1 / order)
    assert wasserstein(a, b, order) == pytest.approx(float(expected), rel=1e-9)


def test_wasserstein_1_equals_scipy_on_a_line():
    a, b = rows(200, 1, 1), rows(200, 1, 2).exp()
    expected = stats.wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy())
    assert wasserstein(a, b, 1) == pytest.approx(expected, rel=1e-12)


def test_wasserstein_of_a_shift_is_the_shift():
    a = rows(100, 5, 1)
    for order in (1, 2):
        # The optimal map of a shift is the shift itself.
        assert wasserstein(a, a + 0.3, order) == pytest.approx(0.3 * math.sqrt(5), rel=1e-12)


@pytest.mark.parametrize(("num_a", "num_b"), [(50, 50), (50, 70), (3, 7), (1, 5), (60, 20)])
def test_one_dimension_equals_pot_for_any_numbers(num_a, num_b):
    ot = pytest.importorskip("ot")
    a, b = rows(num_a, 4, 1), rows(num_b, 4, 2) + 1
    expected = [ot.emd2_1d(a[:, k].numpy(), b[:, k].numpy()) for k in range(4)]
    torch.testing.assert_close(wasserstein_1d(a, b), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


def test_sliced_wasserstein_of_a_shift():
    """|m|/√dim; over 4000 directions the squared cosine has relative error √(2/4000) = 0.02, the root half of it."""
    a, shift = rows(50, 6, 1), rows(1, 6, 2)
    value = sliced_wasserstein(a, a + shift, generator=seeded(), projections=4000)
    assert value == pytest.approx(float(shift.norm()) / math.sqrt(6), rel=5 * 0.011)


def test_sliced_wasserstein_agrees_with_pot():
    ot = pytest.importorskip("ot")
    a, b = rows(200, 3, 1), rows(150, 3, 2) * 2 + 0.5
    ours = sliced_wasserstein(a, b, generator=seeded(), projections=3000)
    theirs = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), n_projections=3000, seed=0)
    # Independent directions: each side's squared value varies by a few per cent of 1/√3000 of itself.
    assert ours == pytest.approx(float(theirs), rel=0.03)


def test_sliced_wasserstein_on_a_line_is_exact():
    a, b = rows(80, 1, 1), rows(80, 1, 2) + 1
    assert sliced_wasserstein(a, b, generator=seeded()) == pytest.approx(wasserstein(a, b, 2), rel=1e-12)


def test_gaussian_wasserstein_is_approached_from_above():
    """N(0, I) and N(m, s²I): W2² = |m|² + d(1 − s)². With 1000 rows in 2-D the bias is a few hundredths."""
    a, b = rows(1000, 2, 1), rows(1000, 2, 2) * 0.5 + 2
    exact = math.sqrt(2 * 4 + 2 * 0.25)
    assert wasserstein(a, b) == pytest.approx(exact, abs=0.15)  # 5 × the standard error √(1.25/1000) of the mean shift


# --- energy and MMD --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_a", "num_b"), [(100, 100), (30, 80)])
def test_energy_equals_scipy_on_a_line(num_a, num_b):
    a, b = rows(num_a, 1, 1), rows(num_b, 1, 2) * 2 + 1
    expected = stats.energy_distance(a[:, 0].numpy(), b[:, 0].numpy())
    # The distance of a row to itself is rounding of 1e-8 instead of 0: up to 1e-8/rows in D².
    assert energy_distance(a, b) == pytest.approx(expected, rel=1e-7)


def test_energy_equals_the_plain_sum_in_blocks(monkeypatch):
    a, b = rows(40, 3, 1), rows(50, 3, 2) + 1
    plain = 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()
    monkeypatch.setattr("advect.evaluation.energy._BLOCK", 7)
    assert energy_distance(a, b) == pytest.approx(math.sqrt(float(plain)), rel=1e-7)


def test_mmd_equals_scikit_learn_kernels():
    metrics = pytest.importorskip("sklearn.metrics.pairwise")
    a, b = rows(40, 3, 1), rows(60, 3, 2) + 0.5

    def kernel(x, y):
        return np.mean([metrics.rbf_kernel(x, y, gamma=1 / (2 * h**2)) for h in (0.5, 1.0, 3.0)], axis=0)

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    expected = sum(within) - 2 * kernel(a, b).mean()
    assert mmd_squared(a, b, bandwidths=(0.5, 1.0, 3.0)) == pytest.approx(expected, rel=1e-9)


def test_mmd_is_unbiased_for_gaussians():
    """E k for N(0, I), N(m, I) with |m|² = 1: (h²/(h² + 2))^(d/2) exp(−|difference of means|²/(2(h² + 2)))."""
    dim, width = 3, 1.5
    peak = (width**2 / (width**2 + 2)) ** (dim / 2)
    exact = 2 * peak * (1 - math.exp(-1 / (2 * (width**2 + 2))))
    shift = torch.full((dim,), math.sqrt(1 / dim), dtype=torch.float64)
    draws = [
        mmd_squared(rows(100, dim, seed), rows(100, dim, 1000 + seed) + shift, bandwidths=(width,))
        for seed in range(200)
    ]
    assert np.mean(draws) == pytest.approx(exact, abs=4 * np.std(draws) / math.sqrt(200))
    null = [mmd_squared(rows(50, dim, seed), rows(50, dim, 1000 + seed), bandwidths=(width,)) for seed in range(200)]
    assert abs(np.mean(null)) < 4 * np.std(null) / math.sqrt(200)
    assert min(null) < 0


def test_median_distance_is_the_median():
    x = rows(60, 4, 1)
    expected = np.median(torch.pdist(x).numpy())
    # 1770 pairs: an even number, of which torch takes the lower of the two middle ones.
    assert median_distance(x) == pytest.approx(expected, rel=1e-3)
    assert median_bandwidths(x)[2] == median_distance(x)
    assert median_distance(torch.ones(5, 2)) == 1.0


# --- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_a", "num_b", "whole"), [(100, 100, False), (37, 80, False), (50, 90, True)])
def test_kolmogorov_smirnov_equals_scipy(num_a, num_b, whole):
    a, b = rows(num_a, 5, 1), rows(num_b, 5, 2) * torch.linspace(0.5, 3, 5)
    if whole:  # ties within and between the samples
        a, b = a.round(), b.round()
    expected = [stats.ks_2samp(a[:, k].numpy(), b[:, k].numpy()).statistic for k in range(5)]
    np.testing.assert_allclose(kolmogorov_smirnov(a, b).numpy(), expected, rtol=1e-12)


def test_correlation_error_equals_numpy():
    a, b = rows(80, 4, 1), rows(60, 4, 2)
    b[:, 1] += b[:, 0]
    a[:, 3] = 5.0  # constant: no correlation, left out on both sides
    difference = np.corrcoef(a[:, :3].T.numpy()) - np.corrcoef(b[:, :3].T.numpy())
    expected = math.sqrt(np.mean(difference[np.triu_indices(3, 1)] ** 2))
    assert correlation_error(a, b) == pytest.approx(expected, rel=1e-12)


# --- classifier ------------------------------------------------------------------------------------------------------


def test_classifier_reaches_the_optimal_accuracy():
    """N(0, I) against N(m, I): the best accuracy is Φ(|m|/2). 4000 decisions: standard error 0.006."""
    a, b = rows(2000, 2, 1), rows(2000, 2, 2) + 1.0
    best = stats.norm.cdf(math.sqrt(2) / 2)
    accuracy = classifier_accuracy(a, b, generator=seeded())
    assert accuracy.num_rows == 4000
    assert accuracy.standard_error == pytest.approx(math.sqrt(best * (1 - best) / 4000), rel=0.05)
    assert best - 0.03 < accuracy.value < best + 5 * accuracy.standard_error


def test_classifier_sees_shape_beyond_means_and_correlations():
    """A ring against a Gaussian with the same mean and covariance."""
    angle = 2 * math.pi * torch.rand(1000, generator=seeded(3), dtype=torch.float64)
    ring = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * rows(1000, 2, 4)
    gaussian = rows(1000, 2, 5) * math.sqrt(1.01)
    assert classifier_accuracy(ring, gaussian, generator=seeded()).value > 0.85


def test_classifier_is_at_chance_on_one_law_and_its_error_is_honest():
    """Thirty pairs of samples: mean 1/2, spread near the binomial error (30 draws, dependent folds)."""
    scores = [classifier_accuracy(rows(150, 3, s), rows(150, 3, 500 + s), generator=seeded(s)) for s in range(30)]
    values = np.array([score.value for score in scores])
    assert abs(values.mean() - 0.5) < 4 * values.std() / math.sqrt(30)
    assert 0.5 < values.std() / scores[0].standard_error < 1.8


def test_classifier_separates_what_never_mixes():
    accuracy = classifier_accuracy(rows(100, 2, 1), rows(100, 2, 2) + 20, generator=seeded())
    assert accuracy.value == 1.0
    assert accuracy.standard_error == 0.0


def test_classifier_weighs_both_classes_equally():
    """Nine rows to one of the same law: always guessing the larger class would score 0.9 of rows, 0.5 of classes."""
    accuracy = classifier_accuracy(rows(900, 2, 1), rows(100, 2, 2), generator=seeded())
    assert abs(accuracy.value - 0.5) < 5 * math.sqrt(0.25 * (1 / 900 + 1 / 100) / 4) + 0.02


def test_classifier_handles_many_columns():
    """More columns than the features allow are mixed down, and a shift of all of them is still found."""
    assert classifier_accuracy(rows(60, 400, 1), rows(60, 400, 2) + 0.5, generator=seeded()).value > 0.9
