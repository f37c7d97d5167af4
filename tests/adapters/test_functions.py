"""What the adapters bring with them, without the peers: functions, networks, maps, and how a copy is questioned."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from advect.adapters import density_estimator, sbi
from advect.adapters.agreement import check_agreement, difference
from advect.adapters.nflows import SigmoidScale, SoftplusScale, SoftplusSpline
from advect.adapters.passes import PassByPass
from advect.adapters.plain import Constant, Dense, Residual, dense, like
from advect.adapters.zuko import SoftScale, SoftSpline
from advect.errors import ConfigError, MissingExtraError, ShapeError, UnsupportedError
from advect.networks.dependence import chain
from advect.transforms import Standardise
from advect.transforms.spline import RationalQuadraticSpline, through_knots

FUNCTIONS = {
    "zuko's affine": SoftScale(),
    "zuko's affine, steep": SoftScale(slope=1e-6),
    "zuko's spline": SoftSpline(8),
    "zuko's spline, one bin": SoftSpline(1, bound=2.0),
    "nflows' coupling": SigmoidScale(),
    "nflows' masked affine": SoftplusScale(),
    "nflows' spline": SoftplusSpline(8, 3.0),
    "nflows' spline, scaled": SoftplusSpline(4, 1.0, least_width=0.1, least_height=0.05, gain=0.25),
}
BOUNDS = {name: getattr(function, "bound", 5.0) for name, function in FUNCTIONS.items()}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def points(name, rows=40, spread=2.0):
    """Points within, without, and exactly on the edges of the box, and wild parameters."""
    generator = torch.Generator().manual_seed(0)
    bound = BOUNDS[name]
    x = torch.linspace(-2 * bound, 2 * bound, rows, dtype=torch.float64)
    x = torch.cat([x, torch.tensor([-bound, bound, 0.0], dtype=torch.float64)])
    size = FUNCTIONS[name].num_parameters
    return x, spread * torch.randn(len(x), size, generator=generator, dtype=torch.float64)


@each_function
def test_slopes_are_those_of_autograd_in_both_directions(name):
    x, parameters = points(name)
    for verb in (FUNCTIONS[name].forward, FUNCTIONS[name].inverse):
        given = x.clone().requires_grad_()
        moved = verb(given, parameters)
        (slope,) = torch.autograd.grad(moved.value.sum(), given)
        assert torch.allclose(moved.log_slope, slope.log(), atol=1e-9)


@each_function
def test_the_way_back_is_the_way_back(name):
    x, parameters = points(name)
    there = FUNCTIONS[name].forward(x, parameters)
    back = FUNCTIONS[name].inverse(there.value, parameters)
    assert torch.allclose(back.value, x, atol=1e-8)
    assert torch.allclose(back.log_slope, -there.log_slope, atol=1e-6)


@each_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_far_out(name, dtype):
    function = FUNCTIONS[name]
    bound = BOUNDS[name]
    x = torch.tensor([-1e6, -1e3, -bound, 0.0, bound, 1e3, 1e6], dtype=dtype, requires_grad=True)
    parameters = (3 * points(name)[1][: len(x)]).to(dtype).requires_grad_()
    for verb in (function.forward, function.inverse):
        moved = verb(x, parameters)
        assert moved.value.dtype == dtype
        assert moved.value.isfinite().all()
        gradients = torch.autograd.grad(moved.value.sum() + moved.log_slope.sum(), (x, parameters))
        assert all(g.isfinite().all() for g in gradients)


@each_function
def test_any_shape_of_points_also_none_and_empty(name):
    x, parameters = points(name)
    whole = FUNCTIONS[name].forward(x[:12], parameters[:12]).value
    shaped = FUNCTIONS[name].forward(x[:12].reshape(3, 4), parameters[:12].reshape(3, 4, -1))
    assert torch.equal(shaped.value, whole.reshape(3, 4))
    assert FUNCTIONS[name].forward(x[0], parameters[0]).value.shape == ()
    assert FUNCTIONS[name].inverse(x[:0], parameters[:0]).log_slope.shape == (0,)


def test_our_own_spline_is_one_through_its_knots():
    """Two ways to the same core: shares and bounded derivatives, or knots."""
    own = RationalQuadraticSpline(5, 4.0)
    x, parameters = points("zuko's spline")
    parameters = parameters[:, : own.num_parameters]
    widths, heights, inner = parameters.split([5, 5, 4], -1)
    derivatives = (inner / (1 + inner.abs() / -torch.tensor(1e-3).double().log())).exp()
    ones = torch.ones(len(x), 1, dtype=torch.float64)

    def places(raw):
        shares = 1e-3 + (1 - 5e-3) * raw.softmax(-1)
        return torch.cat([-4 * ones, -4 + 8 * shares.cumsum(-1)], -1)

    knots = places(widths), places(heights), torch.cat([ones, derivatives, ones], -1)
    for expected, inverse in ((own.forward(x, parameters), False), (own.inverse(x, parameters), True)):
        found = through_knots(x, *knots, inverse=inverse)
        assert torch.allclose(found.value, expected.value, atol=1e-12)
        assert torch.allclose(found.log_slope, expected.log_slope, atol=1e-12)


class Triangle(nn.Module):
    """θ from the coordinates before and, strongly, from the condition."""

    def __init__(self, features, condition, each):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        mask = chain(range(features)).repeat_interleave(each, 0)
        mask = torch.cat([mask, torch.ones(features * each, condition)], 1)
        self.layer = Dense(torch.randn(mask.shape, generator=generator, dtype=torch.float64), None, mask)

    def forward(self, x, condition):
        return self.layer(torch.cat([x, condition], 1))


@pytest.fixture
def triangular():
    return PassByPass(SoftScale(), Triangle(4, 2, 2), chain(range(4)), 2)


def test_a_pass_by_pass_map_has_the_log_determinants_of_autograd(triangular):
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(3, n, generator=generator, dtype=torch.float64) for n in (4, 2))
    for verb in (triangular.encode, triangular.decode):
        found = verb(x, c)
        for row in range(3):
            of = lambda r, row=row, verb=verb: verb(r[None], c[row : row + 1]).value[0]  # noqa: E731
            jacobian = torch.autograd.functional.jacobian(of, x[row])
            assert found.log_abs_det_jacobian[row].item() == pytest.approx(float(jacobian.slogdet()[1]), abs=1e-9)
    there = triangular.encode(x, c)
    assert torch.allclose(triangular.decode(there.value, c).value, x, atol=1e-9)
    assert torch.equal(triangular.decode(x, c, log_det=False).value, triangular.decode(x, c).value)
    assert triangular.decode(x, c, log_det=False).log_abs_det_jacobian is None
    assert triangular.decode(x[:0], c[:0]).value.shape == (0, 4)


def test_a_guess_that_overflows_reaches_no_other_coordinate(triangular):
    """Coordinates not found yet are zero, not a guess: 0 times infinity in a mask would be NaN."""
    z = torch.tensor([[0.3, -0.2, 1e308, 0.0]], dtype=torch.float64)
    found = triangular.decode(z, torch.zeros(1, 2, dtype=torch.float64)).value
    near = triangular.decode(z.clamp(max=1.0), torch.zeros(1, 2, dtype=torch.float64)).value
    assert torch.equal(found[:, :2], near[:, :2])


def test_a_circle_of_dependence_is_refused():
    with pytest.raises(ConfigError, match="in a circle"):
        PassByPass(SoftScale(), Triangle(2, 0, 2), torch.tensor([[False, True], [True, False]]))


def test_copied_layers_are_copies():
    origin = nn.Linear(3, 2)
    copy = dense(origin)
    h = torch.randn(4, 3)
    assert torch.equal(copy(h), origin(h))
    square = nn.Linear(3, 3)
    assert torch.allclose(Residual(dense(square))(h), h + square(h))
    with torch.no_grad():
        origin.weight.zero_()
    assert copy.weight.abs().sum() > 0
    with pytest.raises(UnsupportedError, match="Conv2d"):
        dense(nn.Conv2d(1, 1, 3))


def test_a_masked_weight_gets_no_gradient_and_the_mask_is_saved():
    mask = torch.tensor([[1.0, 0.0]])
    layer = Dense(torch.tensor([[2.0, 3.0]]), None, mask)
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad.tolist() == [[1.0, 0.0]]
    assert torch.equal(layer.state_dict()["mask"], mask)


def test_a_constant_is_the_same_for_every_row():
    values = Constant(torch.tensor([1.0, 2.0]))
    assert values(torch.zeros(3, 0)).tolist() == [[1.0, 2.0]] * 3
    assert like(values.double()).dtype == torch.float64
    assert like(nn.Identity()).dtype == torch.float32


def test_a_copy_with_other_answers_is_not_handed_out():
    ours = Standardise(torch.zeros(2).double(), torch.ones(2).double())
    check_agreement(ours, lambda x, c: (x, x.new_zeros(len(x))), "a twin")
    for value, log_det in ((1e-5, 0.0), (0.0, 1e-5), (float("nan"), 0.0)):
        with pytest.raises(UnsupportedError, match="a stranger: advect's copy gives other answers"):
            check_agreement(ours, lambda x, c: (x + value, x.new_full((len(x),), log_det)), "a stranger")  # noqa: B023


def test_differences_are_relative_above_one():
    assert difference(torch.tensor([1.0, 101.0]), torch.tensor([1.0, 100.0])) == pytest.approx(0.01)
    assert difference(torch.tensor([0.5]), torch.tensor([0.25])) == pytest.approx(0.25)
    assert not difference(torch.tensor([float("nan"), 0.0]), torch.zeros(2)) <= 1.0


def test_without_sbi_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sbi", None)
    monkeypatch.setitem(sys.modules, "sbi.neural_nets.estimators.base", None)
    with pytest.raises(MissingExtraError, match="pip install sbi"):
        sbi._density_class.__wrapped__()


def test_nothing_of_the_peers_is_imported_with_the_adapters():
    code = "import sys, advect.adapters as a; a.density_estimator(); print({'sbi', 'zuko', 'nflows'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class StandIn(nn.Module):
    """What sbi's class keeps: enough for the contract where sbi is not installed."""

    def __init__(self, net, input_shape, condition_shape):
        super().__init__()
        self.net, self.input_shape, self.condition_shape = net, torch.Size(input_shape), torch.Size(condition_shape)


def test_the_contract_needs_no_more_of_sbi_than_its_class(monkeypatch):
    class Stood(sbi.Contract, StandIn):
        def __init__(self, net, seen, objective, input_shape, condition_shape):
            StandIn.__init__(self, net, input_shape, condition_shape)
            self.seen, self.objective = seen, objective

    monkeypatch.setattr(sbi, "_density_class", lambda: Stood)
    generator = torch.Generator().manual_seed(0)
    theta, x = (torch.randn(20, n, generator=generator) for n in (2, 3))
    estimator = density_estimator("realnvp", layers=2, network="mlp-1x8", seed=0)(theta, x)
    assert estimator.log_prob(theta[None].expand(5, 20, 2), x).shape == (5, 20)
    assert estimator.sample((4,), x[:3]).shape == (4, 3, 2)
    assert torch.allclose(estimator.loss(theta, x), -estimator.log_prob(theta, x)[0])
    with pytest.raises(ShapeError, match=r"expected \(sample, batch, 3\) or \(batch, 3\)"):
        estimator.log_prob(theta, x[:, :2])
