"""The compiled norms against torch's operations and autograd in float64, for every instruction set it has here."""

import pytest
import torch
from torch import nn

from advect.networks import normed

LAST = torch.channels_last
SHAPES = {  # pictures, channels, height, width; groups
    "channels in no whole vector": ((3, 6, 5, 7), 3),
    "whole vectors": ((2, 64, 3, 3), 16),
    "blocks of several kinds": ((2, 104, 4, 2), 26),
    "one pixel": ((2, 8, 1, 1), 2),
    "more pixels than a block": ((1, 16, 13, 27), 1),
}
BESIDE = {"bare": "", "moved before": "b", "scaled after": "gs"}


@pytest.fixture(params=normed.compiled.SETS)
def instructions(request, built, monkeypatch):
    """Each instruction set in turn, where this processor and this compiler have it."""
    monkeypatch.setattr(normed, "LIBRARY", built / "networks" / "norm_kernel.so")
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    if normed.instruction_set() != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """How often the compiled way was taken."""
    made, plain = [], normed._Normed.apply
    monkeypatch.setattr(normed._Normed, "apply", lambda *given: made.append(1) or plain(*given))
    return made


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(shape, groups, beside="", *, rows=None, dtype=torch.float32):
    """A norm that changes something, pictures, and what stands beside them."""
    norm = nn.GroupNorm(groups, shape[1])
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * drawn(shape[1], seed=1))
        norm.bias.copy_(drawn(shape[1], seed=2))
    x = (0.5 + 2 * drawn(*shape)).to(dtype).contiguous(memory_format=LAST)
    count = shape[0] if rows is None else rows
    names = {"b": "before", "g": "gain", "s": "shift"}
    more = {names[key]: drawn(count, shape[1], seed=3 + at).to(dtype) for at, key in enumerate(beside)}
    return norm, x, more


def answers(norm, x, more, *, silu=True, dtype=None):
    """Value and gradients by pictures, weights and what stands beside."""
    kept = x.dtype if dtype is None else dtype
    copy = nn.GroupNorm(norm.num_groups, norm.num_channels)
    copy.load_state_dict(norm.state_dict())
    copy = copy.to(torch.float32 if dtype is None else dtype)
    x = x.detach().to(kept).requires_grad_()
    more = {name: part.detach().to(kept).requires_grad_() for name, part in more.items()}
    out = normed.normed(copy, x, **more, silu=silu)
    by = drawn(*x.shape, seed=9).to(x.dtype)
    return [out, *torch.autograd.grad(out, [x, copy.weight, copy.bias, *more.values()], by)]


def close(found, expected, rounding):
    """Within some roundings of the largest number."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=rounding * float(other.detach().abs().max() + 1))


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize(("shape", "groups"), SHAPES.values(), ids=SHAPES)
def test_values_and_gradients(instructions, calls, shape, groups, beside):
    given = case(shape, groups, beside)
    for silu in (True, False):
        close(answers(*given, silu=silu), answers(*given, silu=silu, dtype=torch.float64), 5e-6)
    assert len(calls) == 2


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_bfloat16_is_off_by_its_own_rounding(instructions, calls, beside):
    given = case((3, 40, 5, 7), 10, beside, dtype=torch.bfloat16)
    found, exact = answers(*given), answers(*given, dtype=torch.float64)
    assert calls
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    close(found, exact, 2**-7)
    torch.testing.assert_close(found[0].double(), exact[0], rtol=2**-8, atol=1e-6)


def test_one_embedding_for_all_pictures(instructions, calls):
    given = case((3, 24, 4, 4), 6, "gs", rows=1)
    close(answers(*given), answers(*given, dtype=torch.float64), 5e-6)
    assert calls


def test_a_mean_far_from_zero_costs_no_digits_but_those_of_the_numbers(instructions):
    norm, x, more = case((2, 16, 9, 9), 4)
    given = norm, (x + 1000).contiguous(memory_format=LAST), more
    # Numbers near 1000 are rounded to 6e-5, and so is their mean.
    close(answers(*given), answers(*given, dtype=torch.float64), 2e-4)


def test_flat_pictures_are_finite_and_nan_stays_in_its_picture(instructions):
    norm, x, more = case((3, 16, 4, 4), 4)
    x[1] = 2.5
    clean = answers(norm, x, more)
    assert all(part.isfinite().all() for part in clean)
    x[0, 3, 1, 2] = torch.nan
    found = answers(norm, x, more)
    for one, other in zip(found[:2], clean[:2], strict=True):
        assert torch.equal(one[1:], other[1:])
        assert one[0, :4].isnan().all()
        assert torch.equal(one[0, 4:], other[0, 4:])


def test_threads_change_no_bit(instructions, monkeypatch):
    given = case((5, 32, 6, 6), 8, "gs")
    one = answers(*given)
    monkeypatch.setattr(normed, "_threads", lambda x: 3)
    assert all(torch.equal(a, b) for a, b in zip(one, answers(*given), strict=True))


def test_second_derivatives_are_those_of_the_plain_operations(instructions, calls):
    norm, x, more = case((2, 8, 3, 3), 2, "gs")

    def second(dtype):
        layer = nn.GroupNorm(2, 8).to(dtype)
        layer.load_state_dict(norm.state_dict())
        at = x.to(dtype).detach().requires_grad_()
        out = normed.normed(layer, at, **{name: part.to(dtype) for name, part in more.items()})
        (first,) = torch.autograd.grad(out.square().sum(), at, create_graph=True)
        return torch.autograd.grad(first.pow(3).sum(), [at, layer.weight])

    close(second(torch.float32), second(torch.float64), 1e-4)
    assert len(calls) == 1


def test_what_it_does_not_read_goes_the_plain_way(instructions, calls):
    norm, x, _ = case((2, 8, 3, 5), 2)
    expected = normed.plain(x, norm.weight, norm.bias, None, None, None, 2, norm.eps, True)
    torch.testing.assert_close(normed.normed(norm, x.contiguous()), expected)
    value, _ = torch.func.jvp(lambda at: normed.normed(norm, at), (x.contiguous(),), (torch.ones(x.shape),))
    torch.testing.assert_close(value, expected)
    norm.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(normed.normed(norm, x), expected)
    assert normed.normed(norm, x[:0]).shape == (0, 8, 3, 5)
    assert not calls
