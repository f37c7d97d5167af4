"""Score and flow matching: both terms by hand, finite at both ends, and minimised by the Schrödinger bridge."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from advect.errors import ConfigError
from advect.flows import BridgeBaseline
from advect.objectives import BridgeMatching, UniformWeight
from advect.paths import BrownianBridge, linear
from advect.records import Batch

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=seeded(seed))


@dataclass(frozen=True)
class At:
    """Always the same time, or the given ones."""

    t: float | tuple[float, ...]

    def __call__(self, num_rows, *, generator=None, device=None, dtype=None):
        return torch.as_tensor(self.t, dtype=dtype).expand(num_rows)

    def density(self, t):
        raise AssertionError("no weight asks for it")


class Affine(nn.Module):
    """Velocity and score that are affine in x, and what they were asked."""

    def __init__(self, width=2):
        super().__init__()
        self.parameters_of_both = nn.Parameter(torch.zeros(2, width + 1, width, dtype=DOUBLE))
        self.asked = []

    def velocity(self, t, x, condition=None):
        return self._value(0, t, x, condition)

    def marginal_score(self, t, x, condition=None):
        return self._value(1, t, x, condition)

    def _value(self, which, t, x, condition):
        self.asked.append((t, x, condition))
        return x @ self.parameters_of_both[which, 1:] + self.parameters_of_both[which, 0]


SIGMA, MEAN, SPREAD = 0.8, torch.tensor([1.0, -0.5], dtype=DOUBLE), torch.tensor([1.5, 0.4], dtype=DOUBLE)


def static_bridge(rows):
    """Pairs of the closed-form entropic plan between N(0, I) and N(m, S²) with ε = 2σ²: per axis the covariance c of
    both ends solves c² + σ²c = s²."""
    c = ((SIGMA**4 + 4 * SPREAD**2).sqrt() - SIGMA**2) / 2
    x0 = normal(rows, 2, seed=1)
    return x0, MEAN + c * x0 + (SPREAD**2 - c**2).sqrt() * normal(rows, 2, seed=2)


@pytest.mark.parametrize("t", [0.03, 0.4, 0.5, 0.9])
def test_the_minimiser_is_the_schroedinger_bridge(t):
    """Least squares on affine functions, which hold the exact answer, recovers both drifts (trap C15).

    The loss is quadratic, so one step of Newton reaches its minimum. A coefficient is known to the spread of the
    target's noise over √rows, divided by the spread of its feature; five of these are allowed.
    """
    rows = 100_000
    x0, x1 = static_bridge(rows)
    objective, flow = BridgeMatching(BrownianBridge(SIGMA), times=At(t)), Affine()
    batch = Batch(x1=x1, x0=x0)

    def loss(flat):
        with torch.no_grad():
            flow.parameters_of_both.zero_()
        target = flat.reshape(2, 3, 2)
        return torch.func.functional_call(
            _Called(flow, objective), {"flow.parameters_of_both": target}, (batch,)
        ).mean()

    start = torch.zeros(12, dtype=DOUBLE)
    gradient = torch.autograd.functional.jacobian(loss, start)
    curvature = torch.autograd.functional.hessian(loss, start)
    found = torch.linalg.solve(curvature, -gradient).reshape(2, 3, 2)

    exact = BridgeBaseline(MEAN, SPREAD.square(), SIGMA)
    probes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE)
    spread = SIGMA * math.sqrt(t * (1 - t))
    noise = {0: 1.5 + SIGMA * abs(1 - 2 * t) / (2 * math.sqrt(t * (1 - t))), 1: 1 / spread}
    features = exact._variances(torch.tensor(t, dtype=DOUBLE))[0].sqrt().min()
    for which, function in ((0, exact), (1, exact.score)):
        values = function(t, probes)
        expected = torch.stack([values[0], values[1] - values[0], values[2] - values[0]])
        allowed = 5 * noise[which] / math.sqrt(rows) * max(1.0, float(1 / features)) * 1.5
        assert float((found[which] - expected).abs().max()) < allowed


class _Called(nn.Module):
    """An objective as a module of its flow, for `functional_call`."""

    def __init__(self, flow, objective):
        super().__init__()
        self.flow, self.objective = flow, objective

    def forward(self, batch):
        return self.objective(self.flow, batch, generator=seeded(3))


def test_both_terms_by_hand():
    """w |v − u|² + c |σ_t s + ε|², averaged over the event, at given times, with ε read off the point."""
    times = (0.1, 0.37, 0.5, 0.92)
    x0, x1 = normal(4, 3, seed=1), normal(4, 3, seed=2)
    flow = Affine(3)
    with torch.no_grad():
        flow.parameters_of_both.copy_(normal(2, 4, 3, seed=4))
    for c, weight in ((1.0, None), (2.5, UniformWeight())):
        objective = BridgeMatching(BrownianBridge(SIGMA), times=At(times), weight=weight, score_weight=c)
        found = objective(flow, Batch(x1=x1, x0=x0), generator=seeded(5))
        point = objective.bridge(Batch(x1=x1, x0=x0), generator=seeded(5)).x
        for i, t in enumerate(times):
            root = math.sqrt(t * (1 - t))
            noise = (point[i] - (1 - t) * x0[i] - t * x1[i]) / (SIGMA * root)
            u = x1[i] - x0[i] + SIGMA * (1 - 2 * t) / (2 * root) * noise
            v, s = (b[0] + point[i] @ b[1:] for b in flow.parameters_of_both)
            of_velocity = (t * (1 - t) if weight is None else 1.0) * (v - u).square().mean()
            of_score = c * (SIGMA * root * s + noise).square().mean()
            assert float(found[i].detach()) == pytest.approx(float(of_velocity + of_score), rel=1e-10)


def test_finite_at_both_ends_and_near_them():
    """trap P1: no poles and bounded rows: both terms stay those of a few unit normals however near the ends."""
    times = (0.0, 1.0, 1e-12, 1 - 1e-12, 1e-6, 1 - 1e-6, 1e-3, 0.999) * 500
    x0, x1 = normal(4000, 2, seed=1), normal(4000, 2, seed=2)
    loss = BridgeMatching(BrownianBridge(1.0), times=At(times))(Affine(), Batch(x1=x1, x0=x0), generator=seeded())
    assert torch.isfinite(loss).all()
    kept = loss.detach().reshape(500, 8)
    assert float(kept[:, :2].abs().max()) == 0.0
    # A quarter of |ε|² and all of |ε|², per coordinate, of which 3000 rows know the mean to 3 %.
    assert float(kept[:, 2:].mean()) == pytest.approx(1.25, rel=0.12)
    assert float(kept.max()) < 20


def test_one_point_for_both_terms():
    """trap O3: both heads see the point whose ends the targets come from, and the same dropped conditions."""
    x0, x1, condition = normal(64, 2, seed=1), normal(64, 2, seed=2), torch.ones(64, 1, dtype=DOUBLE)
    flow = Affine()
    objective = BridgeMatching(BrownianBridge(1.0), condition_dropout=0.5)
    objective(flow, Batch(x1=x1, x0=x0, condition=condition), generator=seeded())
    (t, x, c), (t_too, x_too, c_too) = flow.asked
    assert t is t_too
    assert x is x_too
    assert c is c_too
    assert 0 < int((c == 0).sum()) < 64
    bridge = objective.bridge(Batch(x1=x1, x0=x0), generator=seeded())
    assert bridge.x0 is x0
    assert bridge.x1 is x1
    time = bridge.t.unsqueeze(1)
    root = (time * (1 - time)).sqrt()
    noise = (bridge.x - (1 - time) * x0 - time * x1) / root
    torch.testing.assert_close(-objective.path.spread(bridge.t).unsqueeze(1) * bridge.score, noise)
    torch.testing.assert_close(bridge.velocity - (x1 - x0), (1 - 2 * time) / (2 * root) * noise)


def test_refused():
    with pytest.raises(ConfigError, match="no Brownian bridge"):
        BridgeMatching(linear())
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="score_weight"):
            BridgeMatching(BrownianBridge(1.0), score_weight=wrong)
