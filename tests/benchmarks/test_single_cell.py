"""The single-cell benchmark: its distances against closed forms, its table, and a cell from end to end."""

import numpy as np
import pytest
import torch

from benchmarks import single_cell
from benchmarks.cells import read_records, run_and_tabulate

pytest.importorskip("ot")


def test_distances_of_unequal_numbers_of_rows():
    """W1 on the line is the area between the distribution functions."""
    a, b = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.5], [3.0]])
    # F_a − F_b: 1/3 on [0, ½], −1/6 on [½, 1], 1/6 on [1, 2], ½ on [2, 3].
    assert single_cell._distance(a, b) == pytest.approx(1 / 6 + 1 / 12 + 1 / 6 + 1 / 2)


def test_the_interpolated_plan_keeps_its_mass():
    before, after = torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0], [11.0], [12.0]])
    points, weights = single_cell._interpolated(before, after, 0.5)
    assert weights.sum() == pytest.approx(1)
    # Monotone: half of 11 goes with 0, half with 1.
    assert sorted(zip(points[:, 0].tolist(), weights.round(6).tolist(), strict=True)) == [
        (5.0, 0.333333), (5.5, 0.166667), (6.0, 0.166667), (6.5, 0.333333)
    ]  # fmt: skip


def record(time: int, method: str, value: float) -> dict:
    figures = {"w1": value, "interpolation": 1.0, "still": 2.0, "floor": 0.5, "halved": value}
    settings = {"set": "sc_emt", "left_out": time, "method": method, "seed": 0, "steps": 5}
    made = {"machine": {"processor": "P"}, "versions": {"torch": "T"}, "date": "2026-01-01T00:00"}
    return {"settings": settings, "figures": figures, **made}


def test_the_table_takes_means_over_what_every_method_has(tmp_path):
    records = [record(1, "ot-cfm", 1.0), record(1, "i-cfm", 3.0), record(2, "ot-cfm", 9.0)]
    single_cell.write_table(tmp_path / "table.md", records)
    text = (tmp_path / "table.md").read_text()
    assert "| ot-cfm | 1.000 | – |" in text
    assert "sc_emt (1 of 2)" in text
    assert "3 of 252 cells" in text


@pytest.mark.parametrize("method", ["ot-cfm", "torchcfm-ot"])
def test_a_cell_from_end_to_end(method, tmp_path, monkeypatch):
    if method.startswith("torchcfm"):
        pytest.importorskip("torchcfm")
    random = np.random.default_rng(0)
    t = np.repeat([0, 1, 2], 40)
    home = tmp_path / "sc_mouse_hematopoiesis"
    home.mkdir()
    np.savez(home / "sc_mouse_hematopoiesis.npz", X=random.standard_normal((120, 2)) + t[:, None], t=t)
    monkeypatch.setenv("ADVECT_DATA", str(tmp_path))
    settings = single_cell.settings_of("sc_mouse_hematopoiesis", 1, method, 0, steps=5)
    figures = single_cell.run_cell(settings)
    assert figures["rows"] == {"real": 40, "pushed": 40, "after": 40}
    assert figures["lost"] == 0
    assert 0 < figures["interpolation"] < figures["still"]
    assert np.isfinite(figures["w1"])


def test_the_queue_is_asked_for_every_time(tmp_path):
    cells = single_cell.plan(["sc_emt", "sc_simulated_grn"], ["ot-cfm", "i-cfm"], [0, 1], 10)
    assert len(cells) == 2 * 2 * (2 + 3)
    assert len({cell.name for cell in cells}) == len(cells)
    assert run_and_tabulate(cells, tmp_path / "none", lambda: None, table_only=True) == 0
    assert read_records(tmp_path) == []
