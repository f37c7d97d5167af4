"""Denoising: the weight is a function of log-SNR and of nothing else; every loss has flow matching's minimiser."""

import math

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, UnknownNameError
from advect.flows import GaussianBaseline, VelocityField
from advect.objectives import (
    WEIGHTINGS,
    Denoising,
    LevelTimes,
    LogSnrNormalTimes,
    Natural,
    OfLogSnr,
    PowerTimes,
    UniformTimes,
    VelocityMatching,
    implied_weight,
    make_weight,
)
from advect.objectives.snr import WEIGHTS, karras
from advect.paths import (
    PREDICTIONS,
    SCHEDULES,
    AffinePath,
    DiscreteVariancePreserving,
    Karras,
    Linear,
    Trigonometric,
    convert,
    make_schedule,
    target,
    wronskian,
)
from advect.records import Batch

DOUBLE = torch.float64
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def inside(n=60):
    return torch.linspace(0.02, 0.98, n, dtype=DOUBLE)


class Says(nn.Module):
    """A flow that predicts a fixed function of t and x and keeps its times."""

    def __init__(self, function):
        super().__init__()
        self.function, self.times = function, []

    def predict(self, t, x, condition=None):
        self.times.append(t)
        return self.function(t, x)

    velocity = predict


def test_equivalences_of_kingma_and_gao():
    """papers.md §2.3: the w(λ) that each plain loss implies, from the formulas there."""
    t, uniform = inside(), UniformTimes()
    for schedule in (Linear(), Trigonometric()):
        lam = schedule.log_snr(t)
        r = wronskian(schedule, t)
        expected = r * torch.exp(-lam / 2)  # velocity, uniform t: R σ/α
        torch.testing.assert_close(implied_weight("velocity", t, schedule, uniform), expected, rtol=1e-12, atol=0)
    lam = Trigonometric().log_snr(t)
    cosine = implied_weight("noise", t, Trigonometric(), uniform)  # 2/λ' = sech(λ/2)/π
    torch.testing.assert_close(cosine, 1 / math.pi / torch.cosh(lam / 2), rtol=1e-12, atol=0)
    edm = implied_weight("edm", t, Karras(), LogSnrNormalTimes(Karras()))
    torch.testing.assert_close(edm, karras(Karras().log_snr(t)), rtol=1e-12, atol=0)
    # InDI: x1-prediction on the linear path; sech²(λ/4) = 4t(1 − t) there
    indi = implied_weight("x1", t, Linear(), uniform)
    lam = Linear().log_snr(t)
    torch.testing.assert_close(indi, torch.exp(-lam) / torch.cosh(lam / 4).square() / 4, rtol=1e-10, atol=0)


def test_velocity_matching_is_v_prediction_on_the_cosine_schedule():
    """One objective up to a factor: EDM's output there is minus v, and both imply exp(−λ/2)."""
    t = inside()
    linear = implied_weight("velocity", t, Linear(), UniformTimes()) * torch.exp(Linear().log_snr(t) / 2)
    cosine = implied_weight("velocity", t, Trigonometric(), UniformTimes()) * torch.exp(Trigonometric().log_snr(t) / 2)
    torch.testing.assert_close(linear, torch.ones_like(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(cosine, torch.full_like(t, math.pi / 2), rtol=1e-12, atol=0)


@every_schedule
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_weight_does_not_depend_on_what_is_predicted(name, prediction, weighting):
    """|ΔP|² times the multiplier is the same for every prediction of the same D, and integrates to ½∫w|ΔE|²dλ."""
    schedule, t = make_schedule(name), inside()
    x = torch.ones_like(t)
    weight = make_weight(weighting)
    gap = convert(x + 1e-3, "x1", prediction, t, x, schedule) - convert(x, "x1", prediction, t, x, schedule)
    loss = gap.square() * weight(t, prediction, schedule, UniformTimes())
    base = 1e-6 * weight(t, "x1", schedule, UniformTimes())
    torch.testing.assert_close(loss, base, rtol=1e-6, atol=0)
    if weighting in WEIGHTS:
        noise = 1e-6 * (schedule.alpha(t) / schedule.sigma(t)).square()  # |ΔE|²
        rate = 2 * wronskian(schedule, t) / (schedule.alpha(t) * schedule.sigma(t))
        expected = 0.5 * WEIGHTS[weighting](schedule.log_snr(t)) * noise * rate
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("times", [UniformTimes(), PowerTimes(2.0), LogSnrNormalTimes(Linear(), 0.0, 3.0)], ids=str)
def test_a_weight_of_log_snr_is_unbiased_for_every_density_of_times(times):
    """Trap O1: the weighted loss has one expectation, whatever density t is drawn from (five standard errors)."""
    schedule = Linear()
    objective = Denoising(AffinePath(schedule), "noise", times, make_weight("cosine-noise"))
    flow = Says(lambda t, x: torch.zeros_like(x))  # loss = w-weighted mean of x0²: E = ½∫ sech(λ/2) dλ = π
    batch = Batch(x1=torch.zeros(40_000, 1, dtype=DOUBLE))
    loss = objective(flow, batch, generator=seeded())
    assert float(loss.mean()) == pytest.approx(math.pi, abs=5 * float(loss.std()) / 200)


@every_schedule
def test_the_minimiser_is_the_conditional_mean(name):
    """For Gaussian data the loss of each exact prediction has zero gradient in a shift and a stretch of it."""
    schedule = make_schedule(name)
    mean, std = 0.7, 0.6
    field = GaussianBaseline(torch.tensor([mean], dtype=DOUBLE), torch.tensor([[std**2]], dtype=DOUBLE), schedule)
    x1 = mean + std * torch.randn(20_000, 1, generator=seeded(1), dtype=DOUBLE)
    for prediction in PREDICTIONS:
        for what in (lambda exact: torch.ones_like(exact), lambda exact: exact):
            amount = torch.zeros(len(x1), 1, dtype=DOUBLE, requires_grad=True)

            def says(t, x, amount=amount, what=what, prediction=prediction):
                exact = convert(field(t, x), "velocity", prediction, t, x, schedule)
                return exact + amount * what(exact)

            objective = Denoising(AffinePath(schedule), prediction, Middle(), make_weight("sigmoid"))
            loss = objective(Says(says), Batch(x1=x1), generator=seeded(2))
            rows = torch.autograd.grad(loss.sum(), amount)[0]  # one gradient per row: its mean has a standard error
            assert abs(float(rows.mean())) < 5 * float(rows.std()) / math.sqrt(len(rows)), prediction


class Middle(UniformTimes):
    """Uniform in [0.1, 0.9], where every prediction has finite variance."""

    def __call__(self, num_rows, **options):
        return 0.1 + 0.8 * super().__call__(num_rows, **options)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_is_the_conversion_of_the_conditional_velocity(prediction):
    """Given both ends the target equals what `convert` makes of u = α'x1 + σ'x0 at x = αx1 + σx0."""
    for name in SCHEDULES:
        schedule, t = make_schedule(name), inside()
        x0, x1 = (torch.randn(60, generator=seeded(s), dtype=DOUBLE) for s in (0, 1))
        x = schedule.alpha(t) * x1 + schedule.sigma(t) * x0
        u = schedule.alpha_derivative(t) * x1 + schedule.sigma_derivative(t) * x0
        wanted = convert(u, "velocity", prediction, t, x, schedule)
        torch.testing.assert_close(target(prediction, t, x0, x1, schedule), wanted, rtol=1e-8, atol=1e-8)


def test_predicting_the_velocity_is_velocity_matching():
    """The same draws, the same loss, row by row."""
    path, batch = AffinePath(Linear()), Batch(x1=torch.randn(50, 3), x0=torch.randn(50, 3))
    flow = Says(lambda t, x: 0.3 * x)
    one = Denoising(path, "velocity")(flow, batch, generator=seeded())
    other = VelocityMatching(path)(flow, batch, generator=seeded())
    torch.testing.assert_close(one, other)


@every_schedule
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", ["noise", "score", "x1", "velocity", "elbo", "sigmoid"])
def test_finite_at_both_ends(name, prediction, weighting):
    """Trap P10: times drawn exactly at an end give a finite loss: limits, or a stated distance kept from a pole."""

    class Ends:
        def __call__(self, num_rows, *, generator=None, device=None, dtype=None):
            return torch.tensor([0.0, 1.0], dtype=dtype)

        def density(self, t):
            return torch.ones_like(t)

    objective = Denoising(AffinePath(make_schedule(name)), prediction, Ends(), make_weight(weighting))
    flow = Says(lambda t, x: torch.zeros_like(x))
    assert objective(flow, Batch(x1=torch.ones(2, 4)), generator=seeded()).isfinite().all()
    assert all(0 <= end <= 1 for end in objective.interval)


def test_level_times_are_levels():
    schedule = DiscreteVariancePreserving()
    t = LevelTimes(schedule)(5000, generator=seeded(), dtype=DOUBLE)
    level = (1 - t).square() * 1000
    torch.testing.assert_close(level, level.round(), rtol=0, atol=1e-9)
    assert int(level.min().round()) >= 1
    assert int(level.max().round()) <= 1000
    assert float(level.mean()) == pytest.approx(500.5, abs=5 * 289 / math.sqrt(5000))


@pytest.mark.parametrize("times", [PowerTimes(3.0), LogSnrNormalTimes(Trigonometric()), LogSnrNormalTimes(Karras())])
def test_densities_of_times_integrate_and_match_their_draws(times):
    """The integral is one less the mass beyond the schedule's range, and moments of draws follow the density."""
    grid = torch.linspace(0, 1, 200_001, dtype=DOUBLE)
    density = times.density(grid)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=2e-3)
    drawn = times(200_000, generator=seeded(), dtype=DOUBLE)
    expected = float(torch.trapezoid(density * grid, grid))
    assert float(drawn.mean()) == pytest.approx(expected, abs=5 * float(drawn.std()) / math.sqrt(200_000) + 2e-3)


def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'noise'"):
        Denoising(AffinePath(Linear()), "noize")
    with pytest.raises(ConfigError, match="constant noise"):
        Denoising(AffinePath(Linear(), sigma=0.1), "noise")
    with pytest.raises(UnknownNameError, match="Did you mean 'sigmoid'"):
        make_weight("sigmod")
    with pytest.raises(ConfigError, match="power"):
        PowerTimes(0.5)
    with pytest.raises(ConfigError, match="std"):
        LogSnrNormalTimes(Linear(), std=0.0)
    assert make_weight("x1") == Natural("x1")
    assert isinstance(make_weight("elbo"), OfLogSnr)


def test_a_field_reads_what_the_loss_trains():
    """A network that returns the target gives loss 0 through `VelocityField.predict`, for every prediction."""
    for prediction in PREDICTIONS:
        field = VelocityField(Says(lambda t, x: 2 * x), parameterisation=prediction, schedule=Trigonometric())
        field.network.forward = lambda t, x, condition=None: 2 * x
        x = torch.ones(3, 2)
        torch.testing.assert_close(field.predict(0.4, x), 2 * x)
