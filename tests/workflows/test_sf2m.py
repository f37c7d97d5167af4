"""`sf2m` from request to rows: trained, stopped, continued, opened, and used by the ODE and by the SDE."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from advect.data import read_table
from advect.records import Table
from advect.workflows.generate import SolverChoice, generate
from advect.workflows.open import open_run
from advect.workflows.transport import transport
from tests.faces.made_runs import advect
from tests.workflows.tiny import moons, run, stop_after

SDE = SolverChoice(name="bridge-sde", steps=20)


def numbers(generated):
    return np.stack([np.asarray(column, dtype=float) for column in generated.table.columns], 1)


def classes() -> Table:
    x = moons()
    label = np.array(np.where(x[:, 0] > 0.5, "right", "left"), dtype=object)
    return Table(
        names=("x", "y", "label"),
        columns=(x[:, 0], x[:, 1], label),
        container="csv",
        event_shape=(3,),
        dtypes=("float64", "float64", "str"),
        origin="classes",
    )


def test_stopped_and_continued_equals_straight(tmp_path):
    """The same bits in both networks; the SDE then draws the same rows, seed by seed."""
    straight = run(moons(), out=tmp_path / "straight", method="sf2m").artefact
    stopped = run(moons(), out=tmp_path / "run", method="sf2m", stop=stop_after(13))
    assert stopped.state == "interrupted"
    run(moons(), out=tmp_path / "run", method="sf2m")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "run"))
    assert one.keys() == other.keys()
    assert any("score_network" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    opened = open_run(tmp_path / "run")
    for choice in (SDE, SolverChoice()):
        rows = [numbers(generate(artefact, 30, choice=choice, seed=3)) for artefact in (straight, opened)]
        assert np.array_equal(*rows)
    own = SolverChoice(name="bridge-sde", steps=20, noise=1.0)  # σ is 1 by default
    drawn = [numbers(generate(opened, 30, choice=choice, seed=3)) for choice in (SDE, own)]
    assert np.array_equal(*drawn)
    assert not np.array_equal(drawn[0], numbers(generate(opened, 30, choice=SDE, seed=4)))


def test_with_a_source_and_with_a_condition(tmp_path):
    """Any rows as the source; conditions reach both networks."""
    sourced = run(moons(), source=moons(70, seed=3), method="sf2m").artefact
    found = generate(sourced, 25, choice=SDE)
    assert found.nfe == 40
    assert np.isfinite(numbers(found)).all()
    assert transport(sourced, read_table(moons(10)), to="source").table.num_rows == 10
    conditional = run(classes(), condition=("label",), method="sf2m").artefact
    left, right = (
        np.asarray(generate(conditional, 25, condition=word, choice=SDE).table.columns[0]) for word in ("left", "right")
    )
    assert not np.array_equal(left, right)


@pytest.mark.slow
def test_from_the_command(tmp_path):
    """Processes: train on the moons, sample by SDE with any diffusion, score."""
    np.savez(tmp_path / "moons.npz", X=moons(400))
    done = advect("train moons.npz --method sf2m --steps 60 --network mlp-1x8 --set sigma=0.7 --out run", tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = []
    for noise in ("", " --noise 0.2"):
        done = advect(f"sample run -n 50 --solver bridge-sde --steps 30{noise} --out new.csv --json", tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["nfe"] == 60
        drawn.append((tmp_path / "new.csv").read_text())
    assert drawn[0] != drawn[1]
    done = advect("score run new.csv --out scores.csv", tmp_path)
    assert done.returncode == 0, done.stderr
