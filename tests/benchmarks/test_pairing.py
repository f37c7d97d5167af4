"""The benchmarks of pairings: what a cell does, and the tables that come of it."""

import math

import pytest
import torch

from benchmarks import (
    beat_rule,
    large_couplings,
    pairing_2d,
    plane_tasks,
    transport_2d,
    transport_2d_plan,
)


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
    settings |= {"train_rows": 600, "validation_rows": 512, "validation_draws": 512, "validation_every": 20}
    flow, figures = transport_2d.train(settings, transport_2d.draw_sets(settings | {"test_rows": 100}))
    assert flow.sample(10, generator=torch.Generator().manual_seed(0)).isfinite().all()
    assert figures["training_cpu_seconds"] > 0
    assert ("coupling_chi_square" in figures["coupling"]) == (pairing == "semidiscrete")


@pytest.mark.parametrize(("task", "pairing"), [("moons-8gaussians", "2-rf"), ("scurve", "batch")])
def test_a_cell_of_each_new_task(task, pairing):
    settings = pairing_2d.settings_of(task, pairing, 43, 20)
    settings |= {"pairs": 1000} if pairing == "2-rf" else {}
    settings |= {
        "train_rows": 600,
        "validation_rows": 512,
        "validation_draws": 512,
        "test_rows": 300,
        "small_rows": 100,
    }
    figures = pairing_2d.run_cell(settings)
    assert {"npe", "w2", "w2_floor", "w2_one_step"} <= figures.keys()
    assert figures["w2_floor"] < figures["w2_one_step"] < math.inf


def test_the_two_sided_task_has_its_scale():
    """Global standard deviation 7, mean 0; radius 12 and 1.5 on each axis. Errors of means over 100,000 rows."""
    start = plane_tasks.START["moons-8gaussians"].sample(100_000, torch.Generator().manual_seed(0))
    assert start.mean(0).abs().max() < 5 * 8.6 / math.sqrt(100_000)
    assert float(start.var(0).mean().sqrt()) == pytest.approx(7, abs=0.05)
    end = plane_tasks.TARGET["moons-8gaussians"].sample(100_000, torch.Generator().manual_seed(1))
    assert float(end.square().sum(1).mean()) == pytest.approx(12**2 + 2 * 1.5**2, abs=5 * 37 / math.sqrt(100_000))


def test_pairings_differ_in_the_pairing_alone():
    cells = pairing_2d.plan(pairing_2d.TASKS, tuple(pairing_2d.PAIRINGS), pairing_2d.SEEDS, 10)
    assert len({cell.name for cell in cells}) == len(cells) == 5 * (5 + 5 + 8 + 6)
    plain = pairing_2d.settings_of("moons", "batch", 42, 10)
    for pairing in ("pool", "whole", "semidiscrete"):
        other = pairing_2d.settings_of("moons", pairing, 42, 10)
        changed = {name for name in plain if plain[name] != other[name]}
        assert changed <= {"pairing", "pool", "pool_uses", "options"}


def test_what_beats_ot_cfm():
    """Below the mean by two standard errors of it, and by more than the noise; 0.065 ± 0.0022 over five seeds."""
    batch = [0.06, 0.07, 0.065, 0.068, 0.062]
    told = beat_rule.verdict
    assert told([0.02, 0.03, 0.025, 0.02, 0.03], batch, 0.02) == "beats: lower by 0.040 (2 SE 0.004, noise 0.020)"
    assert told([0.05] * 5, batch, 0.02) == "cannot decide: -0.015 is within the noise (2 SE 0.004, noise 0.020)"
    assert told([0.05] * 5, batch, 0.01).startswith("beats: lower by 0.015")
    assert told([0.063] * 5, batch, 0.001).startswith("no: lower by 0.002 only (2 SE 0.004")
    assert told([0.9] * 5, batch, 0.02).startswith("no: higher by 0.835")
    assert told([0.02], batch, 0.02).endswith(", with 1 of 5 seeds so far")
    assert told([0.0] * 5, batch, 0.07).startswith("cannot decide: OT-CFM's own 0.065 is within the noise")
    assert told([0.02], batch[:1], 0.02) == "cannot decide: OT-CFM has 1 of 5 seeds"
    assert told([0.02], batch, None) == "cannot decide: the noise is not known before a second seed"


def test_the_noise_is_that_of_the_seeds():
    found = [
        {"seed": seed, "figures": {"w2_squared_source_test": squared, "w2_floor": floor}}
        for seed, squared, floor in ((1, 1.0, 0.1), (2, 3.0, 0.3), (1, 1.0, 0.1))  # two rows share a seed's sets
    ]
    assert beat_rule.noise_of(found, "npe") == pytest.approx(math.sqrt(2) / 2)
    assert beat_rule.noise_of(found, "w2") == pytest.approx(0.2 / math.sqrt(2))
    assert beat_rule.noise_of(found[:1], "w2") is None


def test_tables(tmp_path):
    figures = {"npe": 0.02, "w2": 0.3, "w2_floor": 0.2, "preparation_cpu_seconds": 5.0, "training_cpu_seconds": 60.0}
    pairing_2d.write_table(tmp_path / "a.md", [record(pairing_2d.settings_of("moons", "whole", 42, 10), figures)])
    text = (tmp_path / "a.md").read_text()
    assert (
        "| moons | whole | 1 of 5 | 10 | 0.020 | – | 0.300 (0.200) | – | 5 s | 60 s | beats: lower by 0.044 (" in text
    )
    assert "with 1 of 5 seeds so far" in text
    assert "- **moons**: 16 of 40 cells, 3 of 8 rows whole." in text
    assert "- NPE: lowest is `whole` (0.020); beats" in text
    assert "- **moons-8gaussians**: 0 of 30 cells, 0 of 6 rows whole." in text
    assert "| moons | batch | 5 of 5 | 20000 |" in text  # of `transport_2d`
    assert "31 of " in text


def test_the_plan_costs_what_an_exact_assignment_does():
    """Of 10,000 source points to as many test points: W2² between the samples is the plan's cost up to the source's own
    noise and the bias of the sampled distance, a few per cent here."""
    cost = transport_2d_plan.known()["moons"]["42"]
    assert cost == pytest.approx(1.2280, rel=0.05)
    assert transport_2d_plan.plan_cost("moons", 42) == pytest.approx(cost, rel=1e-9)


def test_large_couplings(tmp_path):
    settings = large_couplings.settings_of(600, 2)
    measured = large_couplings.run_cell(settings)
    assert measured["dual_bound"] <= measured["exact"] * (1 + 1e-9) <= measured["cost"] * (1 + 2e-9)
    assert measured["lower_bound"] <= measured["exact"] <= measured["batches"] <= measured["independent"]
    large_couplings.write_table(tmp_path / "b.md", [record(settings, measured)])
    assert "| 600 | 2 |" in (tmp_path / "b.md").read_text()
