"""The potential network against autograd: gradient, divergence, derivative in time; and against the paper's form."""

import math

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, ShapeError
from advect.networks.potential import Potential

FLOAT64 = torch.float64
EVENTS = [(), (3,), (2, 2), (1, 2, 2)]


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=FLOAT64, generator=draws(seed))


def woken(event=(3,), condition=0, **settings):
    """With every parameter drawn, so that each part of the formula counts."""
    network = Potential(event, condition, width=7, generator=draws(), **settings).double()
    generator = draws(9)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return network


def inputs(event, condition=0, n=4):
    t = torch.rand(n, dtype=FLOAT64, generator=draws(1))
    return t, rows(n, *event), rows(n, condition, seed=2) if condition else None


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("condition", [0, 2])
def test_velocity_divergence_and_time_derivative_are_autograds(event, blocks, condition):
    """v = −∇Φ, div v = −tr ∇²Φ, ∂Φ/∂t: each from the potential alone, by autograd."""
    network = woken(event, condition, blocks=blocks)
    t, x, c = inputs(event, condition)
    t, x = t.requires_grad_(), x.requires_grad_()
    phi = network.potential(t, x, c)
    assert phi.shape == (4,)
    gradient, in_time = torch.autograd.grad(phi.sum(), (x, t), create_graph=True)
    flat = gradient.reshape(4, -1)
    laplacian = torch.zeros(4, dtype=FLOAT64)
    for i in range(flat.shape[1]):
        laplacian += torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)[0].reshape(4, -1)[:, i]
    velocity, divergence = network.velocity_and_divergence(t, x, c)
    torch.testing.assert_close(velocity, -gradient, rtol=0, atol=1e-13)
    torch.testing.assert_close(network(t, x, c), -gradient, rtol=0, atol=1e-13)
    torch.testing.assert_close(divergence, -laplacian, rtol=0, atol=1e-12)
    torch.testing.assert_close(network.divergence(t, x, c), -laplacian, rtol=0, atol=1e-12)
    torch.testing.assert_close(network.time_derivative(t, x, c), in_time, rtol=0, atol=1e-13)


def test_it_is_the_papers_potential():
    """Written out row by row, with log(eᵃ + e⁻ᵃ) itself."""
    network = woken((2,), 1, blocks=2, rank=2)
    t, x, c = inputs((2,), 1)
    sigma = lambda a: (a.exp() + (-a).exp()).log()  # noqa: E731
    for row in range(4):
        s = torch.cat([x[row], t[row : row + 1]])
        u = sigma(network.input(s) + network.condition_layer(c[row]))
        for layer in network.inner:
            u = u + sigma(layer(u)) / 2
        quadratic = 0.5 * (network.curvatures * (network.directions.weight @ s) ** 2).sum()
        expected = network.output.weight[0] @ u + quadratic + network.slope @ x[row]
        torch.testing.assert_close(network.potential(t, x, c)[row], expected, rtol=0, atol=1e-13)


def test_a_quadratic_potential_in_closed_form():
    """Φ = ½ Σ m_k (a_kᵀ(x, t))² + bᵀx: v = −(M x + n t + b), div v = −tr M, ∂Φ/∂t = nᵀx + p t."""
    network = woken((3,), rank=4)
    nn.init.zeros_(network.output.weight)
    a, m = network.directions.weight, network.curvatures
    full = a.T @ torch.diag(m) @ a
    t, x, _ = inputs((3,))
    velocity, divergence = network.velocity_and_divergence(t, x)
    expected = -(x @ full[:3, :3] + t[:, None] * full[:3, 3] + network.slope)
    torch.testing.assert_close(velocity, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(divergence, -full[:3, :3].trace().expand(4), rtol=0, atol=1e-13)
    torch.testing.assert_close(network.time_derivative(t, x), x @ full[:3, 3] + t * full[3, 3], rtol=0, atol=1e-13)


def test_the_velocity_has_no_curl():
    """A gradient has a symmetric Jacobian, whatever the weights."""
    network = woken((3,), blocks=2)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(0.4, x.unsqueeze(0))[0], rows(3))
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-13)
    assert (jacobian - torch.diag(jacobian.diagonal())).abs().max() > 0.1


def test_zero_at_the_start_and_learning_from_there():
    """An untrained network is the zero field; one step of descent moves w, m and b, two steps everything."""
    network = Potential((3,), 2, width=8, blocks=2, generator=draws()).double()
    t, x, c = inputs((3,), 2)
    assert network(t, x, c).abs().max() == 0
    assert network.divergence(t, x, c).abs().max() == 0
    assert network.potential(t, x, c).abs().max() == 0
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    moved = []
    for _ in range(2):
        optimiser.zero_grad()
        velocity, divergence = network.velocity_and_divergence(t, x, c)
        ((velocity - x.square()).square().sum() + divergence.sum()).backward()
        moved.append({name for name, p in network.named_parameters() if p.grad.abs().max() > 0})
        optimiser.step()
    assert {"output.weight", "curvatures", "slope"} <= moved[0]
    assert moved[1] == {name for name, _ in network.named_parameters()}
    network.start_at_zero()
    assert network(t, x, c).abs().max() == 0


@pytest.mark.parametrize("blocks", [1, 2])
def test_gradients_of_velocity_and_divergence(blocks):
    """In every parameter and in x, t and the condition, against finite differences."""
    network = woken((2,), 1, blocks=blocks)
    t, x, c = (v.requires_grad_() for v in inputs((2,), 1, n=2))

    def outputs(t, x, c, *parameters):  # gradcheck moves the parameters in place
        return *network.velocity_and_divergence(t, x, c), network.time_derivative(t, x, c)

    assert torch.autograd.gradcheck(outputs, (t, x, c, *network.parameters()))


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("n", [0, 1, 4])
def test_shapes(event, n):
    network = woken(event)
    x = rows(n, *event)
    for t in (0.3, torch.tensor(0.3, dtype=FLOAT64), torch.full((n,), 0.3, dtype=FLOAT64)):
        velocity, divergence = network.velocity_and_divergence(t, x)
        assert velocity.shape == network(t, x).shape == x.shape
        assert divergence.shape == network.potential(t, x).shape == network.time_derivative(t, x).shape == (n,)
        torch.testing.assert_close(velocity, network(0.3, x), rtol=1e-12, atol=1e-12)


def test_blocks_of_rows_and_neighbours_change_nothing():
    """3000 rows go in several blocks; a row alone gives the same."""
    network = woken((3,))
    x = rows(3000, 3)
    velocity, divergence = network.velocity_and_divergence(0.2, x)
    for row in (0, 700, 2999):
        alone = network.velocity_and_divergence(0.2, x[row : row + 1])
        torch.testing.assert_close(alone[0][0], velocity[row], rtol=0, atol=1e-13)
        torch.testing.assert_close(alone[1][0], divergence[row], rtol=0, atol=1e-13)


def test_far_out_it_stays_finite():
    """The gradient of N is bounded and the rest linear: finite values and gradients at ±1e6, in float32 too."""
    network = woken((3,)).float()
    x = torch.tensor([-1e6, -30.0, 0.0, 1e6]).unsqueeze(1).expand(4, 3).clone().requires_grad_()
    velocity, divergence = network.velocity_and_divergence(0.5, x)
    (gradient,) = torch.autograd.grad(velocity.sum() + divergence.sum() + network.potential(0.5, x).sum(), x)
    assert torch.isfinite(torch.cat([velocity.flatten(), divergence, gradient.flatten()])).all()


def test_the_condition_counts_and_sizes_are_honoured():
    network = woken((3,), 2)
    t, x, c = inputs((3,), 2)
    assert (network(t, x, c) - network(t, x, c + 1)).abs().max() > 1e-3
    with pytest.raises(ShapeError, match="condition"):
        network(t, x)
    with pytest.raises(ConfigError, match="width"):
        Potential((3,), width=0)
    sized = Potential((3,), 2, width=5, blocks=3, rank=2)
    expected = (4 + 1) * 5 + 2 * 5 + 3 * 6 * 5 + 5 + 2 * 4 + 2 + 3
    assert sum(p.numel() for p in sized.parameters()) == expected
    assert Potential((3,), rank=10).directions.weight.shape == (4, 4)


def test_initial_weights_come_from_the_generator_only():
    before = torch.get_rng_state()
    first, second, other = (Potential((3,), generator=draws(seed)) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.input.weight, other.input.weight)
    assert math.isclose(first.input.weight.detach().abs().max(), 0.5, abs_tol=0.05)  # U(−1/√4, 1/√4)
