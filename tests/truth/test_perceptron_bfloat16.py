"""The compiled perceptron in bfloat16 against float64, beside torch's autocast, for every instruction set it has here.

A product of rounded factors is off by 2⁻⁹ of each on average; how that adds up is what autocast shows on the same
network. It rounds where this does and a few times more, so its error is the bound; two draws of such an error differ
by a tenth over a few hundred rows, and by more where the slope jumps (SELU at zero) and a few rows have all of it.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import perceptron, perceptron_pass
from advect.networks.perceptron_regressor import PerceptronRegressor
from advect.records import Regression
from tests.training.small import matching_trainer
from tests.truth.test_perceptron_kernel import FLOAT32, NETWORKS, asked, calls, drawn, network_of

__all__ = ["calls"]

BESIDE, BESIDE_JUMPS = 1.15, 1.6
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(params=perceptron.compiled.BFLOAT16_SETS, autouse=True)
def instructions(request, built, monkeypatch):
    """Each instruction set in turn, where this processor and this compiler have it."""
    monkeypatch.setattr(perceptron, "LIBRARY", built / "networks" / "perceptron_kernel.so")
    for module in (perceptron, perceptron_pass):
        monkeypatch.setattr(module, "worth_it", lambda *_, **__: True)
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    if perceptron.bfloat16_set() != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def plainly(monkeypatch, function):
    """What ``function()`` gives by torch's operations."""
    with monkeypatch.context() as off:
        off.setenv("ADVECT_KERNEL", "none")
        return function()


def doubled(given):
    return [part if part is None else part.double() for part in given]


def error(found, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@every_network
def test_values_and_divergences_are_no_farther_off_than_by_autocast(calls, monkeypatch, name):
    network = network_of(name, FLOAT32).requires_grad_(False)
    for shared in (False, True):
        given = asked(network, 250, FLOAT32, shared=shared)
        with torch.no_grad():
            quick = network.for_inference(torch.bfloat16)(*given)
        with autocast():
            found = network.velocity_and_divergence(*given)
            rounded = plainly(monkeypatch, lambda given=given: network.velocity_and_divergence(*given))
        assert calls == ["forward"] * 2
        calls.clear()
        assert {part.dtype for part in (quick, *found, *rounded)} == {FLOAT32}
        assert torch.equal(quick, found[0])
        exact = copy.deepcopy(network).double()
        exact = plainly(monkeypatch, lambda exact=exact, given=given: exact.velocity_and_divergence(*doubled(given)))
        jumps = BESIDE_JUMPS if network.activation.function is F.selu else BESIDE
        for ours, theirs, true, beside in zip(found, rounded, exact, (BESIDE, jumps), strict=True):
            assert 0 < error(ours, true) <= beside * error(theirs, true)


@every_network
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [200, 300])
def test_gradients_of_a_regression_are_no_farther_off_than_by_autocast(calls, monkeypatch, name, weighted, rows):
    network = network_of(name, FLOAT32)
    t, x, condition = asked(network, rows, FLOAT32)
    weight = drawn(rows, seed=7, dtype=FLOAT32).abs() if weighted else None
    target = drawn(*x.shape, seed=6, dtype=FLOAT32)

    def by_autograd(of, t, x, condition, target, weight):
        squares = (of._plain(t, x.flatten(1), condition).to(x.dtype) - target.flatten(1)).square().mean(1)
        loss = (squares if weight is None else squares * weight).mean()
        return [loss.detach(), *torch.autograd.grad(loss, list(of.parameters()))]

    into = {p: torch.full_like(p, torch.nan) for p in network.parameters()}
    layers = [*network.hidden, network.output]
    regressor = PerceptronRegressor(layers, network.activation, network.time, into, torch.bfloat16)
    regression = Regression(network=network, t=t, x=x, target=target, condition=condition, weight=weight)
    loss = regressor(regression)
    assert float(loss) == float(regressor(regression))  # memory that was used before
    assert calls == ["back", "back"]
    given = t, x, condition, target, weight
    with autocast():
        rounded = by_autograd(network, *given)
    exact = by_autograd(copy.deepcopy(network).double(), *doubled(given))
    assert float(loss) == pytest.approx(float(exact[0]), rel=2**-8)
    ours, theirs, true = (torch.cat([g.flatten() for g in part]) for part in (into.values(), rounded[1:], exact[1:]))
    assert 0 < error(ours, true) <= BESIDE * error(theirs, true)


@every_network
def test_a_row_says_the_same_whatever_stands_beside_it(name):
    network = network_of(name, FLOAT32).requires_grad_(False)
    given = asked(network, 150, FLOAT32)
    with autocast():
        whole = network.velocity_and_divergence(*given)
        for i in (0, 11, 12, 31, 32, 127, 128, 149):
            one = [part if part is None else part[i : i + 1] for part in given]
            alone = network.velocity_and_divergence(*one)
            assert all((a == b[i]).all() for a, b in zip(alone, whole, strict=True))


@pytest.mark.parametrize("activation", ["selu", "elu", "silu", "tanh"])
def test_rows_that_are_not_finite_stay_so_and_large_ones_saturate(monkeypatch, activation):
    network = network_of("plane", FLOAT32, activation=activation).requires_grad_(False)
    t, x, _ = asked(network, 9, FLOAT32)
    x[3], x[5] = 1e4, -1e4
    with autocast():
        clean = network.velocity_and_divergence(t, x)
        rounded = plainly(monkeypatch, lambda: network.velocity_and_divergence(t, x))
        x[4, 0] = torch.nan
        found = network.velocity_and_divergence(t, x)
    for ours, theirs, before in zip(found, rounded, clean, strict=True):
        others = [0, 1, 2, 3, 5, 6, 7, 8]
        assert ours[4].isnan().all()
        assert (ours[others] == before[others]).all()
        assert (before - theirs).norm() <= 0.1 * theirs.norm()


def test_no_rows_have_no_error_and_no_gradient(calls):
    network = network_of("odd widths", FLOAT32)
    into = {p: torch.full_like(p, torch.nan) for p in network.parameters()}
    layers = [*network.hidden, network.output]
    regressor = PerceptronRegressor(layers, network.activation, network.time, into, torch.bfloat16)
    nothing = torch.zeros(0, 7)
    regression = Regression(
        network=network, t=torch.zeros(0), x=nothing, target=nothing, condition=torch.zeros(0, 1), weight=None
    )
    assert float(regressor(regression)) == 0
    assert calls == ["back"]
    assert all((gradient == 0).all() for gradient in into.values())
    with torch.no_grad():
        assert network.for_inference(torch.bfloat16)(0.5, nothing, torch.zeros(0, 1)).shape == (0, 7)


def test_a_training_in_bfloat16_goes_this_way_and_only_that(calls, monkeypatch):
    losses = []
    for precision in ("bfloat16", "float32"):
        network = network_of("plane", FLOAT32)
        flow = Flow(StandardNormal((2,)), ContinuousMap(VelocityField(network), event_shape=(2,)))
        trainer = matching_trainer(field=flow, steps=20, precision=precision)
        trainer.run()
        losses.append([line["train_loss"] for line in trainer.sink.history])
    assert calls.count("back") == 40
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    monkeypatch.setenv("ADVECT_KERNEL", "avx512")
    assert perceptron.bfloat16_set() is None
