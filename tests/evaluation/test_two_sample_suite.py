"""The suite: every figure beside its floor and ceiling, at one number of rows, on awkward input too."""

import math

import pytest
import torch

from advect.errors import ConfigError, DataError, ShapeError
from advect.evaluation import column_suite, noise_floor, two_sample_suite, wasserstein
from advect.evaluation.noise_floor import spread_of


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(num: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(num, dim, generator=seeded(seed))


def two_humps(num: int, seed: int) -> torch.Tensor:
    """Not Gaussian: a fitted Gaussian is visibly worse than real rows."""
    x = rows(num, 2, seed) * 0.3
    side = torch.randint(2, (num,), generator=seeded(seed + 1000)) * 2.0 - 1
    return torch.stack([x[:, 0] + side, x[:, 1] + side * x[:, 0]], 1)


def by_name(metrics) -> dict:
    return {metric.name: metric for metric in metrics}


def figures(metrics) -> dict:
    """Without the two counts that come first."""
    return {name: m for name, m in by_name(metrics).items() if name not in ("rows compared", "non-finite share")}


@pytest.fixture(scope="module")
def perfect():
    """Samples that are real rows."""
    return two_sample_suite(two_humps(400, 1), two_humps(400, 2), two_humps(1200, 3), generator=seeded())


@pytest.fixture(scope="module")
def gaussian():
    """Samples of a Gaussian with the right moments."""
    real = two_humps(400, 2)
    fake = torch.distributions.MultivariateNormal(real.mean(0), torch.cov(real.T))
    noise = rows(400, 2, 9) @ fake.scale_tril.T + fake.loc
    return two_sample_suite(noise, real, two_humps(1200, 3), generator=seeded())


def test_every_figure_stands_beside_its_floor(perfect):
    """trap M12: the floor is printed, and above zero for figures that are biased in the number of rows."""
    assert len(figures(perfect)) == 9
    for metric in figures(perfect).values():
        assert math.isfinite(metric.floor)
        assert metric.floor_error > 0
        assert math.isfinite(metric.ceiling)
    for name in ("sliced Wasserstein-2", "Wasserstein-2", "Wasserstein-1", "energy distance"):
        assert by_name(perfect)[name].floor > 0


def test_real_rows_score_at_the_floor(perfect):
    """Floors come from five splits, so a t-value of 5 is about one in a hundred: 8 for nine figures."""
    for metric in figures(perfect).values():
        assert abs(metric.value - metric.floor) < 8 * metric.floor_error


def test_a_gaussian_scores_at_the_ceiling(gaussian):
    """Samples of the Gaussian fit are told from real rows, and land near the ceiling (same law, other draws)."""
    for name in ("sliced Wasserstein-2", "Wasserstein-2", "MMD²", "classifier two-sample test"):
        metric = by_name(gaussian)[name]
        assert metric.value > metric.floor + 3 * metric.floor_error
        assert abs(metric.value - metric.ceiling) < abs(metric.value - metric.floor)


def test_the_figures_are_named_with_units_and_count_their_rows(perfect):
    """trap M13: what was compared, how many rows, which bandwidths."""
    assert by_name(perfect)["rows compared"].value == 400
    assert by_name(perfect)["Wasserstein-2"].unit == "standard deviations"
    assert "bandwidths" in by_name(perfect)["MMD²"].unit
    assert by_name(perfect)["classifier two-sample test"].error > 0


def test_more_samples_give_a_mean_with_an_error():
    """trap M13: the mean over disjoint parts with its standard error, never the best of them."""
    real, reference, samples = two_humps(100, 2), two_humps(300, 3), two_humps(350, 1)
    metrics = by_name(two_sample_suite(samples, real, reference, generator=seeded()))
    assert metrics["rows compared"].value == 100
    assert all(m.error > 0 for m in figures(metrics.values()).values())
    capped = by_name(two_sample_suite(samples, real, reference, generator=seeded(), max_rows=40))
    assert capped["rows compared"].value == 40
    # W2² is biased in the number of rows: fewer rows, larger figure and floor.
    assert capped["Wasserstein-2"].floor > metrics["Wasserstein-2"].floor


def test_same_seed_same_suite(perfect):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = two_sample_suite(two_humps(400, 1), two_humps(400, 2), two_humps(1200, 3), generator=seeded())
    assert again == perfect
    assert torch.equal(before, torch.get_rng_state())


def test_samples_that_are_not_finite_are_counted():
    """trap M9: three of sixty rows; the figures are those of the others."""
    samples = two_humps(60, 1)
    samples[3, 0], samples[10, 1], samples[11] = math.nan, math.inf, -math.inf
    metrics = by_name(two_sample_suite(samples, two_humps(60, 2), two_humps(90, 3), generator=seeded()))
    assert metrics["non-finite share"].value == pytest.approx(3 / 60)
    assert metrics["rows compared"].value == 57
    assert math.isfinite(metrics["Wasserstein-2"].value)


@pytest.mark.parametrize("finite", [0, 1])
def test_nothing_finite_gives_nan_not_an_exception(finite):
    samples = torch.full((20, 2), math.nan)
    samples[:finite] = 0.0
    metrics = two_sample_suite(samples, two_humps(30, 2), two_humps(30, 3), generator=seeded())
    assert by_name(metrics)["non-finite share"].value == pytest.approx(1 - finite / 20)
    for metric in figures(metrics).values():
        assert math.isnan(metric.value)
        assert math.isfinite(metric.floor)


def test_no_samples_at_all():
    metrics = two_sample_suite(torch.empty(0, 2), two_humps(30, 2), two_humps(30, 3), generator=seeded())
    assert by_name(metrics)["non-finite share"].value == 1.0


@pytest.mark.parametrize("dim", [1, 3])
def test_two_rows_are_enough(dim):
    metrics = two_sample_suite(rows(2, dim, 1), rows(2, dim, 2), rows(2, dim, 3), generator=seeded())
    assert by_name(metrics)["rows compared"].value == 2
    assert ("correlation error" in by_name(metrics)) == (dim > 1)
    assert all(math.isfinite(m.value) for m in figures(metrics).values())


def test_constant_columns():
    samples, real, reference = (rows(50, 3, seed) for seed in (1, 2, 3))
    for x in (samples, real, reference):
        x[:, 1] = 4.0
    metrics = figures(two_sample_suite(samples, real, reference, generator=seeded()))
    assert all(math.isfinite(m.value) and math.isfinite(m.ceiling) for m in metrics.values())


def test_a_collapsed_model_is_far_from_the_floor():
    """All samples equal: every distance is large, correlations do not exist."""
    metrics = figures(two_sample_suite(torch.zeros(200, 2), two_humps(200, 2), two_humps(200, 3), generator=seeded()))
    assert math.isnan(metrics.pop("correlation error").value)
    assert all(m.value > m.floor + 3 * m.floor_error for m in metrics.values())


@pytest.mark.parametrize("which", ["real", "reference"])
def test_too_few_or_broken_real_rows_are_refused(which):
    good = {"real": two_humps(20, 2), "reference": two_humps(20, 3)}
    with pytest.raises(DataError, match=f"1 {which} rows"):
        two_sample_suite(two_humps(20, 1), **good | {which: good[which][:1]}, generator=seeded())
    broken = good[which].clone()
    broken[4, 1] = math.nan
    with pytest.raises(DataError, match=f"{which} rows are not all finite"):
        two_sample_suite(two_humps(20, 1), **good | {which: broken}, generator=seeded())


def test_different_columns_are_refused():
    with pytest.raises(ShapeError, match=r"\(20, 3\)"):
        two_sample_suite(rows(20, 3, 1), rows(20, 2, 2), rows(20, 2, 3), generator=seeded())


def test_column_suite_finds_the_wrong_column():
    """Column b is shifted by one standard deviation: its statistic is 2Φ(1/2) − 1 = 0.38 ± 5 × 0.035."""
    samples = rows(400, 3, 1) + torch.tensor([0.0, 1.0, 0.0])
    metrics = column_suite(samples, rows(400, 3, 2), rows(900, 3, 3), ["a", "b", "c"], generator=seeded())
    values = by_name(metrics)
    assert list(values) == [f"Kolmogorov–Smirnov of {name}" for name in "abc"]
    assert values["Kolmogorov–Smirnov of b"].value == pytest.approx(0.383, abs=0.17)
    assert values["Kolmogorov–Smirnov of b"].value > 3 * values["Kolmogorov–Smirnov of a"].value
    for metric in metrics:
        assert 0 < metric.floor < 0.15
        assert metric.floor_error > 0
    with pytest.raises(ShapeError, match="2 names for 3 columns"):
        column_suite(samples, samples, samples, ["a", "b"], generator=seeded())


# --- noise floor -----------------------------------------------------------------------------------------------------


def test_noise_floor_is_real_against_real():
    """A figure with a known law: the difference of means of two halves of 500 has sd √(2/500) = 0.063 and mean 0."""
    real = rows(1000, 1, 1)
    floor = noise_floor(lambda a, b: float(a.mean() - b.mean()), real, generator=seeded(), repeats=400)
    assert floor.repeats == 400
    assert abs(floor.value) < 5 * floor.spread / math.sqrt(400)
    assert floor.spread == pytest.approx(float(real.std()) * math.sqrt(2 / 500), rel=5 / math.sqrt(800))


def test_noise_floor_halves_are_disjoint_and_of_the_size_asked_for():
    seen = []

    def record(a, b):
        seen.append((a, b))
        return 0.0

    real = torch.arange(20.0)[:, None]
    noise_floor(record, real, generator=seeded(), size=7, repeats=3)
    assert len(seen) == 3
    for a, b in seen:
        assert len(torch.cat([a, b]).unique()) == 14
    assert not torch.equal(seen[0][0], seen[1][0])


def test_noise_floor_of_wasserstein_falls_with_rows():
    """trap M12: W2 between two samples of one law is not zero, and shrinks with their number."""
    real = two_humps(1000, 1)
    few, many = (noise_floor(wasserstein, real, generator=seeded(), size=size, repeats=5) for size in (50, 500))
    assert few.value > many.value + 3 * few.spread / math.sqrt(5)
    assert many.value > 0


def test_noise_floor_refuses_what_it_cannot_split():
    with pytest.raises(ShapeError, match="disjoint parts of 6"):
        noise_floor(wasserstein, rows(10, 2, 1), generator=seeded(), size=6)
    with pytest.raises(ConfigError, match="at least 2"):
        noise_floor(wasserstein, rows(10, 2, 1), generator=seeded(), repeats=1)


def test_spread_of_leaves_out_nan():
    floor = spread_of([1.0, math.nan, 3.0])
    assert (floor.value, floor.repeats) == (2.0, 2)
    assert floor.spread == pytest.approx(math.sqrt(2))
    assert spread_of([]).repeats == 0
