"""The convolutional conditioner against sums written out, and its promises about shapes, seeds and conditions."""

import math

import pytest
import torch

from advect.errors import ConfigError
from advect.networks.conv import ConvNet, convolution, pointwise
from tests.laws.maps.image import perturbed

FLOAT64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def summed(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The convolution pixel by pixel: zero where a kernel reaches over the edge."""
    batch, _, height, width = x.shape
    kernel, reach = layer.weight.shape[-1], layer.weight.shape[-1] // 2
    out = torch.zeros(batch, len(layer.weight), height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = layer.bias
            for a in range(kernel):
                for b in range(kernel):
                    row, column = i + a - reach, j + b - reach
                    if 0 <= row < height and 0 <= column < width:
                        out[:, :, i, j] += x[:, :, row, column] @ layer.weight[:, :, a, b].T
    return out


@pytest.mark.parametrize("kernels", [(3, 1, 3), (3, 3), (1, 5)])
@pytest.mark.parametrize("size", [(2, 3), (1, 1)])
def test_against_sums_written_out(kernels, size):
    network = perturbed(ConvNet(2, 3, (4,), width=5, kernels=kernels))
    x, condition = randn(3, 2, *size), randn(3, 4, seed=1)
    shifts = (condition @ network.condition_layer.weight.T).split(5, dim=1)
    h = x
    for layer, shift in zip(network.hidden, shifts, strict=True):
        h = (summed(layer, h) + shift[:, :, None, None]).clamp(min=0)
    # Sums of some fifty products in another order.
    torch.testing.assert_close(network(x, condition), summed(network.output, h), rtol=1e-12, atol=1e-12)


def test_a_picture_given_as_condition_lies_beside_the_input():
    network = perturbed(ConvNet(1, 2, (3, 2, 2), width=4))
    alone = perturbed(ConvNet(4, 2, width=4))
    alone.load_state_dict(network.state_dict())
    x, picture = randn(2, 1, 2, 2), randn(2, 3, 2, 2, seed=1)
    assert torch.equal(network(x, picture), alone(torch.cat([x, picture], 1)))


def test_starts_at_zero_and_learns_from_there(generator):
    network = ConvNet(2, 4, (3,), width=8, generator=generator)
    out = network(torch.randn(2, 2, 5, 7), torch.randn(2, 3))
    assert out.shape == (2, 4, 5, 7)
    assert not out.any()
    out.sum().backward()
    assert network.output.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 5)])
def test_any_size_and_number_of_rows(rows, size):
    network = perturbed(ConvNet(1, 2, width=4))
    x = randn(rows, 1, *size)
    out = network(x)
    assert out.shape == (rows, 2, *size)
    assert out.dtype == FLOAT64
    for row in range(rows):  # rows do not see one another
        torch.testing.assert_close(network(x[row : row + 1])[0], out[row], rtol=1e-13, atol=1e-13)


def test_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (
        ConvNet(2, 2, (3,), width=8, generator=torch.Generator().manual_seed(s)).state_dict() for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["hidden.0.weight"], other["hidden.0.weight"])


def test_initialisation_has_the_spread_of_pytorchs(generator):
    """U(−b, b) with b = 1/√(inputs · kernel²): deviation b/√3, here from 36,864 weights, so to about 1 %."""
    layer = convolution(64, 64, 3, generator=generator)
    bound = 1 / math.sqrt(64 * 9)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": (3,)}, "two odd sizes"),
        ({"kernels": (3, 2)}, "two odd sizes"),
        ({"condition_shape": (2, 2)}, "vector"),
        ({"width": 0}, "width is 0"),
        ({"channels_in": 0}, "channels_in is 0"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ConfigError, match=message):
        ConvNet(**({"channels_in": 1, "channels_out": 1} | options))


def test_a_convolution_of_size_1_is_a_product_over_pixels(monkeypatch):
    products, plain = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *given: products.append(1) or plain(*given))
    layer, x = convolution(5, 3, 1), torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    by = torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(1))

    def answers(function, x, order):
        at = x.contiguous(memory_format=order).requires_grad_()
        out = function(at)
        return [out, *torch.autograd.grad(out, [at, *layer.parameters()], by)]

    for order in (torch.channels_last, torch.contiguous_format):
        for found, expected in zip(
            answers(lambda at: pointwise(layer, at), x, order), answers(layer, x, order), strict=True
        ):
            torch.testing.assert_close(found, expected)
    assert len(products) == 1
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert pointwise(layer, last).dtype == torch.bfloat16
    layer.register_forward_hook(lambda *_: None)
    pointwise(layer, last)
    assert len(products) == 1
