"""Guidance by a weaker field against closed forms: on Gaussian fields the combination is affine."""

import pytest
import torch
from torch import Tensor

from advect.errors import ConfigError
from advect.flows import Autoguided, ContinuousMap, GaussianBaseline
from advect.paths import Linear, make_schedule
from advect.solvers import RK4, Euler

STRONG = torch.tensor([1.5, 0.4], dtype=torch.float64)
WEAK = torch.tensor([2.0, 1.0], dtype=torch.float64)


def field(variance: Tensor, schedule=None) -> GaussianBaseline:
    return GaussianBaseline(torch.zeros(2).double(), variance, schedule or Linear())


def points(rows: int) -> Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_guided_flow_of_gaussian_fields_is_the_closed_form():
    """Each field is ½ (log S)' x with S(t) its variance at t, so x(1) = x(0) √(S_strong (S_strong/S_weak)^w) at t = 1,
    where both start from S = 1."""
    weight, x = 0.7, points(6)
    guided = Autoguided(field(STRONG), field(WEAK), weight)
    ode = ContinuousMap(guided, solver=RK4(steps=200))
    moved = ode.decode(x, log_det=False)
    exact = x * (STRONG * (STRONG / WEAK) ** weight).sqrt()
    assert (moved.value - exact).abs().max() < 1e-6
    assert moved.nfe.tolist() == [2 * 4 * 200] * 6
    trace = guided.divergence(0.4, x)
    assert (
        trace - (1 + weight) * field(STRONG).divergence(0.4, x) + weight * field(WEAK).divergence(0.4, x)
    ).abs().max() < 1e-12


def test_weight_zero_and_the_outside_of_the_interval_are_the_strong_field():
    x, t = points(4), torch.tensor([0.1, 0.3, 0.7, 0.9], dtype=torch.float64)
    strong, weak = field(STRONG), field(WEAK)
    assert torch.equal(Autoguided(strong, weak, 0.0)(0.3, x), strong(0.3, x))
    assert Autoguided(strong, weak, 0.0).evaluations == 1
    guided = Autoguided(strong, weak, 2.0, interval=(0.25, 0.75))
    gain = torch.tensor([0.0, 2.0, 2.0, 0.0], dtype=torch.float64).unsqueeze(1)
    assert (guided(t, x) - strong(t, x) - gain * (strong(t, x) - weak(t, x))).abs().max() < 1e-12
    assert guided.evaluations == 2
    assert ContinuousMap(guided, solver=Euler(steps=10)).decode(x, log_det=False).nfe.tolist() == [20] * 4
    assert guided.has_score
    assert guided.schedule == Linear()


def test_refusals():
    with pytest.raises(ConfigError, match="different schedules"):
        Autoguided(field(STRONG), field(WEAK, make_schedule("vp")), 1.0)
    with pytest.raises(ConfigError, match="not finite"):
        Autoguided(field(STRONG), field(WEAK), float("nan"))
    with pytest.raises(ConfigError, match="no interval"):
        Autoguided(field(STRONG), field(WEAK), 1.0, interval=(0.5, 0.5))
