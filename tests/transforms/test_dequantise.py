"""The logit of levels: closed forms from SciPy, both ends, and where the mass goes."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch

from advect.errors import ConfigError
from advect.flows.base import StandardNormal
from advect.flows.flow import Flow
from advect.records import Status
from advect.transforms.dequantise import Logit

FLOAT64 = torch.float64


def numbers(*values, dtype=FLOAT64):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(("levels", "alpha"), [(256, 0.05), (256, 1e-6), (17, 0.0), (1, 0.25)])
def test_against_scipy(levels, alpha):
    x = torch.rand(50, 3, dtype=FLOAT64, generator=torch.Generator().manual_seed(0)) * levels
    out = Logit((3,), levels, alpha).encode(x)
    s = alpha + (1 - 2 * alpha) * x.numpy() / levels
    # One logit and three logarithms.
    np.testing.assert_allclose(out.value.numpy(), scipy.special.logit(s), rtol=1e-12, atol=1e-12)
    expected = np.log((1 - 2 * alpha) / levels / (s * (1 - s))).sum(1)
    np.testing.assert_allclose(out.log_abs_det_jacobian.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert not out.status.any()


def test_both_ends_keep_their_digits_in_float32():
    """A bright pixel is as far from white as a dark one from black: the map is odd about the middle.

    logit(1 − s) computed from s itself would be off by 6e-8 / 4e-6, one part in a hundred.
    """
    distance = numbers(1e-3, 0.01, 0.5, dtype=torch.float32).unsqueeze(1)
    logit = Logit((1,), 256, 0.0)
    dark, bright = logit.encode(distance), logit.encode(256 - distance)
    exact = scipy.special.logit(distance.double().numpy() / 256)
    np.testing.assert_allclose(dark.value.numpy(), exact, rtol=1e-6)
    # 256 − distance is itself rounded to 1.5e-5: its logarithm moves by that over the distance.
    tolerance = (1.6e-5 / distance + 1e-5).numpy()
    assert (np.abs(bright.value.numpy() + exact) < tolerance).all()
    assert (np.abs((bright.log_abs_det_jacobian - dark.log_abs_det_jacobian).numpy()) < tolerance[:, 0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
@pytest.mark.parametrize("alpha", [0.0, 1e-6, 0.05])
def test_the_ends_of_the_levels_are_inside_and_finite(alpha, dtype):
    x = numbers(0.0, 256.0, dtype=dtype).unsqueeze(1).requires_grad_()
    out = Logit((1,), 256, alpha).encode(x)
    assert not out.status.any()
    (gradient,) = torch.autograd.grad(out.value.sum() + out.log_abs_det_jacobian.sum(), x)
    assert torch.isfinite(out.value).all()
    assert torch.isfinite(out.log_abs_det_jacobian).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(("alpha", "reach"), [(0.0, 0.0), (0.05, 0.05 / 0.9)])
def test_beyond_the_support_there_is_no_density(alpha, reach):
    """The support ends α/(1 − 2α) of the levels beyond the data."""
    flow = Flow(StandardNormal((1,)).double(), Logit((1,), 100, alpha))
    edge = 100 * reach
    x = numbers(-edge - 1e-3, -edge + 1e-3, 100 + edge - 1e-3, 100 + edge + 1e-3).unsqueeze(1)
    assert torch.isneginf(flow.log_prob(x)).tolist() == [True, False, False, True]
    assert flow.score(x).status.tolist() == [Status.OUTSIDE_SUPPORT, 0, 0, Status.OUTSIDE_SUPPORT]


@pytest.mark.parametrize("alpha", [0.0, 1e-3, 0.05])
def test_the_mass_of_all_levels_is_one_less_what_alpha_leaves_outside(alpha):
    """Trap L11: Σ_x ∫_cell p, each cell by SciPy, against the normal mass between logit α and logit(1 − α)."""
    flow = Flow(StandardNormal((1,)).double(), Logit((1,), 4, alpha))

    def density(y):
        return math.exp(flow.log_prob(numbers(y).unsqueeze(1)).item())

    cells = [scipy.integrate.quad(density, x, x + 1, epsabs=1e-8, limit=30)[0] for x in range(4)]
    inside = 1.0 if alpha == 0 else 1 - 2 * scipy.stats.norm.cdf(scipy.special.logit(alpha))
    assert sum(cells) == pytest.approx(inside, abs=1e-6)


def test_any_rank_of_event():
    x = torch.rand(2, 1, 2, 2, dtype=FLOAT64)
    out = Logit(None, 1, 0.05).encode(x)
    torch.testing.assert_close(out.log_abs_det_jacobian, Logit((4,), 1, 0.05).encode(x.flatten(1)).log_abs_det_jacobian)
    assert out.value.shape == x.shape


@pytest.mark.parametrize("options", [{"levels": 0}, {"levels": math.inf}, {"alpha": 0.5}, {"alpha": -0.1}])
def test_refuses(options):
    with pytest.raises(ConfigError):
        Logit((1,), **options)
