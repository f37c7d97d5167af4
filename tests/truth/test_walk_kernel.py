"""The compiled inverse of autoregressive layers against passes of the whole network, autograd and the plain walk."""

import pytest
import torch
from torch import nn

from advect.networks.dependence import chain
from advect.networks.masked import MaskedMLP
from advect.transforms import Autoregressive, kernel
from advect.transforms.autoregressive_pass import inverted
from advect.transforms.scale import Scale
from advect.transforms.spline import RationalQuadraticSpline

FLOAT64 = torch.float64
FUNCTIONS = {"affine": lambda: Scale(2.0), "spline": lambda: RationalQuadraticSpline(5, 3.0)}
GRAPH = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 1, 1, 0]]).bool()
ADJACENCIES = {
    "chain": chain([3, 1, 6, 0, 2, 5, 4]),
    "graph": GRAPH,
    "nothing": torch.zeros(3, 3, dtype=torch.bool),
    "one": chain([0]),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def drawn(*shape, seed=0, std=1.0):
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def layer_of(name, adjacency, condition=0, **settings):
    function, generator = FUNCTIONS[name](), torch.Generator().manual_seed(1)
    network = MaskedMLP(adjacency, function.num_parameters, condition, generator=generator, **{"width": 13} | settings)
    network.perturb(0.5, generator=generator)
    return Autoregressive(function, network).double()


@torch.no_grad()
def compiled(layer, z, condition=None, *, log_det=True):
    """The rows and log-determinants, by the compiled walk and no other way."""
    found = inverted(layer.function, layer.network, z, condition, log_det=log_det)
    assert found is not None
    return found


@torch.no_grad()
def pass_by_pass(layer, z, condition):
    """A full pass of the network for each coordinate, after which one more of them is right: no walk."""
    x = torch.zeros_like(z)
    for _ in range(z.shape[1] + 1):
        moved = layer.function.inverse(z, layer.network(x, condition))
        x = moved.value
    return x, moved.log_slope.sum(1)


@every_function
@pytest.mark.parametrize("adjacency", ADJACENCIES.values(), ids=ADJACENCIES)
@pytest.mark.parametrize(
    ("condition", "activation", "depth", "rows"), [(0, "silu", 2, 70), (2, "relu", 3, 64), (3, "silu", 1, 5)]
)
def test_it_is_the_inverse_by_full_passes(instructions, name, adjacency, condition, activation, depth, rows):
    """And its log-determinant that of autograd's Jacobian. Rows below, at and above a block of them."""
    layer = layer_of(name, adjacency, condition, activation=activation, depth=depth)
    z, given = drawn(rows, len(adjacency), std=1.5), drawn(rows, condition, seed=1) if condition else None
    x, log_det = compiled(layer, z, given)
    truth, total = pass_by_pass(layer, z, given)
    # Slopes of at most e^2 from each of up to seven coordinates to the next enlarge rounding to about 1e-12.
    torch.testing.assert_close(x, truth, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, total, rtol=1e-10, atol=1e-10)
    few = x[-2:].clone(), None if given is None else given[-2:]
    jacobian = torch.autograd.functional.jacobian(lambda x: layer.encode(x, few[1]).value.sum(0), few[0])
    exact = torch.linalg.slogdet(jacobian.transpose(0, 1)).logabsdet
    torch.testing.assert_close(log_det[-2:], -exact, rtol=1e-9, atol=1e-9)


@every_function
def test_float32_is_no_rougher_than_the_plain_walk(instructions, name):
    layer, z, given = layer_of(name, chain(range(12)), 2, width=40), drawn(1000, 12), drawn(1000, 2, seed=1)
    with torch.no_grad():
        exact = layer.plain_decode(z, given)
        layer, z, given = layer.float(), z.float(), given.float()
        plain = layer.plain_decode(z, given)
    fast = compiled(layer, z, given)
    usual = plain.value, plain.log_abs_det_jacobian
    for ours, theirs, truth in zip(fast, usual, (exact.value, exact.log_abs_det_jacobian), strict=True):
        assert ours.dtype == torch.float32
        for share in (0.5, 0.99):  # of the worst rows the error is chance
            error, other = ((found - truth).abs().quantile(share) for found in (ours, theirs))
            # Both add up to 40 products, in another order: alike, or within one rounding of numbers up to 8.
            assert error <= 2 * other + 2**-22


@every_function
def test_rows_and_conditions_lie_anyhow(instructions, name):
    layer = layer_of(name, chain([2, 0, 1]), 2)
    z, given = drawn(3, 30).t(), drawn(2, seed=1).expand(30, 2)
    x, log_det = compiled(layer, z, given)
    again, _ = compiled(layer, z.contiguous(), given.contiguous(), log_det=False)
    assert torch.equal(x, again)
    torch.testing.assert_close(layer.encode(x, given).log_abs_det_jacobian, -log_det, rtol=1e-9, atol=1e-9)


@every_function
def test_outliers_are_clipped_and_what_is_no_number_stays_alone(instructions, name):
    layer, z = layer_of(name, chain(range(4))), drawn(66, 4)
    z[5], z[7, 2], z[65] = 1e6, torch.nan, -torch.inf
    x, _ = compiled(layer, z)
    with torch.no_grad():
        plain = layer.plain_decode(z).value
    torch.testing.assert_close(x, plain, rtol=1e-10, atol=1e-10, equal_nan=True)
    assert x[7, :2].isfinite().all()
    assert x[7, 2].isnan()


def test_what_it_does_not_know_goes_the_plain_way(instructions, monkeypatch):
    layer, z = layer_of("affine", chain(range(4))), drawn(6, 4)

    def taken(layer=layer, z=z):
        return inverted(layer.function, layer.network, z, None, log_det=True) is not None

    assert not taken()  # parameters may want a gradient
    out = layer.decode(z)
    assert out.value.requires_grad
    with torch.no_grad():
        assert taken()
        torch.testing.assert_close(layer.decode(z).value, out.value, rtol=1e-10, atol=1e-10)
        assert not taken(z=z.float())
        assert not taken(z=z[:0])
        assert layer.decode(z[:0]).value.shape == (0, 4)
        assert not taken(layer_of("affine", chain(range(4)), activation="tanh"))
        with torch.autocast("cpu"):
            assert not taken()

        class Doubled(Scale):
            """Another function of the same parameters."""

        assert not taken(Autoregressive(Doubled(2.0), layer.network))
        monkeypatch.setenv("ADVECT_KERNEL", "none")
        assert not taken()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    monkeypatch.setenv("ADVECT_KERNEL", instructions)
    assert taken()
    assert not taken(z=z.clone().requires_grad_())
    assert not taken(z=nn.Parameter(z))


def test_the_plain_way_is_taken_where_the_file_is_older(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "_NEWEST", "advect_not_there_float")
    assert kernel.instruction_set() is None
    layer = layer_of("spline", chain(range(3)))
    with torch.no_grad():
        assert layer.decode(drawn(4, 3)).value.isfinite().all()
