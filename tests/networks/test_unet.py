"""The U-Net: any size of picture, zero at the start, rows apart, its layers as written down by hand."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from advect.errors import ConfigError, ShapeError
from advect.networks import UNet, UNetSize, make_network, resolve_network
from advect.networks.names import UNETS
from advect.networks.unet import _ResidualBlock, _SelfAttention
from tests.networks.pictures import draws, rows_stay_apart, woken, zero_at_the_start_and_everything_learns

SMALL = UNetSize(8, (1, 2, 2), 1, attention=(1,), head_channels=4)


def small(shape=(2, 9, 6), features=0, **more):
    return woken(UNet(shape, features, size=UNetSize(**(vars(SMALL) | more)), generator=draws())).double().eval()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6), (2, 1, 1), (1, 5, 17)])
@pytest.mark.parametrize("features", [0, 3])
def test_any_size_of_picture(shape, features):
    rows_stay_apart(small(shape, features), shape, features)


def test_zero_at_the_start_and_everything_learns():
    zero_at_the_start_and_everything_learns(UNet((1, 8, 8), 2, size=SMALL, generator=draws()))


def test_a_condition_of_zeros_adds_nothing_and_others_do():
    network, x = small(features=3), torch.randn(2, 2, 9, 6, generator=draws(1)).double()
    nothing = network(0.2, x, torch.zeros(2, 3).double())
    with torch.no_grad():
        network.condition_layer.weight.mul_(7)
    assert torch.equal(nothing, network(0.2, x, torch.zeros(2, 3).double()))
    assert not torch.allclose(nothing, network(0.2, x, torch.ones(2, 3).double()))
    assert not torch.allclose(nothing, network(0.9, x, torch.zeros(2, 3).double()))


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn():
    state = torch.get_rng_state()
    one, again, other = (UNet((1, 8, 8), size=SMALL, generator=draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.input.weight, other.input.weight)


def test_attention_is_softmax_of_the_products():
    layer = woken(_SelfAttention(8, 4, draws())).double()
    h = torch.randn(2, 8, 3, 2, generator=draws(1), dtype=torch.float64)
    normed = F.group_norm(h, 2, layer.norm.weight, layer.norm.bias)
    qkv = torch.einsum("oi,bixy->boxy", layer.qkv.weight[:, :, 0, 0], normed) + layer.qkv.bias[:, None, None]
    q, k, v = qkv.reshape(2, 3, 2, 4, 6).unbind(1)  # rows, (q k v), heads, channels of a head, pixels
    weights = torch.softmax(torch.einsum("bhcp,bhcq->bhpq", q, k) / math.sqrt(4), dim=-1)
    mixed = torch.einsum("bhpq,bhcq->bhcp", weights, v).reshape(2, 8, 3, 2)
    out = torch.einsum("oi,bixy->boxy", layer.output.weight[:, :, 0, 0], mixed) + layer.output.bias[:, None, None]
    torch.testing.assert_close(layer(h), h + out, rtol=1e-10, atol=1e-12)


def test_a_residual_block_is_its_formula():
    block = woken(_ResidualBlock(4, 6, 5, 0.0, draws())).double()
    h, e = torch.randn(2, 4, 5, 5, generator=draws(1)).double(), torch.randn(2, 5, generator=draws(2)).double()
    one, two = block.norm1, block.norm2
    u = F.silu(F.group_norm(h, 1, one.weight, one.bias))
    u = F.conv2d(u, block.conv1.weight, block.conv1.bias, padding=1)
    gain, shift = (F.linear(e, block.modulation.weight, block.modulation.bias)[:, :, None, None]).split(6, 1)
    u = (1 + gain) * F.group_norm(u, 1, two.weight, two.bias) + shift
    expected = F.conv2d(h, block.skip.weight, block.skip.bias) + F.conv2d(
        F.silu(u), block.conv2.weight, block.conv2.bias, padding=1
    )
    torch.testing.assert_close(block(h, e), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("scales", "channels", "shape"), [(True, 8, (2, 9, 6)), (False, 8, (2, 9, 6)), (True, 16, (2, 12, 8))]
)
def test_numbers_do_not_depend_on_the_compiled_parts_or_the_order_in_memory(scales, channels, shape, monkeypatch):
    network = small(shape, features=3, scales=scales, channels=channels).float()
    x, t, c = torch.randn(3, *shape, generator=draws(1)), torch.rand(3, generator=draws(2)), torch.ones(3, 3)

    def answers(network, x):
        x = x.detach().requires_grad_()
        out = network(t.to(x.dtype), x, c.to(x.dtype))
        assert out.is_contiguous()
        return [out, *torch.autograd.grad(out.square().sum(), [x, *network.parameters()])]

    found = answers(network, x)
    others = [answers(network, x.contiguous(memory_format=torch.channels_last)), answers(network, x.mT.contiguous().mT)]
    with torch.autocast("cpu", torch.bfloat16):
        narrow = answers(network, x)
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    others.append(answers(network, x))
    with torch.autocast("cpu", torch.bfloat16):
        plain = answers(network, x)
    exact = answers(copy.deepcopy(network).double(), x.double())
    sizes = [float(other.detach().abs().max() + 1e-2 * exact[1].abs().max()) for other in exact]
    for some in (found, *others):
        for one, other, size in zip(some, exact, sizes, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-4 * size)

    def error(some):
        parts = zip(some, exact, sizes, strict=True)
        return float(torch.cat([(one.double() - other).flatten() / size for one, other, size in parts]).norm())

    # In bfloat16 it is torch's own rounding, layer by layer, that says how far off such a network is; two draws of as
    # many such errors differ by a tenth.
    assert 0 < error(narrow) <= 1.15 * error(plain)


def test_transformed_it_is_the_same_network():
    network, x = small().float(), torch.randn(2, 2, 9, 6, generator=draws(1))
    along = torch.randn(x.shape, generator=draws(2))
    _, forward = torch.func.jvp(lambda at: network(0.3, at), (x,), (along,))
    at = x.requires_grad_()
    by = torch.randn(x.shape, generator=draws(3))
    (back,) = torch.autograd.grad(network(0.3, at), at, by)
    assert float((forward * by).sum().detach()) == pytest.approx(float((back * along).sum()), rel=1e-3, abs=1e-3)
    each = torch.vmap(lambda row: network(0.3, row[None])[0])(x.detach())
    torch.testing.assert_close(each, network(0.3, x).detach(), rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(network(0.3, x.detach()), each, rtol=1e-4, atol=1e-4)


def test_dropout_is_for_training_alone():
    network, x = small(dropout=0.5), torch.randn(2, 2, 9, 6, generator=draws(1)).double()
    assert torch.equal(network(0.5, x), network(0.5, x))
    network.train()
    assert not torch.equal(network(0.5, x), network(0.5, x))


def test_names():
    assert resolve_network("auto", event_shape=(1, 28, 28)) == "unet-tiny"
    assert resolve_network("auto", event_shape=(1, 8, 8)).startswith("residual")
    network = make_network("unet-tiny", event_shape=(1, 28, 28), generator=draws())
    assert isinstance(network, UNet)
    assert network.size == UNETS["unet-tiny"]
    # torchcfm's CIFAR-10 example: attention at 16 × 16 of 32 × 32, on two blocks down, three up, and in the middle.
    cifar = make_network("unet-cifar", event_shape=(3, 32, 32))
    attentions = [module for module in cifar.modules() if isinstance(module, _SelfAttention)]
    assert len(attentions) == 6
    assert {module.heads for module in attentions} == {4}


def test_what_it_cannot_be_is_refused():
    with pytest.raises(ShapeError, match="for pictures"):
        make_network("unet-tiny", event_shape=(4,))
    with pytest.raises(ShapeError, match="expected"):
        small()(0.5, torch.zeros(2, 2, 9, 7).double())
    for wrong in ({"channels": 0}, {"blocks": 0}, {"multipliers": ()}, {"dropout": 1.0}):
        with pytest.raises(ConfigError):
            small(**wrong)
    with pytest.raises(ConfigError, match="heads"):
        small(channels=9, head_channels=4)


def of_torchcfm(theirs, ours):
    """Weights of torchcfm's U-Net brought into ours, a module at a time in the order in which both are passed."""
    inputs, outputs = list(theirs.input_blocks), list(theirs.output_blocks)

    def give(mine, other):
        for a, b in zip(mine.parameters(), other.parameters(), strict=True):
            a.copy_(b.reshape(a.shape))

    def level(mine, parts):
        one, first = mine.block, parts[0]
        pairs = [(one.norm1, first.in_layers[0]), (one.conv1, first.in_layers[2]), (one.norm2, first.out_layers[0])]
        pairs += [(one.modulation, first.emb_layers[1]), (one.conv2, first.out_layers[3])]
        pairs += [(one.skip, first.skip_connection)]
        if mine.attention is not None:
            pairs += [(mine.attention.norm, parts[1].norm), (mine.attention.output, parts[1].proj_out)]
            heads, width = mine.attention.heads, mine.attention.norm.num_channels
            for a, b in zip(mine.attention.qkv.parameters(), parts[1].qkv.parameters(), strict=True):
                # Theirs holds q, k and v of each head together, ours the heads of each of q, k and v.
                sorted_ = b.reshape(heads, 3, width // heads, -1).transpose(0, 1)
                a.copy_(sorted_.reshape(a.shape))
        for mine_, other in pairs:
            give(mine_, other)

    with torch.no_grad():
        half = ours.time.features // 2
        ours.time.frequencies.copy_(torch.exp(-math.log(10000) * torch.arange(half) / half))
        give(ours.time_layers, theirs.time_embed)
        ours.time_layers[0].weight.copy_(theirs.time_embed[0].weight.roll(half, 1))  # theirs has the cosines first
        give(ours.input, inputs.pop(0)[0])
        for index, blocks in enumerate(ours.down):
            for one in blocks:
                level(one, inputs.pop(0))
            if index < len(ours.shrink):
                give(ours.shrink[index], inputs.pop(0)[0].op)
        level(ours.middle[0], theirs.middle_block)
        level(ours.middle[1], theirs.middle_block[2:])
        for index, blocks in enumerate(ours.up):
            for one in blocks:
                parts = outputs.pop(0)
                level(one, parts)
            if index < len(ours.grow):
                give(ours.grow[index], parts[-1].conv)
        give(ours.norm, theirs.out[0])
        give(ours.output, theirs.out[2])
    assert not inputs
    assert not outputs
    return ours


def test_torchcfm_s_network_is_one_of_ours():
    """The same function with the same weights, on two levels; the same number of parameters at its own size."""
    peer = pytest.importorskip("torchcfm.models.unet.unet").UNetModelWrapper
    theirs = peer((3, 32, 32), 128, 1, channel_mult=[1, 2], num_heads=4, num_head_channels=64, dropout=0.1)
    size = UNetSize(128, (1, 2), 1, attention=(1,), head_channels=64, scales=False, time_features=128)
    ours = of_torchcfm(woken(theirs), UNet((3, 32, 32), size=size)).eval()
    x, t = torch.randn(2, 3, 32, 32, generator=draws(1)), torch.rand(2, generator=draws(2))
    # Float32 through some twenty layers in another order of sums: a few hundred roundings of numbers of size one.
    torch.testing.assert_close(ours(t, x), theirs.eval()(t, x), rtol=1e-4, atol=1e-4)
    full = peer(
        (3, 32, 32), 128, 2, [1, 2, 2, 2], num_heads=4, num_head_channels=64, attention_resolutions="16", dropout=0.1
    )
    named = make_network("unet-torchcfm", event_shape=(3, 32, 32))
    # 35.7 million, as Ho et al. 2020 (2006.11239, appendix B) print for the same sizes.
    assert sum(p.numel() for p in named.parameters()) == sum(p.numel() for p in full.parameters()) == 35_746_307
