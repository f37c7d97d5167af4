"""zuko's flows as ours: the same answers, gradients and dtypes; the original untouched; what is not covered refused."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from advect.adapters import from_zuko
from advect.errors import UnsupportedError
from advect.flows import Flow
from advect.transforms import Bijection
from benchmarks import differential

zuko = pytest.importorskip("zuko")
flows, transforms = zuko.flows, zuko.transforms
LAYERS = {layer.name: layer for layer in differential.zuko_layers()}


@pytest.mark.parametrize("name", LAYERS)
def test_value_log_det_and_inverse_agree(name):
    """What the benchmark records: the same weights, d = 2 and 5, with and without a condition."""
    for features in differential.FEATURES:
        for condition in differential.CONDITIONS if LAYERS[name].conditional else (0,):
            found = differential.compare(LAYERS[name], features, condition, seed=3)
            assert found.worst <= differential.TOLERANCE, found


def agree(origin, features, condition=0):
    """Ours of a transform with random weights, compared in both directions."""
    origin = differential.redraw(origin, 4)
    ours = from_zuko(origin)
    x, c = differential.rows(features, condition, 5)
    with torch.no_grad():
        z, log_det = origin(c).call_and_ladj(x)
        log_det = log_det.sum(1) if log_det.ndim > 1 else log_det
        there, back = ours.encode(x, c), ours.decode(z, c)
    assert torch.allclose(there.value, z, atol=1e-9)
    assert torch.allclose(there.log_abs_det_jacobian, log_det, atol=1e-9)
    assert torch.allclose(back.value, x, atol=1e-7)
    assert torch.allclose(back.log_abs_det_jacobian, -log_det, atol=1e-7)
    return ours


SPLINE = {"shapes": [(6,), (6,), (5,)]}


@pytest.mark.parametrize(
    "univariate",
    [
        partial(transforms.MonotonicRQSTransform, slope=1e-2, bound=3.0),
        partial(transforms.MonotonicRQSTransform, slope=1e-5),
    ],
)
def test_options_of_splines_are_taken_over(univariate):
    agree(flows.GeneralCouplingTransform(4, 2, univariate=univariate, **SPLINE), 4, 2)


def test_options_of_affine_functions_are_taken_over():
    steep = partial(transforms.MonotonicAffineTransform, slope=1e-6)
    agree(flows.MaskedAutoregressiveTransform(3, univariate=steep), 3)


def test_a_coupling_mask_is_true_where_coordinates_stay():
    mask = torch.tensor([True, False, False, True, True])
    ours = agree(flows.GeneralCouplingTransform(5, mask=mask), 5)
    x = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.encode(x).value[:, mask], x[:, mask])


def test_orders_and_adjacencies_of_any_kind():
    agree(flows.MaskedAutoregressiveTransform(4, 2, order=torch.tensor([2, 0, 3, 1])), 4, 2)
    adjacency = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]], dtype=torch.bool)
    ours = agree(flows.MaskedAutoregressiveTransform(4, adjacency=adjacency), 4)
    x = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobian = torch.autograd.functional.jacobian(lambda r: ours.encode(r).value[0], x)[:, 0]
    assert torch.equal(jacobian != 0, adjacency)


@pytest.mark.parametrize("condition", [0, 2])
def test_one_coordinate(condition):
    agree(flows.MaskedAutoregressiveTransform(1, condition), 1, condition)
    agree(flows.NSF(1, condition, transforms=2).transform, 1, condition)


def test_permutations_standardisation_inverses_and_nesting():
    order = torch.tensor([2, 0, 1])
    turn = flows.UnconditionalTransform(transforms.PermutationTransform, order, buffer=True)
    scale = flows.UnconditionalTransform(
        torch.distributions.AffineTransform,
        loc=torch.tensor([1.0, 2, 3]),
        scale=torch.tensor([2.0, 1, 0.5]),
        buffer=True,
    )
    layer = flows.GeneralCouplingTransform(3, 2)
    agree(zuko.lazy.LazyComposedTransform(scale, zuko.lazy.LazyComposedTransform(turn, layer.inv), turn), 3, 2)


@pytest.mark.parametrize("name", ["affine coupling", "spline coupling", "spline MADE", "affine MADE, residual"])
def test_gradients_are_those_of_the_original(name):
    """The parametrisation is taken over, not only the function: training goes on where it was."""
    origin = differential.redraw(LAYERS[name].build(5, 3), 6)
    ours = from_zuko(origin)
    x, c = differential.rows(5, 3, 7)
    z, log_det = origin(c).call_and_ladj(x)
    expected = torch.autograd.grad(z.square().mean() + log_det.mean(), list(origin.parameters()))
    there = ours.encode(x, c)
    loss = there.value.square().mean() + there.log_abs_det_jacobian.mean()
    found = torch.autograd.grad(loss, list(ours.parameters()))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-9)


def test_samples_of_a_flow_have_its_density():
    origin = differential.redraw(flows.MAF(3, 2, transforms=2, hidden_features=(16,)), 8)
    ours = from_zuko(origin)
    assert isinstance(ours, Flow)
    c = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn, log_prob = ours.sample_and_log_prob(50, c, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(origin(c).log_prob(drawn), log_prob, atol=1e-8)


def test_a_base_with_mean_and_scale():
    origin = flows.MAF(2, transforms=1, hidden_features=(8,)).double()
    mean, scale = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double()
    origin.base = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, mean, scale, buffer=True)
    x, _ = differential.rows(2, 0, 9)
    assert torch.allclose(from_zuko(origin).log_prob(x), origin().log_prob(x), atol=1e-10)


def test_dtype_is_kept_and_the_original_left_alone():
    torch.manual_seed(0)
    origin = flows.NSF(3, 2, transforms=2, hidden_features=(16,))
    before = copy.deepcopy(origin.state_dict())
    state = torch.get_rng_state()
    ours = from_zuko(origin)
    assert torch.equal(torch.get_rng_state(), state)
    assert origin.training
    assert all(p.requires_grad for p in origin.parameters())
    assert all(torch.equal(before[key], value) for key, value in origin.state_dict().items())
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in ours.parameters())
    x, c = torch.randn(4, 3), torch.randn(4, 2)
    assert ours.log_prob(x, c).dtype == torch.float32
    assert torch.allclose(ours.log_prob(x, c), origin(c).log_prob(x), atol=1e-4)
    with torch.no_grad():
        next(ours.parameters()).zero_()
    assert all(torch.equal(before[key], value) for key, value in origin.state_dict().items())


def test_state_goes_to_a_second_copy():
    origin = flows.NSF(3, transforms=2, hidden_features=(16,))
    first, second = from_zuko(differential.redraw(origin, 1)), from_zuko(differential.redraw(origin, 2))
    x, _ = differential.rows(3, 0, 0)
    assert not torch.allclose(first.log_prob(x), second.log_prob(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.log_prob(x), second.log_prob(x))


def refusals():
    yield "LayerNorm", flows.GeneralCouplingTransform(3, normalize=True)
    yield "CircularRQSTransform", flows.NCSF(3, transforms=1)
    yield "GaussianizationTransform", flows.GF(3, transforms=1)
    yield "UMNN", flows.UNAF(3, transforms=1)
    yield "BernsteinTransform", flows.BPF(3, transforms=1)
    yield "FFJTransform", flows.CNF(3).transform
    yield "SoftclipTransform", flows.UnconditionalTransform(transforms.SoftclipTransform, bound=3.0)
    yield "torch.nn.modules.linear.Linear", nn.Linear(3, 3)
    boxed = flows.MAF(3, transforms=1)
    boxed.base = zuko.lazy.UnconditionalDistribution(zuko.distributions.BoxUniform, -torch.ones(3), torch.ones(3))
    yield "BoxUniform", boxed


@pytest.mark.parametrize(("name", "origin"), [pytest.param(*pair, id=pair[0]) for pair in refusals()])
def test_what_is_not_covered_is_refused_by_name(name, origin):
    with pytest.raises(UnsupportedError, match=name):
        from_zuko(origin)


def test_a_version_with_another_parametrisation_is_found_out(monkeypatch):
    class Other(transforms.MonotonicAffineTransform):
        def __init__(self, shift, scale, slope=1e-3):
            super().__init__(shift, scale + 0.1, slope)

    Other.__name__ = "MonotonicAffineTransform"
    with pytest.raises(UnsupportedError, match="other answers"):
        from_zuko(flows.MaskedAutoregressiveTransform(3, univariate=Other))


def test_what_comes_is_ours():
    ours = from_zuko(flows.NSF(3, transforms=1))
    for module in ours.modules():
        assert type(module).__module__.split(".")[0] in {"advect", "torch"}
    assert isinstance(ours.map, Bijection)
