"""The benchmark of couplings under a condition: what a cell does, and the table."""

import pytest
import torch

from benchmarks import conditional_2d as bench
from benchmarks.plane_tasks import ConditionalSource


@pytest.mark.parametrize(("given", "row"), [("nothing", "fm"), ("moon", "ot"), ("moon", "c2ot"), ("x", "c2ot")])
def test_a_cell(given, row, tmp_path):
    settings = bench.settings_of(given, row, 0, 8) | {"rows": 400, "network": "residual-1x16"}
    figures = bench.run_cell(settings)
    assert figures["floor"] < figures["euler"]
    assert figures["euler_nfe"] == 1 < figures["adaptive_nfe"]
    machine = {"processor": "a processor", "cores": 2, "threads": 1}
    record = {"settings": settings, "figures": figures, "machine": machine, "date": "2026-01-01", "seed": 0}
    bench.write_table(tmp_path / "t.md", [record | {"versions": {"torch": "2.13.0"}}])
    table = (tmp_path / "t.md").read_text()
    assert f"| {given} | {row} | 1 of 10 | 8 |" in table
    # Rows of the wrong moon count only where each moon is compared with itself.
    assert (f"| moon, all together | {row} | 1 of 10 | 8 |" in table) == (given == "moon")
    assert figures.get("euler_together", 0.0) <= figures["euler"]


def test_eighty_cells():
    cells = bench.plan(bench.GIVEN, bench.ROWS, bench.SEEDS, 8)
    assert len({cell.name for cell in cells}) == len(cells) == 80


def test_distances_are_inside_classes():
    """Two sets that differ in which class is where are far apart, and equal as wholes."""
    x = ConditionalSource().sample(200, generator=torch.Generator().manual_seed(0))
    first = torch.nn.functional.one_hot(torch.arange(200) % 2, 2).float()
    moved = torch.cat([x[1:], x[:1]])  # every row stands in the other class
    assert bench._distance(x, None, moved, None) < 1e-9
    assert bench._distance(x, first, moved, first) > 0.01
