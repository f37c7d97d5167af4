"""The exact field of a data set: against brute force, autograd, and its own closed-form density. Float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from advect.errors import ConfigError, DataError, UnsupportedError
from advect.flows import EmpiricalField, empirical_flow, streaming
from advect.paths import (
    AffinePath,
    BrownianBridge,
    LipmanPath,
    PowerPull,
    SmoothVariancePreserving,
    VarianceExploding,
    WeightedPull,
    Widened,
    convert,
    linear,
)
from advect.paths.schedule import Linear, Lipman, Trigonometric
from advect.solvers import Adaptive

SCHEDULES = {"linear": Linear(), "trigonometric": Trigonometric(), "lipman": Lipman(0.05)}
TIMES = (0.0, 0.3, 0.9, 0.99)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def data() -> Tensor:
    return 1.5 * normal(37, 2) + torch.tensor([3.0, -1.0], dtype=torch.float64)


def brute_log_density(data: Tensor, schedule, t: float, x: Tensor) -> Tensor:
    """The mixture of Gaussians, term by term."""
    t = torch.tensor(t, dtype=torch.float64)
    a, s = schedule.alpha(t), schedule.sigma(t)
    parts = torch.distributions.Normal(a * data.unsqueeze(0), s).log_prob(x.unsqueeze(1)).flatten(2).sum(2)
    return parts.logsumexp(1) - math.log(len(data))


def brute_velocity(data: Tensor, schedule, t: float, x: Tensor) -> Tensor:
    """Conditional velocities u_t(x|y_i) averaged with the posterior weights."""
    t = torch.tensor(t, dtype=torch.float64)
    a, s, da, ds = schedule.alpha(t), schedule.sigma(t), schedule.alpha_derivative(t), schedule.sigma_derivative(t)
    offset = x.unsqueeze(1) - a * data
    weights = (-offset.square().sum(2) / (2 * s**2)).softmax(1)
    return (weights.unsqueeze(2) * (da * data + ds / s * offset)).sum(1)


@pytest.mark.parametrize("block_rows", [1, 8, 37, 2048])
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_field_equals_brute_force(data, name, t, block_rows):
    """Velocity, log-density, whatever the blocks."""
    schedule = SCHEDULES[name]
    field = EmpiricalField(data, schedule, block_rows=block_rows)
    x = torch.cat([normal(20, 2), data[:5]])
    velocity = brute_velocity(data, schedule, t, x)
    assert (field(t, x) - velocity).abs().max() < 1e-9 * (1 + velocity.abs().max())
    density = brute_log_density(data, schedule, t, x)
    # The exponent is a difference of numbers of size |x|²/σ² ~ 1e5 at t = 0.99.
    assert (field.log_density(t, x) - density).abs().max() < 1e-10 * (1 + density.abs().max())


@pytest.mark.parametrize("name", SCHEDULES)
def test_per_row_times(data, name):
    """t of shape (batch,) is one time per row."""
    field = EmpiricalField(data, SCHEDULES[name])
    x, t = normal(4, 2), torch.tensor(TIMES, dtype=torch.float64)
    one_by_one = torch.cat([field(float(time), x[i : i + 1]) for i, time in enumerate(t)])
    assert (field(t, x) - one_by_one).abs().max() < 1e-12 * (1 + one_by_one.abs().max())


@pytest.mark.parametrize("name", SCHEDULES)
def test_divergence_equals_autograd(data, name):
    """Trace of the posterior covariance against the Jacobian, and the score against the gradient of the log-density."""
    field = EmpiricalField(data, SCHEDULES[name], block_rows=10)
    for t in (0.0, 0.4, 0.9):
        x = normal(6, 2)
        jacobian = torch.func.vmap(torch.func.jacrev(lambda row, t=t: field(t, row.unsqueeze(0)).squeeze(0)))(x)
        trace = jacobian.diagonal(dim1=1, dim2=2).sum(1)
        assert (field.divergence(t, x) - trace).abs().max() < 1e-9 * (1 + trace.abs().max())
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(field.log_density(t, x).sum(), x)
        assert (field.score(t, x) - gradient).abs().max() < 1e-9 * (1 + gradient.abs().max())


@pytest.mark.parametrize("name", SCHEDULES)
def test_conversions_agree(data, name):
    """Velocity, score and denoiser are one quantity (the conversions are another room's)."""
    field = EmpiricalField(data, SCHEDULES[name])
    x, t = normal(10, 2), torch.full((10,), 0.6, dtype=torch.float64)
    velocity = field(t, x)
    schedule = SCHEDULES[name]
    assert (convert(field.denoiser(t, x), "x1", "velocity", t, x, schedule) - velocity).abs().max() < 1e-10
    assert (convert(field.score(t, x), "score", "velocity", t, x, schedule) - velocity).abs().max() < 1e-10


def test_ends(data):
    """At t = 0 the denoiser is the mean of the data and v = mean − x; at t = 1 the denoiser is the nearest point."""
    field = EmpiricalField(data, Linear(), block_rows=5)
    x = 3 * normal(50, 2)
    mean = data.mean(0)
    assert (field.denoiser(0.0, x) - mean).abs().max() < 1e-12
    assert (field(0.0, x) - (mean - x)).abs().max() < 1e-12
    nearest = data[torch.cdist(x, data).argmin(1)]
    assert torch.isfinite(field(1.0, x)).all()
    for t in (1.0, 1 - 1e-9):
        assert (field.denoiser(t, x) - nearest).abs().max() < 1e-9
    # Next to a data point the velocity is bounded and continuous up to the end: v = y − x0 with x = (1−t) x0 + t y.
    x0 = normal(37, 2)
    for t in (1 - 1e-3, 1 - 1e-5):
        assert (field(t, (1 - t) * x0 + t * data) - (data - x0)).abs().max() < 1e-6


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_far_from_the_origin_in_float32(shift):
    """Centring and float64 inside: data 1e4 away lose only what float32 has lost in storing them."""
    data = 0.5 * normal(20, 3) + shift
    field64, field32 = EmpiricalField(data, Linear()), EmpiricalField(data.float(), Linear())
    rounding = 1e-7 * (1 + shift)
    for t in (0.5, 0.9):
        x = t * data[:10] + (1 - t) * normal(10, 3, seed=1)
        # A rounding δ of x moves the velocity by its slope, up to |Jacobian| ~ 1/(1−t)² × spread².
        allowed = 30 * rounding / (1 - t) ** 2
        t32 = torch.tensor(t, dtype=torch.float64).float()
        assert (field64(float(t32), x) - field32(t32, x.float()).double()).abs().max() < allowed


@pytest.mark.parametrize("name", ["linear", "lipman"])
def test_flow_density_is_the_kernel_density(data, name):
    """Integrating the field gives the closed-form density at the last time, to 1e-6."""
    schedule = SCHEDULES[name]
    flow = empirical_flow(
        data[:8], schedule, end=0.9, likelihood_solver=Adaptive(rtol=1e-9, atol=1e-9), solver=Adaptive()
    )
    end = flow.map.interval[1]
    assert end == (1.0 if name == "lipman" else 0.9)
    x = data[:8] + 0.1 * normal(8, 2)
    assert (flow.log_prob(x) - brute_log_density(data[:8], schedule, end, x)).abs().max() < 1e-6
    code = flow.encode(x)
    back = flow.with_options(solver=Adaptive(rtol=1e-9, atol=1e-9)).decode(code.value)
    assert (back.value - x).abs().max() < 1e-6


def test_flow_samples_are_the_data(data):
    """Samples lie within the blur of the data and visit every point as often as any other."""
    flow = empirical_flow(data[:5], Linear(), solver=Adaptive(rtol=1e-5, atol=1e-5))
    drawn = flow.draw(1000, generator=torch.Generator().manual_seed(0))
    assert (drawn.status == 0).all()
    distance, nearest = torch.cdist(drawn.value, data[:5]).min(1)
    # The blur is 1e-3 |x0 − x1|; |x0| < 5 here, |x1| < 10.
    assert distance.max() < 1.5e-2
    counts = torch.bincount(nearest, minlength=5).double()
    # χ² with 4 degrees of freedom: 18.5 has probability 1e-3.
    assert ((counts - 200).square() / 200).sum() < 18.5


def test_event_shapes():
    """Images and scalars."""
    for event in [(), (1,), (2, 3, 3)]:
        data = normal(6, *event)
        field = EmpiricalField(data, Linear())
        x = normal(4, *event, seed=1)
        flat = EmpiricalField(data.reshape(6, -1), Linear())
        assert field(0.5, x).shape == x.shape
        assert (field(0.5, x).reshape(4, -1) - flat(0.5, x.reshape(4, -1))).abs().max() < 1e-14
        assert field.divergence(0.5, x).shape == (4,)
        assert torch.isfinite(empirical_flow(data, Linear(), end=0.7).log_prob(x)).all()


def test_a_single_point():
    """One row: D is that row at every time."""
    data = normal(1, 3)
    field = EmpiricalField(data, Linear())
    x = normal(5, 3, seed=1)
    for t in (0.0, 0.5, 1.0):
        assert (field.denoiser(t, x) - data).abs().max() < 1e-12
    assert (field.divergence(0.5, x) + 3 / 0.5).abs().max() < 1e-12


def hermite(nodes: int, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Points and weights of a quadrature for N(mean, std²): a weighted data set that stands for the Gaussian."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(mean + std * points).unsqueeze(1), torch.from_numpy(weights)


@pytest.mark.parametrize("name", SCHEDULES)
def test_gaussian_limit(name):
    """Data that stand for N(m, s²): p_t = N(αm, V), V = α²s² + σ², and v = α'm + (αα's² + σσ')/V · (x − αm).

    Quadrature of 150 nodes integrates exp(−(x − αy)²/2σ²) over the Gaussian to 1e-11 while σ/α is not much below s.
    """
    m, s = -0.7, 0.6
    points, weights = hermite(150, m, s)
    schedule = SCHEDULES[name]
    field = EmpiricalField(points, schedule, weights=weights, block_rows=64)
    x = torch.linspace(-2, 2, 21, dtype=torch.float64).unsqueeze(1)
    for t in (0.0, 0.2, 0.5):
        time = torch.tensor(t, dtype=torch.float64)
        a, b = schedule.alpha(time), schedule.sigma(time)
        da, db = schedule.alpha_derivative(time), schedule.sigma_derivative(time)
        variance = a**2 * s**2 + b**2
        slope = (a * da * s**2 + b * db) / variance
        velocity, divergence = field.velocity_and_divergence(t, x)
        assert (velocity - (da * m + slope * (x - a * m))).abs().max() < 1e-8
        assert (divergence - slope).abs().max() < 1e-8
        exact = torch.distributions.Normal(a * m, variance.sqrt()).log_prob(x).squeeze(1)
        assert (field.log_density(t, x) - exact).abs().max() < 1e-8


def test_one_pass_gives_both(data):
    field = EmpiricalField(data, Trigonometric())
    x, t = normal(9, 2), torch.linspace(0, 0.9, 9, dtype=torch.float64)
    velocity, divergence = field.velocity_and_divergence(t, x)
    assert torch.equal(velocity, field(t, x))
    assert torch.equal(divergence, field.divergence(t, x))


def test_weights_are_repetitions(data):
    """A row of weight k is k rows; weights of 0 are rows that are not there."""
    counts = torch.arange(37) % 4
    repeated = EmpiricalField(data.repeat_interleave(counts, 0), Linear())
    weighted = EmpiricalField(data, Linear(), weights=counts.double() / 7)
    x = normal(20, 2)
    for t in (0.0, 0.5, 0.95):
        assert (repeated(t, x) - weighted(t, x)).abs().max() < 1e-9
        assert (repeated.log_density(t, x) - weighted.log_density(t, x)).abs().max() < 1e-9
    drawn = weighted.sample(1.0, 2000, generator=torch.Generator().manual_seed(0))
    nearest = torch.cdist(drawn, data).argmin(1)
    assert set(nearest.unique().tolist()) == set(counts.nonzero().flatten().tolist())


def test_chunks_and_blocks_do_not_matter(data, monkeypatch):
    """Query rows in chunks of one, data rows in blocks of eight, and gradients through both."""
    x = normal(11, 2)
    whole = EmpiricalField(data, Linear())
    monkeypatch.setattr(streaming, "NUMBERS_AT_ONCE", 8)
    monkeypatch.setattr(streaming, "KEPT_NUMBERS", 0)
    small = EmpiricalField(data, Linear(), block_rows=8, copy=False)
    for t in TIMES:
        assert (whole(t, x) - small(t, x)).abs().max() < 1e-10 * (1 + whole(t, x).abs().max())
    x.requires_grad_()
    one, other = (torch.autograd.grad(f(0.6, x).square().sum(), x)[0] for f in (whole, small))
    assert (one - other).abs().max() < 1e-10 * one.abs().max()


def test_data_that_change_or_move_are_read_anew():
    data = normal(5, 2)
    field = EmpiricalField(data, Linear())
    x = normal(3, 2, seed=1)
    before = field(0.5, x)
    data += 1  # the field has its own copy
    assert torch.equal(field(0.5, x), before)
    with torch.no_grad():
        field.data.mul_(2)
    assert not torch.allclose(field(0.5, x), before)
    single = EmpiricalField(normal(5, 2), Linear()).float()
    assert single(0.5, x.float()).dtype == torch.float32


@pytest.mark.slow
def test_any_size_in_bounded_memory(tmp_path):
    """200,000 rows in a file, 2000 queries: 3 GB as one matrix of distances, read here in pieces and never copied."""
    rows = np.memmap(tmp_path / "rows", dtype=np.float32, mode="w+", shape=(200_000, 64))
    rows[:] = np.random.default_rng(0).normal(size=rows.shape)
    data = torch.from_numpy(rows)
    field = EmpiricalField(data, Linear(), copy=False)
    assert field.data.data_ptr() == data.data_ptr()
    x = torch.zeros(2000, 64)
    x[:3] = 0.9 * data[:3]
    peak = 0
    made = streaming.PreparedRows.blocks

    def watched(self):
        nonlocal peak
        for block in made(self):
            peak = max(peak, block.numel())
            yield block

    streaming.PreparedRows.blocks = watched
    try:
        found = field(0.9, x[:64])
    finally:
        streaming.PreparedRows.blocks = made
    assert peak <= 2048 * 67  # one block at a time: the rows are too many to be kept
    # At t = 0.9 a point on its way to a row has that row behind it, and no other: v = (y − x)/(1 − t).
    assert (found[:3] - (data[:3] - x[:3]) / 0.1).abs().max() < 1e-4
    # At the origin the softmax over 200,000 rows is that of their lengths alone.
    logits = -0.5 * (0.9 / 0.1) ** 2 * data.double().square().sum(1)
    expected = (logits.softmax(0) @ data.double()) / 0.1
    assert (found[3].double() - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("path", "noise"),
    [
        (linear(0.3), 0.3),
        (AffinePath(Trigonometric(), 0.1), 0.1),
        (LipmanPath(0.1), 0.0),
        (WeightedPull(PowerPull(2.0)), 0.0),
    ],
    ids=["linear", "trigonometric", "lipman", "pull"],
)
def test_the_field_of_a_path_averages_its_conditional_velocities(data, path, noise):
    """v = Σ w_i u_t(x|y_i) with the path's own velocity and density given the data row."""
    field = EmpiricalField.of_path(path, data)
    assert isinstance(field.schedule, Widened) == (noise > 0)
    x = normal(6, 2)
    for t in (0.05, 0.5, 0.9):
        time = torch.full((len(data),), t, dtype=torch.float64)
        for i, row in enumerate(x):
            here = row.expand(len(data), 2)
            weights = path.log_density(time, here, data).softmax(0)
            average = weights @ path.velocity(time, here, None, data)
            assert (field(t, x)[i] - average).abs().max() < 1e-9 * (1 + average.abs().max())
            density = path.log_density(time, here, data).logsumexp(0) - math.log(len(data))
            assert abs(field.log_density(t, x)[i] - density) < 1e-9 * (1 + abs(density))


@pytest.mark.parametrize(
    ("schedule", "exact_start"),
    [
        (VarianceExploding(0.2, 5.0), True),
        (SmoothVariancePreserving(), True),
        (Widened(Linear(), 0.5), False),
    ],
    ids=["variance exploding", "variance preserving", "constant noise"],
)
def test_flows_of_every_affine_path_are_exact(data, schedule, exact_start):
    """The start law is the path's own, also where α(0) > 0 or its scale is not one: the end's density is closed."""
    tight = Adaptive(rtol=1e-9, atol=1e-9)
    flow = empirical_flow(data[:6], schedule, end=0.9, likelihood_solver=tight)
    assert hasattr(flow.base, "field") == exact_start
    end = flow.map.interval[1]
    x = data[:6] + 0.1 * normal(6, 2)
    assert (flow.log_prob(x) - brute_log_density(data[:6], schedule, end, x)).abs().max() < 1e-5
    drawn = flow.base.sample(4000, generator=torch.Generator().manual_seed(0))
    start = torch.zeros((), dtype=torch.float64)
    spread = float(schedule.sigma(start) ** 2 + schedule.alpha(start) ** 2 * data[:6].var(0, correction=0).mean())
    # A variance of 8000 numbers has a relative error of √(2/8000) = 1.6 %.
    assert float(drawn.var()) == pytest.approx(spread, rel=0.08) or schedule.alpha(start) > 0.5
    assert torch.isfinite(flow.base.log_prob(drawn)).all()


def test_refusals(data):
    """What has no answer is refused, with a remedy."""
    field = EmpiricalField(data, Linear())
    with pytest.raises(UnsupportedError, match="set of points"):
        field.score(1.0, normal(2, 2))
    with pytest.raises(UnsupportedError, match="earlier time"):
        field.log_density(1.0, normal(2, 2))
    with pytest.raises(DataError, match="at least one row"):
        EmpiricalField(data[:0], Linear())
    with pytest.raises(ConfigError, match="block_rows"):
        EmpiricalField(data, Linear(), block_rows=0)
    with pytest.raises(DataError, match="not all 0"):
        EmpiricalField(data, Linear(), weights=torch.zeros(37))
    with pytest.raises(UnsupportedError, match="BrownianBridge is not affine"):
        EmpiricalField.of_path(BrownianBridge(), data)
    with pytest.raises(ConfigError, match="noise is -1"):
        Widened(Linear(), -1.0)
