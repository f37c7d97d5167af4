"""The network of coupling layers: its formula, its zero start, and what it does without rows or without a condition."""

import math

import pytest
import torch

from advect.errors import ConfigError, UnknownNameError
from advect.networks.conditioner import Conditioner


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def perturbed(*args, **options):
    network = Conditioner(*args, **options, generator=seeded()).double()
    network.perturb(1.0, generator=seeded(1))
    return network


@pytest.mark.parametrize(("inputs", "condition_features"), [(3, 0), (0, 2), (3, 2), (0, 0)])
def test_starts_at_zero_for_rows_of_any_number(inputs, condition_features):
    network = Conditioner(inputs, 5, condition_features, depth=2, width=8, generator=seeded())
    for rows in (0, 1, 4):
        condition = torch.randn(rows, condition_features) if condition_features else None
        out = network(torch.randn(rows, inputs), condition)
        assert torch.equal(out, torch.zeros(rows, 5))


def test_is_its_formula():
    network = perturbed(2, 3, 1, depth=2, width=4)
    x, condition = drawn(5, 2), drawn(5, 1, seed=2)
    (a, a0), (b, b0), (v, v0) = ((m.weight, m.bias) for m in network.modules() if isinstance(m, torch.nn.Linear))
    h = 3 * torch.asinh(torch.cat([x, condition], 1) / 3) @ a.T + a0
    h = h * torch.sigmoid(h) @ b.T + b0
    torch.testing.assert_close(network(x, condition), h * torch.sigmoid(h) @ v.T + v0)
    other = Conditioner(2, 3, 1, depth=2, width=4, activation="tanh").double()
    other.load_state_dict(network.state_dict())
    h = torch.tanh(3 * torch.asinh(torch.cat([x, condition], 1) / 3) @ a.T + a0)
    torch.testing.assert_close(other(x, condition), torch.tanh(h @ b.T + b0) @ v.T + v0)


def test_hidden_weights_have_he_variance():
    weight = Conditioner(64, 1, depth=1, width=512, generator=seeded()).hidden[0].weight
    assert weight.var().item() == pytest.approx(2 / 64, rel=0.03)  # 32,768 draws: 1 % at two standard errors


def test_starts_at_given_parameters_for_each_coordinate():
    network = Conditioner(2, 6, depth=1, width=4, generator=seeded())
    network.start_at(torch.tensor([1.0, 2.0]))
    assert torch.equal(network(torch.randn(3, 2)), torch.tensor([1.0, 2.0] * 3).expand(3, 6))


def test_sizes_are_honoured():
    """Trap T5: as many layers and units as asked for."""
    for depth in (1, 2, 4):
        network = Conditioner(3, 7, 2, depth=depth, width=16)
        expected = (5 * 16 + 16) + (depth - 1) * (16 * 16 + 16) + (16 * 7 + 7)
        assert sum(p.numel() for p in network.parameters()) == expected


def test_without_rows_it_looks_at_the_condition_and_without_both_it_is_a_constant():
    network = perturbed(0, 4, 2)
    a, b = drawn(1, 2), drawn(1, 2, seed=2)
    nothing = torch.zeros(1, 0, dtype=torch.float64)
    assert (network(nothing, a) != network(nothing, b)).all()
    constant = perturbed(0, 4)
    out = constant(torch.zeros(3, 0, dtype=torch.float64))
    assert torch.equal(out, next(constant.parameters()).expand(3, 4))
    assert out.abs().min() > 0


def test_an_outlier_does_not_drive_it_far():
    """Ten million standard deviations move the output by no more than their logarithm."""
    network = perturbed(3, 4)
    x = drawn(50, 3)
    ordinary, far = network(x), network(1e7 * x)
    assert torch.isfinite(network(1e30 * x)).all()
    assert far.abs().max() < 2 * math.asinh(1e7) * ordinary.abs().max()


def test_answers_in_the_dtype_of_the_rows():
    network = Conditioner(2, 3, 1, depth=2, width=4, generator=seeded())
    network.perturb(1.0, generator=seeded())
    x, condition = drawn(4, 2), drawn(4, 1, seed=1)
    exact, narrow = network(x, condition), network(x.float(), condition.float())
    assert (exact.dtype, narrow.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(exact.float(), narrow, rtol=1e-5, atol=1e-5)


def test_perturbed_parameters_have_about_the_size_asked_for():
    network = Conditioner(4, 2000, depth=2, width=64, generator=seeded())
    network.perturb(0.5, generator=seeded(1))
    with torch.no_grad():
        assert 0.2 < network(torch.randn(64, 4, generator=seeded(2))).std().item() < 1.0


def test_one_seed_one_network():
    a, b = (Conditioner(3, 4, 1, generator=seeded(5)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_an_unknown_activation_is_refused():
    with pytest.raises(UnknownNameError, match="gelu"):
        Conditioner(2, 3, activation="geluu")


@pytest.mark.parametrize("sizes", [{"depth": 0}, {"width": 0}])
def test_a_size_of_zero_is_refused(sizes):
    with pytest.raises(ConfigError, match="at least 1"):
        Conditioner(2, 3, **sizes)


def test_a_sharp_silu_bends_at_zero_as_gelu_does():
    """SiLU(βa)/β has the curvature β/2 at 0, GELU has 2φ(0) = √(2/π): β = 1.6 is right to 0.3 %."""

    def curvature(function):
        a = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(function(a), a, create_graph=True)
        return float(torch.autograd.grad(slope, a)[0])

    silu = curvature(lambda a: torch.nn.functional.silu(1.6 * a) / 1.6)
    assert silu == pytest.approx(curvature(torch.nn.functional.gelu), rel=3e-3)


def test_sharpness_multiplies_the_first_layer_alone():
    plain, sharp = (
        Conditioner(3, 4, sharpness=factor, generator=torch.Generator().manual_seed(0)) for factor in (1.0, 1.6)
    )
    for index, (a, b) in enumerate(zip(plain.parameters(), sharp.parameters(), strict=True)):
        torch.testing.assert_close(b, a * 1.6 if index < 2 else a, rtol=0.0, atol=0.0)
