"""Which solver is enough: measured against a fine solve, the cheapest kept, and nothing where there is no time."""

import math
from dataclasses import replace

import pytest
import torch

from advect.errors import ConfigError
from advect.flows import ContinuousMap, Flow, GaussianBaseline, IsotropicNormal
from advect.methods import full_flow
from advect.paths import Karras
from advect.run import RunFolder
from advect.solvers import Adaptive, make_solver
from advect.workflows.calibrate import EVALUATIONS, TOLERANCE, calibrate, calibrated, summary
from advect.workflows.fit import train
from advect.workflows.generate import SolverChoice, generate
from advect.workflows.open import open_run
from advect.workflows.request import TrainRequest
from tests.workflows.tiny import moons, run


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """A short run, as `train` leaves it."""
    out = tmp_path_factory.mktemp("run") / "run"
    request = TrainRequest(data=moons(), method="vp", out=out, steps=40, network="mlp-1x16")
    return train(request, evaluate=False).artefact


def test_the_cheapest_sufficient_setting_is_kept(artefact):
    """Every trial is measured again by hand; the chosen one is below the tolerance and no cheaper one is."""
    found = artefact.config["calibration"]
    chosen = artefact.config["sampling"]
    trials = {(t["solver"], t["steps"]): t for t in found["trials"]}
    best = trials[chosen["solver"], chosen["steps"]]
    assert found["enough"]
    assert best["error"] <= TOLERANCE
    assert all(t["error"] > TOLERANCE for t in trials.values() if t["evaluations"] < best["evaluations"])
    # The same rows by hand: a source of the same stream, the fine solve, the chosen solver.
    again = calibrate(artefact)
    assert again is not None
    assert [t.error for t in again.trials] == [t["error"] for t in found["trials"]]
    names = {t["solver"] for t in found["trials"]}
    assert {"adams3", "adams3-noise", "adams3-straight", "dpm++2m", "heun"} == names
    assert {t["evaluations"] for t in found["trials"] if t["solver"] == "heun"} <= set(map(float, EVALUATIONS))
    # Every solver is tried until it is good enough or costs twice what is known to be.
    for name in names:
        last = max((t for t in found["trials"] if t["solver"] == name), key=lambda t: t["evaluations"])
        assert last["error"] <= TOLERANCE or last["evaluations"] >= best["evaluations"]


def test_errors_are_those_of_the_solver():
    """On an exact Gaussian field the fine solve is the closed form, and the settings differ as they should."""
    schedule = Karras()
    mean, covariance = torch.tensor([0.5, -0.5]), torch.diag(torch.tensor([0.5, 2.0]))
    field = GaussianBaseline(mean, covariance, schedule)
    flow = Flow(IsotropicNormal((2,), schedule.start().source), ContinuousMap(field, event_shape=(2,)))
    start = flow.base.sample(256, generator=torch.Generator().manual_seed(0))
    spread = lambda t: (schedule.alpha(t) ** 2 * torch.diag(covariance) + schedule.sigma(t) ** 2).sqrt()  # noqa: E731
    first, last = torch.tensor(0.0), torch.tensor(1.0)
    exact = mean + (start - mean) * spread(last) / spread(first)
    fine = flow.with_options(solver=Adaptive("dopri5", rtol=1e-6, atol=1e-6)).decode(start).value
    # 1e-6 per step of a state that starts at 80
    torch.testing.assert_close(fine, exact, rtol=1e-3, atol=1e-3)
    straight = flow.with_options(solver=make_solver("adams3-straight", steps=16, schedule=schedule)).decode(start).value
    plain = flow.with_options(solver=make_solver("adams3", steps=16)).decode(start).value
    assert float((straight - exact).square().mean().sqrt()) < TOLERANCE
    assert float((plain - exact).square().mean().sqrt()) > TOLERANCE


def test_it_is_the_runs_default_and_comes_back(artefact, tmp_path):
    """A folder that is opened again samples with it, and says so in a sentence."""
    chosen = artefact.config["sampling"]
    drawn = generate(artefact, 50, seed=1)
    trials = {(t["solver"], t["steps"]): t for t in artefact.config["calibration"]["trials"]}
    assert drawn.nfe == trials[chosen["solver"], chosen["steps"]]["evaluations"]
    assert chosen["solver"] in (summary(artefact.config) or "")
    out = tmp_path / "again"
    request = TrainRequest(data=moons(), method="i-cfm", out=out, steps=20, network="mlp-1x16")
    kept = train(request, evaluate=False).artefact
    opened = open_run(RunFolder(out))
    assert opened.config["sampling"] == kept.config["sampling"]
    torch.testing.assert_close(
        torch.from_numpy(generate(opened, 20, seed=3).table.columns[0]),
        torch.from_numpy(generate(kept, 20, seed=3).table.columns[0]),
    )


def test_without_time_or_an_ode_nothing_changes(artefact):
    assert calibrate(artefact, seconds=0.0) is None
    assert calibrated(artefact, seconds=0.0) is artefact
    from advect.transforms import Standardise

    plain = Flow(IsotropicNormal((2,), 1.0), Standardise(torch.zeros(2), torch.ones(2)))
    assert calibrate(replace(artefact, flow=full_flow(plain))) is None


def test_a_model_is_sampled_on_another_schedule_with_any_solver(artefact):
    """`advect sample --schedule --solver --noise`: the law stays, up to the solver (means and spreads, 5 errors)."""
    plain = generate(artefact, 2000, seed=0)
    for choice in (
        SolverChoice(schedule="linear"),
        SolverChoice(schedule="edm", name="dpm++2m", steps=24),
        SolverChoice(name="ancestral", steps=60),
        SolverChoice(name="edm-heun", steps=20, noise=5.0),
    ):
        other = generate(artefact, 2000, choice=choice, seed=1)
        for a, b in zip(plain.table.columns, other.table.columns, strict=True):
            assert abs(a.mean() - b.mean()) < 5 * a.std() * math.sqrt(2 / 2000) + 0.02
            assert abs(b.std() / a.std() - 1) < 5 / math.sqrt(2000) + 0.02  # the solvers' own error, on a trained field


def test_noise_is_refused_where_it_is_added_and_not_by_name():
    """A model whose pairs are matched knows no score: it is sampled by whatever adds no noise, and only by that."""
    matched = run(moons(), method="ot-cfm", steps=5).artefact
    for choice in (SolverChoice(name="edm-heun", steps=8), SolverChoice(name="sde", steps=16, noise=0.0)):
        drawn = generate(matched, 200, choice=choice, seed=0)
        plain = generate(matched, 200, choice=SolverChoice(name="rk4", steps=16), seed=0)
        for a, b in zip(plain.table.columns, drawn.table.columns, strict=True):
            # The same source rows by two solvers of one nearly linear field: 7e-5 measured.
            assert float(abs(a - b).mean()) < 1e-3 * float(a.std())
    for choice in (SolverChoice(name="edm-heun", steps=8, noise=1.0), SolverChoice(name="sde", steps=16)):
        with pytest.raises(ConfigError, match="needs the score"):
            generate(matched, 5, choice=choice, seed=0)


def test_what_another_schedule_leaves_out_is_told(artefact):
    """VP reaches from α = 0.0066 to the data; VE ends with noise of 0.01 and starts inside, edm ends nearly clean."""
    ve = generate(artefact, 5, choice=SolverChoice(schedule="ve"), seed=0).notes
    assert any("noise of 0.01 standard deviations" in note for note in ve)
    assert any("nats from the model's law" in note for note in ve)
    assert generate(artefact, 5, choice=SolverChoice(schedule="linear"), seed=0).notes == ()
    assert generate(artefact, 5, seed=0).notes == ()


def test_figures_say_with_which_sampler_they_were_made(tmp_path):
    """Trap M5: solver, steps, evaluations and the error of that setting stand beside the metrics."""
    request = TrainRequest(data=moons(), method="cosine", out=tmp_path / "run", steps=20, network="mlp-1x16")
    kept = train(request).artefact
    told = kept.evaluation["sampling"]
    assert (told["solver"], told["steps"]) == (kept.config["sampling"]["solver"], kept.config["sampling"]["steps"])
    assert told["nfe"] > 0
    assert told["solver"] in told["measured"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "What accuracy costs" in report
