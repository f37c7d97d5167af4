"""Solvers against theory, closed forms and SciPy, in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from advect.records import Status
from advect.solvers import (
    RK4,
    SOLVERS,
    Adams3,
    Adaptive,
    ExactDivergence,
    HutchinsonDivergence,
    JacobianNorm,
    KineticEnergy,
    make_solver,
)
from advect.solvers.multistep import adams_weights
from advect.solvers.tableau import BOSH3, DOPRI5, EULER, HEUN, MIDPOINT, RK4_TABLE, TSIT5, real_stability_limit
from advect.typing import expand_time

TABLES = (EULER, MIDPOINT, HEUN, RK4_TABLE, BOSH3, DOPRI5, TSIT5)
PAIRS = (BOSH3, DOPRI5, TSIT5)
NAMES = [name for name, entry in SOLVERS.items() if not (entry.affine or entry.scored)]
FIXED = [name for name in NAMES if not SOLVERS[name].adaptive]
ADAPTIVE = [name for name in NAMES if SOLVERS[name].adaptive]


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pendulum(t, x, condition=None):
    """A driven pendulum: non-linear and time-dependent."""
    return torch.stack([x[:, 1], -torch.sin(3 * x[:, 0]) + torch.cos(2 * batch(t, x))], dim=1)


def batch(t, x):
    return expand_time(t, x).flatten()


def scipy_end(x, t0=0.0, t1=1.0, t_eval=None):
    """The pendulum by SciPy's eighth-order method."""

    def right(t, y):
        return [y[1], -math.sin(3 * y[0]) + math.cos(2 * t)]

    ends = [solve_ivp(right, (t0, t1), y, method="DOP853", rtol=1e-12, atol=1e-13, t_eval=t_eval).y for y in x.tolist()]
    return torch.tensor(np.stack([y if t_eval is not None else y[:, -1] for y in ends]))


def order_residuals(a, b, c, theta, order):
    """Residuals of the order conditions Σ b(θ) Φ(tree) = θ^|tree| / γ(tree), up to ``order``."""
    ac = a @ c
    found = [b.sum() - theta]
    if order >= 2:
        found += [b @ c - theta**2 / 2]
    if order >= 3:
        found += [b @ c**2 - theta**3 / 3, b @ ac - theta**3 / 6]
    if order >= 4:
        found += [b @ c**3 - theta**4 / 4, b @ (c * ac) - theta**4 / 8]
        found += [b @ (a @ c**2) - theta**4 / 12, b @ (a @ ac) - theta**4 / 24]
    if order >= 5:
        found += [b @ c**4 - theta**5 / 5, b @ (c**2 * ac) - theta**5 / 10, b @ (c * (a @ c**2)) - theta**5 / 15]
        found += [b @ (c * (a @ ac)) - theta**5 / 30, b @ ac**2 - theta**5 / 20, b @ (a @ c**3) - theta**5 / 20]
        found += [b @ (a @ (c * ac)) - theta**5 / 40, b @ (a @ (a @ c**2)) - theta**5 / 60]
        found += [b @ (a @ (a @ ac)) - theta**5 / 120]
    return np.abs(found)


def arrays(table):
    a = np.zeros((table.stages, table.stages))
    for i, row in enumerate(table.a):
        a[i, : len(row)] = row
    return a, np.array(table.b), np.array(table.c)


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_tables_satisfy_their_order_conditions(table):
    a, b, c = arrays(table)
    # The coefficients are given to 16 digits, the largest are near 50.
    assert np.abs(a.sum(1) - c).max() < 1e-14
    assert order_residuals(a, b, c, 1.0, table.order).max() < 1e-14
    if table.order < 5:
        assert order_residuals(a, b, c, 1.0, table.order + 1).max() > 1e-3
    if table.error:
        embedded = b - np.array(table.error)
        assert order_residuals(a, embedded, c, 1.0, table.error_order).max() < 1e-14
        assert order_residuals(a, embedded, c, 1.0, table.error_order + 1).max() > 1e-5
        assert table.a[-1] == table.b[:-1]  # first same as last


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_interpolants_satisfy_the_order_conditions_inside_the_step(table):
    """Order at least that of the method minus one (its local error is then that of the global solution)."""
    a, b, c = arrays(table)
    order = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 3, "bosh3": 3}.get(table.name, 4)
    for theta in (0.0, 0.1, 0.5, 0.9, 1.0):
        weights = np.array([float(w) for w in table.weights_at(torch.tensor(theta, dtype=torch.float64))])
        assert order_residuals(a, weights, c, theta, order).max() < 1e-13
    np.testing.assert_allclose(weights, b, atol=1e-14)


def test_stability_limits():
    """On the real axis: 2 for orders 1 and 2; the root of the quartic Taylor polynomial for RK4."""
    assert real_stability_limit(EULER) == pytest.approx(2.0, abs=2e-3)
    assert real_stability_limit(MIDPOINT) == pytest.approx(2.0, abs=2e-3)
    # |1 + z + z²/2 + z³/6 + z⁴/24| = 1 at −2.785; of degree 3 (the third-order pair) at −2.513.
    assert real_stability_limit(RK4_TABLE) == pytest.approx(2.785, abs=2e-3)
    assert real_stability_limit(BOSH3) == pytest.approx(2.513, abs=2e-3)


@pytest.mark.parametrize("nodes", [(0.3,), (0.3, 0.1), (0.3, 0.2, -0.4), (0.7, 0.3, 0.2)])
def test_adams_weights_integrate_polynomials(nodes):
    start, end = 0.3, 0.7
    for degree in range(len(nodes)):
        for fraction in (0.25, 1.0):
            weights = adams_weights(nodes, start, end, fraction)
            value = (end - start) * sum(w * t**degree for w, t in zip(weights, nodes, strict=True))
            stop = start + fraction * (end - start)
            assert value == pytest.approx((stop ** (degree + 1) - start ** (degree + 1)) / (degree + 1), abs=1e-14)
    # The classic coefficients on a uniform grid.
    np.testing.assert_allclose(adams_weights((0.0, -1.0, -2.0), 0.0, 1.0), [23 / 12, -16 / 12, 5 / 12])
    np.testing.assert_allclose(adams_weights((1.0, 0.0, -1.0), 0.0, 1.0), [5 / 12, 8 / 12, -1 / 12])


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_order_of_fixed_solvers(name, t0, t1):
    """The error falls by 2^order when the steps are halved; end state and dense states."""
    x = rows(4, 2)
    stops = t0 + (t1 - t0) * torch.tensor([0.31, 0.77], dtype=torch.float64)
    truth, inside = scipy_end(x, t0, t1), scipy_end(x, t0, t1, t_eval=stops.numpy())
    steps = (32, 64, 128)
    found = [make_solver(name, steps=n)(pendulum, x, t0, t1, times=stops) for n in steps]
    ends = [float((r.state - truth).abs().max()) for r in found]
    dense = [float((r.states.permute(1, 2, 0) - inside).abs().max()) for r in found]
    order = SOLVERS[name].order
    # Over a factor of four in the steps; a fifth of an order is left to the terms that have not vanished yet.
    assert math.log2(ends[0] / ends[-1]) / 2 > order - 0.2
    assert math.log2(dense[0] / dense[-1]) / 2 > order - 0.3
    assert math.log2(ends[0] / ends[-1]) / 2 < order + 1.2


@pytest.mark.parametrize("name", FIXED)
def test_order_on_uneven_grids(name):
    """Also with steps that differ by a factor of three, laid over the given interval (trap S13)."""
    x = rows(4, 2)
    truth = scipy_end(x, 0.2, 0.7)
    errors = []
    for n in (24, 48):
        u = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        grid = (u + u**2) / 2
        solver = type(make_solver(name, steps=1))(grid=grid)
        errors.append(float((solver(pendulum, x, 0.2, 0.7).state - truth).abs().max()))
    assert math.log2(errors[0] / errors[1]) > SOLVERS[name].order - 0.3


def test_one_step_of_adams_is_second_order():
    """The start: Euler predictor, trapezoid corrector; its local error is of third order."""
    x = rows(4, 2)
    errors = [float((Adams3(1)(pendulum, x, 0.0, h).state - scipy_end(x, 0.0, h)).abs().max()) for h in (0.1, 0.05)]
    assert 2.6 < math.log2(errors[0] / errors[1]) < 3.4


@pytest.mark.parametrize("table", PAIRS, ids=lambda t: t.name)
def test_embedded_error_scales_with_the_right_power(table):
    """trap S10: the estimate behaves like h^(q+1), the true local error like h^(p+1).

    y' = y² cos t has y = 1 / (1/y_0 − sin t).
    """
    x = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
    estimates, errors = [], []
    for h in (0.1, 0.05, 0.025):
        slopes, points = [], []
        for fraction, row in zip(table.c, table.a, strict=True):
            points.append(x + h * sum(w * k for w, k in zip(row, slopes, strict=True)))
            slopes.append(points[-1] ** 2 * math.cos(fraction * h))
        estimates.append((h * sum(e * k for e, k in zip(table.error, slopes, strict=True))).abs().max())
        errors.append((points[-1] - 1 / (1 / x - math.sin(h))).abs().max())
    assert math.log2(estimates[0] / estimates[2]) / 2 == pytest.approx(table.error_order + 1, abs=0.4)
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(table.order + 1, abs=0.4)


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 2.0), (2.0, 0.0), (-0.4, 0.9)])
def test_adaptive_agrees_with_scipy(name, tolerance, t0, t1):
    """End state and requested times, both directions, to a small multiple of the tolerance."""
    x = rows(6, 2)
    times = torch.linspace(t0, t1, 7, dtype=torch.float64)
    result = Adaptive(name, tolerance, tolerance)(pendulum, x, t0, t1, times=times)
    inside = scipy_end(x, t0, t1, t_eval=times.numpy())
    assert result.status.eq(0).all()
    # Local errors of up to `tolerance` (1 + |x|) each, some tens of steps, a pendulum that stretches by about e².
    assert float((result.state - inside[:, :, -1]).abs().max()) < 30 * tolerance
    assert float((result.states.permute(1, 2, 0) - inside).abs().max()) < 30 * tolerance


@pytest.mark.parametrize("name", ADAPTIVE)
def test_tighter_tolerance_costs_the_right_power(name):
    """Steps grow like tolerance^(−1/(q+1)): the controller uses the right exponent."""
    x = rows(1, 2)
    few, many = (float(Adaptive(name, tol, tol)(pendulum, x, 0.0, 20.0).nfe) for tol in (1e-5, 1e-8))
    exponent = math.log(many / few) / math.log(1e3)
    expected = 1 / (SOLVERS[name].order)
    assert exponent == pytest.approx(expected, abs=0.05)


MATRIX = torch.tensor([[0.3, -1.2, 0.1], [0.8, -0.5, 0.4], [-0.2, 0.6, 0.9]], dtype=torch.float64)


def linear(t, x, condition=None):
    return x @ MATRIX.T


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.7)])
def test_linear_log_determinant(name, t0, t1):
    """x' = Ax: log|det| = (t1 − t0) tr A exactly, for every solver, and e^{A(t1−t0)} x to its accuracy."""
    solver = Adaptive(name, 1e-9, 1e-9) if name in ADAPTIVE else make_solver(name, steps=64)
    x = rows(4, 3)
    result = solver(linear, x, t0, t1, divergence=ExactDivergence())
    expected = torch.full((4,), (t1 - t0) * float(MATRIX.trace()), dtype=torch.float64)
    torch.testing.assert_close(result.log_abs_det, expected, rtol=0, atol=1e-13)
    assert result.log_abs_det_error.tolist() == [0.0] * 4
    exact = x @ torch.matrix_exp(MATRIX * (t1 - t0)).T
    # Step 1/64 and |A| near 2: (|A| h)^p with p the order, times |x|.
    accuracy = {"euler": 0.1, "midpoint": 2e-3, "heun": 2e-3, "rk4": 1e-6, "adams3": 1e-4}.get(name, 1e-7)
    torch.testing.assert_close(result.state, exact, rtol=0, atol=accuracy)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("divergence", [ExactDivergence(), HutchinsonDivergence(2)])
def test_encode_and_decode_cancel(name, scale, divergence):
    """trap S6: ladj(encode) + ladj(decode) = 0, also with weights × 3, for the same probes."""
    first, second = scale * 0.4 * rows(16, 2, seed=1), scale * 0.4 * rows(2, 16, seed=2)
    net = lambda t, x, c=None: torch.tanh(x @ first.T + expand_time(t, x)) @ second.T  # noqa: E731
    solver = Adaptive(name, 1e-8, 1e-8) if name in ADAPTIVE else make_solver(name, steps=400)
    x = rows(4, 2)
    there = solver(net, x, 1.0, 0.0, divergence=divergence, generator=torch.Generator().manual_seed(0))
    back = solver(net, there.state, 0.0, 1.0, divergence=divergence, generator=torch.Generator().manual_seed(0))
    # Errors of the solver, magnified by the stretch of the flow (weights × 3: divergence near 10).
    accuracy = {"euler": 0.4, "midpoint": 3e-3, "heun": 3e-3}.get(name, 1e-3 if name == "adams3" else 2e-4)
    accuracy *= 1.0 if scale > 1 else 0.2
    assert float((back.state - x).abs().max()) < accuracy
    assert float((back.log_abs_det + there.log_abs_det).abs().max()) < accuracy
    assert float(there.log_abs_det.abs().min()) > 1e-3


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_log_determinant_has_its_own_tolerance(name, tolerance):
    """trap S11: a state that any step follows exactly, with a trace that peaks; the log-determinant decides."""

    class Still:
        """No motion, and a divergence that is a peak in time."""

        def __call__(self, t, x, condition=None):
            return torch.zeros_like(x)

        def divergence(self, t, x, condition=None):
            return 1 / (0.1 + (batch(t, x) - 0.4) ** 2)

    root = math.sqrt(0.1)
    expected = (math.atan(0.6 / root) + math.atan(0.4 / root)) / root
    solver = Adaptive(name, rtol=1e-2, atol=1e-2, log_det_tolerance=tolerance)
    result = solver(Still(), rows(3, 2), divergence=ExactDivergence())
    errors = (result.log_abs_det - expected).abs()
    # At most `tolerance` per step for the lower-order estimate; the steps taken are those of the higher order.
    assert float(errors.max()) < 2 * tolerance
    loose = Adaptive(name, rtol=1e-2, atol=1e-2)(Still(), rows(3, 2), divergence=ExactDivergence())
    assert int(loose.nfe[0]) < int(result.nfe[0])


def test_stochastic_trace_carries_its_error():
    """trap L2, L3: two-sided; the mean over probes lies within its standard errors of the exact value, as often as it
    should, and the printed error matches the spread over repeated solves."""
    net = lambda t, x, c=None: torch.tanh(x @ MATRIX.T * 1.5)  # noqa: E731
    x = rows(1, 3).expand(400, 3).contiguous()
    solver = RK4(8)
    exact = solver(net, x[:1], divergence=ExactDivergence()).log_abs_det
    for distribution in ("rademacher", "gaussian"):
        generator = torch.Generator().manual_seed(5)
        result = solver(net, x, divergence=HutchinsonDivergence(16, distribution), generator=generator)
        deviation = result.log_abs_det - exact
        # 400 rows: the mean is known to a twentieth of the spread (3.5 standard errors allowed), the spread itself to
        # about 4 % (twice that with the heavier tails of Gaussian probes).
        assert abs(float(deviation.mean())) < 3.5 * float(deviation.std()) / 20
        printed = float(result.log_abs_det_error.square().mean().sqrt())
        assert float(deviation.std()) == pytest.approx(printed, rel=0.15)
        # Student's t with 15 degrees of freedom lies within ±2.13 in 95 % of the rows; 400 rows give that to 1.1 %.
        inside = (deviation.abs() < 2.13 * result.log_abs_det_error).double().mean()
        assert 0.90 < float(inside) < 0.985


def test_one_probe_has_no_known_error():
    result = RK4(4)(linear, rows(3, 3), divergence=HutchinsonDivergence(1), generator=torch.Generator().manual_seed(0))
    assert torch.isnan(result.log_abs_det_error).all()
    assert torch.isfinite(result.log_abs_det).all()


def test_trace_costs_no_more_evaluations_than_the_state():
    """trap L1: with probes fixed per solve the integrand is smooth and a solve with the trace takes as many steps."""
    matrix = 0.5 * rows(16, 16)
    field = lambda t, x, c=None: x @ matrix.T / 4  # noqa: E731
    plain = Adaptive()(field, rows(8, 16))
    traced = Adaptive()(
        field, rows(8, 16), divergence=HutchinsonDivergence(2), generator=torch.Generator().manual_seed(0)
    )
    assert int(traced.nfe.max()) <= 2 * int(plain.nfe.max())


@pytest.mark.parametrize("name", NAMES)
def test_quantities_along_the_way(name):
    """∫‖v‖² and ∫‖∂v/∂x‖² of a linear field, in closed form, beside the log-determinant."""
    solver = Adaptive(name, 1e-9, 1e-9) if name in ADAPTIVE else make_solver(name, steps=200)
    x = rows(3, 3)
    result = solver(linear, x, divergence=ExactDivergence(), along=(KineticEnergy(), JacobianNorm()))
    truth = Adaptive("tsit5", 1e-12, 1e-12)(linear, x, times=torch.linspace(0, 1, 201, dtype=torch.float64)).states
    energy = torch.trapezoid((truth @ MATRIX.T).square().sum(2), dx=1 / 200, dim=0)
    # The trapezoid rule on 200 intervals is good to h²/12 f' ~ 1e-4; Euler to about a percent.
    torch.testing.assert_close(result.along[:, 0], energy, rtol=0.02 if name == "euler" else 1e-4, atol=1e-3)
    norm = torch.full((3,), float(MATRIX.square().sum()), dtype=torch.float64)
    torch.testing.assert_close(result.along[:, 1], norm, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.log_abs_det, torch.full_like(norm, float(MATRIX.trace())), rtol=0, atol=1e-12)
    alone = solver(linear, x, along=(KineticEnergy(),))
    assert alone.log_abs_det is None
    torch.testing.assert_close(alone.along[:, 0], result.along[:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_steps_tell_blow_up_from_an_undefined_field(name):
    solver = make_solver(name, steps=200)
    x = torch.tensor([[1.0], [0.1], [40.0]], dtype=torch.float64)
    grown = solver(lambda t, x, c=None: x * x, x, 0.0, 3.0)
    assert grown.status.tolist() == [int(Status.BLOW_UP), 0, int(Status.BLOW_UP)]
    assert float(grown.failed_at[2]) <= float(grown.failed_at[0])
    # y' = y² from 1 leaves at t = 1. Near it y ~ 1/h, and each later step at most squares it until it is past 1e154:
    # nine squarings from 1/h = 67 for Euler, fewer for higher orders, and Euler is some steps late already.
    assert 1.0 <= float(grown.failed_at[0]) <= 1.3
    cliff = solver(lambda t, x, c=None: 1 + 0 * torch.sqrt(0.7 - x), torch.tensor([0.0, -2.0], dtype=torch.float64))
    assert cliff.status.tolist() == [int(Status.NAN_FIELD), 0]
    # The cliff is met at t = 0.7, give or take one step and the stages inside it.
    assert abs(float(cliff.failed_at[0]) - 0.7) < 0.011
