"""The compiled perceptron with factors in two parts, against float64 and beside bfloat16.

A factor in bfloat16 is off by up to 2⁻⁹ of its size, a product of two by 2⁻⁸. In two parts a factor is off by up to
2⁻¹⁸, and the product of both second parts, up to 2⁻¹⁸ more, is left out: 3 · 2⁻¹⁸ in all. So every error is that of
bfloat16 on the same network times 3 · 2⁻¹⁰ at most, but for what two draws of such errors differ by: 2⁻⁸ is the bound.
"""

import copy

import pytest
import torch

from advect import compiled
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import perceptron, perceptron_pass
from advect.networks.perceptron_pass import Quick
from tests.truth.networks import asked, close
from tests.truth.test_perceptron_bfloat16 import doubled, error, plainly
from tests.truth.test_perceptron_kernel import FLOAT32, calls, every_network, network_of

__all__ = ["calls"]

BESIDE = 2**-8


@pytest.fixture
def products():
    """Sets torch's precision of products; the default returns afterwards."""
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


@pytest.fixture
def tiles(built, monkeypatch):
    """Those of this processor, where it has them."""
    monkeypatch.setattr(perceptron, "LIBRARY", built / "networks" / "perceptron_kernel.so")
    for module in (perceptron, perceptron_pass):
        monkeypatch.setattr(module, "worth_it", lambda *_, **__: True)
    monkeypatch.delenv("ADVECT_KERNEL", raising=False)
    if perceptron.split_set() is None:
        pytest.skip("no tiles here")


@every_network
def test_values_are_off_by_the_square_of_what_bfloat16_is(tiles, products, calls, monkeypatch, name):
    network = network_of(name, FLOAT32).requires_grad_(False)
    for shared in (False, True):
        given = asked(network, 250, FLOAT32, shared=shared)
        found = {}
        for precision in ("highest", "high", "medium"):
            products(precision)
            found[precision] = network.for_inference()(*given)
            assert torch.equal(network(*given), found[precision])
        products("highest")
        assert torch.equal(found["medium"], network.for_inference(torch.bfloat16)(*given))
        assert calls == ["forward"] * 7
        calls.clear()
        exact = copy.deepcopy(network).double()
        exact = plainly(monkeypatch, lambda exact=exact, given=given: exact(*doubled(given)))
        assert close(found["highest"], exact)
        assert error(found["highest"], exact) < error(found["high"], exact)
        assert error(found["high"], exact) <= BESIDE * error(found["medium"], exact)


@pytest.mark.parametrize("activation", ["selu", "elu", "silu", "tanh"])
def test_a_row_says_the_same_whatever_stands_beside_it(tiles, products, activation):
    network = network_of("plane", FLOAT32, activation=activation).requires_grad_(False)
    t, x, _ = asked(network, 150, FLOAT32)
    products("high")
    quick = network.for_inference()
    whole = quick(t, x)
    for i in (0, 11, 31, 32, 127, 128, 149):
        assert torch.equal(quick(t[i : i + 1], x[i : i + 1])[0], whole[i])
    x[4, 0], x[140, 1] = torch.nan, torch.inf
    found = quick(t, x)
    assert found[[4, 140]].isnan().all()
    others = [i for i in range(150) if i not in (4, 140)]
    assert torch.equal(found[others], whole[others])
    assert quick(t[:0], x[:0]).shape == (0, 2)


def test_only_values_without_a_gradient_change(tiles, products):
    network = network_of("two layers, conditions", FLOAT32)
    t, x, condition = asked(network, 40, FLOAT32)

    def everything():
        gradients = torch.autograd.grad(network(t, x, condition).square().sum(), list(network.parameters()))
        with torch.no_grad():
            return network(t, x, condition), *network.velocity_and_divergence(t, x, condition), *gradients

    before = everything()
    products("high")
    value, *others = everything()
    assert not torch.equal(value, before[0])
    assert all(torch.equal(a, b) for a, b in zip(others, before[1:], strict=True))
    double = copy.deepcopy(network).double()
    assert perceptron.allowed(torch.float64) == torch.float64
    assert double.for_inference()(t.double(), x.double(), condition.double()).dtype == torch.float64


def test_samples_are_off_by_what_products_are_and_densities_not_at_all(tiles, products):
    network = network_of("plane", FLOAT32).requires_grad_(False)
    flow = Flow(StandardNormal((2,)), ContinuousMap(VelocityField(network), event_shape=(2,)))
    z = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, density = flow.decode(z).value, flow.log_prob(z)
        products("high")
        found = flow.decode(z).value
        assert torch.equal(flow.log_prob(z), density)
    # A velocity is off by some 1e-5 of its size on average, and so is the sum of it over the way.
    assert 0 < error(found, plain.double()) < 1e-4


def test_without_tiles_the_setting_changes_nothing(built, products, monkeypatch):
    monkeypatch.setattr(perceptron, "LIBRARY", built / "networks" / "perceptron_kernel.so")
    network = network_of("plane", FLOAT32).requires_grad_(False)
    t, x, _ = asked(network, 64, FLOAT32)
    for kernel in ("avx2", "none"):
        monkeypatch.setenv("ADVECT_KERNEL", kernel)
        products("highest")
        plain = network.for_inference()(t, x)
        products("high")
        assert torch.equal(network.for_inference()(t, x), plain)
        assert perceptron.split_set() is None


def test_torchs_setting_is_heard_by_either_of_its_names(products):
    assert compiled.float32_products() == "highest"
    for precision in ("high", "medium", "highest"):
        products(precision)
        assert compiled.float32_products() == precision
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:
        pytest.skip("this torch has one name")
    matmul.fp32_precision = "tf32"  # beside another backend's, where the old question is refused
    assert compiled.float32_products() == "high"
    matmul.fp32_precision = "ieee"
    assert compiled.float32_products() == "highest"


def test_a_pass_keeps_the_precision_it_was_made_with(tiles, products):
    network = network_of("plane", FLOAT32).requires_grad_(False)
    t, x, _ = asked(network, 64, FLOAT32)
    products("high")
    quick = network.for_inference()
    first = quick(t, x)
    products("highest")
    assert torch.equal(quick(t, x), first)
    assert isinstance(quick._quick, Quick)
