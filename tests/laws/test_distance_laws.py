"""Every two-sample figure × every law."""

import math

import pytest
import torch

from advect.errors import AdvectError, ShapeError
from advect.evaluation import (
    classifier_accuracy,
    correlation_error,
    energy_distance,
    kolmogorov_smirnov,
    mmd_squared,
    sliced_wasserstein,
    wasserstein,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


WIDTHS = (0.5, 1.0, 2.0)

# Name to (figure of two samples, its value for samples that agree exactly).
FIGURES = {
    "W1": (lambda a, b: wasserstein(a, b, 1), 0.0),
    "W2": (lambda a, b: wasserstein(a, b, 2), 0.0),
    "sliced W2": (lambda a, b: sliced_wasserstein(a, b, generator=seeded()), 0.0),
    "energy": (energy_distance, 0.0),
    "MMD²": (lambda a, b: mmd_squared(a, b, bandwidths=WIDTHS), None),
    "classifier": (lambda a, b: classifier_accuracy(a, b, generator=seeded()).value, None),
    "Kolmogorov–Smirnov": (lambda a, b: float(kolmogorov_smirnov(a, b).mean()), 0.0),
    "correlation": (correlation_error, 0.0),
}
SYMMETRIC = [name for name in FIGURES if name != "classifier"]
every = pytest.mark.parametrize("name", FIGURES)


def rows(num: int, dim: int = 3, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(num, dim, generator=seeded(seed), dtype=dtype)


def skewed(num: int, seed: int = 2) -> torch.Tensor:
    """Far from `rows` by every figure: shifted, stretched and correlated."""
    x = rows(num, seed=seed)
    return torch.stack([x[:, 0] + 1.5, 2 * x[:, 0] + 0.5 * x[:, 1], x[:, 2] * 3], 1)


@every
def test_far_is_further_than_near(name):
    """For 400 rows, the figure against another law is beyond the largest of ten of the same law."""
    figure = FIGURES[name][0]
    real = rows(400, seed=1)
    same = [figure(rows(400, seed=seed), real) for seed in range(10, 20)]
    assert figure(skewed(400), real) > max(same)


@every
def test_a_sample_agrees_with_its_own_reordering(name):
    figure, expected = FIGURES[name]
    a = rows(50)
    value = figure(a, a[torch.randperm(50, generator=seeded(3))])
    if expected is None:
        assert value < figure(a, skewed(50))
    else:
        # The root of a float64 rounding error of 1e-13 is 3e-7.
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric(name):
    figure = FIGURES[name][0]
    a, b = rows(60), skewed(60)
    assert figure(a, b) == pytest.approx(figure(b, a), rel=1e-12)


@every
def test_the_origin_does_not_matter(name):
    """Float32 rows a thousand units away, on a grid of 1/256 where the shift is exact."""
    a, b = ((x * 256).round().float() / 256 for x in (rows(80), skewed(80)))
    figure = FIGURES[name][0]
    assert figure(a + 1000, b + 1000) == pytest.approx(figure(a, b), rel=1e-6)


@every
def test_same_seed_same_figure_and_no_global_state(name):
    figure = FIGURES[name][0]
    a, b = rows(60), skewed(60)
    torch.manual_seed(1)
    first = figure(a, b)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert figure(a, b) == first
    assert torch.equal(before, torch.get_rng_state())


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_dimension_two_rows_and_gradients(name, dtype):
    """Tiny samples give a number (correlations: NaN, as there is no pair of columns), and no graph."""
    a, b = (rows(2, 1, seed, dtype).requires_grad_() for seed in (1, 2))
    value = FIGURES[name][0](a, b)
    assert isinstance(value, float)
    assert math.isnan(value) == (name == "correlation")


@every
def test_constant_columns_give_numbers(name):
    a, b = rows(40), skewed(40)
    a[:, 2] = b[:, 2] = 7.0
    assert math.isfinite(FIGURES[name][0](a, b))


@every
def test_all_rows_equal_gives_a_number_or_nan_for_correlation(name):
    a = torch.ones(10, 3)
    value = FIGURES[name][0](a, a.clone())
    assert math.isnan(value) if name == "correlation" else math.isfinite(value)


@pytest.mark.parametrize("name", [n for n in FIGURES if n not in ("W1", "W2")])
def test_unequal_numbers_of_rows(name):
    assert math.isfinite(FIGURES[name][0](rows(40), skewed(70)))


@pytest.mark.parametrize("name", ["W1", "W2"])
def test_exact_transport_refuses_unequal_numbers(name):
    with pytest.raises(ShapeError, match="40 rows against 70"):
        FIGURES[name][0](rows(40), skewed(70))


@pytest.mark.parametrize(
    "call",
    [
        lambda a: wasserstein(a, a, 3),
        lambda a: sliced_wasserstein(a, a, generator=seeded(), projections=0),
        lambda a: mmd_squared(a, a, bandwidths=(1.0, -1.0)),
        lambda a: mmd_squared(a, a, bandwidths=()),
        lambda a: mmd_squared(a[:1], a),
        lambda a: classifier_accuracy(a, a[:1], generator=seeded()),
    ],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(AdvectError):
        call(rows(10))
