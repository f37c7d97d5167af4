"""ActNorm is set once, by training, and remembers it (trap T14)."""

import copy
import math

import pytest
import torch
from safetensors.torch import load, save

from advect.errors import ShapeError
from advect.transforms.actnorm import ActNorm

FLOAT64 = torch.float64


def rows(seed: int = 0, count: int = 200, mean: float = 5.0, scale: float = 3.0) -> torch.Tensor:
    noise = torch.randn(count, 3, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))
    return mean + scale * noise * torch.tensor([1.0, 10.0, 0.1], dtype=FLOAT64)


def state(layer: ActNorm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def unchanged(layer: ActNorm, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


def test_the_first_training_batch_comes_out_standardised_and_later_ones_do_not():
    layer = ActNorm(3).double()
    out = layer.encode(rows())
    torch.testing.assert_close(out.value.mean(0), torch.zeros(3, dtype=FLOAT64), rtol=0, atol=1e-12)
    torch.testing.assert_close(out.value.square().mean(0), torch.ones(3, dtype=FLOAT64), rtol=1e-12, atol=0)
    deviation = (rows() - rows().mean(0)).square().mean(0).sqrt()
    expected = -deviation.log().sum().expand(200)
    torch.testing.assert_close(out.log_abs_det_jacobian, expected, rtol=1e-12, atol=1e-12)
    assert bool(layer.initialised)
    before = state(layer)
    layer.encode(rows(1, mean=-2.0))
    assert unchanged(layer, before)


def test_evaluating_or_sampling_first_changes_nothing():
    """Trap T14: neither the parameters nor the mark."""
    layer = ActNorm(3).double()
    before = state(layer)
    layer.decode(rows())
    layer.eval()
    assert torch.equal(layer.encode(rows()).value, rows())
    layer.decode(rows())
    assert unchanged(layer, before)
    layer.train()
    layer.encode(rows())
    assert bool(layer.initialised)


@pytest.mark.parametrize("trained", [False, True])
def test_a_saved_layer_resumes_as_it_was(trained):
    """Trap T14: the mark is in the state; a loaded layer is not set a second time, an unset one still is."""
    layer = ActNorm(3).double()
    if trained:
        layer.encode(rows())
    other = ActNorm(3).double()
    other.encode(rows(7, mean=100.0))
    other.load_state_dict(load(save(layer.state_dict())))
    following = rows(2, mean=1.0)
    ours, theirs = layer.encode(following), other.encode(following)
    assert torch.equal(ours.value, theirs.value)
    assert torch.equal(ours.log_abs_det_jacobian, theirs.log_abs_det_jacobian)
    assert unchanged(other, state(layer))
    assert bool(copy.deepcopy(layer).initialised)


def test_channels_of_pictures_share_their_numbers():
    x = rows(count=64).reshape(4, 4, 4, 3).permute(0, 3, 1, 2)  # (4, 3, 4, 4)
    layer = ActNorm(3, 3).double()
    out = layer.encode(x)
    torch.testing.assert_close(out.value.mean((0, 2, 3)), torch.zeros(3, dtype=FLOAT64), rtol=0, atol=1e-12)
    torch.testing.assert_close(out.value.square().mean((0, 2, 3)), torch.ones(3, dtype=FLOAT64), rtol=1e-12, atol=0)
    deviation = (x - x.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3)).sqrt()
    expected = -16 * deviation.log().sum()  # one factor for each of 16 positions
    torch.testing.assert_close(out.log_abs_det_jacobian, expected.expand(4), rtol=1e-12, atol=0)
    torch.testing.assert_close(layer.decode(out.value).value, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_constant_columns_and_batches_of_one_row_keep_their_scale(dtype):
    """A constant column is centred; a later batch in which it varies is not blown up."""
    layer = ActNorm(2).to(dtype)
    first = torch.tensor([[0.1, 1.0], [0.1, 3.0], [0.1, 8.0]], dtype=dtype)
    assert torch.isfinite(layer.encode(first).value).all()
    assert layer.log_scale[0].item() == 0
    later = layer.encode(torch.tensor([[1.1, 1.0]], dtype=dtype)).value
    assert abs(later[0, 0].item() - 1) < 1e-6

    alone = ActNorm(2).to(dtype)
    out = alone.encode(torch.tensor([[5.0, -7.0]], dtype=dtype))
    assert out.value.tolist() == [[0, 0]]
    assert out.log_abs_det_jacobian.tolist() == [0]


def test_empty_and_broken_rows_do_not_set_it():
    layer = ActNorm(3).double()
    layer.encode(torch.zeros(0, 3, dtype=FLOAT64))
    layer.encode(torch.full((2, 3), math.nan, dtype=FLOAT64))
    assert not bool(layer.initialised)
    broken = torch.cat([rows(), torch.full((1, 3), math.inf, dtype=FLOAT64)])
    layer.encode(broken)
    healthy = ActNorm(3).double()
    healthy.encode(rows())
    assert unchanged(layer, state(healthy))


def test_a_small_spread_on_a_large_offset_survives_float32():
    """Subtracting first: scaling 1e5 up by 1e3 and then shifting would leave errors of 10."""
    x = (1e5 + rows(mean=0.0, scale=1.0)).float()
    out = ActNorm(3).encode(x).value
    # Rows near 1e5 are spaced 0.008 apart, which the third column, of deviation 0.1, shows eightfold magnified.
    assert out.mean(0).abs().max() < 0.1
    assert (out.std(0) - 1).abs().max() < 0.01


def test_rows_of_other_shapes_are_refused():
    with pytest.raises(ShapeError):
        ActNorm(3).encode(torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"\(batch, 3, \.\.\.\)"):
        ActNorm(3, 3).encode(torch.zeros(2, 3, 4))
    with pytest.raises(ShapeError, match="axes"):
        ActNorm(3, 3, size=(4,))
