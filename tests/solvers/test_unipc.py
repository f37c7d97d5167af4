"""UniPC: its weights against quadrature, the methods it contains, its order, its ends."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.integrate import quad

from advect.errors import ConfigError
from advect.paths import Linear, Trigonometric, VariancePreserving
from advect.solvers import DDIM, Adaptive, DPMSolver2M, UniPC, make_solver, share_points
from advect.solvers.affine import read
from advect.solvers.unipc import VARIANTS, exponential_moments, unified_weights
from tests.solvers.affine_truth import SCHEDULES, GaussianField, four, rows
from tests.truth.exact_fields import two_dimensional


def error(found, expected):
    return float((found - expected).square().mean().sqrt())


def slope(errors, factor):
    return math.log(errors[0] / errors[-1]) / math.log(factor)


@pytest.mark.parametrize("length", [1e-6, 0.3, 0.999, 1.001, 4.0, 30.0])
def test_moments_against_quadrature(length):
    """h k! φ_{k+1}(−h) where the series is summed, where the recurrence is, and where they meet; 1 at h = ∞."""
    for k, found in enumerate(exponential_moments(length, 3), start=1):
        # On s = h(1 − u), where the integrand is as wide as its weight e^{−s}.
        expected = quad(lambda s, k=k: (1 - s / length) ** k * math.exp(-s), 0, length, epsabs=0, epsrel=1e-12)[0]
        assert found == pytest.approx(expected, rel=1e-11)
    assert exponential_moments(math.inf, 3) == [1.0] * 3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ratios", [(-0.8, 1.0), (-1.1, -2.0, 1.0), (-0.7, -1.5)])
def test_weights_solve_the_equations_of_the_paper(ratios, variant):
    """Zhao et al. 2302.04867, theorem 3.1 in their symbols: Σ a_m r_m^{k−1} B(h) = φ_k(h), scaled, and x moves by
    Σ a_m B(h) D_m/r_m. B cancels, so both variants agree.
    """
    length = 0.6
    b_of_h = length if variant == "bh1" else math.expm1(length) * math.exp(-length)
    found = unified_weights(ratios, length, variant)
    size = len(ratios)
    matrix = torch.tensor([[r ** (k - 1) for r in ratios] for k in range(1, size + 1)], dtype=torch.float64)
    phi = [quad(lambda u, k=k: u**k * length * math.exp(-length * (1 - u)), 0, 1, epsrel=1e-13)[0] for k in (1, 2, 3)]
    a = torch.linalg.solve(matrix, torch.tensor(phi[:size], dtype=torch.float64) / b_of_h)
    expected = [float(a[m]) * b_of_h / r for m, r in enumerate(ratios)]
    assert found == pytest.approx(expected, rel=1e-10)


def test_one_difference_is_where_the_variants_differ():
    """a = ½ in both; B₂ stays finite with h."""
    assert unified_weights((-0.5,), 0.6, "bh1") == pytest.approx([0.6 / 2 / -0.5], rel=1e-15)
    assert unified_weights((-0.5,), 0.6, "bh2") == pytest.approx([(1 - math.exp(-0.6)) / 2 / -0.5], rel=1e-14)
    assert unified_weights((1.0,), math.inf, "bh2") == [0.5]


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.9)])
def test_predictors_alone_are_known_solvers(t0, t1):
    """UniP-1 is DDIM, UniP-2 with B₂ is DPM-Solver++ (2M): any field, both directions, states inside the steps too."""
    schedule = Trigonometric()
    field, x = two_dimensional(schedule), rows(20, 2)
    times = torch.linspace(t0, t1, 8, dtype=torch.float64)
    for order, known in ((1, DDIM), (2, DPMSolver2M)):
        ours = UniPC(9, schedule=schedule, order=order, corrected=False)(field, x, t0, t1, times=times)
        theirs = known(9, schedule=schedule)(field, x, t0, t1, times=times)
        torch.testing.assert_close(ours.states, theirs.states, rtol=0, atol=1e-12)
        assert torch.equal(ours.nfe, theirs.nfe)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("case", ["gaussian", "mixture"])
def test_order_between_finite_ends(case, order, variant):
    """p + 1, of which the start leaves 3: exact fields, against a closed form and the adaptive solver at 1e-11.

    Slopes measured between 100 and 400 steps: 1.9 to 2.0 for p = 1, 3.0 to 3.1 for p = 2, 2.9 to 3.5 for p = 3.
    """
    schedule = Trigonometric()
    if case == "gaussian":
        field = GaussianField(schedule)
        x = field.moved(field.start(50), 0.0, 0.15)
        truth = field.moved(x, 0.15, 0.8)
    else:
        field, x = two_dimensional(schedule), rows(50, 2)
        truth = Adaptive("tsit5", 1e-11, 1e-11)(field, x, 0.15, 0.8).state
    errors = [
        error(UniPC(n, schedule=schedule, order=order, variant=variant)(field, x, 0.15, 0.8).state, truth)
        for n in (100, 400)
    ]
    assert slope(errors, 4.0) > min(order + 1, 3) - 0.15
    assert errors[-1] < {1: 5e-5, 2: 3e-7, 3: 1e-7}[order]


@pytest.mark.parametrize("schedule", [SCHEDULES[name] for name in ("linear", "trigonometric", "vp", "exploding")])
@pytest.mark.parametrize("order", [2, 3])
def test_pure_ends_are_reached_exactly_and_at_second_order(schedule, order):
    """No epsilon at either end: the last step lands on x = D, evaluations stay before it, and the error falls as h²
    (measured 2.0 to 2.3 between 40 and 160 steps): near an infinite λ the steps in λ do not shrink.
    """
    field = GaussianField(schedule)
    x = field.start(100)
    truth = field.moved(x, 0.0, 1.0)
    errors = []
    for steps in (40, 160):
        result = UniPC(steps, schedule=schedule, order=order)(field, x)
        errors.append(error(result.state, truth))
        assert result.nfe.tolist() == [steps] * 100
    assert max(field.times) < 1.0
    assert min(field.times) == 0.0
    assert 1.8 < slope(errors, 4.0) < 2.5
    # x1 = D where σ = 0: a field that always says D = m ends at m to rounding, from one step on.
    point = torch.tensor([2.0, -3.0], dtype=torch.float64)

    def pointed(t, x, condition=None):
        a, s, da, ds = four(schedule, t)
        return da * point + ds * (x - a * point) / s

    start, end = read(schedule, [0.0, 1.0], 1)
    noise = rows(5, 2)
    for steps in (1, 2, 3, 11):
        state = UniPC(steps, schedule=schedule, order=order)(pointed, start.ahead * point + start.behind * noise).state
        torch.testing.assert_close(state, end.ahead * point + end.behind * noise, rtol=0, atol=1e-12)


def test_the_corrector_is_worth_its_name():
    """With as many evaluations the corrected solver is better than its own predictor, at every p."""
    schedule = VariancePreserving()
    field = GaussianField(schedule)
    x = field.start(100)
    truth = field.moved(x, 0.0, 1.0)
    for order in (1, 2, 3):
        plain, corrected = (
            error(UniPC(20, schedule=schedule, order=order, corrected=c)(field, x).state, truth) for c in (False, True)
        )
        assert corrected < 0.8 * plain


def test_order_is_lowered_where_a_step_is_long():
    """A grid whose last step in λ is three times the one before: UniP-1 there, whatever order was asked for."""
    schedule = Linear()
    field, x = two_dimensional(schedule), rows(20, 2)
    levels = torch.tensor([-1.0, -0.5, 0.0, 0.5, 2.0], dtype=torch.float64)
    times = torch.sigmoid(levels).tolist()
    grid = [(t - times[0]) / (times[-1] - times[0]) for t in times]
    grid[-1] = 1.0
    # By hand: DDIM's step from the corrected state at λ = 0.5, with D as seen at the predicted point there.
    solver = UniPC(grid=grid, schedule=schedule, order=3)
    long = solver(field, x, times[0], times[-1]).state
    system, y = _boarded(solver, field, x)
    laid = solver.laid(times[0], times[-1])
    carry = ()
    for number in range(3):
        trial = solver.step(system, laid, number, y, carry)
        y, carry = trial.y, trial.carry
    start, end = solver.marks(laid, 3)
    kept = end.behind / start.behind
    torch.testing.assert_close(long, kept * y + (end.ahead - kept * start.ahead) * carry[0], rtol=0, atol=1e-12)


def _boarded(solver, field, x):
    from advect.solvers.along import board

    system, y = board(field, x, None, None, None, ())
    return solver.prepared(system, y, None), y


def test_settings():
    schedule = Linear()
    assert make_solver("unipc", schedule=schedule) == UniPC(20, schedule=schedule)
    assert UniPC(grid=share_points(schedule, 3), schedule=schedule).num_steps == 3
    for wrong in ({"order": 0}, {"order": 4}, {"variant": "bh3"}):
        with pytest.raises((ConfigError, TypeCheckError), match="order="):
            UniPC(5, schedule=schedule, **wrong)
