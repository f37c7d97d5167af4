"""Couplings by index, elementwise layers, and the architectures made of them."""

import math

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, UnknownNameError
from advect.flows.architectures.coupling import flowpp, nice, nsf, realnvp
from advect.networks.conditioner import Conditioner
from advect.records import Status
from advect.transforms.coupling import Coupling, Elementwise
from advect.transforms.mixture import MixtureCDF
from advect.transforms.monotone import Monotone, Moved
from advect.transforms.scale import Scale, Shift
from advect.transforms.spline import RationalQuadraticSpline

FLOAT64 = torch.float64
ARCHITECTURES = {"nice": nice, "realnvp": realnvp, "nsf": nsf, "flowpp": flowpp}
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
SMALL = {"depth": 2, "width": 8}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0, dtype=FLOAT64):
    return torch.randn(shape, generator=seeded(seed), dtype=FLOAT64).to(dtype)


def perturbed(bijection, size=0.7):
    generator = seeded(9)
    for module in bijection.modules():
        if isinstance(module, Conditioner):
            module.perturb(size, generator=generator)
    return bijection.double()


def jacobian(bijection, x):
    return torch.autograd.functional.jacobian(lambda x: bijection.encode(x[None]).value[0], x)


@pytest.mark.parametrize(
    ("kept", "moved"), [((0, 1), (2,)), ((2, 3, 4), (0, 1)), ((0, 2, 4), (1, 3)), ((3, 0), (4, 1, 2)), ((), (1, 0))]
)
def test_moved_coordinates_follow_the_kept_ones(kept, moved):
    """Against the definition, written out with a plain gather of columns."""
    function = Scale(2.0)
    conditioner = Conditioner(len(kept), 2 * len(moved), 2, **SMALL, generator=seeded())
    layer = perturbed(Coupling(kept, moved, function, conditioner, 2))
    x, condition = drawn(6, len(kept) + len(moved)), drawn(6, 2, seed=1)
    out = layer.encode(x, condition)
    theta = conditioner(x[:, list(kept)], condition)
    log_scale = 2 * torch.tanh(theta[:, 0::2] / 2)
    assert torch.equal(out.value[:, list(kept)], x[:, list(kept)])
    torch.testing.assert_close(out.value[:, list(moved)], x[:, list(moved)] * log_scale.exp() + theta[:, 1::2])
    torch.testing.assert_close(out.log_abs_det_jacobian, log_scale.sum(1))


def test_jacobian_is_triangular():
    """A moved coordinate depends on itself and on what was kept, not on its neighbours."""
    conditioner = Conditioner(2, 3 * 23, **SMALL, generator=seeded())
    layer = perturbed(Coupling((1, 3), (4, 0, 2), RationalQuadraticSpline(), conditioner))
    found = jacobian(layer, drawn(5))
    assert (found[[0, 2, 4]][:, [1, 3]] != 0).all()
    inner = found[[0, 2, 4]][:, [0, 2, 4]]
    assert torch.equal(inner, inner.diagonal().diag())
    assert torch.equal(found[[1, 3]], torch.eye(5, dtype=FLOAT64)[[1, 3]])


@every_architecture
@pytest.mark.parametrize("features", [2, 3, 5])
def test_every_coordinate_moves_and_sees_every_other(name, features):
    """Also of an odd number, and with nothing mixed in between."""
    flow = perturbed(ARCHITECTURES[name](features, layers=4, mixing="none", generator=seeded(), **SMALL))
    found = jacobian(flow, drawn(features))
    assert (found != 0).all()
    value = flow.encode(drawn(4, features)).value
    assert (value != drawn(4, features)).all()


@every_architecture
@pytest.mark.parametrize(("features", "condition_features"), [(1, 0), (1, 2), (3, 0), (3, 2)])
def test_a_fresh_flow_is_the_identity_up_to_a_rotation(name, features, condition_features):
    """But for `flowpp`, whose components must begin apart: each of its six layers moves a number by at most two."""
    build = ARCHITECTURES[name]
    condition = drawn(5, condition_features, seed=1) if condition_features else None
    x = drawn(5, features)
    plain = build(features, condition_features, mixing="none", generator=seeded(), **SMALL).double()
    out = plain.encode(x, condition)
    if name == "flowpp":
        assert (out.value - x).abs().max() < 6
        return
    torch.testing.assert_close(out.value, x, rtol=0, atol=1e-13)
    torch.testing.assert_close(out.log_abs_det_jacobian, torch.zeros(5, dtype=FLOAT64), rtol=0, atol=1e-13)
    mixed = build(features, condition_features, mixing="lu", generator=seeded(), **SMALL).double().encode(x, condition)
    # Orthogonal matrices were drawn in float32.
    torch.testing.assert_close(mixed.value.norm(dim=1), x.norm(dim=1), rtol=1e-5, atol=0)
    assert mixed.log_abs_det_jacobian.abs().max() < 1e-5


@pytest.mark.parametrize("features", [2, 3, 4])
def test_a_permutation_hides_no_coordinate_from_a_pair_of_layers(features):
    """For many random orders, two layers move everything."""
    for seed in range(20):
        flow = realnvp(features, layers=4, mixing="permutation", generator=seeded(seed), **SMALL)
        for start in (0, len(flow.maps) - 2):
            pair = flow.maps[start : start + 2]
            moved = sum((member._moved(torch.eye(features)).sum(1) for member in pair), torch.zeros(features))
            assert torch.equal(moved, torch.ones(features))


@pytest.mark.parametrize("build", [realnvp, nsf])
def test_deep_flows_of_loud_networks_stay_finite_and_invertible(build):
    """Trap T13: 32 blocks, every network's weights times four."""
    flow = perturbed(build(4, layers=32, mixing="none", generator=seeded()), 0.1)
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, Conditioner):
                for parameter in module.parameters():
                    parameter.mul_(4)
    x = drawn(64, 4)
    there = flow.encode(x)
    assert torch.isfinite(there.log_abs_det_jacobian).all()
    assert there.log_abs_det_jacobian.std() > 1  # it is no gentle map

    # Errors grow from block to block by the networks' slopes, so the way back is promised block by block.
    for block in flow.maps:
        z = block.encode(x).value
        torch.testing.assert_close(block.decode(z).value, x, rtol=1e-6, atol=1e-6)  # slopes down to e⁻¹⁸
        x = z

    flow.float()
    rows = torch.cat([drawn(64, 4, dtype=torch.float32), torch.full((1, 4), 1e4), torch.full((1, 4), -1e4)])
    for verb in (flow.encode, flow.decode):
        out = verb(rows)
        assert torch.isfinite(out.value).all()
        assert torch.isfinite(out.log_abs_det_jacobian).all()


@pytest.mark.parametrize("features", [3, 19, 63])
@pytest.mark.parametrize("build", [realnvp, nsf])
def test_training_does_not_blow_up(build, features):
    """Trap T13: heavy-tailed, correlated rows; losses and gradients stay finite, and the loss falls."""
    g = seeded(1)
    tails = torch.randn(300, features, generator=g) / torch.rand(300, 1, generator=g).sqrt()
    rows = tails @ torch.randn(features, features, generator=g)
    rows = (rows - rows.mean(0)) / rows.std(0)
    flow = build(features, layers=3, generator=g)
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        out = flow.encode(rows)
        loss = (0.5 * out.value.square().sum(1) - out.log_abs_det_jacobian).mean() / features
        optimiser.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in flow.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
    out = flow.encode(1e4 * rows)  # trap L14: ten thousand standard deviations away
    assert torch.isfinite(out.value).all()
    assert torch.isfinite(out.log_abs_det_jacobian).all()


@every_architecture
def test_one_coordinate_with_a_condition_is_no_gaussian(name):
    """Trap T18: one coordinate, two modes whose place depends on the condition."""
    g = seeded(2)
    condition = torch.rand(2048, 1, generator=g) * 2 - 1
    sign = (torch.rand(2048, 1, generator=g) < 0.5).float() * 2 - 1
    rows = (condition + sign + 0.15 * torch.randn(2048, 1, generator=g)) / 1.15
    flow = ARCHITECTURES[name](1, 1, width=32, generator=g)
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for step in range(150):
        out = flow.encode(rows[step % 8 :: 8], condition[step % 8 :: 8])
        loss = (0.5 * out.value.square().sum(1) - out.log_abs_det_jacobian).mean() + 0.5 * math.log(2 * math.pi)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    truth = math.log(2) + 0.5 * math.log(2 * math.pi * math.e) + math.log(0.15 / 1.15)
    gaussian = 0.5 * math.log(2 * math.pi * math.e) + 0.5 * math.log((1 + 0.15**2) / 1.15**2)
    assert truth - 0.1 < loss.item() < truth + 0.4 * (gaussian - truth)


class Stubborn(Monotone):
    """The identity, with an inverse that finds no negative numbers."""

    num_parameters = 1

    def forward(self, x, parameters):
        return Moved(x + 0 * parameters.squeeze(-1), torch.zeros_like(x))

    def inverse(self, y, parameters):
        found = y >= 0
        return Moved(torch.where(found, y, torch.nan), torch.zeros_like(y), found)


def test_rows_without_a_root_fail():
    layer = Coupling((0,), (1, 2), Stubborn(), Conditioner(1, 2, **SMALL).double())
    z = torch.tensor([[-1.0, 1.0, 2.0], [1.0, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=FLOAT64)
    out = layer.decode(z)
    assert out.status.tolist() == [0, int(Status.NOT_CONVERGED), 0]
    assert (
        torch.isnan(out.value).all(1).tolist() == torch.isnan(out.log_abs_det_jacobian).tolist() == [False, True, False]
    )
    assert torch.equal(out.value[[0, 2]], z[[0, 2]])
    assert layer.decode(z, log_det=False).log_abs_det_jacobian is None
    assert layer.encode(z).status.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "function", [Shift(), Scale(), RationalQuadraticSpline(4), MixtureCDF(2)], ids=lambda f: type(f).__name__
)
def test_elementwise_constants_are_learned_for_each_coordinate(function):
    layer = Elementwise(function, 3).double()
    (parameter,) = layer.parameters()
    assert parameter.shape == (3 * function.num_parameters,)
    parameter.data = drawn(parameter.numel())
    x = drawn(4, 1).expand(4, 3)
    value = layer.encode(x).value
    for column in range(3):
        theta = parameter.detach().reshape(3, -1)[column].expand(4, -1)
        torch.testing.assert_close(value[:, column], function.forward(x[:, column], theta).value)
    assert (value[:, 0] != value[:, 1]).all()


def test_scale_never_exceeds_its_bound():
    function, x = Scale(0.5), torch.tensor([1.0, -2.0])
    loud = torch.tensor([[1e6, 0.0], [-1e6, 1.0]])
    found = function.forward(x, loud)
    torch.testing.assert_close(found.log_slope, torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(found.value, torch.tensor([math.exp(0.5), 1 - 2 * math.exp(-0.5)]))
    torch.testing.assert_close(function.inverse(found.value, loud).value, x)


@pytest.mark.parametrize(("kept", "moved"), [((0, 1), (1, 2)), ((0,), ()), ((), ()), ((0, 3), (1,)), ((-1,), (0,))])
def test_coordinates_must_be_shared_out(kept, moved):
    with pytest.raises(ConfigError, match="once"):
        Coupling(kept, moved, Shift(), nn.Identity())


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="positive"):
        Scale(0.0)
    with pytest.raises(UnknownNameError, match="permutation"):
        realnvp(3, mixing="permutations")
    with pytest.raises(ConfigError, match="at least 2"):
        nsf(3, layers=1)
