"""Self-attention: its formula, in bfloat16 to that's rounding, and second derivatives."""

import math

import pytest
import torch

from advect.networks import attention as room
from tests.networks.pictures import draws


def formula(tokens):
    """softmax(q kᵀ/√d) v."""
    q, k, v = tokens.transpose(1, 3).unbind(2)
    return (torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v).transpose(1, 2)


def drawn(batch, count, heads, each, dtype):
    return torch.randn(batch, count, 3, heads, each, generator=draws(), dtype=torch.float64).to(dtype)


def answers(function, tokens):
    """Value and gradient."""
    tokens = tokens.detach().requires_grad_()
    out = function(tokens)
    by = torch.randn(out.shape, generator=draws(1), dtype=torch.float64).to(torch.bfloat16).to(out.dtype)
    return [out, *torch.autograd.grad(out, tokens, by)]


def as_a_picture_lies(tokens):
    """The same numbers, those of a token as far apart as channels of a picture are."""
    return tokens.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("kernel", ["", "none"])
@pytest.mark.parametrize("laid", [lambda tokens: tokens, as_a_picture_lies], ids=["by token", "by channel"])
@pytest.mark.parametrize("sizes", [(2, 49, 2, 8), (1, 70, 1, 20), (2, 1, 1, 4), (3, 15, 4, 4)])
@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2**-6)]
)
def test_values_and_gradients_are_those_of_the_formula(sizes, dtype, rounding, laid, kernel, monkeypatch):
    monkeypatch.setenv("ADVECT_KERNEL", kernel)
    tokens = laid(drawn(*sizes, dtype))
    for found, exact in zip(answers(room.attention, tokens), answers(formula, tokens.double()), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=rounding * float(exact.detach().abs().max()))


def test_the_way_back_in_bfloat16_is_ours_and_twice_differentiable(monkeypatch):
    monkeypatch.setenv("ADVECT_KERNEL", "none")  # where nothing is compiled
    made, plain = [], room._Attention.apply
    monkeypatch.setattr(room._Attention, "apply", lambda tokens: made.append(1) or plain(tokens))

    def second(function, tokens):
        at = tokens.detach().requires_grad_()
        (first,) = torch.autograd.grad(function(at).square().sum(), at, create_graph=True)
        return torch.autograd.grad(first.square().sum(), at)[0].double()

    tokens = drawn(2, 9, 1, 8, torch.bfloat16)
    found, exact = second(room.attention, tokens), second(formula, tokens.double())
    assert made == [1]
    torch.testing.assert_close(found, exact, rtol=0, atol=2**-4 * float(exact.detach().abs().max()))
    room.attention(tokens)  # without a gradient torch's own
    assert made == [1]
