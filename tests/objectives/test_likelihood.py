"""Likelihood and penalties against closed forms; failed rows never drop out; the parts stay apart."""

import math

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, UnsupportedError
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import MLP
from advect.networks.potential import Potential
from advect.objectives.likelihood import (
    HamiltonJacobi,
    MaximumLikelihood,
    PathLikelihood,
    RegularisedLikelihood,
    StepGap,
    step_gap,
)
from advect.records import Batch
from advect.solvers import RK4, Adaptive, ExactDivergence, HutchinsonDivergence
from advect.solvers.hutchpp import HutchPlusPlusDivergence
from advect.transforms import Compose, Cumulative, Standardise
from tests.truth.exact_fields import LinearField

FLOAT64 = torch.float64
TIGHT = Adaptive(rtol=1e-10, atol=1e-10)
SYMMETRIC = torch.tensor([[0.5, 0.2], [0.2, -0.3]], dtype=FLOAT64)
GENERAL = torch.tensor([[0.3, -0.8], [0.5, -0.1]], dtype=FLOAT64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=FLOAT64)


def flow_of(field, *before, event=(2,), **options):
    ode = ContinuousMap(field, **({"solver": TIGHT, "likelihood_solver": TIGHT} | options))
    return Flow(StandardNormal(event).double(), Compose(*before, ode) if before else ode)


def linear_truth(matrix, x):
    """log p of x, ∫‖v‖² and ∫‖∂v/∂x‖²_F on the way of x back to z = e^{−A} x, for v = A y.

    p is N(0, e^A e^{Aᵀ}); the energy is the integral of a smooth function, by Gauss' rule on 40 nodes.
    """
    flat = x.reshape(len(x), -1)
    spread = torch.linalg.matrix_exp(matrix)
    law = torch.distributions.MultivariateNormal(torch.zeros(len(matrix), dtype=FLOAT64), spread @ spread.T)
    nodes, weights = torch.linalg.eigh(
        torch.diag(torch.tensor([k / math.sqrt(4 * k * k - 1) for k in range(1, 40)], dtype=FLOAT64), 1).mT
    )
    times, weights = (nodes + 1) / 2, weights[0] ** 2
    energy = sum(
        w * (flat @ torch.linalg.matrix_exp(-matrix * (1 - t)).T @ matrix.T).square().sum(1)
        for t, w in zip(times, weights, strict=True)
    )
    return law.log_prob(flat), energy, matrix.square().sum().expand(len(x))


@pytest.mark.parametrize("matrix", [SYMMETRIC, GENERAL])
def test_likelihood_and_penalties_of_a_linear_field(matrix):
    """Trap O10: Gaussian to Gaussian. The penalties are positive integrals, though `encode` runs against time."""
    x = 1.5 * normal(20, 2)
    log_prob, energy, norm = linear_truth(matrix, x)
    flow = flow_of(LinearField(matrix))
    torch.testing.assert_close(MaximumLikelihood()(flow, Batch(x)), -log_prob, rtol=0, atol=1e-8)
    objective = RegularisedLikelihood(kinetic=0.3, jacobian=0.7)
    parts = objective.parts(flow, Batch(x))
    torch.testing.assert_close(parts.log_prob, log_prob, rtol=0, atol=1e-8)
    torch.testing.assert_close(parts.kinetic_energy, energy, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parts.jacobian_norm, norm, rtol=1e-9, atol=1e-9)
    assert parts.hamilton_jacobi is None
    expected = -log_prob + 0.3 * energy + 0.7 * norm
    torch.testing.assert_close(objective(flow.train(), Batch(x)), expected, rtol=1e-8, atol=1e-7)


def test_growth_in_one_dimension_in_closed_form():
    """v = a x, by hand: ∫‖v‖² = a x² (1 − e^{−2a})/2, ∫‖∂v/∂x‖² = a², summed and not averaged over the event."""
    a = 0.4
    flow = flow_of(lambda t, x, c=None: a * x, event=(3, 2))
    x = normal(8, 3, 2)
    parts = RegularisedLikelihood(kinetic=1.0, jacobian=1.0).parts(flow, Batch(x))
    squares = x.square().sum((1, 2))
    torch.testing.assert_close(parts.kinetic_energy, a * squares * (1 - math.exp(-2 * a)) / 2, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(parts.jacobian_norm, torch.full((8,), 6 * a * a, dtype=FLOAT64), rtol=1e-8, atol=0)
    log_prob = -0.5 * squares * math.exp(-2 * a) - 3 * math.log(2 * math.pi) - 6 * a
    torch.testing.assert_close(parts.log_prob, log_prob, rtol=0, atol=1e-8)


@pytest.mark.parametrize("divergence", [HutchinsonDivergence(4), HutchPlusPlusDivergence(2)])
def test_penalties_by_probes(divergence):
    """Energy is exact whatever the trace; the norm averages to its value, two-sided (2000 rows, four errors)."""
    x = normal(2000, 2)
    _, energy, norm = linear_truth(GENERAL, x)
    flow = flow_of(LinearField(GENERAL), divergence=divergence, likelihood_solver=RK4(16))
    parts = RegularisedLikelihood(kinetic=1.0, jacobian=1.0).parts(flow, Batch(x), generator=seeded())
    torch.testing.assert_close(parts.kinetic_energy, energy, rtol=1e-5, atol=1e-5)
    spread = parts.jacobian_norm.std() / 2000**0.5
    assert abs(parts.jacobian_norm.mean() - norm[0]) < 4 * spread + 1e-9


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_hamilton_jacobi_vanishes_on_optimal_paths_alone(sign):
    """Φ(t, x) = −m x²/(2(1 + m t)): points move in straight lines x(t) = x0 (1 + m t), so ∂Φ/∂t = ½‖∇Φ‖². With the
    sign of ∂Φ/∂t turned, the residual is ‖v‖², its integral the energy."""
    m = 0.6

    class Straight(nn.Module):
        def forward(self, t, x, condition=None):
            return m * x / (1 + m * torch.as_tensor(t).reshape(-1, 1))

        def time_derivative(self, t, x, condition=None):
            return sign * 0.5 * (m * x / (1 + m * torch.as_tensor(t).reshape(-1, 1))).square().sum(1)

    x = normal(10, 3)
    parts = RegularisedLikelihood(kinetic=1.0, hamilton_jacobi=1.0).parts(flow_of(Straight(), event=(3,)), Batch(x))
    energy = (m / (1 + m)) ** 2 * x.square().sum(1)  # ‖x − x0‖², at constant speed
    torch.testing.assert_close(parts.kinetic_energy, energy, rtol=1e-8, atol=1e-8)
    expected = torch.zeros(10, dtype=FLOAT64) if sign > 0 else energy
    torch.testing.assert_close(parts.hamilton_jacobi, expected, rtol=1e-8, atol=1e-8)


def potential(condition=0):
    network = Potential((2,), condition, width=6, generator=seeded()).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=seeded(5))
    return network


def test_hamilton_jacobi_of_a_network():
    """Against the integral written out: states on the way, ∂Φ/∂t and ∇Φ by autograd, Gauss' rule."""
    network, x = potential(1), normal(5, 2)
    condition = normal(5, 1, seed=2)
    flow = flow_of(network)
    parts = RegularisedLikelihood(hamilton_jacobi=1.0).parts(flow, Batch(x, condition=condition))
    assert parts.kinetic_energy is None
    # |·| has kinks where the residual changes its sign, so a fine midpoint rule: its error falls with the square.
    n = 400
    times = (torch.arange(n, dtype=FLOAT64) + 0.5) / n
    states = flow.ode.trajectory(x, times.flip(0), condition, direction="encode").flip(0)
    flat, t = states.reshape(-1, 2).requires_grad_(), times.repeat_interleave(5).requires_grad_()
    phi = network.potential(t, flat, condition.repeat(n, 1))
    gradient, in_time = torch.autograd.grad(phi.sum(), (flat, t))
    expected = (in_time - 0.5 * gradient.square().sum(1)).abs().reshape(n, 5).mean(0)
    torch.testing.assert_close(parts.hamilton_jacobi, expected, rtol=1e-4, atol=1e-5)
    assert expected.min() > 1e-3


def test_parts_are_the_flows_own_log_prob():
    """With preprocessing in front, layers behind, a condition, and any weights: the likelihood has no penalty in it."""
    field = MLP((2,), 3, width=6, depth=2, activation="tanh", generator=seeded()).double()
    before = Standardise(normal(2, seed=5), normal(2, seed=6).abs() + 0.5)
    after = Standardise(normal(2, seed=7), normal(2, seed=8).abs() + 0.5)
    ode = ContinuousMap(field, likelihood_solver=TIGHT, condition_shape=(3,))
    flow = Flow(StandardNormal((2,)).double(), Compose(before, Compose(ode, after)))
    x, condition = normal(6, 2), normal(6, 3, seed=1)
    batch = Batch(x, condition=condition)
    parts = RegularisedLikelihood(kinetic=5.0).parts(flow, batch)
    torch.testing.assert_close(parts.log_prob, flow.log_prob(x, condition), rtol=0, atol=1e-8)
    torch.testing.assert_close(MaximumLikelihood()(flow, batch), -flow.log_prob(x, condition), rtol=0, atol=0)
    assert parts.kinetic_energy.min() > 0


def test_no_penalty_outside_training():
    """A validation loss is a likelihood."""
    flow, x = flow_of(LinearField(GENERAL)), normal(5, 2)
    objective = RegularisedLikelihood(kinetic=1.0, jacobian=1.0)
    flow.eval()
    assert torch.equal(objective(flow, Batch(x)), MaximumLikelihood()(flow, Batch(x)))
    flow.train()
    assert (objective(flow, Batch(x)) - MaximumLikelihood()(flow, Batch(x)) > 0.1).all()
    assert RegularisedLikelihood().parts(flow, Batch(x)).kinetic_energy is None


@pytest.mark.parametrize("objective", [MaximumLikelihood(), RegularisedLikelihood(kinetic=0.1, jacobian=0.1)])
def test_failed_rows_are_not_dropped(objective):
    """Trap L8: 3 NaN of 12 make the mean NaN; the other rows keep their value."""

    def field(t, x, condition=None):
        return torch.where(condition > 0, torch.nan, 0.3 * x)

    condition = torch.zeros(12, 1, dtype=FLOAT64)
    condition[[1, 4, 7]] = 1
    flow = flow_of(field, likelihood_solver=RK4(16), divergence=ExactDivergence()).train()
    loss = objective(flow, Batch(normal(12, 2), condition=condition))
    assert loss.isnan().nonzero().flatten().tolist() == [1, 4, 7]
    assert loss.mean().isnan()
    alone = objective(flow, Batch(normal(12, 2)[:1], condition=condition[:1]))
    torch.testing.assert_close(loss[:1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", [MaximumLikelihood(), RegularisedLikelihood(kinetic=0.1)])
def test_rows_outside_the_support_cost_infinitely_much(objective):
    """A level that the preprocessing does not know has probability zero."""
    levels = Cumulative([torch.tensor([0.5, 0.5], dtype=FLOAT64)] * 2)
    x = torch.tensor([[0.3, 1.2], [0.3, 2.5]], dtype=FLOAT64)
    flow = flow_of(LinearField(SYMMETRIC), levels).train()
    loss = objective(flow, Batch(x))
    assert math.isfinite(loss[0])
    assert loss[1] == math.inf


def test_discrete_maps_have_likelihoods_and_no_path():
    mean, scale = normal(2, seed=5), normal(2, seed=6).abs() + 0.5
    flow = Flow(StandardNormal((2,)).double(), Standardise(mean, scale))
    x = normal(5, 2)
    exact = torch.distributions.Normal(mean, scale).log_prob(x).sum(1)
    torch.testing.assert_close(MaximumLikelihood()(flow, Batch(x)), -exact, rtol=0, atol=1e-12)
    with pytest.raises(UnsupportedError, match="no ODE"):
        RegularisedLikelihood(kinetic=1.0)(flow.train(), Batch(x))


def test_gradient_in_x_and_parameters_in_closed_form():
    """Trap L7: v = a x: ∂(−log p)/∂a = d − |x|² e^{−2a}, and of ∫‖v‖² = a x² (1 − e^{−2a})/2."""
    a = torch.tensor(0.3, dtype=FLOAT64, requires_grad=True)
    flow, x = flow_of(lambda t, x, c=None: a * x, event=(3,)).train(), normal(6, 3).requires_grad_()
    loss = RegularisedLikelihood(kinetic=0.5, jacobian=0.25)(flow, Batch(x))
    in_a, in_x = torch.autograd.grad(loss.sum(), (a, x))
    with torch.no_grad():
        squares, decay = x.square().sum(1), torch.exp(-2 * a)
        penalties = 0.5 * squares * ((1 - decay) / 2 + a * decay) + 0.25 * 6 * a
        exact_a = (3 - squares * decay + penalties).sum()
        exact_x = x * decay + 0.5 * a * x * (1 - decay)
    torch.testing.assert_close(in_a, exact_a, rtol=1e-8, atol=0)
    torch.testing.assert_close(in_x, exact_x, rtol=1e-8, atol=1e-8)


def test_gradient_reaches_every_parameter_of_a_potential():
    """Every term of OT-Flow's loss, against central differences along a random direction."""
    network, x = potential(), normal(4, 2)
    flow = flow_of(network, likelihood_solver=RK4(16)).train()
    objective = RegularisedLikelihood(kinetic=0.3, hamilton_jacobi=0.7)
    parameters = list(network.parameters())
    directions = [normal(*p.shape, seed=i) for i, p in enumerate(parameters)]
    gradients = torch.autograd.grad(objective(flow, Batch(x)).sum(), parameters)
    assert all(g.abs().max() > 0 for g in gradients)

    def shifted(step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=step)
            loss = objective(flow, Batch(x)).sum()
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(d, alpha=step)
        return loss

    step = 1e-5
    difference = (shifted(step) - shifted(-step)) / (2 * step)
    along = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    assert along == pytest.approx(float(difference), rel=1e-6)


def test_weights_and_fields_are_checked():
    for name in ("kinetic", "jacobian", "hamilton_jacobi"):
        for value in (-0.1, math.nan, math.inf):
            with pytest.raises(ConfigError, match=name):
                RegularisedLikelihood(**{name: value})
    with pytest.raises(ConfigError, match="no potential"):
        RegularisedLikelihood(hamilton_jacobi=1.0).parts(flow_of(LinearField(GENERAL)), Batch(normal(3, 2)))
    assert callable(HamiltonJacobi(potential().time_derivative))
    assert PathLikelihood(normal(3)).kinetic_energy is None


def test_step_gap_is_the_error_of_the_training_steps():
    """v = a x, one RK4 step backwards: the state is multiplied by 1 − a + a²/2 − a³/6 + a⁴/24, the trace is exact."""
    a = 1.0
    flow = flow_of(lambda t, x, c=None: a * x, event=(1,), training_solver=RK4(1))
    x = normal(50, 1)
    grown = 1 - a + a**2 / 2 - a**3 / 6 + a**4 / 24
    expected = (0.5 * x.square() * (math.exp(-2 * a) - grown**2)).squeeze(1)
    for mode in (True, False):
        flow.train(mode)
        gap = step_gap(flow, x)
        assert gap.mean_nats == pytest.approx(float(expected.mean()), rel=1e-6)
        assert gap.largest_nats == pytest.approx(float(expected.abs().max()), rel=1e-6)
        assert gap.standard_error_nats == pytest.approx(float(expected.std()) / 50**0.5, rel=1e-6)
        assert flow.training is mode
        assert flow.ode.training is mode
    with pytest.raises(ConfigError, match="training solver"):
        step_gap(flow_of(LinearField(SYMMETRIC)), normal(3, 2))


def test_step_gap_says_when_it_is_too_large():
    fine, coarse = StepGap(0.01, 0.001, 0.1), StepGap(-0.5, 0.001, 2.0)
    assert fine.tolerated
    assert not coarse.tolerated
    assert not StepGap(math.nan, math.nan, math.nan).tolerated
    assert "too large" not in fine.as_metric().name
    assert "too large" in coarse.as_metric().name
    assert coarse.as_metric().unit == "nats"


def test_step_gap_uses_the_same_probes_for_both():
    """With a stochastic trace the probes' noise is no part of the gap."""
    field = VelocityField(MLP((3,), width=6, depth=2, activation="tanh", generator=seeded()).double())
    flow = flow_of(field, event=(3,), training_solver=RK4(8), divergence=HutchinsonDivergence(1))
    assert step_gap(flow, normal(10, 3), generator=seeded()).largest_nats < 1e-4
