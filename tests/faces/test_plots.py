"""Frames and contour levels of the pictures of a model, against closed forms."""

import math

import numpy as np
import pytest

from advect.report.plots import MASSES, frame, mass_levels


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


def test_a_frame_leaves_out_what_is_far_and_holds_the_rest():
    values = np.append(np.linspace(0.0, 1.0, 1001), [1e9, np.nan, np.inf])
    low, high = frame(values, margin=0.1)
    # 0.2 % on either side of about a thousand values are two of them; the room is a tenth of the span.
    assert low == pytest.approx(-0.1, abs=0.01)
    assert high == pytest.approx(1.1, abs=0.01)
    assert frame(np.array([3.0, 3.0])) == (2.5, 3.5)
    assert frame(np.array([np.nan])) == (-1.0, 1.0)
