"""Schedules: exact ends, derivatives against autograd, log-SNR and its inverse, what is left at each end."""

import math

import numpy as np
import pytest
import torch

from advect.errors import ConfigError
from advect.paths import (
    Affine,
    Clock,
    DiscreteVariancePreserving,
    EndWeights,
    Karras,
    Linear,
    Lipman,
    PowerPull,
    Shortened,
    SmoothVariancePreserving,
    SubVariancePreserving,
    TangentPull,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
    wronskian,
)
from advect.paths.schedule import invert_log_snr

SCHEDULES = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "lipman": Lipman(),
    "lipman, 0": Lipman(0.0),
    "vp": VariancePreserving(),
    "vp, constant beta": VariancePreserving(5.0, 5.0),
    "smooth vp": SmoothVariancePreserving(),
    "ddpm": DiscreteVariancePreserving(),
    "ddpm, 100 levels": DiscreteVariancePreserving(100, 2e-3, 0.2),
    "sub-vp": SubVariancePreserving(),
    "ve": VarianceExploding(),
    "edm": Karras(),
    "affine": Affine(lambda t: t.square(), lambda t: (1 - t) * (2 - t) / 2),
    "clock": Clock(lambda t: (1 - t).square()),
    "pull": PowerPull(2.0).clock(),
    "tangent": TangentPull().clock(),
    "shortened": Shortened(VariancePreserving(cutoff=0.0), 0.0, 1 - 1e-4),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def inside(n=101):
    return torch.linspace(0.001, 0.999, n, dtype=torch.float64)


@every_schedule
def test_derivatives_equal_reverse_mode(schedule):
    t = inside().requires_grad_()
    for value, derivative in (
        (schedule.alpha(t) + 0 * t, schedule.alpha_derivative(t)),  # a constant has no graph
        (schedule.sigma(t), schedule.sigma_derivative(t)),
    ):
        torch.testing.assert_close(derivative, torch.autograd.grad(value.sum(), t)[0], rtol=1e-11, atol=1e-12)


@every_schedule
def test_log_snr_and_its_inverse(schedule):
    """λ = 2 log(α/σ), λ' = 2R/(ασ) > 0, and the inverse returns the time; error in t is error in λ over λ'."""
    t = inside().requires_grad_()
    log_snr = schedule.log_snr(t)
    torch.testing.assert_close(log_snr, 2 * torch.log(schedule.alpha(t) / schedule.sigma(t)))
    slope = torch.autograd.grad(log_snr.sum(), t)[0]
    expected = 2 * wronskian(schedule, t) / (schedule.alpha(t) * schedule.sigma(t))
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=0)
    assert float(slope.min()) > 0
    torch.testing.assert_close(schedule.time_of_log_snr(log_snr.detach()), t.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(invert_log_snr(schedule, log_snr.detach()), t.detach(), rtol=0, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_of_the_inverse(schedule, dtype):
    """λ at an end, ±∞ included, gives back the end, and values out of range the nearer one; never NaN."""
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    tolerance = 1e-4 if dtype is torch.float32 else 1e-9  # of λ ~ −2 log σ with σ rounded
    torch.testing.assert_close(schedule.time_of_log_snr(schedule.log_snr(ends)), ends, rtol=0, atol=tolerance)
    beyond = torch.tensor([-torch.inf, -1e4, 1e4, torch.inf], dtype=dtype)
    tolerance = max(tolerance, 1e-7)  # 1 − κ rounds to 0 where 1 − cos(πt/2) is below 1e-16, at t = 1e-8
    assert schedule.time_of_log_snr(beyond).tolist() == pytest.approx([0, 0, 1, 1], abs=tolerance)


@every_schedule
@pytest.mark.parametrize("shape", [(), (5,), (5, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_dtype_are_kept(schedule, shape, dtype):
    t = torch.full(shape, 0.25, dtype=dtype)
    for name in ("alpha", "sigma", "alpha_derivative", "sigma_derivative", "log_snr", "time_of_log_snr"):
        value = getattr(schedule, name)(t)
        assert value.shape == t.shape, name
        assert value.dtype == dtype, name


def test_ends_are_exact():
    """Not 6e-17 where 0 is meant, in any precision, and σ_min itself at the end of Lipman's."""
    for dtype in (torch.float32, torch.float64):
        ends = torch.tensor([0.0, 1.0], dtype=dtype)
        for schedule in (Linear(), Trigonometric(), Lipman(0.0), TangentPull().clock()):
            assert schedule.alpha(ends).tolist() == [0.0, 1.0], schedule
            assert schedule.sigma(ends).tolist() == [1.0, 0.0], schedule
        assert torch.equal(Lipman(1e-4).sigma(ends), torch.tensor([1.0, 1e-4], dtype=dtype))


def test_variance_preserving_is_the_published_one():
    """α² + σ² = 1, α = exp(−∫₀^τ β/2) with the integral by quadrature, and the limits at the data end by contract."""
    schedule = VariancePreserving(cutoff=0.0)
    t = inside()
    torch.testing.assert_close(schedule.alpha(t).square() + schedule.sigma(t).square(), torch.ones_like(t))
    tau = 1 - t
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None] * tau
    integral = torch.trapezoid(0.1 + 19.9 * grid, grid, dim=0)  # exact for a line
    torch.testing.assert_close(schedule.alpha(t), torch.exp(-integral / 2), rtol=1e-12, atol=0)
    one = torch.ones((), dtype=torch.float64)
    assert float(schedule.sigma_derivative(one)) == -math.inf
    assert schedule.finite_ends == (True, False)
    assert VariancePreserving().finite_ends == (True, True)
    # near the data σ ~ √(β_min τ)
    near = torch.tensor(1 - 1e-10, dtype=torch.float64)
    assert float(schedule.sigma(near)) == pytest.approx(math.sqrt(0.1 * 1e-10), rel=1e-6)


def test_what_is_left_at_the_ends_is_said():
    """Trap P9: the source left at t = 1 and the data seen at t = 0 are reported in words and numbers."""
    assert str(Linear().start()) == "1·x0"
    assert str(Linear().end()) == "1·x1"
    assert str(Lipman(0.25).end()) == "1·x1 + 0.25·x0"
    assert VariancePreserving().start().data == pytest.approx(math.exp(-10.05 / 2), rel=1e-9)
    assert VariancePreserving().end().source == pytest.approx(1e-3, rel=2e-3)


def test_conserved_wronskians():
    """R = 1 on the linear and Lipman's schedules, π/2 on the trigonometric: their velocity losses weigh alike."""
    t = inside()
    for schedule, value in ((Linear(), 1.0), (Lipman(0.3), 1.0), (Trigonometric(), math.pi / 2)):
        torch.testing.assert_close(wronskian(schedule, t), torch.full_like(t, value))


# ---------------------------------------------------------------- diffusion


@pytest.mark.parametrize(("steps", "first", "last"), [(1000, 1e-4, 0.02), (100, 2e-3, 0.2), (4000, 2.5e-5, 5e-3)])
def test_ddpm_levels_are_the_products(steps, first, last):
    """ᾱ_i = Π(1 − β_j) at every level, products taken in extended precision; exact at level 0."""
    schedule = DiscreteVariancePreserving(steps, first, last)
    kept = np.cumprod(1 - np.linspace(first, last, steps, dtype=np.longdouble))
    t = schedule.level_time(torch.arange(1, steps + 1))
    np.testing.assert_allclose(schedule.alpha(t).numpy() ** 2, kept.astype(float), rtol=1e-11)
    np.testing.assert_allclose(schedule.sigma(t).numpy() ** 2, (1 - kept).astype(float), rtol=1e-11)
    assert float(schedule.level_time(torch.tensor(0))) == 1.0
    assert float(schedule.level_time(torch.tensor(steps))) == 0.0


def test_ddpm_tends_to_the_continuous_path():
    """With N·β fixed, log ᾱ tends to −∫β at rate 1/N: β_1 = 0.1/N and β_N = 20/N."""
    t = inside()
    limit = SmoothVariancePreserving(0.1, 20.0).alpha(t).log()
    gaps = []
    for steps in (1000, 2000, 4000):
        alpha = DiscreteVariancePreserving(steps, 0.1 / steps, 20 / steps).alpha(t)
        gaps.append(float((alpha.log() - limit).abs().max()))
    assert gaps[1] / gaps[0] == pytest.approx(0.5, rel=0.05)
    assert gaps[2] / gaps[1] == pytest.approx(0.5, rel=0.05)


def test_the_smooth_clock_runs_through_the_published_path():
    """At equal log-SNR the weights are those of the textbook form, and the data end is exact with finite slopes."""
    smooth, textbook = SmoothVariancePreserving(), VariancePreserving(cutoff=0.0)
    t = inside()
    there = 1 - (1 - t).square()
    torch.testing.assert_close(smooth.alpha(t), textbook.alpha(there), rtol=1e-13, atol=0)
    # the textbook's 1 − t has lost all but eps/1e-6 of its digits at the last time
    torch.testing.assert_close(smooth.sigma(t), textbook.sigma(there), rtol=1e-9, atol=0)
    one = torch.ones((), dtype=torch.float64)
    assert (float(smooth.alpha(one)), float(smooth.sigma(one))) == (1.0, 0.0)
    assert smooth.finite_ends == (True, True)
    assert float(smooth.sigma_derivative(one)) == pytest.approx(-math.sqrt(0.1), rel=1e-12)  # σ ~ (1 − t)√β_min


def test_published_noise_levels():
    """Song et al.'s sub-VP variance is VP's squared; VE is geometric; EDM's steps are theirs, equation 5."""
    t = inside()
    textbook = VariancePreserving(cutoff=0.0)
    torch.testing.assert_close(SubVariancePreserving().sigma(t), textbook.sigma(t).square())
    torch.testing.assert_close(SubVariancePreserving().alpha(t), textbook.alpha(t))
    assert VarianceExploding().end() == EndWeights(1.0, 0.01)
    assert VarianceExploding().start().source == pytest.approx(50.0, rel=1e-15)
    middle = torch.tensor(0.5, dtype=torch.float64)
    assert float(VarianceExploding().sigma(middle)) == pytest.approx(math.sqrt(0.5))
    i = torch.arange(18, dtype=torch.float64)
    theirs = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(Karras().sigma(i / 17), theirs)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: SmoothVariancePreserving(0.0), "beta_min"),
        (lambda: DiscreteVariancePreserving(1), "steps"),
        (lambda: DiscreteVariancePreserving(10, 0.01, 0.9), "too fast"),
        (lambda: VarianceExploding(1.0, 0.5), "sigma_min"),
        (lambda: Karras(0.0), "sigma_min"),
        (lambda: Karras(rho=0.5), "rho"),
    ],
)
def test_impossible_noise_is_refused(make, word):
    with pytest.raises(ConfigError, match=word):
        make()
