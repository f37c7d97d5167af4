"""Log-likelihood figures: units, errors, failed rows; the Gaussian baseline against SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from advect.errors import ShapeError, UnsupportedError
from advect.evaluation import GaussianFit, gaussian_fit_log_prob, summarise_log_prob


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(num: int, dim: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(num, dim, generator=seeded(seed), dtype=torch.float64)


def test_mean_and_both_errors():
    values, errors = rows(50, 1)[:, 0], torch.full((50,), 0.3, dtype=torch.float64)
    summary = summarise_log_prob(values, errors)
    assert summary.num_rows == 50
    assert summary.num_failed == summary.num_outside_support == 0
    assert summary.mean_nats == summary.mean_of_rest_nats == pytest.approx(float(values.mean()))
    assert summary.standard_error_nats == pytest.approx(stats.sem(values.numpy()))
    assert summary.estimator_error_nats == pytest.approx(0.3 / math.sqrt(50))
    assert summarise_log_prob(values).estimator_error_nats == 0.0


def test_failed_rows_are_counted_never_dropped():
    """trap L8: three NaN of twelve make the mean NaN, and the count stands in the metric's name."""
    values = torch.arange(12.0)
    values[[1, 5, 7]] = math.nan
    summary = summarise_log_prob(values)
    assert summary.num_failed == 3
    assert math.isnan(summary.mean_nats)
    assert summary.mean_of_rest_nats == pytest.approx((66 - 13) / 9)
    metric = summary.as_metric(ceiling=-1.0)
    assert "3 failed of 12 rows" in metric.name
    assert (metric.better, metric.unit, metric.ceiling) == ("higher", "nats per row", -1.0)
    assert summarise_log_prob(torch.zeros(3)).as_metric().name == "held-out log-likelihood"


def test_rows_outside_the_support_are_a_number():
    values = torch.tensor([0.0, -math.inf, 2.0])
    summary = summarise_log_prob(values)
    assert summary.num_outside_support == 1
    assert summary.num_failed == 0
    assert summary.mean_nats == -math.inf
    assert summary.mean_of_rest_nats == 1.0
    assert "1 outside the support of 3 rows" in summary.as_metric().name


def test_an_infinite_density_is_a_failure():
    summary = summarise_log_prob(torch.tensor([0.0, math.inf]))
    assert summary.num_failed == 1
    assert math.isnan(summary.mean_nats)


def test_nothing_finite_and_one_row():
    summary = summarise_log_prob(torch.full((4,), math.nan))
    assert summary.num_failed == 4
    assert math.isnan(summary.mean_of_rest_nats)
    one = summarise_log_prob(torch.tensor([2.0]))
    assert one.mean_nats == 2.0
    assert math.isnan(one.standard_error_nats)


def test_bad_lengths_are_refused():
    with pytest.raises(ShapeError):
        summarise_log_prob(torch.empty(0))
    with pytest.raises(ShapeError, match="3 values and 2 standard errors"):
        summarise_log_prob(torch.zeros(3), torch.zeros(2))


def test_gaussian_fit_equals_scipy():
    """Columns of different scales; the fit is maximum likelihood (divides by n)."""
    mix = rows(4, 4, 7) * torch.tensor([0.1, 1.0, 10.0, 30.0])
    train, test = rows(200, 4, 1) @ mix + 5, rows(30, 4, 2) @ mix + 5
    covariance = np.cov(train.T.numpy(), bias=True)
    expected = stats.multivariate_normal(train.mean(0).numpy(), covariance, allow_singular=False).logpdf(test.numpy())
    np.testing.assert_allclose(gaussian_fit_log_prob(train, test).numpy(), expected, rtol=1e-8)


def test_gaussian_fit_scores_in_the_units_of_the_rows():
    """Rescaling by c moves the density by −d log c."""
    train, test = rows(100, 3, 1), rows(20, 3, 2)
    moved = gaussian_fit_log_prob(train * 10, test * 10)
    torch.testing.assert_close(moved, gaussian_fit_log_prob(train, test) - 3 * math.log(10))


@pytest.mark.parametrize("what", ["constant", "copied", "few"])
def test_a_singular_fit_has_no_density_but_samples(what):
    train = rows(5 if what == "few" else 100, 6, 1)
    if what == "constant":
        train[:, 2] = 0.1  # its mean is off by rounding
    if what == "copied":
        train[:, 2] = 2 * train[:, 1]
    with pytest.raises(UnsupportedError, match="flat in some direction"):
        gaussian_fit_log_prob(train, train)
    samples = GaussianFit.of(train).sample(50, seeded())
    assert samples.shape == (50, 6)
    if what == "constant":
        torch.testing.assert_close(samples[:, 2], torch.full((50,), 0.1, dtype=torch.float64))
    if what == "copied":
        torch.testing.assert_close(samples[:, 2], 2 * samples[:, 1])


@pytest.mark.parametrize("num", [40, 4])
def test_gaussian_samples_have_the_fitted_moments(num):
    """Also with fewer rows than columns. 40 000 draws: moments to 5 standard errors."""
    train = rows(num, 5, 1) * torch.arange(1.0, 6.0) + 2
    fit = GaussianFit.of(train)
    samples = fit.sample(40_000, seeded())
    covariance = torch.from_numpy(np.cov(train.T.numpy(), bias=True))
    scale = covariance.diagonal().sqrt()
    torch.testing.assert_close(fit.factor.T @ fit.factor, covariance)
    assert ((samples.mean(0) - train.mean(0)) / scale).abs().max() < 5 / math.sqrt(40_000)
    # The standard error of a covariance is at most √2 times the product of the scales over √draws.
    error = (torch.cov(samples.T) - covariance) / scale / scale[:, None]
    assert error.abs().max() < 5 * math.sqrt(2 / 40_000)


def test_gaussian_needs_two_rows():
    with pytest.raises(ShapeError, match="1 rows"):
        GaussianFit.of(rows(1, 2))


def test_gaussian_fit_keeps_its_digits_across_scales():
    """Twelve orders of magnitude between columns move the density by their logarithms and nothing else."""
    train, test, scale = rows(200, 4, 1), rows(30, 4, 2), torch.tensor([1e-6, 1.0, 1e3, 1e6], dtype=torch.float64)
    moved = gaussian_fit_log_prob(train * scale, test * scale) + scale.log().sum()
    torch.testing.assert_close(moved, gaussian_fit_log_prob(train, test), rtol=1e-9, atol=1e-9)
