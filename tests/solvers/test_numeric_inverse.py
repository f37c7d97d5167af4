"""Numeric inverses: brackets that hold the root, fixed points with an error bound, honest failure, gradients."""

import pytest
import torch

from advect.errors import ConfigError, UnsupportedError
from advect.records import Status
from advect.solvers import bracketed_root, describe, fixed_point


def rows(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


MONOTONE = {
    "cubic": lambda x: x + 0.1 * x**3,
    "falling": lambda x: -x - torch.tanh(3 * x),
    "wavy": lambda x: x + 0.9 * torch.sin(x),
    "cliff": lambda x: x + 1000 * torch.tanh(1e4 * (x - 0.3)),
    "asinh": lambda x: torch.asinh(50 * x),
    "steep": lambda x: torch.sinh(x),
}


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(), (2,), (2, 3)])
def test_round_trip_of_wide_inputs(name, dtype, event):
    """trap S16: N(0, 8²) inputs, far outside any first bracket."""
    f, x = MONOTONE[name], 8 * rows(200, *event, dtype=dtype)
    root = bracketed_root(f, f(x))
    assert root.value.shape == x.shape
    assert root.value.dtype == dtype
    assert root.status.eq(0).all()
    # The value of f carries a relative rounding of eps, worth eps |f| / f' in x; the search adds 4 eps.
    slope = torch.autograd.functional.jvp(f, x, torch.ones_like(x))[1].abs()
    eps = torch.finfo(dtype).eps
    allowed = 16 * eps * (1 + x.abs() + f(x).abs() / slope)
    assert bool(((root.value - x).abs() <= allowed).all())
    assert int(root.iterations.max()) < 100


def test_rows_without_a_root_fail():
    """trap S16: never the end of a bracket; one bad element fails its row and no other."""
    y = torch.tensor([[0.5, 0.1], [2.0, 0.1], [-0.3, -0.9]], dtype=torch.float64)
    root = bracketed_root(torch.tanh, y)
    assert root.status.tolist() == [0, int(Status.NOT_CONVERGED), 0]
    assert torch.isnan(root.value[1]).all()
    torch.testing.assert_close(root.value[[0, 2]], torch.atanh(y[[0, 2]]), rtol=0, atol=1e-14)
    assert describe(root)[0].startswith("row 1 failed: the numeric inverse did not converge")
    nan = bracketed_root(lambda x: x * torch.nan, y)
    assert nan.status.eq(int(Status.NOT_CONVERGED)).all()
    few = bracketed_root(lambda x: x**3 + x, y * 1e3, max_iterations=3)
    assert few.status.eq(int(Status.NOT_CONVERGED)).all()


def test_a_given_derivative_is_used():
    calls = []

    def derivative(x):
        calls.append(len(x))
        return 1 + 0.3 * x**2

    y = rows(5)
    root = bracketed_root(MONOTONE["cubic"], y, derivative=derivative, start=y, width=0.5)
    assert calls
    torch.testing.assert_close(MONOTONE["cubic"](root.value), y, rtol=0, atol=1e-14)


def test_root_gradient():
    """trap S17: the implicit gradient in y and in the parameters, first and second order, by finite differences."""
    y, a = rows(3, 2).requires_grad_(), torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    solve = lambda y, a: bracketed_root(lambda x: x + 0.9 * a * torch.sin(x) + a * x**3, y).value  # noqa: E731
    assert torch.autograd.gradcheck(solve, (y, a))
    assert torch.autograd.gradgradcheck(solve, (y, a))


def test_failed_rows_leave_the_gradient_finite():
    """trap S17, S5: the gradient of a shared parameter survives a row without a root."""
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.5, 3.0], dtype=torch.float64)
    root = bracketed_root(lambda x: torch.tanh(a * x), y)
    (gradient,) = torch.autograd.grad(root.value[0], a)
    # x = atanh(y)/a.
    assert float(gradient) == pytest.approx(-float(torch.atanh(y[0])) / 4, abs=1e-13)
    point = fixed_point(lambda x: torch.where(x > 2.5, torch.nan, 0.25 * a * torch.sin(x)), y, 0.5)
    assert point.status.tolist() == [0, int(Status.NOT_CONVERGED)]
    (gradient,) = torch.autograd.grad(point.value[0], a)
    assert torch.isfinite(gradient)


@pytest.mark.parametrize("slope", [-0.9, -0.98, -0.99, 0.9, 0.99])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("memory", [0, 5])
def test_linear_blocks_reach_the_tolerance(slope, known, memory):
    """trap S15: the error, not the step, is below the tolerance; or the row says that it failed."""
    y = rows(6, 3)
    result = fixed_point(
        lambda x: slope * x, y, abs(slope) if known else None, tolerance=1e-5, memory=memory, max_iterations=3000
    )
    exact = y / (1 + slope)
    relative = (result.value - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=1.0)
    assert result.status.eq(0).all()
    # With L known the bound is rigorous; the estimate is exact on a linear map with one slope.
    assert float(relative.max()) <= 1e-5 * (1 + 1e-6)
    if memory:
        assert int(result.iterations.max()) < 10


def test_too_few_iterations_are_reported():
    """trap S15: no silent giving up."""
    y = rows(4, 3)
    result = fixed_point(lambda x: -0.99 * x, y, 0.99, memory=0, max_iterations=50)
    assert result.status.eq(int(Status.NOT_CONVERGED)).all()
    assert torch.isnan(result.value).all()
    assert result.iterations.tolist() == [50] * 4
    assert bool((result.residual > 0).all())


@pytest.mark.parametrize("event", [(), (8,), (2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nonlinear_contractions(event, dtype):
    size = torch.Size(event).numel()
    weight = rows(size, size, seed=3)
    weight = (0.95 * weight / torch.linalg.matrix_norm(weight, 2)).to(dtype)
    g = lambda x: torch.tanh(x.reshape(len(x), size) @ weight.T).reshape(x.shape)  # noqa: E731
    x = 3 * rows(50, *event, dtype=dtype)
    y = x + g(x)
    plain, mixed = (fixed_point(g, y, 0.95, memory=m) for m in (0, 5))
    tolerance = torch.finfo(dtype).eps ** 0.7
    for result in (plain, mixed):
        assert result.status.eq(0).all()
        scale = x.reshape(50, -1).norm(dim=1).clamp(min=1.0)
        error = (result.value - x).reshape(50, -1).norm(dim=1) / scale
        # Rounding in y itself adds eps / (1 − L).
        assert float(error.max()) < 1.01 * tolerance + 40 * torch.finfo(dtype).eps
    assert int(mixed.iterations.sum()) < int(plain.iterations.sum()) or dtype == torch.float32


def test_rows_do_not_feel_their_neighbours():
    weight = rows(4, 4, seed=3)
    weight = 0.9 * weight / torch.linalg.matrix_norm(weight, 2)
    g = lambda x: torch.sin(x @ weight.T)  # noqa: E731
    y = torch.cat([rows(5, 4), 100 * rows(1, 4)])
    whole, part = fixed_point(g, y, 0.9), fixed_point(g, y[:5], 0.9)
    assert torch.equal(whole.iterations[:5], part.iterations)
    torch.testing.assert_close(whole.value[:5], part.value, rtol=0, atol=1e-10)


def test_fixed_point_gradient():
    """trap S17: first derivatives always, second ones when prepared, against finite differences."""
    y, weight = rows(2, 3).requires_grad_(), (0.3 * rows(3, 3, seed=1)).requires_grad_()

    def solve(derivatives):
        return lambda y, w: (
            fixed_point(lambda x: torch.tanh(x @ w), y, 0.95, tolerance=1e-13, derivatives=derivatives).value
        )

    assert torch.autograd.gradcheck(solve(1), (y, weight))
    assert torch.autograd.gradcheck(solve(2), (y, weight))
    assert torch.autograd.gradgradcheck(solve(2), (y, weight), atol=1e-4)
    with pytest.raises(UnsupportedError, match="derivatives=2"):
        torch.autograd.grad(solve(1)(y, weight).sum(), y, create_graph=True)


def test_no_graph_without_gradients():
    weight = (0.3 * rows(3, 3)).requires_grad_()
    with torch.no_grad():
        assert fixed_point(lambda x: torch.tanh(x @ weight), rows(2, 3), 0.9).value.grad_fn is None
        assert bracketed_root(lambda x: x + weight[0, 0] ** 2 * x**3, rows(2, 3)).value.grad_fn is None


def test_settings_are_checked():
    y = rows(2, 2)
    for lipschitz in (1.0, -0.1):
        with pytest.raises(ConfigError, match="Lipschitz"):
            fixed_point(torch.sin, y, lipschitz)
    with pytest.raises(ConfigError, match="out of range"):
        fixed_point(torch.sin, y, 0.5, tolerance=0.0)
    with pytest.raises(ConfigError, match="positive"):
        bracketed_root(torch.sin, y, tolerance=-1.0)
