"""The differential benchmark: what counts as passed, and that its table says so."""

import json

import pytest
import torch

from benchmarks import differential
from benchmarks.differential import Errors, rows, table

GOOD = Errors("zuko", "LU", 2, 0, 1e-15, 2e-15, 3e-14, 4e-15, None)


def test_the_worst_of_all_sizes_is_shown_and_a_missing_figure_is_a_word():
    other = Errors("zuko", "LU", 5, 0, 1e-12, 0.0, 0.0, 0.0, None)
    page = table([GOOD, other], {"zuko": "1.6.0"})
    assert "**Pass**: 2 comparisons" in page
    assert "| zuko | LU | 2 | 1.0e-12 | 2.0e-15 | 3.0e-14 | 4.0e-15 | does not run |" in page
    assert "zuko 1.6.0" in page


@pytest.mark.parametrize("bad", [2e-6, float("nan")])
def test_an_error_above_the_tolerance_and_one_that_is_no_number_fail(bad):
    for place in range(4):
        figures = [0.0] * 4
        figures[place] = bad
        page = table([GOOD, Errors("nflows", "QR", 2, 0, *figures, 0.0)], {})
        assert "**Fail**" in page


def test_rows_lie_within_without_and_on_the_edges():
    x, condition = rows(5, 3, 0)
    assert condition.shape == (differential.ROWS, 3)
    assert rows(5, 0, 0)[1] is None
    assert {-5.0, 5.0, -3.0, 3.0} <= set(x.flatten().tolist())
    assert float(x.abs().max()) > 8
    assert x.dtype == torch.float64


def test_the_command_writes_page_and_figures_and_says_whether_it_passed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(differential, "run", lambda: [GOOD])
    monkeypatch.setattr(differential.metadata, "version", lambda package: "1.0")
    assert differential.main(["--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "differential.json").read_text(encoding="utf-8"))
    assert record["errors"][0]["layer"] == "LU"
    assert record["versions"]["nflows"] == "1.0"
    assert capsys.readouterr().out.startswith("# Differential")
    monkeypatch.setattr(differential, "run", lambda: [Errors("zuko", "LU", 2, 0, 1.0, 0.0, 0.0, 0.0, None)])
    assert differential.main(["--out", str(tmp_path)]) == 1
