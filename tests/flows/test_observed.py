"""Fields given observations: exact on Gaussian data, the covariance against closed forms, the gap on a mixture."""

import math

import pytest
import torch
from torch import Tensor, nn

from advect.errors import ConfigError, DataError, ShapeError, UnsupportedError
from advect.flows import (
    ContinuousMap,
    Flow,
    GaussianBaseline,
    Observed,
    StandardNormal,
    VelocityField,
    given_coordinates,
    given_linear,
    tweedie,
)
from advect.networks import MLP
from advect.paths import Linear, make_schedule
from advect.solvers import StraightAdams, make_solver
from advect.transforms import Compose, Standardise
from advect.transforms.preprocess import Asinh

SCHEDULES = ("linear", "cosine", "vp", "ve", "edm")
MEAN = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.2, 0.5, -0.3], [0.5, 0.8, 0.2], [-0.3, 0.2, 0.5]], dtype=torch.float64)
GENERAL = torch.tensor([[1.0, -0.5, 2.0], [0.3, 0.7, 0.1]], dtype=torch.float64)
FIRST = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(schedule) -> GaussianBaseline:
    return GaussianBaseline(MEAN, COVARIANCE, schedule)


def conditional(operator: Tensor, y: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of N(MEAN, COVARIANCE) given y = A x + noise: the textbook formula."""
    cross = COVARIANCE @ operator.T
    gain = cross @ torch.linalg.inv(operator @ cross + noise**2 * torch.eye(len(operator)).double())
    return MEAN + gain @ (y - operator @ MEAN), COVARIANCE - gain @ cross.T


def start(schedule) -> float:
    return float(schedule.sigma(torch.zeros((), dtype=torch.float64)))


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("operator", [FIRST, GENERAL], ids=["coordinate", "general"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_completions_of_gaussian_data_have_the_closed_form_moments(name, operator, noise):
    """On a Gaussian field the flow is affine, so its moments are those of its images of 0 and the unit vectors: no
    Monte-Carlo error. What is left is the solver's, the thousandth of noise at the end, and the start's law."""
    schedule = make_schedule(name)
    y = torch.full((len(operator),), 0.8, dtype=torch.float64)
    field = Observed(gaussian(schedule), operator, y, noise)
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double() * start(schedule)
    moved = StraightAdams(48, schedule=schedule)(field, points, *field.interval).state
    mean, columns = moved[0], (moved[1:] - moved[0]).T
    exact, covariance = conditional(operator, y, noise)
    assert (mean - exact).abs().max() < 0.03
    assert (columns @ columns.T - covariance).abs().max() < 0.01


@pytest.mark.parametrize("solver", ["ddim", "deis", "edm-heun", "adams3"])
def test_every_solver_samples_the_posterior(solver):
    schedule, y = Linear(), torch.tensor([0.8], dtype=torch.float64)
    field = Observed(gaussian(schedule), torch.tensor([0]), y)
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    moved = make_solver(solver, steps=100, schedule=schedule)(field, points, *field.interval).state
    exact, covariance = conditional(FIRST, y, 0.0)
    columns = (moved[1:] - moved[0]).T
    assert (moved[0] - exact).abs().max() < 0.03
    assert (columns @ columns.T - covariance).abs().max() < 0.03


def test_a_stochastic_solver_samples_the_posterior():
    schedule, y, rows = make_schedule("vp"), torch.tensor([0.8], dtype=torch.float64), 3000
    field = Observed(gaussian(schedule), torch.tensor([0]), y)
    solver = make_solver("ancestral", steps=100, schedule=schedule)
    moved = solver(field, normal(rows, 3), *field.interval, generator=torch.Generator().manual_seed(1)).state
    exact, covariance = conditional(FIRST, y, 0.0)
    assert (moved.mean(0) - exact).abs().max() < 4 / math.sqrt(rows)
    # Four standard errors of a covariance, and the spread that a hundred such steps lose (see `ReverseSDE`).
    assert (torch.cov(moved.T) - covariance).abs().max() < 4 * math.sqrt(2 / rows) + 0.05


class Mixture:
    """Half N(m, s²) and half N(−m, s²), along one direction per coordinate: velocity, D and C in closed form."""

    has_score = True

    def __init__(self, schedule, centre: Tensor, spread: float = 0.4) -> None:
        self.schedule, self.centre, self.spread = schedule, centre, spread

    def parts(self, t, x: Tensor) -> tuple[Tensor, ...]:
        time = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1)
        a, s = self.schedule.alpha(time), self.schedule.sigma(time)
        inside = a**2 * self.spread**2 + s**2
        share = torch.sigmoid(2 * a * (x @ self.centre).unsqueeze(1) / inside)
        kept = a * self.spread**2 / inside
        means = [sign * self.centre + kept * (x - a * sign * self.centre) for sign in (1, -1)]
        return (
            a,
            s,
            share,
            share * means[0] + (1 - share) * means[1],
            means[0] - means[1],
            self.spread**2 * s**2 / inside,
        )

    def __call__(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        a, s, _, mean, _, _ = self.parts(t, x)
        time = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1)
        da, ds = self.schedule.alpha_derivative(time), self.schedule.sigma_derivative(time)
        return da * mean + ds * (x - a * mean) / s

    def covariance(self, t, x: Tensor) -> Tensor:
        """Within and between the two parts, ``(batch, d, d)``."""
        _, _, share, _, apart, within = self.parts(t, x)
        between = (share * (1 - share)).unsqueeze(2) * apart.unsqueeze(2) * apart.unsqueeze(1)
        return within.unsqueeze(2) * torch.eye(x.shape[1]).double() + between


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_covariance_of_the_data_behind_a_point_is_the_scaled_jacobian(name):
    """C = (σ²/α) ∂D/∂x against a mixture of two normals, at every row's own time."""
    schedule = make_schedule(name)
    mixture = Mixture(schedule, torch.tensor([1.0, 0.5], dtype=torch.float64))
    levels = torch.linspace(-2.5, 4.0, 12, dtype=torch.float64)
    t = schedule.time_of_log_snr(2 * levels)
    x = normal(12, 2) * (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).sqrt().unsqueeze(1)
    found = tweedie(mixture, schedule, t, x)
    vectors = torch.eye(2).double().unsqueeze(1).expand(2, 12, 2)
    product = found.product(vectors).permute(1, 0, 2)
    assert (found.mean - mixture.parts(t, x)[3]).abs().max() < 1e-8
    assert (product - mixture.covariance(t, x)).abs().max() < 1e-7


def test_the_covariance_is_finite_and_right_at_pure_noise():
    """At t = 0 it is the data's own, read from α = σ/20."""
    found = tweedie(gaussian(Linear()), Linear(), 0.0, normal(5, 3))
    product = found.product(torch.eye(3).double().unsqueeze(1).expand(3, 5, 3)).permute(1, 0, 2)
    assert (found.mean - MEAN).abs().max() < 1e-10
    assert (product - COVARIANCE).abs().max() < 0.01


# Largest distance of the distribution functions; measured 0.26, 0.19, 0.07 (0.28, 0.22, 0.08 with these 4000 rows).
GAPS = {0.2: 0.3, 0.6: 0.24, 1.0: 0.11}


@pytest.mark.parametrize("seen", [0.2, 0.6, 1.0])
def test_the_gap_on_a_mixture(seen):
    """x0 of a mixture in the plane observed with noise 0.3: x1 against quadrature. Here the method approximates."""
    schedule, noise, rows = Linear(), 0.3, 4000
    mixture = Mixture(schedule, torch.tensor([1.0, 1.0], dtype=torch.float64))
    field = Observed(mixture, torch.tensor([0]), torch.tensor([seen], dtype=torch.float64), noise)
    moved = StraightAdams(48, schedule=schedule)(field, normal(rows, 2), *field.interval).state[:, 1].sort().values
    # p(x1 | y) is a mixture of two normals with the weights of y; its distribution function on a grid.
    grid = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    weight = torch.sigmoid(torch.tensor(2 * seen / (0.4**2 + noise**2), dtype=torch.float64))
    density = weight * torch.exp(-((grid - 1) ** 2) / 0.32) + (1 - weight) * torch.exp(-((grid + 1) ** 2) / 0.32)
    exact = density.cumsum(0) / density.sum()
    ours = torch.searchsorted(moved, grid).double() / rows
    gap = float((ours - exact).abs().max())
    assert gap < GAPS[seen]
    prior = (torch.special.ndtr((grid - 1) / 0.4) + torch.special.ndtr((grid + 1) / 0.4)) / 2
    assert gap < 0.65 * float((prior - exact).abs().max()) or seen == 0.2  # of what ignoring y costs


def test_row_sums_stand_in_for_the_matrix():
    """One observed number: the row sum is the matrix, so both ways agree. Many: the answer stays near the exact one."""
    schedule, y = Linear(), torch.tensor([0.8], dtype=torch.float64)
    base = GaussianBaseline(MEAN, COVARIANCE + 2 * torch.eye(3).double(), schedule)  # above the floor r²
    fields = [Observed(base, torch.tensor([1]), y, 0.3, whole_limit=limit) for limit in (64, 0)]
    x = normal(6, 3)
    for t in (0.0, 0.3, 0.9):
        assert (fields[0](t, x) - fields[1](t, x)).abs().max() < 0.01
    assert fields[1].evaluations == 4
    width = 80
    wide = GaussianBaseline(
        torch.zeros(width).double(), torch.full((width, width), 0.5).double() + torch.eye(width) / 2, schedule
    )
    field = Observed(wide, torch.arange(70), torch.full((70,), 0.7).double())
    assert not field.whole
    moved = StraightAdams(32, schedule=schedule)(field, normal(300, width), *field.interval).state
    assert (moved[:, :70] - 0.7).abs().max() < 0.05
    exact = 0.5 * 70 / (0.5 + 0.5 * 70) * 0.7
    assert abs(float(moved[:, 70:].mean()) - exact) < 0.1


def test_rows_are_independent_and_bring_their_own_observations():
    """Each row has its own y, its own unknown numbers and its own noise; neighbours change nothing."""
    schedule = make_schedule("vp")
    field = Observed(gaussian(schedule), torch.tensor([0, 2]))
    y = torch.tensor([[0.8, math.nan], [math.nan, math.nan], [0.1, -1.0], [math.nan, 0.4]], dtype=torch.float64)
    noise = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.3, 0.3], [0.0, 0.2]], dtype=torch.float64)
    packed, x = Observed.pack(y, noise), normal(4, 3)
    for t in (0.0, 0.4, torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)):
        together = field(t, x, packed)
        assert torch.isfinite(together).all()
        for row in range(4):
            time = t[row] if isinstance(t, Tensor) else t
            alone = field(time, x[row : row + 1], packed[row : row + 1])
            assert (alone - together[row]).abs().max() < 1e-10
    assert (field(0.4, x, packed)[1] - gaussian(schedule)(0.4, x)[1]).abs().max() < 1e-12
    one = Observed(gaussian(schedule), torch.tensor([0]), torch.tensor([0.8], dtype=torch.float64))
    assert (field(0.4, x, packed)[0] - one(0.4, x)[0]).abs().max() < 1e-10


def test_a_learnt_field_with_an_indefinite_covariance_gives_finite_velocities():
    network = MLP((3,), width=8, depth=2, generator=torch.Generator().manual_seed(0)).double()
    field = VelocityField(network, schedule=Linear(), has_score=True)
    given = Observed(field, torch.tensor([0, 1]), torch.tensor([1.0, -2.0]).double())
    for t in (0.0, 0.5, 1.0):
        assert torch.isfinite(given(t, normal(50, 3) * 3)).all()
    assert given.interval == (0.0, pytest.approx(1 - 1e-3, abs=1e-5))


def flow(*before) -> Flow:
    field = gaussian(Linear())
    ode = ContinuousMap(field, event_shape=(3,), solver=StraightAdams(48, schedule=Linear()))
    return Flow(StandardNormal((3,)).double(), Compose(*before, ode))


def test_observations_in_the_users_units():
    """Scaled columns: known coordinates, and a general A, are those of the scaled data; noise too."""
    scaling = Standardise(torch.tensor([5.0, 0.0, -1.0]).double(), torch.tensor([2.0, 0.5, 10.0]).double())
    rows = torch.tensor([[6.6, math.nan, math.nan]]).double().expand(3000, 3)
    posterior = given_coordinates(flow(scaling), rows, noise=0.8)
    drawn = posterior.draw(generator=torch.Generator().manual_seed(0)).value
    exact, covariance = conditional(FIRST, torch.tensor([0.8]).double(), 0.4)
    latent = scaling.encode(drawn, log_det=False).value
    assert (latent.mean(0) - exact).abs().max() < 0.08
    assert (torch.cov(latent.T) - covariance).abs().max() < 0.15
    operator = GENERAL / torch.tensor([2.0, 0.5, 10.0]).double()
    y = (operator @ torch.tensor([5.0, 0.0, -1.0]).double() + 0.8).expand(3000, 2)
    for units, matrix, numbers in (("data", operator, y), ("latent", GENERAL, torch.full((3000, 2), 0.8).double())):
        posterior = given_linear(flow(scaling), matrix, numbers, units=units)
        latent = scaling.encode(posterior.draw(generator=torch.Generator().manual_seed(0)).value, log_det=False).value
        exact, covariance = conditional(GENERAL, torch.full((2,), 0.8).double(), 0.0)
        assert (latent.mean(0) - exact).abs().max() < 0.08
        assert (torch.cov(latent.T) - covariance).abs().max() < 0.05


def test_refusals():
    plain = VelocityField(MLP((3,), width=8, depth=1), schedule=Linear())
    index = torch.tensor([0])
    for field in (plain, nn.Identity()):
        with pytest.raises(UnsupportedError, match="trained without --source"):
            Observed(field, index)
    known = gaussian(Linear())
    with pytest.raises(ShapeError, match="operator"):
        Observed(known, torch.zeros(3))
    with pytest.raises(ShapeError, match="One entry per"):
        Observed(known, index, torch.zeros(2).double())
    with pytest.raises(ConfigError, match="noise"):
        Observed(known, index, torch.zeros(1).double(), -1.0)
    with pytest.raises(ShapeError, match="does not fit"):
        Observed(known, torch.tensor([7]), torch.zeros(1).double())(0.5, normal(2, 3))
    with pytest.raises(ShapeError, match=r"Observed\.pack"):
        Observed(known, index)(0.5, normal(2, 3))
    with pytest.raises(DataError, match="No coordinate"):
        given_coordinates(flow(), torch.full((2, 3), math.nan).double())
    with pytest.raises(ShapeError, match="expected"):
        given_coordinates(flow(), torch.zeros(2, 4).double())
    bent = flow(Asinh(torch.zeros(3).double(), torch.ones(3).double()))
    with pytest.raises(UnsupportedError, match="not affine"):
        given_linear(bent, GENERAL, torch.zeros(2, 2).double())
    with pytest.raises(UnsupportedError, match="discrete layers"):
        given_coordinates(Flow(StandardNormal((3,)), Standardise(torch.zeros(3), torch.ones(3))), torch.zeros(2, 3))
