"""The benchmark of large sets: the file it writes, and what it reads off a run."""

import sys

import numpy as np
import pytest

from benchmarks import big_sets


@pytest.mark.parametrize("kind", list(big_sets.KINDS))
def test_the_file_has_the_rows_it_should(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(big_sets, "BLOCK_BYTES", 1 << 16)
    settings = big_sets.settings_of(kind, 2**-12, 10)
    rows, num_bytes = big_sets.write_rows(tmp_path / "x.npy", settings)
    found = np.load(tmp_path / "x.npy")
    assert found.shape == (rows, *settings["event"])
    assert str(found.dtype) == settings["dtype"]
    assert num_bytes == (tmp_path / "x.npy").stat().st_size
    assert rows * found[0].nbytes <= 2**18 < (rows + 1) * found[0].nbytes
    assert not (found.reshape(rows, -1) == 0).all(1).any()


def test_memory_is_told_apart_by_what_the_run_had_said():
    text = "reading …\nstep 10/100 (1k rows/s)\nevaluating …\n"
    said = [text.find(word) + 1 for word in ("reading", "step 1", "evaluating")]
    samples = [[0.5, 100, 1, said[0]], [1.0, 300, 1, said[0]], [2.0, 200, 1, said[1]], [3.5, 210, 1, said[1]]]
    found = big_sets.phases([*samples, [4.0, 400, 1, said[2]]], text)
    assert found["reading"] == {"seconds": 0.5, "least": 100, "largest": 300}
    assert found["training"] == {"seconds": 1.5, "least": 200, "largest": 210}
    assert found["figures"]["largest"] == 400
    assert "measuring" not in found


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="there is no such file"):
        big_sets.watched([sys.executable, "-m", "advect", "train", "missing.npy"])
