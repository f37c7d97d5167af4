"""The inverse of a map: directions change places, and nothing else."""

import pytest
import torch

from advect.errors import ShapeError
from advect.networks.dependence import chain
from advect.networks.masked import MaskedMLP
from advect.records import Status
from advect.transforms import Asinh, Standardise
from advect.transforms.autoregressive import Autoregressive
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.inverse import Inverse
from advect.transforms.scale import Scale

FLOAT64 = torch.float64


def test_known_map_the_other_way_round():
    """z = (x − 1)/2 becomes z = 2x + 1, with log 2 per coordinate and not −log 2."""
    shifted = Inverse(Standardise(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])))
    out = shifted.encode(torch.tensor([[0.0, 3.0]]))
    assert out.value.tolist() == [[1.0, 7.0]]
    torch.testing.assert_close(out.log_abs_det_jacobian, 2 * torch.tensor([2.0]).log())
    assert shifted.decode(out.value).value.tolist() == [[0.0, 3.0]]


def test_shapes_and_conditions_are_those_of_the_map():
    network = MaskedMLP(chain([1, 0]), 2, 3, width=8, generator=torch.Generator().manual_seed(0))
    network.perturb(0.5, generator=torch.Generator().manual_seed(1))
    inner = Autoregressive(Scale(), network).double()
    turned = Inverse(inner)
    assert turned.event_shape == (2,)
    assert turned.condition_shape == (3,)
    g = torch.Generator().manual_seed(2)
    x, condition = (torch.randn(4, n, dtype=FLOAT64, generator=g) for n in (2, 3))
    assert torch.equal(turned.encode(x, condition).value, inner.decode(x, condition).value)
    assert torch.equal(turned.decode(x, condition).value, inner.encode(x, condition).value)
    with pytest.raises(ShapeError):
        turned.encode(x)
    assert turned.encode(x, condition, log_det=False).log_abs_det_jacobian is None


def test_maps_of_any_rank_and_twice_turned():
    inner = Asinh(torch.zeros(2, 2), torch.ones(2, 2))
    x = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(2))
    assert torch.equal(Inverse(Inverse(inner)).encode(x).value, inner.encode(x).value)
    truth = torch.autograd.functional.jacobian(lambda r: Inverse(inner).encode(r[None]).value.reshape(-1), x[0])
    found = Inverse(inner).encode(x[:1]).log_abs_det_jacobian[0]
    torch.testing.assert_close(found, torch.linalg.slogdet(truth.reshape(4, 4)).logabsdet, rtol=1e-5, atol=1e-5)


def test_a_status_travels_along():
    class Failing(Bijection):
        def _encode(self, x, condition, log_det, generator):
            return mapped(x, x.new_zeros(len(x)))

        def _decode(self, z, condition, log_det, generator):
            status = torch.full((len(z),), int(Status.NOT_CONVERGED), dtype=torch.int8)
            return mapped(z * torch.nan, z.new_zeros(len(z)), status)

    assert (Inverse(Failing((1,))).encode(torch.zeros(2, 1)).status == Status.NOT_CONVERGED).all()
    assert (Inverse(Failing((1,))).decode(torch.zeros(2, 1)).status == Status.OK).all()
