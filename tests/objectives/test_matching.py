"""Flow matching's loss: per row, from the drawn times, equal in gradient to the marginal regression."""

import math
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from torch import nn

from advect.errors import ConfigError, UnknownNameError
from advect.objectives import (
    TIME_SAMPLERS,
    BridgeWeight,
    ImportanceWeight,
    LogitNormalTimes,
    ProductWeight,
    StratifiedTimes,
    UniformTimes,
    UniformWeight,
    VelocityMatching,
    drop_condition,
    make_times,
)
from advect.paths import BrownianBridge, LipmanPath, linear
from advect.records import Batch, Bridge

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Recorder(nn.Module):
    """A flow whose velocity is ``scale·x`` and which keeps what it was asked."""

    def __init__(self, scale=0.5):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=DOUBLE))
        self.seen = []

    def velocity(self, t, x, condition=None):
        self.seen.append((t, x, condition))
        return self.scale.to(x.dtype) * x


@dataclass(frozen=True)
class Watched:
    """A path that keeps the records it hands out."""

    path: object
    records: list

    def sample(self, t, x0, x1, *, generator=None):
        self.records.append(self.path.sample(t, x0, x1, generator=generator))
        return self.records[-1]

    def velocity(self, t, x, x0, x1):
        return self.path.velocity(t, x, x0, x1)


def batch_of(rows=12, event=(2,), dtype=DOUBLE, condition=None):
    x0 = torch.randn(rows, *event, generator=seeded(1), dtype=dtype)
    x1 = 2 + torch.randn(rows, *event, generator=seeded(2), dtype=dtype)
    return Batch(x1=x1, x0=x0, condition=condition)


# ---------------------------------------------------------------- the loss itself


@pytest.mark.parametrize("event", [(), (3,), (2, 3), (2, 2, 3), (1, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_is_the_mean_squared_error_per_row(event, dtype):
    """Written out again from what the flow saw; scalars included."""
    flow, records = Recorder(), []
    batch = batch_of(event=event, dtype=dtype)
    loss = VelocityMatching(Watched(linear(0.1), records))(flow, batch, generator=seeded())
    (bridge,) = records
    error = (0.5 * bridge.x - bridge.velocity).square().reshape(12, -1).mean(1)
    torch.testing.assert_close(loss, error)
    assert loss.shape == (12,)
    assert loss.dtype == dtype
    assert torch.equal(flow.seen[0][0], bridge.t)
    loss.mean().backward()
    assert flow.scale.grad is not None


@pytest.mark.parametrize("path", [linear(), linear(0.2), LipmanPath(), BrownianBridge()], ids=repr)
def test_one_record_carries_point_and_target(path):
    """Trap O3: the x0 of the path is the x0 of the target, the very tensors of the batch."""
    records, batch = [], batch_of()
    VelocityMatching(Watched(path, records))(Recorder(), batch, generator=seeded())
    assert records[0].x0 is batch.x0
    assert records[0].x1 is batch.x1


def test_every_row_has_its_own_time_and_counts():
    """Trap O2: no row of the batch shares another's time, and each loss depends on its own row alone."""
    flow, batch = Recorder(), batch_of(64)
    objective = VelocityMatching(linear())
    loss = objective(flow, batch, generator=seeded())
    assert len(flow.seen[0][0].unique()) == 64
    changed = Batch(x1=batch.x1.clone().index_fill_(0, torch.tensor([5]), 100.0), x0=batch.x0)
    differs = objective(Recorder(), changed, generator=seeded()) != loss
    assert differs.nonzero().flatten().tolist() == [5]


def test_same_generator_same_bits_and_no_other_randomness():
    objective = VelocityMatching(BrownianBridge(), times=StratifiedTimes(), condition_dropout=0.3)
    batch = batch_of(condition=torch.ones(12, 3, dtype=DOUBLE))
    before = torch.get_rng_state()
    first, second = (objective(Recorder(), batch, generator=seeded(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_bridges_bring_their_own_weight():
    """Trap P1: with no weight given a bridge's loss is weighted by t(1−t); a given weight replaces it."""
    records = []

    @dataclass(frozen=True)
    class WatchedBridge(Watched):
        def time_weight(self, t):
            return self.path.time_weight(t)

    flow, batch = Recorder(), batch_of()
    path = WatchedBridge(BrownianBridge(), records)
    weighted = VelocityMatching(path)(flow, batch, generator=seeded())
    plain = VelocityMatching(path, weight=UniformWeight())(flow, batch, generator=seeded())
    t = records[0].t
    torch.testing.assert_close(weighted, plain * t * (1 - t))


def test_refusals():
    with pytest.raises(ConfigError, match="no source rows"):
        VelocityMatching(linear())(Recorder(), Batch(x1=torch.zeros(3, 2)), generator=seeded())
    with pytest.raises(ConfigError, match="condition_dropout"):
        VelocityMatching(linear(), condition_dropout=1.5)
    with pytest.raises(UnknownNameError, match="Did you mean 'uniform'"):
        make_times("unifrom")
    with pytest.raises(ConfigError, match="std"):
        LogitNormalTimes(std=0.0)


# ---------------------------------------------------------------- condition dropout


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_conditions_are_dropped_per_row(shape):
    """Trap O5: whole rows become zeros, independently: the share within a batch is binomial."""
    rows, rounds, p = 100, 400, 0.2
    condition = torch.full((rows, *shape), 7.0)
    generator = seeded()
    counts = []
    for _ in range(rounds):
        dropped = drop_condition(condition, p, generator=generator).reshape(rows, -1)
        assert bool(((dropped == 0).all(1) | (dropped == 7).all(1)).all())
        counts.append(int((dropped == 0).all(1).sum()))
    counts = torch.tensor(counts, dtype=DOUBLE)
    assert abs(float(counts.mean()) - rows * p) < 4 * math.sqrt(rows * p * (1 - p) / rounds)
    # a coin toss per batch would have variance 1600; the binomial has 16, estimated to 4·√(2/400) of itself
    assert abs(float(counts.var()) / (rows * p * (1 - p)) - 1) < 4 * math.sqrt(2 / rounds)


def test_dropout_reaches_the_flow_and_leaves_the_rest_alone():
    """The flow sees zeros for dropped rows; times and points are those of the run without dropout."""
    condition = torch.ones(500, 2, dtype=DOUBLE)
    batch = batch_of(500, condition=condition)
    flow = Recorder()
    VelocityMatching(linear(0.1), condition_dropout=0.5)(flow, batch, generator=seeded())
    VelocityMatching(linear(0.1))(flow, batch, generator=seeded())
    with_dropout, without = flow.seen
    assert 150 < int((with_dropout[2] == 0).all(1).sum()) < 350
    assert torch.equal(with_dropout[1], without[1])
    assert without[2] is condition
    assert bool((condition == 1).all()), "the batch's own condition was written to"
    VelocityMatching(linear(), condition_dropout=1.0)(flow, batch, generator=seeded())
    assert bool((flow.seen[2][2] == 0).all())


# ---------------------------------------------------------------- times and weights

SAMPLERS = {
    "uniform": UniformTimes(),
    "logit-normal": LogitNormalTimes(),
    "logit-normal, off centre": LogitNormalTimes(0.7, 0.6),
    "stratified": StratifiedTimes(),
    "stratified, in order": StratifiedTimes(shuffled=False),
}
every_sampler = pytest.mark.parametrize("times", SAMPLERS.values(), ids=SAMPLERS)


def midpoints(n=200_000):
    return (torch.arange(n, dtype=DOUBLE) + 0.5) / n


@every_sampler
def test_densities_integrate_to_one_and_match_the_draws(times):
    """Midpoint rule to 1e-6; histogram of 1e5 draws by χ² on 20 bins (independent draws; strata are more even)."""
    t = midpoints()
    density = times.density(t)
    assert float(density.mean()) == pytest.approx(1, abs=1e-6)
    drawn = times(100_000, generator=seeded(), dtype=DOUBLE)
    assert drawn.shape == (100_000,)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    observed = torch.histc(drawn, 20, 0, 1).numpy()
    expected = density.reshape(20, -1).mean(1).numpy() * 5000
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
    assert times.density(torch.tensor([0.0, 1.0])).isfinite().all()


@every_sampler
def test_times_are_reproducible_and_of_the_asked_type(times):
    for dtype in (torch.float32, torch.float64):
        first, second = (times(50, generator=seeded(3), dtype=dtype) for _ in range(2))
        assert first.dtype == dtype
        assert torch.equal(first, second)
    assert times(0, generator=seeded()).shape == (0,)


def test_strata_hold_one_time_each():
    """And shuffled strata make each row uniform by itself: the mean time of row 0 is ½."""
    t = StratifiedTimes()(64, generator=seeded(), dtype=DOUBLE)
    assert (t * 64).floor().sort().values.tolist() == list(range(64))
    assert (t * 64).floor().tolist() != list(range(64))
    generator = seeded()
    first = torch.stack([StratifiedTimes()(64, generator=generator, dtype=DOUBLE)[0] for _ in range(2000)])
    assert abs(float(first.mean()) - 0.5) < 4 / math.sqrt(12 * 2000)
    in_order = StratifiedTimes(shuffled=False)(64, generator=seeded(), dtype=DOUBLE)
    assert (in_order * 64).floor().tolist() == list(range(64))


def test_table_of_times():
    assert {name: type(make_times(name)) for name in TIME_SAMPLERS} == {
        "uniform": UniformTimes,
        "logit-normal": LogitNormalTimes,
        "stratified": StratifiedTimes,
    }


@every_sampler
def test_importance_weights_are_unbiased(times):
    """Trap O1: ∫ p w L dt = ∫ L dt for every density (midpoint rule), also towards another target density."""
    t = midpoints()
    loss = 1 + torch.sin(5 * t) + t**3
    weighted = (times.density(t) * ImportanceWeight(times)(t) * loss).mean()
    assert float(weighted) == pytest.approx(float(loss.mean()), rel=1e-5)
    target = LogitNormalTimes(-0.5, 0.8)
    weighted = (times.density(t) * ImportanceWeight(times, target)(t) * loss).mean()
    assert float(weighted) == pytest.approx(float((target.density(t) * loss).mean()), rel=1e-5)


def test_the_weight_is_a_function_of_the_drawn_time():
    """Trap O1: the weights used are those of the times the flow saw; a bridge's and a correction multiply."""
    times = LogitNormalTimes(0.3, 1.2)
    weight = ProductWeight(BridgeWeight(), ImportanceWeight(times))
    flow, batch = Recorder(), batch_of(200)
    weighted = VelocityMatching(linear(), times, weight)(flow, batch, generator=seeded())
    plain = VelocityMatching(linear(), times)(flow, batch, generator=seeded())
    t = flow.seen[0][0]
    torch.testing.assert_close(weighted / plain, t * (1 - t) / times.density(t))


def test_importance_weighted_loss_is_unbiased_by_drawing():
    """The mean of the weighted loss over 400,000 logit-normal rows is that of uniform rows, within 4 standard errors.

    With t(1−t) besides, the weights' tail is integrable: (t(1−t))³ exp(z²/2) over t, z = logit(t)/1.5, up to |z| = 5.
    """
    n, times = 400_000, LogitNormalTimes(0.0, 1.5)
    x0 = torch.randn(n, generator=seeded(1), dtype=DOUBLE)
    x1 = 2 + torch.randn(n, generator=seeded(2), dtype=DOUBLE)
    flow, batch = Recorder(), Batch(x1=x1, x0=x0)
    drawn = VelocityMatching(linear(), times, ProductWeight(BridgeWeight(), ImportanceWeight(times)))
    uniform = VelocityMatching(linear(), weight=BridgeWeight())
    with torch.no_grad():
        first, second = drawn(flow, batch, generator=seeded(3)), uniform(flow, batch, generator=seeded(4))
    error = math.sqrt(float(first.var() + second.var()) / n)
    assert abs(float(first.mean() - second.mean())) < 4 * error


# ---------------------------------------------------------------- conditional and marginal regression

DATA = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [0.5, -2.0]], dtype=DOUBLE)


def marginal_velocity(t, x):
    """Exact E[x1 − x0 | x_t = x] for a standard-normal source, uniform DATA and the linear path."""
    t = t[:, None]
    square = ((x[:, None] - t[..., None] * DATA) ** 2).sum(2)
    posterior = torch.softmax(-square / (2 * (1 - t) ** 2), 1)
    return (posterior @ DATA - x) / (1 - t)


@dataclass(frozen=True)
class MarginalPath:
    """The same draws as another path, with the marginal field as the target."""

    path: object

    def sample(self, t, x0, x1, *, generator=None):
        bridge = self.path.sample(t, x0, x1, generator=generator)
        return Bridge(bridge.t, bridge.x, marginal_velocity(bridge.t, bridge.x))

    def velocity(self, t, x, x0, x1):
        return marginal_velocity(t, x)


class Features(nn.Module):
    """A small network linear in its parameters, so that a per-row gradient is features × error."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 2, generator=seeded(11), dtype=DOUBLE))
        self.register_buffer("inside", torch.randn(3, 8, generator=seeded(12), dtype=DOUBLE))

    def velocity(self, t, x, condition=None):
        return torch.tanh(torch.cat([x, t[:, None]], 1) @ self.inside) @ self.weight


def test_conditional_and_marginal_losses_have_one_gradient():
    """CFM = FM in gradient, parameter by parameter, and the losses differ by the variance of the conditional field.

    Both losses see the same draws, so their per-row difference is a sample with a standard error: the gradient's mean
    difference is 0 within 4 of them (16 parameters), the loss's is E|u(x|x0,x1) − u(x)|² within 4.
    """
    n = 100_000
    x1 = DATA[torch.randint(0, 3, (n,), generator=seeded(1))]
    batch = Batch(x1=x1, x0=torch.randn(n, 2, generator=seeded(2), dtype=DOUBLE))
    flow, path = Features(), linear()
    conditional = VelocityMatching(path)
    marginal = VelocityMatching(MarginalPath(path))

    def rows(objective):
        """Per-row loss and per-row gradient ``(n, 16)``."""
        names = {"weight": flow.weight.detach()}

        def of_row(weights, t, x, target):
            prediction = torch.func.functional_call(flow_velocity, {"flow.weight": weights["weight"]}, (t, x))
            return (prediction - target).square().mean(1).sum()

        class Velocity(nn.Module):
            def __init__(self):
                super().__init__()
                self.flow = flow

            def forward(self, t, x):
                return self.flow.velocity(t, x)

        flow_velocity = Velocity()
        bridge = objective.bridge(batch, generator=seeded(3))
        gradient = torch.func.vmap(torch.func.grad(of_row), in_dims=(None, 0, 0, 0))(
            names, bridge.t[:, None], bridge.x[:, None], bridge.velocity[:, None]
        )
        loss = objective(flow, batch, generator=seeded(3))
        total = torch.autograd.grad(loss.mean(), flow.weight)[0]
        torch.testing.assert_close(gradient["weight"].mean(0), total)
        return loss.detach(), gradient["weight"].reshape(n, -1), bridge

    cfm, cfm_gradient, bridge = rows(conditional)
    fm, fm_gradient, _ = rows(marginal)
    difference = cfm_gradient - fm_gradient
    error = difference.std(0) / math.sqrt(n)
    assert bool((difference.mean(0).abs() < 4 * error).all())
    assert float(error.max()) < 0.05 * float(fm_gradient.mean(0).abs().max()), "the check would see nothing"
    spread = (bridge.velocity - marginal_velocity(bridge.t, bridge.x)).square().mean(1)
    excess = cfm - fm - spread
    assert abs(float(excess.mean())) < 4 * float(excess.std()) / math.sqrt(n)
    assert float((cfm - fm).mean()) > 0.1
