"""The picture benchmark: its plan, and its table from records."""

from pathlib import Path

import pytest

from advect.errors import DataError
from benchmarks import images, images_plan
from benchmarks.cells import read_records


def metric(name, value, floor):
    return {"name": name, "value": value, "error": 0.01, "floor": floor, "floor_error": 0.02}


def record(method, bits):
    names = ("Fréchet distance", "kernel distance", "precision", "recall", "coverage")
    figures = {
        "steps": 12,
        "training_cpu_seconds": 61.4,
        "sampling_cpu_seconds": 4.0,
        "network_evaluations": 25.0,
        "metrics": [metric(f"{name} of features", 0.5, 0.25) for name in names]
        + [metric("near-copy share", 0.02, 0.01)],
        "features": {"features": "64 features of a classifier", "samples": 200, "held_out": 400},
        "bits": {"mean": bits, "error": 0.1},
    }
    settings = images_plan.settings_of("fashion", method, 60.0)
    machine = {"processor": "a processor"}
    versions = {"torch": "2.13"}
    return {
        "cell": f"fashion-{method}",
        "settings": settings,
        "figures": figures,
        "date": "2026-11-28T00:00",
        "machine": machine,
        "versions": versions,
    }


def test_every_cell_has_a_command_of_its_own():
    cells = images.plan(tuple(images.SETS), tuple(images.METHODS), 60.0)
    assert len({cell.name for cell in cells}) == len(cells) == len(images.SETS) * len(images.METHODS) == 18
    assert all("--budget 60" in cell.command for cell in cells)


def test_the_table_says_what_the_records_say(tmp_path):
    images.write_table(tmp_path / "t.md", [record("ot-cfm", 3.21), record("realnvp", 4.56)])
    text = (tmp_path / "t.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| realnvp"))
    assert "| 12 | 61 | 4.56 ± 0.10 | 0.50 ± 0.01 (0.25) | 500 ± 10 (250) |" in row
    assert row.endswith("| 0.020 (0.010) | 20 (25) |")


def test_a_longer_run_says_how_far_it_came(tmp_path):
    own = record("ot-cfm", 3.21)
    own["settings"] |= {"run": "fashion", "command": "advect train pictures"}
    del own["figures"]["training_cpu_seconds"]
    own["figures"] |= {"planned_steps": 20, "training_seconds": 99.0, "guided": own["figures"] | {}}
    images.write_table(tmp_path / "t.md", [own])
    text = (tmp_path / "t.md").read_text()
    assert "| ot-cfm, a longer run | 12 of 20, stopped | 99 by the clock |" in text
    assert "`advect train pictures --steps 20 --batch-size 16" in text
    assert "(images/fashion_guided.png)" in text


def test_the_recorded_run_is_a_cell_of_the_plan():
    records = {record["cell"]: record for record in read_records(images.RESULTS)}
    for data in images.SETS:
        if f"{data}-run" in records:
            record = records[f"{data}-run"]
            assert record["settings"] == images_plan.run_cell_of(data, record["settings"]["run"]).settings


def test_without_the_folder_of_data_it_says_so(monkeypatch):
    monkeypatch.delenv("ADVECT_DATA", raising=False)
    with pytest.raises(DataError, match="ADVECT_DATA"):
        images.data_path("mnist/train")


def test_the_table_in_the_repository_is_that_of_its_records(tmp_path):
    records = read_records(images.RESULTS)
    if not records:
        pytest.skip("nothing was recorded yet")
    images.write_table(tmp_path / "t.md", records)
    assert (tmp_path / "t.md").read_text() == Path(f"{images.RESULTS}.md").read_text()


def test_couplings_of_a_longer_budget_are_cells_of_their_own_and_say_what_many_pictures_cost(tmp_path):
    short, longer = (images.plan(("mnist",), ("notes",), budget)[0] for budget in (60.0, 300.0))
    assert (short.name, longer.name) == ("mnist-notes", "mnist-notes-300")
    own = record("realnvp", 2.0)
    own["settings"] = dict(longer.settings)
    own["figures"]["bits_of_many"] = {"mean": 2.345678, "error": 0.0123, "rows": 1000}
    images.write_table(tmp_path / "t.md", [own])
    text = (tmp_path / "t.md").read_text()
    assert "| notes-300 | 12 |" in text
    assert "notes-300: 2.346 ± 0.012 bits/dim on 1000 held-out pictures, 12 steps of 64" in text
    assert "(images/mnist-notes-300.png)" in text
