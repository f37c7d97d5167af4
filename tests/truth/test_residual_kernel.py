"""The compiled residual network against torch's operations and autograd, for every instruction set it has here.

Bounds: see `networks`.
"""

import copy

import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import MLP, ResidualMLP, residual, residual_compiled
from advect.networks.residual_regressor import ResidualRegressor
from advect.records import Regression
from tests.truth.networks import asked, close, count_calls, drawn

FLOAT32, FLOAT64 = torch.float32, torch.float64
NETWORKS = {
    "plane": {"event_shape": (2,), "width": 64},
    "one block, one coordinate": {"event_shape": (1,), "blocks": 1, "width": 32, "time_features": 2},
    "conditions": {"event_shape": (2, 2), "condition_features": 3, "blocks": 2, "width": 48},
    "odd widths": {"event_shape": (7,), "condition_features": 1, "blocks": 4, "width": 37, "time_features": 10},
    "weights beyond the second cache": {"event_shape": (19,), "width": 210},
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(params=residual_compiled.compiled.SETS)
def instructions(request, built, monkeypatch):
    """Each instruction set in turn, where this processor and this compiler have it."""
    monkeypatch.setattr(residual_compiled, "LIBRARY", built / "networks" / "residual_kernel.so")
    monkeypatch.setattr(residual_compiled, "worth_it", lambda *_, **__: True)
    monkeypatch.setattr(residual, "enough", lambda *_: True)
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    if residual_compiled.instruction_set() != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """The compiled calls that were made."""
    return count_calls(monkeypatch, residual_compiled.Compiled)


def network_of(name, dtype=FLOAT64):
    """With an output that is not zero."""
    with torch.random.fork_rng(devices=[]):
        network = ResidualMLP(**NETWORKS[name], generator=torch.Generator().manual_seed(3)).to(dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(network.output.parameters()):
            parameter.copy_(0.3 * drawn(*parameter.shape, seed=seed))
    return network


def in_double(network, *parts):
    """The same network, by torch's operations, and numbers in float64."""
    return plain(copy.deepcopy(network).double()), *(None if part is None else part.double() for part in parts)


def plain(network):
    """Its velocity as it is written."""
    other = copy.deepcopy(network)
    other._velocity = other._plain
    return other


@every_network
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize(("rows", "shared"), [(1, True), (97, True), (61, False)])
def test_values(instructions, calls, name, dtype, rows, shared):
    network = network_of(name, dtype)
    t, x, condition = asked(network, rows, dtype, shared=shared)
    exact, *double = in_double(network, t, x, condition)
    with torch.no_grad():
        found = network.for_inference()(t, x, condition)
        assert calls == ["forward"]
        assert found.dtype == dtype
        assert close(found, exact(*double))


def test_the_network_itself_goes_that_way_where_no_gradient_is_asked_for(instructions, calls):
    network = network_of("conditions", FLOAT32)
    given = asked(network, 40, FLOAT32)
    with torch.no_grad():
        found = network(*given)
    assert calls == ["forward"]
    wanted = network(*given)
    assert wanted.requires_grad
    assert calls == ["forward"]
    assert close(found, wanted.double().detach())


@every_network
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("shared", [True, False])
def test_divergences(instructions, calls, name, dtype, shared):
    """Against the trace of autograd's Jacobian, row by row."""
    network = network_of(name, dtype)
    t, x, condition = asked(network, 29, dtype, shared=shared)
    with torch.no_grad():
        value, divergence = network.velocity_and_divergence(t, x, condition)
    assert calls == ["forward"]
    exact, t, x, condition = in_double(network, t.expand(29), x, condition)

    def one(t, row, *given):
        return exact(t[None], row[None], *(part[None] for part in given)).flatten()

    given = () if condition is None else (condition,)
    jacobians = vmap(jacrev(one, argnums=1))(t, x, *given).reshape(29, exact.features, exact.features)
    assert close(value, exact(t, x, condition))
    assert close(divergence, jacobians.diagonal(dim1=1, dim2=2).sum(1))


@every_network
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize(("rows", "weighted"), [(1, False), (280, True), (77, False)])
def test_gradients(instructions, calls, name, dtype, rows, weighted):
    """Of the mean squared error, against autograd's through the network as it is written."""
    network = network_of(name, dtype)
    t, x, condition = asked(network, rows, dtype)
    target, weight = drawn(*x.shape, seed=5, dtype=dtype), drawn(rows, seed=6, dtype=dtype).abs() if weighted else None
    put = {parameter: torch.full_like(parameter, torch.nan) for parameter in network.parameters()}
    regressor = network.regressor(put, dtype)
    loss = regressor(Regression(network, t, x, target, condition, weight))
    assert calls == ["back"]

    exact, t, x, condition, target = in_double(network, t, x, condition, target)
    errors = (exact(t, x, condition) - target).square().flatten(1).mean(1)
    wanted = (errors if weight is None else errors * weight.double()).mean()
    gradients = torch.autograd.grad(wanted, list(exact.parameters()))
    assert close(loss, wanted.detach())
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert close(put[parameter], gradient)


def test_no_rows(instructions, calls):
    network = network_of("plane", FLOAT32)
    put = {parameter: torch.full_like(parameter, torch.nan) for parameter in network.parameters()}
    empty = torch.empty(0, 2)
    loss = network.regressor(put, FLOAT32)(Regression(network, torch.empty(0), empty, empty))
    assert loss == 0
    assert all((gradient == 0).all() for gradient in put.values())
    with torch.no_grad():
        assert network.for_inference()(0.5, empty).shape == (0, 2)


def test_nan_comes_out_where_it_goes_in(instructions):
    network = network_of("plane", FLOAT32)
    x = drawn(70, 2, dtype=FLOAT32)
    x[66] = torch.nan
    with torch.no_grad():
        value, divergence = network.velocity_and_divergence(0.5, x)
    for found in (value.sum(1), divergence):
        assert found.isnan().nonzero().flatten().tolist() == [66]


def test_a_change_of_weights_is_seen(instructions):
    network = network_of("conditions", FLOAT32)
    t, x, condition = asked(network, 40, FLOAT32, shared=True)
    put = {parameter: torch.zeros_like(parameter) for parameter in network.parameters()}
    regressor, target = network.regressor(put, FLOAT32), drawn(*x.shape, seed=5, dtype=FLOAT32)
    regression = Regression(network, t.expand(40).contiguous(), x, target, condition)
    before, said = regressor(regression), network.for_inference()(t, x, condition)
    with torch.no_grad():
        network.output.bias += 1
        assert regressor(regression) != before
        assert (network.for_inference()(t, x, condition) - said - 1).abs().max() < 1e-5


def test_the_plain_way_is_taken_where_torch_wants_to_see_it(instructions, calls):
    network = network_of("conditions", FLOAT32)
    t, x, condition = asked(network, 20, FLOAT32, shared=True)

    def jacobian_trace(one, given):
        return jacrev(lambda row: network(t, row[None], given[None]).flatten())(one).reshape(4, 4).trace()

    exact = vmap(jacobian_trace)(x, condition)
    quick = network.for_inference()
    asked_for = x.clone().requires_grad_()
    quick(t, asked_for, condition).sum().backward()
    assert asked_for.grad is not None
    handle = network.inner[0].register_forward_hook(lambda *_: None)
    with torch.no_grad():
        hooked = network.for_inference()(t, x, condition)
        found = network.divergence(t, x, condition)
        handle.remove()
        replaced = copy.deepcopy(network)
        replaced.inner[0] = torch.nn.Sequential(replaced.inner[0])
        replaced.input = torch.nn.Sequential(replaced.input)
        assert not calls
        assert torch.equal(hooked, plain(network)(t, x, condition))
        assert (found - exact).abs().max() < 1e-4
        assert torch.equal(replaced.for_inference()(t, x, condition), hooked)
        with torch.autocast("cpu", torch.bfloat16):
            quick(t, x, condition)
        assert not calls
    called = functional_call(network, dict(network.named_parameters()), (t, x, condition))
    assert torch.equal(called.detach(), hooked)


def test_another_network_is_not_taken_for_this_one(instructions, calls):
    class Doubled(ResidualMLP):
        def _modulations(self, t, condition):
            gains, shifts = super()._modulations(t, condition)
            return tuple(2 * gain for gain in gains), shifts

    network = Doubled((2,), width=32, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(network.output.weight, generator=torch.Generator().manual_seed(1))
    x = drawn(30, 2, dtype=FLOAT32)
    with torch.no_grad():
        assert torch.equal(network.for_inference()(0.5, x), network(0.5, x))
        assert torch.equal(network(0.5, x), plain(network)(0.5, x))
        network.divergence(0.5, x)
    assert network.regressor({p: torch.empty_like(p) for p in network.parameters()}, FLOAT32) is None
    assert not calls


def test_products_in_bfloat16_are_those_of_autocast(instructions, calls):
    network = network_of("plane", FLOAT32)
    x = drawn(30, 2, dtype=FLOAT32)
    with torch.no_grad():
        found = network.for_inference(torch.bfloat16)(0.5, x)
        with torch.autocast("cpu", torch.bfloat16):
            exact = network(0.5, x).float()
    assert found.dtype == FLOAT32
    assert torch.equal(found, exact)
    assert not calls


def test_without_a_compiled_file_it_is_the_plain_regressor(monkeypatch, calls):
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    network = network_of("odd widths", FLOAT32)
    t, x, condition = asked(network, 50, FLOAT32)
    regression = Regression(network, t, x, drawn(*x.shape, seed=5, dtype=FLOAT32), condition)
    put, other = ({parameter: torch.zeros_like(parameter) for parameter in network.parameters()} for _ in range(2))
    loss = network.regressor(put, FLOAT32)(regression)
    plain = ResidualRegressor(network._layers.all, network.time, other, FLOAT32, conditioned=True)
    assert torch.equal(loss, plain(regression))
    assert all(torch.equal(put[parameter], other[parameter]) for parameter in put)
    assert not calls


def test_when_it_is_worth_it(monkeypatch):
    monkeypatch.setattr(residual_compiled, "instruction_set", lambda: "avx2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    narrow, wide = (residual_compiled.Sizes(3, 20, 32, 0, width // 4, width) for width in (128, 512))
    assert residual_compiled.worth_it(narrow, 256)
    assert not residual_compiled.worth_it(narrow, 4)
    assert residual_compiled.worth_it(narrow, 4, times=64)
    assert not residual_compiled.worth_it(wide, 256)
    assert residual_compiled.worth_it(wide, 256, tangents=20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert residual_compiled.worth_it(narrow, 256)
    assert not residual_compiled.worth_it(narrow, 256, gradients=True)
    assert residual_compiled.worth_it(residual_compiled.Sizes(3, 2, 32, 0, 32, 64), 48, gradients=True)


@every_network
@pytest.mark.parametrize("shared", [True, False])
def test_rows_are_shared_among_threads(instructions, monkeypatch, name, shared):
    """Values are the same numbers: rows do not know of one another."""
    network = network_of(name, FLOAT32)
    given = asked(network, 130, FLOAT32, shared=shared)
    with torch.no_grad():
        (value, divergence), quick = network.velocity_and_divergence(*given), network.for_inference()(*given)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        monkeypatch.setattr(residual_compiled, "SHARE", 1)
        assert residual_compiled.threads_for(130, 1) == 3
        assert residual_compiled.threads_for(2, 5) == 2
        assert residual_compiled.threads_for(0, 5) == 1
        (shared_value, shared_divergence), shared_quick = (
            network.velocity_and_divergence(*given),
            network.for_inference()(*given),
        )
    assert torch.equal(value, shared_value)
    assert torch.equal(quick, shared_quick)
    assert close(shared_divergence, divergence.double())  # whose sum over coordinates may begin elsewhere in a tile


@pytest.mark.parametrize("of", ["field", "network"])
@pytest.mark.parametrize("kind", [ResidualMLP, MLP])
def test_solvers_pass_by_whoever_listens_to_a_field_or_its_network(kind, of):
    network = kind((2,), width=32, generator=torch.Generator().manual_seed(0))
    flow = Flow(StandardNormal((2,)), ContinuousMap(VelocityField(network)))
    heard = []
    listened = flow.ode.field if of == "field" else network
    handle = listened.register_forward_pre_hook(lambda *_: heard.append(1))
    with torch.no_grad():
        flow.decode(torch.zeros(40, 2))
        assert heard
        count = len(heard)
        handle.remove()
        flow.decode(torch.zeros(40, 2))
    assert len(heard) == count
