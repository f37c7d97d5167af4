"""Rational-quadratic splines against the paper's equations written out plainly, and where rounding bites."""

import math

import numpy as np
import pytest
import torch

from advect.errors import ConfigError
from advect.transforms.spline import CircularSpline, RationalQuadraticSpline

FLOAT64 = torch.float64
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def drawn(*shape, seed=0, std=1.0, dtype=FLOAT64):
    return (std * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)).to(dtype)


def spread(*shape, reach=6.0, seed=1, dtype=FLOAT64):
    """Uniform points that reach beyond the box."""
    return (reach * (2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64) - 1)).to(dtype)


# The paper, one point at a time (Durkan et al. 2019, arXiv 1906.04032).


def paper_knots(raw, bins, low, high, least=1e-3):
    """x_k or y_k: softmax shares of the box, none below ``least`` of it."""
    share = np.exp(raw - raw.max())
    share = least + (1 - bins * least) * share / share.sum()
    return low + (high - low) * np.concatenate([[0.0], np.cumsum(share)])


def paper_derivatives(raw):
    """Between 1e-3 and 1e3, 1 at zero."""
    return np.exp(raw / (1 + np.abs(raw) / np.log(1e3)))


def paper_forward(x, xs, ys, ds):
    """Eqs. 4 and 5: g(x) and its derivative."""
    k = min(max(int(np.searchsorted(xs, x, side="right")) - 1, 0), len(xs) - 2)
    w, h = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    s, xi = h / w, (x - xs[k]) / w
    alpha = h * (s * xi**2 + ds[k] * xi * (1 - xi))
    beta = s + (ds[k + 1] + ds[k] - 2 * s) * xi * (1 - xi)
    slope = s**2 * (ds[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + ds[k] * (1 - xi) ** 2) / beta**2
    return ys[k] + alpha / beta, slope


def paper_inverse(y, xs, ys, ds):
    """Eqs. 6 to 8, with the quadratic solved by NumPy."""
    k = min(max(int(np.searchsorted(ys, y, side="right")) - 1, 0), len(xs) - 2)
    w, h = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    s, up = h / w, ds[k + 1] + ds[k] - 2 * (h / w)
    a = h * (s - ds[k]) + (y - ys[k]) * up
    b = h * ds[k] - (y - ys[k]) * up
    c = -s * (y - ys[k])
    roots = [r.real for r in np.roots([a, b, c]) if abs(r.imag) < 1e-9 and -1e-9 <= r.real <= 1 + 1e-9]
    return roots[0] * w + xs[k]


def paper_line(theta, bins, bound):
    """Knots of the spline with straight tails."""
    widths, heights, inner = np.split(theta, [bins, 2 * bins])
    ds = np.concatenate([[1.0], paper_derivatives(inner), [1.0]])
    return paper_knots(widths, bins, -bound, bound), paper_knots(heights, bins, -bound, bound), ds


@pytest.mark.parametrize(("bins", "bound"), [(8, 5.0), (3, 1.5), (1, 2.0)])
def test_line_is_the_papers(bins, bound):
    function = RationalQuadraticSpline(bins, bound)
    theta, x = drawn(300, function.num_parameters, std=1.5), spread(300, reach=bound)
    forward, inverse = function.forward(x, theta), function.inverse(x, theta)
    for row in range(len(x)):
        knots = paper_line(theta[row].numpy(), bins, bound)
        value, slope = paper_forward(x[row].item(), *knots)
        # Sums over eight bins in float64; slopes down to e^-12 enlarge rounding in the inverse.
        assert forward.value[row].item() == pytest.approx(value, rel=1e-12, abs=1e-12)
        assert forward.log_slope[row].item() == pytest.approx(math.log(slope), abs=1e-9)
        root = paper_inverse(x[row].item(), *knots)
        assert inverse.value[row].item() == pytest.approx(root, abs=1e-13 + 1e-13 / paper_forward(root, *knots)[1])


def test_circle_is_the_papers_turned():
    bins, low, high = 5, 1.0, 4.0
    function = CircularSpline(bins, low, high)
    theta, x = drawn(200, function.num_parameters, std=1.5), spread(200, reach=1.5) + 2.5
    found = function.forward(x, theta)
    for row in range(len(x)):
        widths, heights, inner, turn = np.split(theta[row].numpy(), [bins, 2 * bins, 3 * bins])
        ds = paper_derivatives(np.append(inner, inner[0]))
        knots = paper_knots(widths, bins, low, high), paper_knots(heights, bins, low, high), ds
        value, slope = paper_forward(x[row].item(), *knots)
        assert found.value[row].item() == pytest.approx(low + (value + turn[0] - low) % (high - low), abs=1e-12)
        assert found.log_slope[row].item() == pytest.approx(math.log(slope), abs=1e-9)


EVERY = {
    "line": RationalQuadraticSpline(),
    "line-one-bin": RationalQuadraticSpline(1, 2.0),
    "circle": CircularSpline(),
    "circle-odd-box": CircularSpline(3, 0.3, 7.1),
}
each = pytest.mark.parametrize("name", EVERY)


@each
@pytest.mark.parametrize("verb", ["forward", "inverse"])
def test_slopes_are_autograds(name, verb):
    function = EVERY[name]
    x = spread(400).requires_grad_()
    found = getattr(function, verb)(x, drawn(400, function.num_parameters))
    (slope,) = torch.autograd.grad(found.value.sum(), x, retain_graph=True)
    torch.testing.assert_close(found.log_slope, slope.log(), rtol=1e-9, atol=1e-9)


@each
@pytest.mark.parametrize("verb", ["forward", "inverse"])
def test_gradients_are_finite_differences(name, verb):
    """Of value and log-slope with respect to point and parameters."""
    function = EVERY[name]
    x, theta = spread(4, seed=5).requires_grad_(), drawn(4, function.num_parameters, seed=6).requires_grad_()

    def both(x, theta):
        found = getattr(function, verb)(x, theta)
        return found.value, found.log_slope

    torch.autograd.gradcheck(both, (x, theta), atol=1e-6)


@each
@both_dtypes
def test_zeros_are_the_identity(name, dtype):
    function = EVERY[name]
    low, high = (function.knots.low, function.knots.high) if name.startswith("circle") else (-9.0, 9.0)
    x = torch.linspace(low, high, 101, dtype=dtype)[:-1]
    for found in (
        function.forward(x, x.new_zeros(100, function.num_parameters)),
        function.inverse(x, x.new_zeros(100, function.num_parameters)),
    ):
        # A place in the bin and back: two roundings at the size of the box.
        torch.testing.assert_close(found.value, x, rtol=0, atol=16 * torch.finfo(dtype).eps)
        torch.testing.assert_close(found.log_slope, torch.zeros_like(x), rtol=0, atol=16 * torch.finfo(dtype).eps)


@both_dtypes
@pytest.mark.parametrize("std", [1.0, 6.0, 20.0])
def test_a_hundred_thousand_wild_inversions(dtype, std):
    """Trap T8: parameters of standard deviation 6 and more; nothing raises, everything finite, and they round-trip.

    Slopes here go down to e⁻¹⁹, where a float32 y does not say which x it came from; so the promise is that of a
    backward-stable inverse. The recovered x, put through the spline in float64, misses y by no more than rounding of
    x and y allows, a few dozen ulps times (1 + slope), and x itself is off by that over the slope.
    """
    function, rows = RationalQuadraticSpline(), 100_000
    theta, x = drawn(rows, function.num_parameters, std=std, dtype=dtype), spread(rows, dtype=dtype)
    ulp = 5 * torch.finfo(dtype).eps  # of numbers as large as the box

    there = function.forward(x, theta)
    back = function.inverse(there.value, theta)
    assert torch.isfinite(there.log_slope).all()
    assert torch.isfinite(back.value).all()
    assert torch.isfinite(back.log_slope).all()

    wide = theta.double()
    again = function.forward(back.value.double(), wide)
    missed = (again.value - there.value.double()).abs() / (1 + again.log_slope.exp())
    assert missed.max() < 32 * ulp
    flattest = torch.minimum(again.log_slope, function.forward(x.double(), wide).log_slope)
    assert ((back.value - x).abs() / (1 + (-flattest).exp())).max() < 64 * ulp
    # Where the slope is moderate that is a round trip in the plain sense.
    moderate = (flattest > -2) & (x.abs() < 5)
    assert moderate.float().mean() > 0.05
    assert (back.value - x).abs()[moderate].max() < 1024 * ulp


@both_dtypes
@pytest.mark.parametrize("std", [6.0, 20.0])
def test_inverses_beside_every_knot_of_wild_splines(dtype, std):
    """Trap T8, where it bites: a hair below, on and above a knot the discriminant is the square of a slope down to 1e-3
    beside that of a bin a million times as steep, and in float32 comes out as zero. Its root has no derivative there.
    """
    function, rows = RationalQuadraticSpline(), 5_000
    theta = drawn(rows, function.num_parameters, std=std, dtype=dtype)
    bins = function.knots.bins
    knots = function.knots.place(theta[:, : 2 * bins].T.reshape(2, bins, rows).softmax(1))[1]  # (bins + 1, rows)
    low, high = knots.new_tensor(-math.inf), knots.new_tensor(math.inf)
    y = torch.cat([torch.nextafter(knots, low), knots, torch.nextafter(knots, high)])
    given = theta.repeat(len(y), 1).requires_grad_()
    y = y.reshape(-1).requires_grad_()
    found = function.inverse(y, given)
    for part in (found.value, found.log_slope):
        assert torch.isfinite(part).all()
        for gradient in torch.autograd.grad(part.sum(), (y, given), retain_graph=True):
            assert torch.isfinite(gradient).all()


def test_float32_agrees_with_float64():
    """Forward: eight roundings of the knots, at slopes up to e⁵."""
    function = RationalQuadraticSpline()
    theta, x = drawn(20_000, function.num_parameters, dtype=torch.float32), spread(20_000, dtype=torch.float32)
    narrow, wide = function.forward(x, theta), function.forward(x.double(), theta.double())
    error = (narrow.value - wide.value).abs() / (1 + wide.log_slope.exp())
    assert error.max() < 64 * 5 * torch.finfo(torch.float32).eps
    assert (narrow.log_slope - wide.log_slope).abs().max() < 2e-3  # a bin of 1e-2 knows its width to 1e-4


@both_dtypes
@pytest.mark.parametrize("std", [0.0, 1.0, 6.0])
def test_gradients_are_finite_everywhere(dtype, std):
    """Trap T9: at ±1e6, at infinity's door, and exactly on every knot of both axes."""
    bins, bound = 4, 3.0
    function = RationalQuadraticSpline(bins, bound)
    theta = drawn(1, function.num_parameters, std=std, dtype=dtype)
    xs, ys, _ = paper_line(theta[0].double().numpy(), bins, bound)
    far = [-1e30, -1e6, -bound, -0.0, 0.0, bound, 1e6, 1e30]
    for verb, knots in (("forward", xs), ("inverse", ys)):
        x = torch.tensor([*far, *knots], dtype=dtype).requires_grad_()
        given = theta.expand(len(x), -1).clone().requires_grad_()
        found = getattr(function, verb)(x, given)
        for part in (found.value, found.log_slope):
            assert torch.isfinite(part).all()
            for gradient in torch.autograd.grad(part.sum(), (x, given), retain_graph=True):
                assert torch.isfinite(gradient).all()


def test_tails_are_straight_and_meet_the_spline():
    function = RationalQuadraticSpline(6, 2.0)
    theta = drawn(1, function.num_parameters).expand(4, -1)
    x = torch.tensor([-2 - 1e-9, -2 + 1e-9, 2 - 1e-9, 2 + 1e-9], dtype=FLOAT64)
    for found in (function.forward(x, theta), function.inverse(x, theta)):
        torch.testing.assert_close(found.value, x, rtol=0, atol=1e-8)
        assert found.log_slope.abs().max() < 1e-5  # continuous slope; its own slope is of order 1e3 at most
    outside = torch.tensor([-1e6, -2.5, 2.5, 1e6], dtype=FLOAT64)
    assert torch.equal(function.forward(outside, theta).value, outside)
    assert torch.equal(function.inverse(outside, theta).log_slope, torch.zeros(4, dtype=FLOAT64))


def test_circle_has_no_seam():
    """Value (on the circle) and slope are the same on both sides of the cut, and for a turn more."""
    function = CircularSpline(6)
    theta = drawn(1, function.num_parameters)
    x = torch.tensor([-math.pi + 1e-9, math.pi - 1e-9, 0.5, 0.5 + 2 * math.pi, 0.5 - 6 * math.pi], dtype=FLOAT64)
    for found in (function.forward(x, theta.expand(5, -1)), function.inverse(x, theta.expand(5, -1))):
        assert (found.value.abs() <= math.pi).all()
        turn = torch.stack([found.value.cos(), found.value.sin()], 1)
        torch.testing.assert_close(turn[0], turn[1], rtol=0, atol=1e-6)
        torch.testing.assert_close(turn[2:3].expand(2, 2), turn[3:], rtol=0, atol=1e-12)
        torch.testing.assert_close(found.log_slope[0], found.log_slope[1], rtol=0, atol=1e-5)


def test_circle_rotates():
    function = CircularSpline(4)
    theta = torch.zeros(3, function.num_parameters, dtype=FLOAT64)
    theta[:, -1] = 1.0
    x = torch.tensor([-3.0, 0.0, 3.0], dtype=FLOAT64)
    expected = torch.tensor([-2.0, 1.0, 4.0 - 2 * math.pi], dtype=FLOAT64)
    torch.testing.assert_close(function.forward(x, theta).value, expected)
    torch.testing.assert_close(function.inverse(expected, theta).value, x)


@both_dtypes
def test_circle_round_trips_and_stays_in_its_box(dtype):
    function = CircularSpline()
    theta, x = drawn(20_000, function.num_parameters, std=2, dtype=dtype), spread(20_000, reach=math.pi, dtype=dtype)
    there = function.forward(x, theta)
    back = function.inverse(there.value, theta)
    assert max(there.value.abs().max(), back.value.abs().max()) <= torch.tensor(math.pi, dtype=dtype)
    off = (back.value - x).abs()
    off = torch.minimum(off, 2 * math.pi - off)
    ulp = 4 * torch.finfo(dtype).eps
    flattest = torch.maximum(-there.log_slope, back.log_slope)
    assert (off / (1 + flattest.exp())).max() < 64 * ulp


def test_density_on_the_circle_integrates_to_one():
    """The uniform source pulled back, for one set of parameters, by the midpoint rule with 20,000 cells."""
    function = CircularSpline(5)
    theta, cells = drawn(1, function.num_parameters, std=2), 20_000
    x = -math.pi + 2 * math.pi * (torch.arange(cells, dtype=FLOAT64) + 0.5) / cells
    density = function.forward(x, theta.expand(cells, -1)).log_slope.exp() / (2 * math.pi)
    assert (density.mean() * 2 * math.pi).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("where", ["all in", "all out", "empty"])
@each
def test_all_in_all_out_and_empty(name, where):
    """Trap T10."""
    function = EVERY[name]
    x = {"all in": spread(7, reach=1.0), "all out": spread(7, reach=1.0) + 20, "empty": spread(0)}[where]
    theta = drawn(len(x), function.num_parameters)
    for found in (function.forward(x, theta), function.inverse(x, theta)):
        assert found.value.shape == found.log_slope.shape == x.shape
        assert torch.isfinite(found.value).all()


@each
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0, 4), (2, 3, 2)])
def test_points_of_any_shape(name, shape):
    function = EVERY[name]
    x, theta = spread(*shape, reach=1.5), drawn(*shape, function.num_parameters)
    found = function.forward(x, theta)
    assert found.value.shape == found.log_slope.shape == shape
    flat = function.forward(x.reshape(-1), theta.reshape(x.numel(), function.num_parameters))
    assert torch.equal(found.value.reshape(-1), flat.value)


def test_heavy_tails_have_a_finite_likelihood():
    """Trap T11: Student-t data with two degrees of freedom, a thousand times the box."""
    g = torch.Generator().manual_seed(3)
    normal, chi = torch.randn(20_000, generator=g), torch.randn(20_000, 2, generator=g).square().sum(1) / 2
    x = normal / chi.sqrt()
    assert x.abs().max() > 50
    function = RationalQuadraticSpline(8, 3.0)
    theta = drawn(function.num_parameters, dtype=torch.float32).requires_grad_()
    found = function.forward(x, theta.expand(len(x), -1))
    loss = (0.5 * found.value**2 - found.log_slope).mean()
    (gradient,) = torch.autograd.grad(loss, theta)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_nan_stays_nan_and_infinity_stays_outside():
    function = RationalQuadraticSpline()
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.5])
    found = function.forward(x, drawn(4, function.num_parameters, dtype=torch.float32))
    assert torch.isnan(found.value[0])
    assert found.value[1:3].tolist() == [math.inf, -math.inf]
    assert torch.isfinite(found.value[3])


def test_a_map_moved_to_float32_keeps_exact_knots_for_float64():
    function, moved = RationalQuadraticSpline(5, 3.3), RationalQuadraticSpline(5, 3.3).float()
    x, theta = spread(50), drawn(50, function.num_parameters)
    assert torch.equal(function.forward(x, theta).value, moved.forward(x, theta).value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: RationalQuadraticSpline(0),
        lambda: RationalQuadraticSpline(8, 0.0),
        lambda: RationalQuadraticSpline(8, math.inf),
        lambda: RationalQuadraticSpline(8, min_width=0.125),
        lambda: CircularSpline(4, 2.0, 1.0),
        lambda: CircularSpline(4, min_width=-1e-3),
    ],
)
def test_impossible_settings_are_refused(build):
    with pytest.raises(ConfigError, match=r"Choose|Give"):
        build()
