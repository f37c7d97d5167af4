"""The split prior: what it is worth, that it is exact, and what happens to rows that fail inside."""

import math

import pytest
import torch

from advect.errors import ConfigError, ShapeError
from advect.flows.base import StandardNormal
from advect.flows.flow import Flow
from advect.records import Mapped, Status
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.compose import Compose
from advect.transforms.image import ImageCoupling
from advect.transforms.multiscale import MultiScale
from tests.laws.maps.image import perturbed

FLOAT64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def correlated(rows, correlation, seed):
    """Pictures (2, 1, 2) of unit normals whose two channels are correlated pixel by pixel."""
    first, noise = randn(rows, 1, 1, 2, seed=seed), randn(rows, 1, 1, 2, seed=seed + 1)
    return torch.cat([first, correlation * first + math.sqrt(1 - correlation**2) * noise], dim=1)


def test_a_prior_that_looks_at_what_stays_gains_the_mutual_information():
    """Trap T21. Both halves are standard normal by themselves, so a prior that cannot look scores −d/2 log 2πe at best.

    One that can gains −½ log(1 − ρ²) nats per number that leaves, 0.83 for ρ = 0.9, and not more.
    """
    train, test = correlated(2000, 0.9, 0), correlated(4000, 0.9, 10)
    flow = Flow(
        StandardNormal((2, 1, 2)),
        MultiScale(Compose(), (2, 1, 2), width=8, generator=torch.Generator().manual_seed(0)),
    ).double()
    blind = flow.log_prob(test).mean().item()
    assert blind == pytest.approx(-2 * math.log(2 * math.pi * math.e), abs=0.1)  # four numbers, untrained

    optimiser = torch.optim.Adam(flow.parameters(), 0.03)
    for step in range(100):
        optimiser.zero_grad()
        (-flow.log_prob(train[step % 10 :: 10]).mean()).backward()
        optimiser.step()
    with torch.no_grad():
        gain = flow.log_prob(test) - StandardNormal((2, 1, 2)).log_prob(test)
    information = 2 * -0.5 * math.log(1 - 0.9**2)
    error = (gain.std() / math.sqrt(len(gain))).item()
    assert 0.9 * information < gain.mean().item() < information + 4 * error


def test_samples_have_the_correlation_that_the_prior_says():
    """By hand: μ = 0.9 h and log σ = ½ log(1 − 0.81), through a network that passes h on as relu(h) − relu(−h)."""
    split = MultiScale(Compose(), (2, 1, 2), width=2, kernels=(1, 1)).double()
    network = split.prior.network
    with torch.no_grad():
        network.hidden[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        network.hidden[0].bias.zero_()
        network.output.weight[0] = 0.9 * torch.tensor([1.0, -1.0]).reshape(2, 1, 1)
        split.prior.factor.fill_(3 * math.atanh(1 / 3))  # a = 1
        network.output.bias[1] = math.atanh(0.5 * math.log(1 - 0.81))
    x = Flow(StandardNormal((2, 1, 2)), split).double().sample(20_000, generator=torch.Generator().manual_seed(0))
    stays, leaves = x.detach().movedim(1, 0).flatten(1)
    # 40,000 pairs: the correlation to (1 − ρ²)/200 = 0.001, the deviation to 1/√80,000 = 0.0035.
    assert torch.corrcoef(torch.stack([stays, leaves]))[0, 1].item() == pytest.approx(0.9, abs=0.004)
    assert leaves.std().item() == pytest.approx(1.0, abs=0.015)


def test_an_untrained_split_does_what_the_inner_map_does():
    inner = perturbed(ImageCoupling((1, 2, 2), width=3), 0.5)
    split = MultiScale(inner, (2, 2, 2), width=3).double()
    x = randn(3, 2, 2, 2)
    out, inside = split.encode(x), inner.encode(x[:, :1])
    assert torch.equal(out.value, torch.cat([inside.value, x[:, 1:]], dim=1))
    assert torch.equal(out.log_abs_det_jacobian, inside.log_abs_det_jacobian)


def test_what_leaves_is_judged_by_what_stays_not_by_the_code():
    """The prior reads h, not inner(h): scaling the inner code leaves the numbers that left as they were."""

    class Double(Bijection):
        def _encode(self, x, condition, log_det, generator):
            return mapped(2 * x, x.new_full((len(x),), x[0].numel() * math.log(2)) if log_det else None)

        def _decode(self, z, condition, log_det, generator):
            return mapped(z / 2, z.new_full((len(z),), -z[0].numel() * math.log(2)) if log_det else None)

    plain = perturbed(MultiScale(Compose(), (2, 2, 2), width=3, generator=torch.Generator().manual_seed(1)))
    doubled = perturbed(MultiScale(Double((1, 2, 2)), (2, 2, 2), width=3, generator=torch.Generator().manual_seed(1)))
    x = randn(3, 2, 2, 2)
    ours, theirs = plain.encode(x), doubled.encode(x)
    assert torch.equal(ours.value[:, 1], theirs.value[:, 1])
    torch.testing.assert_close(theirs.log_abs_det_jacobian, ours.log_abs_det_jacobian + 4 * math.log(2))
    torch.testing.assert_close(doubled.decode(theirs.value).value, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_a_row_that_fails_inside_fails_as_a_whole_and_alone(direction):
    class Fails(Bijection):
        def _encode(self, x, condition, log_det, generator):
            status = torch.zeros(len(x), dtype=torch.int8)
            status[1] = Status.NOT_CONVERGED
            error, nfe = torch.full((len(x),), 0.5, dtype=x.dtype), torch.full((len(x),), 7)
            return Mapped(x, x.new_zeros(len(x)) if log_det else None, status, error, nfe)

        _decode = _encode

    split = perturbed(MultiScale(Fails((1, 2, 2)), (2, 2, 2), width=3))
    out = getattr(split, direction)(randn(3, 2, 2, 2))
    assert out.status.tolist() == [0, int(Status.NOT_CONVERGED), 0]
    assert out.value.isnan().flatten(1).all(1).tolist() == [False, True, False]
    assert out.value.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert out.log_abs_det_jacobian.isnan().tolist() == [False, True, False]
    assert out.standard_error.tolist() == [0.5] * 3
    assert out.nfe.tolist() == [7] * 3


def test_the_condition_reaches_the_prior_even_where_the_inner_map_takes_none():
    split = perturbed(MultiScale(Compose(), (2, 1, 2), (2,), width=3))
    x, condition = randn(3, 2, 1, 2), randn(3, 2, seed=1)
    ours, other = split.encode(x, condition).value, split.encode(x, condition + 1).value
    assert torch.equal(ours[:, 0], other[:, 0])
    assert (ours[:, 1] != other[:, 1]).all()


def test_refusals():
    with pytest.raises(ConfigError, match="no channels to spare"):
        MultiScale(Compose(), (1, 2, 2))
    with pytest.raises(ShapeError, match=r"expected \(2, 2, 2\)"):
        MultiScale(ImageCoupling((1, 2, 2)), (3, 2, 2))
    with pytest.raises(ShapeError, match="channels, height, width"):
        MultiScale(Compose(), (4,))
