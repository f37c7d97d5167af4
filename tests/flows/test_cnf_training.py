"""ODEs trained by maximum likelihood: what training mode changes, what it must not, and that it learns."""

import math

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, ShapeError, UnknownNameError
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.flows.architectures.continuous import TRAINING_STEPS, cnf, likelihood_map, ot_flow, rnode, training_trace
from advect.networks import MLP
from advect.objectives.likelihood import MaximumLikelihood, RegularisedLikelihood, step_gap
from advect.records import Batch
from advect.solvers import RK4, Adams3, Adaptive, ExactDivergence, HutchinsonDivergence, Midpoint
from advect.solvers.checkpointed import Checkpointed
from advect.solvers.hutchpp import HutchPlusPlusDivergence
from tests.truth.exact_fields import LinearField

FLOAT64 = torch.float64
MATRIX = torch.tensor([[0.3, -0.8], [0.5, -0.1]], dtype=FLOAT64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=FLOAT64)


def woken(map, scale=0.4):
    generator = seeded(4)
    for parameter in map.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    return map.double()


def on_normal(map):
    return Flow(StandardNormal(map.event_shape).double(), map)


# What training mode changes


def test_the_training_solver_is_for_log_determinants_in_training_mode():
    """Counted evaluations (trap S7): 8 steps of RK4 in training, whatever the careful solver would spend; no more for
    an estimate of the steps' error or a round trip. Sampling and encoding without a log-determinant are as ever."""
    map = ContinuousMap(
        LinearField(MATRIX), likelihood_solver=RK4(20), solver=Adams3(10), training_solver=RK4(8), round_trip=1e-6
    )
    x = normal(3, 2)
    for verb in (map.encode, map.decode):
        map.train()
        trained = verb(x, log_det=True)
        assert trained.nfe.tolist() == [32] * 3
        map.eval()
        careful = verb(x, log_det=True)
        assert careful.nfe.tolist() == [2 * 80] * 3  # there and back
        assert (trained.value - careful.value).abs().max() > 1e-9
        torch.testing.assert_close(trained.value, careful.value, rtol=0, atol=1e-4)
        # Both are exact: the trace of a linear field is constant.
        torch.testing.assert_close(trained.log_abs_det_jacobian, careful.log_abs_det_jacobian, rtol=0, atol=1e-12)
    map.train()
    assert map.decode(x, log_det=False).nfe.tolist() == [11] * 3
    assert map.encode(x, log_det=False).nfe.tolist() == [2 * 80] * 3


def test_without_a_training_solver_training_mode_changes_nothing():
    """Trap L6: few steps as the likelihood solver are refused in training as well."""
    map = ContinuousMap(LinearField(MATRIX), likelihood_solver=RK4(4)).train()
    with pytest.raises(ConfigError, match="too coarse"):
        map.encode(normal(3, 2), log_det=True)


def test_a_wrapped_coarse_solver_is_refused_too():
    map = ContinuousMap(LinearField(MATRIX), likelihood_solver=Checkpointed(RK4(4)))
    with pytest.raises(ConfigError, match="RK4 with 4 steps"):
        map.encode(normal(3, 2), log_det=True)
    coarse = map.with_options(coarse=True).encode(normal(3, 2), log_det=True)
    assert coarse.nfe.tolist() == [16 + 32] * 3  # once more with half the steps, for the error


@pytest.mark.parametrize("build", [cnf, rnode, ot_flow])
def test_assemblies_report_careful_likelihoods_before_and_after_training(build):
    """A new map and one whose training has ended are solved adaptively, with the exact trace."""
    flow = on_normal(woken(build(2, width=6)))
    x = normal(5, 2)
    fresh = flow.score(x, generator=seeded())
    assert isinstance(flow.ode.likelihood_solver, Adaptive)
    assert (fresh.standard_error == 0).all()
    flow.train()
    trained = flow.score(x, generator=seeded())
    assert (trained.nfe == 4 * TRAINING_STEPS).all()
    flow.eval()
    again = flow.score(x, generator=seeded())
    assert torch.equal(again.value, fresh.value)
    assert not torch.equal(again.value, trained.value)
    tight = flow.with_options(likelihood_solver=Adaptive(rtol=1e-9, atol=1e-9)).log_prob(x)
    torch.testing.assert_close(fresh.value, tight, rtol=0, atol=1e-4)


def test_options_keep_what_training_needs():
    flow = on_normal(cnf(2, 3, width=6, steps=5, trace="hutchinson"))
    copy = flow.with_options(solver=Midpoint(4)).ode
    assert copy.training_solver == RK4(5)
    assert copy.training_divergence == HutchinsonDivergence(1)
    assert copy.condition_shape == (3,)
    assert copy.training is flow.ode.training


# Assemblies


@pytest.mark.parametrize("build", [cnf, rnode, ot_flow])
@pytest.mark.parametrize("features", [1, 3])
def test_a_fresh_map_is_the_identity(build, features):
    map = build(features, width=6)
    x = torch.randn(4, features, generator=seeded())
    out = map.encode(x)
    assert torch.equal(out.value, x)
    assert out.log_abs_det_jacobian.abs().max() == 0
    assert map.decode(x[:0]).value.shape == (0, features)


@pytest.mark.parametrize("build", [cnf, rnode, ot_flow])
def test_a_condition_is_taken_and_counts(build):
    map = woken(build(2, 3, width=6))
    x, c = normal(4, 2), normal(4, 3, seed=1)
    assert (map.encode(x, c).value - map.encode(x, c + 1).value).abs().max() > 1e-3
    for wrong in (None, c[:, :2], c[:3]):
        with pytest.raises(ShapeError):
            map.encode(x, wrong)
    with pytest.raises(ShapeError):
        build(2, width=6).encode(x.float(), c.float())


def test_sizes_and_initial_weights():
    map = cnf(3, 2, depth=3, width=7, generator=seeded(1))
    assert [tuple(layer.weight.shape) for layer in map.field.hidden] == [(7, 6), (7, 7), (7, 7)]
    other = cnf(3, 2, depth=3, width=7, generator=seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(map.parameters(), other.parameters(), strict=True))
    assert len(ot_flow(3, depth=4, width=7).field.inner) == 3
    with pytest.raises(ConfigError, match="steps"):
        cnf(2, steps=0)
    with pytest.raises(ConfigError, match="blocks"):
        ot_flow(2, depth=1)


def test_traces_by_name():
    assert training_trace("auto", (8, 8)) == ExactDivergence()
    assert training_trace("auto", (65,), 3) == HutchinsonDivergence(3)
    assert training_trace("exact", (65,)) == ExactDivergence()
    assert training_trace("hutchinson", (2,), 2) == HutchinsonDivergence(2)
    assert training_trace("hutch++", (2,), 2) == HutchPlusPlusDivergence(2)
    with pytest.raises(UnknownNameError, match="hutchinson"):
        cnf(2, trace="hutchinsen")


def loss_and_gradients(map, x, objective=MaximumLikelihood(), seed=0):  # noqa: B008
    flow = on_normal(map).train()
    loss = objective(flow, Batch(x), generator=seeded(seed))
    return loss.detach(), torch.autograd.grad(loss.sum(), list(map.parameters()))


def test_checkpointed_training_has_the_same_gradients():
    x = normal(5, 3)
    for objective in (MaximumLikelihood(), RegularisedLikelihood(kinetic=0.1, jacobian=0.2)):
        plain = loss_and_gradients(woken(rnode(3, width=6)), x, objective)
        ours = loss_and_gradients(woken(rnode(3, width=6, checkpointed=True)), x, objective)
        assert torch.equal(ours[0], plain[0])
        for a, b in zip(ours[1], plain[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_hutch_plus_plus_with_as_many_probes_as_dimensions_trains_like_the_exact_trace():
    x = normal(5, 3)
    exact = loss_and_gradients(woken(cnf(3, width=6, trace="exact")), x)
    full = loss_and_gradients(woken(cnf(3, width=6, trace="hutch++", probes=3)), x)
    torch.testing.assert_close(full[0], exact[0], rtol=0, atol=1e-11)
    for a, b in zip(full[1], exact[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("trace", ["hutchinson", "hutch++"])
def test_stochastic_training_is_unbiased(trace):
    """Loss of one row repeated 2000 times, each with its own probes: the mean is the exact loss within four errors."""
    x = normal(1, 3).expand(2000, 3)
    exact, _ = loss_and_gradients(woken(cnf(3, width=6, steps=4, trace="exact")), x[:1])
    loss, _ = loss_and_gradients(woken(cnf(3, width=6, steps=4, trace=trace)), x)
    assert loss.std() > 1e-3
    assert abs(loss.mean() - exact[0]) < 4 * loss.std() / 2000**0.5


def test_a_flow_matching_field_is_the_same_kind_of_map():
    """One Flow type: a field made for regression can be trained by likelihood, and scores as before."""
    field = VelocityField(MLP((2,), width=6, depth=2, activation="tanh", generator=seeded()).double())
    x = normal(4, 2)
    by_matching = Flow(StandardNormal((2,)).double(), ContinuousMap(field))
    by_likelihood = on_normal(likelihood_map(field, (2,)))
    assert torch.equal(by_likelihood.log_prob(x), by_matching.log_prob(x))
    assert loss_and_gradients(by_likelihood.map, x)[1][0].abs().max() > 0


# Learning


def trained(map, draw, objective, steps, rate, rows=128):
    flow = Flow(StandardNormal(map.event_shape), map).train()
    optimiser = torch.optim.Adam(flow.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, rate / 50)
    generator = seeded(1)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(flow, Batch(draw(rows, generator)), generator=generator).mean().backward()
        optimiser.step()
        schedule.step()
    return flow.eval()


def two_bumps(rows, generator):
    """½ N(−1, 0.4²) + ½ N(1, 0.4²) in one coordinate."""
    side = torch.randint(0, 2, (rows, 1), generator=generator) * 2.0 - 1
    return side + 0.4 * torch.randn(rows, 1, generator=generator)


def bumps_log_prob(x):
    log_bump = -0.5 * ((x - torch.tensor([-1.0, 1.0])) / 0.4).square() - math.log(0.4 * math.sqrt(2 * math.pi))
    return log_bump.logsumexp(1) - math.log(2)


@pytest.mark.parametrize(
    ("build", "objective"),
    [(cnf, MaximumLikelihood()), (ot_flow, RegularisedLikelihood(kinetic=0.005, hamilton_jacobi=0.005))],
)
def test_it_learns_two_bumps_and_says_no_more_than_the_truth(build, objective):
    """Traps L5, L6: near the entropy of the mixture, never better than it, and the density integrates to one; the
    likelihood is the adaptive one, and the few steps of training agree with it."""
    flow = trained(build(1, width=16, steps=3, generator=seeded(2)), two_bumps, objective, 60, 0.03)
    x = two_bumps(2000, seeded(3))
    with torch.no_grad():
        excess = bumps_log_prob(x) - flow.log_prob(x)
        grid = torch.linspace(-5, 5, 400).unsqueeze(1)
        mass = torch.trapezoid(flow.log_prob(grid).exp(), grid.squeeze(1))
    # The normal fit of these rows, where it started after scaling, is 0.22 nats worse than the truth.
    assert excess.mean() < 0.05
    assert excess.mean() > -4 * excess.std() / 2000**0.5
    assert abs(mass - 1) < 1e-3
    gap = step_gap(flow, x)
    assert gap.tolerated
    assert abs(gap.mean_nats) < 0.01


def test_regularised_training_moves_points_less():
    """RNODE: the same density at a smaller transport cost; on one Gaussian the optimum is known.

    From N(0, 1) to N(0, 2²) every path x(t) that ends at 2 x(0) gives the density; the cheapest costs E(x − z)² = 1.
    """
    draw = lambda rows, generator: 2 * torch.randn(rows, 1, generator=generator)  # noqa: E731
    objective = RegularisedLikelihood(kinetic=0.02, jacobian=0.02)
    flow = trained(rnode(1, width=8, steps=2, generator=seeded(2)), draw, objective, 40, 0.05)
    with torch.no_grad():
        parts = RegularisedLikelihood(kinetic=1.0).parts(flow, Batch(draw(1000, seeded(3))), generator=seeded())
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(2)
    # 1000 rows: the mean log-density has a standard error of 1/√2000 = 0.022, the mean energy of √2/√1000 = 0.045.
    assert abs(-parts.log_prob.mean() - entropy) < 0.1
    assert 0.7 < parts.kinetic_energy.mean() < 1.2
