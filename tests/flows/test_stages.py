"""Rows on their way through the layers of a discrete flow."""

import pytest
import torch

from advect.errors import ConfigError
from advect.flows import Flow, StandardNormal, layers, stages
from advect.transforms import Asinh, Compose, Flattened, LULinear, Standardise

FLOAT64 = torch.float64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain() -> Compose:
    scale = Standardise(torch.tensor([5.0, -1.0], dtype=FLOAT64), torch.tensor([2.0, 3.0], dtype=FLOAT64))
    bend = Asinh(torch.zeros(2, dtype=FLOAT64), torch.ones(2, dtype=FLOAT64))
    turn = LULinear(2, start="rotation", generator=seeded(1)).double()
    return Compose(scale, Compose(turn, bend))


def test_nested_chains_are_opened_in_the_order_of_encode():
    map = chain()
    flow = Flow(StandardNormal((2,)).double(), map)
    assert [type(m) for m in layers(flow)] == [Standardise, LULinear, Asinh]


def test_stages_run_from_the_source_to_the_data():
    flow = Flow(StandardNormal((2,)).double(), chain())
    z = torch.randn(6, 2, generator=seeded(2), dtype=FLOAT64)
    found = stages(flow, z)
    assert found.shape == (4, 6, 2)
    assert torch.equal(found[0], z)
    # Independent truth: sinh, then the solve, then scale and shift, by hand.
    first = torch.sinh(z)
    turn = layers(flow)[1]
    second = torch.linalg.solve(turn.matrix().detach(), first.T).T
    third = second * torch.tensor([2.0, 3.0], dtype=FLOAT64) + torch.tensor([5.0, -1.0], dtype=FLOAT64)
    for ours, theirs in zip(found[1:], (first, second, third), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_preprocessing_is_applied_to_every_stage():
    flow = Flow(StandardNormal((2,)).double(), chain())
    z = torch.randn(6, 2, generator=seeded(2), dtype=FLOAT64)
    found = stages(flow, z, preprocessing=1)
    assert found.shape == (3, 6, 2)
    torch.testing.assert_close(found[-1], stages(flow, z)[-1])
    shift, scale = torch.tensor([5.0, -1.0], dtype=FLOAT64), torch.tensor([2.0, 3.0], dtype=FLOAT64)
    torch.testing.assert_close(found[0], z * scale + shift)
    with pytest.raises(ConfigError, match="preprocessing"):
        stages(flow, z, preprocessing=4)


def test_flattened_layers_keep_the_shape_of_the_rows():
    map = Flattened(Compose(LULinear(4).double(), LULinear(4, start="rotation", generator=seeded(3)).double()), (2, 2))
    flow = Flow(StandardNormal((2, 2)).double(), map)
    z = torch.randn(3, 2, 2, generator=seeded(4), dtype=FLOAT64)
    found = stages(flow, z)
    assert found.shape == (3, 3, 2, 2)
    torch.testing.assert_close(found[-1], flow.decode(z).value)
