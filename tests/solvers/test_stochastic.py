"""Samplers with noise: right marginals for every g, on every path, at every number of steps."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.integrate import quad

from advect.errors import ConfigError, UnknownNameError
from advect.paths import Karras, Linear, Trigonometric, VarianceExploding, VariancePreserving
from advect.solvers import (
    DIFFUSIONS,
    Adaptive,
    Ancestral,
    ChurnedHeun,
    ReverseSDE,
    edm_points,
    make_diffusion,
    make_solver,
    share_points,
)
from advect.solvers.affine import read
from advect.solvers.diffusion import Coefficient, given
from advect.solvers.noise import NoisySystem
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


class Response(NoisySystem):
    """A system whose noise is not drawn: the row after the second and after as many steps as came before sees a one."""

    def noise(self, number, like, *, inside=False):
        drawn = torch.zeros(self.batch, 2, dtype=like.dtype)
        drawn[2 + number] = float(not inside)
        return drawn[self.rows] @ GaussianField.turn.T


def exact_spreads(noise, schedule, steps, t1, monkeypatch):
    """Relative errors of the standard deviations along both axes of the data, and the offset of the mean, without
    sampling error.

    On Gaussian data the field is affine in x, so is every step in x and its noise, and the variance at the end is a sum
    of squared responses: to the spread at the start, and to the noise of each step.
    """
    field = GaussianField(schedule)
    a, s = weights(schedule, 0.0)
    x = (a * field.mean).repeat(steps + 2, 1)
    x[1] += (a**2 * field.spread**2 + s**2).sqrt() @ field.turn.T
    monkeypatch.setattr("advect.solvers.noise.NoisySystem", Response)
    solver = ReverseSDE(grid=share_points(schedule, steps, 0.0, t1), schedule=schedule, diffusion=noise)
    result = solver(field, x, 0.0, t1)
    a, s = weights(schedule, t1)
    responses = (result.state[1:] - result.state[0]) @ field.turn
    found = responses.square().sum(0).sqrt() / (a**2 * field.spread**2 + s**2).sqrt() - 1
    return found, result.state[0] - a * field.mean, int(result.nfe[0])


# What 15 and 60 steps even in ω leave of a standard deviation, by any schedule (measured, rounded up), and how many
# times less the second is at least: 16 at order 2. Where g stays above 2 at σ = 0 the order shows only with shorter
# steps.
LEFT = {
    "ancestral": (0.01, 6e-4, 12),
    "ancestral, half": (4e-3, 2e-4, 12),
    "sigma": (6e-3, 3e-4, 12),
    "sine": (0.011, 7e-4, 12),
    "constant": (8e-3, 6e-4, 6),
    "callable": (0.011, 3e-3, 3),
    "much": (0.04, 0.02, 1.3),
}


@pytest.mark.parametrize("name", LEFT)
@every_schedule
def test_every_diffusion_keeps_the_marginals(name, schedule, monkeypatch):
    """traps M2, M3, M4: mean and both standard deviations of samples from an exact velocity, at the end of the path and
    where a solve stops on the way, and how fast they become right.
    """
    most_few, most_many, ratio = LEFT[name]
    for t1 in (0.62, 1.0):
        few, mean, nfe = exact_spreads(NOISES[name], schedule, 15, t1, monkeypatch)
        many = exact_spreads(NOISES[name], schedule, 60, t1, monkeypatch)[0]
        few, many = float(few.abs().max()), float(many.abs().max())
        assert few < most_few
        assert many < most_many
        assert many < few / ratio or many < 4e-4
        # D − E is constant along the mean, so that is exact.
        assert float(mean.abs().max()) < 1e-12
        assert 16 <= nfe <= 30


def test_the_bias_of_the_spread_is_of_second_order(monkeypatch):
    """trap M4, weak order 2 where g falls with σ: slopes measured between 60 and 240 steps are 1.9 to 2.1."""
    for name in ("ancestral", "ancestral, half", "sigma", "sine"):
        errors = [exact_spreads(NOISES[name], Linear(), n, 1.0, monkeypatch)[0].abs().max() for n in (60, 240)]
        assert 1.8 < math.log(float(errors[0] / errors[1])) / math.log(4) < 2.3


def test_spreads_of_drawn_samples():
    """The same by drawing, so that the draws themselves are looked at: 40 000 rows know a standard deviation to 0.35 %,
    a mean to 0.5 % of it; the states on the way are drawn from the process inside the steps.
    """
    field = GaussianField(Linear())
    x = field.start(40_000)
    times = torch.tensor([0.62, 1.0], dtype=torch.float64)
    for name in ("ancestral", "constant"):
        result = ReverseSDE(30, schedule=Linear(), diffusion=NOISES[name])(field, x, times=times, generator=seeded(1))
        for state, t in zip(result.states, times.tolist(), strict=True):
            stds, means = spreads(field, state, t)
            # Inside a step D − E stands still: 0.2 % more.
            assert float(stds.abs().max()) < 4 * 0.0035 + 0.004
            assert float(means.abs().max()) < 4 * 0.005


@every_noise
@every_schedule
def test_samples_are_finite_at_every_number_of_steps(noise, schedule):
    """trap M6: no step can grow, whatever g does; nothing is NaN near the noise end."""
    field = GaussianField(schedule)
    x = field.start(50)
    for steps in (1, 2, 3, 11):
        result = ReverseSDE(steps, schedule=schedule, diffusion=noise)(field, x, generator=seeded())
        assert torch.isfinite(result.state).all()
        # One at the start, one half-way of each step, one more at the start of steps after most noise was replaced.
        assert steps + 1 <= int(result.nfe[0]) <= 2 * steps
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
def test_no_noise_is_the_ode(schedule):
    """η = 0 and c = 0 add nothing: the same solver of the ODE whatever the name, of second order, and it says so."""
    field, x = two_dimensional(schedule), rows(50, 2)
    truth = Adaptive("tsit5", 1e-10, 1e-10)(field, x).state
    errors = []
    for steps in (40, 160):
        found = [ReverseSDE(steps, schedule=schedule, diffusion=make_diffusion(name, 0.0)) for name in DIFFUSIONS]
        assert not any(solver.stochastic for solver in found)
        states = [solver(field, x, generator=seeded(n)).state for n, solver in enumerate(found)]
        for state in states[1:]:
            torch.testing.assert_close(state, states[0], rtol=0, atol=1e-13)
        errors.append(float((states[0] - truth).square().mean().sqrt()))
    assert math.log(errors[0] / errors[1]) / math.log(4) > 1.7
    assert errors[1] < 1e-3


def test_who_is_stochastic_is_told_by_the_solver():
    """Not by its name: noise of strength 0 is none, and churn is off unless it is asked for."""
    schedule = Linear()
    for name, quiet in (("ancestral", 0.0), ("sde", 0.0), ("edm-heun", None), ("edm-heun", 0.0), ("bridge-sde", 0.0)):
        assert not make_solver(name, steps=5, schedule=schedule, noise=quiet).stochastic
    for name, loud in (("ancestral", None), ("sde", 0.1), ("edm-heun", 1.0), ("bridge-sde", None)):
        assert make_solver(name, steps=5, schedule=schedule, noise=loud).stochastic
    for name in ("adams3", "unipc", "ddim"):
        assert not make_solver(name, steps=5, schedule=schedule).stochastic


def test_ancestral_is_the_posterior_of_ddpm():
    """Ho et al. 2006.11239, equations 6 and 7: mean and variance of q(x_{t−1} | x_t, x_0), in their symbols."""
    schedule = VariancePreserving()
    point = torch.tensor([[0.7, -1.1]], dtype=torch.float64)

    def field(t, x, condition=None):
        a, s, da, ds = four(schedule, t)
        return da * point + ds * (x - a * point) / s

    x = rows(1, 2).expand(20_000, 2)
    # The first step of a solve to the data, whose noise is not limited: from 0.5 to 0.55.
    solver = ReverseSDE(grid=(0.0, 0.1, 1.0), schedule=schedule)
    times = torch.tensor([0.55], dtype=torch.float64)
    found = solver(field, x, 0.5, 1.0, times=times, generator=seeded()).states[0]
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
