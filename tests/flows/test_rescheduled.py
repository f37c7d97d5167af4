"""A flow on another schedule than it was made for: every ordered pair, every solver, ends and mismatch told."""

import math

import pytest
import torch

from advect.errors import UnsupportedError
from advect.flows import (
    ContinuousMap,
    Flow,
    GaussianBaseline,
    IsotropicNormal,
    StandardNormal,
    VelocityField,
    on_schedule,
    start_law,
)
from advect.paths import SCHEDULES, EndWeights, Linear, VarianceExploding, end_weights, make_schedule
from advect.solvers import RK4, SOLVERS, Adaptive, Euler, Heun
from tests.truth.exact_fields import two_dimensional

DOUBLE = torch.float64
MEAN = torch.tensor([1.0, -2.0], dtype=DOUBLE)
COVARIANCE = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=DOUBLE)
PAIRS = [(a, b) for a in SCHEDULES for b in SCHEDULES]
TIGHT = Adaptive("tsit5", rtol=1e-6, atol=1e-6)
SOME = [("linear", "vp"), ("vp", "linear"), ("cosine", "edm"), ("edm", "subvp"), ("ve", "cosine"), ("lipman", "ddpm")]


def gaussian_flow(name, **options):
    """The exact flow to N(MEAN, COVARIANCE) on a named schedule."""
    schedule = make_schedule(name)
    field = GaussianBaseline(MEAN, COVARIANCE, schedule)
    options = {"solver": TIGHT, "likelihood_solver": TIGHT} | options
    return Flow(
        IsotropicNormal((2,), schedule.start().source).double(), ContinuousMap(field, event_shape=(2,), **options)
    )


def moved_gaussian(schedule, start, first, last):
    """Where the exact ODE takes ``start`` between two times: each direction stretches by the ratio of its spreads."""
    spectrum, basis = torch.linalg.eigh(COVARIANCE)
    one, other = (end_weights(schedule, t) for t in (first, last))
    spread = lambda w: (w.data**2 * spectrum + w.source**2).sqrt()  # noqa: E731
    along = (start - one.data * MEAN) @ basis
    return other.data * MEAN + (along * spread(other) / spread(one)) @ basis.T


def shared_end(flow, old, start):
    """The closed form between the times of the old schedule that the new flow runs over."""
    ode = flow.ode
    lambdas = [ode.field.schedule.log_snr(torch.tensor(r, dtype=DOUBLE)) for r in ode.interval]
    return moved_gaussian(old, start, *(float(old.time_of_log_snr(value)) for value in lambdas))


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_every_pair_reaches_the_closed_form(old, new):
    """Trap P7: samples of the flow on a new schedule are those of the old flow between the times that both share."""
    flow = gaussian_flow(old)
    other = on_schedule(flow, make_schedule(new))
    start = (
        torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
        * end_weights(make_schedule(old), 0.0).source
    )
    expected = shared_end(other.flow, make_schedule(old), start)
    moved = other.flow.decode(start)
    assert (moved.status == 0).all()
    # 1e-6 per step, over the few hundred steps that a start at σ = 80 takes
    torch.testing.assert_close(moved.value, expected, rtol=3e-4, atol=3e-4)


@pytest.mark.parametrize("solver", [Euler, Heun, RK4], ids=lambda s: s.__name__)
@pytest.mark.parametrize(("old", "new"), [("linear", "vp"), ("edm", "subvp")])
def test_fixed_solvers_converge_to_it_at_their_order(old, new, solver):
    """Trap P7: twice the steps leave 2^-p of the error, within a factor of two."""
    reference = on_schedule(gaussian_flow(old), make_schedule(new)).flow
    start = torch.linspace(-1.5, 1.5, 8, dtype=DOUBLE).reshape(4, 2) * end_weights(make_schedule(old), 0.0).source
    exact = shared_end(reference, make_schedule(old), start)
    steps = {Euler: 200, Heun: 100, RK4: 40}[solver]
    errors = [
        float((reference.with_options(solver=solver(n)).decode(start).value - exact).abs().max())
        for n in (steps, 2 * steps)
    ]
    order = {Euler: 1, Heun: 2, RK4: 4}[solver]
    assert errors[0] < 1
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.5)


@pytest.mark.parametrize("name", [n for n, e in SOLVERS.items() if e.adaptive])
@pytest.mark.parametrize(("old", "new"), SOME[2:5])
def test_adaptive_solvers_on_pairs(old, new, name):
    """Trap P7: none aborts, none is NaN, and all agree with the tight solve, there and back."""
    flow = on_schedule(gaussian_flow(old), make_schedule(new)).flow
    start = torch.linspace(-1, 1, 6, dtype=DOUBLE).reshape(3, 2) * end_weights(make_schedule(old), 0.0).source
    moved = flow.with_options(solver=Adaptive(name, rtol=1e-5, atol=1e-5)).decode(start)
    assert (moved.status == 0).all()
    # errors of 1e-5 per step add up over the few hundred steps that a start at σ = 80 takes
    torch.testing.assert_close(moved.value, flow.decode(start).value, rtol=3e-3, atol=3e-3)
    torch.testing.assert_close(flow.encode(flow.decode(start).value).value, start, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("old", "new"), [("linear", "cosine"), ("cosine", "vp"), ("edm", "linear")])
def test_density_is_kept(old, new):
    """A change of schedule moves no mass: log-densities agree where the new one spans the old range."""
    flow = gaussian_flow(old)
    other = on_schedule(flow, make_schedule(new)).flow
    x = MEAN + torch.linspace(-2, 2, 20, dtype=DOUBLE)[:, None] * torch.tensor([1.0, 0.3])
    # VP starts at α = 0.0066, so the two bases differ by α·m·x0 with |m| = 2.2 and |x0| up to 2.5 here
    assert float((flow.log_prob(x) - other.log_prob(x)).abs().max()) < 0.0066 * 2.2 * 2.5


def test_mixture_density_on_other_schedules():
    """The exact mixture field, learnt on the linear path, scores the same on the cosine one (both span all λ)."""
    field = two_dimensional(Linear())
    flow = Flow(StandardNormal((2,)).double(), ContinuousMap(field, event_shape=(2,), likelihood_solver=TIGHT))
    other = on_schedule(flow, make_schedule("cosine")).flow
    x = 2 * torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    torch.testing.assert_close(other.log_prob(x), field.log_prob(x), rtol=0, atol=1e-4)


def test_the_start_is_told_where_it_is_not_the_base():
    """A linear flow on VE starts at σ = 50: its law there is not the base, and the KL of the difference is said."""
    told = on_schedule(gaussian_flow("linear"), make_schedule("ve"))
    assert told.start is not None
    assert 0 < told.start.gaussian <= told.start.bound
    assert told.left.source == pytest.approx(0.01 / 1.01, rel=1e-6)  # σ/α = 0.01 on the linear path
    back = on_schedule(gaussian_flow("ve"), make_schedule("linear"))
    assert back.start is None  # linear reaches further: it begins where VE does, from VE's own base


def test_start_law_against_closed_forms():
    """KL by torch for the Gaussian; the bound holds for a two-point law, whose KL is integrated on a grid."""
    alpha, sigma, scale = 0.4, 0.9, 1.0
    told = start_law(EndWeights(alpha, sigma), scale, MEAN, torch.linalg.eigvalsh(COVARIANCE))
    law = torch.distributions.MultivariateNormal(
        alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=DOUBLE)
    )
    base = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    assert told.gaussian == pytest.approx(float(torch.distributions.kl_divergence(law, base)), rel=1e-10)
    points = torch.tensor([-1.0, 1.0], dtype=DOUBLE)  # mean 0, variance 1
    grid = torch.linspace(-12, 12, 20001, dtype=DOUBLE)
    p = torch.distributions.Normal(alpha * points, sigma).log_prob(grid[:, None]).exp().mean(1)
    true = float(torch.trapezoid(p * (p.log() - torch.distributions.Normal(0.0, scale).log_prob(grid)), grid))
    told = start_law(EndWeights(alpha, sigma), scale, torch.zeros(1), torch.ones(1))
    assert true <= told.bound


def test_what_has_no_schedule_is_refused():
    class Plain(torch.nn.Module):
        def forward(self, t, x, condition=None):
            return -x

    flow = Flow(StandardNormal((2,)), ContinuousMap(Plain(), event_shape=(2,)))
    with pytest.raises(UnsupportedError, match="affine path"):
        on_schedule(flow, Linear())
    field = VelocityField(Plain(), schedule=None)
    with pytest.raises(UnsupportedError, match="affine path"):
        on_schedule(Flow(StandardNormal((2,)), ContinuousMap(field)), VarianceExploding())
