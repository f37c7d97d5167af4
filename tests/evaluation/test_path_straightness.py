"""Path energy and straightness against the closed forms of Gaussian flows."""

import math
from itertools import pairwise

import pytest
import torch

from advect.errors import ConfigError, ShapeError
from advect.evaluation import normalised_path_energy, path_energy, straightness

DIM, SCALE = 3, 0.4
SHIFT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def unit_rows() -> torch.Tensor:
    """The 8 corners of {±1}³: mean 0 and covariance I exactly, so quadratic means carry no sampling noise."""
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * DIM)


def independent_flow(times: torch.Tensor) -> torch.Tensor:
    """x_t = t m + σ_t x0 with σ_t² = (1−t)² + t²s²: the marginal flow of the linear path, N(0, I) → N(m, s²I)."""
    sigma = ((1 - times) ** 2 + times**2 * SCALE**2).sqrt()
    return times[:, None, None] * SHIFT + sigma[:, None, None] * unit_rows()


def transport_flow(times: torch.Tensor) -> torch.Tensor:
    """The optimal map of the same pair: straight lines to m + s·x0."""
    x0 = unit_rows()
    return x0 + times[:, None, None] * (SHIFT + (SCALE - 1) * x0)


W2_SQUARED = float(SHIFT.square().sum()) + DIM * (1 - SCALE) ** 2


def test_energy_of_the_independent_coupling():
    """|m|² + d(1 + s² − πs/2); the polygon on 4000 steps falls short by O(step²)."""
    times = torch.linspace(0, 1, 4001, dtype=torch.float64)
    energy = float(path_energy(independent_flow(times), times).mean())
    exact = float(SHIFT.square().sum()) + DIM * (1 + SCALE**2 - math.pi * SCALE / 2)
    assert energy == pytest.approx(exact, rel=1e-6)
    assert energy <= exact
    expected = DIM * SCALE * (2 - math.pi / 2) / W2_SQUARED
    assert normalised_path_energy(energy, W2_SQUARED) == pytest.approx(expected, rel=1e-5)


def test_energy_of_optimal_transport_is_w2():
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    energy = path_energy(transport_flow(times), times)
    assert normalised_path_energy(float(energy.mean()), W2_SQUARED) < 1e-14
    torch.testing.assert_close(straightness(transport_flow(times), times), torch.zeros(8, dtype=torch.float64))


def test_energy_of_the_trigonometric_path():
    """s = 1: |m|² π²/8 for the mean sin(πt/2) m, as x_t = sin(πt/2) m + x0."""
    times = torch.linspace(0, 1, 2001, dtype=torch.float64)
    states = (torch.pi * times / 2).sin()[:, None, None] * SHIFT + unit_rows()
    energy = float(path_energy(states, times).mean())
    assert energy == pytest.approx(float(SHIFT.square().sum()) * math.pi**2 / 8, rel=1e-6)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_energy_of_other_clocks(power):
    """x1 + κ(x0 − x1) with κ = (1−t)^a: energy a²/(2a − 1) |x1 − x0|², and straightness is the excess over one."""
    times = torch.linspace(0, 1, 4001, dtype=torch.float64)
    x0, x1 = unit_rows(), unit_rows() * 2 + SHIFT
    states = x1 + ((1 - times) ** power)[:, None, None] * (x0 - x1)
    distance = (x1 - x0).square().sum(1)
    factor = power**2 / (2 * power - 1)
    torch.testing.assert_close(path_energy(states, times), factor * distance, rtol=1e-6, atol=0)
    torch.testing.assert_close(straightness(states, times), (factor - 1) * distance, rtol=1e-5, atol=1e-9)


def test_uneven_times_both_directions_and_any_event():
    times = torch.tensor([0.0, 0.1, 0.35, 1.0], dtype=torch.float64)
    states = torch.randn(4, 5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_hand = sum((states[k + 1] - states[k]).square().sum((1, 2)) / float(times[k + 1] - times[k]) for k in range(3))
    torch.testing.assert_close(path_energy(states, times), by_hand)
    torch.testing.assert_close(path_energy(states.flip(0), times.flip(0)), by_hand)
    torch.testing.assert_close(path_energy(states[..., 0, 0], times), path_energy(states[..., :1, :1], times))


def test_equals_the_euler_sum():
    """Published protocol: the mean of |v|² dt along an Euler solve of 100 steps."""
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    x, total, states = unit_rows(), torch.zeros(8, dtype=torch.float64), [unit_rows()]
    for t, after in pairwise(times):
        velocity = torch.sin(3 * x) - t * x
        total += velocity.square().sum(1) * (after - t)
        x = x + (after - t) * velocity
        states.append(x)
    torch.testing.assert_close(path_energy(torch.stack(states), times), total)


def test_bad_times_are_refused():
    states = torch.zeros(3, 2, 1)
    with pytest.raises(ShapeError, match="3 states for 4 times"):
        path_energy(states, torch.linspace(0, 1, 4))
    with pytest.raises(ShapeError):
        path_energy(states[:1], torch.zeros(1))
    with pytest.raises(ConfigError, match="repeat or change direction"):
        path_energy(states, torch.tensor([0.0, 0.5, 0.5]))
    with pytest.raises(ConfigError, match="repeat or change direction"):
        path_energy(states, torch.tensor([0.0, 0.5, 0.2]))
    with pytest.raises(ConfigError, match="must be positive"):
        normalised_path_energy(1.0, 0.0)
