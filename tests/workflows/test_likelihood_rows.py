"""Rows that are trained by likelihood, through the whole of `train`: mixed tables, resuming, loading, verbs."""

import numpy as np
import pytest
import scipy.stats
import torch

from advect.data import read_table
from advect.errors import AdvectError, ConfigError, UnsupportedError
from advect.records import Status
from advect.run import MODEL, read_tensors
from advect.workflows.evaluate import evaluate_rows
from advect.workflows.fit import train
from advect.workflows.generate import SolverChoice, generate
from advect.workflows.open import open_run
from advect.workflows.score import score
from advect.workflows.transport import transport
from tests.workflows.tiny import mixed, moons, request, run, stop_after

# One per kind of map; every row goes through `tests/methods`.
ROWS = ["sylvester", "realnvp", "nsf", "flowpp", "maf", "nsf-ar", "umnn", "residual", "cnf", "rnode", "ot-flow"]
SMALL = {"steps": 8, "network": "mlp-2x8"}
OPTIONS = {
    "cnf": {"training_steps": 3},
    "rnode": {"training_steps": 3},
    "ot-flow": {"training_steps": 3},
    "sylvester": {"layers": 2},
    "residual": {"layers": 2},
}

rows = pytest.mark.parametrize("method", ROWS)


def settings(method: str, **more) -> dict:
    return SMALL | {"method": method, "options": OPTIONS.get(method, {"layers": 2})} | more


def same_weights(left, right) -> bool:
    a, b = read_tensors(left / MODEL)[0], read_tensors(right / MODEL)[0]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@rows
def test_interrupted_and_continued_equals_straight(method, tmp_path):
    """Exact resume, where the state also holds flags, norms and probes (traps T7, T14, O6)."""
    run(moons(80), out=tmp_path / "straight", **settings(method))
    for steps in (0, 3):
        assert run(moons(80), out=tmp_path / "run", stop=stop_after(steps), **settings(method)).state == "interrupted"
    assert run(moons(80), out=tmp_path / "run", **settings(method)).state == "finished"
    assert same_weights(tmp_path / "straight", tmp_path / "run")


@rows
def test_a_mixed_table_goes_all_the_way(method, tmp_path):
    """Gaps, categories, whole numbers: trained, loaded, sampled, scored, moved there and back."""
    table = mixed(120)
    run(table, out=tmp_path / "run", **settings(method, steps=4))
    artefact = open_run(tmp_path / "run")
    drawn = generate(artefact, 30, seed=1)
    assert drawn.usable.all()
    assert drawn.table.names == table.names
    scored = score(artefact, drawn.table, importance_samples=2).estimate
    assert torch.isfinite(scored.value).all()
    assert set(scored.status.tolist()) <= {int(Status.OK), int(Status.IMPUTED)}
    there = transport(artefact, drawn.table, to="source", seed=3)
    back = transport(artefact, there.table, to="target")
    kept, original = back.table.columns[0], np.asarray(drawn.table.columns[0], dtype=np.float64)
    # float32 through a few layers and back, relative; the adaptive solver at 1e-5 for the ODEs.
    np.testing.assert_allclose(np.asarray(kept, dtype=np.float64), original, rtol=5e-3)


@pytest.mark.parametrize("method", ["nsf", "nsf-ar"])
def test_heavy_tails_reach_far_beyond_the_box_of_the_splines(method, tmp_path):
    """Trap T11: rows are scaled first, the tails are straight, and the box stands in the configuration.

    Student's t with two degrees of freedom has no variance; its entropy is log(2√2) + (3/2)(ψ(3/2) − ψ(1)) = 1.96 nats,
    so no two such columns can be scored above −3.92 but by chance.
    """
    values = np.random.default_rng(0).standard_t(2, size=(2000, 2))
    done = run(values, out=tmp_path / "run", **settings(method, steps=30))
    assert "bound = 5.0" in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    fresh = np.random.default_rng(1).standard_t(2, size=(2000, 2))
    assert np.abs(fresh).max() > 10 * 5.0
    log_prob = score(done.artefact, read_table(fresh)).estimate.value
    assert torch.isfinite(log_prob).all()
    entropy = 2 * scipy.stats.t(2).entropy()
    error = float(log_prob.std()) / len(fresh) ** 0.5
    assert -entropy - 1.0 < float(log_prob.mean()) < -entropy + 4 * error


@rows
def test_a_condition_is_learned(method, tmp_path):
    table = mixed(120)
    artefact = run(table, condition=("sold",), **settings(method, steps=4)).artefact
    assert [c.name for c in artefact.schema.condition] == ["sold"]
    drawn = generate(artefact, 20, condition="sold=true", seed=1)
    assert drawn.usable.all()
    assert np.asarray(drawn.table.columns[drawn.table.names.index("sold")]).all()


def test_figures_of_a_discrete_flow_name_no_solver(tmp_path):
    request_ = request(moons(200), out=tmp_path / "run", **settings("nsf"))
    result = train(request_, evaluate=True)
    assert result.evaluation["sampling"]["solver"] is None
    assert result.evaluation["transport"] == {}
    assert result.evaluation["likelihood"]["row_error"] == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Neural spline flow" in page
    assert "solver steps" not in page
    assert "sampling" not in open_run(tmp_path / "run").config


def test_what_an_ode_takes_is_refused(tmp_path):
    artefact = run(moons(80), condition=(), **settings("nsf")).artefact
    for choice in (SolverChoice(name="rk4"), SolverChoice(steps=3), SolverChoice(tolerance=1e-3)):
        with pytest.raises(ConfigError, match="no ODE"):
            generate(artefact, 3, choice=choice)
    with pytest.raises(UnsupportedError, match="discrete layers"):
        artefact.flow.trajectory(3, torch.tensor([0.0, 1.0]))
    guided = run(mixed(60), condition=("sold",), **settings("nsf")).artefact
    with pytest.raises(AdvectError, match=r"no ODE|discrete layers"):
        generate(guided, 3, choice=SolverChoice(guidance=1.0))
    for name, value in (("likelihood_solver", "dopri5"), ("condition_dropout", 0.1)):
        with pytest.raises(ConfigError, match="no ODE to guide or to solve"):
            run(moons(80), settings={name: value}, **settings("nsf"))
    with pytest.raises(ConfigError, match="source with a density"):
        run(moons(80), source=moons(40), **settings("maf"))


def test_a_likelihood_trained_ode_keeps_its_solver_choices(tmp_path):
    artefact = run(moons(80), **settings("cnf")).artefact
    assert generate(artefact, 5, choice=SolverChoice(name="rk4", steps=2)).nfe == 8
    assert artefact.flow.ode.likelihood_solver is not None
    # The score is an adaptive solve, not the three steps of training.
    assert float(score(artefact, generate(artefact, 5).table).estimate.nfe.min()) > 12


def test_pictures_go_through_convolutions(tmp_path):
    pytest.importorskip("sklearn")
    result = run("digits", out=tmp_path / "run", method="glow", steps=2, network="mlp-2x8", batch_size=16)
    artefact = open_run(tmp_path / "run")
    assert artefact.flow.event_shape == (1, 8, 8)
    drawn = generate(artefact, 4)
    assert drawn.table.image
    assert drawn.usable.all()
    assert result.state == "finished"
    with pytest.raises(ConfigError, match="glow works on pictures"):
        run(moons(80), **settings("glow") | {"options": {}})


def test_held_out_rows_are_scored_beside_the_gaussian_fit():
    """Trap O4: an untrained flow is the Gaussian fit, so the two figures agree before training."""
    outcome = run(moons(400), **settings("nsf", steps=1), training={"learning_rate": 1e-12})
    assert outcome.artefact is not None
    prepared = request(moons(400), **settings("nsf"))
    from advect.workflows.prepare import prepare

    ready = prepare(prepared)
    figures = evaluate_rows(outcome.artefact, ready.table, ready.split)["likelihood"]
    # Both are the Gaussian fit of the training rows, one in float32 and with a floor on its eigenvalues.
    assert figures["difference"] == pytest.approx(0, abs=2e-2)
