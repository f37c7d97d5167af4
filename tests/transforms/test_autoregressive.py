"""Autoregressive maps: triangular by autograd, and a fast inverse that is the plain one."""

import pytest
import torch
from torch import Tensor

from advect.errors import ConfigError
from advect.networks.dependence import chain
from advect.networks.masked import MaskedMLP
from advect.records import Status
from advect.transforms.autoregressive import Autoregressive
from advect.transforms.integral import MonotoneIntegral
from advect.transforms.monotone import Monotone, Moved
from advect.transforms.scale import Scale
from advect.transforms.spline import RationalQuadraticSpline

FLOAT64 = torch.float64
BOTH = pytest.mark.parametrize("dtype", [FLOAT64, torch.float32])


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_order(features: int, seed: int = 0) -> Tensor:
    return chain(torch.randperm(features, generator=draws(seed)).tolist())


def random_graph(features: int, seed: int) -> Tensor:
    return random_order(features, seed) & (torch.rand(features, features, generator=draws(seed + 100)) < 0.4)


class Cubic(Monotone):
    """y = x e^a + b + c² x³, inverted by bisection: a numeric inverse with nothing in common with ours.

    Fails above ``limit``, to show what a failure does.
    """

    num_parameters = 3

    def __init__(self, limit: float = 1e30) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        a, b, c = parameters.unbind(-1)
        return Moved(x * a.exp() + b + c**2 * x**3, (a.exp() + 3 * c**2 * x**2).log())

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        low, high = torch.full_like(y, -1e3), torch.full_like(y, 1e3)
        with torch.no_grad():
            for _ in range(80):
                middle = (low + high) / 2
                above = self(middle, parameters).value > y
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        x = (low + high) / 2
        moved = self(x, parameters)
        x = x + (y - moved.value) / moved.log_slope.exp()  # the implicit gradient, to first order
        converged = y.detach() < self.limit
        return Moved(torch.where(converged, x, torch.nan), -self(x, parameters).log_slope, converged)


FUNCTIONS = {
    "scale": Scale,
    "spline": lambda: RationalQuadraticSpline(6, 3.0),
    "integral": lambda: MonotoneIntegral(5, 6, generator=draws(4)),
    "cubic": Cubic,
}
ADJACENCIES = {
    "in order": chain(range(5)),
    "order": random_order(6, 1),
    "graph": random_graph(7, 2),
    "one": chain([0]),
    "nothing": torch.zeros(3, 3, dtype=torch.bool),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
each_adjacency = pytest.mark.parametrize("adjacency", ADJACENCIES.values(), ids=ADJACENCIES)


def layer(function: Monotone, adjacency: Tensor, condition: int = 0, size: float = 0.5) -> Autoregressive:
    network = MaskedMLP(adjacency, function.num_parameters, condition, width=16, generator=draws(1))
    network.perturb(size, generator=draws(2))
    return Autoregressive(function, network).double()


def rows(features: int, condition: int = 0, num: int = 6) -> tuple[Tensor, Tensor | None]:
    z = 1.5 * torch.randn(num, features, dtype=FLOAT64, generator=draws(3))
    return z, torch.randn(num, condition, dtype=FLOAT64, generator=draws(4)) if condition else None


def plain_inverse(bijection: Autoregressive, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The textbook inverse: a full pass for each coordinate, after which one more of them is right."""
    x = torch.zeros_like(z)
    for _ in range(z.shape[1]):
        moved = bijection.function.inverse(z, bijection.network(x, condition))
        x = moved.value
    return x, moved.log_slope.sum(1)


@each_function
@each_adjacency
@pytest.mark.parametrize("condition", [0, 2])
@BOTH
def test_the_fast_inverse_is_the_plain_one(function, adjacency, condition, dtype):
    """With and without a graph, to rounding; the sensitivity of a coordinate to those before it enlarges that."""
    bijection = layer(function(), adjacency, condition).to(dtype)
    z, given = rows(len(adjacency), condition)
    z, given = z.to(dtype), None if given is None else given.to(dtype)
    with torch.no_grad():
        truth, log_det = plain_inverse(bijection, z, given)
    tolerance = 1e-11 if dtype is FLOAT64 else 1e-3
    for graph in (False, True):
        with torch.set_grad_enabled(graph):
            found = bijection.decode(z, given)
        torch.testing.assert_close(found.value, truth, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found.log_abs_det_jacobian, log_det, rtol=tolerance, atol=tolerance)
        assert found.value.dtype == dtype


@each_function
@pytest.mark.parametrize("seed", range(3))
def test_encode_has_the_jacobian_of_its_adjacency(function, seed):
    """Exact zeros off the pattern, and log-slopes that are the diagonal's."""
    adjacency = random_graph(6, seed)
    bijection = layer(function(), adjacency)
    x, _ = rows(6, num=3)
    jacobian = torch.autograd.functional.jacobian(lambda x: bijection.encode(x, log_det=False).value.sum(0), x)
    jacobian = jacobian.transpose(0, 1)  # row, out, in
    assert torch.equal(jacobian.abs().amax(0) != 0, adjacency | torch.eye(6, dtype=torch.bool))
    truth = jacobian.diagonal(dim1=1, dim2=2).log().sum(1)
    torch.testing.assert_close(bijection.encode(x).log_abs_det_jacobian, truth, rtol=1e-9, atol=1e-9)


@each_function
def test_decode_is_triangular_and_its_jacobian_the_inverse(function):
    """In the order of the coordinates; against the inverse of encode's Jacobian, from linear algebra."""
    order = torch.randperm(5, generator=draws(7))
    bijection = layer(function(), chain(order.tolist()))
    z, _ = rows(5, num=3)
    x = bijection.decode(z).value.detach()

    def jacobian(verb, at: Tensor) -> Tensor:
        return torch.autograd.functional.jacobian(lambda r: verb(r, log_det=False).value.sum(0), at).transpose(0, 1)

    there, back = jacobian(bijection.decode, z), jacobian(bijection.encode, x)
    assert not there[:, order][:, :, order].triu(1).any()
    torch.testing.assert_close(there, torch.linalg.inv(back), rtol=1e-8, atol=1e-8)


@each_function
def test_gradients_through_decode_are_those_of_the_implicit_function(function):
    """dx = −(∂f/∂x)⁻¹ ∂f/∂θ dθ for every parameter: no walk, no graph of the inverse."""
    bijection = layer(function(), random_order(4, 3), 2)
    z, given = rows(4, 2, num=2)
    parameters = list(bijection.parameters())
    pull = torch.randn(z.shape, dtype=FLOAT64, generator=draws(9))
    found = torch.autograd.grad((bijection.decode(z, given).value * pull).sum(), parameters)

    x = bijection.decode(z, given).value.detach()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: bijection.encode(x, given, log_det=False).value.sum(0), x
    ).transpose(0, 1)
    adjoint = torch.linalg.solve(jacobian.transpose(1, 2), pull)
    truth = torch.autograd.grad(-(bijection.encode(x, given).value * adjoint).sum(), parameters)
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_a_row_that_was_not_found_is_nan_alone_and_leaves_gradients_finite():
    bijection = layer(Cubic(limit=4.0), random_order(4, 3))
    z, _ = rows(4, num=5)
    z = z.clamp(-1, 1)
    alone = bijection.decode(z)
    assert (alone.status == Status.OK).all()
    z[2, 1] = 50.0
    out = bijection.decode(z)
    assert out.status.tolist() == [0, 0, int(Status.NOT_CONVERGED), 0, 0]
    assert out.value[2].isnan().all()
    assert out.log_abs_det_jacobian[2].isnan()
    fine = [0, 1, 3, 4]
    assert torch.equal(out.value[fine], alone.value[fine])
    loss = out.value[fine].sum() + out.log_abs_det_jacobian[fine].sum()
    for gradient in torch.autograd.grad(loss, list(bijection.parameters())):
        assert torch.isfinite(gradient).all()


def test_outliers_do_not_grow_from_coordinate_to_coordinate():
    """Trap T13, M9: 63 coordinates, a thousand standard deviations out, in float32, by a network made large."""
    bijection = layer(Scale(), chain(range(63)), size=3.0).float()
    z = torch.tensor([-1e3, 1e3]).unsqueeze(1).expand(2, 63).contiguous()
    with torch.no_grad():
        x = bijection.decode(z)
        assert torch.isfinite(x.value).all()
        # Each coordinate by itself: e³ times an outlier and a bounded shift.
        assert x.value.abs().max() < 21 * (1e3 + 200)
        back = bijection.encode(x.value).value
    torch.testing.assert_close(back, z, rtol=1e-3, atol=1e-3)


def test_a_network_in_float32_keeps_rows_in_float64():
    """Parameters are then rounded to float32, but the function of them is inverted in float64."""
    bijection = layer(RationalQuadraticSpline(6, 3.0), chain([1, 0])).float()
    z, _ = rows(2)
    out = bijection.decode(z)
    assert out.value.dtype == out.log_abs_det_jacobian.dtype == FLOAT64
    torch.testing.assert_close(bijection.encode(out.value).value, z, rtol=1e-5, atol=1e-5)


def test_a_network_for_another_function_is_refused():
    with pytest.raises(ConfigError, match="makes 3 parameters for each coordinate, Scale takes 2"):
        Autoregressive(Scale(), MaskedMLP(chain([0, 1]), 3))
