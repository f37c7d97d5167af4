"""Couplings against brute force, POT, closed forms and theorems."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

from advect.couplings import (
    Assignment,
    Classwise,
    Entropic,
    Independent,
    NotConvergedError,
    solve_assignment,
    solve_entropic,
)
from advect.couplings.cost import centred_rows, distance_cost, squared_cost
from advect.errors import ShapeError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(num: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(num, dim, generator=seeded(seed), dtype=torch.float64)


def eight_gaussians(num: int, seed: int) -> torch.Tensor:
    angle = torch.randint(8, (num,), generator=seeded(seed)) * (torch.pi / 4)
    return 5 * torch.stack([angle.cos(), angle.sin()], 1) + rows(num, 2, seed + 1)


def total_squared(x0: torch.Tensor, x1: torch.Tensor, index0: torch.Tensor) -> float:
    return float((x0[index0] - x1).double().square().sum())


# --- costs -----------------------------------------------------------------------------------------------------------


def test_costs_are_the_distances():
    x0, x1 = centred_rows(rows(30, 4, 1), rows(20, 4, 2))
    plain = (x0[:, None] - x1[None]).square().sum(2)
    torch.testing.assert_close(squared_cost(x0, x1), plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(distance_cost(x0, x1), plain.sqrt(), rtol=1e-12, atol=1e-12)


def test_costs_survive_a_far_origin():
    """trap C5: zero stays zero at 1e3 from the origin, where the float32 shortcut gives hundreds."""
    x = (rows(50, 16, 3) + 1000).float()
    cost = squared_cost(*centred_rows(x, x))
    assert cost.diagonal().abs().max() < 1e-12  # 16 products of size ~10, each rounded at 1e-16


# --- assignment ------------------------------------------------------------------------------------------------------


@given(num=st.integers(1, 7), dim=st.integers(1, 3), seed=st.integers(0, 2**31), whole=st.booleans())
def test_assignment_equals_brute_force(num, dim, seed, whole):
    """trap C8: also with ties (whole numbers)."""
    x0, x1 = rows(num, dim, seed), rows(num, dim, seed + 1)
    if whole:
        x0, x1 = x0.round(), x1.round()
    best = min(total_squared(x0, x1, torch.tensor(order)) for order in permutations(range(num)))
    pairs = Assignment().draw(x0, x1)
    assert total_squared(x0, x1, pairs.index0) == pytest.approx(best, abs=1e-10)
    assert pairs.report["mean_cost"] * num == pytest.approx(best, abs=1e-10)


def hard_costs() -> dict[str, np.ndarray]:
    """Matrices on which a warm start could go wrong."""
    far = rows(150, 2, 5)
    far[0] *= 1e4
    heavy = torch.from_numpy(np.random.default_rng(0).standard_t(1.2, (150, 3)))
    make = {
        "8 Gaussians": (rows(300, 2, 1), eight_gaussians(300, 2)),
        "64 dimensions": (rows(200, 64, 1), rows(200, 64, 2) * 0.5 + 1),
        "one outlier": (rows(150, 2, 4), far),
        "heavy tails": (rows(150, 3, 4), heavy),
        "ties": (rows(150, 2, 6).round(), rows(150, 2, 7).round()),
        "few points": (rows(150, 2, 6), rows(150, 2, 7)[:3].repeat(50, 1)),
        "all equal": (torch.zeros(100, 2, dtype=torch.float64), torch.ones(100, 2, dtype=torch.float64)),
        "itself": (rows(150, 2, 8), rows(150, 2, 8)),
        "tiny scale": (rows(150, 2, 8) * 1e-12, rows(150, 2, 9) * 1e-12),
        "huge scale": (rows(150, 2, 8) * 1e30, rows(150, 2, 9) * 1e30),
    }
    costs = {name: squared_cost(*centred_rows(*pair)).numpy() for name, pair in make.items()}
    return costs | {"negative": -costs["8 Gaussians"]}


HARD = hard_costs()


@pytest.mark.parametrize("name", HARD)
def test_the_warm_start_changes_no_optimum(name):
    """trap C8: the optimal cost equals that of the plain solver; 1e-10 covers rounding in sums of 300 terms."""
    cost = HARD[name]
    columns = solve_assignment(cost.copy())
    assert np.array_equal(np.sort(columns), np.arange(len(cost)))
    plain = cost[linear_sum_assignment(cost)].sum()
    assert cost[np.arange(len(cost)), columns].sum() == pytest.approx(plain, rel=1e-10, abs=1e-10 * cost.max())


@pytest.mark.parametrize(("num", "dim"), [(64, 2), (256, 2), (128, 16)])
def test_assignment_equals_pot(num, dim):
    """trap C8: network simplex finds the same cost."""
    ot = pytest.importorskip("ot")
    x0, x1 = rows(num, dim, 1), eight_gaussians(num, 2) if dim == 2 else rows(num, dim, 2) + 1
    uniform = np.full(num, 1 / num)
    expected = ot.emd2(uniform, uniform, ot.dist(x0.numpy(), x1.numpy()))
    assert Assignment().draw(x0, x1).report["mean_cost"] == pytest.approx(float(expected), rel=1e-9)


def test_one_dimension_sorts():
    """The optimal plan of any convex cost on a line is monotone."""
    x0, x1 = rows(200, 1, 1)[:, 0], rows(200, 1, 2)[:, 0] * 3
    pairs = Assignment().draw(x0, x1)
    assert torch.equal(x0[pairs.index0].argsort(), x1.argsort())


def test_squared_and_plain_distance_differ_on_a_line():
    """trap C12: from 0 and 1 to 1 and 2.5, on a line all but for a second coordinate that breaks the tie.

    Squared cost moves both a little; plain distance leaves one where it is.
    """
    x0 = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    x1 = torch.tensor([[1.0, 0.0], [2.5, 0.5]])
    assert Assignment().draw(x0, x1).index0.tolist() == [0, 1]  # 1 + 2.5 = 3.5 against 0 + 6.5
    assert Assignment(cost="distance").draw(x0, x1).index0.tolist() == [1, 0]  # 0 + 2.550 against 1 + 1.581


def test_replacement_draws_pairs_of_the_plan():
    """Published tables draw from the plan: the same pairs, and about 1 − 1/e of the data rows (here ± 5 sd)."""
    num = 2000
    x0, x1 = rows(num, 1, 1), rows(num, 1, 2)
    plan = Assignment().draw(x0, x1)
    drawn = Assignment(replacement=True).draw(x0, x1, generator=seeded())
    assert torch.equal(drawn.index0, plan.index0[drawn.index1])
    share = len(drawn.index1.unique()) / num
    assert share == pytest.approx(1 - np.exp(-1), abs=5 * np.sqrt((np.exp(-1) - 2 * np.exp(-2)) / num))


@pytest.mark.parametrize(("num0", "num1"), [(60, 20), (20, 60)])
def test_unequal_numbers_follow_the_balanced_plan(num0, num1):
    """Every pair lies in the support of the optimal plan between uniform weights (POT, unique here)."""
    ot = pytest.importorskip("ot")
    x0, x1 = rows(num0, 2, 1), rows(num1, 2, 2)
    plan = ot.emd(np.full(num0, 1 / num0), np.full(num1, 1 / num1), ot.dist(x0.numpy(), x1.numpy()))
    pairs = Assignment().draw(x0, x1, generator=seeded())
    assert plan[pairs.index0, pairs.index1].min() > 0.5 / max(num0, num1)


def test_a_larger_pool_never_costs_more():
    """trap C16: a theorem, as the plans of the parts make a feasible plan of the whole."""
    x0, x1 = rows(512, 4, 1), rows(512, 4, 2) + 1
    costs = []
    for size in (1, 8, 64, 512):
        blocks = zip(x0.split(size), x1.split(size), strict=True)
        costs.append(np.mean([Assignment().draw(a, b).report["mean_cost"] for a, b in blocks]))
    assert all(larger < smaller for smaller, larger in pairwise(costs))


# --- entropic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "sigma"), [(2, 1.0), (2, 0.05), (16, 0.3), (16, 0.1), (64, 0.5), (64, 0.2), (784, 1.0), (784, 0.3)]
)
def test_bridge_plans_converge_where_others_underflow(dim, sigma):
    """trap C1: Gaussian batches of 128. Marginals to the tolerance, and a plan far from uniform."""
    x0, x1 = rows(128, dim, 1), rows(128, dim, 2)
    coupling = Entropic.for_bridge(sigma)
    plan = coupling.plan(x0, x1)
    assert 0.5 * (plan.sum(1) - 1 / 128).abs().sum() <= 1.01 * coupling.tolerance
    torch.testing.assert_close(plan.sum(0), torch.full((128,), 1 / 128, dtype=torch.float64), rtol=1e-12, atol=0)
    assert 0.5 * (plan - 1 / 128**2).abs().sum() > 0.3
    report = coupling.draw(x0, x1, generator=seeded()).report
    assert report["marginal_error"] <= coupling.tolerance
    assert 1 <= report["iterations"] <= coupling.max_iterations


@pytest.mark.parametrize(("num0", "num1"), [(40, 40), (40, 25), (25, 40)])
def test_entropic_equals_pot(num0, num1):
    """The plan is that of POT's log-domain Sinkhorn run to 1e-12; ours is solved to a column error of 1e-9."""
    ot = pytest.importorskip("ot")
    x0, x1 = rows(num0, 2, 1), rows(num1, 2, 2) + 1
    uniform0, uniform1 = np.full(num0, 1 / num0), np.full(num1, 1 / num1)
    expected = ot.bregman.sinkhorn_log(
        uniform0, uniform1, ot.dist(x0.numpy(), x1.numpy()), 0.5, stopThr=1e-12, numItermax=20000
    )
    plan = Entropic(0.5, tolerance=1e-9).plan(x0, x1)
    assert np.abs(plan.numpy() - expected).sum() < 1e-6


def test_entropic_satisfies_its_optimality_condition():
    """log P + C/ε is a row term plus a column term: every 2×2 minor of exp vanishes. Independent of any solver."""
    x0, x1 = rows(60, 3, 1), rows(60, 3, 2)
    cost = squared_cost(x0, x1)
    remainder = Entropic(2.0).plan(x0, x1).log() + cost / 2.0
    double_centred = remainder - remainder.mean(0) - remainder.mean(1, keepdim=True) + remainder.mean()
    assert double_centred.abs().max() < 1e-9


def test_entropic_limits():
    """ε → 0 is exact transport, ε → ∞ independence."""
    x0, x1 = rows(50, 2, 1), rows(50, 2, 2)
    exact = Assignment().draw(x0, x1)
    sharp = Entropic(1e-4).draw(x0, x1, generator=seeded())
    assert torch.equal(sharp.index0, exact.index0)
    loose = Entropic(1e6).plan(x0, x1)
    assert (loose * 50**2 - 1).abs().max() < 1e-3  # |C|/ε is at most 4e-5


def test_gaussian_bridge_has_the_closed_form_covariance():
    """trap C15: N(−a, 1) → N(a, 1) has cov(x0, x1) = (√(4 + σ⁴) − σ²)/2 under ε = 2σ².

    That is the bridge's marginal variance (1−t)² + t² + t(1−t)√(4+σ⁴) less the σ²t(1−t) of the bridge. Quantile
    grids scaled to unit variance stand for the Gaussians, so the error is that of 400 points, whose tails are short.
    """
    grid = torch.from_numpy(norm.ppf((np.arange(400) + 0.5) / 400))
    grid = grid / grid.square().mean().sqrt()
    for sigma in (0.5, 1.0, 2.0):
        plan = Entropic.for_bridge(sigma).plan(grid - 0.1, grid + 0.1)
        expected = (np.sqrt(4 + sigma**4) - sigma**2) / 2
        assert float(grid @ plan @ grid) == pytest.approx(expected, abs=3e-3)


def test_draws_follow_the_plan():
    """trap C11: frequencies over many draws against the plan, by Pearson's χ² per data row."""
    x0, x1 = rows(6, 2, 1), rows(6, 2, 2)
    coupling = Entropic(2.0)
    expected = coupling.plan(x0, x1) * 6
    generator, counts, draws = seeded(), torch.zeros(6, 6), 4000
    for _ in range(draws):
        pairs = coupling.draw(x0, x1, generator=generator)
        counts[pairs.index0, pairs.index1] += 1
    chi2 = ((counts - draws * expected) ** 2 / (draws * expected)).sum()
    # 6 columns of 5 degrees of freedom; 30 + 5 √60 = 69. A uniform draw gives thousands.
    assert chi2 < 69
    assert ((counts - draws / 6) ** 2 / (draws / 6)).sum() > 1000


def test_a_plan_that_did_not_converge_is_refused():
    """trap C1: never a silent uniform plan."""
    x0, x1 = rows(128, 16, 1), rows(128, 16, 2)
    with pytest.raises(NotConvergedError, match=r"did not converge.*after 3 iterations"):
        Entropic.for_bridge(0.1, max_iterations=3).draw(x0, x1, generator=seeded())
    assert not solve_entropic(squared_cost(x0, x1), 0.02, max_iterations=3, tolerance=1e-6).column_error < 1e-6


# --- classwise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [lambda y: y, lambda y: y.float(), lambda y: torch.nn.functional.one_hot(y, 4), lambda y: y[:, None] * 0.3],
    ids=["integers", "floats", "one-hot", "scaled column"],
)
def test_pairs_stay_inside_their_class(make):
    """Each class's plan is the exact plan of its own rows and the source rows it was given, for every coding."""
    labels = torch.arange(90) % 4
    x0, x1 = rows(90, 2, 1), rows(90, 2, 2) + labels[:, None]
    pairs = Classwise(Assignment()).draw(x0, x1, condition=make(labels), generator=seeded())
    assert pairs.report["classes"] == 4
    assert torch.equal(pairs.index0.sort().values, torch.arange(90))
    for label in range(4):
        given_source, members = pairs.index0[labels == label], labels == label
        alone = Assignment().draw(x0[given_source], x1[members])
        assert torch.equal(alone.index0, torch.arange(int(members.sum())))


def test_classes_do_not_bend_the_source():
    """trap C10 (8 Gaussians with class = left or right): the mean source of a class stays at 0 inside classes.

    1000 rows per class: standard error 0.03, so 0.15 is five of them; plain transport moves it by E|x| = 0.8.
    """
    x0, x1 = rows(2000, 2, 1), eight_gaussians(2000, 2)
    right = x1[:, 0] > 0
    shift = {}
    for name, coupling in {
        "independent": Independent(),
        "plain": Assignment(),
        "classwise": Classwise(Assignment()),
    }.items():
        pairs = coupling.draw(x0, x1, condition=right, generator=seeded())
        shift[name] = float(x0[pairs.index0][right[pairs.index1], 0].mean())
    assert abs(shift["independent"]) < 0.15
    assert abs(shift["classwise"]) < 0.15
    assert shift["plain"] > 0.6


def test_a_continuous_condition_is_independent_and_says_so():
    """trap C10: no classes to pair in."""
    x0, x1 = rows(500, 1, 1), rows(500, 1, 2)
    pairs = Classwise(Assignment()).draw(x0, x1, condition=x1.clone(), generator=seeded())
    assert pairs.report["continuous_condition"] == 1
    assert pairs.report["classes"] == 500
    paired = torch.stack([x0[pairs.index0][:, 0], x1[pairs.index1][:, 0]])
    assert abs(float(torch.corrcoef(paired)[0, 1])) < 5 / np.sqrt(500)


def test_classwise_with_more_source_rows():
    labels = torch.arange(30) % 3
    pairs = Classwise(Assignment()).draw(rows(60, 2, 1), rows(30, 2, 2), condition=labels, generator=seeded())
    assert torch.equal(pairs.index1, torch.arange(30))
    assert len(pairs.index0.unique()) == 30


def test_classwise_refuses_what_it_cannot_split():
    x0, x1, coupling = rows(30, 2, 1), rows(20, 2, 2), Classwise(Assignment())
    with pytest.raises(ShapeError, match="cannot be split"):
        coupling.draw(x0, x1, condition=torch.arange(20) % 2, generator=seeded())
    with pytest.raises(ShapeError, match="30 rows of condition for 20"):
        coupling.draw(x0, x1, condition=torch.arange(30) % 2, generator=seeded())


def test_independent_pairs_are_uncorrelated_even_in_sorted_sets():
    """Two sets in the same order would be fully correlated if row i met row i."""
    x0, x1 = rows(2000, 1, 1)[:, 0].sort().values, rows(2000, 1, 2)[:, 0].sort().values
    pairs = Independent().draw(x0, x1, generator=seeded())
    correlation = torch.corrcoef(torch.stack([x0[pairs.index0], x1[pairs.index1]]))[0, 1]
    assert abs(float(correlation)) < 5 / np.sqrt(2000)
