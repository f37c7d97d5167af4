"""`advect.compare`: arrays in, a record out whose best run can be loaded."""

import numpy as np
import pytest

import advect
from advect.errors import ConfigError
from tests.workflows.tiny import moons


def test_an_array_with_a_condition_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = moons(150)
    side = (rows[:, 0] > 0.5).astype(int)
    heard = []
    found = advect.compare(
        rows, ["nice"], steps=8, seeds=1, batch_size=32, condition=side, label="condition", progress=heard.append
    )
    assert heard
    assert found.folder.parent.name == "runs"
    assert found.rows[0].synthetic.measure == "accuracy"
    model = advect.load(found.best)
    assert np.asarray(model.sample(5, 1)).shape == (5, 2)
    assert advect.compare(rows, "nice", steps=8, seeds=1, batch_size=32, condition=side).state == "finished"


def test_methods_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no method"):
        advect.compare(moons(), [], out=tmp_path / "c")
    with pytest.raises(advect.AdvectError, match="Did you mean"):
        advect.compare(moons(), ["ot-cmf"], out=tmp_path / "c")
