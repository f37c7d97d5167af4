"""The regression gap: closed forms for a field of known distance, and the share of memorisation at both extremes."""

import pytest
import torch

from advect.errors import DataError
from advect.evaluation.regression_gap import regression_gap
from advect.flows import EmpiricalField, GaussianBaseline
from advect.paths import Linear, Trigonometric, VarianceExploding


def rows(count, seed):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.8 + 1


def measured(velocity, exact, held_out, **how):
    return regression_gap(velocity, exact, held_out, generator=torch.Generator().manual_seed(0), **how)


@pytest.mark.parametrize("schedule", [Linear(), Trigonometric(), VarianceExploding(0.1, 5.0)], ids=str)
def test_loss_is_gap_plus_floor(schedule):
    """The exact field has gap 0; one that is off by a constant c has gap |c|², and its loss exceeds the floor by it."""
    exact = EmpiricalField(rows(40, 0), schedule)
    same = measured(exact, exact, rows(40, 1))
    assert same.gap < 1e-18 * max(same.size, 1)
    assert same.loss == pytest.approx(same.floor)
    off = torch.tensor([0.3, -0.1, 0.2, 0.0]).double()
    shifted = measured(lambda t, x: exact(t, x) + off, exact, rows(40, 1))
    assert shifted.gap == pytest.approx(float(off.square().sum()))
    # The cross term 2 c·(u* − u) has mean 0: its error with 1024 points is 2|c| √(floor/1024).
    error = 2 * 0.38 * (same.floor / 1024) ** 0.5
    assert abs(shifted.loss - shifted.floor - shifted.gap) < 4 * error


def test_the_gap_over_time():
    """A field that is off by c for t > 1/2 only: no gap before, |c|² after; the spans' means are those of the whole."""
    exact = EmpiricalField(rows(40, 0), Linear())

    def late(t, x):
        return exact(t, x) + 0.3 * (t > 0.5).double().reshape(-1, 1)

    found = measured(late, exact, rows(40, 1))
    assert len(found.spans) == 16
    assert [span.gap for span in found.spans] == pytest.approx([0.0] * 8 + [4 * 0.09] * 8, abs=1e-12)
    for name in ("gap", "loss", "floor"):
        assert sum(getattr(span, name) for span in found.spans) / 16 == pytest.approx(getattr(found, name))
    middles = [(k + 0.5) / 16 for k in range(16)]
    assert [span.time for span in found.spans] == pytest.approx(middles, abs=0.01)
    assert measured(late, exact, rows(40, 1), rows=100).spans == ()


def test_floor_is_the_variance_of_the_target():
    """A Gaussian limit: for N(m, s²) data and the linear path Var(u|x) = s²/(t²s² + (1−t)²) per coordinate.

    ∫₀¹ s²/(t²s² + (1−t)²) dt = s π/2, by the substitution t/(1−t). Of 4000 training rows the empirical field is the
    Gaussian's except near the data, so only times up to 0.7 are compared, by quadrature.
    """
    s, last = 0.8, 0.7
    exact = EmpiricalField(rows(4000, 0), Linear())
    t = torch.linspace(0, last, 2001, dtype=torch.float64)
    expected = 4 * torch.trapezoid(s**2 / (t**2 * s**2 + (1 - t) ** 2), t) / last
    found = measured(exact, exact, rows(500, 1), rows=4096, interval=(0.0, last))
    # Squares of four normals: relative error of a mean of 4096 about √(2/4/4096) = 1.1 %; 1.5 % for what is memorised.
    assert found.floor == pytest.approx(float(expected), rel=0.06)
    assert found.last == last


def test_share_of_memorisation_at_both_extremes():
    """1 for the exact field of the training rows, about 0 for the exact field of the law they came from."""
    train, held_out = rows(60, 0), rows(2000, 1)
    exact = EmpiricalField(train, Linear())
    heart = measured(exact, exact, held_out, rows=2048)
    assert heart.memorised == pytest.approx(1.0)
    law = GaussianBaseline.fit(rows(100_000, 2), Linear()).double()
    knows = measured(law, exact, held_out, rows=2048)
    assert abs(knows.memorised) < 4 * knows.memorised_error
    assert knows.memorised_error < 0.25
    assert knows.gap > 0.1 * knows.size  # and it is far from the field of the rows
    half = measured(lambda t, x: 0.5 * exact(t, x) + 0.5 * law(t, x), exact, held_out, rows=2048)
    assert 0.2 < half.memorised < 0.9


def test_rows_that_tell_nothing_give_no_share():
    """Held-out rows that are the training rows: memorising cannot show."""
    train = rows(50, 0)
    found = measured(EmpiricalField(train, Linear()), EmpiricalField(train, Linear()), train)
    assert found.memorised is None
    assert found.memorised_error is None


def test_few_rows_are_refused():
    with pytest.raises(DataError, match="too few"):
        measured(EmpiricalField(rows(5, 0), Linear()), EmpiricalField(rows(5, 0), Linear()), rows(3, 1))
