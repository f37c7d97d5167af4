"""The inverse hyperbolic sine of the conditioners is torch's, at every size and with every derivative."""

import pytest
import torch

from advect.networks import layers
from advect.networks.layers import asinh

ENDS = [0.0, -0.0, 1e-30, -1e-30, 1e15, -1e15, 1e30, -1e30, float("inf"), float("-inf"), float("nan")]


@pytest.fixture(autouse=True, params=["few numbers", "many numbers"])
def branch(request, monkeypatch):
    """Both ways to take it: few numbers go through torch, many through vector instructions."""
    limit = 2**20 if request.param == "few numbers" else 0
    monkeypatch.setattr(layers, "_FEW", limit)
    monkeypatch.setattr(layers, "_FEW_WITH_GRADIENT", limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_torch_at_every_size(dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.linspace(-20, 20, 4001, dtype=torch.float64)
    x = torch.cat([torch.randn(4001, generator=generator).double() * sizes, torch.tensor(ENDS)]).to(dtype)
    expected = x.double().asinh().to(dtype)
    # Six roundings of numbers that do not cancel: a few units in the last place.
    torch.testing.assert_close(asinh(x), expected, rtol=8 * torch.finfo(dtype).eps, atol=0.0, equal_nan=True)
    assert torch.equal(asinh(x).signbit()[:-1], x.signbit()[:-1])


def test_derivatives_are_those_of_torch_also_at_zero():
    x = torch.tensor([-30.0, -1.0, 0.0, 1e-3, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(asinh, x)
    assert torch.autograd.gradgradcheck(asinh, x)
    (slope,) = torch.autograd.grad(asinh(x).sum(), x)
    torch.testing.assert_close(slope, (x * x + 1).rsqrt(), rtol=1e-15, atol=0.0)


def test_functional_transforms_pass_through():
    x = torch.linspace(-2, 2, 6, dtype=torch.float64)
    expected = torch.diag((x * x + 1).rsqrt())
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(asinh)(x), expected, rtol=1e-15, atol=0.0)
