"""Train on synthetic, test on real: against targets whose score is known beforehand."""

import math

import pytest
import torch

from advect.errors import ShapeError
from advect.evaluation import Lesson, train_on_synthetic
from advect.evaluation.synthetic import _ridge


def rows(count, seed, dim=2):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sides(x):
    return Lesson(x, (x[:, 0] > 0).double())


def judge(samples, train, test, classes=None):
    return train_on_synthetic(samples, train, test, classes=classes, generator=torch.Generator().manual_seed(0))


def test_samples_like_the_training_rows_reach_the_ceiling():
    found = judge(sides(rows(800, 1)), sides(rows(800, 2)), sides(rows(800, 3)), 2)
    assert found.measure == "accuracy"
    assert found.real > 0.97
    assert found.synthetic > 0.97
    assert found.guess == pytest.approx(0.5, abs=0.06)
    assert found.error == pytest.approx(math.sqrt(found.synthetic * (1 - found.synthetic) / 800))


def test_the_same_rows_give_the_same_score():
    x = sides(rows(300, 1))
    found = judge(x, x, sides(rows(200, 3)), 2)
    assert found.synthetic == found.real


def test_samples_with_the_labels_turned_round_teach_the_opposite():
    """By hand: the predictor is right exactly where the turned one is wrong, so the two accuracies sum to one."""
    x = sides(rows(400, 1))
    turned = Lesson(x.inputs, 1 - x.target)
    found = judge(turned, x, sides(rows(500, 3)), 2)
    assert found.synthetic + found.real == pytest.approx(1.0)


def test_a_class_that_samples_lack_is_never_predicted():
    test = sides(rows(500, 3))
    samples = Lesson(rows(200, 1), torch.zeros(200))
    assert judge(samples, sides(rows(200, 2)), test, 2).synthetic == float((test.target == 0).double().mean())


def test_numbers_are_scored_by_r2():
    def line(x, noise):
        return Lesson(x, 2 * x[:, 0] - x[:, 1] + noise)

    train, test = rows(600, 1), rows(600, 2)
    zero = torch.zeros(600, dtype=torch.float64)
    exact = judge(line(train, zero), line(train, zero), line(test, zero))
    assert exact.measure == "R²"
    assert exact.real > 0.999
    assert exact.guess == 0.0
    # Variance 5 of the signal and 5 of the noise: no predictor gets beyond one half.
    noisy = line(test, math.sqrt(5) * rows(600, 5)[:, 0])
    assert judge(line(train, zero), line(train, zero), noisy).real == pytest.approx(0.5, abs=0.08)
    useless = Lesson(train, rows(600, 9)[:, 0])
    assert judge(useless, line(train, zero), line(test, zero)).synthetic < 0.1


def test_ridge_is_that_of_the_normal_equations():
    x, y = rows(50, 1, 3), rows(50, 2, 1)
    found = _ridge(x, y)
    best = min(
        (torch.linalg.solve(x.T @ x + r * 50 * torch.eye(3, dtype=torch.float64), x.T @ y) for r in (1e-6, 1e-2, 1.0)),
        key=lambda c: float((c - found).norm()),
    )
    assert found.shape == best.shape == (3, 1)
    left_out = []
    for i in range(50):  # leave-one-out by hand for the middle ridge
        keep = torch.arange(50) != i
        fit = torch.linalg.solve(x[keep].T @ x[keep] + 50e-2 * torch.eye(3, dtype=torch.float64), x[keep].T @ y[keep])
        left_out.append(float(y[i, 0] - x[i] @ fit[:, 0]))
    inverse = torch.linalg.inv(x.T @ x + 50e-2 * torch.eye(3, dtype=torch.float64))
    direct = (y - x @ inverse @ x.T @ y)[:, 0] / (1 - (x @ inverse * x).sum(1))
    torch.testing.assert_close(direct, torch.tensor(left_out, dtype=torch.float64))


def test_rows_with_gaps_are_left_out_and_too_few_are_refused():
    x = sides(rows(100, 1))
    gaps = x.target.clone()
    gaps[:95] = torch.nan
    with pytest.raises(ShapeError, match="5 rows to learn from"):
        judge(Lesson(x.inputs, gaps), x, x, 2)
