"""Support maps against known densities, on their edges and beyond."""

import math

import pytest
import torch
from scipy import integrate, stats

from advect.errors import ConfigError, ShapeError
from advect.records import Status
from advect.transforms.support import Box, Circle, Positive, Simplex

FLOAT64 = torch.float64
OUTSIDE = int(Status.OUTSIDE_SUPPORT)


def normal_density(bijection, x: torch.Tensor) -> torch.Tensor:
    """Density of decode(z), z standard normal."""
    out = bijection.encode(x)
    z = out.value.reshape(len(x), -1)
    log_density = -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + out.log_abs_det_jacobian
    return torch.where(out.status == OUTSIDE, 0.0, log_density.exp())


def at(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=FLOAT64)


def test_box_carries_the_logistic_to_the_uniform():
    """z logistic in, x uniform out: encode's density identity p(x) = q(z) |∂z/∂x| must give 1/(h − l)."""
    box = Box(-3.0, 5.0, (1,)).double()
    x = torch.linspace(-3 + 1e-12, 5 - 1e-12, 1001, dtype=FLOAT64).unsqueeze(1)
    out = box.encode(x)
    density = stats.logistic.logpdf(out.value[:, 0].numpy()) + out.log_abs_det_jacobian.numpy()
    # Distances of 1e-12 from an edge at 5 are known to 5 · 2e-16/1e-12, and enter twice.
    assert abs(density + math.log(8)).max() < 3e-3
    assert abs(density[1:-1] + math.log(8)).max() < 1e-12


def test_positive_carries_the_softplus_of_logistic():
    """x = softplus(z) with z logistic has the distribution function 1 − e^{−x}: the exponential, known."""
    x = torch.logspace(-8, 2, 400, dtype=FLOAT64).unsqueeze(1)
    out = Positive(1.0, (1,)).double().encode(x)
    # F(x) = logistic(z) = e^z/(1 + e^z) with e^z = e^x − 1, so F = 1 − e^{−x}.
    density = stats.logistic.logpdf(out.value[:, 0].numpy()) + out.log_abs_det_jacobian.numpy()
    assert abs(density - stats.expon.logpdf(x[:, 0].numpy())).max() < 1e-12


def test_simplex_carries_normals_to_the_logistic_normal_and_gammas_to_dirichlet():
    """z = log-ratios of gammas: the density of x must be SciPy's Dirichlet. The law of z has a closed form too:

    log q(z) = log Γ(Σa) − Σ log Γ(a_i) + Σ a_i log s_i(z), s = softmax(z, 0)."""
    a = torch.tensor([0.7, 2.0, 3.5], dtype=FLOAT64)
    x = torch.distributions.Dirichlet(a).sample((50,))
    out = Simplex(2).encode(x[:, :2])
    shares = torch.cat([out.value, out.value.new_zeros(50, 1)], 1).log_softmax(1)
    log_q = torch.lgamma(a.sum()) - torch.lgamma(a).sum() + (a * shares).sum(1)
    exact = torch.distributions.Dirichlet(a).log_prob(x)
    torch.testing.assert_close(log_q + out.log_abs_det_jacobian, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("bijection", "ends"),
    [
        (Box(-1.0, 3.0, (1,)), (-1.0, 3.0)),
        (Positive(torch.tensor([0.5])), (0.0, math.inf)),
        (Simplex(1), (0.0, 1.0)),
    ],
)
def test_density_integrates_to_one_on_the_support(bijection, ends):
    """And is zero outside: the integral goes beyond both ends."""
    bijection = bijection.double()
    low, high = ends
    pieces = [(low - 1, low), (low, min(high, low + 1)), (min(high, low + 1), high + 1)]
    total = sum(integrate.quad(lambda v: float(normal_density(bijection, at(v))), *p, limit=200)[0] for p in pieces)
    assert abs(total - 1) < 1e-6


def test_simplex_density_of_two_integrates_to_one():
    nodes = torch.linspace(0, 1, 801, dtype=FLOAT64)
    middles = (nodes[1:] + nodes[:-1]) / 2
    grid = torch.cartesian_prod(middles, middles)
    total = normal_density(Simplex(2), grid).sum() / 800**2
    # Smooth and zero with all derivatives at the edges; the slanted one cuts cells, where the density vanishes.
    assert abs(total - 1) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", [0.0, 1e-30, 1e-7, 0.5, 1.0 - 6e-8, 1.0])
def test_box_and_simplex_up_to_their_edges(dtype, where):
    """Closed supports: the exact edges are finite, of finite gradient, and inside."""
    for bijection in (Box(0.0, 1.0, (1,)), Simplex(1)):
        x = torch.tensor([[where]], dtype=dtype, requires_grad=True)
        out = bijection.encode(x)
        assert out.status.item() == Status.OK
        assert torch.isfinite(out.value).all()
        assert torch.isfinite(out.log_abs_det_jacobian).all()
        (gradient,) = torch.autograd.grad(out.value.sum() + out.log_abs_det_jacobian.sum(), x)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_of_a_box_are_ordered(dtype):
    """Monotone through both slivers, and the far edge keeps its precision where it is the one near zero."""
    eps = torch.finfo(dtype).eps
    x = torch.tensor([-1.0, -1 + eps, -0.5, -1e-3, -eps, -eps / 4, 0.0], dtype=dtype).unsqueeze(1)
    box = Box(-1.0, 0.0, (1,))
    z = box.encode(x).value[:, 0]
    assert (z.diff() >= 0).all()
    assert z[0] == z[1]
    assert z[-1] == z[-2] == z[-3]
    assert (z - torch.log((x[:, 0] + 1) / -x[:, 0]))[1:5].abs().max() < 4 * eps * 36
    inside = torch.tensor([[-30.0], [-2.0], [12.0], [30.0], [200.0]], dtype=dtype)
    back = box.decode(inside).value
    assert ((back >= -1) & (back <= 0)).all()
    torch.testing.assert_close(back[2:4, 0], -torch.sigmoid(-inside[2:4, 0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("bijection", "row", "outside"),
    [
        (Box(0.0, 1.0, (2,)), (0.5, 1.0 + 1e-6), True),
        (Box(0.0, 1.0, (2,)), (-1e-20, 0.5), True),
        (Box(0.0, 1.0, (2,)), (0.0, 1.0), False),
        (Positive(1.0, (2,)), (-1e-300, 1.0), True),
        (Positive(1.0, (2,)), (0.0, 1e300), False),
        (Simplex(2), (-1e-20, 0.5), True),
        (Simplex(2), (0.6, 0.5), True),
        (Simplex(2), (0.7, 0.3 + 5e-17), False),
        (Simplex(2), (0.0, 1.0), False),
        (Simplex(2), (1e4, 1e4), True),
    ],
)
def test_status_says_what_lies_outside(bijection, row, outside):
    out = bijection.double().encode(torch.cat([at(*row), at(0.3, 0.4)]))
    assert out.status.tolist() == [OUTSIDE if outside else 0, 0]
    assert torch.isfinite(out.value).all()
    assert torch.isfinite(out.log_abs_det_jacobian).all()


def test_nan_rows_stay_nan():
    for bijection in (Box(0.0, 1.0, (2,)), Positive(1.0, (2,)), Simplex(2), Circle()):
        assert bijection.encode(torch.tensor([[math.nan, 0.5]])).value.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positive_over_its_whole_range(dtype):
    """Tiny values like the logarithm, large ones like the identity; round trips in relative terms."""
    positive = Positive(torch.tensor([2.0], dtype=FLOAT64))
    x = torch.tensor([1e-15, 1e-6, 1e-2, 1.0, 30.0, 1e4, 1e30], dtype=dtype).unsqueeze(1)
    out = positive.encode(x)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.value[:2], 2 * torch.log(x[:2] / 2), rtol=1e-6, atol=1e-6)
    assert torch.equal(out.value[5:], x[5:])
    back = positive.decode(out.value)
    # z of magnitude 70 is rounded to 35 units of x's relative precision; the median of the range carries one.
    assert ((back.value - x) / x).abs().max() < 100 * eps
    assert (out.log_abs_det_jacobian + back.log_abs_det_jacobian).abs().max() < 100 * eps
    assert positive.decode(torch.tensor([[-1e6]], dtype=dtype)).value == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circle(dtype):
    circle = Circle()
    inside = torch.tensor([-math.pi, -3.0, -1e-30, 0.0, 2.0, math.pi], dtype=dtype).unsqueeze(1)
    assert torch.equal(circle.encode(inside).value, inside)

    # Far angles, against exact reduction in integers: turns counted from the same rounded input.
    far = torch.tensor([math.pi + 1e-3, -10.0, 100.0, -12345.678, 1e6, 3 * math.pi, -7 * math.pi], dtype=dtype)
    far = far.unsqueeze(1).requires_grad_()
    out = circle.encode(far)
    exact = torch.atan2(far.detach().double().sin(), far.detach().double().cos())
    apart = (out.value.detach().double() - exact).abs()
    assert torch.minimum(apart, 2 * math.pi - apart).max() < (1e-6 if dtype == torch.float32 else 1e-9)
    assert (out.value.abs() <= torch.tensor(math.pi, dtype=dtype)).all()
    assert torch.equal(out.log_abs_det_jacobian, torch.zeros(7, dtype=dtype))
    assert torch.equal(torch.autograd.grad(out.value.sum(), far)[0], torch.ones_like(far))
    back = circle.decode(out.value.detach())
    assert torch.equal(back.value, out.value.detach())
    assert torch.equal(circle.decode(far).value, out.value)
    assert circle.encode(torch.zeros(0, 3)).log_abs_det_jacobian.shape == (0,)


def test_circle_in_other_units():
    """Degrees, hours: the angle, the turn it comes back to, and the change of units in the density."""
    circle = Circle(torch.tensor([-180.0, 0.0]), torch.tensor([180.0, 24.0])).double()
    x = torch.tensor([[90.0, 18.0], [270.0, 30.0], [-180.0, 0.0], [180.0, 24.0]], dtype=FLOAT64)
    out = circle.encode(x)
    expected = math.pi * torch.tensor([[0.5, 0.5], [-0.5, -0.5], [-1, -1], [1, 1]], dtype=FLOAT64)
    torch.testing.assert_close(out.value, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(out.log_abs_det_jacobian, torch.full((4,), math.log(math.pi**2 / 180 / 12)).double())
    back = circle.decode(out.value).value
    torch.testing.assert_close(back, torch.tensor([[90.0, 18], [-90, 6], [-180, 0], [180, 24]], dtype=FLOAT64))
    single = circle.float().decode(out.value.float()).value
    assert ((single >= circle.low) & (single <= circle.high)).all()


def test_never_outside_its_circle():
    """A hundred thousand float32 angles of every size land in the closed turn, exactly."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(100_000, 1, generator=g) * torch.logspace(-3, 8, 100_000).unsqueeze(1)
    z = Circle().encode(x).value
    assert (z.abs() <= torch.tensor(math.pi)).all()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Box(1.0, 1.0, (2,)), ConfigError, "lower one below"),
        (lambda: Box(0.0, math.inf, (2,)), ConfigError, "Use Positive"),
        (lambda: Box(torch.zeros(3), 1.0, (2,)), ShapeError, "broadcast"),
        (lambda: Positive(0.0), ConfigError, "positive"),
        (lambda: Simplex(0), ConfigError, "give two"),
        (lambda: Circle(1.0, 1.0), ConfigError, "end after it begins"),
    ],
)
def test_refusals(build, error, message):
    with pytest.raises(error, match=message):
        build()
