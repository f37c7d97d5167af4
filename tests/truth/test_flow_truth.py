"""Flows whose law is known in closed form: densities, samples, gradients, error estimates. Float64 throughout."""

import math

import pytest
import torch
from scipy import stats

from advect.errors import ConfigError
from advect.flows import ContinuousMap, Flow, GaussianBaseline, OptimalGaussianBaseline, StandardNormal
from advect.paths.schedule import Linear, Lipman, Trigonometric, VariancePreserving
from advect.records import Status
from advect.solvers import RK4, Adams3, Adaptive, Euler, ExactDivergence, HutchinsonDivergence
from tests.truth.exact_fields import LinearField, one_dimensional, two_dimensional

TIGHT = Adaptive(rtol=1e-10, atol=1e-10)
SCHEDULES = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "lipman": Lipman(1e-2),
    "variance preserving": VariancePreserving(),
    "variance preserving, open end": VariancePreserving(cutoff=0.0),
}
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def no_gradients(request):
    """Most tests need none; those that do say so in their name."""
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def flow_of(field, *event: int, **options) -> Flow:
    options = {"likelihood_solver": TIGHT, "solver": TIGHT} | options
    return Flow(StandardNormal(event).double(), ContinuousMap(field, **options))


def gaussian_end(schedule, interval: tuple[float, float]) -> torch.distributions.MultivariateNormal:
    """Law at the last time when N(0, I) enters at the first: directions stretch by the ratio of their spreads."""
    first, last = (torch.tensor(t, dtype=torch.float64) for t in interval)
    a0, s0, a1, s1 = schedule.alpha(first), schedule.sigma(first), schedule.alpha(last), schedule.sigma(last)
    spectrum, basis = torch.linalg.eigh(COVARIANCE)
    stretch = ((a1**2 * spectrum + s1**2) / (a0**2 * spectrum + s0**2)).sqrt()
    matrix = (basis * stretch) @ basis.T
    return torch.distributions.MultivariateNormal(a1 * MEAN - matrix @ (a0 * MEAN), matrix @ matrix.T)


@pytest.mark.parametrize("name", SCHEDULES)
def test_gaussian_to_gaussian_density_and_samples(name):
    """Affine velocity on every schedule, ends included: log-density to 1e-6, samples to Monte-Carlo error."""
    field = GaussianBaseline(MEAN, COVARIANCE, SCHEDULES[name])
    flow, law = flow_of(field, 2), gaussian_end(SCHEDULES[name], field.interval)
    x = law.mean + 2 * normal(50, 2)
    assert (flow.log_prob(x) - law.log_prob(x)).abs().max() < 1e-6
    rows = flow.sample(4000, generator=seeded(1))
    # Whitened, the mean has standard error 1/√n and the squared length (χ² with 2 degrees) 2/√n; five of each.
    white = torch.linalg.solve_triangular(law.scale_tril, (rows - law.mean).T, upper=False)
    assert white.mean(1).abs().max() < 5 / math.sqrt(4000)
    assert abs(white.square().sum(0).mean() - 2) < 5 * 2 / math.sqrt(4000)


@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("name", [name for name in SCHEDULES if "open" not in name])
def test_gaussian_velocity_is_the_limit_at_the_ends(name, end):
    """Exactly at t = 0 and t = 1 the velocity and its trace equal their limits from inside (trap P6)."""
    field = GaussianBaseline(MEAN, COVARIANCE, SCHEDULES[name])
    x = normal(5, 2)
    near = abs(end - 1e-9)
    scale = field(end, x).abs().max()
    assert torch.isfinite(scale)
    # One part in 1e4: the variance-preserving σ changes on the scale of its cutoff 1e-5.
    assert (field(end, x) - field(near, x)).abs().max() < 1e-4 * (1 + scale)
    assert (field.divergence(end, x) - field.divergence(near, x)).abs().max() < 1e-4 * (1 + scale)


def test_monge_map_is_reached_along_straight_lines():
    """decode(z) = m + Σ^{1/2} z, with displacement interpolation in between."""
    field = OptimalGaussianBaseline(MEAN, COVARIANCE)
    spectrum, basis = torch.linalg.eigh(COVARIANCE)
    z = normal(20, 2)
    target = MEAN + z @ (basis * spectrum.sqrt()) @ basis.T
    flow = flow_of(field, 2)
    assert (flow.decode(z).value - target).abs().max() < 1e-8
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    states = flow.trajectory(z, times)
    straight = torch.lerp(z, target, times.reshape(-1, 1, 1))
    assert (states - straight).abs().max() < 1e-8
    law = torch.distributions.MultivariateNormal(MEAN, COVARIANCE)
    assert (flow.log_prob(target) - law.log_prob(target)).abs().max() < 1e-8


@pytest.mark.parametrize("make", [one_dimensional, two_dimensional])
@pytest.mark.parametrize("name", ["linear", "trigonometric"])
def test_mixture_density(make, name):
    """The exact mixture field gives the mixture's density to 1e-6, in the tails too."""
    field = make(SCHEDULES[name])
    d = field.means.shape[1]
    x = 2.5 * normal(60, d)
    assert (flow_of(field, d).log_prob(x) - field.log_prob(x)).abs().max() < 1e-6


def test_mixture_samples_on_the_line():
    """Kolmogorov–Smirnov against the mixture's distribution function."""
    field = one_dimensional(Linear())
    rows = flow_of(field, 1, solver=Adaptive(rtol=1e-6, atol=1e-6)).sample(4000, generator=seeded())
    weights, means, stds = field.weights.numpy(), field.means.squeeze(1).numpy(), field.stds.numpy()
    cdf = lambda x: (weights * stats.norm.cdf((x[:, None] - means) / stds)).sum(1)  # noqa: E731
    assert stats.kstest(rows.squeeze(1).numpy(), cdf).pvalue > 1e-3


def test_mixture_samples_in_the_plane():
    """Mean and covariance within five standard errors."""
    field = two_dimensional(Trigonometric())
    rows = flow_of(field, 2, solver=Adaptive(rtol=1e-6, atol=1e-6)).sample(4000, generator=seeded())
    mean, covariance = field.mean_and_covariance()
    assert ((rows.mean(0) - mean).abs() < 5 * (covariance.diagonal() / 4000).sqrt()).all()
    products = (rows - mean).unsqueeze(2) * (rows - mean).unsqueeze(1)
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / math.sqrt(4000)).all()


def test_density_integrates_to_one_on_the_line():
    """Trap L5: the trapezoid rule on a smooth density that vanishes at both ends is exact far beyond 1e-6."""
    field = one_dimensional(Linear())
    x = torch.linspace(-9, 9, 401, dtype=torch.float64)
    density = flow_of(field, 1, likelihood_solver=Adaptive(rtol=1e-8, atol=1e-8)).log_prob(x.unsqueeze(1)).exp()
    assert abs(torch.trapezoid(density, x) - 1) < 1e-6


def test_density_integrates_to_one_in_the_plane():
    """Trap L5 in the plane; the grid step is under half the narrowest std: the rule's own error is below 1e-6."""
    field = two_dimensional(Linear())
    line = torch.arange(-4.8, 4.8, 0.16, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    density = flow_of(field, 2, likelihood_solver=Adaptive(rtol=1e-7, atol=1e-7)).log_prob(grid).exp()
    assert abs(density.sum() * 0.16**2 - 1) < 1e-5


def test_known_density_is_never_beaten():
    """Trap L5: the mean log-density of the truth's own rows equals the truth's, so it cannot exceed it."""
    field = two_dimensional(Linear())
    flow = flow_of(field, 2)
    rows, density = flow.sample_and_log_prob(200, generator=seeded())
    assert (density - field.log_prob(rows)).abs().max() < 1e-6


def test_sample_and_log_prob_agrees_with_log_prob():
    """Trap L13."""
    flow = flow_of(two_dimensional(Trigonometric()), 2)
    rows, density = flow.sample_and_log_prob(100, generator=seeded())
    assert (flow.log_prob(rows) - density).abs().max() < 1e-6


def test_gradient_of_log_prob_in_x():
    """Trap L7: ∇ log N(x; m, Σ) = −Σ⁻¹(x − m)."""
    flow = flow_of(GaussianBaseline(MEAN, COVARIANCE, Linear()), 2)
    x = normal(10, 2).requires_grad_()
    (score,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    exact = -torch.linalg.solve(COVARIANCE, (x.detach() - MEAN).T).T
    assert (score - exact).abs().max() < 1e-6


@pytest.mark.parametrize("divergence", [ExactDivergence(), HutchinsonDivergence(probes=2)])
def test_gradient_of_log_prob_in_parameters(divergence):
    """Trap L7: v = a x gives log p(x) = log N(x e^{−a}) − d a, with derivative |x|² e^{−2a} − d; a scalar
    Jacobian is seen
    exactly by every ±1 probe."""
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    flow = flow_of(lambda t, x, condition=None: a * x, 3, divergence=divergence)
    x = normal(6, 3)
    (gradient,) = torch.autograd.grad(flow.log_prob(x, generator=seeded()).sum(), a)
    exact = (x.square().sum(1) * torch.exp(-2 * a) - 3).sum()
    assert abs(gradient - exact) < 1e-6


def test_gradients_reach_every_parameter_of_a_network():
    """Trap L7, once more with a network: against central differences along a random direction."""
    from advect.flows import VelocityField
    from advect.networks import MLP

    network = MLP((2,), width=8, depth=2, activation="tanh", generator=seeded()).double()
    flow = flow_of(VelocityField(network), 2)
    x = normal(4, 2)
    parameters = list(network.parameters())
    directions = [normal(*p.shape, seed=i) for i, p in enumerate(parameters)]
    gradients = torch.autograd.grad(flow.log_prob(x).sum(), parameters)
    along = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))

    def shifted(step: float) -> torch.Tensor:
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += step * d
            value = flow.log_prob(x).sum()
            for p, d in zip(parameters, directions, strict=True):
                p -= step * d
        return value

    step = 1e-4
    assert abs((shifted(step) - shifted(-step)) / (2 * step) - along) < 1e-5 * (1 + abs(along))
    assert all(g.abs().max() > 0 for g in gradients)


def test_trace_costs_a_small_multiple_of_sampling():
    """Trap L1: probes are fixed within a solve, so the trace does not fool the error control."""
    matrix = 0.3 * normal(16, 16) / 4
    field = LinearField(matrix)
    z = normal(8, 16)
    coarse = Adaptive(rtol=1e-5, atol=1e-5)
    flow = flow_of(field, 16, solver=coarse, likelihood_solver=coarse, divergence=HutchinsonDivergence(probes=1))
    without = flow.decode(z).nfe
    before = field.calls
    with_trace = flow.decode(z, log_det=True, generator=seeded()).nfe
    assert (with_trace <= 3 * without).all()
    assert field.calls - before <= 3 * int(without.max())


def _hutchinson_flow(probes: int) -> tuple[Flow, torch.Tensor, torch.Tensor]:
    matrix = 0.5 * normal(6, 6)
    flow = flow_of(
        LinearField(matrix),
        6,
        likelihood_solver=Adaptive(rtol=1e-7, atol=1e-7),
        divergence=HutchinsonDivergence(probes=probes, distribution="gaussian"),
    )
    return flow, matrix.trace(), normal(1, 6).expand(300, 6)


def test_one_seed_gives_one_answer():
    """Trap L2."""
    flow, _, x = _hutchinson_flow(4)
    first, second, other = (flow.log_prob(x[:5], generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_spread_over_probes_matches_the_printed_error():
    """Trap L2: 300 estimates of one number; their spread is known to 1/√600 = 4 %, five of these allowed."""
    flow, _, x = _hutchinson_flow(16)
    estimate = flow.score(x, generator=seeded())
    printed = estimate.standard_error.square().mean().sqrt()
    assert abs(estimate.value.std() / printed - 1) < 0.25


@pytest.mark.parametrize("probes", [1, 4])
def test_mean_over_probes_is_the_exact_trace(probes):
    """Trap L3, two-sided: neither summed over the probes nor one-sided."""
    flow, trace, x = _hutchinson_flow(probes)
    log_det = flow.encode(x, log_det=True, generator=seeded()).log_abs_det_jacobian
    error = log_det.std() / math.sqrt(len(log_det))
    assert abs(log_det.mean() + trace) < 4 * error
    assert error < 0.5


def test_image_shaped_events_have_their_exact_divergence():
    """Trap L4: a (3, 8, 8) linear field; log-density in closed form from the matrix exponential."""
    matrix = normal(192, 192) / 40
    flow = flow_of(LinearField(matrix), 3, 8, 8, divergence=ExactDivergence())
    z = normal(2, 3, 8, 8)
    with torch.no_grad():
        moved = flow.decode(z, log_det=True)
    assert (moved.log_abs_det_jacobian - matrix.trace()).abs().max() < 1e-8
    exact = (torch.linalg.matrix_exp(matrix) @ z.flatten(1).T).T.reshape(z.shape)
    assert (moved.value - exact).abs().max() < 1e-7
    assert not moved.log_abs_det_jacobian.requires_grad


def test_row_alone_equals_row_in_a_batch():
    """Trap S1: whatever the neighbours, also permuted and beside a row far out, to 1e-10; NFE equal."""
    flow = flow_of(two_dimensional(Linear()), 2, likelihood_solver=Adaptive(rtol=1e-5, atol=1e-5))
    x = torch.cat([normal(12, 2), torch.tensor([[60.0, -80.0]], dtype=torch.float64)])
    together = flow.score(x)
    order = torch.randperm(13, generator=seeded())
    permuted = flow.score(x[order])
    assert (together.value[order] - permuted.value).abs().max() < 1e-10
    for row in range(12):
        alone = flow.score(x[row : row + 1])
        assert abs(alone.value - together.value[row]) < 1e-10
        assert alone.nfe == together.nfe[row]


def test_few_fixed_steps_are_refused_or_carry_their_error():
    """Trap L6: eight Euler steps are no likelihood."""
    field = one_dimensional(Linear())
    x = torch.linspace(-3, 3, 20, dtype=torch.float64).unsqueeze(1)
    with pytest.raises(ConfigError, match="8 steps"):
        flow_of(field, 1, likelihood_solver=Euler(steps=8)).log_prob(x)
    forced = flow_of(field, 1, likelihood_solver=Euler(steps=8), coarse=True).score(x)
    wrong = (forced.value - field.log_prob(x)).abs()
    assert wrong.mean() > 0.1
    # The estimate is first order in a step that is not small; it must be of the size of the error.
    assert forced.standard_error.mean() > 0.3 * wrong.mean()


@pytest.mark.parametrize("solver", [RK4(steps=16), Adams3(steps=32), Euler(steps=512)])
def test_accepted_step_counts_are_accurate(solver):
    """The stated minimum gives a log-density to 1e-2 nats on the mixture at half its widths' time scale."""
    field = two_dimensional(Linear())
    x = field.means[torch.arange(40) % 2] + 0.5 * normal(40, 2)
    flow = flow_of(field, 2, likelihood_solver=solver)
    assert (flow.log_prob(x) - field.log_prob(x)).abs().mean() < 1e-2


def test_richardson_error_has_the_size_of_the_error():
    """Trap L6: first order in a small step, so the estimated error is right to tens of per cent."""
    flow = flow_of(
        lambda t, x, condition=None: 2.0 * x + 0.3 * torch.sin(3 * x), 1, likelihood_solver=Euler(steps=64), coarse=True
    )
    x = normal(30, 1)
    rough = flow.encode(x, log_det=True)
    exact = flow.with_options(likelihood_solver=TIGHT).encode(x, log_det=True)
    wrong = (rough.log_abs_det_jacobian - exact.log_abs_det_jacobian).abs().mean()
    assert wrong > 1e-3
    assert 0.7 < rough.standard_error.mean() / wrong < 1.4


def test_rows_that_do_not_come_back_fail():
    """Trap L5: a map that two coarse solves do not invert is no bijection in numbers; its rows fail, not the batch."""

    def field(t, x, condition=None):
        return torch.where(x > 0, 8 * torch.sin(8 * x), 0.1 * x)

    x = torch.tensor([[-1.0], [-0.5], [0.7], [1.1]], dtype=torch.float64)
    plain = flow_of(field, 1, likelihood_solver=Euler(steps=8), coarse=True)
    checked = plain.with_options(round_trip=1e-2)
    found = checked.score(x)
    assert found.status.tolist() == [0, 0, int(Status.NOT_CONVERGED), int(Status.NOT_CONVERGED)]
    assert torch.isnan(found.value[2:]).all()
    assert torch.equal(found.value[:2], plain.score(x).value[:2])


def test_failed_rows_are_nan_with_a_reason():
    """Trap M9: blow-up in some rows of a large sample is counted, not returned as infinity."""
    flow = flow_of(lambda t, x, condition=None: x.square(), 1, solver=Adaptive(rtol=1e-4, atol=1e-4))
    drawn = flow.draw(2000, generator=seeded())
    z = flow.base.sample(2000, generator=seeded()).squeeze(1)
    # y' = y² blows up before t = 1 exactly where z > 1; the integration near z = 1 itself may go either way.
    clear = (z - 1).abs() > 1e-2
    failed = drawn.status >= int(Status.NAN_FIELD)
    assert torch.equal(failed[clear], (z > 1)[clear])
    assert torch.equal(torch.isnan(drawn.value.squeeze(1)), failed)
    # x = z/(1 − z) amplifies the solver's errors by its slope (1 − z)⁻².
    z, x = (v[clear & ~failed] for v in (z, drawn.value.squeeze(1)))
    assert ((x - z / (1 - z)).abs() < 1e-3 * (1 + (1 - z) ** -2)).all()
