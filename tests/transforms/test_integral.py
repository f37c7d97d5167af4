"""The integral of a positive network: value against SciPy's quadrature, slope against autograd, inverse on the line."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from advect.errors import ConfigError
from advect.transforms.integral import (
    LARGEST_LOG_SCALE,
    LARGEST_LOG_SLOPE,
    MonotoneIntegral,
    gauss_legendre,
)

FLOAT64 = torch.float64
BOTH = pytest.mark.parametrize("dtype", [FLOAT64, torch.float32])


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(embedding: int = 6, units: int = 8, **settings) -> MonotoneIntegral:
    return MonotoneIntegral(embedding, units, generator=draws(1), **settings).double()


def parameters(function: MonotoneIntegral, points: int, size: float = 1.0, seed: int = 2) -> Tensor:
    return size * torch.randn(points, function.num_parameters, dtype=FLOAT64, generator=draws(seed))


def points(num: int = 200, size: float = 2.5) -> Tensor:
    return size * torch.randn(num, dtype=FLOAT64, generator=draws(3))


@pytest.mark.parametrize("nodes", [1, 2, 7, 32])
def test_nodes_are_those_of_gauss_and_legendre(nodes):
    places, weights = gauss_legendre(nodes)
    truth_places, truth_weights = np.polynomial.legendre.leggauss(nodes)
    np.testing.assert_allclose(places[:-1], (truth_places + 1) / 2, rtol=0, atol=1e-14)
    np.testing.assert_allclose(weights, truth_weights / 2, rtol=0, atol=1e-14)
    assert places[-1] == 1


def test_value_is_the_integral_of_its_slope():
    """SciPy's adaptive quadrature of exp(log-slope) from 0, also across the edge of the box."""
    function = made()
    for row, x in zip(parameters(function, 8), [-6.0, -4.0, -1.3, 0.0, 0.7, 2.5, 4.0, 9.0], strict=True):

        def slope(u: float, row=row) -> float:
            return math.exp(function(torch.tensor(u, dtype=FLOAT64), row).log_slope.item())

        truth = quad(slope, 0.0, x, points=[p for p in (-4.0, 4.0) if 0 < p / x < 1] if x else None, epsrel=1e-12)[0]
        start = function(torch.zeros((), dtype=FLOAT64), row).value
        assert start == row[0]  # the offset
        found = function(torch.tensor(x, dtype=FLOAT64), row).value
        assert (found - start).item() == pytest.approx(truth, rel=1e-11, abs=1e-13)


def slope_error(function: MonotoneIntegral, p: Tensor) -> Tensor:
    """Relative difference of the derivative of the value, by autograd, from the slope that is returned."""
    x = points(len(p)).requires_grad_()
    moved = function(x, p)
    (slope,) = torch.autograd.grad(moved.value.sum(), x)
    return (slope / moved.log_slope.exp() - 1).abs().detach()


def test_slope_is_the_derivative_of_the_value():
    """To rounding at the sizes of trained networks: 40 nodes leave nothing to see."""
    assert slope_error(made(), parameters(made(), 2000, 1.0)).max() < 1e-12
    assert slope_error(made(), parameters(made(), 2000, 10.0)).max() < 1e-11


def test_slope_is_as_accurate_as_stated_at_the_limits():
    """Sharpness and amplitudes driven to their bounds: below 1e-12 in nine of ten, and never large."""
    errors = []
    for seed in range(6):
        function = MonotoneIntegral(16, 16, generator=draws(seed)).double()
        with torch.no_grad():
            function.sharpness.fill_(20.0)
            function.centre.uniform_(-4, 4, generator=draws(seed + 50))
            function.mixing.weight[16:] = 0  # places as drawn
        p = parameters(function, 500, 1e3, seed)
        errors.append(slope_error(function, p))
    errors = torch.cat(errors)
    assert errors.max() < 1e-5
    assert errors.quantile(0.9) < 1e-12
    assert errors.max() > 1e-10  # the limits are felt, or this would test nothing


def test_more_nodes_bring_less_error():
    """The error is quadrature's, and falls faster than geometrically."""
    worst = []
    for nodes in (4, 8, 16, 24):
        function = made(nodes=nodes)
        worst.append(slope_error(function, parameters(function, 300, 3.0)).max().item())
    rates = [later / earlier for earlier, later in pairwise(worst)]
    assert worst[0] > 1e-2
    assert worst[-1] < 1e-5
    assert rates[1] < rates[0]


def test_zeros_are_the_identity():
    function = made()
    x = torch.tensor([-1e6, -4.0, -0.3, 0.0, 2.0, 4.0, 1e6], dtype=FLOAT64)
    moved = function(x, torch.zeros(7, function.num_parameters, dtype=FLOAT64))
    torch.testing.assert_close(moved.value, x, rtol=1e-15, atol=1e-15)
    assert not moved.log_slope.any()


@BOTH
def test_rises_everywhere_and_stays_finite(dtype):
    """On a grid through box, edges and tails, and at ±1e6, for moderate and for wild parameters."""
    function = made().to(dtype)
    x = torch.cat([torch.linspace(-8, 8, 401), torch.tensor([-1e6, -1e3, 1e3, 1e6])]).sort().values.to(dtype)
    for size in (1.0, 30.0):
        p = parameters(function, 20, size).to(dtype)
        moved = function(x[None].expand(20, -1), p[:, None].expand(-1, len(x), -1))
        assert torch.isfinite(moved.value).all()
        assert (moved.log_slope.abs() < LARGEST_LOG_SLOPE + LARGEST_LOG_SCALE + 0.01).all()
        steps = moved.value.diff(dim=1)
        if dtype is FLOAT64:
            assert (steps > 0).all()
        else:  # where the slope is 1e-5, neighbours differ by less than the rounding of what lies between them
            assert (steps >= -1e-5 * moved.value.abs().clamp(min=1)[:, 1:]).all()


@BOTH
def test_gradients_are_finite_on_edges_and_far_out(dtype):
    function = made().to(dtype)
    x = torch.tensor([-1e6, -4.0, 0.0, 4.0, 1e6], dtype=dtype, requires_grad=True)
    p = parameters(function, 5).to(dtype).requires_grad_()
    for verb in (function.forward, function.inverse):
        moved = verb(x, p)
        wanted = [x, p, *function.parameters()]
        for gradient in torch.autograd.grad((moved.value / 1e6).sum() + moved.log_slope.sum(), wanted):
            assert torch.isfinite(gradient).all()


@BOTH
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_the_inverse_finds_every_point_of_the_line(dtype, size):
    """y is hit as exactly as its rounding allows: a few units in the last place of y, or of x times the slope."""
    function = made().to(dtype)
    y = torch.cat([points(300, 30.0), torch.tensor([-1e6, 0.0, 1e6], dtype=FLOAT64)]).to(dtype)
    p = parameters(function, len(y), size).to(dtype)
    found = function.inverse(y, p)
    assert found.converged.all()
    there = function(found.value, p)
    unit = torch.finfo(dtype).eps
    allowed = 100 * unit * (1 + y.abs() + p[:, 0].abs() + there.log_slope.exp() * (1 + found.value.abs()))
    assert ((there.value - y).abs() <= allowed).all()
    assert torch.allclose(found.log_slope, -there.log_slope, rtol=0, atol=1e-12 if dtype is FLOAT64 else 1e-4)


def test_gradients_of_the_inverse_are_implicit():
    """Trap S17: central differences in y, in the parameters and in the shared weights."""
    function = made(3, 4)
    y = torch.tensor([-5.0, -0.4, 1.1, 7.0], dtype=FLOAT64, requires_grad=True)
    p = parameters(function, 4).requires_grad_()
    weights = torch.randn(2, 4, dtype=FLOAT64, generator=draws(5))

    def loss() -> Tensor:
        found = function.inverse(y, p)
        return (weights * torch.stack([found.value, found.log_slope])).sum()

    leaves = [y, p, *function.parameters()]
    gradients = torch.autograd.grad(loss(), leaves)
    step = 1e-5
    for leaf, gradient in zip(leaves, gradients, strict=True):
        along = torch.randn(leaf.shape, dtype=FLOAT64, generator=draws(6))
        with torch.no_grad():
            leaf += step * along
            above = loss()
            leaf -= 2 * step * along
            below = loss()
            leaf += step * along
        # Truncation about step², the search's 1e-15 over the step.
        torch.testing.assert_close((gradient * along).sum(), (above - below) / (2 * step), rtol=1e-7, atol=1e-7)


def test_a_point_that_cannot_be_found_is_nan_and_says_so():
    function = made()
    y = torch.tensor([0.5, torch.nan, torch.inf, 1.0], dtype=FLOAT64)
    p = parameters(function, 4).requires_grad_()
    found = function.inverse(y, p)
    assert found.converged.tolist() == [True, False, False, True]
    assert found.value[1:3].isnan().all()
    (gradient,) = torch.autograd.grad(found.value[[0, 3]].sum(), p)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_points_of_any_shape(shape):
    function = made()
    x = torch.ones(shape, dtype=FLOAT64)
    p = parameters(function, 1)[0].expand(*shape, -1)
    for moved in (function(x, p), function.inverse(x, p)):
        assert moved.value.shape == moved.log_slope.shape == shape
    assert function.inverse(x, p).converged.shape == shape


@pytest.mark.parametrize(
    "wrong", [{"embedding": 0}, {"units": 0}, {"nodes": 0}, {"bound": 0.0}, {"bound": math.inf}, {"bound": math.nan}]
)
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="MonotoneIntegral"):
        MonotoneIntegral(**wrong)
