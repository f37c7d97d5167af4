"""Paths against closed forms: Gaussian marginals, path energies, the Schrödinger bridge, what the pulls leave."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from advect.paths import (
    AffinePath,
    BrownianBridge,
    CallablePull,
    Clock,
    ConstantPull,
    GaussianPath,
    Lipman,
    LipmanPath,
    NoisyDynamics,
    PowerPull,
    PullField,
    RegularisedPull,
    TangentPull,
    Trigonometric,
    VariancePreserving,
    WeightedPull,
    arrival_report,
    blurred_data,
    linear,
    noisy_target,
    remaining_fraction,
)

DOUBLE = torch.float64


def number(value):
    return torch.tensor([value], dtype=DOUBLE)


def gauss_legendre(low, high, nodes=200):
    x, w = np.polynomial.legendre.leggauss(nodes)
    return low + (high - low) * (x + 1) / 2, w * (high - low) / 2


def linear_weights(path, t):
    """(a0, a1, b0, b1) of x = a1 x1 + a0 x0, u = b1 x1 + b0 x0, read off samples of unit ends."""
    zero, one = number(0.0), number(1.0)
    from_source = path.sample(number(t), one, zero)
    from_data = path.sample(number(t), zero, one)
    return float(from_source.x), float(from_data.x), float(from_source.velocity), float(from_data.velocity)


# ---------------------------------------------------------------- Gaussian → Gaussian

MARGINALS = {
    "linear": (linear(), lambda t: (t, 1 - t, 1.0, -1.0)),
    "linear, noise": (linear(0.3), lambda t: (t, 1 - t, 1.0, -1.0)),
    "lipman": (LipmanPath(0.2), lambda t: (t, 1 - 0.8 * t, 1.0, -0.8)),
    "trigonometric": (
        AffinePath(Trigonometric()),
        lambda t: (
            math.sin(math.pi / 2 * t),
            math.cos(math.pi / 2 * t),
            math.pi / 2 * math.cos(math.pi / 2 * t),
            -math.pi / 2 * math.sin(math.pi / 2 * t),
        ),
    ),
    "pull 2/(1-t)": (WeightedPull(PowerPull(2.0)), lambda t: (1 - (1 - t) ** 2, (1 - t) ** 2, 2 - 2 * t, 2 * t - 2)),
    "gaussian": (
        GaussianPath(lambda t, z: t**2 * z, lambda t, z: 1 - t + 0.1 * t, given="data"),
        lambda t: (t**2, 1 - 0.9 * t, 2 * t, -0.9),
    ),
}


@pytest.mark.parametrize("name", MARGINALS)
@pytest.mark.parametrize("t", [0.0, 0.2, 0.6, 0.95])
def test_gaussian_to_gaussian_marginal_field(name, t):
    """u_t(x) = ∫ u_t(x|x1) p_t(x|x1) q(x1) dx1 / p_t(x) by quadrature is the closed form for q = N(m, s²), to 1e-9."""
    path, weights = MARGINALS[name]
    noise = getattr(path, "sigma", 0.0)
    m, s = 1.3, 0.6
    a, b, da, db = weights(t)
    # the trapezoid rule is exact to rounding for smooth tails; the narrowest kernel spans four nodes per deviation
    nodes, step = np.linspace(m - 10 * s, m + 10 * s, 20_001, retstep=True)
    x1 = torch.from_numpy(nodes)
    prior = torch.from_numpy(step * np.exp(-0.5 * ((nodes - m) / s) ** 2) / (s * math.sqrt(2 * math.pi)))
    variance = b**2 + noise**2 + a**2 * s**2
    for x in (-1.0, 0.4, 1.9):
        time, points = torch.full_like(x1, t), torch.full_like(x1, x)
        joint = prior * path.log_density(time, points, x1).exp()
        density, flux = float(joint.sum()), float((joint * path.velocity(time, points, None, x1)).sum())
        expected = da * m + (b * db + a * da * s**2) / variance * (x - a * m)
        assert density == pytest.approx(
            math.exp(-0.5 * (x - a * m) ** 2 / variance) / math.sqrt(2 * math.pi * variance), rel=1e-9
        )
        assert flux / density == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_table_of_paths_row_by_row():
    """Tong et al., table 1: the published fields, from α and σ given in the table's own words."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(50, generator=generator, dtype=DOUBLE) * 0.9 + 0.05
    x, x0, x1 = (torch.randn(50, generator=generator, dtype=DOUBLE) for _ in range(3))
    s = 0.1
    expected = (x1 - (1 - s) * x) / (1 - (1 - s) * t)
    torch.testing.assert_close(LipmanPath(s).velocity(t, x, x0, x1), expected)
    torch.testing.assert_close(AffinePath(Lipman(s)).velocity(t, x, None, x1), expected)
    general = GaussianPath(lambda t, z: t * z, lambda t, z: 1 - (1 - s) * t, given="data")
    torch.testing.assert_close(general.velocity(t, x, x0, x1), expected)
    # variance preserving, in diffusion time τ = 1 − t with dα/dτ = −β(τ) α/2
    tau = 1 - t
    alpha = torch.exp(-(0.1 * tau + 19.9 / 2 * tau**2) / 2)
    alpha_tau = -(0.1 + 19.9 * tau) / 2 * alpha
    expected = alpha_tau / (1 - alpha**2) * (alpha * x - x1)
    torch.testing.assert_close(AffinePath(VariancePreserving(cutoff=1e-15)).velocity(t, x, None, x1), expected)
    expected = (1 - 2 * t) / (2 * t * (1 - t)) * (x - t * x1 - (1 - t) * x0) + x1 - x0
    torch.testing.assert_close(BrownianBridge(0.7).velocity(t, x, x0, x1), expected)
    general = GaussianPath(lambda t, z: (1 - t) * z.x0 + t * z.x1, lambda t, z: 0.7 * torch.sqrt(t * (1 - t)))
    torch.testing.assert_close(general.velocity(t, x, x0, x1), expected)


def path_energy(path, m, s, d):
    """E ∫|u_t(X_t)|² dt for N(0, I) → N(m, s² I): mean² plus Cov(u, x)²/Var(x), integrated over time."""
    nodes, quad = gauss_legendre(0, 1)
    energy = 0.0
    for t, w in zip(nodes, quad, strict=True):
        a0, a1, b0, b1 = linear_weights(path, t)
        spread = (a0 * b0 + a1 * b1 * s**2) ** 2 / (a0**2 + a1**2 * s**2)
        energy += w * ((b1 * m) ** 2 + d * spread)
    return energy


@pytest.mark.parametrize(("m", "s", "d"), [(0.0, 0.5, 1), (2.0, 0.5, 3), (1.0, 1.0, 2), (3.0, 2.0, 5)])
def test_normalised_path_energy(m, s, d):
    """NPE of independent pairs on the linear path: d·s(2 − π/2)/(|m|² + d(1−s)²); 0 for optimal pairs. To 1e-6."""
    squared_w2 = m**2 + d * (1 - s) ** 2
    energy = path_energy(linear(), m, s, d)
    assert energy == pytest.approx(m**2 + d * (1 + s**2 - math.pi * s / 2), rel=1e-6)
    npe = abs(energy - squared_w2) / squared_w2
    assert npe == pytest.approx(d * s * (2 - math.pi / 2) / squared_w2, rel=1e-6)
    # optimal pairs: x1 = m + s x0, |u|² = |x1 − x0|² at every time
    x0 = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    u = (
        linear()
        .sample(torch.rand(7, generator=torch.Generator().manual_seed(1), dtype=DOUBLE), x0, m + s * x0)
        .velocity
    )
    torch.testing.assert_close(u, m + (s - 1) * x0)


def test_trigonometric_path_energy():
    """At s = 1 the trigonometric path keeps the variance: its energy is |m|²π²/8."""
    assert path_energy(AffinePath(Trigonometric()), 1.7, 1.0, 4) == pytest.approx(1.7**2 * math.pi**2 / 8, rel=1e-6)


@pytest.mark.parametrize("kappa_power", [1.0, 2.0, 3.0])
def test_energy_of_a_clock(kappa_power):
    """Energy of a conditional path is ∫κ'² times |x1 − x0|²: a²/(2a − 1) for κ = (1−t)^a, least at a = 1."""
    path = WeightedPull(PowerPull(kappa_power))
    nodes, quad = gauss_legendre(0, 1)
    u = path.sample(torch.from_numpy(nodes), torch.zeros(200, dtype=DOUBLE), torch.ones(200, dtype=DOUBLE)).velocity
    energy = float((torch.from_numpy(quad) * u.square()).sum())
    assert energy == pytest.approx(kappa_power**2 / (2 * kappa_power - 1), rel=1e-10)


# ---------------------------------------------------------------- Schrödinger bridge


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_schroedinger_bridge_marginals_exactly(sigma):
    """N(−a, 1) → N(a, 1): with the entropic plan the bridge has mean (2t−1)a, variance (1−t)²+t²+t(1−t)√(4+σ⁴).

    The plan's correlation C solves C/(1 − C²) = 1/σ² (density exp(−|x0−x1|²/2σ²) on the pairs). And the field moves
    that law: d Var/dt = 2 Cov(u, x), with every coefficient read off the path.
    """
    path, zero = BrownianBridge(sigma), number(0.0)
    correlation = (math.sqrt(sigma**4 + 4) - sigma**2) / 2
    assert correlation / (1 - correlation**2) == pytest.approx(1 / sigma**2)
    closed = lambda t: (1 - t) ** 2 + t**2 + t * (1 - t) * math.sqrt(4 + sigma**4)  # noqa: E731
    for t in (0.1, 0.5, 0.8):
        only_noise = path.sample(number(t), zero, zero, generator=torch.Generator().manual_seed(0))
        noise_variance = math.exp(-2 * float(path.log_density(number(t), zero, zero, zero))) / (2 * math.pi)
        assert noise_variance == pytest.approx(sigma**2 * t * (1 - t))
        noise_rate = float(only_noise.velocity / only_noise.x) * noise_variance
        variance = (1 - t) ** 2 + t**2 + 2 * t * (1 - t) * correlation + noise_variance
        assert variance == pytest.approx(closed(t), rel=1e-12)
        one = number(1.0)
        mean_rate = float(path.velocity(number(t), number((2 * t - 1) * 3.0), -3 * one, 3 * one))
        assert mean_rate == pytest.approx(2 * 3.0)  # d/dt (2t−1)a
        # x = (1−t)x0 + t x1 + …, u = x1 − x0 + …
        covariance = t - (1 - t) + (1 - t - t) * correlation + noise_rate
        slope = (closed(t + 1e-6) - closed(t - 1e-6)) / 2e-6
        assert 2 * covariance == pytest.approx(slope, rel=1e-8, abs=1e-8)


def test_schroedinger_bridge_marginals_of_samples():
    """The same by drawing: mean within 4 standard errors, variance within 4·√(2/n)."""
    sigma, a, n = 1.0, 2.0, 100_000
    generator = torch.Generator().manual_seed(0)
    c = (math.sqrt(sigma**4 + 4) - sigma**2) / 2
    e0, e1 = torch.randn(2, n, generator=generator, dtype=DOUBLE)
    x0, x1 = -a + e0, a + c * e0 + math.sqrt(1 - c**2) * e1
    for t in (0.25, 0.5, 0.9):
        x = BrownianBridge(sigma).sample(torch.full((n,), t, dtype=DOUBLE), x0, x1, generator=generator).x
        variance = (1 - t) ** 2 + t**2 + t * (1 - t) * math.sqrt(4 + sigma**4)
        assert abs(float(x.mean()) - (2 * t - 1) * a) < 4 * math.sqrt(variance / n)
        assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_bridge_variance(t):
    n = 50_000
    x = (
        BrownianBridge(1.5)
        .sample(
            torch.full((n,), t, dtype=DOUBLE),
            torch.full((n,), -1.0, dtype=DOUBLE),
            torch.full((n,), 2.0, dtype=DOUBLE),
            generator=torch.Generator().manual_seed(0),
        )
        .x
    )
    std = 1.5 * math.sqrt(t * (1 - t))
    assert abs(float(x.mean()) - (3 * t - 1)) <= 4 * std / math.sqrt(n) + 1e-12
    assert float(x.var()) == pytest.approx(std**2, rel=4 * math.sqrt(2 / n), abs=1e-24)


# ---------------------------------------------------------------- the fields x1 − x and w(t)(x1 − x)


def euler(field, x, steps):
    for k in range(steps):
        x = x + field(k / steps, x) / steps
    return x


@pytest.mark.parametrize(("steps", "left"), [(1, 0.0), (2, 0.25), (10, 0.349), (100, 0.366)])
def test_euler_hides_what_the_plain_field_leaves(steps, left):
    """Trap P11: one Euler step of x1 − x lands on x1; a hundred leave (1 − 1/n)^n → 1/e of x0."""
    x1 = torch.zeros(1, 2, dtype=DOUBLE)
    end = euler(PullField(ConstantPull(), x1), torch.ones(1, 2, dtype=DOUBLE), steps)
    assert float(end[0, 0]) == pytest.approx(left, abs=5e-4)
    assert float(end[0, 0]) == pytest.approx((1 - 1 / steps) ** steps, abs=1e-14)
    # divided by 1 − t it is the straight path: exact for every number of steps, and t = 1 is never touched
    end = euler(PullField(PowerPull(), x1), torch.ones(1, 2, dtype=DOUBLE), steps)
    torch.testing.assert_close(end, x1, rtol=0, atol=1e-13)


def test_what_is_left_is_said_and_refused():
    """Trap P11: κ(1) is printed with its remedy, and a path that does not arrive is no sampler unless one insists."""
    assert "0.368 of x0 is left" in arrival_report(ConstantPull())
    assert "0.632·x1 + 0.368·x0" in PullField(lambda t: torch.ones_like(t), torch.zeros(1, 1)).arrival_report()
    assert "arrives" in arrival_report(PowerPull(0.5))
    with pytest.raises(ValueError, match=r"0\.368 of x0 .* divide by 1 − t"):
        WeightedPull(ConstantPull())
    assert WeightedPull(ConstantPull(), allow_residual=True).end().source == pytest.approx(math.exp(-1))


def test_the_law_that_the_plain_field_generates():
    """Data N(5, 1): mean 3.16, std 0.731, W2 to the data 1.86 (papers: section 3)."""
    end = WeightedPull(ConstantPull(), allow_residual=True).end()
    mean, std = end.data * 5, math.hypot(end.data, end.source)
    assert (round(mean, 2), round(std, 3), round(math.hypot(5 - mean, 1 - std), 2)) == (3.16, 0.731, 1.86)


KNOWN = {
    "1": (lambda t: torch.ones_like(t), math.exp(-1)),
    "1/(1-t)": (lambda t: 1 / (1 - t), 0.0),
    "0.05/(1-t)": (lambda t: 0.05 / (1 - t), 0.0),
    "1/(1-t)^2": (lambda t: (1 - t) ** -2, 0.0),
    "1/sqrt(1-t)": (lambda t: (1 - t) ** -0.5, math.exp(-2)),
    "(1-t)^-0.9": (lambda t: (1 - t) ** -0.9, math.exp(-10)),
    "tan": (lambda t: math.pi / 2 * torch.tan(math.pi / 2 * t), 0.0),
    "3t^2": (lambda t: 3 * t**2, math.exp(-1)),
    "1-t": (lambda t: 1 - t, math.exp(-0.5)),
    "0": (lambda t: torch.zeros_like(t), 1.0),
    "early": (lambda t: torch.where(t < 0.5, 4.0, 0.0).to(t.dtype), math.exp(-2)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_remaining_fraction_of_any_weight(name):
    """κ(1) by quadrature, with divergent integrals recognised as such."""
    w, expected = KNOWN[name]
    assert remaining_fraction(w) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    "pull",
    [ConstantPull(1.7), PowerPull(0.5), PowerPull(2.0), TangentPull(), RegularisedPull(0.1), ConstantPull().rescaled()],
    ids=repr,
)
def test_closed_forms_agree_with_quadrature(pull):
    """Ω' = w, κ' = −wκ, and the same pull given only as a callable has the same κ, at the end too."""
    t = torch.tensor([0.0, 1e-3, 0.3, 0.9, 0.999], dtype=DOUBLE)
    by_quadrature = CallablePull(pull.weight)
    torch.testing.assert_close(by_quadrature.kappa(t), pull.kappa(t), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(by_quadrature.kappa_derivative(t), pull.kappa_derivative(t), rtol=1e-8, atol=1e-12)
    assert by_quadrature.remaining == pytest.approx(pull.remaining, rel=1e-9, abs=1e-12)
    expected = [integrate.quad(lambda u: float(pull.weight(number(u))), 0, float(end))[0] for end in t]
    torch.testing.assert_close(pull.total(t), torch.tensor(expected, dtype=DOUBLE), rtol=1e-8, atol=1e-12)


def test_rescaled_pull_keeps_the_shape_and_arrives():
    """κ = (e^(−t) − e^(−1))/(1 − e^(−1)); a pull that arrives is its own rescaling."""
    pull = ConstantPull().rescaled()
    t = torch.linspace(0, 1, 11, dtype=DOUBLE)
    expected = (torch.exp(-t) - math.exp(-1)) / (1 - math.exp(-1))
    torch.testing.assert_close(pull.kappa(t), expected, rtol=1e-12, atol=1e-15)
    assert float(pull.kappa(t)[-1]) == 0.0
    assert PowerPull().rescaled() == PowerPull()


def test_divergence_of_a_pull_is_autograds():
    x1 = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    t = torch.tensor([0.1, 0.4, 0.8, 1.0], dtype=DOUBLE)
    field = PullField(TangentPull(), x1)
    for row in range(4):
        single = PullField(TangentPull(), x1[row : row + 1])
        jacobian = torch.autograd.functional.jacobian(lambda y: single(t[row], y), x[row : row + 1])  # noqa: B023
        trace = jacobian.reshape(6, 6).trace()
        torch.testing.assert_close(field.divergence(t, x)[row], trace)


def test_clock_of_a_pull_is_the_affine_path():
    """u = w(t)(x1 − x) is the path α = 1 − κ, σ = κ: samples, velocities and densities agree."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 30, generator=generator, dtype=DOUBLE)
    t = torch.rand(30, generator=generator, dtype=DOUBLE)
    ours, affine = WeightedPull(TangentPull()), AffinePath(Clock(lambda t: torch.cos(math.pi / 2 * t)))
    one, other = ours.sample(t, x0, x1), affine.sample(t, x0, x1)
    torch.testing.assert_close(one.x, other.x)
    torch.testing.assert_close(one.velocity, other.velocity)
    torch.testing.assert_close(ours.log_density(t, x0, x1), affine.log_density(t, x0, x1))


# ---------------------------------------------------------------- three meanings of noise


@pytest.mark.parametrize(("power", "printed"), [(0.25, 0.180), (0.5, 0.046), (1.0, 0.0099), (2.0, 0.0033)])
def test_variance_of_the_noisy_pull(power, printed):
    """w = a/(1−t), g = 1, s0 = 0 at t = 0.99 (papers: section 3); closed form, our quadrature and SciPy agree."""
    t = number(0.99)
    closed = float(NoisyDynamics(PowerPull(power), 1.0).variance(t))
    assert closed == pytest.approx(printed, rel=0.02)
    expected = integrate.quad(lambda s: (0.01 / (1 - s)) ** (2 * power), 0, 0.99, epsabs=1e-13, epsrel=1e-12)[0]
    assert closed == pytest.approx(expected, rel=1e-9)
    by_rule = NoisyDynamics(PowerPull(power), lambda t: torch.ones_like(t))
    assert float(by_rule.variance(t)) == pytest.approx(expected, rel=1e-9)
    by_two_rules = NoisyDynamics(lambda t: power / (1 - t), 1.0)
    assert float(by_two_rules.variance(t)) == pytest.approx(expected, rel=1e-8)
    assert float(NoisyDynamics(PowerPull(power), 1.0).variance(number(1.0))) == 0.0


def test_variance_of_the_noisy_constant_pull():
    """Ornstein–Uhlenbeck: e^(−2t)s0² + g²(1 − e^(−2t))/2, closed and by quadrature; the mean is the noiseless one."""
    t = torch.linspace(0, 1, 5, dtype=DOUBLE)
    expected = 0.49 * torch.exp(-2 * t) + 0.25 * (1 - torch.exp(-2 * t)) / 2
    torch.testing.assert_close(NoisyDynamics(ConstantPull(), 0.5).variance(t, 0.7), expected)
    by_rule = NoisyDynamics(ConstantPull(), lambda t: torch.full_like(t, 0.5))
    torch.testing.assert_close(by_rule.variance(t, 0.7), expected, rtol=1e-8, atol=1e-12)


def test_noisy_dynamics_are_what_their_formulas_say():
    """Euler–Maruyama with 400 steps and 20,000 rows: within 4 standard errors plus the step's bias."""
    n, steps, end = 20_000, 400, 0.9
    dynamics = NoisyDynamics(PowerPull(1.0), 0.8)
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.full((n,), -1.0, dtype=DOUBLE), torch.full((n,), 2.0, dtype=DOUBLE)
    x, h = x0, end / steps
    for k in range(steps):
        noise = torch.randn(n, generator=generator, dtype=DOUBLE)
        x = x + h * dynamics.drift(k * h, x, x1) + math.sqrt(h) * dynamics.diffusion(number(k * h)) * noise
    time = torch.full((n,), end, dtype=DOUBLE)
    variance = float(dynamics.variance(time)[0])
    assert variance == pytest.approx(0.64 * end * (1 - end))  # the Brownian bridge
    assert abs(float((x - dynamics.mean(time, x0, x1)).mean())) < 4 * math.sqrt(variance / n)
    # the scheme's relative bias in the variance is of order h·w(t) = 2.3 %
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / n) + h / (1 - end)


def test_noisy_target_keeps_the_minimiser_and_blurred_data_do_not():
    """Fresh noise averages out of the target; noise fixed per pair stays in the data as variance."""
    n = 40_000
    generator = torch.Generator().manual_seed(0)
    bridge = linear().sample(
        torch.full((n,), 0.5, dtype=DOUBLE), torch.zeros(n, dtype=DOUBLE), torch.ones(n, dtype=DOUBLE)
    )
    noisy = noisy_target(bridge, 0.5, generator=generator)
    assert noisy.x is bridge.x
    assert abs(float((noisy.velocity - bridge.velocity).mean())) < 4 * 0.5 / math.sqrt(n)
    assert float((noisy.velocity - bridge.velocity).var()) == pytest.approx(0.25, rel=4 * math.sqrt(2 / n))
    again = noisy_target(bridge, 0.5, generator=generator)
    assert not torch.equal(noisy.velocity, again.velocity), "the noise of a target must be fresh"
    blurred = blurred_data(torch.ones(n, dtype=DOUBLE), 0.5, generator=generator)
    assert float(blurred.var()) == pytest.approx(0.25, rel=4 * math.sqrt(2 / n))
