"""Exponential integrators of affine paths against closed forms, in float64."""

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.integrate import quad

from advect.errors import ConfigError, UnsupportedError
from advect.paths import Affine, Karras, Linear, PowerPull, Trigonometric, VarianceExploding
from advect.solvers import (
    DDIM,
    DEIS,
    SOLVERS,
    Adams3,
    Adaptive,
    ChurnedHeun,
    DPMSolver2M,
    DPMSolver2S,
    Euler,
    NoiseAdams,
    StraightAdams,
    UniPC,
    edm_points,
    make_solver,
    share_points,
)
from advect.solvers.exponential import moments, share_weights
from tests.solvers.affine_truth import DETERMINISTIC, SCHEDULES, GaussianField, four, rows, weights
from tests.truth.exact_fields import two_dimensional

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
every_solver = pytest.mark.parametrize("name", DETERMINISTIC)
ORDER = {"ddim": 1, "2m": 2, "2s": 2, "deis": 3, "straight": 3, "noise": 3, "unipc": 2, "edm": 2}
# How far below its order a solver may be seen at the steps used here.
BELOW = {"ddim": 0.1, "2m": 0.45, "2s": 0.2, "deis": 0.4, "straight": 0.3, "noise": 0.5, "unipc": 0.65, "edm": 0.25}


def error(found, expected):
    return float((found - expected).square().mean().sqrt())


def slope(errors, factor=2.0):
    """The observed order over a sequence of steps that grows by ``factor``."""
    return math.log(errors[0] / errors[-1]) / math.log(factor) / (len(errors) - 1)


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.9)])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_ddim_is_euler_on_the_linear_path(t0, t1, steps):
    """traps M1 and section 11: one identity, any field, both directions, states inside the steps too."""
    field, x = two_dimensional(Trigonometric()), rows(20, 2)
    times = torch.linspace(t0, t1, 9, dtype=torch.float64)
    ours = DDIM(steps, schedule=Linear())(field, x, t0, t1, times=times)
    euler = Euler(steps)(field, x, t0, t1, times=times)
    torch.testing.assert_close(ours.state, euler.state, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.states, euler.states, rtol=0, atol=1e-12)
    assert torch.equal(ours.nfe, euler.nfe)


@every_solver
@every_schedule
def test_gaussian_data_is_reached_at_the_order_of_the_solver(name, schedule):
    """traps M7, P6: an exact *velocity* through every solver and schedule, ends with α = 0, σ = 0, σ' = −∞ included.

    Steps uniform in α/(α + σ), in which all these fields are smooth. Between 40 and 160 of them the slopes measured are
    0.99 for ddim, 1.6 to 2.2 for 2m and edm (h² log 1/h where a weight vanishes), 1.9 for 2s, 2.7 to 3.6 for deis and
    2.97 to 3.03 for straight; unipc has 2.0, and 1.4 on lipman, where its last step is of lower order up to 80 steps
    and as the others beyond; noise has 2.95, and 2.5 on vp, whose first step is long on its clock. There its error at
    160 steps is 1.04e-5, the largest of order 3.
    """
    field = GaussianField(schedule)
    x = field.start(200)
    truth = field.moved(x, 0.0, 1.0)
    grids = [share_points(schedule, n) for n in (40, 80, 160)]
    errors = [error(DETERMINISTIC[name](grid=grid, schedule=schedule)(field, x).state, truth) for grid in grids]
    assert errors[-1] < {1: 0.02, 2: 1e-3, 3: 2e-5}[ORDER[name]]
    assert ORDER[name] - BELOW[name] < slope(errors) < ORDER[name] + 0.8


@every_solver
@pytest.mark.parametrize("schedule", [Linear(), Trigonometric()])
def test_mixture_is_reached_at_the_order_of_the_solver(name, schedule):
    """trap M7 on a field that is not linear, against the adaptive solver of the velocity at 1e-11."""
    field, x = two_dimensional(schedule), rows(100, 2)
    truth = Adaptive("tsit5", 1e-11, 1e-11)(field, x).state
    errors = [error(DETERMINISTIC[name](n, schedule=schedule)(field, x).state, truth) for n in (100, 400)]
    assert slope(errors, 4.0) > ORDER[name] - 0.45


@every_solver
@pytest.mark.parametrize("schedule", [SCHEDULES[s] for s in ("linear", "trigonometric", "lipman", "vp")])
def test_encoding_is_the_same_solver_the_other_way_round(name, schedule):
    """From data to source, from σ = 0 and to α = 0, at the same order; and there and back."""
    field = GaussianField(schedule)
    x = field.moved(field.start(100), 0.0, 1.0)
    truth = field.moved(x, 1.0, 0.0)
    errors = []
    for n in (40, 160):
        grid = share_points(schedule, n, 1.0, 0.0)
        errors.append(error(DETERMINISTIC[name](grid=grid, schedule=schedule)(field, x, 1.0, 0.0).state, truth))
    assert slope(errors, 4.0) > ORDER[name] - 0.45
    inner = DETERMINISTIC[name](200, schedule=schedule)(field, field.moved(x, 1.0, 0.7), 0.7, 0.2).state
    assert error(inner, field.moved(x, 1.0, 0.2)) < {1: 0.05, 2: 3e-3, 3: 5e-4}[ORDER[name]]


@every_solver
@every_schedule
def test_one_point_of_data_is_reached_in_one_step(name, schedule):
    """trap M8: where D is constant every solver is exact, at any number of steps, and lands on the end of the path."""
    point = torch.tensor([2.0, -3.0], dtype=torch.float64)

    def field(t, x, condition=None):
        a, s, da, ds = four(schedule, t)
        return da * point + ds * (x - a * point) / s

    noise = rows(5, 2)
    (a0, s0), (a1, s1) = weights(schedule, 0.0), weights(schedule, 1.0)
    if name == "noise" or (name == "straight" and s1 == 0):
        return  # the one interpolates X − E, no constant; both look at the end, where this velocity is 0/0
    for steps in (1, 2, 3, 11):
        result = DETERMINISTIC[name](steps, schedule=schedule)(field, a0 * point + s0 * noise)
        # Those that look at t = 1 see their own rounding magnified by 1/σ = 1000 on VP, Heun by ς = 150 besides.
        rounding = {"edm": 1e-8, "straight": 1e-11}.get(name, 1e-12)
        torch.testing.assert_close(result.state, a1 * point + s1 * noise, rtol=0, atol=rounding)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@every_solver
@every_schedule
def test_evaluations_are_the_promised_ones_at_the_times_of_the_steps(name, steps, schedule):
    """traps M1, S7: the network sees the very times of the grid, and no evaluation is made where σ = 0."""
    field = GaussianField(schedule)
    result = DETERMINISTIC[name](steps, schedule=schedule)(field, field.start(3))
    tells = schedule not in (SCHEDULES["vp, σ' = -inf"], SCHEDULES["exploding"])
    from_source, to_data = weights(schedule, 0.0)[0] == 0, weights(schedule, 1.0)[1] == 0
    bare = {n for n, singular in ((0, from_source), (steps - 1, to_data)) if singular}
    expected = {
        "ddim": steps,
        "2m": steps,
        "unipc": steps,
        "2s": 2 * steps - len(bare),
        "edm": 2 * steps - len(bare),
        "deis": steps + 1 - to_data,
        "straight": steps + tells,
        "noise": steps + tells,
    }[name]
    assert result.nfe.tolist() == [expected] * 3
    assert len(field.times) == expected
    points = DETERMINISTIC[name](steps, schedule=schedule).points(steps, 0.0, 1.0)  # laid over [0, 1] as they are
    if name != "2s":
        assert set(field.times) <= set(points)
    if to_data and not (name in ("straight", "noise") and tells):
        assert max(field.times) < 1.0
    assert min(field.times) == 0.0


@pytest.mark.parametrize("left", [0.0, 1e-9, 1e-3, 0.3, 0.49, 0.51, 0.8, 0.999, 1 - 1e-9])
def test_moments_against_quadrature(left):
    """q(1 − q)∫uᵏ/(1 − qu)² du at long and short steps, where the closed forms cancel."""
    q = 1 - left
    found = moments(left, 3)
    for k in range(3):
        if left == 0.0:
            expected = 1.0
        else:
            # With e^z = 1/(1 − qu): du/(1 − qu)² = e^z dz/q and u = (1 − e^−z)/q, smooth however small 1 − q is.
            integrand = lambda z, k=k: (-math.expm1(-z) / q) ** k * math.exp(z)  # noqa: E731
            expected = left * quad(integrand, 0, -math.log(left), epsabs=0, epsrel=1e-12)[0]
        assert found[k] == pytest.approx(expected, rel=1e-10)
    # Exact in the limit of a short step: q/(k + 1).
    if q < 1e-8:
        assert found == pytest.approx([q, q / 2, q / 3], rel=1e-7)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.1), (0.3, 0.35), (0.5, 0.500001), (0.9, 0.99), (0.8, 1.0)])
@pytest.mark.parametrize("nodes", [(0.0,), (0.0, -0.1), (0.0, -0.1, -0.25), (1.0, 0.0, -2.0)])
def test_share_weights_integrate_polynomials_in_the_share(start, end, nodes):
    """b_t ∫ωᵏ d(a/b) by SciPy; on the linear path a + b = 1 and b_t = 1 − ω_t."""
    places = tuple(start + u * (end - start) for u in nodes)
    found = share_weights(places, start, end, (1 - end) / (1 - start))
    for k in range(len(nodes)):
        value = sum(w * p**k for w, p in zip(found, places, strict=True))
        if end == 1.0:
            expected = 1.0  # all the weight lies at the end
        else:
            expected = (1 - end) * quad(lambda w, k=k: w**k / (1 - w) ** 2, start, end, epsabs=0, epsrel=1e-13)[0]
        # The short step: q is a difference of numbers near 1/2, known to 2e-16/2e-6.
        assert value == pytest.approx(expected, rel=1e-9)


def test_dense_states_are_as_good_as_the_end():
    """trap M10 on Gaussian data: states inside the steps come from the same formula at the intermediate time."""
    schedule = Trigonometric()
    field = GaussianField(schedule)
    x = field.start(100)
    times = torch.tensor([0.0, 0.13, 0.5, 0.777, 0.98, 1.0], dtype=torch.float64)
    truth = [field.moved(x, 0.0, t) for t in times.tolist()]
    for solver in DETERMINISTIC.values():
        for n in (30, 150):
            result = solver(n, schedule=schedule)(field, x, times=times)
            assert torch.equal(result.states[0], x)
            assert torch.equal(result.states[-1], result.state)
            errors = [error(state, expected) for state, expected in zip(result.states, truth, strict=True)]
            assert max(errors) < 1.5 * errors[-1]


def test_where_the_velocity_does_not_tell_the_ends_apart():
    """trap P10: α'(0) = 0 leaves v(0) = −E alone; that is said, and a start a little later works."""
    schedule = Affine(lambda t: t.square(), lambda t: 1 - t)
    field = GaussianField(schedule)
    for solver in DETERMINISTIC.values():
        with pytest.raises(UnsupportedError, match="t = 0: the velocity does not tell"):
            solver(8, schedule=schedule)(field, field.start(3))
    x = field.moved(field.start(50), 0.0, 0.05)
    result = DEIS(80, schedule=schedule)(field, x, 0.05, 1.0)
    assert error(result.state, field.moved(x, 0.05, 1.0)) < 1e-3
    # A clock that stops at the data (R = 0 there) is no obstacle: that end is never asked for.
    stopping = PowerPull(2.0).clock()
    field = GaussianField(stopping)
    result = DEIS(80, schedule=stopping)(field, field.start(50))
    assert error(result.state, field.moved(field.start(50), 0.0, 1.0)) < 2e-3


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.5), (-0.5, 1.0), (1.2, 0.0)])
@every_solver
def test_outside_the_path_is_refused(name, t0, t1):
    with pytest.raises(ConfigError, match="α = "):
        DETERMINISTIC[name](4, schedule=Linear())(GaussianField(Linear()), rows(2, 2), t0, t1)


def test_a_schedule_that_does_not_move_is_refused():
    still = Affine(lambda t: 0.5 + 0 * t, lambda t: 0.5 + 0 * t)
    with pytest.raises(ConfigError, match="does not grow"):
        DDIM(4, schedule=still)(lambda t, x, c=None: x, rows(2, 2))
    # Where annotations are executed, as here, they refuse first.
    for wrong in (None, "linear", 3):
        with pytest.raises((ConfigError, TypeCheckError), match=r"no schedule|Schedule"):
            DEIS(4, schedule=wrong)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), Karras(), VarianceExploding()])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.1, 0.8)])
def test_share_points_are_even_in_the_share(schedule, t0, t1):
    points = share_points(schedule, 6, t0, t1)
    a, s = zip(*(weights(schedule, t0 + p * (t1 - t0)) for p in points), strict=True)
    shares = torch.tensor(a) / (torch.tensor(a) + torch.tensor(s))
    torch.testing.assert_close(shares.diff(), (shares[-1] - shares[0]).expand(6) / 6, rtol=1e-5, atol=1e-7)
    assert points[0] == 0.0
    assert points[-1] == 1.0
    assert len(points) == 7


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), Karras(), VarianceExploding()])
def test_edm_points(schedule):
    """ς^(1/ρ) is evenly spaced between the levels; both directions of time; steps are what was asked for."""
    for steps in (1, 2, 3, 12):
        assert len(edm_points(schedule, steps)) == steps + 1
    points = edm_points(schedule, 12, lowest=0.02, highest=5.0)
    a, s = zip(*(weights(schedule, p) for p in points[2:-1]), strict=True)
    root = (torch.tensor(s, dtype=torch.float64) / torch.tensor(a, dtype=torch.float64)) ** (1 / 7)
    assert float(root.diff().std() / root.diff().mean().abs()) < 1e-6
    backwards = edm_points(schedule, 12, 1.0, 0.0, lowest=0.02, highest=5.0)
    assert backwards == pytest.approx([1 - p for p in points[::-1]])
    for wrong in ({"rho": 0.0}, {"lowest": 0.0}, {"lowest": 3.0, "highest": 2.0}):
        with pytest.raises(ConfigError, match="rho"):
            edm_points(schedule, 4, **wrong)


def test_karras_is_edm_points_of_any_schedule():
    """Equal steps of the EDM schedule are the grid of the function, on the schedule's own ends."""
    points = edm_points(Karras(), 10, lowest=0.002, highest=80.0)
    assert points == pytest.approx([n / 10 for n in range(11)])


def test_straight_adams_is_adams_on_the_linear_path():
    """One identity, any field, both directions, states inside the steps too."""
    field, x = two_dimensional(Trigonometric()), rows(20, 2)
    for t0, t1 in ((0.0, 1.0), (1.0, 0.0), (0.2, 0.9)):
        times = torch.linspace(t0, t1, 9, dtype=torch.float64)
        ours = StraightAdams(9, schedule=Linear())(field, x, t0, t1, times=times)
        adams = Adams3(9)(field, x, t0, t1, times=times)
        torch.testing.assert_close(ours.states, adams.states, rtol=0, atol=1e-12)
        assert torch.equal(ours.nfe, adams.nfe)


def test_what_knowing_the_schedule_is_worth():
    """With α = 1 and σ from 80 the velocity is steep and D − E is not: 20 evaluations of a mixture.

    Root mean square errors measured: adams3 on equal steps of time 0.8; on equal steps of α/(α + σ) dpm++2m 0.0045,
    deis 0.0048, straight 0.0003.
    """
    schedule = Karras()
    field, x = two_dimensional(schedule), 80 * rows(200, 2)
    truth = Adaptive("tsit5", 1e-11, 1e-11)(field, x).state
    plain = error(Adams3(20)(field, x).state, truth)
    multistep = error(DPMSolver2M(20, schedule=schedule)(field, x).state, truth)
    exponential = error(DEIS(20, schedule=schedule)(field, x).state, truth)
    straight = error(StraightAdams(20, schedule=schedule)(field, x).state, truth)
    assert plain > 50 * max(multistep, exponential)
    assert min(multistep, exponential) > 5 * straight
    assert straight < 1e-3


def test_the_table_of_affine_solvers():
    """The rows, what they are built from, and what is refused."""
    schedule = Linear()
    affine = {name for name, entry in SOLVERS.items() if entry.affine}
    exponential, adams = {"ddim", "dpm++2m", "dpm++2s", "deis", "unipc"}, {"adams3-straight", "adams3-noise"}
    assert affine == exponential | adams | {"edm-heun", "ancestral", "sde"}
    assert {name for name, entry in SOLVERS.items() if entry.noisy} == {"edm-heun", "ancestral", "sde", "bridge-sde"}
    assert make_solver("ddim", steps=5, schedule=schedule) == DDIM(5, schedule=schedule)
    assert make_solver("dpm++2m", schedule=schedule) == DPMSolver2M(20, schedule=schedule)
    assert make_solver("dpm++2s", schedule=schedule) == DPMSolver2S(20, schedule=schedule)
    assert make_solver("deis", schedule=schedule) == DEIS(20, schedule=schedule)
    assert make_solver("unipc", schedule=schedule) == UniPC(20, schedule=schedule, order=2)
    assert make_solver("adams3-straight", schedule=schedule) == StraightAdams(20, schedule=schedule)
    assert make_solver("adams3-noise", schedule=schedule) == NoiseAdams(20, schedule=schedule)
    assert make_solver("edm-heun", steps=9, schedule=schedule) == ChurnedHeun(9, schedule=schedule)
    churned = make_solver("edm-heun", steps=9, schedule=schedule, noise=3.0)
    assert churned == ChurnedHeun(9, schedule=schedule, churn=3.0)
    # A schedule does no harm where none is needed.
    assert make_solver("adams3", schedule=schedule) == Adams3(20)
    for name in affine:
        with pytest.raises(ConfigError, match=r"affine paths only.*schedule=.*'adams3'"):
            make_solver(name, steps=5)
        with pytest.raises(ConfigError, match="tolerance"):
            make_solver(name, tolerance=1e-5, schedule=schedule)
    for name in ("ddim", "deis", "euler", "tsit5"):
        with pytest.raises(ConfigError, match="adds no noise"):
            make_solver(name, schedule=schedule, noise=1.0)
    for name in ("ancestral", "sde", "edm-heun"):
        with pytest.raises(ConfigError):
            make_solver(name, steps=5, schedule=schedule, noise=-1.0)
    for name in ("ddim", "ancestral"):
        with pytest.raises(ConfigError, match="how many"):
            make_solver(name, schedule=schedule)
