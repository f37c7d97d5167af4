"""The diffusion transformer: any size of picture, zero at the start, its layers by hand, the published sizes."""

import math

import pytest
import torch
import torch.nn.functional as F

from advect.errors import ConfigError, ShapeError, UnknownNameError
from advect.networks import DiffusionTransformer, DiTSize, make_network, resolve_network
from advect.networks.names import DITS
from advect.networks.transformer import EPSILON, grid_positions
from tests.networks.pictures import draws, rows_stay_apart, woken, zero_at_the_start_and_everything_learns

SMALL = DiTSize(2, 16, 2)


def small(shape=(2, 8, 6), features=0, patch=2, size=SMALL):
    return woken(DiffusionTransformer(shape, features, size=size, patch=patch, generator=draws())).double().eval()


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("shape", "patch"), [((1, 8, 8), 2), ((3, 9, 6), 4), ((2, 1, 1), 1), ((1, 5, 17), 3)])
@pytest.mark.parametrize("features", [0, 3])
def test_any_size_of_picture(shape, patch, features):
    rows_stay_apart(small(shape, features, patch), shape, features)


def test_zero_at_the_start_and_everything_learns():
    zero_at_the_start_and_everything_learns(DiffusionTransformer((1, 8, 8), 2, size=SMALL, patch=2, generator=draws()))


def test_every_block_begins_as_the_identity():
    """adaLN-zero: before training the last layer sees the patches and their places, whatever the depth."""
    deep = DiffusionTransformer((1, 8, 8), size=DiTSize(5, 16, 2), patch=2, generator=draws())
    h, e = torch.randn(2, 16, 16, generator=draws(1)), torch.randn(2, 16, generator=draws(2))
    for block in deep.blocks:
        assert torch.equal(block(h, e), h)


def test_a_condition_of_zeros_adds_nothing_and_others_do():
    network, x = small(features=3), torch.randn(2, 2, 8, 6, generator=draws(1)).double()
    nothing = network(0.2, x, torch.zeros(2, 3).double())
    with torch.no_grad():
        network.condition_layer.weight.mul_(7)
    assert torch.equal(nothing, network(0.2, x, torch.zeros(2, 3).double()))
    assert not torch.allclose(nothing, network(0.2, x, torch.ones(2, 3).double()))
    assert not torch.allclose(nothing, network(0.9, x, torch.zeros(2, 3).double()))


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn():
    state = torch.get_rng_state()
    make = lambda seed: DiffusionTransformer((1, 8, 8), size=SMALL, patch=2, generator=draws(seed))  # noqa: E731
    one, again, other = (make(seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.input.weight, other.input.weight)


def test_without_places_patches_may_be_exchanged():
    """All but the positions treats tokens alike: a picture rolled by whole patches gives the rolled velocity."""
    network, x = small(), torch.randn(2, 2, 8, 6, generator=draws(1)).double()
    rolled = torch.roll(x, (2, -4), (2, 3))
    placed = network(0.4, rolled)
    assert not torch.allclose(placed, torch.roll(network(0.4, x), (2, -4), (2, 3)), atol=1e-3)
    network.positions.zero_()
    expected = torch.roll(network(0.4, x), (2, -4), (2, 3))
    torch.testing.assert_close(network(0.4, rolled), expected, rtol=1e-10, atol=1e-12)


def test_the_network_is_its_formula():
    network = small((2, 4, 6), 3, patch=2, size=DiTSize(1, 8, 2))
    x, c = torch.randn(2, 2, 4, 6, generator=draws(1)).double(), torch.randn(2, 3, generator=draws(2)).double()
    t = torch.tensor([0.2, 0.9]).double()
    layers, block = network.time_layers, network.blocks[0]
    e = F.silu(layers[2](F.silu(layers[0](network.time(t)))) + c @ network.condition_layer.weight.T)
    # Patches by hand, row by row: a token holds all channels of its 2 × 2 pixels.
    patches = [x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(2, 8) for i in range(2) for j in range(3)]
    h = torch.stack([network.input(patch) for patch in patches], 1) + network.positions

    def normed(h, shift, scale):
        mean, spread = h.mean(2, keepdim=True), h.var(2, keepdim=True, unbiased=False)
        return (1 + scale[:, None]) * (h - mean) / (spread + EPSILON).sqrt() + shift[:, None]

    shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(e).split(8, 1)
    q, k, v = block.qkv(normed(h, shift1, scale1)).split(8, 2)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(4), 2)
        heads.append(weights @ v[..., part])
    h = h + gate1[:, None] * block.mix(torch.cat(heads, 2))
    u = block.outer(F.gelu(block.inner(normed(h, shift2, scale2)), approximate="tanh"))
    h = h + gate2[:, None] * u
    out = network.output(normed(h, *network.last_modulation(e).split(8, 1)))
    expected = torch.zeros_like(x)
    for token in range(6):
        i, j = divmod(token, 3)
        expected[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = out[:, token].reshape(2, 2, 2, 2)
    torch.testing.assert_close(network(t, x, c), expected, rtol=1e-10, atol=1e-12)


def test_places_are_sines_of_row_and_column():
    found = grid_positions(3, 5, 10)
    assert found.shape == (15, 10)
    row, column, second = 2, 4, 10000**-0.5
    expected = [f(place * w) for place in (row, column) for f in (math.sin, math.cos) for w in (1.0, second)]
    torch.testing.assert_close(found[row * 5 + column], torch.tensor([*expected, 0.0, 0.0], dtype=torch.float64))
    apart = torch.cdist(grid_positions(16, 16, 64), grid_positions(16, 16, 64)) + torch.eye(256)
    assert apart.min() > 0.1  # no two places look alike


def test_published_sizes():
    """DiT's own script prints 675,129,632 parameters for DiT-XL/2 of latents 4 × 32 × 32 with 1000 classes.

    That counts the fixed positions, the row of the table of classes that stands for no class, and a last layer of
    twice the outputs, for variances. None of them is a parameter here.
    """
    width, patch, channels, tokens = 1152, 2, 4, 256
    extra = tokens * width + width + (width + 1) * channels * patch**2
    # Without drawing 675 million numbers: a block counted once, and the rest of a network of one block.
    one = DiffusionTransformer((4, 32, 32), 1000, size=DiTSize(1, width, 16), patch=patch)
    block = count(one.blocks)
    assert count(one) - block + DITS["xl"].layers * block + extra == 675_129_632
    # Of DiT-S/2 the same count gives 32.96 million, 32.87 without the fixed positions (the paper: 33 million).
    small = make_network("dit-s/2", event_shape=(4, 32, 32), condition_features=1000)
    width = 384
    assert count(small) + width + (width + 1) * channels * patch**2 == 32_865_056
    assert count(small) == 32_858_512
    layers = {name: (size.layers, size.width, size.heads) for name, size in DITS.items() if name != "tiny"}
    assert layers == {"s": (12, 384, 6), "b": (12, 768, 12), "l": (24, 1024, 16), "xl": (28, 1152, 16)}


def test_names():
    assert resolve_network("dit-b/8", event_shape=(3, 64, 64)) == "dit-b/8"
    network = make_network("dit-tiny/7", event_shape=(1, 28, 28), generator=draws())
    assert isinstance(network, DiffusionTransformer)
    assert (network.patch, network.size, network.grid) == (7, DITS["tiny"], (4, 4))
    with pytest.raises(UnknownNameError, match="dit-s/2"):
        make_network("dit-s", event_shape=(1, 28, 28))
    with pytest.raises(ShapeError, match="for pictures"):
        make_network("dit-tiny/4", event_shape=(4,))
    with pytest.raises(ConfigError, match="patch is 0"):
        make_network("dit-tiny/0", event_shape=(1, 28, 28))
    with pytest.raises(ConfigError, match="larger than pictures of 28 × 28"):
        make_network("dit-tiny/29", event_shape=(1, 28, 28))


def test_what_it_cannot_be_is_refused():
    with pytest.raises(ShapeError, match="expected"):
        small()(0.5, torch.zeros(2, 2, 8, 7).double())
    with pytest.raises(ConfigError, match="heads"):
        small(size=DiTSize(1, 16, 3))
    with pytest.raises(ConfigError, match="layers is 0"):
        small(size=DiTSize(0, 16, 2))
