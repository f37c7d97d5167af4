"""Fréchet and kernel distance, precision to coverage, the share learnt by heart: against independent computations."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from advect.errors import ShapeError
from advect.evaluation import (
    Moments,
    frechet_distance,
    frechet_error,
    frechet_squared,
    kernel_distance,
    kernel_distance_error,
    memorised,
    nearest_records,
    support_overlap,
)


def rows(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(seed, dim):
    factor = rows(seed, dim, dim)
    return factor @ factor.T + 0.1 * torch.eye(dim, dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_frechet_distance_agrees_with_the_matrix_square_root_of_scipy(dim):
    a, b = (Moments(rows(s, dim), covariance(s + 9, dim)) for s in (1, 2))
    root = sqrtm((a.covariance @ b.covariance).numpy())
    trace = float(np.trace(a.covariance.numpy() + b.covariance.numpy() - 2 * root.real))
    expected = float((a.mean - b.mean).square().sum()) + trace
    # Both take square roots of matrices with condition numbers of some 1e4: half the digits of float64 and more.
    assert frechet_squared(a, b) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_commuting_gaussians_is_the_closed_form():
    spread_a, spread_b = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([3.0, 2.0, 1.0]).double()
    mean = torch.tensor([1.0, 0.0, -2.0]).double()
    a = Moments(torch.zeros(3).double(), torch.diag(spread_a.square()))
    b = Moments(mean, torch.diag(spread_b.square()))
    # Σ (σa − σb)² + |μ|²: one direction of a is flat, its root is zero.
    assert frechet_squared(a, b) == pytest.approx(4 + 0 + 1 + 5, rel=1e-12)
    assert frechet_squared(a, a) == pytest.approx(0.0, abs=1e-14)


def test_frechet_distance_with_fewer_rows_than_features_is_finite_and_zero_of_itself():
    few = rows(0, 5, 40)
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-10)
    assert math.isfinite(frechet_distance(few, rows(1, 7, 40)))


def test_frechet_distance_falls_towards_the_truth_as_one_over_n():
    """The bias of equal Gaussians in d dimensions halves when the rows double (leading order c/n)."""
    means = []
    for count in (100, 200):
        found = [frechet_distance(rows(2 * s, count, 8), rows(2 * s + 1, count, 8)) for s in range(60)]
        means.append(sum(found) / len(found))
    assert means[0] > 0
    # 60 repetitions of a figure that varies by a fifth or so: the ratio is known to some 4 %; four of these.
    assert means[0] / means[1] == pytest.approx(2.0, rel=0.16)


def test_bootstrap_error_is_that_of_repeated_samples():
    pairs = [(rows(s, 300, 4), rows(s + 500, 300, 4) + 1) for s in range(40)]
    repeated = float(torch.tensor([frechet_distance(a, b) for a, b in pairs]).std())
    told = frechet_error(*pairs[0], generator=torch.Generator().manual_seed(0), repeats=60)
    # Standard deviations of 40 and of 60 draws are known to 11 % and 9 %: three of both together, and the bootstrap's
    # own spread from sample to sample.
    assert told == pytest.approx(repeated, rel=0.5)


def brute_kernel_distance(a, b):
    dim = a.shape[1]

    def k(x, y):
        return (float(x @ y) / dim + 1) ** 3

    n, m = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_kernel_distance_is_its_definition():
    a, b = rows(0, 12, 5), rows(1, 9, 5) + 0.5
    assert kernel_distance(a, b) == pytest.approx(brute_kernel_distance(a, b), rel=1e-12)


def test_kernel_distance_is_unbiased_at_every_number_of_rows():
    """Of equal distributions the mean over many samples is zero, with as few as four rows; of others the truth."""
    for count in (4, 30):
        found = torch.tensor([kernel_distance(rows(2 * s, count, 3), rows(2 * s + 1, count, 3)) for s in range(400)])
        assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(len(found))  # one in 16,000
    # In one dimension, N(0, 1) against N(1, 1): E(xy + 1)³ = E(xy)³ + 3 E(xy)² + 3 E xy + 1, with E x = 0, E x² = 1,
    # E x³ = 0 and E y = 1, E y² = 2, E y³ = 4: 1 + 3, 1 + 3 + 12 + 16 and 1 + 6.
    found = torch.tensor([kernel_distance(rows(2 * s, 10, 1), rows(2 * s + 1, 10, 1) + 1) for s in range(400)])
    assert float(found.mean()) == pytest.approx(4 + 32 - 14, abs=4 * float(found.std()) / math.sqrt(len(found)))


def test_kernel_distance_error_is_that_of_repeated_samples():
    pairs = [(rows(s, 200, 4), rows(s + 700, 200, 4) + 0.5) for s in range(40)]
    repeated = float(torch.tensor([kernel_distance(a, b) for a, b in pairs]).std())
    told = sum(kernel_distance_error(a, b) for a, b in pairs) / len(pairs)
    assert 0.8 * repeated < told < 2 * repeated  # blocks say rather too much than too little


def brute_support(samples, real, k):
    def distance(x, y):
        return float((x - y).norm())

    def radius(i, own):
        return sorted(distance(own[i], own[j]) for j in range(len(own)) if j != i)[k - 1]

    reach, reach_of_samples = ([radius(i, own) for i in range(len(own))] for own in (real, samples))
    inside = [sum(distance(s, x) <= r for x, r in zip(real, reach, strict=True)) for s in samples]
    return (
        sum(count > 0 for count in inside) / len(samples),
        sum(any(distance(s, x) <= q for s, q in zip(samples, reach_of_samples, strict=True)) for x in real) / len(real),
        sum(inside) / (k * len(samples)),
        sum(any(distance(s, x) <= r for s in samples) for x, r in zip(real, reach, strict=True)) / len(real),
    )


@pytest.mark.parametrize(("shift", "k"), [(0.0, 3), (1.5, 5), (30.0, 1)])
def test_support_figures_are_their_definition(shift, k):
    samples, real = rows(0, 30, 3) + shift, rows(1, 40, 3)
    samples[:4], real[5:8] = real[:4], real[9]  # copies, and real rows that are equal
    found = support_overlap(samples, real, neighbours=k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(
        brute_support(samples, real, k)
    )


def test_support_figures_of_equal_distributions_are_those_of_theory():
    n, k = 200, 5
    found = [support_overlap(rows(2 * s, n, 6), rows(2 * s + 1, n, 6)) for s in range(30)]
    density = torch.tensor([f.density for f in found])
    coverage = torch.tensor([f.coverage for f in found])
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert float(density.mean()) == pytest.approx(1.0, abs=4 * float(density.std()) / math.sqrt(30))
    assert float(coverage.mean()) == pytest.approx(expected, abs=4 * float(coverage.std()) / math.sqrt(30))


def test_blocks_change_nothing():
    samples, real = rows(0, 1100, 2), rows(1, 1060, 2)
    whole = support_overlap(samples, real, neighbours=3)
    distance = (samples[:, None] - real[None]).norm(dim=2)
    own = (real[:, None] - real[None]).norm(dim=2).sort(1).values[:, 3]
    assert whole.precision == pytest.approx(float((distance <= own).any(1).double().mean()))
    assert whole.coverage == pytest.approx(float((distance <= own).any(0).double().mean()))


def test_nearest_records_by_hand():
    records = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [0.0, 2.0]]).double()
    found = nearest_records(torch.tensor([[0.0, 0.5], [3.0, 4.0]]).double(), records)
    assert found.index.tolist()[0] == 0
    assert found.first.tolist() == [0.5, 0.0]
    # The twin of the second row's nearest record is no second record.
    assert found.second.tolist() == pytest.approx([1.5, math.hypot(3, 2)])


def test_a_model_that_copies_is_memorised_and_one_that_learns_is_not():
    train, real, fresh = (rows(s, 2000, 30) for s in (1, 2, 3))
    copies = train[:500] + 0.01 * rows(4, 500, 30)
    half = torch.cat([copies, fresh[:500]])
    held = nearest_records(real, train)
    found = memorised(nearest_records(half, train), held)
    assert (found.share, found.real_share) == (0.5, 0.0)
    assert found.near_share == pytest.approx(0.5, abs=0.03)
    assert found.real_near_share == pytest.approx(0.01, abs=0.001)
    learnt = memorised(nearest_records(fresh, train), held)
    assert learnt.share == 0.0
    assert learnt.near_share < 0.03  # 2000 draws of a share of 0.01, with a bar set by 20 of 2000: ± 0.003 each


def test_rows_that_cannot_be_compared_are_refused():
    for refused in (
        lambda: frechet_distance(rows(0, 1, 3), rows(1, 5, 3)),
        lambda: frechet_squared(Moments.of(rows(0, 4, 2)), Moments.of(rows(1, 5, 3))),
        lambda: kernel_distance(rows(0, 1, 3), rows(1, 5, 3)),
        lambda: support_overlap(rows(0, 5, 3), rows(1, 9, 3)),
        lambda: nearest_records(rows(0, 5, 3), rows(1, 1, 3)),
    ):
        with pytest.raises(ShapeError):
            refused()
