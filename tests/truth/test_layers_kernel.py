"""The compiled parts of layers against the plain ones and finite differences, for every instruction set it has here."""

import math

import pytest
import torch
from torch import nn

from advect.flows.architectures.coupling import nsf, realnvp
from advect.networks.conditioner import Conditioner
from advect.transforms import Coupling, coupling_pass, kernel
from advect.transforms.scale import Scale
from advect.transforms.spline import RationalQuadraticSpline

FLOAT64 = torch.float64
FUNCTIONS = {
    "eight bins": lambda: RationalQuadraticSpline(8, 5.0),
    "five bins": lambda: RationalQuadraticSpline(5, 1.5, min_width=0.01),
    "one bin": lambda: RationalQuadraticSpline(1, 2.0),
    "affine": lambda: Scale(2.0),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
both_ways = pytest.mark.parametrize("inverse", [False, True])


def drawn(*shape, seed=0, std=1.0):
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def points(function, layout, dtype=FLOAT64):
    """Points in and beyond the box, and parameters, in the layout of couplings, of autoregressive layers, or flat."""
    shape = {"rows first": (37, 5), "rows last": (5, 37), "flat": (50,), "scalar": ()}[layout]
    x, theta = drawn(*shape, std=2.5), drawn(*shape, function.num_parameters, seed=1, std=1.5)
    if layout == "rows last":
        theta = theta.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    return x.to(dtype).requires_grad_(), theta.to(dtype).requires_grad_()


def found(function, x, theta, inverse, plain):
    """Value, log-slope and the gradients of a weighted sum of both."""
    way = (
        (function._inverse if inverse else function._forward) if plain else (function.inverse if inverse else function)
    )
    moved = way(x, theta)
    weights = (drawn(*x.shape, seed=seed).to(x.dtype) for seed in (2, 3))
    total = sum((part * weight).sum() for part, weight in zip((moved.value, moved.log_slope), weights, strict=True))
    return moved.value, moved.log_slope, *torch.autograd.grad(total, (x, theta))


@every_function
@both_ways
@pytest.mark.parametrize("layout", ["rows first", "rows last", "flat", "scalar"])
def test_values_and_gradients_are_those_of_the_plain_function(instructions, name, inverse, layout):
    function = FUNCTIONS[name]()
    x, theta = points(function, layout)
    for fast, plain in zip(
        found(function, x, theta, inverse, False), found(function, x, theta, inverse, True), strict=True
    ):
        # Slopes down to e^-10 enlarge rounding in float64 to about 1e-11.
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


@every_function
@both_ways
def test_float32_is_no_rougher_than_the_plain_function(instructions, name, inverse):
    function = FUNCTIONS[name]()
    x, theta = drawn(2000, 5), drawn(2000, 5, function.num_parameters, seed=1)

    def errors(dtype, plain):
        given = (tensor.to(dtype).requires_grad_() for tensor in (x, theta))
        return [part.detach().double().flatten() for part in found(function, *given, inverse, plain)]

    exact, fast, plain = errors(FLOAT64, True), errors(torch.float32, False), errors(torch.float32, True)
    for ours, theirs, truth in zip(fast, plain, exact, strict=True):
        for share in (0.5, 0.99):  # of the worst points the error is chance
            error, usual = ((found - truth).abs().quantile(share) for found in (ours, theirs))
            # Both round some forty operations, in another order: alike, or within one rounding of numbers up to 8.
            assert error <= 2 * usual + 2**-22


@every_function
@both_ways
def test_gradients_are_those_of_finite_differences(instructions, name, inverse):
    function = FUNCTIONS[name]()
    x, theta = drawn(4, 2, std=0.6).requires_grad_(), drawn(4, 2, function.num_parameters, seed=1).requires_grad_()

    def both(x, theta):
        moved = function.inverse(x, theta) if inverse else function(x, theta)
        return moved.value, moved.log_slope

    assert torch.autograd.gradcheck(both, (x, theta))
    assert torch.autograd.gradgradcheck(both, (x, theta))


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_edges_and_extremes(instructions, dtype):
    function = RationalQuadraticSpline(4, 1.0)
    edges = torch.tensor([-1e30, -1.0, 1.0, 1e30, math.inf, -math.inf], dtype=dtype)
    theta = drawn(6, function.num_parameters, std=40).to(dtype)
    for way in (function.forward, function.inverse):
        moved = way(edges, theta)
        torch.testing.assert_close(moved.value, edges, rtol=4 * torch.finfo(dtype).eps, atol=0)
        assert moved.log_slope.isfinite().all()
    inner = torch.linspace(-1, 1, 6, dtype=dtype).requires_grad_()
    steep = theta.clone().requires_grad_()
    for way in (function.forward, function.inverse):
        moved = way(inner, steep)
        for gradient in torch.autograd.grad(moved.value.sum() + moved.log_slope.sum(), (inner, steep)):
            assert gradient.isfinite().all()
    zeros = torch.zeros(6, function.num_parameters, dtype=dtype)
    torch.testing.assert_close(function(inner, zeros).value, inner, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("make", [realnvp, nsf])
def test_a_row_that_is_no_number_stays_one_and_hurts_no_other(instructions, make):
    flow = changed(make(5, layers=2, mixing="none", generator=torch.Generator().manual_seed(0), width=16))
    x = drawn(40, 5)
    whole = flow.encode(x)
    x[3, 0] = torch.nan
    broken = flow.encode(x)
    others = torch.arange(40) != 3
    assert broken.value[3].isnan().any()
    assert torch.equal(broken.value[others], whole.value[others])
    assert torch.equal(broken.log_abs_det_jacobian[others], whole.log_abs_det_jacobian[others])


def changed(flow, size=0.4):
    for module in flow.modules():
        if isinstance(module, Conditioner):
            module.perturb(size, generator=torch.Generator().manual_seed(4))
    return flow.double()


def everything(flow, x, condition, verb):
    """What a pass gives with and without a graph, its gradients, and gradients of a gradient."""
    given = [x, *([] if condition is None else [condition]), *flow.parameters()]
    out = getattr(flow, verb)(x, condition)
    with torch.no_grad():
        bare = getattr(flow, verb)(x, condition)
    total = (out.value * drawn(*x.shape, seed=5)).sum() + (out.log_abs_det_jacobian * drawn(len(x), seed=6)).sum()
    first = torch.autograd.grad(total, given, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), given, allow_unused=True)
    return [out.value, out.log_abs_det_jacobian, bare.value, bare.log_abs_det_jacobian, *first, *second]


@pytest.mark.parametrize("make", [realnvp, nsf])
@pytest.mark.parametrize("verb", ["encode", "decode"])
@pytest.mark.parametrize(("features", "conditions", "rows"), [(2, 0, 19), (5, 3, 70), (33, 0, 64)])
def test_a_layer_as_one_pass_is_the_layer(instructions, make, verb, features, conditions, rows, monkeypatch):
    """Rows below, above and of one block."""
    flow = changed(make(features, conditions, layers=3, width=16, generator=torch.Generator().manual_seed(0)))
    x = drawn(rows, features, std=1.5).requires_grad_()
    condition = drawn(rows, conditions, seed=1).requires_grad_() if conditions else None
    fast = everything(flow, x, condition, verb)
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    for ours, plain in zip(fast, everything(flow, x, condition, verb), strict=True):
        assert (ours is None) == (plain is None)
        if plain is not None:  # three layers of slopes between e^-4 and e^4
            torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("make", [realnvp, nsf])
@pytest.mark.parametrize("shared", [False, True])
def test_the_way_of_a_pass_and_of_its_weights_changes_nothing(make, shared, built, monkeypatch):
    """Large passes on several cores leave products to torch; weights may lie in any order."""
    monkeypatch.setattr(kernel, "LIBRARY", built / "transforms" / "layers_kernel.so")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(coupling_pass, "_FEW", 0 if shared else 2**25)
    flow = changed(make(5, 2, layers=2, mixing="none", width=8, generator=torch.Generator().manual_seed(0)))
    layer = next(part for part in flow.modules() if type(part) is Coupling)
    weight = layer.conditioner.hidden[1].weight
    weight.data = weight.data.t().contiguous().t()
    x, condition = drawn(70, 5).requires_grad_(), drawn(70, 2, seed=1).requires_grad_()
    assert type(layer.walk(x, condition)) is (coupling_pass.Walk if shared else coupling_pass.Blocks)
    fast = everything(flow, x, condition, "encode")
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    for ours, plain in zip(fast, everything(flow, x, condition, "encode"), strict=True):
        if plain is not None:  # two layers of slopes between e^-4 and e^4
            torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-8)


def test_parameters_that_come_from_the_rows_have_second_derivatives(instructions):
    """As in autoregressive layers: a graph of before leads from the rows to the parameters."""
    function, weight = RationalQuadraticSpline(4, 2.0), drawn(3, 11, 3, seed=1)

    def second(plain):
        x = drawn(20, 3).requires_grad_()
        moved = (function._forward if plain else function.forward)(x, torch.einsum("bi,jpi->bjp", x, weight))
        (first,) = torch.autograd.grad((moved.value + moved.log_slope).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(second(False), second(True), rtol=1e-9, atol=1e-9)


def layer_of(**more):
    conditioner = Conditioner(2, 6, width=8, generator=torch.Generator().manual_seed(0), **more)
    return changed(Coupling((0, 1), (2, 3, 4), Scale(2.0), conditioner))


def test_weights_in_the_place_of_others_have_second_derivatives(instructions):
    """Those of the weights that were used, when the layer holds its own again."""
    layer, x = layer_of(), drawn(7, 5)

    class Asked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer.encode(x).value

    other = {name: (1.5 * p.detach()).requires_grad_() for name, p in Asked().named_parameters()}
    out = torch.func.functional_call(Asked(), other, (x.requires_grad_(),))
    (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    fast = torch.autograd.grad(first.square().sum(), list(other.values()), allow_unused=True)
    with torch.no_grad():
        for name, p in Asked().named_parameters():
            p.copy_(other[name])
    plain = layer.plain_encode(x)
    (first,) = torch.autograd.grad(plain.value.square().sum(), x, create_graph=True)
    exact = torch.autograd.grad(first.square().sum(), list(layer.parameters()), allow_unused=True)
    for ours, theirs in zip(fast, exact, strict=True):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_transforms_of_functions_and_forward_derivatives_take_the_plain_way(instructions):
    layer, x = layer_of(), drawn(5)
    exact = torch.autograd.functional.jacobian(lambda x: layer.encode(x[None]).value[0], x)
    for how in (torch.func.jacfwd, torch.func.jacrev):
        torch.testing.assert_close(how(lambda x: layer.encode(x[None]).value[0])(x), exact)
    rows = drawn(6, 5)
    each = torch.func.vmap(lambda x: layer.encode(x[None]).value[0])(rows)
    torch.testing.assert_close(each, layer.encode(rows).value)


def test_what_a_pass_does_not_know_goes_the_plain_way(instructions, monkeypatch):
    layer, x = layer_of(), drawn(6, 5)
    assert layer.walk(x) is not None
    assert layer.walk(x.float()) is None  # the network has a dtype of its own
    assert layer_of(activation="gelu").walk(x) is None
    apart = Coupling((0, 2), (1, 3, 4), Scale(2.0), layer.conditioner)
    assert apart.walk(x) is None
    torch.testing.assert_close(apart.encode(x).value[:, [0, 2]], x[:, [0, 2]])

    class Doubled(Scale):
        def forward(self, x, parameters):
            moved = super().forward(x, parameters)
            return type(moved)(2 * moved.value, moved.log_slope + math.log(2))

    doubled = Coupling((0, 1), (2, 3, 4), Doubled(2.0), layer.conditioner)
    torch.testing.assert_close(doubled.encode(x).value[:, 2:], 2 * layer.encode(x).value[:, 2:])
    heard = []
    handle = layer.conditioner.register_forward_hook(lambda *_: heard.append(1))
    layer.encode(x)
    handle.remove()
    assert heard == [1]
    monkeypatch.setattr(layer.conditioner.hidden[0], "forward", lambda h: 0 * h @ h.new_ones(2, 8))
    assert layer.walk(x) is None


def test_the_plain_way_is_taken_where_there_is_no_library(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "LIBRARY", tmp_path / "absent.so")
    assert kernel.instruction_set() is None
    layer = layer_of()
    assert layer.walk(drawn(6, 5)) is None
    assert layer.encode(drawn(6, 5)).value.isfinite().all()
