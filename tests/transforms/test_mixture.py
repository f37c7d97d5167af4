"""The mixture's distribution function against SciPy; its searched inverse, far out and differentiated."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import logistic

from advect.errors import ConfigError
from advect.transforms.mixture import MixtureCDF

FLOAT64 = torch.float64


def drawn(*shape, seed=0, std=1.0, dtype=FLOAT64):
    return (std * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)).to(dtype)


def plain(theta, components, bound):
    """π, μ, s (as scales), a, b of one point, from the documentation."""
    weights, places, scales, a, b = np.split(theta, np.cumsum([components, components, components, 1]))
    share = np.exp(weights) / np.exp(weights).sum()
    return share, places, np.exp(scales / (1 + np.abs(scales) / bound)), a[0] / (1 + abs(a[0]) / bound), b[0]


def plain_forward(x, theta, components, bound):
    """y and log dy/dx by SciPy's logistic distribution."""
    share, places, scales, a, b = plain(theta, components, bound)
    cdf = (share * logistic.cdf(x, places, scales)).sum()
    pdf = (share * logistic.pdf(x, places, scales)).sum()
    return logit(cdf) * math.exp(a) + b, math.log(pdf) - math.log(cdf) - math.log1p(-cdf) + a


def test_value_and_slope_are_scipys():
    function = MixtureCDF(5, 2.5)
    theta, x = drawn(300, function.num_parameters), 3 * drawn(300, seed=1)
    found = function.forward(x, theta)
    for row in range(len(x)):
        value, log_slope = plain_forward(x[row].item(), theta[row].numpy(), 5, 2.5)
        # 1 − F loses digits in the plain formula where F nears 1.
        assert found.value[row].item() == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert found.log_slope[row].item() == pytest.approx(log_slope, abs=1e-9)


def test_inverse_is_scipys_root():
    function = MixtureCDF(3)
    theta, y = drawn(40, function.num_parameters), drawn(40, seed=1)
    found = function.inverse(y, theta)
    assert found.converged.all()
    for row in range(len(y)):
        share, places, scales, a, b = plain(theta[row].numpy(), 3, function.bound)
        target = expit((y[row].item() - b) * math.exp(-a))

        def miss(x, share=share, places=places, scales=scales, target=target):
            return (share * logistic.cdf(x, places, scales)).sum() - target

        assert found.value[row].item() == pytest.approx(brentq(miss, -30, 30, xtol=1e-13), abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("components", [1, 2, 8])
def test_zeros_are_the_identity(components, dtype):
    function = MixtureCDF(components)
    x = torch.tensor([-1e6, -30.0, -1.0, 0.0, 0.3, 20.0, 1e6], dtype=dtype)
    zeros = x.new_zeros(len(x), function.num_parameters)
    eps = 8 * torch.finfo(dtype).eps
    for found in (function.forward(x, zeros), function.inverse(x, zeros)):
        torch.testing.assert_close(found.value, x, rtol=eps, atol=eps)
        torch.testing.assert_close(found.log_slope, torch.zeros_like(x), rtol=0, atol=eps)


def test_the_start_is_near_the_identity_and_its_components_can_part():
    """At zero all components have the same gradient, step after step; at the start no two have."""
    function, x = MixtureCDF(4), 5 * drawn(200)

    def gradients(parameters):
        theta = parameters.double().requires_grad_()
        found = function.forward(x, theta.expand(200, -1))
        return torch.autograd.grad((0.5 * found.value**2 - found.log_slope).sum(), theta)[0][4:8]

    together = gradients(torch.zeros(function.num_parameters))
    torch.testing.assert_close(together, together[:1].expand(4))
    apart = gradients(function.start())
    assert apart.sort().values.diff().min() > 1e-3
    for spread in (0.5, 2.0):
        theta = function.start(spread).double().expand(200, -1)
        assert (function.forward(x, theta).value - x).abs().max() <= spread
    assert torch.equal(MixtureCDF(1).start(), torch.zeros(5))


@pytest.mark.parametrize("verb", ["forward", "inverse"])
def test_slopes_are_autograds(verb):
    function = MixtureCDF(4)
    x = (4 * drawn(300, seed=1)).requires_grad_()
    found = getattr(function, verb)(x, drawn(300, function.num_parameters))
    (slope,) = torch.autograd.grad(found.value.sum(), x)
    # The inverse's gradient is that of two Newton steps at the root, good to the root's own error.
    torch.testing.assert_close(found.log_slope, slope.log(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("verb", ["forward", "inverse"])
def test_gradients_are_finite_differences(verb):
    """Trap S17: also through the numeric inverse, for points and parameters, for value and log-slope."""
    function = MixtureCDF(3)
    x, theta = drawn(3, seed=5).requires_grad_(), drawn(3, function.num_parameters, seed=6).requires_grad_()

    def both(x, theta):
        found = getattr(function, verb)(x, theta)
        return found.value, found.log_slope

    assert torch.autograd.gradcheck(both, (x, theta), atol=1e-6)


def test_far_out_in_float32():
    """At ±1e6 the logit and the slope are those of the widest component: nothing overflows, cancels or vanishes."""
    function = MixtureCDF(4)
    theta = drawn(200, function.num_parameters, dtype=torch.float32)
    for place in (-1e6, -1e3, 1e3, 1e6):
        x = torch.full((200,), place).requires_grad_()
        given = theta.clone().requires_grad_()
        found = function.forward(x, given)
        for part in (found.value, found.log_slope):
            assert torch.isfinite(part).all()
            for gradient in torch.autograd.grad(part.sum(), (x, given), retain_graph=True):
                assert torch.isfinite(gradient).all()
        rates = np.array([1 / plain(t.double().numpy(), 4, 4.0)[2].max() for t in theta])
        stretch = np.array([math.exp(plain(t.double().numpy(), 4, 4.0)[3]) for t in theta])
        exact = np.log(rates * stretch)
        error = np.abs(found.log_slope.detach().numpy() - exact)
        # At 1e3 two components of nearly the same width may still share the tail; at 1e6 none do.
        assert np.quantile(error, 0.95) < (1e-4 if abs(place) > 1e5 else 0.05)


def test_between_distant_components_the_slope_is_tiny_and_finite():
    """Two narrow components at ±8: between them F is flat at one half to e^-100 and less."""
    function = MixtureCDF(2)
    theta = torch.zeros(1, function.num_parameters)
    theta[0, 2:4] = torch.tensor([-8.0, 8.0])
    theta[0, 4:6] = -8.0  # log-scales −8/3
    x = torch.tensor([-8.0, -0.1, 0.0, 0.1, 8.0])
    found = function.forward(x, theta.expand(5, -1))
    assert torch.isfinite(found.log_slope).all()
    scale = math.exp(-8 / 3)
    # Halfway f = σ'(8/scale)/scale and F(1 − F) = 1/4, to leading order.
    assert found.log_slope[2].item() == pytest.approx(-8 / scale - math.log(scale) + math.log(4), abs=1e-3)
    assert expit(found.value[0].item()) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_of_wide_inputs(dtype):
    """Trap S16: N(0, 8²) inputs and parameters of standard deviation 1.5; the error is rounding over the slope."""
    function = MixtureCDF(4)
    theta, x = drawn(2000, function.num_parameters, std=1.5, dtype=dtype), 8 * drawn(2000, seed=1, dtype=dtype)
    there = function.forward(x, theta)
    back = function.inverse(there.value, theta)
    assert back.converged.all()
    eps = torch.finfo(dtype).eps
    allowed = 256 * eps * (1 + x.abs() + (1 + there.value.abs()) * (-there.log_slope).exp())
    assert ((back.value - x).abs() <= allowed).all()


def test_a_point_without_a_root_fails_alone():
    function = MixtureCDF(2)
    y = torch.tensor([0.3, math.nan, -0.2], dtype=FLOAT64)
    theta = torch.zeros(function.num_parameters, dtype=FLOAT64, requires_grad=True)
    found = function.inverse(y, theta.expand(3, -1))
    assert found.converged.tolist() == [True, False, True]
    assert torch.isnan(found.value).tolist() == torch.isnan(found.log_slope).tolist() == [False, True, False]
    kept = torch.tensor([0, 2])
    (gradient,) = torch.autograd.grad((found.value[kept] + found.log_slope[kept]).sum(), theta)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 4)])
def test_points_of_any_shape(shape):
    function = MixtureCDF(3)
    x, theta = drawn(*shape, seed=1), drawn(*shape, function.num_parameters)
    there = function.forward(x, theta)
    back = function.inverse(there.value, theta)
    assert there.value.shape == there.log_slope.shape == back.value.shape == back.converged.shape == shape
    torch.testing.assert_close(back.value, x, rtol=0, atol=1e-10)


def test_impossible_settings_are_refused():
    for build in (lambda: MixtureCDF(0), lambda: MixtureCDF(2, 0.0), lambda: MixtureCDF(2, math.inf)):
        with pytest.raises(ConfigError, match="Choose"):
            build()
