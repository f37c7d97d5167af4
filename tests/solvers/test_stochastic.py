"""Samplers with noise: right marginals for every g, on every path, at every number of steps."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.integrate import quad

from advect.errors import ConfigError, UnknownNameError
from advect.paths import Karras, Linear, Trigonometric, VarianceExploding, VariancePreserving
from advect.solvers import (
    DDIM,
    DIFFUSIONS,
    Ancestral,
    ChurnedHeun,
    ReverseSDE,
    edm_points,
    make_diffusion,
    share_points,
)
from advect.solvers.affine import read
from advect.solvers.diffusion import Coefficient, given
from tests.solvers.affine_truth import SCHEDULES, GaussianField, churned, four, rows, weights
from tests.truth.exact_fields import two_dimensional

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
NOISES = {
    **{name: make_diffusion(name) for name in DIFFUSIONS},
    "ancestral, half": Ancestral(0.5),
    "callable": given(lambda t: 0.5 + 2 * t),
    "diverges at the source": given(lambda t: 1 / t),
    "much": make_diffusion("constant", 30.0),
}
every_noise = pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spreads(field, x, t):
    """Relative errors of the standard deviations of rows along both axes of the data, and offsets of the means."""
    a, s = weights(field.schedule, t)
    expected = (a**2 * field.spread**2 + s**2).sqrt()
    turned = (x - a * field.mean) @ field.turn
    return turned.std(0) / expected - 1, turned.mean(0) / expected


# What 60 steps may lose of a standard deviation: measured with 40 000 rows, rounded up. See `ReverseSDE` for why.
LOSS = {"ancestral": 0.06, "ancestral, half": 0.04, "sigma": 0.055, "sine": 0.065, "constant": 0.13, "callable": 0.28}


@pytest.mark.parametrize("name", LOSS)
@every_schedule
def test_every_diffusion_keeps_the_marginals(name, schedule):
    """traps M2, M3, M4: mean and both standard deviations of samples from an exact velocity, on the way and at the end.

    4000 rows know a standard deviation to 1/√8000 = 1.1 %, a mean to 1.6 %; four of these are allowed besides the bias.
    The last step belongs to the grid like all others. Never wider than the data, too.
    """
    field = GaussianField(schedule)
    x = field.start(4000)
    times = torch.tensor([0.62, 1.0], dtype=torch.float64)
    solver = ReverseSDE(grid=share_points(schedule, 60), schedule=schedule, diffusion=NOISES[name])
    result = solver(field, x, times=times, generator=seeded())
    for state, t in zip(result.states, times.tolist(), strict=True):
        stds, means = spreads(field, state, t)
        assert float(stds.min()) > -4 * 0.0112 - LOSS[name]
        assert float(stds.max()) < 4 * 0.0112
        assert float(means.abs().max()) < 4 * 0.0158 + 0.02
    assert result.nfe.tolist() == [60] * 4000
    assert max(field.times) < 1.0


# Bias at four times the steps, relative: a quarter at order 1, one half at order 1/2. Where g stays above 2 at σ = 0 it
# is slower still at these steps.
SHRINKS = {"ancestral": 0.4, "ancestral, half": 0.4, "sigma": 0.4, "sine": 0.4, "constant": 0.6, "callable": 0.85}


@pytest.mark.parametrize("name", SHRINKS)
def test_bias_of_the_spread_shrinks_with_the_step(name):
    """trap M4. 100 000 rows know a standard deviation to 0.22 %, against biases of 3 % and more."""
    field = GaussianField(Linear())
    x = field.start(100_000)
    biases = []
    for n in (15, 60):
        result = ReverseSDE(n, schedule=Linear(), diffusion=NOISES[name])(field, x, generator=seeded(n))
        biases.append(float(spreads(field, result.state, 1.0)[0].abs().max()))
    assert biases[1] < SHRINKS[name] * biases[0] + 4 * 0.0022
    assert biases[1] < biases[0] - 8 * 0.0022


@every_noise
@every_schedule
def test_samples_are_finite_at_every_number_of_steps(noise, schedule):
    """trap M6: no step can grow, whatever g does; nothing is NaN near the noise end."""
    field = GaussianField(schedule)
    x = field.start(50)
    for steps in (1, 2, 3, 11):
        result = ReverseSDE(steps, schedule=schedule, diffusion=noise)(field, x, generator=seeded())
        assert torch.isfinite(result.state).all()
        assert result.nfe.tolist() == [steps] * 50
        # Bounded by the data: never further out than the source or the data themselves.
        assert float((result.state - field.mean).abs().max()) < 5 * 1.5 * 2


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), Karras(), VarianceExploding()])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 0.3), (0.3, 0.34), (0.5, 0.9), (0.97, 0.999)])
def test_exponents_against_scipy(schedule, t0, t1):
    """½∫g²/σ² of every named g, with the closed form of `ancestral` against its definition g² = η²σ²λ'."""
    at = lambda t: [float(w) for w in four(schedule, torch.tensor(t, dtype=torch.float64))]  # noqa: E731
    start, end = read(schedule, [t0, t1], 1)

    def ancestral(t):
        a, s, da, ds = at(t)
        return 0.49 * s**2 * 2 * (da / a - ds / s)

    squares = {
        "constant": lambda t: 0.7**2,
        "sigma": lambda t: 2 * 0.7 * at(t)[1],
        "sine": lambda t: 2 * 0.7 * math.sin(math.pi * t) ** 2,
        "ancestral": ancestral,
    }
    for name, square in squares.items():
        found = make_diffusion(name, 0.7).exponent(schedule, start, end)
        if name == "ancestral" and at(t0)[0] == 0:
            assert found == math.inf
            continue
        expected = quad(lambda t, square=square: square(t) / at(t)[1] ** 2 / 2, t0, t1, epsabs=0, epsrel=1e-11)[0]
        assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VariancePreserving()])
def test_no_noise_is_ddim(schedule):
    """η = 0 and c = 0 add nothing."""
    field, x = two_dimensional(schedule), rows(20, 2)
    expected = DDIM(9, schedule=schedule)(field, x).state
    for name in DIFFUSIONS:
        found = ReverseSDE(9, schedule=schedule, diffusion=make_diffusion(name, 0.0))(field, x, generator=seeded())
        torch.testing.assert_close(found.state, expected, rtol=0, atol=1e-13)


def test_ancestral_is_the_posterior_of_ddpm():
    """Ho et al. 2006.11239, equations 6 and 7: mean and variance of q(x_{t−1} | x_t, x_0), in their symbols."""
    schedule = VariancePreserving()
    point = torch.tensor([[0.7, -1.1]], dtype=torch.float64)

    def field(t, x, condition=None):
        a, s, da, ds = four(schedule, t)
        return da * point + ds * (x - a * point) / s

    x = rows(1, 2).expand(20_000, 2)
    found = ReverseSDE(1, schedule=schedule)(field, x, 0.5, 0.55, generator=seeded()).state
    product, product_before = (weights(schedule, t)[0] ** 2 for t in (0.5, 0.55))
    beta = 1 - product / product_before
    mean = (
        product_before**0.5 * beta / (1 - product) * point
        + (1 - beta) ** 0.5 * (1 - product_before) / (1 - product) * x
    )
    variance = (1 - product_before) / (1 - product) * beta
    normal = (found - mean) / variance**0.5
    # 20 000 rows: means to 0.7 %, standard deviations to 0.5 %.
    assert float(normal.mean(0).abs().max()) < 4 * 0.0071
    assert float((normal.std(0) - 1).abs().max()) < 4 * 0.005


def test_states_inside_a_step_belong_to_one_process():
    """With D constant the standardised noise is an Ornstein–Uhlenbeck process, so its law is known at any steps: unit
    variance, and correlation exp(−½∫g²/σ²) between any two times, ends included."""
    schedule = Linear()
    field = lambda t, x, c=None: -x / (1 - t)  # noqa: E731
    times = torch.tensor([0.2, 0.35, 0.8], dtype=torch.float64)
    for noise in (make_diffusion("constant", 0.6), Ancestral(0.8), given(lambda t: t)):
        start = 0.8 * rows(20_000, 1)
        solver = ReverseSDE(1, schedule=schedule, diffusion=noise)
        result = solver(field, start, 0.2, 0.8, times=times, generator=seeded(1))
        unit = result.states.squeeze(2) / (1 - times).unsqueeze(1)
        found = torch.corrcoef(unit)
        at = read(schedule, times.tolist(), 1)
        for i, j in ((0, 1), (1, 2), (0, 2)):
            expected = math.exp(-noise.exponent(schedule, at[i], at[j]))
            assert float(found[i, j]) == pytest.approx(expected, abs=4 / math.sqrt(20_000))
        assert float((unit.std(1) - 1).abs().max()) < 4 * 0.005


@pytest.mark.parametrize("schedule", [Linear(), Karras()])
def test_mixture_in_distribution(schedule):
    """trap M2: not only Gaussians: the share and the moments of both components, with and without churn."""
    field, x = two_dimensional(schedule), rows(4000, 2) * weights(schedule, 0.0)[1]
    mean, covariance = field.mean_and_covariance()
    even = share_points(schedule, 60)
    for solver in (
        ReverseSDE(grid=even, schedule=schedule),
        ReverseSDE(grid=even, schedule=schedule, diffusion=make_diffusion("sigma")),
        ChurnedHeun(grid=even, schedule=schedule, churn=20.0),
    ):
        state = solver(field, x, generator=seeded()).state
        # Standard errors with 4000 rows: the mean of a coordinate of spread 1.3 to 0.021, a share of 0.4 to 0.008.
        assert float((state.mean(0) - mean).abs().max()) < 4 * 0.021 + 0.02
        torch.testing.assert_close(torch.cov(state.T), covariance, rtol=0.1, atol=0.05)
        assert abs(float((state[:, 0] < -0.25).double().mean()) - 0.4) < 4 * 0.008 + 0.01


@every_schedule
@pytest.mark.parametrize("settings", [{"churn": 5.0}, {"churn": 1e3}, {"churn": 30.0, "lowest": 0.05, "highest": 3.0}])
def test_churn_keeps_the_marginals(schedule, settings):
    """trap M2: churn on a scaled path too. Tolerances as for the SDEs."""
    field = GaussianField(schedule)
    x = field.start(4000)
    grid = share_points(schedule, 60)
    result = ChurnedHeun(grid=grid, schedule=schedule, **settings)(field, x, generator=seeded())
    stds, means = spreads(field, result.state, 1.0)
    assert float(stds.abs().max()) < 4 * 0.0112 + 0.03
    assert float(means.abs().max()) < 4 * 0.0158 + 0.03
    assert not torch.allclose(result.state, ChurnedHeun(grid=grid, schedule=schedule)(field, x).state)


def test_bias_of_churn_shrinks():
    """trap M4: with as much churn as there may be, at second order or better."""
    field = GaussianField(Linear())
    x = field.start(100_000)
    biases = []
    for n in (10, 40):
        result = churned(grid=edm_points(Linear(), n, lowest=0.02, highest=20.0), schedule=Linear())(
            field, x, generator=seeded(n)
        )
        biases.append(float(spreads(field, result.state, 1.0)[0].abs().max()))
    # 100 000 rows know a standard deviation to 0.22 %.
    assert biases[0] > 0.02
    assert biases[1] < biases[0] / 8 + 4 * 0.0022


def test_churn_acts_where_it_may():
    """traps M1, S8: raised times lie before the grid's own, inside the interval and between S_min and S_max."""
    steps, field = 10, GaussianField(Linear())
    grid = list(share_points(Linear(), steps))  # equal steps, as the solver lays them
    ChurnedHeun(steps, schedule=Linear(), churn=2.0)(field, field.start(3), generator=seeded())
    raised = sorted(set(field.times) - set(grid))
    assert len(raised) == steps - 1  # not in the step from ς = ∞
    for time, before in zip(raised, grid[1:-1], strict=True):
        # ς = (1 − t)/t is raised by churn/steps of itself.
        assert (1 - time) / time == pytest.approx(1.2 * (1 - before) / before, rel=1e-12)
    field.times.clear()
    limited = ChurnedHeun(steps, schedule=Linear(), churn=2.0, lowest=0.3, highest=3.0)
    limited(field, field.start(3), generator=seeded())
    raised = sorted(set(field.times) - set(grid))
    assert len(raised) == sum(0.3 <= (1 - t) / t <= 3.0 for t in grid[1:-1])
    # No more than √2 − 1, and never above the level of the start.
    field.times.clear()
    churned(steps, schedule=Linear())(field, field.start(3), 0.5, 1.0, generator=seeded())
    assert min(field.times) == 0.5


def test_settings_that_say_nothing_are_refused():
    """trap M2: no argument is ignored."""
    for settings in ({"inflation": 1.003}, {"lowest": 0.1}, {"highest": 9.0}):
        with pytest.raises(ConfigError, match="without churn"):
            ChurnedHeun(5, schedule=Linear(), **settings)
        ChurnedHeun(5, schedule=Linear(), churn=1.0, **settings)
    for settings in ({"churn": -1.0}, {"churn": math.nan}, {"churn": 1.0, "lowest": 2.0, "highest": 1.0}):
        with pytest.raises(ConfigError, match="ChurnedHeun"):
            ChurnedHeun(5, schedule=Linear(), **settings)
    for scale in (-1.0, math.inf, math.nan):
        for name in DIFFUSIONS:
            with pytest.raises(ConfigError, match="scale of the noise"):
                make_diffusion(name, scale)
    with pytest.raises(UnknownNameError, match="'ancestral'"):
        make_diffusion("ancestor")
    with pytest.raises((ConfigError, TypeCheckError)):
        ReverseSDE(5, schedule=Linear(), diffusion="ancestral")


def test_a_diffusion_that_is_no_number_is_refused():
    for wrong in (Coefficient(lambda schedule, t: -t), given(lambda t: torch.sqrt(0.5 - t))):
        with pytest.raises(ConfigError, match="g² is negative or not a number"):
            ReverseSDE(4, schedule=Linear(), diffusion=wrong)(GaussianField(Linear()), rows(2, 2), generator=seeded())


def test_any_function_is_a_diffusion():
    """Also one that returns a number."""
    field, x = GaussianField(Linear()), rows(5, 2)
    function = ReverseSDE(6, schedule=Linear(), diffusion=lambda t: 0.7)
    named = ReverseSDE(6, schedule=Linear(), diffusion=make_diffusion("constant", 0.7))
    found, expected = (solver(field, x, generator=seeded()).state for solver in (function, named))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
