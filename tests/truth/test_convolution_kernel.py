"""The compiled convolutions against torch in float64, for every instruction set they have here.

Bounds are those of the theory: a sum of n products in float32 is off by at most about n roundings of the sum of their
sizes (Higham 2002, §3.1). Transforms add a few, and sizes are those of transforms with all coefficients positive.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import BaseTorchFunctionMode

from advect.networks import convolution as room
from advect.networks.convolution import Convolution, doubled

LAST = torch.channels_last
ROUNDING = 2.0**-24
SHAPES = {  # pictures, inputs, outputs, height, width
    "whole patches and vectors": (2, 32, 32, 4, 6),
    "half patches at edges": (3, 16, 24, 5, 7),
    "channels in no whole vector": (2, 5, 7, 4, 3),
    "one pixel": (3, 6, 5, 1, 1),
    "one line": (2, 7, 3, 1, 9),
    "one column": (1, 3, 18, 6, 1),
    "more channels than go together": (1, 67, 131, 3, 4),
    "more patches than a block, and portions": (17, 6, 5, 22, 23),
}
DOUBLE = {"": False, "doubled": True}
PATCH, RESULT, FILTER = (
    torch.tensor(rows, dtype=torch.float64)
    for rows in (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    )
)


@pytest.fixture(params=room.compiled.SETS)
def instructions(request, built, monkeypatch):
    """Each instruction set in turn, where this processor and this compiler have it, for any number of channels."""
    monkeypatch.setattr(room, "LIBRARY", built / "networks" / "convolution_kernel.so")
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    monkeypatch.setattr(room, "worth", lambda *sizes: True)
    if room.instruction_set() != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """How often the compiled way was taken."""
    made, plain = [], room._Filtered.apply
    monkeypatch.setattr(room._Filtered, "apply", lambda *given: made.append(1) or plain(*given))
    return made


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(shape, double=False):
    """A layer, pictures, and a gradient by its output."""
    pictures, inputs, outputs, height, width = shape
    layer = Convolution(inputs, outputs, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(drawn(*layer.weight.shape, seed=1))
        layer.bias.copy_(drawn(outputs, seed=2))
    scale = 2 if double else 1
    x = drawn(pictures, inputs, height, width).contiguous(memory_format=LAST)
    return layer, x, drawn(pictures, outputs, scale * height, scale * width, seed=3).contiguous(memory_format=LAST)


def passed(layer, x, double):
    return doubled(layer, x, (2 * x.shape[2], 2 * x.shape[3])) if double else layer(x)


def answers(layer, x, by, double):
    """Value and gradients by pictures, weight and bias, in float64."""
    x = x.detach().requires_grad_()
    out = passed(layer, x, double)
    return [part.double() for part in (out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], by))]


def exact(layer, x, by, double):
    x, weight, bias = (part.detach().double().requires_grad_() for part in (x, layer.weight, layer.bias))
    out = room.plain(x, weight, bias, double)
    return [out.detach(), *torch.autograd.grad(out, [x, weight, bias], by.double())]


def patches(x):
    """Patches of 4×4 that begin two pixels apart, ``(batch, channels, down, across, 4, 4)``; zeros around pictures."""
    down, across = (-side % 2 for side in x.shape[2:])
    return F.pad(x, (1, 1 + across, 1, 1 + down)).unfold(2, 4, 2).unfold(3, 4, 2)


def sizes_of_sums(layer, x, by, double):
    """How large the sums of value and gradients would be, were every number and coefficient positive."""
    x, weight, by = (part.detach().double().abs() for part in (x, layer.weight, by))
    x = F.interpolate(x, scale_factor=2, mode="nearest") if double else x
    first, last, filters = PATCH.abs(), RESULT.abs(), FILTER.abs()

    def summed(x, weight):
        m = torch.einsum("bcijpq,ocpq->boijpq", first @ patches(x) @ first.T, filters @ weight @ filters.T)
        y = last @ m @ last.T
        return y.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, : x.shape[2], : x.shape[3]]

    odd = F.pad(by, (0, by.shape[3] % 2, 0, by.shape[2] % 2)).unfold(2, 2, 2).unfold(3, 2, 2)
    both = torch.einsum("bcijpq,boijpq->ocpq", first @ patches(x) @ first.T, last.T @ odd @ last)
    by_x = summed(by, weight.transpose(0, 1))
    by_x = 4 * F.avg_pool2d(by_x, 2) if double else by_x
    value = summed(x, weight) + layer.bias.detach().double().abs()[:, None, None]
    return [value, by_x, filters.T @ both @ filters, by.sum((0, 2, 3))]


@pytest.mark.parametrize("double", DOUBLE.values(), ids=DOUBLE)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients(instructions, calls, shape, double):
    layer, x, by = case(shape, double)
    found, true, sizes = (function(layer, x, by, double) for function in (answers, exact, sizes_of_sums))
    assert calls
    pictures, inputs, outputs, height, width = shape
    pixels = pictures * height * width
    for one, other, size, terms in zip(found, true, sizes, (inputs, outputs, pixels, 4 * pixels), strict=True):
        assert one.shape == other.shape
        # Sums of many terms go in blocks, and their errors have signs: far fewer roundings than terms.
        off = (one - other).abs() / (size * ROUNDING)
        assert float(off.max()) < min(terms, 60) + 12


def test_threads_and_neighbours_change_no_bit(instructions, monkeypatch):
    for double in (False, True):
        layer, x, by = case((9, 70, 33, 11, 10), double)
        one = answers(layer, x, by, double)
        alone = answers(layer, x[3:4].contiguous(memory_format=LAST), by[3:4].contiguous(memory_format=LAST), double)
        assert all(torch.equal(a[3:4], b) for a, b in zip(one[:2], alone[:2], strict=True))
        with monkeypatch.context() as patch:
            patch.setattr(room, "_threads", lambda x, out: 3)
            assert all(torch.equal(a, b) for a, b in zip(one, answers(layer, x, by, double), strict=True))


def test_nan_spreads_no_farther_than_in_any_convolution(instructions, calls):
    for double in (False, True):
        layer, x, by = case((2, 16, 16, 7, 6), double)
        for at in ((0, 3, 2, 3), (1, 0, 6, 0)):
            x[at] = torch.nan
        by[1, 2, 1, 4] = torch.nan
        found, true = answers(layer, x, by, double), exact(layer, x, by, double)
        for at in (0, 1, 3):
            assert torch.equal(found[at].isnan(), true[at].isnan())
        pairs = true[2].isnan().any(-1).any(-1)  # of channels: gradients by weights have all nine taps or none
        assert torch.equal(found[2].isnan(), pairs[..., None, None].expand_as(true[2]))
    assert len(calls) == 2


def test_only_what_is_wanted_is_computed(instructions, calls):
    layer, x, by = case((2, 6, 5, 4, 3))
    _, by_x, by_weight, by_bias = exact(layer, x, by, False)
    layer.requires_grad_(False)
    at = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(layer(at), at, by)[0].double(), by_x, rtol=1e-5, atol=1e-5)
    for part, other in ((layer.weight, by_weight), (layer.bias, by_bias)):
        part.requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(layer(x), part, by)[0].double(), other, rtol=1e-5, atol=1e-5)
        part.requires_grad_(False)
    bare = Convolution(6, 5, 3, padding=1, bias=False)
    torch.testing.assert_close(bare(x), F.conv2d(x, bare.weight, padding=1), rtol=1e-5, atol=1e-5)
    assert len(calls) == 4


def test_weights_and_gradients_in_another_order(instructions, calls):
    layer, x, by = case((2, 6, 5, 4, 3))
    expected = answers(layer, x, by, False)
    layer.to(memory_format=LAST)
    for gradient in (by, by.contiguous(), by[:1].expand_as(by).clone()):
        found = answers(layer, x, gradient, False)
        assert torch.equal(found[0], expected[0])
        if torch.equal(gradient, by):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    torch.testing.assert_close(layer(x)[:0], layer(x[:0]))
    assert len(calls) == 5


def test_second_derivatives_are_those_of_torch(instructions, calls):
    def second(layer, x, double):
        at = x.detach().requires_grad_()
        out = passed(layer, at, double)
        parts = [at, *layer.parameters()]
        first = torch.autograd.grad(out.square().sum(), parts, create_graph=True)
        return torch.autograd.grad(sum(part.pow(2).sum() for part in first), parts)

    for double in (False, True):
        layer, x, _ = case((2, 4, 3, 3, 5), double)
        wide = nn.Conv2d(4, 3, 3, padding=1).double()
        wide.load_state_dict(layer.state_dict())
        for one, other in zip(second(layer, x, double), second(wide, x.double(), double), strict=True):
            torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5 * float(other.abs().max()))
    assert len(calls) == 2


def test_what_it_does_not_compute_goes_the_plain_way(instructions, calls):
    layer, x, _ = case((2, 6, 6, 5, 4))
    expected, twice = (room.plain(x, layer.weight, layer.bias, double) for double in (False, True))
    value, _ = torch.func.jvp(layer, (x,), (torch.ones(x.shape),))
    torch.testing.assert_close(value, expected)
    with BaseTorchFunctionMode():
        torch.testing.assert_close(layer(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x.contiguous()), expected)
    assert layer.double()(x.double()).dtype == torch.float64
    layer.float()
    assert doubled(layer, x, (10, 7)).shape == (2, 6, 10, 7)
    layer.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(doubled(layer, x, (10, 8)), twice)
    calls.clear()
    for more in ({"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 0}, {"padding_mode": "circular"}):
        other = Convolution(6, 6, 3, **({"padding": 1} | more))
        expected = nn.Conv2d.forward(other, x)
        assert torch.equal(other(x), expected)
    assert Convolution(6, 6, 5, padding=2)(x).shape == x.shape
    assert not calls
