"""One buffer for many tensors: the same numbers, one call, and the same checkpoint."""

import copy

import pytest
import torch
from torch import nn

from advect.training.average import WeightAverage
from advect.training.flat import ALIGNED, Flat, can_be_flat
from advect.training.optimiser import FusedAdamW

from .test_optimiser import SETTINGS, small


def test_parameters_become_parts_of_one_buffer_and_keep_their_numbers():
    module = small()
    parameters, before = list(module.parameters()), copy.deepcopy(module)
    values = Flat(parameters)
    assert not values.holds(parameters)
    values.take_in(parameters)
    assert values.holds(parameters)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before.parameters(), strict=True))
    assert all(part.data_ptr() % ALIGNED == values.whole.data_ptr() % ALIGNED for part in values.parts)
    values.whole.zero_()
    assert not any(bool(p.any()) for p in module.parameters())
    parameters[0].data = parameters[0].data.clone()
    assert not values.holds(parameters)


def test_tensors_of_two_kinds_or_in_an_order_of_their_own_stay_apart():
    one = torch.zeros(2, 3)
    assert can_be_flat([one, torch.zeros(4)])
    assert not can_be_flat([one, torch.zeros(4, dtype=torch.float64)])
    assert not can_be_flat([one.T])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flat_step_is_the_step_of_torch(dtype):
    ours, theirs = small(dtype), small(dtype)
    parameters = list(ours.parameters())
    values, gradients = Flat(parameters), Flat(parameters)
    values.take_in(parameters)
    flat = FusedAdamW(parameters, lr=1e-3, **SETTINGS)
    usual = torch.optim.AdamW(theirs.parameters(), lr=1e-3, fused=True, **SETTINGS)
    for number in range(8):
        generator = torch.Generator().manual_seed(number)
        for part, other in zip(gradients.parts, theirs.parameters(), strict=True):
            part.copy_(torch.randn(part.shape, generator=generator, dtype=dtype))
            other.grad = part.clone()
        if number == 5:  # as after a checkpoint
            flat.load_state_dict(copy.deepcopy(usual.state_dict()))
        if number == 6:  # a step the plain way in between
            for parameter, part in zip(parameters, gradients.parts, strict=True):
                parameter.grad = part.clone()
            flat.advance(1e-3)
        else:
            flat.advance_flat(1e-3, values, gradients)
        usual.step()
        # Vector instructions and the rest of a tensor may round a product and a sum once or twice.
        tight = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, **tight)
        ours_state, their_state = flat.state_dict()["state"], usual.state_dict()["state"]
        for index, entry in their_state.items():
            for key, value in entry.items():
                torch.testing.assert_close(ours_state[index][key], value, **tight)


def test_a_parameter_that_lags_behind_is_taken_one_by_one():
    module = small()
    parameters = list(module.parameters())
    values, gradients = Flat(parameters), Flat(parameters)
    values.take_in(parameters)
    flat = FusedAdamW(parameters, lr=1e-3, **SETTINGS)
    for parameter in parameters[1:]:
        parameter.grad = torch.ones_like(parameter)
    flat.advance(1e-3)
    gradients.whole.fill_(1.0)
    flat.advance_flat(1e-3, values, gradients)
    assert [float(flat.state[p]["step"]) for p in parameters] == [1.0, 2.0, 2.0, 2.0]


def test_a_flat_average_is_the_average():
    module = small(torch.float64)
    other = copy.deepcopy(module)
    parameters = list(module.parameters())
    values = Flat(parameters)
    values.take_in(parameters)
    flat, usual = WeightAverage(module, 0.99, values), WeightAverage(other, 0.99)
    for step in range(1, 5):
        with torch.no_grad():
            nn.utils.vector_to_parameters(torch.full((values.whole.numel(),), float(step)).double(), other.parameters())
            for a, b in zip(parameters, other.parameters(), strict=True):
                a.copy_(b)
        flat.update(step)
        usual.update(step)
        for name, value in usual.tensors().items():
            torch.testing.assert_close(flat.tensors()[name], value, rtol=1e-14, atol=1e-14)
