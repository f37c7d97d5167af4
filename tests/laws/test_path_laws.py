"""Every path × every law, in float64: continuity, ends, flow along samples, finite values, shapes, dtypes, bits."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from advect.errors import ConfigError, UnsupportedError
from advect.paths import (
    Affine,
    AffinePath,
    BrownianBridge,
    CallablePull,
    Clock,
    ConstantPull,
    EndWeights,
    GaussianPath,
    LipmanPath,
    PowerPull,
    RegularisedPull,
    RescaledPull,
    Shortened,
    TangentPull,
    Trigonometric,
    VariancePreserving,
    WeightedPull,
    linear,
)
from advect.paths import Lipman as LipmanSchedule

EVENTS = [(), (3,), (2, 3), (2, 2, 3), (1, 2, 2, 2)]


@dataclass(frozen=True)
class Case:
    """One path with what it promises: what its density is given, and what it is made of at the ends."""

    make: Callable[[], object]
    given: tuple[str, ...]  # "pair": p_t(x|x0, x1); "data": p_t(x|x1), standard-normal source
    start: EndWeights
    end: EndWeights
    gaussian_source: bool = False


PURE0, PURE1 = EndWeights(0.0, 1.0), EndWeights(1.0, 0.0)
VP0 = EndWeights(math.exp(-10.05 / 2), math.sqrt(1 - math.exp(-10.05)))  # T(1) = .1 + 19.9/2
VP_LEFT = 0.1 * 1e-5 + 19.9 / 2 * 1e-10  # T at the cut
VP1 = EndWeights(math.exp(-VP_LEFT / 2), math.sqrt(-math.expm1(-VP_LEFT)))
E = math.exp(-1)

CASES = {
    "linear": Case(linear, ("data",), PURE0, PURE1),
    "linear, noise": Case(lambda: linear(0.1), ("pair", "data"), EndWeights(0.0, 1.0, 0.1), EndWeights(1.0, 0.0, 0.1)),
    "trigonometric": Case(lambda: AffinePath(Trigonometric()), ("data",), PURE0, PURE1),
    "trigonometric, noise": Case(
        lambda: AffinePath(Trigonometric(), 0.3),
        ("pair", "data"),
        EndWeights(0.0, 1.0, 0.3),
        EndWeights(1.0, 0.0, 0.3),
    ),
    "affine lipman": Case(lambda: AffinePath(LipmanSchedule(0.05)), ("data",), PURE0, EndWeights(1.0, 0.05)),
    "variance preserving": Case(lambda: AffinePath(VariancePreserving()), ("data",), VP0, VP1),
    "any affine": Case(
        lambda: AffinePath(Affine(lambda t: t**2, lambda t: (1 - t) * (1 + t / 2))), ("data",), PURE0, PURE1
    ),
    "clock": Case(lambda: AffinePath(Clock(lambda t: (1 - t) ** 2 * (1 + t))), ("data",), PURE0, PURE1),
    "shortened": Case(
        lambda: AffinePath(Shortened(Affine(torch.sqrt, lambda t: torch.sqrt(1 - t)), 0.01, 0.99)),
        ("data",),
        EndWeights(0.1, math.sqrt(0.99)),
        EndWeights(math.sqrt(0.99), 0.1),
    ),
    "lipman": Case(lambda: LipmanPath(0.1), ("data",), PURE0, EndWeights(1.0, 0.1), True),
    "lipman, nothing left": Case(lambda: LipmanPath(0.0), ("data",), PURE0, PURE1, True),
    "bridge": Case(lambda: BrownianBridge(1.0), ("pair",), PURE0, PURE1),
    "bridge, wide": Case(lambda: BrownianBridge(2.5), ("pair",), PURE0, PURE1),
    "gaussian, given pair": Case(
        lambda: GaussianPath(lambda t, z: (1 - t**2) * z.x0 + t**2 * z.x1, lambda t, z: 0.1 + t * (1 - t)),
        ("pair",),
        EndWeights(0.0, 1.0, 0.1),
        EndWeights(1.0, 0.0, 0.1),
    ),
    "gaussian, spread of its own": Case(  # a standard deviation per entry that depends on the pair
        lambda: GaussianPath(
            lambda t, z: z.x0 + t * (z.x1 - z.x0), lambda t, z: (0.2 + (z.x1 - z.x0).square()) * t * (1 - t)
        ),
        ("pair",),
        PURE0,
        PURE1,
    ),
    "gaussian, given data": Case(
        lambda: GaussianPath(lambda t, z: torch.sin(math.pi / 2 * t) * z, lambda t, z: 1 - 0.9 * t, given="data"),
        ("data",),
        PURE0,
        EndWeights(1.0, 0.1),
        True,
    ),
    "gaussian, given data, nothing left": Case(
        lambda: GaussianPath(lambda t, z: t * z, lambda t, z: 1 - t, given="data"), ("data",), PURE0, PURE1, True
    ),
    "pull 1/(1-t)": Case(WeightedPull, ("data",), PURE0, PURE1),
    "pull 3/(1-t)": Case(lambda: WeightedPull(PowerPull(3.0)), ("data",), PURE0, PURE1),
    "pull tangent": Case(lambda: WeightedPull(TangentPull()), ("data",), PURE0, PURE1),
    "pull 1, rescaled": Case(lambda: WeightedPull(ConstantPull().rescaled()), ("data",), PURE0, PURE1),
    "pull 1": Case(lambda: WeightedPull(ConstantPull(), allow_residual=True), ("data",), PURE0, EndWeights(1 - E, E)),
    "pull regularised": Case(
        lambda: WeightedPull(RegularisedPull(0.25), allow_residual=True), ("data",), PURE0, EndWeights(0.8, 0.2)
    ),
    "pull by quadrature": Case(
        lambda: WeightedPull(CallablePull(lambda t: 2 * t / (1 - t**2))), ("data",), PURE0, PURE1
    ),  # Ω = −log(1 − t²)
    "pull by quadrature, rescaled": Case(
        lambda: WeightedPull(RescaledPull(CallablePull(lambda t: 3 * t**2))), ("data",), PURE0, PURE1
    ),
}

every_path = pytest.mark.parametrize("name", CASES)


def ends_of_pairs(rows, event, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(rows, *event, generator=generator, dtype=torch.float64)
    x1 = 1.5 + 0.7 * torch.randn(rows, *event, generator=generator, dtype=torch.float64)
    return x0.to(dtype), x1.to(dtype)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def continuity_defect(log_density, velocity, t, x):
    """Largest |∂_t log p + u·∇log p + div u| over the rows, relative to the size of its terms, by autograd."""
    t, x = t.clone().requires_grad_(), x.clone().requires_grad_()
    in_time, in_space = torch.autograd.grad(log_density(t, x).sum(), (t, x))
    u = velocity(t, x)
    divergence = torch.zeros_like(t)
    for i in range(x.shape[1]):
        if u.requires_grad:  # a field of the pair alone does not depend on x
            slope = torch.autograd.grad(u[:, i].sum(), x, retain_graph=True, allow_unused=True)[0]
            divergence = divergence + (0 if slope is None else slope[:, i])
    transport = (u * in_space).sum(1)
    scale = 1 + in_time.abs() + transport.abs() + divergence.abs()
    return float(((in_time + transport + divergence).abs() / scale).max().detach())


def points_of(path, rows=64):
    """Times inside (0, 1), ends, and points near the path."""
    x0, x1 = ends_of_pairs(rows, (3,))
    t = torch.rand(rows, generator=seeded(), dtype=torch.float64) * 0.98 + 0.01
    x = path.sample(t, x0, x1, generator=seeded()).x
    return t, x + 0.05 * torch.randn(x.shape, generator=seeded(5), dtype=torch.float64), x0, x1


@pytest.mark.parametrize(("name", "given"), [(n, g) for n, case in CASES.items() for g in case.given])
def test_continuity_equation(name, given):
    """Trap P5: the field given z carries the density given z, at points drawn from the path and off it.

    All terms are exact derivatives; what is left is rounding, amplified by 1/s² of the narrowest path.
    """
    path = CASES[name].make()
    t, x, x0, x1 = points_of(path)
    source = x0 if given == "pair" else None
    defect = continuity_defect(
        lambda t, x: path.log_density(t, x, x1, source), lambda t, x: path.velocity(t, x, source, x1), t, x
    )
    assert defect < 1e-8


def test_the_continuity_law_can_fail():
    """Trap P11: x1 − x on the linear path breaks the law; adding a rotation of the Gaussian does not."""
    path = linear()
    t, x, _, x1 = points_of(path)
    density = lambda t, x: path.log_density(t, x, x1)  # noqa: E731
    assert continuity_defect(density, lambda t, x: x1 - x, t, x) > 0.1
    turn = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 0]]).double()
    rotated = lambda t, x: path.velocity(t, x, None, x1) + (x - t[:, None] * x1) @ turn  # noqa: E731
    assert continuity_defect(density, rotated, t, x) < 1e-8


@every_path
def test_densities_are_the_laws_of_the_samples(name):
    """(x − mean)/std of the stated Gaussian, read off the log-density, equals the noise behind the sample."""
    case = CASES[name]
    path = case.make()
    x0, x1 = ends_of_pairs(40_000, ())
    x0, x1 = x0[:1].expand(40_000) if "pair" in case.given else x0, x1[:1].expand(40_000)
    t = torch.full((40_000,), 0.37, dtype=torch.float64)
    x = path.sample(t, x0, x1, generator=seeded()).x
    source = x0 if "pair" in case.given else None
    # E log p(x) = −½ log(2πe s²) with variance ½ per draw, whatever s: s from the curvature of log p.
    point = x[:1].clone().requires_grad_()
    slope = torch.autograd.grad(
        path.log_density(t[:1], point, x1[:1], None if source is None else source[:1]), point, create_graph=True
    )[0]
    precision = -float(torch.autograd.grad(slope, point)[0])
    expected = -0.5 * math.log(2 * math.pi * math.e / precision)
    mean = float(path.log_density(t, x, x1, source).mean())
    assert abs(mean - expected) < 4 * math.sqrt(0.5 / 40_000)


@every_path
def test_samples_move_with_the_velocity(name):
    """With the same noise, the time derivative of the drawn point (forward mode) is the velocity that comes with it."""
    path = CASES[name].make()
    x0, x1 = ends_of_pairs(64, (3,))
    t = torch.rand(64, generator=seeded(), dtype=torch.float64) * 0.96 + 0.02
    point, motion = torch.func.jvp(
        lambda time: path.sample(time, x0, x1, generator=seeded(7)).x, (t,), (torch.ones_like(t),)
    )
    bridge = path.sample(t, x0, x1, generator=seeded(7))
    torch.testing.assert_close(point, bridge.x)
    torch.testing.assert_close(motion, bridge.velocity, rtol=1e-8, atol=1e-8)


@every_path
def test_velocity_agrees_with_the_sample(name):
    """The field at the drawn point is the drawn velocity: inside to rounding over the spread, at the ends exactly."""
    path = CASES[name].make()
    x0, x1 = ends_of_pairs(66, (2, 3))
    t = torch.cat([torch.linspace(0.01, 0.99, 64, dtype=torch.float64), torch.tensor([0.0, 1.0]).double()])
    bridge = path.sample(t, x0, x1, generator=seeded())
    torch.testing.assert_close(path.velocity(t, bridge.x, x0, x1), bridge.velocity, rtol=1e-9, atol=1e-9)


@every_path
def test_scores_are_gradients_of_the_log_density(name):
    case = CASES[name]
    path = case.make()
    x0, x1 = ends_of_pairs(64, (3,))
    t = torch.rand(64, generator=seeded(), dtype=torch.float64) * 0.98 + 0.01
    bridge = path.sample(t, x0, x1, generator=seeded())
    if bridge.score is None:  # allowed only where the point is a function of the pair
        assert torch.equal(bridge.x, path.sample(t, x0, x1, generator=seeded(4)).x)
        return
    x = bridge.x.clone().requires_grad_()
    source = x0 if "pair" in case.given else None
    gradient = torch.autograd.grad(path.log_density(t, x, x1, source).sum(), x)[0]
    torch.testing.assert_close(bridge.score, gradient, rtol=1e-8, atol=1e-8)


@every_path
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_ends(name, end):
    """Trap P9: each path starts and ends where it says, blur included; what it says is checked against arithmetic."""
    case = CASES[name]
    path = case.make()
    promised = case.start if end == 0 else case.end
    if hasattr(path, "start"):
        said = path.start() if end == 0 else path.end()
        assert (said.data, said.source, said.noise) == pytest.approx(
            (promised.data, promised.source, promised.noise), rel=1e-9, abs=0
        )
    x0, x1 = ends_of_pairs(10_000, ())
    t = torch.full((10_000,), end, dtype=torch.float64)
    rest = path.sample(t, x0, x1, generator=seeded()).x - promised.data * x1 - promised.source * x0
    if promised.noise == 0:
        torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-12)
    else:  # mean within 4 standard errors, variance within 4 of √(2/n)
        assert abs(float(rest.mean())) < 4 * promised.noise / 100
        assert abs(float(rest.var()) / promised.noise**2 - 1) < 4 * math.sqrt(2 / 10_000)


@every_path
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_end_velocity_is_the_limit(name, end):
    """What is evaluated exactly at an end is the limit from inside; noise that dies there leaves only its mean motion.

    A path that draws noise of its own with s = 0 at the end has u = μ' there: the mean of the limit over the noise.
    Tolerance: 1e-9 inside, relative changes are at most 1e-9/(2·1e-5), of σ' on the variance-preserving schedule.
    """
    path = CASES[name].make()
    n = 40_000
    x0, x1 = (rows[:1].expand(n) for rows in ends_of_pairs(2, ()))
    at, near = (torch.full((n,), t, dtype=torch.float64) for t in (end, abs(end - 1e-9)))
    exact, limit = (path.sample(t, x0, x1, generator=seeded()).velocity for t in (at, near))
    if CASES[name].given == ("pair",):
        error = float(limit.std()) / math.sqrt(n)
        assert abs(float(exact.mean() - limit.mean())) < 4 * error + 1e-6
    else:
        torch.testing.assert_close(exact, limit, rtol=1e-4, atol=1e-6)


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_finite_at_both_ends(name, dtype):
    """Traps P2 and P6: points, velocities and scores are finite at t = 0 and t = 1 and next to them."""
    path = CASES[name].make()
    times = torch.tensor([0.0, 1.0, 1e-7, 1 - 1e-7, 1e-30, 0.5]).to(dtype)
    x0, x1 = ends_of_pairs(len(times), (4,), dtype=dtype)
    bridge = path.sample(times, x0, x1, generator=seeded())
    assert bridge.x.isfinite().all()
    assert bridge.velocity.isfinite().all()
    assert bridge.score is None or bridge.score.isfinite().all()
    assert path.velocity(times, bridge.x, x0, x1).isfinite().all()
    if "data" in CASES[name].given:
        assert path.velocity(times, x1, None, x1).isfinite().all()
    assert {bridge.t.dtype, bridge.x.dtype, bridge.velocity.dtype} == {dtype}


@every_path
@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_every_event_shape(name, event):
    """Trap P4: event ranks 0 to 4; entries of an event are treated alike, so a flattened event gives the same."""
    case = CASES[name]
    path = case.make()
    x0, x1 = ends_of_pairs(7, event)
    t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    bridge = path.sample(t, x0, x1, generator=seeded())
    assert bridge.x.shape == bridge.velocity.shape == (7, *event)
    source = x0 if "pair" in case.given else None
    log_density = path.log_density(t, bridge.x, x1, source)
    assert log_density.shape == (7,)
    flat = lambda x: None if x is None else x.reshape(7, -1)  # noqa: E731
    again = path.sample(t, flat(x0), flat(x1), generator=seeded())
    torch.testing.assert_close(again.x, flat(bridge.x))
    torch.testing.assert_close(again.velocity, flat(bridge.velocity))
    torch.testing.assert_close(path.log_density(t, flat(bridge.x), flat(x1), flat(source)), log_density)


@every_path
def test_one_time_for_all_rows(name):
    """An expanded scalar time, as solvers make it, is as good as a tensor of equal times."""
    path = CASES[name].make()
    x0, x1 = ends_of_pairs(5, (2,))
    one = torch.tensor(0.3, dtype=torch.float64)
    expanded, dense = (path.sample(t, x0, x1, generator=seeded()) for t in (one.expand(5), one.repeat(5)))
    assert torch.equal(expanded.x, dense.x)
    assert torch.equal(expanded.velocity, dense.velocity)


@every_path
def test_same_generator_same_bits(name):
    path = CASES[name].make()
    x0, x1 = ends_of_pairs(16, (3,))
    t = torch.rand(16, generator=seeded(), dtype=torch.float64)
    before = torch.get_rng_state()
    first, second = (path.sample(t, x0, x1, generator=seeded(9)) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.velocity, second.velocity)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was touched"


@every_path
def test_the_record_carries_the_very_ends(name):
    """Trap O3: the x0 of the path is the x0 of the target, as the same object."""
    path = CASES[name].make()
    x0, x1 = ends_of_pairs(4, (2,))
    bridge = path.sample(torch.rand(4, generator=seeded()).double(), x0, x1, generator=seeded())
    assert bridge.x0 is x0
    assert bridge.x1 is x1


@every_path
def test_gaussian_source_is_declared(name):
    """Trap P3: a path whose noise is its source says so."""
    assert CASES[name].make().requires_gaussian_source is CASES[name].gaussian_source


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: BrownianBridge(0.0), "sigma"),
        (lambda: BrownianBridge(-1.0), "sigma"),
        (lambda: BrownianBridge(math.nan), "sigma"),
        (lambda: linear(-0.1), "sigma"),
        (lambda: linear(math.inf), "sigma"),
        (lambda: LipmanPath(-0.1), "sigma_min"),
        (lambda: LipmanPath(1.0), "sigma_min"),
        (lambda: AffinePath(VariancePreserving(cutoff=0.0)), "Shortened"),
        (lambda: AffinePath(Affine(torch.sqrt, lambda t: 1 - t)), "t = 0"),
        (lambda: VariancePreserving(beta_min=0.0), "beta_min"),
        (lambda: Shortened(Trigonometric(), 0.5, 0.5), "interval"),
        (lambda: GaussianPath(lambda t, z: t * z, lambda t, z: 1 - t, given="x1"), "given"),
        (lambda: WeightedPull(PowerPull(0.5)), "Shortened"),
        (lambda: WeightedPull(ConstantPull()), "0.368"),
        (lambda: PowerPull(0.0), "power"),
        (lambda: WeightedPull(lambda t: t - 0.5), "negative"),
    ],
)
def test_refusals_name_the_cause(make, word):
    with pytest.raises(ConfigError, match=word):
        make()


def test_a_density_that_is_not_there_is_refused():
    x0, x1 = ends_of_pairs(2, (2,))
    t = torch.tensor([0.2, 0.4]).double()
    with pytest.raises(UnsupportedError, match="sigma = 0"):
        linear().log_density(t, x1, x1, x0)
    with pytest.raises(UnsupportedError, match="x0 is missing"):
        BrownianBridge().log_density(t, x1, x1)


def test_a_point_mass_is_infinite_on_the_point_only():
    """At t = 1 the straight path is x1: log-density +∞ there and −∞ elsewhere, never NaN."""
    x1 = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]).double()
    x = torch.tensor([[1.0, 2.0], [1.0, 2.5], [0.0, 0.0]]).double()
    density = linear().log_density(torch.ones(3).double(), x, x1)
    assert density.tolist() == [math.inf, -math.inf, -math.inf]


def test_bridge_target_has_bounded_weighted_variance():
    """Trap P1: t(1−t) times the squared ε-term of the target is at most σ²/4·E ε², at every t."""
    path = BrownianBridge(2.0)
    n = 20_000
    x0, x1 = torch.zeros(n).double(), torch.zeros(n).double()
    for t in (1e-8, 1e-6, 1e-3, 0.1, 0.5, 1 - 1e-6, 0.0, 1.0):
        time = torch.full((n,), t).double()
        target = path.sample(time, x0, x1, generator=seeded()).velocity
        weighted = float((path.time_weight(time) * target.square()).mean())
        expected = 2.0**2 * (1 - 2 * t) ** 2 / 4 if 0 < t < 1 else 0.0
        assert weighted == pytest.approx(expected, rel=5 * math.sqrt(2 / n), abs=1e-12)


def test_user_functions_of_the_wrong_shape_are_named():
    path = GaussianPath(lambda t, z: torch.zeros(5, 7), lambda t, z: 1.0)
    x0, x1 = ends_of_pairs(4, (2,))
    with pytest.raises(ValueError, match=r"mean\(t, z\) returned shape \(5, 7\)"):
        path.sample(torch.rand(4, generator=seeded()).double(), x0, x1, generator=seeded())
