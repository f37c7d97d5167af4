"""The density benchmark: rows alike for all, time kept, pairs compared, and a table that says what it holds."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from advect.errors import AdvectError, ConfigError, DataError
from advect.records import Estimate
from benchmarks import density, density_sanity
from benchmarks.density import SEEDS, available, fits, plan, run_cell, settings_of
from benchmarks.density_data import PROTEIN_STEPS, SETS, Parts, angles, in_groups, in_parts, load, noisy, prepare
from benchmarks.density_peers import PEERS, make_peer, negative_log_prob
from benchmarks.density_sanity import fit_gaussian, fit_mixture
from benchmarks.density_table import Layout, best_of, paired, write_table
from benchmarks.density_train import CHUNK, CLOCKS, VALIDATIONS, Contender, planned_steps, score, summary, train
from benchmarks.density_train import training_settings as loop
from benchmarks.packed import pack, unpack

# Rows


def normal_rows(rows=3000, columns=3, seed=0):
    """Correlated normal rows far from unit scale, and the log-density they were drawn from."""
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((columns, columns)) * 5 + 10 * np.eye(columns)
    x = generator.standard_normal((rows, columns)) @ factor.T + 100
    law = torch.distributions.MultivariateNormal(
        torch.full((columns,), 100.0).double(), torch.from_numpy(factor @ factor.T)
    )
    return x, law


def test_noise_stays_inside_the_recording_step_and_is_the_same_for_all():
    x = np.zeros((500, 10))
    drawn = noisy(x, PROTEIN_STEPS)
    assert ((drawn >= 0) & (drawn < np.array(PROTEIN_STEPS))).all()
    assert (drawn.max(0) > 0.9 * np.array(PROTEIN_STEPS)).all()
    np.testing.assert_array_equal(drawn, noisy(x, PROTEIN_STEPS))


def test_parts_are_disjoint_and_whole():
    x = np.arange(1000.0)[:, None]
    for parts in (in_parts(x), in_parts(x, test=np.arange(100, 200))):
        together = np.concatenate([parts.train, parts.validation, parts.test])
        np.testing.assert_array_equal(np.sort(together, 0), x)
        assert (len(parts.train), len(parts.validation), len(parts.test)) == (800, 100, 100)
    assert in_parts(x, test=np.arange(100, 200)).test.min() == 100


def test_no_group_is_in_two_parts():
    groups = np.repeat([f"1a{i:02d}" for i in range(50)], 7)
    numbers = np.repeat(np.arange(50.0), 7)[:, None]
    parts = in_groups(numbers, groups)
    found = [set(part.ravel()) for part in (parts.train, parts.validation, parts.test)]
    assert [len(names) for names in found] == [40, 5, 5]
    assert len(set.union(*found)) == 50


def test_rows_are_standardised_by_the_training_rows_and_the_volume_is_counted():
    x, law = normal_rows()
    parts = in_parts(x)
    rows = prepare(parts, test_rows=100)
    assert rows.train.mean(0).abs().max() < 1e-5
    assert (rows.train.std(0, correction=0) - 1).abs().max() < 1e-5
    assert rows.test.shape == (100, 3)
    assert rows.every_test.shape == (300, 3)
    again = prepare(parts, test_rows=50)
    assert again.test.equal(rows.test[:50])  # fewer rows are the first of more

    # the density of the standardised rows by the change of variables, with the volume factor, is that of the rows
    factor = torch.linalg.cholesky(law.covariance_matrix) / rows.deviation[:, None]
    scaled = torch.distributions.MultivariateNormal((law.mean - rows.mean) / rows.deviation, scale_tril=factor)
    raw = rows.test.double() * rows.deviation + rows.mean
    torch.testing.assert_close(scaled.log_prob(rows.test.double()) + rows.log_det, law.log_prob(raw))

    with pytest.raises(DataError, match="constant"):
        prepare(Parts(np.ones((5, 1)), np.ones((5, 1)), np.ones((5, 1))), 5)


def test_angles_come_back_in_radians_inside_the_circle():
    x = np.concatenate([np.linspace(-np.pi, np.pi, 500, endpoint=False)] * 2)[:, None]
    rows = prepare(in_parts(x), 100)
    found = angles(rows, rows.train)
    assert float(found.abs().max()) < math.pi
    assert (found.sort(0).values.double() - torch.from_numpy(np.sort(in_parts(x).train, 0))).abs().max() < 1e-5


def test_without_the_folder_the_remedy_is_said(monkeypatch):
    monkeypatch.delenv("ADVECT_DATA", raising=False)
    with pytest.raises(DataError, match="Set ADVECT_DATA"):
        load("power_plant", 10)


COLUMNS = {"power_plant": 5, "protein": 10, "shuttle": 9, "torsions_lys": 6}


@pytest.mark.parametrize(("name", "columns"), COLUMNS.items())
def test_sets_are_read_and_the_gaussian_is_the_closed_form(advect_data, name, columns):
    rows = load(name, 500)
    assert rows.train.shape[1] == columns
    assert rows.test.shape == (500, columns)
    assert all(torch.isfinite(x).all() for x in (rows.train, rows.validation, rows.test))
    log_prob, _ = fit_gaussian(rows, 1.0, 0)
    # The mean over the training rows of a Gaussian's own fit is −½(log det 2πΣ + d), with Σ of the unscaled rows.
    raw = rows.train.double() * rows.deviation + rows.mean
    expected = -0.5 * (torch.linalg.slogdet(2 * math.pi * torch.cov(raw.T, correction=0)).logabsdet + columns)
    assert float(log_prob(rows.train).mean()) + rows.log_det == pytest.approx(float(expected), abs=1e-3)


# The queue


def test_cells_are_unique_and_only_angles_get_circular_models():
    models = list(available())
    cells = plan(tuple(SETS), models, SEEDS, 180.0)
    assert len({cell.name for cell in cells}) == len(cells)
    circular = {cell.settings["set"] for cell in cells if cell.settings["model"] in density.PERIODIC}
    assert circular == {"torsions_lys"}
    assert [cell.settings["model"] for cell in cells[:2]] == ["gaussian", "mixture"]
    assert not fits("shuttle", "zuko-ncsf")
    assert "/" not in json.dumps([cell.command for cell in cells])


def test_settings_hold_the_loop_and_the_model_and_the_command_repeats_them():
    ours, peer = settings_of("shuttle", "i-cfm", 3, 180.0), settings_of("shuttle", "nflows-nsf", 3, 180.0)
    assert ours["training"].keys() == peer["training"].keys()
    assert ours["training"]["batch_size"] == peer["training"]["batch_size"] == 512
    assert peer["training"]["learning_rate"] == 5e-4
    assert not {"steps", "seed"} & ours["training"].keys()
    assert ours["options"]["sigma"] == 0.0
    (cell,) = plan(["shuttle"], ["i-cfm"], [3], 60.0, "cpu")
    assert cell.command.endswith("--sets shuttle --models i-cfm --seeds 3 --seconds 60 --clock cpu")


# Training for a time


class Shift(nn.Module):
    """N(location, 1) with a learnable location."""

    def __init__(self, columns=2):
        super().__init__()
        self.location = nn.Parameter(torch.full((columns,), 1.0))

    def log_prob(self, x):
        return (-0.5 * (x - self.location) ** 2 - 0.5 * math.log(2 * math.pi)).sum(1)


class StepClock:
    """A clock that the loop asks once a step, and on which a step takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def settings(monkeypatch):
    """Two hundred steps by the clock above; weights are not averaged."""
    monkeypatch.setitem(CLOCKS, "steps", StepClock())
    training = loop({"batch_size": 64, "learning_rate": 0.05, "warmup_steps": 0, "ema_decay": 0.0})
    return {"seconds": 200.0, "clock": "steps", "training": training}


def test_training_ends_with_its_time_at_the_end_of_the_schedule(settings):
    rows, module = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)), Shift()
    found = train(Contender(module, negative_log_prob, module.log_prob), rows[:400], rows[400:], settings, seed=0)
    # whatever the first plan was, the last one fits the pace: the cosine is over when the time is
    assert found["ended"] == "finished"
    assert 0.9 * 200 < found["steps"] <= 200
    assert found["planned_steps"] == found["steps"]
    assert found["parameters"] == 2
    # maximum likelihood: the mean of the rows; the validation rows choose among weights that near it
    assert (module.location - rows[:400].mean(0)).abs().max() < 0.2


def test_a_training_that_slows_down_ends_with_its_time(settings, monkeypatch):
    clock = CLOCKS["steps"]
    rows, module = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)), Shift()

    def objective(flow, batch, *, generator):
        clock.now += 9.0 if clock.now > 190 else 0.0  # after the last plan every step takes ten times as long
        return negative_log_prob(flow, batch, generator=generator)

    found = train(Contender(module, objective, module.log_prob), rows, rows, settings, seed=0)
    assert found["ended"] == "time was over"
    assert found["steps"] < found["planned_steps"]
    assert found["best_step"] > 0


def test_a_training_that_had_less_time_than_the_others_is_no_result(settings, monkeypatch):
    """Timed steps that a busy machine made long once planned 202 steps where others had thousands."""
    monkeypatch.setattr("benchmarks.density_train.planned_steps", lambda *_: 5)
    rows, module = torch.zeros(500, 2), Shift()
    with pytest.raises(AdvectError, match="planned 5 steps took"):
        train(Contender(module, negative_log_prob, module.log_prob), rows, rows, settings, seed=0)


def test_a_diverged_training_keeps_its_best_weights_and_says_so(settings):
    rows, module, calls = torch.zeros(500, 2), Shift(), []

    def objective(flow, batch, *, generator):
        calls.append(1)
        loss = negative_log_prob(flow, batch, generator=generator)
        return loss * math.nan if len(calls) > 150 else loss

    found = train(Contender(module, objective, module.log_prob), rows, rows, settings, seed=0)
    assert found["ended"].startswith("diverged")
    assert 0 < found["best_step"] <= found["steps"] < 150
    assert torch.isfinite(module.location).all()
    assert (module.location < 1).all()


def test_planned_steps_leave_time_for_validations():
    # 100 s at 10 ms: fifty validations of 0.2 s take 10 s
    assert planned_steps(0, 100.0, 0.01, 0.2) == 9000
    assert planned_steps(500, 100.0, 0.01, 0.2) == 9500
    # slow steps: a validation every fifty steps
    assert planned_steps(0, 100.0, 1.0, 5.0) == pytest.approx(100 / 1.1, abs=1)
    assert planned_steps(0, 0.0, 1.0, 1.0) == 1
    assert VALIDATIONS == 50


def test_scoring_ends_after_its_time_and_adds_the_volume():
    rows = torch.randn(3 * CHUNK, 2)
    module = Shift()
    whole = score(module.log_prob, rows, -1.5)
    assert whole["rows"] == 3 * CHUNK
    assert whole["mean"] == pytest.approx(float(module.log_prob(rows).detach().mean()) - 1.5, abs=1e-5)
    assert score(module.log_prob, rows, 0.0, seconds=-1.0)["rows"] == CHUNK
    assert whole["estimator_error"] == 0.0
    np.testing.assert_allclose(unpack(whole["log_prob"]), module.log_prob(rows).detach() - 1.5, atol=6e-4)


def test_errors_of_estimated_log_determinants_are_added_in_quadrature():
    def log_prob(x):
        zero = torch.zeros(len(x))
        return Estimate(zero, zero + 3.0, zero.int(), None)

    assert score(log_prob, torch.zeros(900, 2), 0.0)["estimator_error"] == pytest.approx(3.0 / 30)


def test_failed_rows_are_counted_and_kept():
    found = summary(torch.tensor([1.0, math.nan, 3.0, -math.inf]))
    assert (found["rows"], found["failed"], found["mean"], found["median"]) == (4, 2, 2.0, 1.0)
    np.testing.assert_array_equal(unpack(found["log_prob"]), [1.0, math.nan, 3.0, -math.inf])
    nothing = summary(torch.tensor([math.nan]))
    assert nothing["mean"] is None
    assert nothing["standard_error"] is None
    json.dumps(nothing, allow_nan=False)


# Contenders


def test_an_untrained_flow_of_ours_scores_as_the_gaussian_fit(monkeypatch):
    x, law = normal_rows()
    rows = prepare(in_parts(x), 200)
    monkeypatch.setattr(density, "load", lambda name, test_rows: rows)
    gaussian = run_cell(settings_of("power_plant", "gaussian", 0, 1.0))
    flow = run_cell(settings_of("power_plant", "i-cfm", 0, 0.01))
    truth = float(law.log_prob(rows.test.double() * rows.deviation + rows.mean).mean())
    # fitted to 2400 rows: 9 parameters cost about 9/4800 nats, and the flow's few steps little more
    assert gaussian["mean"] == pytest.approx(truth, abs=0.02)
    assert flow["mean"] == pytest.approx(truth, abs=0.1)
    assert gaussian["every_test_rows"] == 300
    assert flow["network"].startswith("residual-")
    json.dumps([gaussian, flow], allow_nan=False)


def test_the_mixture_is_chosen_by_validation(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(density_sanity, "COMPONENTS", (2, 4, 6))
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1000, 1)) + 20 * generator.integers(0, 4, (1000, 1))
    rows = prepare(in_parts(x), 100)
    log_prob, found = fit_mixture(rows, math.inf, 0)
    assert found["components"] >= 4
    assert [parts for parts, _ in found["validation_by_components"]] == [2, 4, 6]
    entropy = 0.5 * math.log(2 * math.pi * math.e) + math.log(4)
    assert float(log_prob(rows.test).mean()) + rows.log_det == pytest.approx(-entropy, abs=0.3)  # 100 rows
    assert fit_mixture(rows, 0.0, 0)[1]["components"] == 2  # without time for a second fit


@pytest.mark.parametrize("name", list(PEERS))
def test_peers_are_densities_and_their_weights_follow_the_seed(name):
    pytest.importorskip(PEERS[name].package)
    contender = make_peer(name, 2, seed=1)
    half = math.pi if PEERS[name].periodic else 6.0
    axis = (torch.arange(160) + 0.5) / 160 * 2 * half - half
    with torch.no_grad():
        total = contender.log_prob(torch.cartesian_prod(axis, axis)).double().exp().sum() * (2 * half / 160) ** 2
    # fresh weights are close to the identity: the base lies inside the square, the grid is off by up to 0.02
    assert float(total) == pytest.approx(1.0, abs=0.03)
    again, other = make_peer(name, 2, seed=1), make_peer(name, 2, seed=2)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    assert again.log_prob(x).equal(contender.log_prob(x))
    assert not other.log_prob(x).equal(contender.log_prob(x))
    batch = type("Batch", (), {"x1": x})()
    loss = contender.objective(contender.density, batch, generator=torch.Generator())
    assert loss.shape == (20,)
    assert loss.requires_grad


# The table

LAYOUT = Layout(
    sets={"power_plant": ("a plant", "as they are"), "bsds300_patches": ("patches", "scaled")},
    sanity=("gaussian",),
    ours=("nsf", "cnf"),
    peers=("zuko-nsf", "zuko-maf"),
    wanted=dict.fromkeys(("power_plant", "bsds300_patches"), ("gaussian", "nsf", "cnf", "zuko-nsf", "zuko-maf")),
    seeds=(0,),
    seconds=180.0,
)


def record(model, log_prob, name="power_plant", seed=0, seconds=180.0, **figures):
    usual = summary(torch.as_tensor(log_prob, dtype=torch.float64)) | {"training_seconds": 180.0, "steps": 5000}
    if model == "gaussian":
        usual |= {"every_test_rows": 100, "every_test_mean": 96.57}
    return {
        "cell": f"{name}-{model}-{seed}",
        "seed": seed,
        "settings": {"set": name, "model": model, "seed": seed, "seconds": seconds, "clock": "wall"},
        "figures": usual | figures,
        "machine": {"processor": "a processor", "cores": 2, "threads": 1},
        "versions": {"advect": "0", "advect_source": "abc"},
    }


def table(folder, records):
    path = folder / "table.md"
    write_table(path, records, LAYOUT)
    return path.read_text()


def row_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(f"| {start} |"))


NOISE = np.random.default_rng(0).standard_normal(400)


def test_differences_are_paired_row_by_row():
    rows = 10 * np.random.default_rng(1).standard_normal(400)
    found = paired(rows + 0.1 + 0.05 * NOISE, rows)
    assert found.mean == pytest.approx(0.1 + 0.05 * NOISE.mean())
    assert found.error == pytest.approx(0.05 * NOISE.std(ddof=1) / 20)  # the spread of the rows themselves cancels
    assert found.verdict == "above"
    assert paired(rows, rows + 0.1 + 0.05 * NOISE).verdict == "below"
    centred = NOISE - NOISE.mean()
    assert paired(rows + centred + 0.09, rows).verdict == "equal"  # 1.8 standard errors of 0.05
    assert paired(rows + centred + 0.11, rows).verdict == "above"  # 2.2
    assert paired(rows[:50], rows).rows == 50
    assert paired(rows[:1], rows) is None


def test_a_whole_table_judges_the_best_of_both_sides(tmp_path):
    rows = [
        record("gaussian", NOISE - 1),
        record("nsf", NOISE + 0.5),
        record("cnf", NOISE[:100] - 3),
        record("zuko-nsf", NOISE + 0.2),
        record("zuko-maf", NOISE),
    ]
    text = table(tmp_path, rows + [record(r["settings"]["model"], NOISE, "bsds300_patches") for r in rows])
    assert "Complete: 10 of 10 cells" in text
    summary_line = row_of(text, "power_plant | 5 of 5 | nsf")
    assert "| zuko-nsf |" in summary_line
    assert summary_line.endswith("| +0.300 ± 0.000 | pass (above) |")
    assert row_of(text, "bsds300_patches | 5 of 5 | nsf").endswith("pass (equal) |")
    assert "known: 96.56 ± 0.02, pass" in text


def test_ours_below_the_best_peer_fails(tmp_path):
    text = table(tmp_path, [record("nsf", NOISE), record("zuko-nsf", NOISE + 0.01), record("zuko-maf", NOISE)])
    assert "**fail** (below)" in row_of(text, "power_plant | 3 of 5 | nsf")


def test_a_partial_table_says_so_and_names_the_missing_peers(tmp_path):
    text = table(tmp_path, [record("nsf", NOISE), record("zuko-maf", NOISE)])
    assert "**Partial**: 2 of 10 cells" in text
    assert row_of(text, "power_plant | 2 of 5 | nsf").endswith("pass (equal), without zuko-nsf |")
    assert row_of(text, "bsds300_patches | 0 of 5 | –").endswith("no result |")
    assert "| 0 of 1 |" in row_of(text, "cnf | advect")


def test_failed_rows_are_shown_and_keep_a_model_from_being_the_best(tmp_path):
    broken = NOISE + 5
    broken[3] = np.nan
    rows = {"nsf": [record("nsf", broken)], "cnf": [record("cnf", NOISE)]}
    assert best_of(rows, ("nsf", "cnf")) == "cnf"
    assert best_of({"nsf": rows["nsf"]}, ("nsf", "cnf")) is None
    text = table(tmp_path, [record("nsf", broken), record("cnf", NOISE), record("zuko-nsf", NOISE)])
    assert "(of the rest)" in row_of(text, "nsf | advect")


def test_other_times_and_clocks_are_not_judged_and_never_mixed(tmp_path):
    short = [record("nsf", NOISE, seconds=5.0), record("zuko-nsf", NOISE, seconds=5.0)]
    assert "not judged (5 s)" in table(tmp_path, short)
    mixed = [record("nsf", NOISE), record("zuko-nsf", NOISE)]
    mixed[0]["settings"]["clock"] = "cpu"
    assert "not judged (different clocks)" in table(tmp_path, mixed)
    with pytest.raises(ConfigError, match=r"differ.*seconds"):
        table(tmp_path, [record("nsf", NOISE, seconds=5.0), record("nsf", NOISE, seed=1)])


def test_estimated_log_determinants_show(tmp_path):
    text = table(tmp_path, [record("nsf", NOISE, estimator_error=0.02), record("cnf", NOISE)])
    assert "add to the error of the mean, in nats: nsf 0.020." in text


def test_seeds_are_averaged_row_by_row(tmp_path):
    text = table(tmp_path, [record("nsf", NOISE + 1), record("nsf", NOISE + 3, seed=1), record("zuko-nsf", NOISE)])
    assert "| +2.000 ± 0.000 |" in row_of(text, "nsf | advect")
    assert "| 2 of 2 |" in row_of(text, "nsf | advect")


def test_a_gaussian_off_the_known_figure_fails(tmp_path):
    assert "**fail**" in table(tmp_path, [record("gaussian", NOISE, "bsds300_patches", every_test_mean=96.5)])


# Packed arrays


def test_packed_arrays_come_back_to_the_step_with_their_holes():
    values = np.array([[0.0, 1.23456, -1e5], [np.nan, np.inf, -np.inf]])
    packed = json.loads(json.dumps(pack(values, 1e-3), allow_nan=False))
    found = unpack(packed)
    np.testing.assert_allclose(found, values, atol=5.1e-4)
    assert unpack(pack(np.array([1e9]), 1e-3))[0] == np.inf  # too large for the step
    assert len(pack(np.zeros((0,)), 1.0)["shape"]) == 1
    assert unpack(pack(np.zeros((0,)), 1.0)).shape == (0,)
    with pytest.raises(DataError, match="damaged"):
        unpack(packed | {"data": packed["data"][:-8]})


def test_five_thousand_log_likelihoods_take_less_than_twenty_kilobytes():
    values = 30 * np.random.default_rng(0).standard_normal(5000)
    assert len(json.dumps(pack(values, 1e-3))) < 20_000
