"""The lean step is torch's AdamW to the bit, also when state is loaded, cleared, or a gradient is missing."""

import copy

import pytest
import torch
from torch import nn

from advect.training.optimiser import FusedAdamW, gradient_norm

SETTINGS = {"betas": (0.9, 0.99), "weight_decay": 1e-2}


def small(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 2)).to(dtype)


class Twins:
    """One network under both optimisers, fed the same gradients."""

    def __init__(self, dtype=torch.float32):
        self.ours, self.theirs = small(dtype), small(dtype)
        self.lean = FusedAdamW(list(self.ours.parameters()), lr=1e-3, **SETTINGS)
        self.torch = torch.optim.AdamW(self.theirs.parameters(), lr=1e-3, fused=True, **SETTINGS)
        self.dtype = dtype

    def step(self, number, without=()):
        generator = torch.Generator().manual_seed(number)
        for index, (a, b) in enumerate(zip(self.ours.parameters(), self.theirs.parameters(), strict=True)):
            gradient = torch.randn(a.shape, generator=generator, dtype=self.dtype)
            a.grad, b.grad = (None, None) if index in without else (gradient.clone(), gradient.clone())
        rate = 1e-3 * (1 + number)
        self.lean.advance(rate)
        self.torch.param_groups[0]["lr"] = rate
        self.torch.step()

    def check(self):
        for a, b in zip(self.ours.parameters(), self.theirs.parameters(), strict=True):
            assert torch.equal(a, b)
        ours, theirs = self.lean.state_dict()["state"], self.torch.state_dict()["state"]
        assert ours.keys() == theirs.keys()
        for index, entry in theirs.items():
            assert all(torch.equal(ours[index][key], value) for key, value in entry.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_torch_to_the_bit(dtype):
    twins = Twins(dtype)
    for number in range(6):
        twins.step(number)
        twins.check()


def test_parameters_without_a_gradient_stay_as_they_are():
    twins = Twins()
    for number, without in enumerate([(), (1,), (), (0, 3), ()]):
        twins.step(number, without)
        twins.check()


def test_loaded_and_cleared_state_is_found_again():
    twins = Twins()
    for number in range(3):
        twins.step(number)
    for optimiser in (twins.lean, twins.torch):
        optimiser.load_state_dict(copy.deepcopy(twins.torch.state_dict()))
    twins.step(3)
    twins.check()
    for optimiser in (twins.lean, twins.torch):
        optimiser.state.clear()
    twins.step(4)
    twins.step(5)
    twins.check()


def test_the_norm_is_that_of_all_gradients_together():
    parts = [torch.tensor([[3.0, 0.0]]), torch.tensor([4.0]), torch.zeros(0)]
    assert gradient_norm(parts).item() == 5.0
    assert gradient_norm([]).item() == 0.0
