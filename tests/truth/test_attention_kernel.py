"""The compiled attention against its formula and autograd in float64, for every instruction set it has here."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import BaseTorchFunctionMode

from advect.networks import attention as room

SIZES = {  # batch, tokens, heads, each
    "one token": (2, 1, 1, 4),
    "heads of no whole vector": (2, 49, 2, 5),
    "whole vectors, tokens in no whole tile": (1, 197, 1, 32),
    "more than a block of keys": (1, 301, 2, 24),
    "large heads": (1, 30, 1, 130),
}
PLAIN, BRIEF = room.compiled.SETS, room.compiled.BFLOAT16_SETS
NUMBERS = [*((name, torch.float32, 3e-6) for name in PLAIN), *((name, torch.bfloat16, 2**-7) for name in BRIEF)]


@pytest.fixture(params=NUMBERS, ids=[name for name, *_ in NUMBERS])
def numbers(request, built, monkeypatch):
    """Each instruction set in turn with what it computes: its numbers, and their rounding by the largest of them."""
    name, dtype, rounding = request.param
    monkeypatch.setattr(room, "LIBRARY", built / "networks" / "attention_kernel.so")
    monkeypatch.setenv("ADVECT_KERNEL", name)
    monkeypatch.setattr(room, "LEAST", 0)
    monkeypatch.setattr(room, "WIDEST", 1000)
    if (room.instruction_set() if dtype == torch.float32 else room.bfloat16_set()) != name:
        pytest.skip(f"no {name} here")
    return dtype, rounding


@pytest.fixture
def calls(monkeypatch):
    """How often the compiled way was taken."""
    made, plain = [], room._Compiled.apply
    monkeypatch.setattr(room._Compiled, "apply", lambda *given: made.append(1) or plain(*given))
    return made


def formula(tokens):
    """softmax(q kᵀ/√d) v."""
    q, k, v = tokens.transpose(1, 3).unbind(2)
    return (torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v).transpose(1, 2)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tokens_of(sizes, dtype=torch.float32):
    batch, count, heads, each = sizes
    return drawn(batch, count, 3, heads, each, dtype=dtype)


def answers(function, tokens):
    """Value and gradient, in float64."""
    at = tokens.detach().requires_grad_()
    out = function(at)
    by = drawn(*out.shape, seed=1, dtype=torch.bfloat16).to(out.dtype)
    return [part.double() for part in (out.detach(), *torch.autograd.grad(out, at, by))]


def close(found, exact, rounding):
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=rounding * float(other.abs().max() + 1))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_values_and_gradients(numbers, calls, sizes):
    dtype, rounding = numbers
    tokens = tokens_of(sizes, dtype)
    found = answers(room.attention, tokens)
    assert calls
    close(found, answers(formula, tokens.double()), rounding)
    q, k, v = tokens.transpose(1, 3).unbind(2)
    close(found[:1], [F.scaled_dot_product_attention(q, k, v).transpose(1, 2).double()], rounding)


def test_other_strides(numbers, calls):
    """q, k and v one after the other, rows apart, and numbers that do not lie side by side."""
    dtype, rounding = numbers
    given = tokens_of((2, 37, 2, 8), dtype)
    apart = given.permute(2, 0, 3, 1, 4).contiguous().permute(1, 3, 0, 2, 4)
    wide = torch.cat([given, given], 1)[:, :37]
    turned = given.permute(0, 1, 2, 4, 3).contiguous().permute(0, 1, 2, 4, 3)
    exact = answers(formula, given.double())
    for at in (apart, wide, turned):
        close(answers(room.attention, at), exact, rounding)
    assert len(calls) == 3


def test_large_scores_move_the_greatest(numbers):
    """Scores grow from key to key by hundreds: no sum overflows, and none of what counts is lost."""
    dtype, rounding = numbers
    tokens = torch.zeros(1, 300, 3, 1, 16)
    tokens[..., 0, 0, 0], tokens[..., 1, 0, 0] = 40, torch.linspace(-40, 40, 300)
    tokens[:, :, 2] = drawn(1, 300, 1, 16)
    tokens = tokens.to(dtype)
    close(answers(room.attention, tokens), answers(formula, tokens.double()), 40 * rounding)


def test_nan_stays_in_its_rows(numbers):
    dtype, _ = numbers
    tokens = tokens_of((3, 20, 2, 8), dtype)
    clean = answers(room.attention, tokens)
    tokens[0, 7, 0, 1, 2] = torch.nan  # a query: one token of one head
    tokens[1, 5, 1, 0, 2] = torch.nan  # a key: all tokens of that head
    out, by = answers(room.attention, tokens)
    assert out[0, 7, 1].isnan().all()
    assert by[0, :, 1:, 1].isnan().all()
    out[0, 7, 1] = clean[0][0, 7, 1]
    assert out[1, :, 0].isnan().all()
    out[1, :, 0] = clean[0][1, :, 0]
    assert torch.equal(out, clean[0])
    assert torch.equal(by[2], clean[1][2])


def test_threads_change_no_bit(numbers, monkeypatch):
    tokens = tokens_of((3, 40, 2, 8), numbers[0])
    one = answers(room.attention, tokens)
    monkeypatch.setattr(room, "_threads", lambda tokens: 4)
    assert all(torch.equal(a, b) for a, b in zip(one, answers(room.attention, tokens), strict=True))


def test_second_derivatives_are_those_of_the_formula(numbers, calls):
    dtype, rounding = numbers
    tokens = tokens_of((2, 9, 1, 8), dtype)

    def second(function, tokens):
        at = tokens.detach().requires_grad_()
        (first,) = torch.autograd.grad(function(at).square().sum(), at, create_graph=True)
        return torch.autograd.grad(first.square().sum(), at)[0].double()

    found, exact = second(room.attention, tokens), second(formula, tokens.double())
    assert len(calls) == 1
    close([found], [exact], 10 * rounding)


def test_what_it_does_not_read_goes_the_plain_way(numbers, calls):
    dtype, _ = numbers
    tokens = tokens_of((2, 5, 1, 4), dtype)
    assert room.attention(tokens[:0]).shape == (0, 5, 1, 4)
    with BaseTorchFunctionMode():
        found = room.attention(tokens.float())
    torch.testing.assert_close(found, formula(tokens.float()))
    assert room.attention(tokens.double()).dtype == torch.float64
    assert not calls


def test_it_is_taken_where_it_is_quicker(numbers, calls, monkeypatch):
    dtype, _ = numbers
    monkeypatch.setattr(room, "LEAST", 3)
    short, long = (tokens_of((1, count, 1, 4), dtype).requires_grad_() for count in (2, 3))
    for tokens in (short, long.detach()):
        assert room.attention(tokens).shape == tokens[:, :, 0].shape
    assert not calls
    room.attention(long)
    room.attention(tokens_of((1, 30, 1, 4), dtype))
    assert len(calls) == 2
