"""Preprocessing against NumPy, SciPy and closed forms."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from safetensors.torch import load, save

from advect.errors import ConfigError, DataError, ShapeError, UnknownNameError
from advect.records import Coordinate, Status
from advect.transforms import Asinh, Cumulative, Standardise, empty_preprocess, fit_preprocess

FLOAT64 = torch.float64
LEVELS = torch.tensor([0.62, 0.2, 0.1, 0.07, 0.01 - 1e-12, 1e-12], dtype=FLOAT64)


def coordinates(*scalings: str, cells: int = 0) -> list[Coordinate]:
    return [Coordinate(f"c{i}", i, "value", s, cells if s == "cumulative" else 0) for i, s in enumerate(scalings)]


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def gaussian_log_prob(bijection, x: torch.Tensor) -> torch.Tensor:
    out = bijection.encode(x)
    z = out.value.reshape(len(x), -1)
    return -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi) + out.log_abs_det_jacobian


# --- standardise, pixel -------------------------------------------------------------------------------------------


def test_standardise_density_is_the_normal_density():
    """The change of variables of a standard normal is N(shift, scale²), as SciPy writes it."""
    bijection = Standardise(torch.tensor([1.0, -20.0], dtype=FLOAT64), torch.tensor([0.1, 50.0], dtype=FLOAT64))
    x = draws(10, 2) * 30
    truth = scipy.stats.norm.logpdf(x, [1.0, -20.0], [0.1, 50.0]).sum(1)
    # A sum of squares up to 1e6: 1e-12 relative.
    np.testing.assert_allclose(gaussian_log_prob(bijection, x), truth, rtol=1e-12)


@pytest.mark.parametrize("scaling", ["standardise", "asinh", "pixel"])
def test_log_prob_follows_a_change_of_units(scaling):
    """Trap D1: in units a times as large (and shifted) the log-density falls by d log a, exactly."""
    x = torch.sinh(draws(300, 3))
    first = fit_preprocess(x, coordinates(*[scaling] * 3), {})
    second = fit_preprocess(1000 * x - 7, coordinates(*[scaling] * 3), {})
    expected = gaussian_log_prob(first, x) - 3 * math.log(1000)
    torch.testing.assert_close(gaussian_log_prob(second, 1000 * x - 7), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scaling", ["standardise", "asinh"])
def test_fitted_columns_have_zero_mean_and_unit_variance(scaling):
    x = draws(500, 2) * torch.tensor([3.0, 1e-6], dtype=FLOAT64) + torch.tensor([1e4, 0.0], dtype=FLOAT64)
    z = fit_preprocess(x, coordinates(scaling, scaling), {}).encode(x).value
    # 1e4 ± 3 loses four digits of sixteen.
    torch.testing.assert_close(z.mean(0), torch.zeros(2, dtype=FLOAT64), rtol=0, atol=1e-10)
    torch.testing.assert_close(z.square().mean(0), torch.ones(2, dtype=FLOAT64), rtol=1e-10, atol=0)


def test_pixels_share_one_shift_and_scale():
    """Contrasts between pixels survive: one affine map for all, unit variance over all of them together."""
    x = draws(200, 1, 2, 3) * torch.arange(1.0, 7.0, dtype=FLOAT64).reshape(1, 2, 3) + 100
    bijection = fit_preprocess(x, coordinates(*["pixel"] * 6), {})
    z = bijection.encode(x).value
    assert z.shape == x.shape
    torch.testing.assert_close(z.mean(), torch.tensor(0.0, dtype=FLOAT64), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0, dtype=FLOAT64), rtol=1e-12, atol=0)
    ratio = (z[1:] - z[:1]) / (x[1:] - x[:1])
    torch.testing.assert_close(ratio, ratio[0, 0, 0, 0].expand_as(ratio), rtol=1e-9, atol=0)


@pytest.mark.parametrize("scaling", ["standardise", "asinh", "pixel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6, -1e30])
def test_constant_columns_get_scale_one(scaling, dtype, value):
    """No division by zero, also where the values differ by rounding alone; every scale is one."""
    x = torch.full((50, 1), value, dtype=dtype)
    x[::2] *= 1 + torch.finfo(dtype).eps
    bijection = fit_preprocess(x, coordinates(scaling), {})
    scales = [tensor for name, tensor in bijection.state_dict().items() if name.endswith("scale")]
    assert scales
    assert all(torch.equal(scale, torch.ones_like(scale)) for scale in scales)
    assert torch.isfinite(bijection.encode(x).value).all()


def test_one_row_is_enough_to_fit():
    x = torch.tensor([[3.0, -2.0]])
    out = fit_preprocess(x, coordinates("standardise", "asinh"), {}).encode(x)
    assert torch.equal(out.value, torch.zeros(1, 2))
    assert torch.equal(out.log_abs_det_jacobian, torch.zeros(1))


# --- asinh --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-14), (torch.float32, 3e-7)])
def test_asinh_is_numpys_up_to_1e30(dtype, rtol):
    """Value and log-det −log scale − ½ log(1 + u²) to rounding, from 0 to ±1e30, where u² overflows in float32."""
    location, scale = 3.0, 0.5
    x = torch.tensor([-1e30, -1e6, -1.0, 2.5, 3.0, 3.25, 1e3, 1e30], dtype=dtype)
    out = Asinh(torch.tensor([location]), torch.tensor([scale])).encode(x[:, None])
    u = (x.double().numpy() - location) / scale
    np.testing.assert_allclose(out.value[:, 0], np.arcsinh(u), rtol=rtol)
    truth = -math.log(scale) - np.log(np.hypot(1, u))
    np.testing.assert_allclose(out.log_abs_det_jacobian, truth, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_asinh_decode_never_overflows_and_says_so(dtype):
    bijection = Asinh(torch.tensor([0.0], dtype=dtype), torch.tensor([1e6], dtype=dtype))
    out = bijection.decode(torch.tensor([[1e6], [-1e6], [2.0]], dtype=dtype))
    assert torch.isfinite(out.value).all()
    assert out.status.tolist() == [Status.OUTSIDE_SUPPORT, Status.OUTSIDE_SUPPORT, Status.OK]
    np.testing.assert_allclose(out.value[2].item(), 1e6 * math.sinh(2.0), rtol=1e-6)


def test_asinh_tames_heavy_tails():
    """A Cauchy column with a value of 1e12: after fitting, unit variance and a largest value of a few units."""
    x = torch.tan(math.pi * (torch.rand(4000, 1, dtype=FLOAT64, generator=torch.Generator().manual_seed(0)) - 0.5))
    x[0] = 1e12
    z = fit_preprocess(x, coordinates("asinh"), {}).encode(x).value
    assert z.abs().max() < 30
    standardised = fit_preprocess(x, coordinates("standardise"), {}).encode(x).value
    assert standardised.abs().max() > 60  # what the same row does without


def test_asinh_scale_of_a_column_that_mostly_repeats_one_value():
    """Nine zeros in ten: the robust scale comes from the others, not from a division by zero."""
    x = torch.zeros(100, 1, dtype=FLOAT64)
    x[:10, 0] = 5000 + 10 * draws(10)
    bijection = fit_preprocess(x, coordinates("asinh"), {})
    assert 1e3 < bijection.state_dict()["0.0.scale"].item() < 1e4
    assert bijection.encode(x).value.abs().max() < 5


# --- cumulative ---------------------------------------------------------------------------------------------------


def test_cumulative_is_scipys_quantile_of_the_piecewise_linear_distribution():
    p = LEVELS.numpy()
    x = np.array([0.001, 0.5, 1.0, 1.7, 2.999, 3.5, 4.25, 4.999])
    knots = np.concatenate([[0], np.cumsum(p)])
    cumulative = np.interp(x, np.arange(len(knots)), knots)
    out = Cumulative([LEVELS]).encode(torch.from_numpy(x)[:, None])
    # F near 1 is known to 1e-16 and divided by φ(z) ≥ 1e-3 here.
    np.testing.assert_allclose(out.value[:, 0], scipy.stats.norm.ppf(cumulative), rtol=1e-9)


def test_cumulative_keeps_both_tails():
    """In the last cell, of mass 1e-12, the survival function decides: SciPy's isf, not ppf of a number beside 1."""
    fraction = np.array([0.1, 0.5, 0.9, 0.999])
    upper = Cumulative([LEVELS]).encode(torch.from_numpy(5 + fraction)[:, None]).value[:, 0]
    np.testing.assert_allclose(upper, scipy.stats.norm.isf(1e-12 * (1 - fraction)), rtol=1e-12)
    lower = Cumulative([LEVELS.flip(0)]).encode(torch.from_numpy(1 - fraction)[:, None]).value[:, 0]
    np.testing.assert_allclose(lower, -upper, rtol=1e-12)


def test_cumulative_density_is_the_frequency_of_the_cell():
    """Traps L11, D5: the density of level + noise is p_k in cell k: the masses of the integers sum to one."""
    bijection = Cumulative([LEVELS])
    noise = torch.rand(len(LEVELS), dtype=FLOAT64, generator=torch.Generator().manual_seed(0))
    x = (torch.arange(len(LEVELS)) + noise)[:, None]
    density = gaussian_log_prob(bijection, x).exp()
    torch.testing.assert_close(density, LEVELS, rtol=1e-12, atol=0)
    assert math.isclose(density.sum().item(), 1, rel_tol=1e-12)


def test_cumulative_makes_levels_exactly_normal():
    """The quantiles (i + ½)/n of the uniform, decoded from z and encoded again, are the normal's own."""
    q = (np.arange(1000) + 0.5) / 1000
    z = torch.from_numpy(scipy.stats.norm.ppf(q))[:, None]
    bijection = Cumulative([LEVELS])
    x = bijection.decode(z).value
    counts = torch.bincount(x[:, 0].long(), minlength=6)
    # Of 1000 evenly spaced quantiles each level gets 1000 p to within one.
    assert ((counts - 1000 * LEVELS).abs() <= 1).all()
    torch.testing.assert_close(bijection.encode(x).value, z, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cumulative_is_finite_and_monotone_to_its_ends(dtype):
    """At x = 0, where F = 0, and at the last number below cells; never falling in between, edges included."""
    bijection = Cumulative([LEVELS.to(dtype)])
    inside = torch.linspace(0, 6, 6001, dtype=dtype)[:-1]
    tiny = torch.tensor([1e-30, 1e-20, 1e-12, 1e-8, 1e-7, 1e-5], dtype=dtype)
    last = torch.nextafter(torch.tensor([6.0], dtype=dtype), torch.zeros(1, dtype=dtype))
    x = torch.cat([inside, tiny, last, torch.arange(6, dtype=dtype)]).sort().values[:, None].requires_grad_()
    out = bijection.encode(x)
    assert (out.value[:, 0].diff() >= 0).all()
    assert torch.isfinite(out.value).all()
    assert torch.isfinite(out.log_abs_det_jacobian).all()
    assert (out.status == Status.OK).all()
    # ε p₀ of mass is the smallest F: z = Φ⁻¹(0.62 ε).
    lowest = scipy.stats.norm.ppf(0.62 * torch.finfo(dtype).eps)
    assert math.isclose(out.value[0].item(), lowest, rel_tol=1e-6)
    (gradient,) = torch.autograd.grad(out.value.sum(), x)
    assert torch.isfinite(gradient).all()


def test_slope_on_the_edge_that_is_the_median():
    """Two equal cells meet at z = 0: the derivative there is √(2π)/2, not that of the minimum of F and 1 − F (0)."""
    x = torch.tensor([[1.0]], dtype=FLOAT64, requires_grad=True)
    out = Cumulative([torch.tensor([0.5, 0.5], dtype=FLOAT64)]).encode(x)
    (slope,) = torch.autograd.grad(out.value.sum(), x)
    assert math.isclose(slope.item(), 0.5 * math.sqrt(2 * math.pi), rel_tol=1e-12)
    assert math.isclose(out.log_abs_det_jacobian.item(), math.log(slope.item()), rel_tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cells", [1, 2, 256])
def test_cumulative_decodes_into_the_support(dtype, cells):
    """However far out the latent: the level, floor(x), is one of 0 … cells − 1."""
    z = torch.tensor([-1e6, -40.0, -9.0, -5.0, 0.0, 5.0, 9.0, 40.0, 1e6], dtype=dtype)[:, None]
    out = Cumulative([torch.ones(cells, dtype=dtype)]).decode(z)
    assert ((out.value >= 0) & (out.value < cells)).all()
    assert (out.value[:, 0].diff() >= 0).all()
    assert torch.isfinite(out.log_abs_det_jacobian).all()


def test_inputs_outside_the_cells_are_flagged():
    x = torch.tensor([[-0.1, 0.5], [0.5, 0.5], [6.0, 0.5], [0.5, 2.0], [math.nan, 0.5], [math.inf, 0.5]], dtype=FLOAT64)
    out = Cumulative([LEVELS, torch.ones(2, dtype=FLOAT64)]).encode(x)
    assert out.status.tolist() == [2, 0, 2, 2, 2, 2]
    assert Status.OUTSIDE_SUPPORT == 2
    assert torch.isfinite(out.value[:4]).all()
    assert out.value[4, 0].isnan()
    assert torch.isfinite(out.value[5]).all()


# --- fitting and loading ------------------------------------------------------------------------------------------

MIXED = [
    Coordinate("a", 0, "value", "cumulative", 3),
    Coordinate("b", 1, "value", "standardise"),
    Coordinate("c", 2, "value", "asinh"),
    Coordinate("d", 3, "value", "cumulative", 5),
]
FREQUENCIES = {0: torch.tensor([0.2, 0.5, 0.3]), 3: torch.tensor([0.1, 0.1, 0.2, 0.3, 0.3])}


def mixed_rows(dtype: torch.dtype = FLOAT64) -> torch.Tensor:
    x = draws(100, 4)
    x[:, 0] = 3 * torch.special.ndtr(x[:, 0])
    x[:, 3] = 5 * torch.special.ndtr(x[:, 3])
    return x.to(dtype)


def test_each_coordinate_goes_through_its_own_map():
    x = mixed_rows()
    out = fit_preprocess(x, MIXED, FREQUENCIES).encode(x)
    parts = [
        Cumulative([FREQUENCIES[0].double()]).encode(x[:, :1]),
        fit_preprocess(x[:, 1:2], MIXED[1:2], {}).encode(x[:, 1:2]),
        fit_preprocess(x[:, 2:3], MIXED[2:3], {}).encode(x[:, 2:3]),
        Cumulative([FREQUENCIES[3].double()]).encode(x[:, 3:]),
    ]
    torch.testing.assert_close(out.value, torch.cat([p.value for p in parts], 1), rtol=1e-12, atol=1e-12)
    total = sum(p.log_abs_det_jacobian for p in parts)
    torch.testing.assert_close(out.log_abs_det_jacobian, total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_map_loads_a_fitted_one(dtype):
    x = mixed_rows(dtype).reshape(100, 2, 2)
    fitted = fit_preprocess(x, MIXED, FREQUENCIES)
    rebuilt = empty_preprocess(MIXED, (2, 2)).to(dtype)
    assert not torch.equal(rebuilt.encode(x).value, fitted.encode(x).value)
    rebuilt.load_state_dict(load(save(fitted.state_dict())))
    assert torch.equal(rebuilt.encode(x).value, fitted.encode(x).value)
    assert torch.equal(rebuilt.encode(x).log_abs_det_jacobian, fitted.encode(x).log_abs_det_jacobian)


def test_what_cannot_be_fitted_is_refused():
    x = mixed_rows()
    with pytest.raises(DataError, match="no rows"):
        fit_preprocess(x[:0], MIXED, FREQUENCIES)
    spoilt = x.clone()
    spoilt[7, 2] = math.inf
    with pytest.raises(DataError, match="row 7, coordinate 2"):
        fit_preprocess(spoilt, MIXED, FREQUENCIES)
    with pytest.raises(ShapeError, match="3 coordinates"):
        fit_preprocess(x, MIXED[:3], FREQUENCIES)
    with pytest.raises(ConfigError, match="no probabilities"):
        fit_preprocess(x, MIXED, {0: FREQUENCIES[0]})
    with pytest.raises(ShapeError, match=r"expected \(3,\)"):
        fit_preprocess(x, MIXED, {0: torch.ones(4), 3: FREQUENCIES[3]})
    with pytest.raises(ConfigError, match="not positive"):
        fit_preprocess(x, MIXED, {0: torch.tensor([0.5, 0.0, 0.5]), 3: FREQUENCIES[3]})
    with pytest.raises(UnknownNameError, match="Did you mean 'standardise'"):
        fit_preprocess(x[:, :1], coordinates("standardize"), {})
    with pytest.raises(ConfigError, match="scale positive"):
        Standardise(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ShapeError, match="broadcasts"):
        Asinh(torch.zeros(3), torch.ones(2))
    with pytest.raises(ShapeError, match="cells"):
        Cumulative([torch.ones(2, 2)])
