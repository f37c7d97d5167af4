"""The compiled perceptron against torch's operations and autograd, for every instruction set it has here.

Bounds: see `networks`.
"""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import MLP, FourierTime, perceptron, perceptron_pass
from advect.networks.perceptron_regressor import PerceptronRegressor
from advect.networks.regressor import LinearRegressor
from advect.records import Regression
from tests.training.small import Recorder, cloud, matching_trainer
from tests.truth.networks import asked, close, count_calls, drawn

FLOAT32, FLOAT64 = torch.float32, torch.float64
NETWORKS = {
    "plane": {"event_shape": (2,)},
    "one layer": {"event_shape": (3,), "depth": 1, "width": 5, "activation": "tanh"},
    "two layers, conditions": {"event_shape": (2, 2), "condition_features": 3, "depth": 2, "activation": "silu"},
    "odd widths": {"event_shape": (7,), "condition_features": 1, "depth": 4, "width": 37, "activation": "elu"},
    "many coordinates": {"event_shape": (41,), "width": 70, "activation": "silu"},
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(params=perceptron.compiled.SETS)
def instructions(request, built, monkeypatch):
    """Each instruction set in turn, where this processor and this compiler have it."""
    monkeypatch.setattr(perceptron, "LIBRARY", built / "networks" / "perceptron_kernel.so")
    for module in (perceptron, perceptron_pass):
        monkeypatch.setattr(module, "worth_it", lambda *_, **__: True)
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    if perceptron.instruction_set() != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture
def calls(monkeypatch):
    """The compiled calls that were made."""
    return count_calls(monkeypatch, perceptron.Compiled)


def network_of(name, dtype=FLOAT64, **more):
    with torch.random.fork_rng(devices=[]):
        return MLP(**NETWORKS[name], **more, generator=torch.Generator().manual_seed(3)).to(dtype)


@every_network
@pytest.mark.parametrize("rows", [1, 250])
def test_values_and_divergences_are_those_of_torch(instructions, calls, monkeypatch, name, rows):
    for dtype in (FLOAT32, FLOAT64):
        network = network_of(name, dtype).requires_grad_(False)
        for shared in (False, True):
            given = asked(network, rows, dtype, shared=shared)
            found = network(*given), *network.velocity_and_divergence(*given), network.for_inference()(*given)
            assert calls == ["forward"] * 3
            calls.clear()
            with monkeypatch.context() as off:
                off.setenv("ADVECT_KERNEL", "none")
                exact = copy.deepcopy(network).double()
                given = [part if part is None else part.double() for part in given]
                velocity, divergence = exact.velocity_and_divergence(*given)
                assert not calls
            assert close(found[0], velocity)
            assert close(found[1], velocity)
            assert close(found[2], divergence)
            assert close(found[3], velocity)


@every_network
def test_the_divergence_is_the_trace_of_autograds_jacobian(instructions, calls, name):
    network = network_of(name).requires_grad_(False)
    t, x, condition = asked(network, 3)
    _, found = network.velocity_and_divergence(t, x, condition)
    assert calls == ["forward"]
    for i in range(3):
        one = None if condition is None else condition[i : i + 1]

        def velocity(point, i=i, one=one):
            return network._plain(t[i : i + 1], point.reshape(1, -1), one).flatten()

        jacobian = torch.autograd.functional.jacobian(velocity, x[i].flatten())
        assert close(found[i], jacobian.trace())


@every_network
def test_gradients_are_those_of_autograd(instructions, calls, monkeypatch, name):
    for dtype in (FLOAT32, FLOAT64):
        network = network_of(name, dtype, time=FourierTime(4))
        t, x, condition = asked(network, 130, dtype)
        weights = drawn(*x.shape, seed=5, dtype=dtype)
        found = torch.autograd.grad((network(t, x, condition) * weights).sum(), list(network.parameters()))
        assert calls == ["forward", "back"]
        calls.clear()
        with monkeypatch.context() as off:
            off.setenv("ADVECT_KERNEL", "none")
            exact = copy.deepcopy(network).double()
            t, x, condition = (part if part is None else part.double() for part in (t, x, condition))
            total = (exact(t, x, condition) * weights.double()).sum()
            assert not calls
            exact_ones = torch.autograd.grad(total, list(exact.parameters()))
            assert all(close(a, b) for a, b in zip(found, exact_ones, strict=True))


def test_one_gradient_of_one_layer_alone(instructions, calls):
    """Parameters that are not trained get none."""
    network = network_of("plane").requires_grad_(False)
    network.output.requires_grad_()
    t, x, _ = asked(network, 20)
    (network(t, x) ** 2).sum().backward()
    assert calls == ["forward", "back"]
    assert {name for name, p in network.named_parameters() if p.grad is not None} == {"output.weight", "output.bias"}


def test_second_derivatives_are_those_of_the_plain_network(instructions, calls, monkeypatch):
    network = network_of("plane")
    t, x, _ = asked(network, 5)
    weights = list(network.parameters())

    def found():
        first = torch.autograd.grad(network(t, x).pow(3).sum(), weights, create_graph=True)
        return torch.autograd.grad(sum(one.pow(2).sum() for one in first), weights)

    quick = found()
    assert calls == ["forward", "back"]  # of the cube, whose own derivative is asked for once
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    for one, exact in zip(quick, found(), strict=True):
        # Each of the two derivatives is a sum of products of such sums: its error is one of their sizes.
        assert torch.allclose(one, exact, rtol=1e-9, atol=1e-11 * exact.abs().max())


@every_network
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_a_regression_is_that_of_torch(instructions, calls, name, weighted):
    for dtype in (FLOAT32, FLOAT64):
        network = network_of(name, dtype)
        exact = copy.deepcopy(network).double()
        t, x, condition = asked(network, 200, dtype)
        weight = drawn(200, seed=7, dtype=dtype).abs() if weighted else None
        target = drawn(*x.shape, seed=6, dtype=dtype)
        given = [part if part is None else part.double() for part in (x, t, condition, target, weight)]
        losses, gradients = [], []
        for way, of, parts in (
            (PerceptronRegressor, network, (x, t, condition, target, weight)),
            (LinearRegressor, exact, given),
        ):
            into = {p: torch.full_like(p, torch.nan) for p in of.parameters()}
            regressor = way([*of.hidden, of.output], of.activation, of.time, into, next(of.parameters()).dtype)
            at, when, condition, target, weight = parts
            regression = Regression(network=of, t=when, x=at, target=target, condition=condition, weight=weight)
            losses.append(regressor(regression))
            losses[-1] = regressor(regression)  # memory that was used before
            gradients.append(list(into.values()))
        assert calls == ["back", "back"]
        calls.clear()
        assert close(losses[0], losses[1])
        assert all(close(a, b) for a, b in zip(*gradients, strict=True))


def test_a_row_says_the_same_whatever_stands_beside_it(instructions):
    network = network_of("plane", FLOAT32).requires_grad_(False)
    t, x, _ = asked(network, 150, FLOAT32)
    whole = network.velocity_and_divergence(t, x)
    for i in (0, 7, 95, 96, 149):
        alone = network.velocity_and_divergence(t[i : i + 1], x[i : i + 1])
        assert all((a == b[i]).all() for a, b in zip(alone, whole, strict=True))


def test_rows_that_are_not_finite_stay_so_and_leave_others_alone(instructions):
    network = network_of("plane", FLOAT32).requires_grad_(False)
    t, x, _ = asked(network, 9, FLOAT32)
    clean = network.velocity_and_divergence(t, x)
    x[4, 0] = torch.nan
    for found, before in zip(network.velocity_and_divergence(t, x), clean, strict=True):
        assert found[4].isnan().all()
        assert (found[[0, 3, 5, 8]] == before[[0, 3, 5, 8]]).all()


def test_large_numbers_saturate_as_they_do_in_torch(instructions, monkeypatch):
    for activation in ("selu", "elu", "silu", "tanh"):
        network = MLP(
            (2,), depth=1, width=8, activation=activation, generator=torch.Generator().manual_seed(0)
        ).double()
        network.requires_grad_(False)
        x = torch.tensor([[1e4, -1e4], [1e-9, -1e-9], [0.0, 0.0], [300.0, 1e-3], [-40.0, 40.0]], dtype=FLOAT64)
        found = network.velocity_and_divergence(0.0, x)
        with monkeypatch.context() as off:
            off.setenv("ADVECT_KERNEL", "none")
            for a, b in zip(found, network.velocity_and_divergence(0.0, x), strict=True):
                assert torch.allclose(a, b, rtol=1e-13, atol=1e-14)


WATCHED = {
    "a hook": lambda network, t, x: network.hidden[1].register_forward_hook(lambda *_: None) and network(t, x),
    "vmap": lambda network, t, x: torch.func.vmap(lambda one: network(0.5, one.unsqueeze(0)))(x),
    "forward derivatives": lambda network, t, x: _pushed(network, t, x),
    "autocast": lambda network, t, x: _autocast(network, t, x),
    "a mode": lambda network, t, x: _counted(network, t, x),
    "another layer": lambda network, t, x: _replaced(network, t, x),
    "bfloat16": lambda network, t, x: network.bfloat16()(t.bfloat16(), x.bfloat16()),
    "a gradient by the points": lambda network, t, x: network(t, x.requires_grad_()),
    "an activation we have not": lambda network, t, x: MLP((2,), activation="gelu").double()(t, x),
}


def _autocast(network, t, x):
    with torch.autocast("cpu", torch.bfloat16):
        return network.float()(t.float(), x.float())


def _pushed(network, t, x):
    with forward_ad.dual_level():
        network(t, x)


def _counted(network, t, x):
    with FlopCounterMode(display=False) as counter:
        network(t, x)
    assert counter.get_total_flops() > 0


def _replaced(network, t, x):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    network.hidden[1] = Doubled(64, 64).double()
    return network(t, x)


@pytest.mark.parametrize("case", WATCHED)
def test_what_torch_wants_to_see_takes_the_plain_way(built, calls, monkeypatch, case):
    monkeypatch.setattr(perceptron, "LIBRARY", built / "networks" / "perceptron_kernel.so")
    monkeypatch.delenv("ADVECT_KERNEL", raising=False)
    network = network_of("plane").requires_grad_(False)
    t, x, _ = asked(network, 40)
    network(t, x)
    assert calls == ["forward"]
    WATCHED[case](network, t, x)
    assert calls == ["forward"]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def everywhere(request):
    """All numbers of this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def test_a_training_goes_the_same_way_with_it_and_goes_on_in_the_same_bits(built, calls, monkeypatch, everywhere):
    monkeypatch.setattr(perceptron, "LIBRARY", built / "networks" / "perceptron_kernel.so")

    def made(sink=None):
        network = MLP((2,), generator=torch.Generator().manual_seed(0)).to(everywhere)
        flow = Flow(StandardNormal((2,)), ContinuousMap(VelocityField(network), event_shape=(2,)))
        # Rows enough that none comes twice in a batch: with equal rows several plans are best, and solvers differ.
        return matching_trainer(field=flow, sink=sink, steps=30, data=cloud(480))

    monkeypatch.delenv("ADVECT_KERNEL", raising=False)
    whole, sink, done = made(), Recorder(), iter(range(100))
    whole.run()
    assert calls.count("back") == 30
    made(sink).run(stop=lambda: next(done) == 17)
    second = made()
    second.state.load(*sink.checkpoints[-1])
    second.run()
    assert all(torch.equal(a, b) for a, b in zip(whole.flow.parameters(), second.flow.parameters(), strict=True))

    monkeypatch.setenv("ADVECT_KERNEL", "none")
    calls.clear()
    plain = made()
    plain.run()
    assert not calls
    losses = [[line["train_loss"] for line in trainer.sink.history] for trainer in (whole, plain)]
    # 30 steps of at most 0.01 a weight, whose gradients differ by rounding (2⁻²⁴ or 2⁻⁵³) and the optimiser's division.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if everywhere == torch.float32 else 1e-11)


def test_the_form_for_samples_keeps_the_gradient_by_points(instructions):
    """A divergence by autograd asks for it, inside a solve without gradients."""
    net = MLP((2,), width=8, depth=2, activation="tanh", generator=torch.Generator().manual_seed(3)).double()
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        quick, (_, wanted) = net.for_inference(), net.velocity_and_divergence(0.3, x)
    point = x.clone().requires_grad_()
    rows = [torch.autograd.grad(quick(0.3, point)[:, i].sum(), point)[0][:, i] for i in range(2)]
    torch.testing.assert_close(sum(rows), wanted, rtol=1e-12, atol=1e-12)  # a dozen sums of eight numbers
