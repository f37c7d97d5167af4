"""Reflow: pairs of one run train another, on straighter paths between the same laws."""

import numpy as np
import pytest
import torch

import advect
from advect.errors import ConfigError, RunFolderError
from advect.run import RunFolder, read_tensors
from advect.solvers import Euler
from advect.training import TaughtBatches, TaughtRows, generator_for
from advect.workflows.open import open_run
from advect.workflows.prepare import prepare
from advect.workflows.reflow import PAIRS, make_pairs
from tests.workflows.tiny import moons, request, run


def gaussian(rows=400):
    """Mean (3, −1), standard deviations 2 and 0.5: standardised, and with it the exact map, a shift and a scale."""
    z = np.random.default_rng(0).standard_normal((rows, 2))
    return np.array([3.0, -1.0]) + z * np.array([2.0, 0.5])


def stop_after(steps):
    count = iter(range(10**6))
    return lambda: next(count) >= steps


def one_step_error(model, pairs):
    """Mean squared distance of a single Euler step from where the pairs end."""
    field = model.flow.ode.field
    with torch.no_grad():
        reached = Euler(steps=1)(field, pairs.x0, 0.0, 1.0).state
    return float((reached - pairs.x1).square().sum(1).mean())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """One step at rate zero: the flow is the exact one of the Gaussian fit under independent pairs."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run(gaussian(), method="rf", out=folder, steps=1, training={"learning_rate": 1e-12}, evaluate=True)
    return folder


def test_pairs_of_a_gaussian_are_the_optimal_map(teacher):
    """Between Gaussians with commuting covariances the flow of independent pairs ends at the optimal, affine map; here
    in standardised units, so that it is x1 = m + L z, and E|x1 − x0|² = |m|² + tr (L − 1)²."""
    prepared = prepare(request(gaussian(), method="rf", reflow=teacher, pairs=3000))
    pairs = make_pairs(prepared)
    assert len(pairs.x0) == 3300
    design = torch.cat([torch.ones(len(pairs.x0), 1), pairs.x0], 1).double()
    fit = torch.linalg.lstsq(design, pairs.x1.double()).solution
    # What is left is the solver's error, at tolerance 1e-5, and float32.
    assert float((design @ fit - pairs.x1).abs().max()) < 3e-4
    assert float((fit[1:] - fit[1:].T).abs().max()) < 3e-4  # symmetric: the gradient of a convex function
    expected = fit[0].square().sum() + (fit[1:] - torch.eye(2).double()).square().sum()
    standard_error = (pairs.x1 - pairs.x0).square().sum(1).std() / len(pairs.x0) ** 0.5
    assert pairs.cost()["mean_cost"] == pytest.approx(float(expected), abs=5 * float(standard_error) + 1e-6)
    assert pairs.cost()["independent_cost"] > 10 * pairs.cost()["mean_cost"]


def test_reflow_straightens_and_needs_one_step(teacher):
    how = {"method": "rf", "pairs": 4000, "steps": 400, "batch_size": 256, "training": {"learning_rate": 3e-3}}
    result = run(gaussian(), reflow=teacher, evaluate=True, **how)
    before, after = result.evaluation["transport"]["before_reflow"], result.evaluation["transport"]["straightness"]
    assert result.artefact.config["data"]["reflow_weights"] is True
    assert before > 0.3  # (2 − π/2) d s of the closed form, less what the fit differs from it
    assert after < 0.05 * before
    pairs = make_pairs(prepare(request(gaussian(), reflow=teacher, **how)))
    # A single step of the first flow is off by its curve: it sends everything to the mean.
    assert one_step_error(result.artefact, pairs) < 0.02 * one_step_error(open_run(teacher), pairs)


def test_a_continued_run_has_the_bits_of_an_undisturbed_one(teacher, tmp_path):
    how = {"method": "rf", "reflow": teacher, "pairs": 300}
    whole = run(gaussian(), out=tmp_path / "whole", **how)
    assert run(gaussian(), out=tmp_path / "cut", stop=stop_after(13), **how).state == "interrupted"
    kept = read_tensors(tmp_path / "cut" / PAIRS)[0]
    cut = run(gaussian(), out=tmp_path / "cut", **how)
    for name, tensor in whole.artefact.flow.state_dict().items():
        assert torch.equal(tensor, cut.artefact.flow.state_dict()[name]), name
    assert kept["x0"].shape == (330, 2)
    # Damaged pairs are made again.
    run(gaussian(), out=tmp_path / "torn", stop=stop_after(13), **how)
    (tmp_path / "torn" / PAIRS).write_bytes(b"torn")
    torn = run(gaussian(), out=tmp_path / "torn", **how)
    assert torch.equal(
        torn.artefact.flow.sample(5, generator=generator_for(0)),
        whole.artefact.flow.sample(5, generator=generator_for(0)),
    )


def test_a_stored_run_opens_and_is_no_score(teacher, tmp_path):
    run(gaussian(), method="i-cfm", network="mlp-1x8", out=tmp_path / "run", reflow=teacher, pairs=300)
    artefact = open_run(tmp_path / "run")
    assert artefact.config["data"]["reflow_weights"] is False  # another method: fresh weights
    assert not artefact.flow.ode.field.has_score
    assert artefact.flow.log_prob(torch.as_tensor(gaussian(5))).isfinite().all()
    other = run(gaussian(), method="rf", network="residual-1x16", reflow=teacher, pairs=300)
    assert other.artefact.config["data"]["reflow_weights"] is False  # another network


def test_source_rows_and_conditions_come_along(tmp_path):
    x, start = moons(), moons(seed=1) + 2
    run(x, method="rf", out=tmp_path / "from", source=start)
    artefact = run(x, method="rf", reflow=tmp_path / "from", out=tmp_path / "to", pairs=300).artefact
    assert torch.equal(artefact.flow.base.points, open_run(tmp_path / "from").flow.base.points)
    assert open_run(tmp_path / "to").flow.sample(7, generator=generator_for(0)).isfinite().all()

    label = (x[:, 0] > 0).astype(float)
    names = {"method": "rf", "steps": 40, "network": "residual-1x8", "batch_size": 32, "seed": 0}
    first = advect.fit(x, condition=label, out=tmp_path / "a", **names)
    second = advect.fit(x, condition=label, reflow=first, pairs=300, **names)
    assert second.sample(6, condition=np.zeros(6)).shape == (6, 2)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seed": 1}, "other rows"),
        ({"data": gaussian(401)}, "other rows"),
        ({"data": np.random.default_rng(0).standard_normal((400, 3))}, "other columns"),
        ({"source": gaussian()}, "--source cannot be used"),
        ({"weights": "w"}, "--weights cannot be used"),
        ({"time_key": "t"}, "--time-key cannot be used"),
        ({"training": {"pool": 4}}, "pool cannot be used"),
        ({"method": "fm"}, "draws its noise apart"),
        ({"method": "ddpm"}, "draws its noise apart"),
        ({"method": "sf2m"}, "score of a bridge"),
        ({"options": {"predict": "score"}}, "predict=score"),
        ({"pairs": 1}, "too few"),
    ],
)
def test_what_is_refused(teacher, more, words):
    how = {"data": gaussian(), "method": "rf", "pairs": 300} | more
    with pytest.raises(ConfigError, match=words):
        run(how.pop("data"), reflow=teacher, **how)


def test_runs_without_such_paths_are_refused(teacher, tmp_path):
    run(gaussian(), method="realnvp", network="auto", out=tmp_path / "layers", steps=2)
    run(gaussian(), method="ve", out=tmp_path / "ve", steps=2)
    for name, words in (("layers", "no paths"), ("ve", "another size")):
        with pytest.raises(ConfigError, match=words):
            run(gaussian(), method="rf", reflow=tmp_path / name)
    with pytest.raises(RunFolderError):
        run(gaussian(), method="rf", reflow=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no run that makes pairs"):
        request(gaussian(), pairs=10)
    run(gaussian(), method="rf", reflow=teacher, pairs=300, out=tmp_path / "run", stop=stop_after(3))
    with pytest.raises(RunFolderError, match="pairs"):
        run(gaussian(), method="rf", reflow=teacher, pairs=200, out=tmp_path / "run")
    assert RunFolder(tmp_path / "run").state == "started"


def test_batches_are_the_pairs_themselves():
    x0 = torch.arange(12.0)[:, None]
    batches = TaughtBatches(TaughtRows(x0, x0 + 100, x0 * 2), 5, seed=0)
    seen = []
    for step in range(12):
        batch = batches.draw(step, generator_for(0))
        assert torch.equal(batch.x1, batch.x0 + 100)
        assert torch.equal(batch.condition, 2 * batch.x0)
        seen.append(batch.x0)

    counts = torch.cat(seen).flatten().long().bincount(minlength=12)
    assert counts.tolist() == [5] * 12  # five epochs
    assert batches.report["mean_cost"] == 100.0**2
