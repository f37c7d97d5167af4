"""Frames and contour levels of the pictures of a model, against closed forms."""

import math

import numpy as np
import pytest

from advect.report.density import MASSES, DensityGrid, mass_levels, shares_inside
from advect.report.values import frame


def test_contours_hold_their_mass():
    """Of a standard normal in the plane the region of mass m ends at log p = −log 2π + log(1 − m)."""
    axis = np.linspace(-6, 6, 601)
    x, y = np.meshgrid(axis, axis)
    levels = mass_levels(-(x**2 + y**2) / 2 - math.log(2 * math.pi))
    for share in MASSES:
        # One cell of 0.02² around the edge holds 6e-5 at most; of a hundredth outside that is 0.006 nats.
        assert levels[share] == pytest.approx(-math.log(2 * math.pi) + math.log(1 - share), abs=0.01)


def test_levels_of_nothing_and_of_a_plateau():
    assert mass_levels(np.full((3, 3), -np.inf)) == {}
    assert mass_levels(np.zeros((9, 9))) == {}  # no line separates equal densities


def test_rows_of_the_density_fill_its_regions():
    """Rows of a correlated normal: the share in the region of mass m is m, within five binomial deviations."""
    random = np.random.default_rng(0)
    factor = np.array([[1.0, 0.0], [1.2, 0.5]])
    rows = random.standard_normal((20_000, 2)) @ factor.T + [3.0, -1e3]
    axes = tuple(np.linspace(rows[:, i].min() - 1, rows[:, i].max() + 1, 160) for i in (0, 1))
    places = np.stack(np.meshgrid(*axes), -1) - [3.0, -1e3]
    values = -(np.linalg.solve(factor, places.reshape(-1, 2).T) ** 2).sum(0).reshape(160, 160) / 2
    found = shares_inside(DensityGrid(axes, values, ("a", "b"), rows=rows))
    for share in MASSES:
        # The level is that of a whole cell, of which the grid has about 1/1000 of the mass in the dense middle.
        assert found[share] == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 20_000) + 1e-3)
    assert shares_inside(DensityGrid(axes, values, ("a", "b"), rows=rows + 1e6)) == dict.fromkeys(MASSES, 0.0)
    assert shares_inside(DensityGrid(axes, values, ("a", "b"))) == {}


def test_a_frame_leaves_out_what_is_far_and_holds_the_rest():
    values = np.stack([np.linspace(0.0, 1.0, 1004), np.full(1004, 3.0)], 1)
    values[-3:, 0] = 1e9, np.nan, np.inf
    seen = frame(values, margin=0.1)
    # 0.2 % on either side of about a thousand values are two of them; the room is a tenth of the span.
    assert seen.low == pytest.approx([-0.1, 2.0], abs=0.01)
    assert seen.high == pytest.approx([1.1, 4.0], abs=0.01)
    assert frame(np.full((1, 1), np.nan)).high == [1.0]
