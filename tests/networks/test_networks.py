"""Networks: sizes honoured, shapes and conditions checked, the divergence exact, names resolved."""

import math

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, ShapeError, UnknownNameError
from advect.networks import MLP, NETWORKS, FourierTime, RawTime, ResidualMLP, make_network, resolve_network
from advect.networks.layers import ACTIVATIONS

FLOAT64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(**settings) -> MLP:
    return MLP((3,), generator=draws(), **settings)


def woken(network: nn.Module) -> nn.Module:
    """With an output layer drawn away from zero, so that a residual network says something."""
    with torch.no_grad():
        network.output.weight.normal_(std=0.3, generator=draws(9))
    return network


BUILDERS = {
    "mlp": lambda event=(3,), c=0: MLP(event, c, width=16, generator=draws()),
    "mlp-one-layer": lambda event=(3,), c=0: MLP(event, c, width=16, depth=1, generator=draws()),
    "mlp-two-layers": lambda event=(3,), c=0: MLP(event, c, width=16, depth=2, generator=draws()),
    "mlp-fourier": lambda event=(3,), c=0: MLP(event, c, width=16, depth=4, time=FourierTime(6), generator=draws()),
    **{
        f"mlp-{name}": lambda event=(3,), c=0, name=name: MLP(event, c, width=16, activation=name, generator=draws())
        for name in ACTIVATIONS
    },
    "residual": lambda event=(3,), c=0: woken(ResidualMLP(event, c, width=16, blocks=2, generator=draws())),
    "residual-one-block": lambda event=(3,), c=0: woken(ResidualMLP(event, c, width=8, blocks=1, generator=draws())),
}
everything = pytest.mark.parametrize("name", BUILDERS)


def test_mlp_is_the_papers():
    """Trap T5: (t, x) → three hidden layers of 64 SELU units → linear; the count of parameters is that of the paper."""
    network = MLP((2,))
    count = sum(p.numel() for p in network.parameters())
    assert count == (3 * 64 + 64) + 2 * (64 * 64 + 64) + (64 * 2 + 2)
    with torch.no_grad():
        x, t = torch.randn(5, 2, generator=draws()), torch.rand(5, generator=draws(1))
        h = torch.cat([x, t[:, None]], dim=1)
        for layer in network.hidden:
            h = nn.functional.selu(layer(h))
        torch.testing.assert_close(network(t, x), network.output(h))


@pytest.mark.parametrize(("depth", "width"), [(1, 4), (2, 7), (5, 3)])
def test_mlp_honours_its_sizes(depth, width):
    """Trap T5: depth hidden layers, no more and no fewer."""
    network = MLP((3,), 2, width=width, depth=depth)
    expected = (3 + 1 + 2 + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * 3
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize(("blocks", "width"), [(1, 4), (3, 256)])
def test_residual_honours_its_sizes(blocks, width):
    network = ResidualMLP((3,), 2, width=width, blocks=blocks, time_features=6)
    narrow = max(32, width // 4)  # the embedding of time and condition
    embedding = (6 + 1) * narrow + 2 * narrow + narrow * 2 * blocks * width
    expected = embedding + (3 + 1) * width + blocks * 2 * (width + 1) * width + (width + 1) * 3
    assert sum(p.numel() for p in network.parameters()) == expected


def test_default_initialisation_is_pytorchs():
    """U(−1/√inputs, 1/√inputs) for weights and biases: the range and the variance 1/(3·inputs)."""
    layer = MLP((99,), width=2000, depth=1, generator=draws()).hidden[0]
    assert layer.weight.abs().max() <= 0.1
    # 200 000 draws: the standard error of a uniform's variance is √(4/5 / n) = 0.2 %; five of them.
    assert math.isclose(layer.weight.var().item(), 0.01 / 3, rel_tol=0.01)
    assert layer.bias.abs().max() <= 0.1
    assert layer.bias.std() > 0.05


def test_initial_weights_come_from_the_generator_only():
    before = torch.get_rng_state()
    first, second = (make_network("residual-2x8", event_shape=(3,), generator=draws(4)) for _ in range(2))
    other = make_network("residual-2x8", event_shape=(3,), generator=draws(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.input.weight, other.input.weight)


@everything
@pytest.mark.parametrize("event", [(), (3,), (2, 3), (1, 2, 2), (1, 2, 1, 2)])
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_shapes_of_any_event_rank(name, event, rows):
    """Trap P4: event ranks 0 to 4, batches of 0 and 1, scalar and per-row times agree."""
    network = BUILDERS[name](event).double()
    x = torch.randn(rows, *event, dtype=FLOAT64, generator=draws())
    outputs = [network(t, x) for t in (0.3, torch.tensor(0.3, dtype=FLOAT64), torch.full((rows,), 0.3, dtype=FLOAT64))]
    for output in outputs:
        assert output.shape == x.shape
        assert output.dtype == FLOAT64
        torch.testing.assert_close(output, outputs[0], rtol=1e-12, atol=1e-12)
    assert network.divergence(0.3, x).shape == (rows,)


@everything
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("event", [(), (3,), (2, 2)])
@pytest.mark.parametrize("gradients", [False, True])
def test_divergence_is_the_trace_of_autograds_jacobian(name, conditional, event, gradients):
    """Trap L4: exact, for any event rank, and no graph where gradients are off."""
    network = BUILDERS[name](event, 4 if conditional else 0).double()
    x = torch.randn(6, *event, dtype=FLOAT64, generator=draws())
    t = torch.rand(6, dtype=FLOAT64, generator=draws(1))
    c = torch.randn(6, 2, 2, dtype=FLOAT64, generator=draws(2)) if conditional else None
    d = max(1, math.prod(event))
    truth = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda v, i=i: network(t[i], v[None], None if c is None else c[i : i + 1])[0], x[i]
            )
            .reshape(d, d)
            .trace()
            for i in range(6)
        ]
    )
    with torch.set_grad_enabled(gradients):
        velocity, found = network.velocity_and_divergence(t, x, c)
        # A few hundred products of order one in float64.
        torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(network.divergence(t, x, c), found, rtol=0, atol=0)
        torch.testing.assert_close(velocity, network(t, x, c), rtol=1e-12, atol=1e-12)
        assert found.requires_grad is gradients


@everything
def test_divergence_in_blocks_and_with_one_time(name, monkeypatch):
    """Rows cut into blocks of tangents give what they give alone, for a shared and for per-row times."""
    network = BUILDERS[name]((3,), 2).double()
    x = torch.randn(11, 3, dtype=FLOAT64, generator=draws())
    c = torch.randn(11, 2, dtype=FLOAT64, generator=draws(1))
    for t in (0.4, torch.rand(11, dtype=FLOAT64, generator=draws(2))):
        velocity, whole = network.velocity_and_divergence(t, x, c)
        monkeypatch.setattr("advect.networks.field.TANGENT_ROWS", 10)  # three rows a block
        cut_velocity, cut = network.velocity_and_divergence(t, x, c)
        monkeypatch.undo()
        torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(cut_velocity, velocity, rtol=1e-12, atol=1e-12)


@everything
def test_divergence_has_gradients_in_rows_and_parameters(name):
    """Trap L7: the trace is differentiable, by finite differences in x and against autograd's trace in a weight."""
    network = BUILDERS[name]((2,)).double()
    x = torch.randn(3, 2, dtype=FLOAT64, generator=draws()).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: network.divergence(0.3, v), (x,))

    weight = network.output.weight
    (ours,) = torch.autograd.grad(network.divergence(0.3, x).sum(), weight)
    velocity = network(0.3, x)
    trace = sum(torch.autograd.grad(velocity[:, i].sum(), x, create_graph=True)[0][:, i].sum() for i in range(2))
    (theirs,) = torch.autograd.grad(trace, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_of_activations_at_extremes(activation):
    """Trap T9: equal to autograd's, finite at ±1e6 and at the kink, also one derivative further."""
    pair = ACTIVATIONS[activation]
    a = torch.tensor([-1e6, -30.0, -1.0, -1e-3, 1e-3, 1.0, 30.0, 1e6], dtype=FLOAT64).requires_grad_()
    (slope,) = torch.autograd.grad(pair.function(a).sum(), a)
    # PyTorch's softplus turns linear at 20: exp(−20) = 2e-9.
    torch.testing.assert_close(pair.derivative(a), slope, rtol=1e-8, atol=3e-9)
    (curvature,) = torch.autograd.grad(pair.derivative(a).sum(), a)
    assert torch.isfinite(curvature).all()


@everything
def test_every_parameter_gets_a_gradient(name):
    network = BUILDERS[name]((3,), 2)
    t, x, c = (
        torch.rand(8, generator=draws()),
        torch.randn(8, 3, generator=draws(1)),
        torch.randn(8, 2, generator=draws(2)),
    )
    network(t, x, c).square().sum().backward()
    for label, parameter in network.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.abs().sum() > 0, label


@everything
def test_conditions_are_used_and_checked(name):
    """Trap T19: the output changes with the condition; a missing or superfluous one raises with both shapes."""
    x, c = torch.randn(4, 3, generator=draws()), torch.randn(4, 2, generator=draws(1))
    conditional, other = BUILDERS[name]((3,), 2), BUILDERS[name]((3,))
    assert not torch.equal(conditional(0.5, x, c), conditional(0.5, x, 0 * c))
    with pytest.raises(ShapeError, match=r"No condition was given, expected \(4, 2\)"):
        conditional(0.5, x)
    with pytest.raises(ShapeError, match=r"shape \(4, 3\), expected \(4, 2\)"):
        conditional(0.5, x, torch.zeros(4, 3))
    with pytest.raises(ShapeError, match=r"shape \(3, 2\), expected \(4, 2\)"):
        conditional(0.5, x, c[:3])
    with pytest.raises(ShapeError, match=r"shape \(4, 2\), expected none"):
        other(0.5, x, c)
    with pytest.raises(ShapeError, match=r"Rows have shape \(4, 2\)"):
        other(0.5, x[:, :2])
    with pytest.raises(ShapeError, match=r"Times have shape \(3,\)"):
        other(torch.zeros(3), x)


def test_an_untrained_residual_network_returns_zero():
    """Trap O4: zero output, so the baseline it is added to rules at the start; its output layer still learns."""
    network = ResidualMLP((2, 3), 4)
    x, c = torch.randn(5, 2, 3, generator=draws()), torch.randn(5, 4, generator=draws(1))
    assert torch.equal(network(0.2, x, c), torch.zeros_like(x))
    (network(0.2, x, c) - 1).square().sum().backward()
    assert network.output.weight.grad.abs().sum() > 0


def test_a_row_does_not_depend_on_its_neighbours():
    network = BUILDERS["residual"]((3,)).double()
    x = torch.randn(7, 3, dtype=FLOAT64, generator=draws())
    t = torch.rand(7, dtype=FLOAT64, generator=draws(1))
    torch.testing.assert_close(network(t[2:3], x[2:3])[0], network(t, x)[2], rtol=1e-12, atol=1e-12)


def test_fourier_time_is_fixed_and_tells_times_apart():
    embed = FourierTime(8)
    assert list(embed.parameters()) == []
    ratios = embed.frequencies[1:] / embed.frequencies[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(3))  # even in the logarithm
    assert math.isclose(embed.frequencies[0].item(), math.pi / 2, rel_tol=1e-6)
    assert math.isclose(embed.frequencies[-1].item(), 16 * math.pi, rel_tol=1e-6)
    t = torch.linspace(0, 1, 101)
    features = embed(t)
    assert features.shape == (101, 8)
    assert (features[:, 0].diff() > 0).all()
    torch.testing.assert_close(features[:, :4] ** 2 + features[:, 4:] ** 2, torch.ones(101, 4))
    assert torch.equal(RawTime()(t), t[:, None])
    for features in (0, 3):
        with pytest.raises(ConfigError, match="even number"):
            FourierTime(features)


def test_names_make_networks_of_the_asked_sizes():
    mlp = make_network("mlp-2x5", event_shape=(3,), condition_features=2)
    assert isinstance(mlp, MLP)
    assert [layer.out_features for layer in mlp.hidden] == [5, 5]
    assert mlp.condition_features == 2
    residual = make_network("residual-4x6", event_shape=(3,))
    assert isinstance(residual, ResidualMLP)
    assert len(residual.inner) == 4
    assert residual.input.out_features == 6
    own = nn.Identity()
    assert make_network(own, event_shape=(3,)) is own


@pytest.mark.parametrize(
    ("event", "rows", "expected"),
    [
        ((2,), None, "residual-3x128"),
        ((8, 8), 1400, "residual-3x256"),
        ((11,), 16_000, "residual-3x256"),
        ((400,), 50_000, "residual-3x512"),
        ((1, 15, 40), 50_000, "residual-3x512"),
        ((4,), 120, "residual-3x64"),
        ((13,), 400, "residual-3x128"),
    ],
)
def test_auto_follows_its_rule(event, rows, expected):
    assert resolve_network("auto", event_shape=event, num_rows=rows) == expected
    network = make_network("auto", event_shape=event, num_rows=rows)
    assert f"residual-{len(network.inner)}x{network.input.out_features}" == expected


@pytest.mark.parametrize("name", ["mpl-3x64", "mlp", "mlp-3", "residual-3x", "mlp-3x64x2", "unet"])
def test_unknown_names_offer_the_known(name):
    with pytest.raises(UnknownNameError, match="residual-3x256"):
        make_network(name, event_shape=(2,))


def test_sizes_of_zero_are_refused():
    for name in ("mlp-0x64", "residual-3x0"):
        with pytest.raises(ConfigError, match="size of zero"):
            make_network(name, event_shape=(2,))
    with pytest.raises(ConfigError, match="width"):
        MLP((2,), width=0)
    with pytest.raises(ConfigError, match="blocks"):
        ResidualMLP((2,), blocks=0)
    with pytest.raises(UnknownNameError, match="selu"):
        MLP((2,), activation="sellu")
    with pytest.raises(ConfigError, match="features"):
        MLP((2,), time=nn.Identity())


def test_every_listed_name_is_understood():
    for name in NETWORKS:
        assert isinstance(make_network(name, event_shape=(1, 4, 4)), nn.Module)
