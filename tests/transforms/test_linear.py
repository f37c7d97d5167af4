"""LU, QR and reflections against dense linear algebra; whitening against the Gaussian it fits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from scipy.stats import multivariate_normal

from advect.errors import ConfigError, DataError, ShapeError, UnknownNameError
from advect.transforms.linear import Invertible1x1, LULinear, Permutation, whitening
from advect.transforms.orthogonal import Householder, QRLinear, reflections

FLOAT64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = FLOAT64) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Permutations


def test_a_permutation_takes_the_listed_coordinates():
    x = torch.tensor([[10.0, 20.0, 30.0]])
    assert Permutation([2, 0, 1]).encode(x).value.tolist() == [[30, 10, 20]]
    assert Permutation([2, 0, 1]).decode(x).value.tolist() == [[20, 30, 10]]
    assert Permutation.reverse(3).encode(x).value.tolist() == [[30, 20, 10]]
    drawn = Permutation.random(50, generator=seeded(3)).order
    assert torch.equal(drawn, Permutation.random(50, generator=seeded(3)).order)
    assert not torch.equal(drawn, torch.arange(50))
    assert torch.equal(drawn.sort().values, torch.arange(50))


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2]])
def test_what_is_no_permutation_is_refused(order):
    with pytest.raises(ConfigError, match="no permutation"):
        Permutation(order)


# LU


@pytest.mark.parametrize("features", [1, 2, 5, 30])
def test_lu_starts_from_the_matrix_given(features):
    """Value, inverse and log-determinant against the dense matrix, with a pivoting permutation in play."""
    matrix, shift, x = normal(features, features, seed=1), normal(features, seed=2), normal(7, features, seed=3)
    layer = LULinear.from_matrix(matrix, shift)
    close(layer.matrix(), matrix)
    encoded, decoded = layer.encode(x), layer.decode(x)
    close(encoded.value, x @ matrix.T + shift)
    close(decoded.value, torch.linalg.solve(matrix, (x - shift).T).T, 1e-9)  # condition number up to a thousand
    close(encoded.log_abs_det_jacobian, torch.linalg.slogdet(matrix).logabsdet.expand(7))
    close(decoded.log_abs_det_jacobian, -torch.linalg.slogdet(matrix).logabsdet.expand(7))


def test_lu_starts_as_asked():
    x = normal(4, 3, dtype=torch.float32)
    assert torch.equal(LULinear(3).encode(x).value, x)
    assert LULinear(3, bias=False).bias is None
    turned = LULinear(6, start="rotation", generator=seeded(1)).double().matrix()
    # Drawn in float64, stored in float32.
    close(turned @ turned.T, torch.eye(6, dtype=FLOAT64), 1e-6)
    assert (turned - torch.eye(6)).abs().max() > 0.3
    with pytest.raises(UnknownNameError, match="rotation"):
        LULinear(3, start="rotate")


@pytest.mark.parametrize("matrix", [torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([[1.0, math.nan], [0, 1]])])
def test_a_singular_start_is_refused(matrix):
    with pytest.raises(ConfigError, match="singular"):
        LULinear.from_matrix(matrix)


@pytest.mark.parametrize("kind", ["lu", "1x1", "qr"])
def test_a_near_singular_start_survives_long_random_training(kind):
    """Trap T15: no gradient can carry a pivot through zero, and the log-determinant stays that of the matrix."""
    rotation = torch.linalg.qr(normal(4, 4, seed=1)).Q
    matrix = rotation * torch.tensor([1.0, 1e-3, 1e-6, 1e-9], dtype=FLOAT64) @ rotation.T
    if kind == "qr":
        layer = QRLinear(4).double()
    elif kind == "lu":
        layer = LULinear.from_matrix(matrix)
    else:
        layer = Invertible1x1(4, size=(1, 1)).double()
        layer.lu = LULinear.from_matrix(matrix).lu
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    noise = seeded(2)
    for _ in range(150):
        for parameter in layer.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=noise, dtype=FLOAT64)
        optimiser.step()  # a random walk: entries of size 12 at its end, raw pivots far beyond their bound

    x = normal(3, 4, seed=3).reshape(3, 4, *([1, 1] if kind == "1x1" else []))
    x.requires_grad_()
    out = layer.encode(x)
    (gradient,) = torch.autograd.grad(out.log_abs_det_jacobian.sum() + out.value.sum(), x)
    assert torch.isfinite(gradient).all()
    dense = torch.func.jacrev(lambda row: layer.encode(row[None]).value[0].flatten())(x[0].detach()).reshape(4, 4)
    _, exact = np.linalg.slogdet(dense.detach().numpy())
    condition = np.linalg.cond(dense.detach().numpy())
    # slogdet of the dense matrix loses as many digits as its condition number has.
    assert abs(out.log_abs_det_jacobian[0].item() - exact) < 1e-13 * condition + 1e-9
    assert condition > 1e3
    # The triangular solves are backward stable: the residual stays at rounding whatever the condition.
    back = layer.encode(layer.decode(x.detach()).value).value
    scale = dense.abs().max() * layer.decode(x.detach()).value.abs().max()
    assert ((back - x).abs().max() < 1e-12 * scale).item()


def test_pivots_keep_their_sign_and_stay_within_their_bound():
    layer = LULinear.from_matrix(torch.tensor([[2.0, 0.0], [0.0, -3.0]], dtype=FLOAT64), bound=2.0)
    for raw in (-1e6, 1e6):
        layer.lu.entries.data.fill_diagonal_(raw)
        close(layer.matrix().diagonal(), torch.tensor([2.0, -3.0], dtype=FLOAT64) * math.exp(math.copysign(2, raw)))
    with pytest.raises(ConfigError, match="bound"):
        LULinear(2, bound=0.0)


def test_a_plain_layer_takes_the_weights_of_a_whitened_one():
    """Signs and order are saved: they are no parameters, and a fresh layer has others."""
    fitted, fresh = whitening(normal(9, 4).float() @ normal(4, 4, seed=1).float()), LULinear(4)
    fresh.load_state_dict(load(save(fitted.state_dict())))
    x = normal(5, 4, dtype=torch.float32)
    assert torch.equal(fresh.encode(x).value, fitted.encode(x).value)
    assert torch.equal(fresh.decode(x).value, fitted.decode(x).value)


# Reflections and QR


@pytest.mark.parametrize(("features", "count"), [(2, 1), (3, 3), (5, 2), (4, 9)])
def test_reflections_are_the_product_of_householder_matrices(features, count):
    vectors = normal(features, count, seed=count)
    expected = torch.eye(features, dtype=FLOAT64)
    for v in vectors.T:
        expected = expected @ (torch.eye(features, dtype=FLOAT64) - 2 * torch.outer(v, v) / (v @ v))
    close(reflections(vectors), expected)
    layer = Householder(features, count).double()
    layer.vectors.data.copy_(1e4 * vectors)  # only directions count
    close(layer.matrix(), expected)
    x = normal(3, features)
    close(layer.encode(x).value, x @ expected.T)
    close(layer.decode(x).value, x @ expected)


def test_repeated_and_vanished_vectors_leave_the_product_orthogonal():
    v = normal(4, 1)
    close(reflections(torch.cat([v, v], 1)), torch.eye(4, dtype=FLOAT64))
    many = torch.cat([v, v * 0, normal(4, 1, seed=1), v, v, v * (1 + 1e-9)], 1).requires_grad_()
    q = reflections(many)
    close(q @ q.T, torch.eye(4, dtype=FLOAT64))
    (gradient,) = torch.autograd.grad(q.sum(), many)
    assert torch.isfinite(gradient).all()
    with pytest.raises(ConfigError, match="reflections"):
        Householder(3, 0)


@pytest.mark.parametrize("features", [1, 2, 3, 8])
def test_qr_is_orthogonal_times_triangular(features):
    layer = QRLinear(features).double()
    x = normal(5, features)
    close(layer.encode(x).value, x)  # the identity at the start
    layer.entries.data.copy_(normal(features, features, seed=1))
    layer.bias.data.copy_(normal(features, seed=2))
    q, r = layer.factors(FLOAT64)
    close(q @ q.T, torch.eye(features, dtype=FLOAT64))
    assert torch.equal(r, r.triu())
    close(layer.encode(x).value, x @ (q @ r).T + layer.bias)
    close(layer.decode(x).value, torch.linalg.solve(q @ r, (x - layer.bias).T).T)
    close(layer.encode(x).log_abs_det_jacobian, torch.linalg.slogdet(q @ r).logabsdet.expand(5))


def test_qr_starts_from_a_random_rotation():
    layer = QRLinear(5, start="rotation", generator=seeded(1)).double()
    q, r = layer.factors(FLOAT64)
    close(r, torch.eye(5, dtype=FLOAT64))
    close(q @ q.T, torch.eye(5, dtype=FLOAT64))
    assert (q - torch.eye(5)).abs().max() > 0.3
    with pytest.raises(UnknownNameError):
        QRLinear(3, start="random")


# 1×1 convolutions


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_1x1_is_a_convolution_with_height_times_width_log_dets(channels):
    layer = Invertible1x1(channels, generator=seeded(1)).double()
    layer.lu.entries.data.add_(0.3 * normal(channels, channels, seed=2))
    x = normal(2, channels, 3, 2)
    kernel = layer.lu(FLOAT64)
    out = layer.encode(x)
    close(out.value, F.conv2d(x, kernel[:, :, None, None]))
    jacobian = torch.func.jacrev(lambda row: layer.encode(row[None]).value[0])(x[0]).reshape(6 * channels, -1)
    close(out.log_abs_det_jacobian, torch.linalg.slogdet(jacobian).logabsdet.expand(2))
    back = layer.decode(x)
    close(back.value, F.conv2d(x, torch.linalg.inv(kernel)[:, :, None, None]))
    close(back.log_abs_det_jacobian, -out.log_abs_det_jacobian)


def test_1x1_refuses_other_rows():
    with pytest.raises(ShapeError, match="expected \\(batch, 3"):
        Invertible1x1(3).encode(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ShapeError):
        Invertible1x1(3).decode(torch.zeros(1, 3, 4))
    assert Invertible1x1(3, size=(4, 5)).event_shape == (3, 4, 5)


# Whitening


@pytest.mark.parametrize("features", [1, 2, 6])
def test_whitening_takes_the_fitted_gaussian_to_the_standard_one(features):
    """Moments against NumPy, and the density of the pulled-back normal against SciPy's Gaussian."""
    rows = normal(500, features) @ normal(features, features, seed=1) + 3 * normal(features, seed=2)
    layer = whitening(rows)
    mean, covariance = rows.numpy().mean(0), np.cov(rows.numpy().T, ddof=0).reshape(features, features)
    w, shift = layer.matrix().detach().numpy(), layer.bias.detach().numpy()
    np.testing.assert_allclose(w @ covariance @ w.T, np.eye(features), atol=1e-10)
    np.testing.assert_allclose(w @ mean + shift, 0, atol=1e-10)

    out = layer.encode(rows[:20])
    log_prob = out.log_abs_det_jacobian - 0.5 * out.value.square().sum(1) - 0.5 * features * math.log(2 * math.pi)
    expected = multivariate_normal(mean, covariance).logpdf(rows[:20].numpy())
    np.testing.assert_allclose(log_prob.detach().numpy(), expected, rtol=1e-9)


def test_whitening_keeps_the_units_of_columns_apart():
    """Scales from 1e-6 to 1e8 are no near-degeneracy: the floor is on correlations."""
    scale = torch.tensor([1e-6, 1.0, 1e8], dtype=FLOAT64)
    z = whitening(normal(1000, 3) * scale).encode(normal(1000, 3) * scale).value
    close(z.T @ z / 1000, torch.eye(3, dtype=FLOAT64), 1e-3)  # means of size 0.03 are taken off


@pytest.mark.parametrize("rows", [1, 4, 10, 40])
def test_whitening_from_fewer_rows_than_features_is_finite_and_mild(rows):
    """A direction the rows cannot have shown is taken to vary like an average one: new rows stay of order one."""
    layer = whitening(normal(rows, 12))  # 4 and not 2: a deviation from two rows may come out as small as it likes
    z = layer.encode(normal(200, 12, seed=1)).value
    assert torch.isfinite(layer.matrix()).all()
    # From 40 rows the smallest of 12 sample eigenvalues is near (1 − √0.3)² = 0.2 and stays: factors of 2 to 3.
    assert 0.3 < z.std() < 3
    close(layer.decode(z).value, normal(200, 12, seed=1))


def test_whitening_of_copied_and_constant_columns_is_finite():
    x = normal(2000, 2)
    rows = torch.stack([x[:, 0], x[:, 0], torch.full((2000,), 0.1, dtype=FLOAT64), x[:, 0] + 1e-9 * x[:, 1]], 1)
    layer = whitening(rows)
    z = layer.encode(rows).value
    assert torch.isfinite(z).all()
    # Eigenvalues are lifted to 1e-6: no direction is stretched by more than 1e3.
    assert torch.linalg.matrix_norm(layer.matrix(), 2) < 1.001e3
    close(layer.decode(z).value, rows, 1e-8)
    # The constant column moves by its mean and keeps its unit.
    moved = layer.encode(rows + torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=FLOAT64)).value - z
    close(moved[0].norm(), torch.tensor(1.0, dtype=FLOAT64), 1e-6)


def test_whitening_works_in_the_dtype_of_the_rows():
    rows = (normal(300, 3) * 1e-2 + 100).float()
    layer = whitening(rows)
    assert layer.bias.dtype == layer.lu.entries.dtype == torch.float32
    z = layer.encode(rows).value
    # Rows near 100 are known to 4e-6 in float32, which the map stretches by 100; so is its shift.
    assert z.mean(0).abs().max() < 5e-3
    assert (z.std(0) - 1).abs().max() < 1e-2


def test_whitening_refuses_what_it_cannot_fit():
    for rows in (torch.zeros(0, 2), torch.tensor([[math.inf, 0.0]])):
        with pytest.raises(DataError):
            whitening(rows)
    with pytest.raises(ConfigError, match="floor"):
        whitening(torch.zeros(3, 2), floor=0.0)
