"""Growth under conditions, against kinds so far apart that it must be the log of the ratio of their shares."""

import math

import pytest
import torch

from advect.couplings import Alike, LabelGrowth, PlanGrowth, ScaleGrowth, Unbalanced, load_growth
from advect.errors import ShapeError

APART = 100.0


def kinds(shares: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A row for each share: of the first kind, at 0, with this probability."""
    second = torch.rand(len(shares), generator=generator) >= shares
    return torch.stack([APART * second, torch.zeros(len(shares))], 1).double()


def scales(rows: int = 200) -> tuple[Alike, tuple[torch.Tensor, ...], torch.Generator]:
    """Doses on [0, 1]; a half of the rows is of the first kind before, (1 + c)/4 of those of dose c after."""
    generator = torch.Generator().manual_seed(0)
    doses = torch.rand(2, rows, 1, generator=generator, dtype=torch.float64)
    early, late = (kinds(share, generator) for share in (torch.full((rows,), 0.5), (1 + doses[1, :, 0]) / 4))
    coupling = Alike.of(Unbalanced(0.02, 0.002), labels=False, scale=torch.tensor([1 / 0.29]))
    return coupling, (early, late, *doses), generator


def test_growth_follows_a_scale():
    """Every late row is accounted for once, every early one too: of each kind, and of each kind in a range of doses.

    A mismatch of bandwidth × typical distance, 0.02 of a dose, costs τ: some rows cross the border of a range.
    """
    coupling, (early, late, before, after), _ = scales()
    growth = ScaleGrowth.of(coupling, early, late, before, after)
    assert growth is not None
    descendants, ancestors = growth.rate(early, before).exp(), (-growth.late_rate(late, after)).exp()
    for low, high, error in ((0.0, 1.0, 1e-3), (0.0, 0.3, 4), (0.35, 0.65, 4), (0.7, 1.0, 4)):
        for place in (0.0, APART):
            one, other = (
                (rows[:, 0] == place) & (doses[:, 0] >= low) & (doses[:, 0] < high)
                for rows, doses in ((early, before), (late, after))
            )
            assert descendants[one].sum().item() == pytest.approx(float(other.sum()), abs=error)
            assert ancestors[other].sum().item() == pytest.approx(float(one.sum()), abs=error)


def test_pairs_beside_a_scale_are_those_of_rows_and_doses_together():
    """|x0 − x1|² + w (c0 − c1)², w so that 0.05 of a typical distance of doses costs τ; τ and ε are of rows alone."""
    coupling, (early, late, before, after), generator = scales()
    (before, first), (after, second) = before.sort(0), after.sort(0)  # beside one another as `choose` puts them
    early, late = early[first[:, 0]], late[second[:, 0]]
    pairs = coupling.draw(early, late, condition=after, source_condition=before, generator=generator)
    assert (early[pairs.index0] == late[pairs.index1]).all()  # no kind turns into the other
    assert pairs.report["condition_mismatch"] < 0.1
    rows, doses = torch.cdist(early, late).square(), torch.cdist(before, after).square()
    cost = rows + 0.02 * rows.mean() / (0.05**2 * doses.mean()) * doses
    plan = Unbalanced(0.02, 0.002, cost=lambda x0, x1: cost, unit=float(rows.mean())).plan(early, late)
    assert pairs.weight is not None
    # The duals of either rest to 1e-6 of ε.
    assert torch.allclose(pairs.weight, len(late) * plan.sum(0), atol=1e-4)


def test_what_mass_costs_does_not_depend_on_conditions():
    """τ and ε are shares of what rows cost: beside a dose that never differs the plan is that without one."""
    generator = torch.Generator().manual_seed(1)
    early, late = torch.randn(2, 40, 2, generator=generator, dtype=torch.float64)
    alike = torch.full((40, 1), 0.3, dtype=torch.float64)
    coupling = Alike.of(Unbalanced(0.5), labels=False, scale=torch.tensor([2.0]))
    beside, bare = ScaleGrowth.of(coupling, early, late, alike, alike), PlanGrowth.of(Unbalanced(0.5), early, late)
    # Duals rest to 1e-6 of ε.
    assert torch.allclose(beside.rate(early, alike), bare.rate(early), atol=1e-5)


def test_labels_have_plans_of_their_own():
    generator = torch.Generator().manual_seed(2)
    early = kinds(torch.full((200,), 0.5), generator)
    late = {0: kinds(torch.full((200,), 0.2), generator), 1: kinds(torch.full((200,), 0.9), generator)}
    parts = tuple(PlanGrowth.of(Unbalanced(0.02, 0.002), early, rows) for rows in late.values())
    growth = LabelGrowth(torch.eye(2), parts)
    row = torch.zeros(2, 2, dtype=torch.float64)
    before = (early[:, 0] == 0).double().mean()
    for label, rows in late.items():
        expected = math.log((rows[:, 0] == 0).double().mean() / before)
        for found in (growth.rate(row, torch.eye(2)), growth.late_rate(row, torch.eye(2))):
            assert found[label].item() == pytest.approx(expected, abs=1e-5)


def test_both_are_kept():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    coupling, rows, _ = scales(40)
    by_scale = ScaleGrowth.of(coupling, *rows)
    part = PlanGrowth.of(Unbalanced(0.3), *torch.randn(2, 20, 2, generator=generator, dtype=torch.float64))
    by_label = LabelGrowth(torch.eye(2), (part, part))
    given = {by_scale: torch.rand(5, 1), by_label: torch.eye(2)[torch.tensor([0, 1, 1, 0, 1])]}
    for growth, condition in given.items():
        again = load_growth(growth.tensors(), growth.numbers())
        assert type(again) is type(growth)
        assert torch.equal(again.rate(x, condition), growth.rate(x, condition))
        with pytest.raises(ShapeError, match="conditions under which they grow"):
            growth.rate(x)
