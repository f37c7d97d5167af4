"""The quick pass of the plain network says what the network says."""

import pytest
import torch
from torch import Tensor

from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.flows.baseline import GaussianBaseline
from advect.networks import MLP
from advect.networks.embed import FourierTime
from advect.paths.schedule import Linear
from advect.solvers import Adams3


def network(activation: str = "silu", condition: int = 0, depth: int = 3) -> MLP:
    generator = torch.Generator().manual_seed(0)
    return MLP((3,), condition, width=16, depth=depth, activation=activation, generator=generator)


def rows(count: int = 7) -> Tensor:
    return torch.randn((count, 3), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["selu", "silu", "elu", "gelu", "tanh", "softplus"])
@pytest.mark.parametrize("depth", [1, 3])
@torch.no_grad()
def test_every_activation_and_kind_of_time(activation: str, depth: int) -> None:
    net = network(activation, depth=depth).double()
    x = rows().double()
    before = x.clone()
    for t in (0.3, torch.tensor(0.3, dtype=torch.float64), torch.linspace(0, 1, 7, dtype=torch.float64)):
        # Sums in another order, in double precision.
        torch.testing.assert_close(net.for_inference()(t, x), net(t, x), rtol=1e-13, atol=1e-13)
    assert torch.equal(x, before)


@torch.no_grad()
def test_conditions_embedded_times_and_no_rows() -> None:
    net = network(condition=2)
    condition = torch.randn((7, 2), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(net.for_inference()(0.5, rows(), condition), net(0.5, rows(), condition))
    embedded = MLP((3,), time=FourierTime(8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(embedded.for_inference()(0.5, rows()), embedded(0.5, rows()))
    assert embedded.for_inference()(0.5, rows(0)).shape == (0, 3)


@torch.no_grad()
def test_bfloat16_is_off_by_its_rounding() -> None:
    net = network()
    exact, quick = net(0.5, rows()), net.for_inference(torch.bfloat16)(0.5, rows())
    assert quick.dtype == torch.float32
    error = float((quick - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    assert 1e-5 < error < 4 * 2**-8  # three layers, each rounded to 8 bits


@pytest.mark.parametrize("parameterisation", ["velocity", "x1"])
@torch.no_grad()
def test_a_field_with_baseline_and_conversion(parameterisation: str) -> None:
    baseline = GaussianBaseline(torch.ones(3), torch.eye(3), Linear())
    field = VelocityField(network(), baseline=baseline, parameterisation=parameterisation, scale_input=True)
    quick = field.for_inference()
    torch.testing.assert_close(quick(0.4, rows()), field(0.4, rows()))
    assert quick.interval == field.interval  # type: ignore[attr-defined]
    both = field.velocity_and_divergence(0.4, rows())
    torch.testing.assert_close(quick.velocity_and_divergence(0.4, rows()), both)  # type: ignore[attr-defined]
    assert not hasattr(quick, "score")
    assert quick.for_inference() is quick  # type: ignore[attr-defined]


@torch.no_grad()
def test_a_flow_keeps_the_dtype_it_was_given() -> None:
    field = VelocityField(network())
    flow = Flow(StandardNormal((3,)), ContinuousMap(field, event_shape=(3,), solver=Adams3(4)))
    halved = flow.with_options(field=field.for_inference(torch.bfloat16)).decode(rows()).value
    torch.testing.assert_close(halved, Adams3(4)(field.for_inference(torch.bfloat16), rows()).state)
    assert not torch.allclose(halved, flow.decode(rows()).value, rtol=1e-6, atol=1e-6)


def test_a_flow_takes_it_only_where_no_graph_is_kept() -> None:
    flow = Flow(StandardNormal((3,)), ContinuousMap(VelocityField(network()), event_shape=(3,), solver=Adams3(4)))
    z = rows().requires_grad_()
    plain = flow.decode(z).value
    plain.sum().backward()
    assert z.grad is not None
    assert all(p.grad is not None for p in flow.parameters())
    with torch.no_grad():
        torch.testing.assert_close(flow.decode(z).value, plain)


def test_the_weights_are_those_of_now() -> None:
    flow = Flow(StandardNormal((3,)), ContinuousMap(VelocityField(network()), event_shape=(3,), solver=Adams3(4)))
    with torch.no_grad():
        before = flow.decode(rows()).value
        for parameter in flow.parameters():
            parameter.mul_(1.5)
        after = flow.decode(rows()).value
        torch.testing.assert_close(after, Adams3(4)(flow.ode.field, rows()).state)  # type: ignore[union-attr]
    assert not torch.allclose(before, after)
