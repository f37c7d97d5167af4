"""Couplings of whole sets against exact assignments, closed forms and bounds that must not be crossed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

from advect.couplings import (
    Assignment,
    Conditioned,
    Entropic,
    NotConvergedError,
    Partial,
    Semidiscrete,
    Unbalanced,
    dual_bound,
    gelbrich_bound,
    great_circle_cost,
    line_bound,
    lower_bound,
    periodic_cost,
    solve_assignment,
    solve_bijection,
)
from advect.couplings.cells import PowerCells
from advect.couplings.cost import COSTS, ground_cost
from advect.couplings.duals import graph_duals, learn_duals
from advect.couplings.scaling import Scaling
from advect.errors import ConfigError, DataError, ShapeError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(num: int, *event: int, seed: int) -> torch.Tensor:
    return torch.randn(num, *event, generator=seeded(seed), dtype=torch.float64)


def eight(num: int, dim: int, seed: int) -> torch.Tensor:
    angle = torch.randint(8, (num,), generator=seeded(seed)) * (math.pi / 4)
    x = 0.3 * rows(num, dim, seed=seed + 1)
    x[:, 0] += 2 * angle.cos()
    x[:, 1] += 2 * angle.sin()
    return x


def exact_cost(x0: torch.Tensor, x1: torch.Tensor) -> float:
    """SciPy alone, on the plain matrix."""
    matrix = (x0[:, None] - x1[None]).square().sum(2).numpy()
    return float(matrix[linear_sum_assignment(matrix)].mean())


# --- local repairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "above"), [(1, 1e-3), (2, 1e-3), (16, 0.02), (50, 0.03)])
def test_repairs_come_near_the_exact_assignment(dim, above):
    """The shares above the optimum are those measured and told in `bijection`, with room for other rows."""
    x0 = rows(1500, dim, seed=1)
    x1 = eight(1500, dim, seed=2) if dim > 1 else rows(1500, 1, seed=2).exp()
    found = solve_bijection(x0, x1, COSTS["squared"], generator=seeded())
    assert torch.equal(found.index0.sort().values, torch.arange(1500))
    paid = float((x0[found.index0] - x1).square().sum(1).mean())
    assert paid == pytest.approx(found.mean_cost, rel=1e-9)
    best = exact_cost(x0, x1)
    assert best - 1e-9 <= paid <= best * (1 + above)


def test_repairs_of_few_rows_are_exact():
    x0, x1 = rows(200, 3, seed=1), rows(200, 3, seed=2)
    found = solve_bijection(x0, x1, COSTS["squared"], generator=seeded())
    assert found.mean_cost == pytest.approx(exact_cost(x0, x1), rel=1e-9)


def test_repairs_serve_any_ground_cost():
    """On a circle of circumference 1, turning a set by 0.9 forwards is turning it by 0.1 back."""
    x0 = torch.rand(700, 1, generator=seeded(1), dtype=torch.float64)
    x1 = (x0 + 0.9) % 1
    found = solve_bijection(x0, x1, ground_cost(periodic_cost(1.0), "test"), generator=seeded())
    assert found.mean_cost <= 0.01 * (1 + 1e-3)


def test_many_rows_are_paired_with_a_bound_beside():
    x0, x1 = rows(900, 2, seed=1), eight(900, 2, seed=2)
    many = Assignment(exact_rows=500).draw(x0, x1, generator=seeded())
    exact = Assignment().draw(x0, x1)
    assert many.report["exact"] == 0
    assert many.report["lower_bound"] <= exact.report["mean_cost"] <= many.report["mean_cost"] * (1 + 1e-9)
    assert many.report["mean_cost"] <= exact.report["mean_cost"] * 1.002
    # The mean of 10⁶ of all pairs has a standard error of about a thousandth of the spread over √1000 rows.
    assert many.report["independent_cost"] == pytest.approx(exact.report["independent_cost"], rel=0.1)


@pytest.mark.parametrize(("num0", "num1"), [(1200, 600), (600, 1200)])
def test_many_rows_of_unequal_numbers(num0, num1):
    x0, x1 = rows(num0, 2, seed=1), rows(num1, 2, seed=2)
    pairs = Assignment(exact_rows=500).draw(x0, x1, generator=seeded())
    assert torch.equal(pairs.index1, torch.arange(num1))
    uses = pairs.index0.bincount(minlength=num0)
    assert int(uses.max()) == max(1, num1 // num0)
    assert int(uses.min()) == (0 if num0 > num1 else num1 // num0)


# --- bounds ----------------------------------------------------------------------------------------------------------


@given(
    rows_=st.integers(2, 40), dim=st.integers(1, 5), seed=st.integers(0, 1000), scale=st.sampled_from([1e-3, 1.0, 1e3])
)
def test_no_bound_is_crossed(rows_, dim, seed, scale):
    x0 = scale * (rows(rows_, dim, seed=seed) + 5)
    x1 = scale * rows(rows_, dim, seed=seed + 1).exp()
    best = exact_cost(x0, x1)
    index0 = torch.from_numpy(solve_assignment((x1[:, None] - x0[None]).square().sum(2).numpy()))
    room = 1e-9 * (best + scale**2)
    for bound in (gelbrich_bound(x0, x1), line_bound(x0, x1, generator=seeded()), dual_bound(x0, x1, index0)):
        assert bound <= best + room
    # Also from a pairing that is far from optimal.
    assert dual_bound(x0, x1, torch.randperm(rows_, generator=seeded(seed))) <= best + room


@pytest.mark.parametrize("dim", [1, 2, 12])
def test_duals_of_an_optimal_pairing_prove_it(dim):
    x0, x1 = rows(400, dim, seed=1), rows(400, dim, seed=2) ** 3
    best = exact_cost(x0, x1)
    index0 = torch.from_numpy(solve_assignment((x1[:, None] - x0[None]).square().sum(2).numpy()))
    # Beyond eight dimensions the minimum is looked up in float32.
    assert dual_bound(x0, x1, index0) == pytest.approx(best, rel=2e-4)


def test_gelbrich_is_reached_by_linear_maps():
    """y = Ax + b with A symmetric positive is the optimal map, and the sets' own moments obey it exactly."""
    x0 = rows(300, 3, seed=1)
    matrix = torch.tensor([[2.0, 0.3, 0], [0.3, 1.0, 0.2], [0, 0.2, 0.5]], dtype=torch.float64)
    x1 = x0 @ matrix + torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    cost = float((x0 - x1).square().sum(1).mean())
    assert gelbrich_bound(x0, x1) == pytest.approx(cost, rel=1e-9)
    assert lower_bound(x0, x1, generator=seeded()) == pytest.approx(cost, rel=1e-9)


def test_lines_are_reached_where_coordinates_move_alone():
    x0 = rows(300, 3, seed=1)
    x1 = torch.stack([x0[:, 0].exp(), x0[:, 1] ** 3, 2 * x0[:, 2]], 1)
    cost = float((x0 - x1).square().sum(1).mean())
    assert line_bound(x0, x1, generator=seeded()) == pytest.approx(cost, rel=1e-9)


# --- ground costs ----------------------------------------------------------------------------------------------------


def test_ground_costs_against_their_definitions():
    angle0, angle1 = (360 * torch.rand(30, 2, generator=seeded(s), dtype=torch.float64) for s in (1, 2))
    turns = torch.tensor([-360.0, 0.0, 360.0], dtype=torch.float64)
    plain = (angle0[:, None, :, None] - angle1[None, :, :, None] + turns).square().amin(3).sum(2)
    torch.testing.assert_close(periodic_cost(360.0)(angle0, angle1), plain)

    unit0, unit1 = (torch.nn.functional.normalize(rows(30, 3, seed=s), dim=1) for s in (1, 2))
    arc = torch.acos((unit0 @ unit1.T).clamp(-1, 1))
    torch.testing.assert_close(great_circle_cost(2.0)(unit0, 5 * unit1), (2 * arc).square(), rtol=1e-7, atol=1e-7)
    # The ends of the arc, where the arc cosine has no digits: a millionth of a radian from equal and from opposite.
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for angle in (1e-6, math.pi - 1e-6):
        end = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        assert float(great_circle_cost()(start, end)) == pytest.approx(angle**2, rel=1e-9)


def test_a_cost_of_ones_own_sees_the_rows_and_is_checked():
    x0, x1 = rows(5, 2, 3, seed=1), rows(5, 2, 3, seed=2)
    seen = []

    def cost(a, b):
        seen.append((a.shape, b.shape))
        return (a[:, None] - b[None]).abs().sum((2, 3))

    pairs = Assignment(cost=cost).draw(x0, x1)
    assert seen == [((5, 2, 3), (5, 2, 3))]
    matrix = (x0[:, None] - x1[None]).abs().sum((2, 3)).numpy()
    assert pairs.report["mean_cost"] == pytest.approx(matrix[linear_sum_assignment(matrix)].mean())
    with pytest.raises(ShapeError, match=r"\(5, 4\) for 5 source and 5 data rows"):
        Assignment(cost=lambda a, b: torch.ones(5, 4)).draw(x0, x1)
    with pytest.raises(DataError, match="source row 0 and data row 0"):
        Assignment(cost=lambda a, b: torch.full((5, 5), torch.inf)).draw(x0, x1)


@pytest.mark.parametrize("make", [periodic_cost, great_circle_cost])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_ground_costs_refuse_impossible_sizes(make, value):
    with pytest.raises(ConfigError, match="positive"):
        make(value)


# --- partial ---------------------------------------------------------------------------------------------------------


@given(num=st.integers(1, 7), share=st.floats(0.05, 1.0), seed=st.integers(0, 100))
def test_partial_is_the_cheapest_of_all_choices(num, share, seed):
    """Against every subset of that many rows on both sides."""
    from itertools import combinations

    x0, x1 = rows(num, 2, seed=seed), rows(num, 2, seed=seed + 1)
    count = max(1, round(share * num))
    matrix = (x1[:, None] - x0[None]).square().sum(2).numpy()
    best = min(
        (part := matrix[np.ix_(some1, some0)])[linear_sum_assignment(part)].sum()
        for some1 in combinations(range(num), count)
        for some0 in combinations(range(num), count)
    )
    pairs = Partial(share).draw(x0, x1)
    assert pairs.weight is not None
    kept = pairs.weight.bool()
    assert int(kept.sum()) == count
    paid = (x0[pairs.index0] - x1[pairs.index1]).square().sum(1)[kept].sum()
    assert float(paid) == pytest.approx(best, rel=1e-9)
    assert pairs.report["mean_cost"] == pytest.approx(best / count)
    assert torch.equal(pairs.index0.sort().values, torch.arange(num))


def test_partial_leaves_the_far_rows_out():
    x0, x1 = rows(100, 2, seed=1), rows(100, 2, seed=2)
    x1[:10] += 50
    pairs = Partial(0.9).draw(x0, x1)
    assert torch.equal(pairs.weight == 0, torch.arange(100) < 10)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, math.nan])
def test_partial_refuses_impossible_shares(share):
    with pytest.raises(ConfigError, match="share"):
        Partial(share)


# --- growth and loss -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relaxation", [0.1, 1.0])
def test_masses_of_far_clusters_are_known(relaxation):
    """Two kinds of points so far apart that neither turns into the other: masses a to b of each kind.

    With no way to go the plan's mass m in a kind minimises τ KL(m|a) + τ KL(m|b) + ε KL(m|ab), so that
    log m = (τ log a + τ log b + ε log ab)/(2τ + ε).
    """
    x0 = torch.tensor([0.0] * 80 + [1.0] * 20, dtype=torch.float64)[:, None]
    x1 = torch.tensor([0.0] * 40 + [1.0] * 60, dtype=torch.float64)[:, None]
    coupling = Unbalanced(relaxation, regularisation=0.01)  # pairs of both kinds have the weight e^(−100)
    plan = coupling.plan(x0, x1)
    mean = float((x0 - x1.T).square().mean())
    tau, epsilon = relaxation * mean, 0.01 * mean
    for rows0, rows1, a, b in ((slice(0, 80), slice(0, 40), 0.8, 0.4), (slice(80, 100), slice(40, 100), 0.2, 0.6)):
        mass = math.exp((tau * math.log(a * b) + epsilon * math.log(a * b)) / (2 * tau + epsilon))
        assert float(plan[rows0, rows1].sum()) == pytest.approx(mass, rel=1e-4)
    pairs = coupling.draw(x0, x1, generator=seeded())
    assert pairs.weight is not None
    # The kind that grew is reached with less than its mass, the one that shrank with more.
    assert float(pairs.weight[50:].mean()) < 1 < float(pairs.weight[:40].mean())


def test_without_growth_the_plan_is_the_entropic_one():
    x0, x1 = rows(60, 2, seed=1), rows(40, 2, seed=2)
    mean = float((x0[:, None] - x1).square().sum(2).mean())
    balanced = Entropic(0.05 * mean).plan(x0, x1)
    # Marginals are off by about the duals over τ: a millionth of them is left at τ = 10⁶ mean costs.
    relaxed = Unbalanced(1e6, regularisation=0.05, max_iterations=20_000, tolerance=1e-9).plan(x0, x1)
    torch.testing.assert_close(relaxed, balanced, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e5])
@pytest.mark.parametrize("moved", [0.1, 50.0, 5000.0])
def test_sums_of_a_scaling_iteration_against_the_log_domain(spread, moved):
    """In units of ε costs reach 1e5 where plans are sharp, and rows far from all others have no sum to speak of."""
    cost = spread * rows(40, 30, seed=1).square()
    cost[3] += 20 * spread
    sums, f, g = Scaling(cost), spread * rows(40, seed=2), spread * rows(30, seed=3)
    for step in range(3):
        torch.testing.assert_close(sums.rows(g), torch.logsumexp(g - cost, 1), rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(sums.columns(f), torch.logsumexp(f[:, None] - cost, 0), rtol=1e-12, atol=1e-11)
        sums.follow(f, g)
        f, g = f + moved * rows(40, seed=10 + step), g + moved * rows(30, seed=20 + step)


def test_an_unbalanced_plan_that_did_not_come_to_rest_is_refused():
    with pytest.raises(NotConvergedError, match="come to rest"):
        Unbalanced(10.0, regularisation=1e-3, max_iterations=3).draw(
            rows(30, 2, seed=1), rows(30, 2, seed=2), generator=seeded()
        )


# --- continuous conditions -------------------------------------------------------------------------------------------


def test_bandwidth_goes_from_transport_to_independence():
    """The condition is the data's own coordinate: transport of the batch copies it into the source."""
    x0, x1 = rows(800, 2, seed=1), rows(800, 2, seed=2)
    condition = x1[:, :1]

    def dependence(bandwidth):
        pairs = Conditioned(bandwidth).draw(x0, x1, condition=condition, generator=seeded())
        paired = torch.stack([x0[pairs.index0][:, 0], condition[pairs.index1][:, 0]])
        return abs(float(torch.corrcoef(paired)[0, 1])), pairs.report

    wide, wide_report = dependence(1e3)
    narrow, narrow_report = dependence(1e-3)
    middle, report = dependence(0.05)
    assert torch.equal(
        Conditioned(1e6).draw(x0, x1, condition=condition, generator=seeded()).index0, Assignment().draw(x0, x1).index0
    )
    assert wide > 0.9
    # Independent up to 5 standard errors of a correlation.
    assert narrow < 5 / math.sqrt(800)
    assert middle < 5 / math.sqrt(800) + 0.05
    assert narrow_report["condition_mismatch"] < report["condition_mismatch"] < wide_report["condition_mismatch"]
    assert wide_report["mean_cost"] < report["mean_cost"] < narrow_report["mean_cost"]
    assert report["mean_cost"] < 0.6 * report["independent_cost"]


def test_conditions_are_compared_in_units_of_their_spread():
    x0, x1, condition = rows(200, 2, seed=1), rows(200, 2, seed=2), rows(200, 2, seed=3)
    scaled = condition * torch.tensor([1e4, 1e-4]) + 7
    plain, again = (Conditioned().draw(x0, x1, condition=c, generator=seeded()) for c in (condition, scaled))
    assert torch.equal(plain.index0, again.index0)


def test_mass_is_made_and_lost_under_each_condition():
    """Two far kinds under two far conditions, which hold different shares of them. Each of the four cells keeps
    m = (a b)^((τ + ε)/(2τ + ε)) of its masses a at the source and b in the data: the minimum of
    τ KL(m|a) + τ KL(m|b) + ε KL(m|ab).
    """
    count, relaxation, regularisation = 800, 0.05, 0.02
    kind = torch.arange(count) % 2
    x0 = 10.0 * kind[:, None].float()
    held = (torch.arange(count) < count // 2).float()  # 4 of 5 of the one kind under the one, 1 of 5 under the other
    mostly = torch.arange(count) % 5 < 4
    other = torch.where(held > 0, mostly, ~mostly).float()
    x1 = 10.0 * other[:, None]
    plan = Unbalanced(relaxation, regularisation=regularisation)
    pairs = Conditioned(0.05, plan).draw(x0, x1, condition=held[:, None], generator=seeded())
    assert pairs.weight is not None
    power = (relaxation + regularisation) / (2 * relaxation + regularisation)
    for share, rows_of in ((0.4, mostly), (0.1, ~mostly)):
        expected = (0.25 * share) ** power / share
        # A cell has 200 ± 7.1 of the source rows (hypergeometric): 3.5 % to the power of 0.58, five times that.
        assert float(pairs.weight[rows_of].mean()) == pytest.approx(expected, rel=0.1)
    blind = plan.draw(x0, x1, generator=seeded()).weight
    assert blind is not None
    assert float(blind.max() - blind.min()) < 1e-6  # kinds alone are as many at both ends


@pytest.mark.parametrize("inner", [Partial(0.8), Unbalanced(0.5), Entropic(0.3)], ids=["partial", "unbalanced", "sb"])
def test_any_plan_weighs_conditions_and_without_their_weight_is_itself(inner):
    x0, x1, condition = rows(60, 2, seed=1), rows(60, 2, seed=2), rows(60, 2, seed=3)
    condition[:, 1] = 2026.1  # one number for all says nothing
    plain = inner.draw(x0, x1, generator=seeded())
    wide = Conditioned(1e6, inner).draw(x0, x1, condition=condition, generator=seeded())
    if plain.weight is not None:
        # The weight 1e-12 beside the rows moves a plan by about as much over ε of a fiftieth.
        torch.testing.assert_close(wide.weight, plain.weight, rtol=1e-5, atol=1e-7)
    narrow = Conditioned(1e-2, inner).draw(x0, x1, condition=condition, generator=seeded())
    assert narrow.report["condition_mismatch"] < 0.7 * wide.report["condition_mismatch"]
    assert all(math.isfinite(figure) for figure in narrow.report.values())


def test_conditions_are_weighed_against_squared_distances_alone():
    with pytest.raises(ConfigError, match="squared"):
        Conditioned(0.05, Assignment(cost="distance"))


# --- power cells and semidiscrete plans ------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 8, 9, 30])
@pytest.mark.parametrize("kind", ["none", "quadratic", "rough", "steep"])
@pytest.mark.parametrize("count", [1, 3])
def test_power_cells_against_the_whole_matrix(dim, kind, count):
    random = np.random.default_rng(0)
    rows_, points = random.standard_normal((60, dim)), random.standard_normal((40, dim))
    squares = np.square(rows_).sum(1)
    discount = {
        "none": np.zeros(60),
        "quadratic": 0.7 * squares + rows_[:, 0],
        "rough": random.standard_normal(60),
        "steep": 3 * squares,  # I − A is not positive: nothing can be taken out
    }[kind]
    matrix = np.square(points[:, None] - rows_).sum(2) - discount
    value, index = PowerCells(rows_, discount).nearest(points, count)
    order = matrix.argsort(1)[:, :count]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_allclose(value, np.take_along_axis(matrix, order, 1), atol=1e-12 * np.abs(matrix).max())


def test_duals_on_the_line_are_known():
    """On the line cell j of n ends at the quantile q of j/n: g_{j+1} − g_j = (y_{j+1} − y_j)(y_{j+1} + y_j − 2q)."""
    rows_ = np.sort(np.random.default_rng(0).standard_normal(40)) * 2
    random = np.random.default_rng(1)
    duals = learn_duals(
        lambda count: random.standard_normal((count, 1)),
        rows_[:, None],
        np.ones(40, dtype=int),
        generator=seeded(),
        target=1e-9,
        max_rounds=60,
    )
    ends = norm.ppf(np.arange(1, 40) / 40)
    gaps = np.diff(duals.discount)
    reached = (rows_[1:] + rows_[:-1]) / 2 - gaps / (2 * np.diff(rows_))
    # At least as good as the quantiles of the 4 × 1040 points that it starts from.
    error = np.sqrt(np.arange(1, 40) / 40 * (1 - np.arange(1, 40) / 40) / 4160) / norm.pdf(ends)
    assert (np.abs(reached - ends) < 4 * error).all()
    assert abs(duals.chi_square) < 0.01


def test_a_semidiscrete_plan_is_the_quantile_map():
    y = rows(50, 1, seed=1)
    plan = Semidiscrete(target=5e-3).prepare(None, y, generator=seeded())
    x0 = rows(2000, 1, seed=2)
    pairs = plan.choose(x0, generator=seeded())
    assert torch.equal(pairs.index0, torch.arange(2000))
    rank = torch.from_numpy(np.floor(norm.cdf(x0[:, 0].numpy()) * 50).astype(int))
    assert torch.equal(y[:, 0].argsort().argsort()[pairs.index1], rank)
    assert pairs.report["chi_square"] == 0


def test_a_semidiscrete_plan_draws_rows_evenly_and_moves_least():
    y = eight(200, 2, seed=1)
    plan = Semidiscrete().prepare(None, y, generator=seeded())
    x0 = rows(40_000, 2, seed=5)
    pairs = plan.choose(x0, generator=seeded())
    drawn = pairs.index1.bincount(minlength=200).double() / 200
    # χ² asked, plus what 200 draws a row add.
    assert float((drawn - 1).square().mean()) < 0.05 + 2 / 200
    paid = float((x0[pairs.index0] - y[pairs.index1]).square().sum(1).mean())
    # Exact plans between 800 draws and each row four times: above the continuous cost by their own noise.
    few = [exact_cost(rows(800, 2, seed=s), y.repeat(4, 1)) for s in (10, 11, 12)]
    assert paid == pytest.approx(np.mean(few), abs=4 * np.std(few) + 0.02 * paid)


def test_equal_rows_share_their_mass():
    y = torch.cat([rows(40, 2, seed=1), rows(1, 2, seed=2).repeat(10, 1)])
    plan = Semidiscrete().prepare(None, y, generator=seeded())
    drawn = plan.choose(rows(20_000, 2, seed=3), generator=seeded()).index1.bincount(minlength=50).double() / 400
    assert float((drawn - 1).square().mean()) < 0.05 + 2 / 400
    assert float((drawn[40:] - 1).abs().max()) < 0.5


def test_each_class_has_a_plan_of_its_own():
    y = torch.cat([rows(60, 2, seed=1), rows(60, 2, seed=2) + 4])
    label = torch.arange(120)[:, None] // 60
    plan = Semidiscrete().prepare(None, y, condition=label, generator=seeded())
    wanted = torch.arange(6000)[:, None] % 2
    x0 = rows(6000, 2, seed=3)
    pairs = plan.choose(x0, condition=wanted, generator=seeded())
    assert torch.equal(label[pairs.index1], wanted)
    # The source of a class is the whole source: its mean is that of 3000 draws.
    for kind in (0, 1):
        assert float(x0[(wanted == kind)[:, 0]].mean(0).abs().max()) < 5 / math.sqrt(3000)
    with pytest.raises(ShapeError, match="no condition"):
        plan.choose(x0, generator=seeded())


def test_a_source_set_is_drawn_from():
    source = 3 + 0.1 * rows(5000, 2, seed=1)
    y = rows(50, 2, seed=2)
    plan = Semidiscrete().prepare(source, y, generator=seeded())
    drawn = plan.choose(source, generator=seeded()).index1.bincount(minlength=50).double() / 100
    assert float((drawn - 1).square().mean()) < 0.05 + 2 / 100


def test_what_semidiscrete_cannot_do_is_said():
    y = rows(50, 2, seed=2)
    with pytest.raises(ConfigError, match="no distribution beside 50"):
        Semidiscrete().prepare(rows(100, 2, seed=1), y, generator=seeded())
    with pytest.raises(ConfigError, match="no classes"):
        Semidiscrete().prepare(None, y, condition=y[:, :1], generator=seeded())
    with pytest.raises(ConfigError, match="not prepared"):
        Semidiscrete().choose(y, generator=seeded())
    with pytest.raises(ConfigError, match="target"):
        Semidiscrete(target=0.0)


def test_graph_duals_need_no_optimal_pairing():
    x0, x1 = rows(300, 2, seed=1).numpy(), eight(300, 2, seed=2).numpy()
    g, bound = graph_duals(x0, x1)
    matrix = np.square(x0[:, None] - x1).sum(2)
    best = matrix[linear_sum_assignment(matrix)].mean()
    assert bound <= best
    assert np.min(matrix - g, axis=1).mean() + g.mean() == pytest.approx(bound)
