"""The compiled step against torch's AdamW with its clipping and a plain average, for every instruction set it has."""

import copy

import pytest
import torch
from torch import nn

from advect.training import advance
from advect.training.average import WeightAverage
from advect.training.flat import Flat
from advect.training.optimiser import FusedAdamW, gradient_norm
from advect.training.scaling import LossScale

DTYPES = [torch.float32, torch.float64]
SIZES = (3, 700, 1500)  # less than a vector, several blocks, and gaps between them


@pytest.fixture(params=advance.compiled.SETS)
def instructions(request, built, monkeypatch):
    """Each instruction set in turn, where this processor and this compiler have it."""
    monkeypatch.setattr(advance, "LIBRARY", built / "training" / "advance_kernel.so")
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    if advance.instruction_set() != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """How often the compiled way was taken."""
    made, plain = [], advance.Advance.__call__
    monkeypatch.setattr(advance.Advance, "__call__", lambda *given: made.append(1) or plain(*given))
    return made


class Numbers(nn.Module):
    """Weights of several sizes."""

    def __init__(self, dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        drawn = (torch.randn(size, dtype=dtype, generator=generator) for size in SIZES)
        self.parts = nn.ParameterList(nn.Parameter(one) for one in drawn)


class Ours:
    """Weights in one buffer, their optimiser and averages, stepped as the loop does."""

    def __init__(self, dtype, settings, decays):
        self.module = Numbers(dtype)
        self.parameters = list(self.module.parameters())
        self.values, self.gradients = Flat(self.parameters), Flat(self.parameters)
        self.values.take_in(self.parameters)
        self.averages = [WeightAverage(self.module, decay, self.values) for decay in decays]
        self.optimiser = FusedAdamW(self.parameters, lr=1e-3, **settings)

    def step(self, number, rate, gradients, most):
        for part, gradient in zip(self.gradients.parts, gradients, strict=True):
            part.copy_(gradient)
        norm = float(gradient_norm([self.gradients.whole]))
        factor = LossScale(dynamic=False).factor(norm, most)
        self.optimiser.advance_flat(rate, self.values, self.gradients, factor, self.averages, number)


class Theirs:
    """The same by torch's class, its clipping, and averages by hand."""

    def __init__(self, dtype, settings, decays):
        self.module = Numbers(dtype)
        self.parameters = list(self.module.parameters())
        self.decays, self.averages = decays, [[p.detach().clone() for p in self.parameters] for _ in decays]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True, **settings)

    def step(self, number, rate, gradients, most):
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        if most:
            nn.utils.clip_grad_norm_(self.parameters, most)
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        for decay, averages in zip(self.decays, self.averages, strict=True):
            kept = min(decay, (1 + number) / (10 + number))
            for average, parameter in zip(averages, self.parameters, strict=True):
                average.lerp_(parameter.detach(), 1 - kept)


def gradients_of(number, dtype):
    generator = torch.Generator().manual_seed(number)
    drawn = [torch.randn(size, dtype=dtype, generator=generator) for size in SIZES]
    drawn[1][:100] = 0  # units that nothing reaches
    drawn[2][:50] *= 1e-30
    return drawn


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("settings", "most", "decays"),
    [
        ({"betas": (0.9, 0.99), "weight_decay": 1e-2}, 1.0, (0.999,)),
        ({"betas": (0.3, 0.0), "weight_decay": 0.0}, 0.0, ()),
        ({"betas": (0.0, 0.999), "weight_decay": 0.1}, 1e3, (0.99, 0.2, 0.5)),
    ],
)
def test_steps_are_those_of_torch_clipped_and_averaged(instructions, calls, dtype, settings, most, decays):
    ours, theirs = Ours(dtype, settings, decays), Theirs(dtype, settings, decays)
    for number in range(1, 8):
        if number == 4:  # as after a checkpoint
            ours.optimiser.load_state_dict(copy.deepcopy(theirs.optimiser.state_dict()))
        for one in (ours, theirs):
            one.step(number, 1e-3 * number, gradients_of(number, dtype), most)
    assert len(calls) == 7
    tight = {"rtol": 16 * torch.finfo(dtype).eps, "atol": 16 * torch.finfo(dtype).eps}
    for a, b in zip(ours.parameters, theirs.parameters, strict=True):
        torch.testing.assert_close(a, b, **tight)
    for average, averages in zip(ours.averages, theirs.averages, strict=True):
        for a, b in zip(average.shadow, averages, strict=True):
            torch.testing.assert_close(a, b, **tight)
    our_state, their_state = ours.optimiser.state_dict()["state"], theirs.optimiser.state_dict()["state"]
    for index, entry in their_state.items():
        for key, value in entry.items():
            torch.testing.assert_close(our_state[index][key], value, **tight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_instruction_set_gives_the_same_bits(built, monkeypatch, dtype):
    """Where torch runs with the instruction set that is taken unasked, one pass is its three kernels."""
    monkeypatch.setattr(advance, "LIBRARY", built / "training" / "advance_kernel.so")
    capability = torch.backends.cpu.get_cpu_capability().lower()
    if advance.instruction_set() != {"default": "plain"}.get(capability, capability):
        pytest.skip("torch has another instruction set")
    settings, decays = {"betas": (0.9, 0.99), "weight_decay": 1e-2}, (0.999, 0.3)
    once = Ours(dtype, settings, decays)
    monkeypatch.setattr(advance, "SHARE", 512)  # several threads, where torch has them
    thrice = Ours(dtype, settings, decays)
    thrice.optimiser._at_once = lambda *_: None
    for number in range(1, 6):
        for one in (once, thrice):
            one.step(number, 1e-3, gradients_of(number, dtype), 0.7)
    assert torch.equal(once.values.whole, thrice.values.whole)
    for a, b in zip(once.averages, thrice.averages, strict=True):
        assert torch.equal(a.whole, b.whole)
    for a, b in zip(once.optimiser._flat[:2], thrice.optimiser._flat[:2], strict=True):
        assert torch.equal(a.whole, b.whole)


def test_gaps_stay_zero_and_the_gradient_as_it_is(instructions, calls):
    ours = Ours(torch.float32, {"weight_decay": 0.1}, (0.9,))
    ours.step(1, 1e-2, gradients_of(1, torch.float32), 0.5)
    assert calls
    for buffer in (ours.values, ours.gradients, *ours.optimiser._flat[:2]):
        assert not buffer.whole[3:16].any()
    assert torch.equal(ours.gradients.parts[1], gradients_of(1, torch.float32)[1])


def test_what_does_not_lie_as_it_is_read_goes_by_torch(instructions):
    whole = torch.zeros(64)
    assert advance.advance_for(whole, whole, (whole, whole), ()) is not None
    for other in (torch.zeros(128)[::2], torch.zeros(48), torch.zeros(64).double(), torch.zeros(64, device="meta")):
        assert advance.advance_for(whole, whole, (whole, other), ()) is None
    few = torch.zeros(8)
    assert advance.advance_for(few, few, (few, few), ()) is None
