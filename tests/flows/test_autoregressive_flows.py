"""Named autoregressive flows: orders, adjacencies, one coordinate, and a few hundred steps of likelihood."""

import math

import pytest
import torch
from torch import Tensor

from advect.errors import ConfigError, UnknownNameError
from advect.flows.architectures.autoregressive import iaf, maf, nsf_ar, umnn
from advect.networks.masked import MaskedMLP
from advect.transforms import Bijection
from advect.transforms.inverse import Inverse
from advect.transforms.scale import Scale
from advect.transforms.spline import RationalQuadraticSpline

FLOAT64 = torch.float64
FLOWS = {"maf": maf, "iaf": iaf, "nsf-ar": nsf_ar, "umnn": umnn}
each_flow = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def networks(flow: Bijection) -> list[MaskedMLP]:
    return [module for module in flow.modules() if isinstance(module, MaskedMLP)]


def woken(flow: Bijection, size: float = 0.5) -> Bijection:
    for index, network in enumerate(networks(flow)):
        network.perturb(size, generator=draws(index))
    return flow.double()


@each_flow
@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("condition", [0, 3])
def test_starts_as_the_identity_of_the_shape_asked_for(flow, features, condition):
    made = flow(features, condition, generator=draws())
    x = torch.randn(4, features, generator=draws(1))
    given = torch.randn(4, condition, generator=draws(2)) if condition else None
    assert made.event_shape == (features,)
    assert made.condition_shape == ((condition,) if condition else None)
    out = made.encode(x, given)
    torch.testing.assert_close(out.value, x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.log_abs_det_jacobian, torch.zeros(4), rtol=1e-5, atol=1e-5)


def test_every_second_layer_goes_the_other_way():
    orders = [network.levels.order for network in networks(maf(4, layers=3))]
    assert orders == [(0, 1, 2, 3), (3, 2, 1, 0), (0, 1, 2, 3)]


def test_random_orders_are_drawn_in_pairs_from_the_generator():
    orders = [n.levels.order for n in networks(maf(7, layers=4, order="random", generator=draws(3)))]
    assert orders[0] == orders[1][::-1]
    assert orders[2] == orders[3][::-1]
    assert orders[0] not in orders[2:]
    assert [n.levels.order for n in networks(maf(7, layers=4, order="random", generator=draws(3)))] == orders
    with pytest.raises(UnknownNameError, match="random"):
        maf(3, order="ramdom")


@pytest.mark.parametrize("flow", [maf, nsf_ar, umnn])
def test_an_adjacency_holds_for_the_whole_flow(flow):
    """Two halves that know nothing of one another: after any number of layers, by autograd, in both directions."""
    halves = torch.block_diag(torch.ones(2, 2).tril(-1), torch.ones(3, 3).tril(-1)).bool()
    made = woken(flow(5, layers=3, adjacency=halves, width=8, generator=draws()))
    x = torch.randn(3, 5, dtype=FLOAT64, generator=draws(1))
    for verb in (made.encode, made.decode):
        jacobian = torch.autograd.functional.jacobian(lambda r, verb=verb: verb(r).value.sum(0), x).abs().amax(1)
        # A chain of two or three is closed under composition, so the pattern is exact.
        assert torch.equal(jacobian != 0, halves | torch.eye(5, dtype=torch.bool))


@each_flow
def test_an_adjacency_with_a_cycle_is_refused(flow):
    with pytest.raises(ConfigError, match="circle"):
        flow(3, adjacency=torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    with pytest.raises(ConfigError, match="shape"):
        flow(3, adjacency=torch.zeros(2, 2))
    with pytest.raises(ConfigError, match="Choose at least 1"):
        flow(3, layers=0)


def test_iaf_is_maf_turned_round():
    one, other = (woken(flow(3, 2, layers=3, generator=draws(1))) for flow in (maf, iaf))
    x = torch.randn(5, 3, dtype=FLOAT64, generator=draws(2))
    given = torch.randn(5, 2, dtype=FLOAT64, generator=draws(3))
    for layer, turned in zip(one.maps, other.maps, strict=True):
        assert isinstance(turned, Inverse)
        assert torch.equal(layer.encode(x, given).value, turned.decode(x, given).value)


@each_flow
def test_sizes_reach_the_networks(flow):
    """Trap T5."""
    for network in networks(flow(3, 1, layers=2, depth=3, width=24)):
        assert len(network.layers) == 3
        assert network.width == 24
    assert len(networks(flow(3, layers=2))) == 2


def test_a_condition_places_rows_before_they_are_bent():
    functions = [type(m.function) for m in nsf_ar(2, 1, layers=2).maps]
    assert functions == [Scale, RationalQuadraticSpline, RationalQuadraticSpline]


# One coordinate (trap T18)


def trained(flow: Bijection, draw, steps: int, rate: float = 1e-2) -> Bijection:
    """By maximum likelihood on fresh batches of 128."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=rate)
    generator = draws(5)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        negative_log_likelihood(flow, *draw(128, generator)).mean().backward()
        optimizer.step()
    return flow


def negative_log_likelihood(flow: Bijection, x: Tensor, condition: Tensor | None) -> Tensor:
    out = flow.encode(x, condition)
    return 0.5 * (out.value**2 + math.log(2 * math.pi)).sum(1) - out.log_abs_det_jacobian


def two_modes(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x | c with modes at ±(1 + |c|)/2 of width 0.15, the upper one with probability σ(2c)."""
    c = torch.randn(num, 1, generator=generator)
    upper = torch.rand(num, 1, generator=generator) < (2 * c).sigmoid()
    place = (1 + c.abs()) / 2
    return torch.where(upper, place, -place) + 0.15 * torch.randn(num, 1, generator=generator), c


def entropy_of_two_modes(x: Tensor, c: Tensor) -> float:
    """Mean of −log p(x | c), exactly."""
    place = (1 + c.abs()) / 2
    logs = [
        torch.nn.functional.logsigmoid(sign * 2 * c) - 0.5 * ((x - sign * place) / 0.15) ** 2 for sign in (1.0, -1.0)
    ]
    log_p = torch.logaddexp(*logs) - math.log(0.15 * math.sqrt(2 * math.pi))
    return -log_p.mean().item()


@pytest.mark.parametrize(("flow", "steps"), [(maf, 100), (nsf_ar, 100), (umnn, 150)])
def test_one_coordinate_learns_two_modes_that_depend_on_the_condition(flow, steps):
    """Trap T18: with the condition lost, or a mere Gaussian, the gap below would be 0.9 nats and more."""
    made = trained(flow(1, 1, width=32, generator=draws()), two_modes, steps)
    x, c = two_modes(4000, draws(9))
    with torch.no_grad():
        found = negative_log_likelihood(made, x, c).mean().item()
    assert found - entropy_of_two_modes(x, c) < 0.4
    # What conditioning alone gives: a Gaussian per condition has the spread of both modes.
    p = (2 * c).sigmoid()
    gaussian = 0.5 * (2 * math.pi * math.e * (4 * p * (1 - p) * ((1 + c.abs()) / 2) ** 2 + 0.15**2)).log().mean().item()
    assert gaussian - entropy_of_two_modes(x, c) > 0.9


@each_flow
def test_one_coordinate_without_a_condition_is_learnable(flow):
    """Parameters that do not depend on x, but do get a gradient."""
    made = flow(1, generator=draws())
    x = torch.randn(64, 1, generator=draws(1)).exp()
    negative_log_likelihood(made, x, None).mean().backward()
    for network in networks(made):
        assert network.output_bias.grad.abs().max() > 1e-3
