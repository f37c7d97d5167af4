"""nflows' flows as ours: the same answers, gradients and dtypes; the original untouched; the rest refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from advect.adapters import from_nflows
from advect.errors import UnsupportedError
from advect.flows import Flow
from benchmarks import differential

nflows = pytest.importorskip("nflows")
transforms = pytest.importorskip("nflows.transforms")
nflows_flows = pytest.importorskip("nflows.flows")
nets = pytest.importorskip("nflows.nn.nets")
distributions = pytest.importorskip("nflows.distributions")
LAYERS = {layer.name: layer for layer in differential.nflows_layers()}

pytestmark = pytest.mark.filterwarnings(r"ignore:torch.(triangular_solve|qr) is deprecated")


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
    ours = from_nflows(origin)
    x, c = differential.rows(features, condition, 5)
    with torch.no_grad():
        z, log_det = origin(x, c)
        there, back = ours.encode(x, c), ours.decode(z, c)
    assert torch.allclose(there.value, z, atol=1e-9)
    assert torch.allclose(there.log_abs_det_jacobian, log_det, atol=1e-9)
    assert torch.allclose(back.value, x, atol=1e-7)
    assert torch.allclose(back.log_abs_det_jacobian, -log_det, atol=1e-7)
    return ours


def network(condition=0, **options):
    return lambda inputs, outputs: nets.ResidualNet(inputs, outputs, 12, context_features=condition or None, **options)


TAILS = {"tails": "linear"}


def test_options_of_splines_are_taken_over():
    kind = transforms.PiecewiseRationalQuadraticCouplingTransform
    options = {"num_bins": 5, "tail_bound": 2.5, "min_bin_width": 0.05, "min_bin_height": 0.01, "min_derivative": 0.1}
    agree(kind([1, -1, 1, -1], network(2), **TAILS, **options), 4, 2)
    made = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
    agree(made(4, 12, num_blocks=1, **TAILS, **options), 4)


def test_logits_are_divided_by_the_width_only_where_a_network_says_it():
    """A masked network of nflows 0.14 does not say its width; were it to, copies would divide as well."""
    origin = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(3, 12, num_bins=6, **TAILS)
    assert not hasattr(origin.autoregressive_net, "hidden_features")
    assert agree(origin, 3).function.gain == 1.0
    origin.autoregressive_net.hidden_features = 12
    assert agree(origin, 3).function.gain == pytest.approx(12**-0.5)


def test_a_coupling_mask_is_positive_where_coordinates_move():
    mask = torch.tensor([1, -1, -1, 1, 0])
    ours = agree(transforms.AffineCouplingTransform(mask, network()), 5)
    x = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.encode(x).value[:, mask <= 0], x[:, mask <= 0])


@pytest.mark.parametrize("activation", [functional.elu, torch.tanh, nn.SiLU()])
def test_any_activation(activation):
    agree(transforms.AffineCouplingTransform([1, -1, 1], network(2, activation=activation)), 3, 2)
    agree(transforms.MaskedAffineAutoregressiveTransform(3, 12, 2, activation=activation), 3, 2)


@pytest.mark.parametrize("blocks", [0, 3])
@pytest.mark.parametrize("residual", [True, False])
def test_any_number_of_blocks(blocks, residual):
    agree(transforms.MaskedAffineAutoregressiveTransform(3, 12, 2, blocks, use_residual_blocks=residual), 3, 2)


@pytest.mark.parametrize("condition", [0, 2])
def test_one_coordinate(condition):
    agree(
        transforms.MaskedAffineAutoregressiveTransform(1, 12, condition or None, use_residual_blocks=False),
        1,
        condition,
    )


def test_linear_maps_of_every_kind():
    agree(transforms.SVDLinear(4, 2, identity_init=False), 4)
    torch.manual_seed(0)
    agree(transforms.NaiveLinear(4), 4)
    agree(transforms.HouseholderSequence(4, 7), 4)
    agree(transforms.Permutation(torch.tensor([2, 0, 1])), 3)
    agree(transforms.ReversePermutation(3), 3)


def test_shift_and_scale_inverses_and_nesting():
    scale = transforms.PointwiseAffineTransform(torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 1, 0.5]))
    layer = transforms.InverseTransform(transforms.AffineCouplingTransform([1, -1, 1], network(2)))
    inner = transforms.CompositeTransform([transforms.ReversePermutation(3), layer])
    agree(transforms.CompositeTransform([scale, inner, transforms.LULinear(3)]), 3, 2)


@pytest.mark.parametrize("name", ["affine coupling", "spline coupling", "affine MADE", "spline MADE, residual"])
def test_gradients_are_those_of_the_original(name):
    """The parametrisation is taken over, not only the function: training goes on where it was."""
    origin = differential.redraw(LAYERS[name].build(5, 3), 6)
    ours = from_nflows(origin)
    x, c = differential.rows(5, 3, 7)
    # nflows writes into its splines' logits, which autograd refuses for leaves only; through a network it is allowed
    z, log_det = origin(x, c)
    expected = torch.autograd.grad(z.square().mean() + log_det.mean(), list(origin.parameters()))
    there = ours.encode(x, c)
    loss = there.value.square().mean() + there.log_abs_det_jacobian.mean()
    found = torch.autograd.grad(loss, list(ours.parameters()))
    assert len(found) == len(expected)
    # modules are held in another order, and an affine coupling's outputs too: compared as sets of numbers
    mine, theirs = (torch.cat([g.flatten() for g in grads]).sort().values for grads in (found, expected))
    assert torch.allclose(mine, theirs, atol=1e-9)


def test_samples_of_a_flow_have_its_density():
    torch.manual_seed(0)
    origin = differential.redraw(nflows_flows.MaskedAutoregressiveFlow(3, 12, 2, 1), 8)
    ours = from_nflows(origin)
    assert isinstance(ours, Flow)
    drawn, log_prob = ours.sample_and_log_prob(50, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(origin.log_prob(drawn), log_prob, atol=1e-8)


def test_a_base_with_mean_and_scale():
    transform = transforms.MaskedAffineAutoregressiveTransform(3, 12)
    origin = differential.redraw(nflows_flows.Flow(transform, distributions.DiagonalNormal((3,))), 9)
    x, _ = differential.rows(3, 0, 9)
    assert torch.allclose(from_nflows(origin).log_prob(x), origin.log_prob(x), atol=1e-10)


def test_dtype_is_kept_and_the_original_left_alone():
    torch.manual_seed(0)
    origin = nflows_flows.SimpleRealNVP(4, 12, 2, 1, dropout_probability=0.5)
    before = copy.deepcopy(origin.state_dict())
    state = torch.get_rng_state()
    ours = from_nflows(origin)
    assert torch.equal(torch.get_rng_state(), state)
    assert origin.training
    assert all(p.requires_grad for p in origin.parameters())
    assert all(torch.equal(before[key], value) for key, value in origin.state_dict().items())
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in ours.parameters())
    x = torch.randn(5, 4)
    # without the dropout, as the original answers in evaluation mode
    assert torch.allclose(ours.train().log_prob(x), origin.eval().log_prob(x).float(), atol=1e-4)


def refusals():
    spline = transforms.PiecewiseRationalQuadraticCouplingTransform
    yield "BatchNorm", transforms.BatchNorm(3)
    yield "ActNorm", transforms.ActNorm(3)
    yield "OneByOneConvolution", transforms.OneByOneConvolution(3)
    yield "PiecewiseQuadraticCouplingTransform", transforms.PiecewiseQuadraticCouplingTransform([1, -1], network())
    yield "maps the unit box only", spline([1, -1], network())
    yield "stay are moved as well", spline([1, -1], network(), apply_unconditional_transform=True, **TAILS)
    yield (
        "ResidualBlock: Batch normalisation",
        transforms.AffineCouplingTransform([1, -1], network(use_batch_norm=True)),
    )
    yield "MaskedResidualBlock: Batch", transforms.MaskedAffineAutoregressiveTransform(3, 8, use_batch_norm=True)
    yield "linear.Linear", transforms.AffineCouplingTransform([1, -1], nn.Linear)
    yield "axis 2", transforms.Permutation(torch.tensor([1, 0]), dim=2)
    yield "how long a row is", transforms.PointwiseAffineTransform(1.0, 2.0)
    yield "PReLU", transforms.AffineCouplingTransform([1, -1], network(activation=nn.PReLU()))
    embedded = nflows_flows.Flow(transforms.LULinear(3), distributions.StandardNormal((3,)), nn.Linear(2, 2))
    yield "embeds its context", embedded
    mixed = nflows_flows.Flow(transforms.LULinear(3), distributions.ConditionalDiagonalNormal((3,)))
    yield "ConditionalDiagonalNormal", mixed


@pytest.mark.parametrize(("words", "origin"), [pytest.param(*pair, id=pair[0]) for pair in refusals()])
def test_what_is_not_covered_is_refused_by_name(words, origin):
    with pytest.raises(UnsupportedError, match=words):
        from_nflows(origin)


def test_a_version_with_another_parametrisation_is_found_out(monkeypatch):
    """Older ones take a sigmoid where 0.14 takes a softplus."""

    def older(self, inputs, parameters):
        raw, shift = self._unconstrained_scale_and_shift(parameters)
        scale = torch.sigmoid(raw + 2.0) + 1e-3
        return scale * inputs + shift, scale.log().sum(1)

    monkeypatch.setattr(transforms.MaskedAffineAutoregressiveTransform, "_elementwise_forward", older)
    with pytest.raises(UnsupportedError, match="other answers"):
        from_nflows(transforms.MaskedAffineAutoregressiveTransform(3, 8))


def test_what_comes_is_ours():
    ours = from_nflows(nflows_flows.MaskedAutoregressiveFlow(3, 8, 2, 1))
    for module in ours.modules():
        assert type(module).__module__.split(".")[0] in {"advect", "torch"}
