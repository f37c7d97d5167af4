"""Flows on the torus: no seam, the right measure, and a density that straddles ±π."""

import math

import pytest
import torch
from scipy import special

from advect.errors import ConfigError
from advect.flows import Flow, StandardNormal
from advect.flows.architectures.circular import circular_base, circular_nsf
from advect.flows.bases import Uniform
from advect.flows.product import Product
from advect.networks.angles import AngleConditioner
from advect.networks.conditioner import Conditioner
from advect.transforms import Compose
from advect.transforms.assorted import Assorted
from advect.transforms.spline import CircularSpline, RationalQuadraticSpline
from advect.transforms.support import Circle

FLOAT64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flow_of(
    features: int, condition_features: int = 0, *, periodic=None, perturb: float = 0.7, layers: int = 4
) -> Flow:
    g = seeded(5)
    map = circular_nsf(features, condition_features, periodic=periodic, layers=layers, bins=4, width=16, generator=g)
    for module in map.modules():
        if isinstance(module, Conditioner) and perturb:
            module.perturb(perturb, generator=g)
    return Flow(circular_base(features, periodic), map).double()


def turn(nodes: int) -> torch.Tensor:
    """The middles of equal pieces of one turn."""
    return (torch.arange(nodes, dtype=FLOAT64) + 0.5) * (2 * math.pi / nodes) - math.pi


@pytest.mark.parametrize("condition_features", [0, 2])
def test_one_turn_integrates_to_one(condition_features):
    for features in (1, 2):
        nodes = 2000 if features == 1 else 140
        x = torch.cartesian_prod(*[turn(nodes)] * features).reshape(-1, features)
        flow = flow_of(features, condition_features, perturb=0.3)
        condition = torch.full((len(x), 2), 0.7, dtype=FLOAT64) if condition_features else None
        density = flow.log_prob(x, condition).detach().exp()
        # Midpoints of a function that is smooth but for kinks at the knots: error falls with the square of the step.
        assert abs(density.mean() * (2 * math.pi) ** features - 1) < 1e-3
        assert density.max() / density.min() > 2, "nothing to see"


def test_mixed_density_integrates_to_one():
    """An angle and a number: over a turn and the line, where the base is standard normal beyond the box."""
    x = torch.cartesian_prod(turn(80), torch.linspace(-9, 9, 361, dtype=FLOAT64))
    density = flow_of(2, periodic=(0,), perturb=0.3).log_prob(x).detach().exp()
    assert abs(density.sum() * (2 * math.pi / 80) * (18 / 360) - 1) < 2e-3


@pytest.mark.parametrize("periodic", [None, (0, 2)])
def test_no_seam(periodic):
    """A whole turn more changes nothing; from one side of the seam to the other nothing jumps."""
    flow = flow_of(3, periodic=periodic)
    angles = [0, 1, 2] if periodic is None else list(periodic)
    x = torch.randn(40, 3, generator=seeded(), dtype=FLOAT64)
    for column in angles:
        shifted = x.clone()
        shifted[:, column] += 2 * math.pi
        torch.testing.assert_close(flow.log_prob(shifted), flow.log_prob(x), rtol=1e-9, atol=1e-9)
        sides = [x.clone(), x.clone()]
        for side, sign in zip(sides, (1, -1), strict=True):
            side[:, column] = sign * (math.pi - 1e-9)
        # Slopes of the log-density are at most a few thousand, over a step of 2e-9.
        torch.testing.assert_close(*(flow.log_prob(side) for side in sides), rtol=0, atol=1e-5)
    if periodic is not None:  # the number beside the angles is not one
        shifted = x.clone()
        shifted[:, 1] += 2 * math.pi
        assert (flow.log_prob(shifted) - flow.log_prob(x)).abs().min() > 0.1


def test_draws_lie_on_the_circle_and_follow_the_density():
    """Fourier moments of draws against their integrals over a grid, within five standard errors."""
    flow = flow_of(2, perturb=0.4)
    x = flow.sample(10_000, generator=seeded()).detach()
    assert (x.abs() <= math.pi).all()
    grid = torch.cartesian_prod(turn(100), turn(100))
    density = flow.log_prob(grid).detach().exp()
    density = density / density.sum()
    for wave in (lambda v: v[:, 0].cos(), lambda v: v[:, 1].sin(), lambda v: (v[:, 0] - v[:, 1]).cos()):
        drawn = wave(x)
        assert (drawn.mean() - (density * wave(grid)).sum()).abs() < 5 * drawn.std() / math.sqrt(len(x)) + 1e-3


def test_float32_draws_stay_inside():
    """Trap L14: draws of a float32 flow are scored as finite numbers, never as outside their circle."""
    flow = flow_of(3).float()
    x = flow.sample(5000, generator=seeded())
    assert torch.isfinite(flow.log_prob(x)).all()
    far = torch.tensor([[1e6, -1e6, 1e4]])
    assert torch.isfinite(flow.log_prob(far)).all()


def test_a_fresh_flow_is_uniform():
    flow = flow_of(3, perturb=0.0)
    x = 3 * torch.randn(20, 3, generator=seeded(), dtype=FLOAT64)
    expected = torch.full((20,), -3 * math.log(2 * math.pi), dtype=FLOAT64)
    torch.testing.assert_close(flow.log_prob(x), expected, rtol=1e-6, atol=1e-6)


def test_every_two_coordinates_are_parted():
    """After ⌈log₂ d⌉ pairs of layers every coordinate depends on every other."""
    for features in (2, 3, 5, 6):
        flow = flow_of(features, layers=2 * (features - 1).bit_length())
        x = torch.randn(1, features, generator=seeded(), dtype=FLOAT64)
        jacobian = torch.autograd.functional.jacobian(lambda v, map=flow.map: map.encode(v).value.sum(0), x)[:, 0]
        assert (jacobian.abs() > 1e-12).all()


def test_learns_a_density_across_the_seam():
    """Two von Mises angles tied together around ±π, fitted by maximum likelihood: near the entropy, far from uniform.

    x1 ~ M(π, κ), x2 = x1 + M(0, κ): log-density κ cos(x1 − π) + κ cos(x2 − x1) − 2 log 2πI₀(κ).
    """
    kappa, g = 4.0, seeded()
    torch.manual_seed(0)  # the reference draws; torch.distributions has no generator
    angle = torch.distributions.VonMises(0.0, kappa).sample((3000, 2))
    x = Circle().encode(torch.stack([angle[:, 0] + math.pi, angle.sum(1) + math.pi], 1)).value
    train, test = x[:2000], x[2000:]
    truth = kappa * ((test[:, 0] - math.pi).cos() + (test[:, 1] - test[:, 0]).cos())
    truth = truth - 2 * math.log(2 * math.pi * special.i0(kappa))

    flow = Flow(circular_base(2), circular_nsf(2, layers=2, bins=4, depth=1, width=16, generator=g))
    optimiser = torch.optim.Adam(flow.parameters(), lr=2e-2)
    for _ in range(120):
        rows = train[torch.randint(2000, (256,), generator=g)]
        optimiser.zero_grad()
        (-flow.log_prob(rows).mean()).backward()
        optimiser.step()
    gap = truth.mean() - flow.log_prob(test).detach().mean()
    uniform_gap = truth.mean() + 2 * math.log(2 * math.pi)
    assert uniform_gap > 1.2
    assert gap < uniform_gap / 10  # most of the way; what is left is 120 steps and 2000 rows


def test_assorted_is_each_function_on_its_columns():
    circular, straight = CircularSpline(3), RationalQuadraticSpline(5)
    both = Assorted([((0, 2), circular), ((1,), straight)])
    assert both.num_parameters == max(circular.num_parameters, straight.num_parameters)
    x = torch.randn(7, 3, generator=seeded(), dtype=FLOAT64)
    parameters = torch.randn(7, 3, both.num_parameters, generator=seeded(1), dtype=FLOAT64)
    for verb in ("forward", "inverse"):
        out = getattr(both, verb)(x, parameters)
        for column, function in enumerate((circular, straight, circular)):
            alone = getattr(function, verb)(x[:, column], parameters[:, column, : function.num_parameters])
            torch.testing.assert_close(out.value[:, column], alone.value)
            torch.testing.assert_close(out.log_slope[:, column], alone.log_slope)
        assert out.converged is None
    with pytest.raises(ConfigError, match="exactly once"):
        Assorted([((0, 2), circular)])


def test_conditioner_is_periodic_in_its_angles_only():
    network = AngleConditioner([True, False, True], 5, 1, width=8, generator=seeded()).double()
    network.perturb(1.0, generator=seeded(1))
    x, c = torch.randn(6, 3, generator=seeded(2), dtype=FLOAT64), torch.randn(6, 1, generator=seeded(3), dtype=FLOAT64)
    out = network(x, c)
    for column, periodic in enumerate((True, False, True)):
        moved = x.clone()
        moved[:, column] += 2 * math.pi
        assert torch.allclose(network(moved, c), out, atol=1e-12) == periodic
        moved[:, column] += 1.0
        assert not torch.allclose(network(moved, c), out, atol=1e-4)
    assert not torch.allclose(network(x, c + 1), out, atol=1e-4)


def test_bases_and_refusals():
    assert isinstance(circular_base(3), Uniform)
    assert isinstance(circular_base(3, ()), StandardNormal)
    mixed = circular_base(3, (2, 0))
    assert isinstance(mixed, Product)
    assert mixed.groups == ((0, 2), (1,))
    z = torch.tensor([[3.0, 1.0, -3.0]])
    expected = -2 * math.log(2 * math.pi) - 0.5 - 0.5 * math.log(2 * math.pi)
    assert abs(mixed.log_prob(z).item() - expected) < 1e-5
    for periodic in ((3,), (0, 0)):
        with pytest.raises(ConfigError, match="from 0 to 2"):
            circular_nsf(3, periodic=periodic)
    assert circular_nsf(1, generator=seeded()).encode(torch.zeros(2, 1)).value.shape == (2, 1)
    assert isinstance(circular_nsf(1, 2, generator=seeded()), Compose)
