"""Probabilities of whole numbers: sums over all tiny pictures, cell integrals by quadrature, and what noise learns."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from advect.errors import ConfigError
from advect.flows.architectures.image import dequantisation_noise, realnvp_image
from advect.flows.base import StandardNormal
from advect.flows.flow import Flow
from advect.objectives.dequantised import UniformNoise, VariationalDequantisation
from advect.records import Batch, Status
from advect.transforms.compose import Compose
from advect.transforms.dequantise import Logit
from tests.laws.maps.image import perturbed

FLOAT64 = torch.float64
SHAPE, LEVELS = (1, 1, 2), 4
PICTURES = torch.tensor(list(product(range(LEVELS), repeat=2)), dtype=FLOAT64).reshape(-1, *SHAPE)
"""All sixteen pictures of two pixels with four levels."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def model(alpha=0.0) -> Flow:
    """A density of two pixels that is far from flat on the cells."""
    layers = realnvp_image(SHAPE, couplings=2, width=4, generator=seeded(2))
    map = perturbed(Compose(Logit(SHAPE, LEVELS, alpha), layers), 0.3)
    return Flow(StandardNormal(SHAPE), map).double()


def noise(spread=0.1) -> Flow:
    layers = dequantisation_noise(SHAPE, couplings=2, width=4, generator=seeded(3))
    return Flow(StandardNormal(SHAPE), perturbed(layers, spread)).double()


def cell_probabilities(flow: Flow, nodes=40) -> torch.Tensor:
    """log ∫ p over the cell of each of `PICTURES`, by a product Gauss–Legendre rule."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    u = torch.tensor((places + 1) / 2)
    w = torch.tensor(weights / 2)
    grid = torch.cartesian_prod(u, u).reshape(-1, *SHAPE)
    y = (PICTURES[:, None] + grid).reshape(-1, *SHAPE)
    with torch.no_grad():
        density = flow.log_prob(y).exp().reshape(len(PICTURES), -1)
    return (density @ torch.cartesian_prod(w, w).prod(1)).log()


def test_uniform_dequantisation_sums_to_one_over_all_pictures():
    """Trap L11: all terms of the scaling are there. Forgetting the level width alone would give 1/16."""
    # Smooth inside cells but for kinks of relu: 40 nodes a side leave some 1e-4.
    assert cell_probabilities(model()).exp().sum().item() == pytest.approx(1.0, abs=1e-3)


def test_alpha_costs_the_mass_that_lies_beyond_the_levels():
    short = 1 - cell_probabilities(model(alpha=0.05)).exp().sum().item()
    flow = model(alpha=0.05)
    x = flow.sample(40_000, generator=seeded())
    outside = ((x < 0) | (x > LEVELS)).flatten(1).any(1).double().mean().item()
    assert 0.01 < short < 0.9
    assert abs(short - outside) < 4 * math.sqrt(outside * (1 - outside) / len(x)) + 1e-3


@pytest.mark.parametrize("q", [UniformNoise(), noise()], ids=["uniform", "learned"])
def test_importance_weights_give_the_probability_of_each_picture(q):
    """E_q[p(x + u)/q(u | x)] is the integral over the cell whatever q is; so the sum over pictures is one."""
    flow, draws = model(), 2000
    weights = VariationalDequantisation(q, LEVELS).log_weights(
        flow, PICTURES, importance_samples=draws, generator=seeded()
    )
    w = weights.detach().exp()
    error = w.std(0) / math.sqrt(draws)
    exact = cell_probabilities(flow).exp()
    assert ((w.mean(0) - exact).abs() < 5 * error + 1e-4).all()
    assert abs(w.mean(0).sum() - 1) < 4 * error.square().sum().sqrt()
    assert error.square().sum().sqrt() < 0.02  # so the line above says something


def test_one_draw_is_a_bound_and_many_draws_close_it():
    flow, exact = model(), cell_probabilities(model())
    dequantised = VariationalDequantisation(noise(), LEVELS)
    weights = dequantised.log_weights(flow, PICTURES, importance_samples=2000, generator=seeded()).detach()
    bound, error = weights.mean(0), weights.std(0) / math.sqrt(2000)
    assert (bound < exact + 4 * error).all()
    gap = (exact - bound).mean().item()
    assert gap > 0.05  # a gap there is
    many = dequantised.estimate(flow, PICTURES, importance_samples=2000, generator=seeded(1))
    assert ((many.value - exact).abs() < 5 * many.standard_error + 1e-3).all()
    some = torch.stack(
        [dequantised.estimate(flow, PICTURES, importance_samples=8, generator=seeded(s)).value for s in range(40)]
    )
    assert bound.mean() < some.mean() < exact.mean() + 0.02


def test_the_standard_error_is_the_spread_of_repeated_estimates():
    """With uniform noise, whose weights are bounded: the delta method then holds at 64 draws."""
    flow, dequantised = model(), VariationalDequantisation(UniformNoise(), LEVELS)
    found = [dequantised.estimate(flow, PICTURES, importance_samples=64, generator=seeded(s)) for s in range(60)]
    spread = torch.stack([f.value for f in found]).std(0).mean()
    printed = torch.stack([f.standard_error for f in found]).mean()
    assert printed.item() == pytest.approx(spread.item(), rel=0.15)


def test_untrained_noise_is_uniform():
    q = Flow(StandardNormal((2, 4, 4)), dequantisation_noise((2, 4, 4), width=4)).double()
    u, log_q = q.sample_and_log_prob(500, torch.zeros(500, 2, 4, 4, dtype=FLOAT64), generator=seeded())
    # 32 terms of log φ(z) − log φ(z).
    assert log_q.abs().max() < 1e-10
    assert ((u >= 0) & (u < 1)).all()
    # 16,000 numbers: the distribution function to 1.36/√16,000 = 0.011 at 5 %.
    ordered = u.detach().flatten().sort().values
    assert (ordered - torch.linspace(0, 1, len(ordered), dtype=FLOAT64)).abs().max() < 0.015


def test_learning_the_noise_closes_the_bound():
    """Ho et al. 2019, §3.1. The gap is KL(q ‖ p(u | x)), which uniform noise leaves as it is."""
    flow, exact = model(), cell_probabilities(model())
    q = Flow(StandardNormal(SHAPE), dequantisation_noise(SHAPE, width=8, generator=seeded())).double()
    objective, batch = VariationalDequantisation(q, LEVELS), Batch(PICTURES.repeat(8, 1, 1, 1))
    flow.requires_grad_(False)
    optimiser, generator = torch.optim.Adam(q.parameters(), 0.02), seeded(1)
    for _ in range(80):
        optimiser.zero_grad()
        objective(flow, batch, generator=generator).mean().backward()
        optimiser.step()

    def gap(dequantised):
        weights = dequantised.log_weights(flow, PICTURES, importance_samples=1000, generator=seeded(2))
        return (exact - weights.detach().mean(0)).mean().item()

    uniform, learned = gap(VariationalDequantisation(UniformNoise(), LEVELS)), gap(objective)
    assert uniform > 0.1
    assert -0.02 < learned < 0.5 * uniform


def test_the_loss_is_minus_the_bound_and_teaches_both():
    flow, q = model(), noise()
    objective = VariationalDequantisation(q, LEVELS, importance_samples=3)
    loss = objective(flow, Batch(PICTURES), generator=seeded())
    assert loss.shape == (16,)
    bound = objective.estimate(flow, PICTURES, importance_samples=3, generator=seeded()).value
    torch.testing.assert_close(loss.detach(), -bound, rtol=1e-12, atol=1e-12)
    loss.mean().backward()
    for part in (flow, q):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in part.parameters())
        assert sum(p.grad.abs().sum() for p in part.parameters()) > 0


def test_the_gradient_is_that_of_finite_differences():
    """Through the noise: the draw is moved by q's parameters, and the density and log q with it."""
    flow, q = model(), noise()
    objective = VariationalDequantisation(q, LEVELS)
    bias = q.map.maps[1].parameters_of.network.output.bias

    def value():
        return objective(flow, Batch(PICTURES), generator=seeded()).mean()

    (gradient,) = torch.autograd.grad(value(), bias)
    for index in range(len(bias)):
        with torch.no_grad():
            bias[index] += 1e-6
            above = value()
            bias[index] -= 2e-6
            below = value()
            bias[index] += 1e-6
        # Central differences: 1e-12 of truncation, 1e-16/1e-6 of rounding.
        torch.testing.assert_close(gradient[index], (above - below) / 2e-6, rtol=1e-5, atol=1e-7)


def test_noise_on_the_rows_is_dropped():
    flow, objective = model(), VariationalDequantisation(UniformNoise(), LEVELS)
    noisy = PICTURES + 0.999 * torch.rand(PICTURES.shape, dtype=FLOAT64, generator=seeded(5))
    ours = objective.log_weights(flow, noisy, importance_samples=2, generator=seeded())
    assert torch.equal(ours, objective.log_weights(flow, PICTURES, importance_samples=2, generator=seeded()))


def test_float32_rows_stay_in_their_cell():
    """255 + 0.99999999 rounds to 256, whose cell is another's and lies outside."""

    class Edge(UniformNoise):
        def sample_and_log_prob(self, num_rows, condition=None, *, generator=None):
            return torch.ones_like(condition), condition.new_zeros(num_rows)

    flow = Flow(StandardNormal(SHAPE), Logit(SHAPE, 256, 0.0))
    found = VariationalDequantisation(Edge(), 256).log_weights(flow, torch.full((1, *SHAPE), 255.0))
    assert torch.isfinite(found).all()


def test_a_level_that_cannot_occur_has_probability_zero():
    """−∞ with its status, and no error: that is an answer."""
    found = VariationalDequantisation(UniformNoise(), LEVELS).estimate(
        model(), torch.full((1, *SHAPE), 7.0).double(), importance_samples=4, generator=seeded()
    )
    assert found.value.item() == -math.inf
    assert found.standard_error.item() == 0
    assert found.status.item() == Status.OUTSIDE_SUPPORT


def test_the_condition_is_repeated_with_its_row():
    layers = perturbed(realnvp_image(SHAPE, 2, couplings=2, width=4, generator=seeded()), 0.4)
    flow = Flow(StandardNormal(SHAPE), Compose(Logit(SHAPE, LEVELS, 0.0), layers)).double()
    condition = torch.randn(16, 2, dtype=FLOAT64, generator=seeded(4))
    objective = VariationalDequantisation(UniformNoise(), LEVELS)
    both = objective.log_weights(flow, PICTURES, condition, 3, generator=seeded())
    draws = torch.rand(48, *SHAPE, dtype=FLOAT64, generator=seeded()).reshape(3, 16, *SHAPE)
    for k in range(3):
        torch.testing.assert_close(both[k], flow.log_prob(PICTURES + draws[k], condition))


def test_refuses():
    with pytest.raises(ConfigError, match="levels is 1"):
        VariationalDequantisation(UniformNoise(), 1)
    with pytest.raises(ConfigError, match="importance_samples is 0"):
        VariationalDequantisation(UniformNoise(), 4, importance_samples=0)
    with pytest.raises(ConfigError, match="picture"):
        UniformNoise().sample_and_log_prob(3)
