"""The field of a bridge: velocity, score and both SDE drifts of the Gaussian start, and what networks add to them."""

import math

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, UnsupportedError
from advect.flows import BridgeBaseline, BridgeField, ContinuousMap, Flow, StandardNormal
from advect.methods import Parts, build, resolve_blueprint
from advect.networks import make_network
from advect.solvers import BridgeSDE

DOUBLE = torch.float64
MEAN = torch.tensor([1.0, -0.5], dtype=DOUBLE)
MIX = torch.tensor([[1.2, 0.3], [-0.4, 0.5]], dtype=DOUBLE)
COVARIANCE = MIX @ MIX.T


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(rows=7):
    return torch.randn(rows, 2, dtype=DOUBLE, generator=seeded())


def stirred(module):
    """The module with weights that are not zero."""
    generator = seeded(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return module


def field(condition_features=0, baseline=True):
    networks = [
        stirred(make_network("mlp-2x16", event_shape=(2,), condition_features=condition_features).double())
        for _ in range(2)
    ]
    start = BridgeBaseline(MEAN, COVARIANCE, 0.7) if baseline else None
    return BridgeField(*networks, diffusion=0.7, baseline=start)


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.sqrt()) @ vectors.T


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.93])
def test_both_drifts_of_the_gaussian_schroedinger_bridge(t, sigma):
    """The law of (x0, x1) is the closed-form entropic plan with ε = 2σ²; between them lies a Brownian bridge. Its drift
    forwards is E[x1 − x_t | x_t]/(1 − t) and backwards E[x0 − x_t | x_t]/t, by Gaussian conditioning."""
    identity = torch.eye(2, dtype=DOUBLE)
    # C solves C² + σ² C = Σ, all matrices being functions of Σ.
    cross = (root(sigma**4 * identity + 4 * COVARIANCE) - sigma**2 * identity) / 2
    torch.testing.assert_close(cross @ cross + sigma**2 * cross, COVARIANCE)
    variance = (1 - t) ** 2 * identity + t**2 * COVARIANCE + t * (1 - t) * (2 * cross + sigma**2 * identity)
    x = points()
    offset = torch.linalg.solve(variance, (x - t * MEAN).T)
    of_data = MEAN + (((1 - t) * cross + t * COVARIANCE) @ offset).T
    of_source = (((1 - t) * identity + t * cross) @ offset).T
    bridge = BridgeBaseline(MEAN, COVARIANCE, sigma)
    velocity, correction = bridge(t, x), sigma**2 / 2 * bridge.score(t, x)
    torch.testing.assert_close(velocity + correction, (of_data - x) / (1 - t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(-velocity + correction, (of_source - x) / t, rtol=1e-9, atol=1e-9)
    law = torch.distributions.MultivariateNormal(t * MEAN, variance)
    x.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(law.log_prob(x).sum(), x)[0], bridge.score(t, x.detach()))


def test_closed_form_of_the_paper():
    """papers.md §4: between N(−a, I) and N(a, I) the variance is (1−t)² + t² + t(1−t)√(4 + σ⁴)."""
    sigma, t = 1.3, torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=DOUBLE)
    found, rate = BridgeBaseline(MEAN, torch.eye(2, dtype=DOUBLE), sigma)._variances(t.unsqueeze(1))
    expected = (1 - t) ** 2 + t**2 + t * (1 - t) * math.sqrt(4 + sigma**4)
    torch.testing.assert_close(found, expected.unsqueeze(1).expand(4, 2))
    torch.testing.assert_close(rate[2], torch.zeros(2, dtype=DOUBLE), rtol=0, atol=1e-12)  # symmetric in time


def test_both_ends_are_finite():
    """trap P1: at t = 0 and t = 1 themselves, and continuous there."""
    bridge, x = field(), points()
    for end, near in ((0.0, 1e-7), (1.0, 1 - 1e-7)):
        for function in (bridge, bridge.score):
            assert torch.isfinite(function(end, x)).all()
            torch.testing.assert_close(function(end, x), function(near, x), rtol=1e-5, atol=1e-5)
    wide = BridgeBaseline(MEAN, COVARIANCE, 0.7)
    torch.testing.assert_close(wide.score(0.0, x), -x)


def test_a_score_for_every_kind_of_time_and_condition():
    bridge, x = field(condition_features=1), points()
    condition = torch.ones(7, 1, dtype=DOUBLE)
    one = bridge.score(0.3, x, condition)
    torch.testing.assert_close(bridge.score(torch.full((7,), 0.3, dtype=DOUBLE), x, condition), one)
    torch.testing.assert_close(bridge.score(torch.tensor(0.3, dtype=DOUBLE), x[:2], condition[:2]), one[:2])
    assert not torch.allclose(bridge.score(0.3, x, 0 * condition), one)
    alone = field(baseline=False)
    torch.testing.assert_close(alone.score(0.3, x), alone.score_network(0.3, x, None))


def test_the_divergence_is_that_of_the_velocity():
    bridge, x = field(), points()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda p: bridge(0.4, p.unsqueeze(0)).squeeze(0)))(x)
    expected = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(bridge.divergence(0.4, x), expected)
    velocity, trace = bridge.velocity_and_divergence(0.4, x)
    torch.testing.assert_close(velocity, bridge(0.4, x))
    torch.testing.assert_close(trace, expected)


def test_the_ode_leaves_the_score_alone():
    """Sampling, density and encoding by the ODE evaluate one network; the SDE counts both."""
    bridge, calls = field(), []
    bridge.score_network.register_forward_hook(lambda *_: calls.append(1))
    flow = Flow(StandardNormal((2,)), ContinuousMap(bridge, event_shape=(2,))).double()
    x = points()
    flow.decode(x), flow.encode(x), flow.log_prob(x)
    assert calls == []
    noisy = flow.with_options(solver=BridgeSDE(5)).decode(x, generator=seeded())
    assert noisy.nfe.tolist() == [10] * 7
    assert len(calls) == 5
    assert torch.equal(flow.marginal_score(0.3, x), bridge.score(0.3, x))


def test_the_recipe_and_what_it_refuses():
    blueprint = resolve_blueprint("sf2m", {"sigma": 0.5, "score_weight": 2.0}, event_shape=(2,), network="mlp-1x8")
    built = build(blueprint, latent=points(50))
    learned = built.core.ode.field
    assert (learned.diffusion, learned.baseline.diffusion) == (0.5, 0.5)
    assert (built.objective.path.sigma, built.objective.score_weight) == (0.5, 2.0)
    assert built.coupling.inner.regularisation == 2 * 0.5**2  # trap C15
    assert learned.network is not learned.score_network
    assert len({name.split(".")[-1] for name in built.core.state_dict() if "baseline" in name}) == 3  # each stored once
    with pytest.raises(ConfigError, match="takes no path of your own"):
        build(blueprint, parts=Parts(path=built.objective.path))
    own = nn.Linear(2, 2)
    field_of_own = build(blueprint, parts=Parts(network=own)).core.ode.field
    assert field_of_own.network is own
    assert field_of_own.score_network is not own
    assert isinstance(field_of_own.score_network, nn.Linear)
    with pytest.raises(UnsupportedError, match="no score of its own"):
        build(resolve_blueprint("sb-cfm", {}, event_shape=(2,))).core.marginal_score(0.5, points())
    for wrong in (0.0, -1.0, math.inf):
        with pytest.raises(ConfigError, match="diffusion"):
            BridgeField(own, own, diffusion=wrong)


def test_an_untrained_model_is_the_bridge_to_the_gaussian_fit():
    """Trap O4, also of the SDE: 8000 rows know a standard deviation to 0.8 %, and 100 steps lose up to 1 %."""
    rows = (points(4000) @ MIX.T + MEAN).float()
    flow = build(resolve_blueprint("sf2m", {}, event_shape=(2,), network="mlp-1x8"), latent=rows).core.eval()
    with torch.no_grad():
        x = flow.with_options(solver=BridgeSDE(100)).sample(8000, generator=seeded(1))
    assert float((x.std(0) / rows.std(0) - 1).abs().max()) < 4 * 0.008 + 0.01
    assert float((x.mean(0) - rows.mean(0)).abs().max()) < 4 * 0.02
    assert float(torch.corrcoef(x.T)[0, 1]) == pytest.approx(float(torch.corrcoef(rows.T)[0, 1]), abs=0.05)
