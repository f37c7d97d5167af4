"""Growth from an unbalanced plan, against what it must be: point masses, Gaussians, and its own marginals."""

import math
from statistics import NormalDist

import pytest
import torch

from advect.couplings import Assignment, Classwise, PlanGrowth, Unbalanced, squared_cost


def points(counts: list[int], places: list[float]) -> torch.Tensor:
    """So many rows at each place."""
    where = torch.repeat_interleave(torch.tensor(places, dtype=torch.float64), torch.tensor(counts))
    return torch.stack([where, torch.zeros_like(where)], 1)


def clouds(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    second = torch.randn(90, 2, generator=generator, dtype=torch.float64) * 0.7 + torch.tensor([0.5, 1.0])
    return first, second


@pytest.mark.parametrize("relaxation", [0.02, 0.1])
def test_point_masses_grow_by_their_ratio(relaxation):
    """Kinds so far apart that mass is rather lost than moved: log(p1/p0), whatever τ and ε.

    Between one kind and itself the plan is (p0 p1)^((τ + ε)/(2τ + ε)), so r/c = p1/p0 exactly.
    """
    places = [0.0, 100.0, 200.0]
    early, late = points([20, 30, 50], places), points([50, 40, 10], places)
    growth = PlanGrowth.of(Unbalanced(relaxation, 0.002), early, late)
    shares = [(0.2, 0.5), (0.3, 0.4), (0.5, 0.1)]
    rows = points([1, 1, 1], places)
    # What moves to another kind costs 15 τ and more, 750 ε; the duals rest to 1e-6 of ε.
    for place, (before, after) in enumerate(shares):
        expected = math.log(after / before)
        assert growth.rate(rows)[place].item() == pytest.approx(expected, abs=1e-5)
        assert growth.late_rate(rows)[place].item() == pytest.approx(expected, abs=1e-5)


def test_masses_are_the_plans():
    early, late = clouds()
    coupling = Unbalanced(0.3)
    growth = PlanGrowth.of(Classwise(coupling), early, late)
    plan = coupling.plan(early, late)
    # Each late row's own mass, shared out among those before it; each early row's among those after it.
    descendants = (60 * plan / 90 / plan.sum(0)).sum(1)
    ancestors = (90 * plan / 60 / plan.sum(1, keepdim=True)).sum(0)
    # The duals rest to 1e-6 of ε.
    assert torch.allclose(growth.rate(early).exp(), descendants, atol=1e-5)
    assert torch.allclose(growth.late_rate(late).exp(), 1 / ancestors, atol=1e-5)
    assert growth.rate(early).exp().mean().item() == pytest.approx(1.0, abs=1e-5)  # nothing is made or lost in all


def gaussian_duals(early, late, epsilon, tau, rounds=20_000):
    """f(x) = a + b x + k x² of the plan between two normals, in units of ε, by the integrals of e to quadratics.

    f(x) = −τ/(τ + ε) log ∫ exp(g(y) − (x − y)²/ε) N(y; mean, sd²) dy, which is quadratic again, and g likewise
    (Janati et al. 2020, 2006.02572, §4).
    """

    def log_mean(dual, law):
        a, b, k = dual
        # The exponent is −A y²/2 + B(x) y + C(x), with B = b + 2x/ε + mean/sd².
        curve = 1 / law.variance + 2 / epsilon - 2 * k
        start = b + law.mean / law.variance
        constant = a - law.mean**2 / (2 * law.variance) - 0.5 * math.log(law.variance * curve) + start**2 / (2 * curve)
        return constant, start * 2 / epsilon / curve, 2 / epsilon**2 / curve - 1 / epsilon

    damped = tau / (tau + epsilon)
    f = g = (0.0, 0.0, 0.0)
    for _ in range(rounds):
        f = tuple(-damped * value for value in log_mean(g, late))
        g = tuple(-damped * value for value in log_mean(f, early))
    return f, g


def test_growth_between_normals():
    early, late = NormalDist(0.0, 1.0), NormalDist(1.0, 0.6)
    levels = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    rows = [
        torch.tensor([law.inv_cdf(float(q)) for q in levels], dtype=torch.float64)[:, None] for law in (early, late)
    ]
    coupling = Unbalanced(0.5, 0.2)
    growth = PlanGrowth.of(coupling, *rows)
    scale = float(squared_cost(*rows).mean())
    epsilon, tau = 0.2 * scale, 0.5 * scale
    assert (growth.epsilon, growth.relaxation) == pytest.approx((epsilon, tau))
    f, g = gaussian_duals(early, late, epsilon, tau)
    x = torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)

    def log_kept(dual, at):
        return -(dual[0] + dual[1] * at + dual[2] * at**2) * epsilon / tau

    # Partners of x are normal, with the quadratic exponent of the integral above; 1/c is e to a quadratic again.
    curve = 1 / late.variance + 2 / epsilon - 2 * g[2]
    mean = (g[1] + late.mean / late.variance + 2 * x / epsilon) / curve
    a, b, k = (value * epsilon / tau for value in g)  # log 1/c(y) = a + b y + k y²
    tilted = curve - 2 * k
    log_inverse = a + (curve * mean + b) ** 2 / (2 * tilted) - curve * mean**2 / 2 + 0.5 * math.log(curve / tilted)
    expected = log_kept(f, x) + log_inverse
    # Midpoints of 800 quantiles for the integral: the tails beyond the last are short of a variance of some 1e-3.
    assert torch.allclose(growth.rate(x[:, None]), expected, atol=0.01)
    assert float(expected.max() - expected.min()) > 0.3


def test_a_balanced_plan_has_no_growth():
    early, late = clouds()
    assert PlanGrowth.of(Assignment(), early, late) is None
    assert PlanGrowth.of(Unbalanced(cost=squared_cost), early, late) is None  # cannot be written down


def test_growth_is_written_and_read():
    early, late = clouds()
    growth = PlanGrowth.of(Unbalanced(0.3), early, late)
    again = PlanGrowth.load(growth.tensors(), growth.numbers())
    assert torch.equal(again.rate(early), growth.rate(early))
