"""The coupling study: its estimator against closed forms, and what a cell does."""

import itertools
import math

import pytest
import torch

from benchmarks import coupling_study as study
from benchmarks.plane_tasks import conditional_ends


def normal(rows, seed):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_independent_gaussians_have_the_closed_form(spread):
    """E|x1 − x0|² less the path energy d(1 + s² − πs/2): d π s/2. Ten midpoints stand for the integral within 1 %, and
    20,000 pairs for the mean within 2 %."""
    loss = study.optimal_loss(normal(20_000, 0), spread * normal(20_000, 1), 10)
    assert loss == pytest.approx(math.pi * spread, rel=0.03)


def test_a_map_leaves_nothing():
    x0 = normal(20_000, 0)
    assert study.optimal_loss(x0, 2 * x0 + 1, 10) < 1e-3


def test_a_condition_that_tells_all_leaves_nothing():
    x0, x1 = normal(5000, 0), normal(5000, 1)
    assert study.optimal_loss(x0, x1, 4, torch.cat([x0, x1], 1)) < 0.5 * study.optimal_loss(x0, x1, 4)


def test_cells_and_tables(tmp_path):
    found = {}
    for coupling in study.LOSS:
        found[coupling] = study.run_cell(
            study.settings_of("loss", coupling, 0, 10_240 if coupling != "whole" else 10_000)
        )
    order = ["independent", "batch 16", "batch 64", "batch 256", "batch 1024", "semidiscrete"]
    losses, costs = ([found[name][figure] for name in order] for figure in ("loss", "cost"))
    assert losses == sorted(losses, reverse=True)
    # Each cost has the noise of 10,240 draws of |x1 − x0|², 3 % at most.
    assert all(after < before * 1.03 for before, after in itertools.pairwise(costs))
    settings = study.settings_of("bandwidth", "bandwidth 0.1", 0, 2560)
    figures = study.run_cell(settings)
    assert set(figures) == {"loss", "cost", "source_shift"}
    machine = {"processor": "a processor", "cores": 2, "threads": 1}
    record = {"settings": settings, "figures": figures, "machine": machine, "date": "2026-01-01", "seed": 0}
    study.write_table(tmp_path / "t.md", [record | {"versions": {"torch": "2.13.0"}}])
    assert "| bandwidth 0.1 | 1 of 3 |" in (tmp_path / "t.md").read_text()


def test_equal_time_counts_the_preparation(tmp_path):
    records = []
    for coupling in ("whole", "semidiscrete"):
        settings = study.time_settings(coupling, 0, 1.5) | {"rows": 800, "test_rows": 100}
        figures = study.run_cell(settings)
        # Nothing ends before its time, and what is under way is ended: a step, or the pool that is being paired.
        assert 1.5 <= figures["seconds"] < 6
        assert figures["preparation"] < figures["seconds"]
        assert figures["steps"] > 0
        assert math.isfinite(figures["w2"] + figures["w2_one_step"])
        machine = {"processor": "a processor", "cores": 2, "threads": 1}
        record = {"settings": settings, "figures": figures, "machine": machine, "date": "2026-01-01", "seed": 0}
        records.append(record | {"versions": {"torch": "2.13.0"}})
    assert figures["preparation"] > 0  # of the plan to all rows
    study.write_table(tmp_path / "t.md", records)
    assert "| 1.5 s | semidiscrete | 1 of 3 |" in (tmp_path / "t.md").read_text()
    names = [cell.name for cell in study.plan((0, 1), 10_000, ("time",), 5.0)]
    assert len(set(names)) == len(names) == 2 * len(study.TIMED)


def test_the_ends_are_those_of_the_paper():
    x0, x1, moon = conditional_ends(100_000, torch.Generator().manual_seed(0))
    assert float(x0.square().sum(1).mean()) == pytest.approx(25 + 2 * math.sqrt(0.1), rel=0.01)
    upper = (x1[moon == 0] + 1) / 3
    shift_free = upper[:, 1] - upper[:, 0]  # the shift along (1, 1) falls out: sin − cos
    assert float(shift_free.max()) == pytest.approx(math.sqrt(2), abs=1e-3)
    assert float(shift_free.min()) == pytest.approx(-1, abs=1e-3)
