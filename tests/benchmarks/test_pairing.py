"""The benchmarks of pairings: what a cell does, and the tables that come of it."""

import pytest
import torch

from benchmarks import large_couplings, pairing_2d, transport_2d


def record(settings, figures):
    machine = {"processor": "a processor", "cores": 2, "threads": 1}
    return {
        "settings": dict(settings),
        "figures": figures,
        "machine": machine,
        "date": "2026-01-01",
        "versions": {"torch": "2.13.0"},
        "seed": settings["seed"],
    }


@pytest.mark.parametrize("pairing", pairing_2d.PAIRINGS)
def test_each_pairing_trains(pairing):
    settings = pairing_2d.settings_of("moons", pairing, 42, 40)
    settings |= {"train_rows": 300, "validation_rows": 256, "validation_draws": 256, "validation_every": 20}
    flow, figures = transport_2d.train(settings, transport_2d.draw_sets(settings | {"test_rows": 100}))
    assert flow.sample(10, generator=torch.Generator().manual_seed(0)).isfinite().all()
    assert figures["training_cpu_seconds"] > 0
    assert ("coupling_chi_square" in figures["coupling"]) == (pairing == "semidiscrete")


def test_pairings_differ_in_the_pairing_alone():
    cells = pairing_2d.plan(pairing_2d.TASKS, tuple(pairing_2d.PAIRINGS), pairing_2d.SEEDS, 10)
    assert len({cell.name for cell in cells}) == len(cells) == 40
    plain = pairing_2d.settings_of("moons", "batch", 42, 10)
    for pairing in pairing_2d.PAIRINGS:
        other = pairing_2d.settings_of("moons", pairing, 42, 10)
        changed = {name for name in plain if plain[name] != other[name]}
        assert changed <= {"pairing", "pool", "pool_uses", "options"}


def test_tables(tmp_path):
    figures = {"npe": 0.02, "w2": 0.3, "w2_floor": 0.2, "preparation_cpu_seconds": 5.0, "training_cpu_seconds": 60.0}
    pairing_2d.write_table(tmp_path / "a.md", [record(pairing_2d.settings_of("moons", "whole", 42, 10), figures)])
    text = (tmp_path / "a.md").read_text()
    assert "| moons | whole | 1 | 10 | 0.020 | 0.300 (0.200) | 5 s | 60 s |" in text
    assert "1 of 40 cells" in text

    settings = large_couplings.settings_of(600, 2)
    measured = large_couplings.run_cell(settings)
    assert measured["dual_bound"] <= measured["exact"] * (1 + 1e-9) <= measured["cost"] * (1 + 2e-9)
    assert measured["lower_bound"] <= measured["exact"] <= measured["batches"] <= measured["independent"]
    large_couplings.write_table(tmp_path / "b.md", [record(settings, measured)])
    assert "| 600 | 2 |" in (tmp_path / "b.md").read_text()
