"""Schedules: exact ends, derivatives against autograd, log-SNR and its inverse, what is left at each end."""

import math

import pytest
import torch

from advect.paths import (
    Affine,
    Clock,
    Linear,
    Lipman,
    PowerPull,
    Shortened,
    TangentPull,
    Trigonometric,
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
        (schedule.alpha(t), schedule.alpha_derivative(t)),
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
