"""The protocols in the plane that compare losses of one network: their truth, their settings, their tables."""

import json

import torch

from advect.flows import EmpiricalField
from advect.paths import Linear, Trigonometric
from benchmarks import five_losses, unification
from benchmarks.cells import Cell, is_finished
from benchmarks.plane_train import Rows, mean_and_sd

SMALL = {"train_rows": 64, "validation_rows": 16, "test_rows": 60}


def test_the_exact_denoiser_is_that_of_many_points():
    """Against the exact field of 60,000 drawn rows, which shares no code: sampling error of 1/√60000 of the spread."""
    settings = unification.settings_of("linear", "x1", "own", 0, 10) | {"train_rows": 60_000, "test_rows": 50}
    rows = Rows(settings)
    for schedule in (Linear(), Trigonometric()):
        t = torch.tensor(0.4, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = alpha * rows.test.double() + sigma * torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator())
        field = EmpiricalField(rows.train.double(), schedule)
        exact = unification.exact_denoiser(x, alpha, sigma, rows)
        assert float((field.denoiser(t, x) - exact).abs().max()) < 0.1
        assert float((field.denoiser(t, x) - exact).square().mean().sqrt()) < 0.02


def test_cells_are_all_there_and_differ_in_what_they_say():
    cells = unification.plan((0, 1), 10)
    assert len(cells) == 2 * 2 * 3 * 5
    assert len({cell.name for cell in cells}) == len(cells)
    assert all(cell.settings["options"]["predict"] == cell.settings["prediction"] for cell in cells)
    assert len(five_losses.plan(tuple(five_losses.LOSSES), (0, 1, 2), 10)) == 21


def test_a_cell_runs_and_its_table_is_made_from_it(tmp_path):
    settings = unification.settings_of("cosine", "noise", "common", 0, 20)
    settings |= SMALL | {"network": "mlp-1x8", "likelihood_rows": 20, "w2_rows": 20}
    figures = unification.run_cell(settings)
    assert len(figures["gaps"]) == len(unification.LAMBDAS)
    assert figures["kl"] == figures["true_log_prob"] - figures["log_prob"] or abs(figures["kl"]) < 1e6
    record = {
        "settings": settings,
        "figures": figures,
        "date": "2026-01-01T00:00:00",
        "machine": {"processor": "test"},
        "versions": {"torch": "2"},
    }
    unification.write_table(tmp_path / "table.md", [record])
    text = (tmp_path / "table.md").read_text()
    assert "| common | cosine | noise | 1 | 20 |" in text
    assert "1 of 90 cells" in text


def test_the_five_losses_run(tmp_path):
    records = []
    for loss in five_losses.LOSSES:
        settings = five_losses.settings_of(loss, 0, 5)
        settings |= SMALL | {"network": "mlp-1x8", "likelihood_rows": 10, "w2_rows": 20, "few": [4]}
        settings["tolerance"] = 1e-2
        figures = five_losses.run_cell(settings)
        assert figures["few"]["4"]["evaluations"] == 4
        records.append({"settings": settings, "figures": figures, "date": "2026-01-01", "machine": {"processor": "t"}})
        records[-1]["versions"] = {"torch": "2"}
        records[-1]["figures"]["few"] = {str(n): figures["few"]["4"] for n in five_losses.FEW}
    five_losses.write_table(tmp_path / "five.md", records)
    assert all(f"| {loss} | 1 | 5 |" in (tmp_path / "five.md").read_text() for loss in five_losses.LOSSES)


def test_an_option_that_came_later_changes_nothing(tmp_path):
    """A result from before an option existed stays finished; a changed one still stops the queue."""
    keys = ("command", "date", "seconds", "cpu_seconds", "versions", "machine", "figures")
    record = dict.fromkeys(keys, 0) | {"cell": "a", "seed": 0, "settings": {"seed": 0, "options": {"sigma": 0.0}}}
    (tmp_path / "a.json").write_text(json.dumps(record))
    later = Cell("a", "m:f", {"seed": 0, "options": {"sigma": 0.0, "predict": "velocity"}}, "")
    assert is_finished(later, tmp_path)


def test_mean_and_sd():
    assert mean_and_sd([1.0]) == "1.000"
    assert mean_and_sd([1.0, 3.0], 1) == "2.0 ± 1.4"
