"""Lipschitz layers and networks: norms against dense linear algebra, in training and evaluation, before and after."""

import math

import pytest
import torch
from safetensors.torch import load, save

from advect.errors import AdvectError, ConfigError, UnknownNameError
from advect.networks.lipschitz import ACTIVATIONS, MARGIN, LipschitzConv2d, LipschitzLinear
from advect.networks.lipschitz_network import lipschitz_convolutions, lipschitz_mlp

FLOAT64 = torch.float64
ROUNDING = 1e-5  # of a norm in float32, relative


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def dense(layer, weight):
    """The matrix of a layer's linear operator with some weight, column by column from unit inputs."""
    size = math.prod(layer.inputs)
    units = torch.eye(size, dtype=weight.dtype).reshape(size, *layer.inputs)
    return layer.operate(weight.detach(), units).reshape(size, -1).T


def norm(layer, weight=None):
    weight = layer.bounded_weight()[0] if weight is None else weight
    return float(torch.linalg.matrix_norm(dense(layer, weight).double(), 2))


LAYERS = {
    "square": lambda g: LipschitzLinear(20, 20, coefficient=0.9, generator=g),
    "narrow": lambda g: LipschitzLinear(1, 30, coefficient=0.9, generator=g),
    "to-one": lambda g: LipschitzLinear(30, 1, coefficient=0.9, generator=g),
    "tall": lambda g: LipschitzLinear(3, 40, coefficient=0.9, generator=g),
    "conv-3": lambda g: LipschitzConv2d(3, 6, (5, 4), coefficient=0.9, generator=g),
    "conv-1": lambda g: LipschitzConv2d(4, 4, (3, 3), kernel=1, coefficient=0.9, generator=g),
    "conv-wide": lambda g: LipschitzConv2d(1, 2, (1, 7), kernel=5, coefficient=0.9, generator=g),
    "conv-pixel": lambda g: LipschitzConv2d(1, 1, (1, 1), coefficient=0.9, generator=g),
}


def drawn(name, size=1.0, dtype=torch.float32):
    layer = LAYERS[name](seeded(1)).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(size * torch.randn(layer.weight.shape, generator=seeded(2)))
    return layer


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_norms_are_at_most_the_target(name, training, dtype):
    """Trap T4: by the singular values of the dense operator, from the first call on; and the target is used up."""
    layer = drawn(name, 3.0, dtype).train(training)
    found = norm(layer)
    assert found <= 0.9 * (1 + ROUNDING)
    assert found >= 0.9 / (1 + MARGIN) * (1 - ROUNDING)
    assert layer.bounded_weight()[1] == 0.9


@pytest.mark.parametrize("name", LAYERS)
def test_weights_below_the_target_are_left_alone(name):
    """Trap T4: scaled only above it."""
    layer = drawn(name, 1e-2)
    weight, bound = layer.bounded_weight()
    assert weight is layer.weight
    assert norm(layer, layer.weight) <= bound < 0.9


@pytest.mark.parametrize("name", ["square", "tall", "conv-3"])
def test_a_weight_just_below_the_target_is_measured(name):
    """Its Frobenius bound is far above, so only the norm itself can tell that it needs no scaling."""
    layer = drawn(name)
    with torch.no_grad():
        layer.weight.mul_(0.85 / norm(layer, layer.weight))
    weight, bound = layer.bounded_weight()
    assert layer.simple_bound() > 0.9
    assert weight is layer.weight
    assert 0.85 * (1 - ROUNDING) <= bound <= 0.87


@pytest.mark.parametrize("name", ["square", "conv-3"])
def test_norms_hold_all_through_a_training_that_works_against_them(name):
    """Traps T4, T7: after every step, in training mode, with the directions of the step before."""
    layer = drawn(name, 0.1)
    x = torch.randn(32, *layer.inputs, generator=seeded(3))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(30):
        weight, _ = layer.bounded_weight()
        assert norm(layer, weight) <= 0.9 * (1 + ROUNDING)
        loss = -layer.affine(weight, x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert norm(layer, layer.weight) > 2
    assert norm(layer.eval()) <= 0.9 * (1 + ROUNDING)


def test_a_singular_value_that_overtakes_is_noticed():
    """Trap T4: one persistent vector would stay at a stationary point, the old leader, for ever."""
    layer = LipschitzLinear(6, 6, coefficient=0.9, generator=seeded())
    values = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.3, 0.2])
    with torch.no_grad():
        layer.weight.copy_(values.diag())
        layer.directions.copy_(torch.eye(4, 6))
    assert norm(layer) == pytest.approx(0.9 / (1 + MARGIN), rel=ROUNDING)
    for place in (1, 3):
        with torch.no_grad():
            layer.weight[place, place] = 5.0 * (place + 1)
        assert norm(layer) <= 0.9 * (1 + ROUNDING)


@pytest.mark.parametrize("name", ["square", "conv-3"])
@pytest.mark.parametrize("training", [True, False])
def test_unchanged_weights_give_the_same_bits(name, training):
    """A second look at converged directions changes nothing; evaluation never changes the buffers."""
    layer = drawn(name).train(training)
    before = layer.directions.clone()
    first = layer.bounded_weight()[0].detach().clone()
    assert torch.equal(layer.directions, before) == (not training)
    assert torch.equal(layer.bounded_weight()[0], first)


@pytest.mark.parametrize("name", ["square", "conv-3"])
@pytest.mark.parametrize("edit", ["copy", "data"])
def test_nothing_is_stale_in_evaluation(name, edit):
    """Trap T7: averaged weights put into a module that is in evaluation already, as the training loop does."""
    layer = drawn(name).eval()
    layer.bounded_weight()
    other = 4 * torch.randn(layer.weight.shape, generator=seeded(9))
    if edit == "copy":
        with torch.no_grad():
            layer.weight.copy_(other)
    else:
        layer.weight.data = other
    assert norm(layer) <= 0.9 * (1 + ROUNDING)


@pytest.mark.parametrize("name", ["square", "conv-3"])
@pytest.mark.parametrize("training", [True, False])
def test_a_loaded_layer_is_the_same(name, training):
    """Trap T7: the directions are saved."""
    layer, other = drawn(name), drawn(name, 2.0)
    layer.bounded_weight()
    other.load_state_dict(load(save(layer.state_dict())))
    ours, theirs = (x.train(training).bounded_weight()[0] for x in (layer, other))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["square", "tall", "conv-3"])
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_passes_through_the_norm(name, training):
    """By finite differences: the scaling is part of the function, not a constant."""
    layer = drawn(name, dtype=FLOAT64).train(training)
    layer.bounded_weight()
    start = layer.weight.detach().clone()
    mix = torch.randn(layer.weight.shape, generator=seeded(4), dtype=FLOAT64)
    along = torch.randn(layer.weight.shape, generator=seeded(5), dtype=FLOAT64)
    (layer.bounded_weight()[0] * mix).sum().backward()
    values = []
    for step in (1e-5, -1e-5):
        layer.weight.data = start + step * along
        values.append(float((layer.bounded_weight()[0].detach() * mix).sum()))
    # Truncation 1e-10; in training the directions are those of the middle at both ends, as for the gradient.
    assert float((layer.weight.grad * along).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_slope_at_most_one_and_bend(name):
    layer = ACTIVATIONS[name](3, sharpness=4.0).double()
    with torch.no_grad():
        layer.sharpness.copy_(torch.tensor([-3.0, 1.0, 9.0]))
    a = torch.linspace(-30, 30, 60001, dtype=FLOAT64).unsqueeze(1).repeat(1, 3).requires_grad_()
    value, slope = layer(a)
    (truth,) = torch.autograd.grad(value.sum(), a, create_graph=True)
    torch.testing.assert_close(slope, truth, rtol=1e-12, atol=1e-12)
    assert float(slope.detach().abs().max()) <= 1
    (bend,) = torch.autograd.grad(slope.sum(), a)
    assert bool((bend.abs().amax(0) > 0.01).all())
    assert float(ACTIVATIONS[name](1, sharpness=4.0)(torch.tensor([[1.0]]))[1].detach()) == pytest.approx(
        {"lipswish": 1.0527 / 1.09984, "sine": math.cos(4)}[name], abs=1e-4
    )
    far = torch.tensor([[1e30], [-1e30], [1e6], [-1e6]]).expand(4, 3).clone().requires_grad_()
    value, slope = layer.float()(far)
    (value / 1e30 + slope).sum().backward()
    assert all(bool(torch.isfinite(t).all()) for t in (value, slope, far.grad))
    assert float(slope.detach().abs().max()) <= 1 + 1e-6


NETWORKS = {
    "mlp": lambda g: lipschitz_mlp(3, width=16, zero=False, lipschitz=0.9, generator=g),
    "mlp-conditional": lambda g: lipschitz_mlp(3, 2, width=16, zero=False, lipschitz=0.9, generator=g),
    "mlp-sine": lambda g: lipschitz_mlp(2, depth=3, zero=False, lipschitz=0.9, activation="sine", generator=g),
    "convolutions": lambda g: lipschitz_convolutions((2, 3, 4), channels=6, zero=False, lipschitz=0.9, generator=g),
    "convolutions-conditional": lambda g: lipschitz_convolutions(
        (1, 2, 2), 2, channels=4, kernels=(3, 3), zero=False, lipschitz=0.9, generator=g
    ),
}


def network_and_rows(name, rows=6):
    network = NETWORKS[name](seeded(1)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(2)), alpha=0.5)
    x = 3 * torch.randn(rows, *network.layers[0].inputs, generator=seeded(3), dtype=FLOAT64)
    condition = torch.randn(rows, 2, generator=seeded(4), dtype=FLOAT64) if network.condition_features else None
    return network.eval(), x, condition


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_contract_in_x_and_know_their_products(name):
    """Against autograd's Jacobian, whose largest singular value is below the bound of the moment."""
    network, x, condition = network_and_rows(name)
    bound = network.bind(condition)
    value, pull = bound.linearise(x)
    torch.testing.assert_close(value, network(x, condition), rtol=0, atol=0)
    size = x[0].numel()
    vectors = torch.randn(len(x), 3, *x.shape[1:], generator=seeded(5), dtype=FLOAT64)
    pulled = pull(vectors).reshape(len(x), 3, size)
    for row in range(len(x)):
        given = None if condition is None else condition[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda flat, given=given, row=row: network(flat.reshape(1, *x.shape[1:]), given).reshape(-1),
            x[row].reshape(-1),
        )
        expected = vectors[row].reshape(3, size) @ jacobian
        torch.testing.assert_close(pulled[row], expected, rtol=1e-11, atol=1e-11)
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= bound.lipschitz <= network.lipschitz
    assert network.lipschitz == pytest.approx(0.9)
    shared = pull(torch.eye(size, dtype=FLOAT64).reshape(1, size, *x.shape[1:]))  # one set of vectors for all rows
    assert shared.shape == (len(x), size, *x.shape[1:])


@pytest.mark.parametrize("name", ["mlp-conditional", "convolutions-conditional"])
def test_conditions_are_free(name):
    """Trap T19: only x is constrained; the result may change with the condition far faster than by one to one."""
    network, x, condition = network_and_rows(name)
    with torch.no_grad():
        network.last_shift.weight.mul_(30)
    base = network(x, condition)
    for column in range(2):
        moved = condition.clone()
        moved[:, column] += 1e-4
        change = (network(x, moved) - base).flatten(1).norm(dim=1) / 1e-4
        assert bool((change > 1.0).any())
    with pytest.raises(AdvectError):
        network(x)
    with pytest.raises(AdvectError):
        NETWORKS["mlp"](seeded())(torch.zeros(2, 3), torch.zeros(2, 1))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_sizes_are_as_asked(depth):
    """Trap T5: numbers of layers and parameters."""
    network = lipschitz_mlp(3, depth=depth, width=8)
    assert len(network.layers) == depth + 1
    weights = 3 * 8 + (depth - 1) * 8 * 8 + 8 * 3
    biases, sharpness = depth * 8 + 3, depth * 8
    assert sum(p.numel() for p in network.parameters()) == weights + biases + sharpness
    assert len(lipschitz_convolutions((1, 4, 4), kernels=(3,) * depth).layers) == depth


def test_a_fresh_network_is_zero_and_the_generator_decides():
    x = torch.randn(4, 3, generator=seeded())
    assert torch.equal(lipschitz_mlp(3, 2, generator=seeded())(x, x[:, :2]), torch.zeros(4, 3))
    torch.manual_seed(1)
    first = lipschitz_mlp(3, zero=False, generator=seeded(5)).state_dict()
    torch.manual_seed(2)
    second = lipschitz_mlp(3, zero=False, generator=seeded(5)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_weights_that_are_no_numbers_give_no_numbers():
    """And no exception from linear algebra: the training loop says what happened."""
    for layer in (drawn("square"), drawn("conv-3")):
        for value in (math.nan, math.inf):
            layer.weight.data.flatten()[0] = value
            x = torch.ones(2, *layer.inputs)
            for training in (True, False):
                assert not torch.isfinite(layer.train(training)(x)).all()


def test_settings_are_checked():
    for bad in (0.0, 1.5, math.nan):
        with pytest.raises(ConfigError, match="Lipschitz"):
            LipschitzLinear(2, 2, coefficient=bad)
    for bad in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="Lipschitz"):
            lipschitz_mlp(2, lipschitz=bad)
    with pytest.raises(ConfigError, match="odd"):
        LipschitzConv2d(1, 1, (2, 2), kernel=2)
    with pytest.raises(ConfigError, match="width"):
        lipschitz_mlp(2, width=0)
    with pytest.raises(UnknownNameError, match="lipswish"):
        lipschitz_mlp(2, activation="lipswsh")
