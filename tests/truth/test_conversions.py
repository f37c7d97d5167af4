"""Conversions between predictions and changes of schedule, against the exact fields of a 1-D Gaussian mixture."""

import math

import pytest
import torch

from advect.errors import UnknownNameError, UnsupportedError
from advect.paths import (
    PREDICTIONS,
    Affine,
    DiscreteVariancePreserving,
    Karras,
    Linear,
    Lipman,
    PowerPull,
    Retimed,
    Shortened,
    SmoothVariancePreserving,
    SubVariancePreserving,
    TangentPull,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
    clocking,
    convert,
    error_factor,
    wronskian,
)
from advect.solvers import SOLVERS, make_solver
from advect.typing import batch_time

DOUBLE = torch.float64
SCHEDULES = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "lipman": Lipman(0.01),
    "vp": VariancePreserving(),
    "smooth vp": SmoothVariancePreserving(),
    "ddpm": DiscreteVariancePreserving(),
    "sub-vp": SubVariancePreserving(),
    "ve": VarianceExploding(),
    "edm": Karras(),
    "pull 2/(1-t)": PowerPull(2.0).clock(),
    "affine": Affine(lambda t: t.square(), lambda t: 1 - t),
}
ALL_PAIRS = [(a, b) for a in PREDICTIONS for b in PREDICTIONS]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)

WEIGHTS = torch.tensor([0.3, 0.7], dtype=DOUBLE)
MEANS = torch.tensor([-2.0, 1.0], dtype=DOUBLE)
STDS = torch.tensor([0.4, 0.8], dtype=DOUBLE)


def mixture(t, x, schedule):
    """Every prediction of the mixture on any schedule, each from its own formula and none from another.

    Given component k, x is N(α m_k, V_k) with V_k = α²s_k² + σ². Score by autograd of log p_t; noise, x1
    and velocity from the components' posterior means and from (V_k'/2V_k)(x − α m_k) + α' m_k.
    """
    x = x.clone().requires_grad_()
    a, s = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    da, ds = schedule.alpha_derivative(t)[:, None], schedule.sigma_derivative(t)[:, None]
    variance = a**2 * STDS**2 + s**2
    off = x[:, None] - a * MEANS
    log_parts = WEIGHTS.log() - 0.5 * (off**2 / variance + variance.log())
    log_density = torch.logsumexp(log_parts, 1)
    score = torch.autograd.grad(log_density.sum(), x)[0]
    posterior = log_parts.softmax(1)
    with torch.no_grad():
        x1 = (posterior * (MEANS + a * STDS**2 / variance * off)).sum(1)
        noise = (posterior * (s / variance * off)).sum(1)
        velocity = (posterior * (da * MEANS + (a * da * STDS**2 + s * ds) / variance * off)).sum(1)
    return {
        "x1": x1,
        "noise": noise,
        "velocity": velocity,
        "score": score,
        "displacement": x1 - x.detach(),
        "edm": karras_output(x1, x.detach(), (s / a).squeeze(1), a.squeeze(1)),
    }


def karras_output(x1, x, noise_level, scale):
    """F of D = c_skip y + c_out F, y = x/α with noise ς (Karras et al. 2206.00364, table 1, unit data variance)."""
    skip, out = 1 / (1 + noise_level**2), noise_level / (1 + noise_level**2).sqrt()
    return (x1 - skip * x / scale) / out


def points(n=200, low=0.02, high=0.98):
    t = torch.linspace(low, high, n, dtype=DOUBLE)
    return t, torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 1.5


@every_schedule
@pytest.mark.parametrize(("from_", "to"), ALL_PAIRS)
def test_every_pair_on_every_schedule(from_, to, schedule):
    """The conversions agree with the mixture; rounding is amplified by 1/(ασR), below 1e5 on these times."""
    t, x = points()
    exact = mixture(t, x, schedule)
    torch.testing.assert_close(convert(exact[from_], from_, to, t, x, schedule), exact[to], rtol=1e-9, atol=1e-9)


def test_linear_path_formulas():
    """R = 1, D = x + (1−t)v, E = x − tv, S = (tv − x)/(1−t); velocity = displacement/(1−t)."""
    t, x = points()
    v = torch.randn(200, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    linear = Linear()
    torch.testing.assert_close(convert(v, "velocity", "x1", t, x, linear), x + (1 - t) * v)
    torch.testing.assert_close(convert(v, "velocity", "noise", t, x, linear), x - t * v)
    torch.testing.assert_close(convert(v, "velocity", "score", t, x, linear), (t * v - x) / (1 - t))
    torch.testing.assert_close(convert(v, "displacement", "velocity", t, x, linear), v / (1 - t))


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("from_", "to"), ALL_PAIRS)
def test_finite_at_and_beside_the_ends(from_, to, dtype, schedule):
    """Trap P10: t = 0, 1, 1 ± 1e-7 (also outside by rounding): finite, dtype and shape kept."""
    t = torch.tensor([0.0, 1e-7, -1e-7, 1.0, 1 - 1e-7, 1 + 1e-7, 0.5], dtype=DOUBLE).to(dtype)
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    value = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    result = convert(value, from_, to, t, x, schedule)
    assert result.isfinite().all()
    assert result.shape == x.shape
    assert result.dtype == dtype


@pytest.mark.parametrize("name", ["linear", "trigonometric", "lipman"])
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_limits_are_exact_where_they_exist(name, end):
    """From the velocity, noise and x1 have limits at both ends and take them exactly; so has noise from the score."""
    schedule = SCHEDULES[name]
    t = torch.full((5,), end, dtype=DOUBLE)
    x = torch.linspace(-2, 2, 5, dtype=DOUBLE)
    if end == 1.0 and name != "lipman":  # σ = 0: x is x1, and the noise is independent of it with mean 0
        exact = {"x1": x, "noise": torch.zeros_like(x), "velocity": schedule.alpha_derivative(t) * x}
        pairs = [("velocity", "x1"), ("velocity", "noise"), ("noise", "x1"), ("noise", "velocity")]
    else:
        exact = mixture(t, x, schedule)
        pairs = [("velocity", "x1"), ("velocity", "noise"), ("score", "noise"), ("x1", "velocity"), ("x1", "noise")]
    for from_, to in pairs:
        result = convert(exact[from_], from_, to, t, x, schedule)
        torch.testing.assert_close(result, exact[to], rtol=1e-12, atol=1e-12, msg=f"{from_} -> {to}")


@every_schedule
def test_loss_weights(schedule):
    """|Δv|² = (R/σ)²|ΔD|² = (R/α)²|ΔE|² = (σR/α)²|ΔS|², and the factor is what two predictions really differ by."""
    t, x = points()
    a, s, r = schedule.alpha(t), schedule.sigma(t), wronskian(schedule, t)
    for from_, expected in (("x1", r / s), ("noise", r / a), ("score", s * r / a), ("velocity", torch.ones_like(r))):
        torch.testing.assert_close(error_factor(from_, "velocity", t, schedule), expected**2, rtol=1e-9, atol=0)
    one, other = torch.zeros_like(x), torch.ones_like(x)
    for from_, to in ALL_PAIRS:
        gap = convert(other, from_, to, t, x, schedule) - convert(one, from_, to, t, x, schedule)
        torch.testing.assert_close(error_factor(from_, to, t, schedule), gap.square(), rtol=1e-6, atol=1e-9)


def test_unknown_predictions_offer_the_nearest():
    x = torch.zeros(1)
    with pytest.raises(UnknownNameError, match="Did you mean 'velocity'"):
        convert(x, "velocty", "x1", x, x, Linear())


def test_one_euler_step_is_one_ddim_step():
    """On the linear path x + h·v equals A·D + B·E with (A, B) at the next time."""
    t, x = points(50, 0.1, 0.8)
    v = mixture(t, x, Linear())["velocity"]
    h = 0.07
    data = convert(v, "velocity", "x1", t, x, Linear())
    noise = convert(v, "velocity", "noise", t, x, Linear())
    torch.testing.assert_close(x + h * v, (t + h) * data + (1 - t - h) * noise)


# ---------------------------------------------------------------- change of schedule

MEAN, STD = 1.5, 0.5


class GaussianField:
    """Exact velocity for data N(1.5, 0.5²) and a standard-normal source, through σσ' only."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, t, x, condition=None):
        t = batch_time(t, x)
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        da, ds = self.schedule.alpha_derivative(t), self.schedule.sigma_derivative(t)
        rate = (a * da * STD**2 + s * ds) / (a**2 * STD**2 + s**2)
        return da * MEAN + rate * (x - a * MEAN)


RETIMES = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "lipman": Lipman(),
    "vp": VariancePreserving(),
    "tangent": TangentPull().clock(),
    "shortened": Shortened(Trigonometric(), 0.0, 0.999),
}
ORDERED = [(a, b) for a in RETIMES for b in RETIMES if a != b]


def rk4(field, x, steps=40):
    """Evaluates both ends, where many a change of schedule gives NaN."""
    h = 1 / steps
    for k in range(steps):
        t = k * h
        k1 = field(t, x)
        k2 = field(t + h / 2, x + h / 2 * k1)
        k3 = field(t + h / 2, x + h / 2 * k2)
        k4 = field(min(t + h, 1.0), x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@pytest.mark.parametrize(("old", "new"), ORDERED)
def test_retimed_field_is_the_field_of_the_new_schedule(old, new):
    """Trap P7: at every time whose signal-to-noise ratio both schedules reach, the ends included."""
    from_schedule, to_schedule = RETIMES[old], RETIMES[new]
    r = torch.linspace(0, 1, 41, dtype=DOUBLE)
    ends = from_schedule.log_snr(torch.tensor([0.0, 1.0], dtype=DOUBLE))
    reached = (to_schedule.log_snr(r) >= ends[0]) & (to_schedule.log_snr(r) <= ends[1])
    assert int(reached.sum()) >= 36
    r = r[reached]
    x = torch.linspace(-3, 3, len(r), dtype=DOUBLE)
    retimed = Retimed(GaussianField(from_schedule), from_schedule, to_schedule)(r, x)
    # t(r) is known to 1e-16 near t = 1, where σ' of vp turns that into 1e-9 of the velocity
    torch.testing.assert_close(retimed, GaussianField(to_schedule)(r, x), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("old", "new"), ORDERED)
def test_retimed_flow_reaches_the_closed_form(old, new):
    """Trap P7: rk4, which evaluates both ends, arrives where the old flow arrives, for every ordered pair.

    The old flow maps x ↦ α(1)m + √(V(1)/V(0)) (x − α(0)m). Where the new schedule starts or ends outside
    the old range the field has a kink there, which rk4 crosses with an error below h times its jump (0.2 at most).
    Inside, 40 steps leave 1.2e-6 with the exact field of the new schedule as well.
    """
    from_schedule, to_schedule = RETIMES[old], RETIMES[new]
    field = Retimed(GaussianField(from_schedule), from_schedule, to_schedule)
    start = torch.linspace(-2, 2, 5, dtype=DOUBLE)
    clock = clocking(torch.tensor([0.0, 1.0], dtype=DOUBLE), from_schedule, to_schedule)
    # states of the old flow at the old times that the new ends stand for
    a, s = from_schedule.alpha(clock.time), from_schedule.sigma(clock.time)
    spread = (a.square() * STD**2 + s.square()).sqrt()
    inner = start / clock.scale[0]
    expected = clock.scale[1] * (a[1] * MEAN + spread[1] / spread[0] * (inner - a[0] * MEAN))
    torch.testing.assert_close(field.at_start(inner), start)
    of_old, of_new = (
        schedule.log_snr(torch.tensor([0.0, 1.0], dtype=DOUBLE)) for schedule in (from_schedule, to_schedule)
    )
    kink = bool((of_new[0] < of_old[0]) | (of_new[1] > of_old[1]))
    torch.testing.assert_close(rk4(field, start), expected, rtol=0, atol=0.2 / 40 if kink else 2e-6)


# Error of the end point with 100 steps (adaptive: tolerance 1e-8) by order, for fields whose rates reach about ten.
BOUND = {1: 0.2, 2: 5e-3, 3: 1e-3, 4: 1e-5, 5: 1e-6}


@pytest.mark.parametrize("solver", [name for name, entry in SOLVERS.items() if not entry.scored])
@every_schedule
def test_every_schedule_with_every_solver(schedule, solver):
    """Trap P6: with the exact Gaussian velocity every solver reaches the closed-form end, evaluating t = 1 or not."""
    entry = SOLVERS[solver]
    effort = {"tolerance": 1e-8} if entry.adaptive else {"steps": 100}
    solve = make_solver(solver, **effort, schedule=schedule)
    start = torch.linspace(-2, 2, 5, dtype=DOUBLE)
    a, s = (f(torch.tensor([0.0, 1.0], dtype=DOUBLE)) for f in (schedule.alpha, schedule.sigma))
    spread = (a.square() * STD**2 + s.square()).sqrt()
    expected = a[1] * MEAN + spread[1] / spread[0] * (start - a[0] * MEAN)
    if entry.affine and float(wronskian(schedule, torch.zeros(1, dtype=DOUBLE))) == 0:
        with pytest.raises(UnsupportedError, match="does not tell data from noise"):
            solve(GaussianField(schedule), start)
        return
    solution = solve(GaussianField(schedule), start)
    assert bool((solution.status == 0).all())
    if getattr(solve, "stochastic", False):
        return  # ends at random: tests/solvers/test_stochastic.py
    bound = 1e-6 if entry.adaptive else BOUND[entry.order]
    torch.testing.assert_close(solution.state, expected, rtol=0, atol=bound)


def test_retiming_there_and_back_is_nothing():
    there = Retimed(GaussianField(Linear()), Linear(), Trigonometric())
    back = Retimed(there, Trigonometric(), Linear())
    t, x = points(21, 0.0, 1.0)
    torch.testing.assert_close(back(t, x), GaussianField(Linear())(t, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("old", "new"), [("linear", "square"), ("square", "linear")])
def test_retiming_a_clock_that_stops(old, new):
    """κ = (1−t)² stands still at t = 1: the new time has no finite slope there, and the field stays finite."""
    schedules = {"linear": Linear(), "square": PowerPull(2.0).clock()}
    field = Retimed(GaussianField(schedules[old]), schedules[old], schedules[new])
    t, x = torch.linspace(0, 1, 21, dtype=DOUBLE), torch.linspace(-1, 1, 21, dtype=DOUBLE)
    torch.testing.assert_close(field(t, x), GaussianField(schedules[new])(t, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(), (3,), (2, 2, 2)], ids=str)
def test_retimed_keeps_shape_and_dtype(dtype, event):
    field = Retimed(lambda t, x, condition=None: -x, Linear(), VariancePreserving())
    x = torch.ones(4, *event, dtype=dtype)
    for t in (0.0, 1.0, torch.linspace(0, 1, 4, dtype=dtype)):
        assert field(t, x).shape == x.shape
        assert field(t, x).dtype == dtype
        assert field(t, x).isfinite().all()


@every_schedule
def test_scale_and_time_are_consistent(schedule):
    """c = B/σ = A/α, and t', c'/c are the derivatives of t and c (finite differences, error h² = 1e-10)."""
    r, h = torch.linspace(0.1, 0.9, 17, dtype=DOUBLE), 1e-5
    to_schedule = Trigonometric()
    clock = clocking(r, schedule, to_schedule)
    torch.testing.assert_close(clock.scale * schedule.sigma(clock.time), to_schedule.sigma(r))
    torch.testing.assert_close(clock.scale * schedule.alpha(clock.time), to_schedule.alpha(r))
    after, before = clocking(r + h, schedule, to_schedule), clocking(r - h, schedule, to_schedule)
    torch.testing.assert_close((after.time - before.time) / (2 * h), clock.time_derivative, rtol=1e-6, atol=1e-7)
    slope = (after.scale.log() - before.scale.log()) / (2 * h)
    torch.testing.assert_close(slope, clock.log_scale_derivative, rtol=1e-6, atol=1e-7)
    assert math.isfinite(float(clock.scale.sum()))
