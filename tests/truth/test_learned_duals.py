"""Learned dual numbers beyond the plane: what is said of them is measured apart, and holds."""

import numpy as np
import pytest
import torch

from advect.couplings import Semidiscrete, duals
from advect.couplings.cells import PowerCells
from advect.couplings.duals import _Uneven, learn_duals
from advect.workflows.preflight import preflight
from tests.workflows.tiny import request

ROWS, DIM = 120, 5


def drawn(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randn(count, DIM, generator=generator, dtype=torch.float64).numpy()


def clusters() -> np.ndarray:
    random = np.random.default_rng(0)
    centres = 1.2 * random.standard_normal((4, DIM))
    return centres[random.integers(0, 4, ROWS)] + 0.5 * random.standard_normal((ROWS, DIM))


def learned(seed: int, target: float, rounds: int = 200):
    rows, counts = clusters(), np.ones(ROWS, dtype=int)
    generator = torch.Generator().manual_seed(0)
    return rows, learn_duals(drawn(seed), rows, counts, generator=generator, target=target, max_rounds=rounds)


def apart(rows: np.ndarray, discount: np.ndarray, count: int = 60_000) -> _Uneven:
    """χ² by draws of its own."""
    counts = [PowerCells(rows, discount).nearest(drawn(seed)(count))[1][:, 0] for seed in (91, 92)]
    one, other = (np.bincount(found, minlength=len(rows)) * len(rows) / count - 1 for found in counts)
    return _Uneven.of(np.full(len(rows), 1 / len(rows)), one, other, count)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_noise_of_the_estimate(spread):
    """Means and spreads over 400 estimates from multinomial counts of known masses."""
    random = np.random.default_rng(1)
    mass, count = np.full(200, 1 / 200), 4000
    true = mass * (1 + spread * random.choice([-1, 1], 200))
    true /= true.sum()
    chi_square = float(((true - mass) ** 2 / mass).sum())
    excess = random.multinomial(count, true, (400, 2)) / (count * mass) - 1
    found = [_Uneven.of(mass, one, other, count) for one, other in excess]
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(chi_square, abs=4 * values.std() / 20)
    # A standard deviation of 400 draws is known to 3.5 %; the masses themselves are taken for equal in the formula.
    assert np.mean([one.noise for one in found]) == pytest.approx(values.std(), rel=0.15)


def test_what_is_reached_is_reached():
    rows, found = learned(2, 2e-3)
    assert found.converged
    assert found.chi_square <= 2e-3
    assert found.noise <= 2e-3 / 4 + 2e-4  # draws enough to tell, besides the noise of what is left
    measured = apart(rows, found.discount)
    assert measured.value == pytest.approx(found.chi_square, abs=4 * np.hypot(measured.noise, found.noise))
    assert apart(rows, np.zeros(ROWS)).value > 1


def test_rounds_lead_to_what_counting_would_know():
    """Averages weighed by t³ are worth 7/16 of the draws: (rows − 1)/(7/16 N) is left; twice that is allowed for."""
    rounds = 20
    rows, found = learned(3, 1e-7, rounds)
    assert not found.converged
    assert found.rounds == rounds
    measured = apart(rows, found.discount)
    assert measured.value < 2 * ROWS / (7 / 16 * rounds * 16384) + 4 * measured.noise
    assert measured.value == pytest.approx(found.chi_square, abs=4 * np.hypot(measured.noise, found.noise))


def test_a_plan_that_was_not_reached_is_told():
    rows = torch.from_numpy(clusters())
    plan = Semidiscrete(target=1e-7, max_rounds=1).prepare(None, rows, generator=torch.Generator().manual_seed(0))
    report = plan.choose(rows[:9], generator=torch.Generator()).report
    assert report["converged"] == 0
    assert report["chi_square"] > 4 * report["chi_square_noise"] > 0


def test_the_preflight_tells(monkeypatch):
    monkeypatch.setattr(Semidiscrete, "__post_init__", lambda self: object.__setattr__(self, "max_rounds", 1))
    how = {"method": "ot-cfm", "options": {"plan": "semidiscrete", "chi_square": 1e-7}}
    found = preflight(request(clusters(), **how)).findings
    assert any("χ² =" in one.message for one in found if one.kind == "uneven plan")


def test_many_rows_in_many_columns_are_learned_from_nothing(monkeypatch):
    """No pairing is made, and χ² by fresh draws is below the target: N draws of 20 per row leave a floor of 1/20."""
    monkeypatch.setattr(duals, "_START_POINTS", 100)
    monkeypatch.setattr(duals, "_LEAST_DRAWS", 1024)
    monkeypatch.setattr(duals, "_pairing", None)
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    rows = random.standard_normal((450, 9)) * 0.6 + np.where(random.random((450, 1)) < 0.3, -1.2, 0.5)

    def points(count):
        return torch.randn(count, 9, generator=generator, dtype=torch.float64).numpy()

    found = learn_duals(points, rows, np.ones(450, dtype=int), generator=generator, target=0.1)
    assert found.converged
    counts = [
        np.bincount(PowerCells(rows, found.discount).nearest(points(20_000))[1][:, 0], minlength=450) for _ in range(2)
    ]
    one, other = (count * 450 / 20_000 - 1 for count in counts)
    # √(rows/N² + 2 χ²/N) is 0.004; four of those beside the same error of the last draws.
    assert (one * other).mean() < 0.1 + 4 * 0.006
