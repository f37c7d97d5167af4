"""Power cells under a standard normal, and the dual numbers of transport to them, against independent integration."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import norm

from advect.couplings import Semidiscrete
from advect.couplings.cells import PowerCells
from advect.couplings.exact_duals import exact_duals, normal_masses, power_faces
from advect.data.toys import TOYS


def _by_strips(rows, discount, cell):
    """The mass of one cell: in each strip x it is an interval of y between half-planes."""
    x = np.linspace(-9, 9, 400_001)
    low, high = np.full_like(x, -np.inf), np.full_like(x, np.inf)
    for other in range(len(rows)):
        if other == cell:
            continue
        # |p − y_c|² − g_c ≤ |p − y_o|² − g_o is a half-plane a·p ≤ b.
        a = 2 * (rows[other] - rows[cell])
        b = (rows[other] @ rows[other] - discount[other]) - (rows[cell] @ rows[cell] - discount[cell]) - a[0] * x
        if a[1] > 0:
            high = np.minimum(high, b / a[1])
        else:
            low = np.maximum(low, b / a[1])
    return np.trapezoid(norm.pdf(x) * np.maximum(0.0, ndtr(high) - ndtr(low)), x)


def test_masses_are_those_of_integration():
    random = np.random.default_rng(0)
    rows, discount = random.standard_normal((6, 2)), 0.3 * random.standard_normal(6)
    masses, _ = normal_masses(rows, discount)
    expected = [_by_strips(rows, discount, cell) for cell in range(6)]
    np.testing.assert_allclose(masses, expected, atol=1e-8)  # kinks cost (4.5e-5)² times slopes
    assert masses.sum() == pytest.approx(1, abs=1e-13)


def test_the_derivative_of_the_masses_is_theirs():
    random = np.random.default_rng(1)
    rows, discount = random.standard_normal((9, 2)), 0.1 * random.standard_normal(9)
    _, slope = normal_masses(rows, discount)
    step = 1e-5
    numeric = [
        (normal_masses(rows, discount + step * e)[0] - normal_masses(rows, discount - step * e)[0]) / (2 * step)
        for e in np.eye(9)
    ]
    np.testing.assert_allclose(slope.toarray(), np.array(numeric).T, atol=1e-9)  # step² times third derivatives


def test_a_row_whose_cell_is_empty_has_no_mass():
    rows = np.array([[1.0, 0.1], [-1.0, 0.2], [0.1, 1.0], [0.0, -1.0], [0.05, 0.05]])
    masses, _ = normal_masses(rows, np.array([0.0, 0.0, 0.0, 0.0, -5.0]))
    assert masses[4] == 0
    assert masses.sum() == pytest.approx(1, abs=1e-13)
    assert not (power_faces(rows, np.array([0.0, 0.0, 0.0, 0.0, -5.0])).cells == 4).any()


def test_faces_through_the_origin():
    """Four rows on the axes: every face passes through the origin, and by symmetry each cell holds a quarter."""
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    masses, _ = normal_masses(rows, np.zeros(4))
    np.testing.assert_allclose(masses, 0.25, atol=3e-8)


@pytest.mark.parametrize("toy", ["moons", "8gaussians", "scurve", "checkerboard"])
@pytest.mark.parametrize("count", [50, 2000])
def test_rows_draw_their_masses(toy, count):
    rows = TOYS[toy].sample(count, torch.Generator().manual_seed(count)).numpy()
    mass = np.random.default_rng(0).uniform(0.5, 1.5, count)
    mass /= mass.sum()
    found = exact_duals(rows, mass)
    assert found is not None
    assert found[1] <= 1e-9
    points = np.random.default_rng(1).standard_normal((100_000, 2))
    drawn = np.bincount(PowerCells(rows, found[0]).nearest(points)[1][:, 0], minlength=count)
    # Pearson's statistic has mean count − 1 and variance about 2 count: five standard deviations.
    statistic = float((np.square(drawn - 100_000 * mass) / (100_000 * mass)).sum())
    assert abs(statistic - count) < 5 * np.sqrt(2 * count) + 1


def test_on_the_line_cells_end_at_quantiles():
    rows = np.array([3.0, -1.0, 0.5, 7.0])
    mass = np.array([0.2, 0.4, 0.3, 0.1])
    g, left = exact_duals(rows[:, None], mass)
    assert left == 0
    order = np.argsort(rows)
    y, d = rows[order], g[order]
    faces = (y[1:] + y[:-1]) / 2 - np.diff(d) / (2 * np.diff(y))
    np.testing.assert_allclose(faces, norm.ppf(np.cumsum(mass[order])[:-1]), atol=1e-12)


@pytest.mark.parametrize(
    "rows", [np.array([[1.0, 2.0]]), np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), np.eye(3)], ids=str
)
def test_what_cannot_be_computed_is_left_to_learning(rows):
    assert exact_duals(rows, np.full(len(rows), 1 / len(rows))) is None


def test_the_plan_of_ten_thousand_rows_is_even():
    """Learning by draws came to a χ² of 0.2 here."""
    y = TOYS["moons"].sample(10_000, torch.Generator().manual_seed(0)).float()
    plan = Semidiscrete().prepare(None, y, generator=torch.Generator().manual_seed(1))
    x0 = torch.randn(50, 2, generator=torch.Generator().manual_seed(2))
    assert plan.choose(x0, generator=torch.Generator().manual_seed(3)).report["chi_square"] < 1e-9
