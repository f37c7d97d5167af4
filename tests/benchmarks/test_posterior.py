"""The posterior benchmark: its simulators are the published ones, draws stay in the prior, the table judges rightly."""

import json
from functools import partial

import numpy as np
import pytest
from scipy.stats import kstest

from advect.errors import AdvectError, ConfigError
from benchmarks import posterior
from benchmarks.posterior import METHODS, OURS, SIMULATIONS, c2st, draw_inside, fit_ours, plan, simulate
from benchmarks.posterior_table import compared, write_table
from benchmarks.posterior_tasks import (
    TASKS,
    bernoulli_glm,
    gaussian_mixture,
    glm_covariance,
    glm_design,
    slcp,
    two_moons,
)

ROWS = 20_000


def generator(seed=0):
    return np.random.default_rng(seed)


def same(theta, rows=ROWS):
    return np.tile(np.asarray(theta, dtype=float), (rows, 1))


# Simulators, from their definitions


def test_two_moons_is_a_crescent_at_the_shifted_place():
    x = two_moons(same([0.3, -0.5]), generator())
    first, second = x[:, 0] - 0.25 + 0.2 / np.sqrt(2), x[:, 1] + 0.8 / np.sqrt(2)
    radius, angle = np.hypot(first, second), np.arctan2(second, first)
    assert kstest(radius, "norm", (0.1, 0.01)).pvalue > 0.01
    assert kstest(angle, "uniform", (-np.pi / 2, np.pi)).pvalue > 0.01


def test_slcp_has_the_moments_of_its_gaussian():
    theta = np.array([0.7, -2.9, -1.2, 0.9, 0.6])
    x = slcp(same(theta), generator()).reshape(-1, 2)  # four draws a row
    first, second, correlation = theta[2] ** 2, theta[3] ** 2, np.tanh(theta[4])
    expected = np.array([[first**2, correlation * first * second], [correlation * first * second, second**2]])
    # 80,000 draws: relative errors of about 0.5 %
    np.testing.assert_allclose(x.mean(0), theta[:2], atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), expected, rtol=0.04)
    # the two numbers of one draw stand side by side, draws are independent
    wide = slcp(same(theta), generator())
    found = np.corrcoef(wide.T)
    assert found[0, 1] == pytest.approx(correlation, abs=0.03)
    assert abs(found[0, 3]) < 0.03


def test_the_mixture_is_half_wide_and_half_narrow():
    x = gaussian_mixture(same([3.0, -4.0]), generator()) - [3.0, -4.0]

    def law(value):
        from scipy.stats import norm

        return 0.5 * norm.cdf(value) + 0.5 * norm.cdf(value / 0.1)

    assert kstest(x[:, 0], law).pvalue > 0.01
    # one deviation for both coordinates: squares go together
    assert np.corrcoef((x**2).T)[0, 1] > 0.1


def test_the_glm_sums_its_spikes_and_their_delayed_stimulus():
    design = glm_design()
    assert design.shape == (100, 10)
    np.testing.assert_array_equal(design[:, 0], 1)
    np.testing.assert_array_equal(design[8:, 9], design[:-8, 1])
    np.testing.assert_array_equal(design[:8, 9], 0)
    assert design[0, 1] == pytest.approx(0.49671414)  # the first of RandomState(42).randn
    theta = np.array([0.5, *np.linspace(-1, 1, 9)])
    x = bernoulli_glm(same(theta), generator())
    rate = 1 / (1 + np.exp(-design @ theta))
    np.testing.assert_allclose(x.mean(0), rate @ design, atol=0.15)  # deviations of about 5 over 20,000 rows
    np.testing.assert_allclose(np.cov(x.T), design.T @ (design * (rate * (1 - rate))[:, None]), rtol=0.1, atol=0.5)
    np.testing.assert_array_equal(x[:, 0], np.rint(x[:, 0]))


def test_the_priors_are_uniform_or_smooth():
    for task in TASKS.values():
        theta = task.prior(5000, generator())
        assert theta.shape == (5000, task.parameters)
        assert task.inside(theta).all()
        assert task.simulate(theta[:3], generator()).shape == (3, task.numbers)
    assert not TASKS["slcp"].inside(np.array([[0, 0, 0, 0, 3.1]])).any()
    covariance = glm_covariance()
    assert covariance[0, 0] == pytest.approx(2.0)
    np.testing.assert_array_equal(covariance[0, 1:], 0)
    drawn = TASKS["bernoulli_glm"].prior(50_000, generator())
    np.testing.assert_allclose(np.cov(drawn.T), covariance, rtol=0.05, atol=0.1)


# Simulators, against the reference posteriors


def references(folder, name):
    with np.load(folder / "sbibm_reference" / f"{name}.npz") as arrays:
        for number in range(1, 6):
            yield (
                arrays[f"posterior_{number}"].astype(float),
                arrays[f"observation_{number}"][0],
                arrays[f"true_theta_{number}"][0],
            )


@pytest.mark.parametrize("name", TASKS)
def test_true_parameters_lie_in_the_reference_and_the_observation_in_its_predictions(advect_data, name):
    task = TASKS[name]
    for samples, observation, truth in references(advect_data, name):
        assert task.inside(samples).all()
        again = task.simulate(samples, generator())
        for values, value in ((samples, truth), (again, observation)):
            rank = (values < value).mean(0)
            assert ((rank > 0.002) & (rank < 0.998)).all()


def test_two_moons_references_lie_on_the_crescents(advect_data):
    for samples, x, _ in references(advect_data, "two_moons"):
        first = x[0] - 0.25 + np.abs(samples.sum(1)) / np.sqrt(2)
        second = x[1] - (samples[:, 1] - samples[:, 0]) / np.sqrt(2)
        radius = np.hypot(first, second)
        assert (first > 0).all()
        assert radius.mean() == pytest.approx(0.1, abs=0.001)
        assert radius.std() == pytest.approx(0.01, abs=0.001)


def test_the_score_of_the_glm_averages_to_zero_over_its_references(advect_data):
    """Stein: E ∇log p(θ | x) = 0 and E (θ − mean) ∇log pᵀ = −I hold for the right likelihood and prior only."""
    design, precision = glm_design(), np.linalg.inv(glm_covariance())
    for samples, x, _ in references(advect_data, "bernoulli_glm"):
        score = x - (1 / (1 + np.exp(-samples @ design.T))) @ design - samples @ precision
        assert (np.abs(score.mean(0)) < 4 * score.std(0) / np.sqrt(len(samples))).all()
        np.testing.assert_allclose((samples - samples.mean(0)).T @ score / len(samples), -np.eye(10), atol=0.1)


def log_likelihood(name, theta, x):
    """Of the two tasks whose references are checked by a Markov chain."""
    if name == "gaussian_mixture":
        squares = ((x - theta) ** 2).sum(1)
        return np.logaddexp(-squares / 2, -squares / 0.02 + np.log(100))
    draws = x.reshape(1, 4, 2) - theta[:, None, :2]
    first, second, correlation = theta[:, 2, None] ** 2, theta[:, 3, None] ** 2, np.tanh(theta[:, 4, None])
    a, b = draws[..., 0] / first, draws[..., 1] / second
    rest = 1 - correlation**2
    each = -(a**2 - 2 * correlation * a * b + b**2) / (2 * rest) - np.log(first * second) - 0.5 * np.log(rest)
    return each.sum(1)


@pytest.mark.parametrize("name", ["gaussian_mixture", "slcp"])
def test_a_chain_for_our_likelihood_leaves_the_references_as_they_are(advect_data, name):
    """Metropolis steps keep the right posterior and change a wrong one: started at the references, they end there."""
    task, draw = TASKS[name], generator()
    for samples, x, _ in list(references(advect_data, name))[:2]:
        start = samples[:1500]
        state, value = start.copy(), log_likelihood(name, start, x)
        width = 0.5 * start.std(0)
        for step in range(150):
            proposed = state + width * (0.1 if step % 3 else 1.0) * draw.standard_normal(state.shape)
            other = log_likelihood(name, proposed, x)
            taken = task.inside(proposed) & (np.log(draw.random(len(state))) < other - value)
            state[taken], value[taken] = proposed[taken], other[taken]
        assert (state != start).any(1).mean() > 0.9
        for column in range(task.parameters):
            assert kstest(state[:, column], samples[1500:, column]).pvalue > 1e-4


# Cells


def test_simulations_are_the_same_for_every_contender_and_differ_by_seed():
    theta, x = simulate(TASKS["slcp"], 50, 0)
    again, other = simulate(TASKS["slcp"], 50, 0), simulate(TASKS["slcp"], 50, 1)
    np.testing.assert_array_equal(again[1], x)
    assert not (other[0] == theta).any()


def test_cells_are_unique_and_say_how_to_be_repeated():
    cells = plan(TASKS, SIMULATIONS, METHODS, (0,))
    assert len({cell.name for cell in cells}) == len(cells) == 4 * 2 * len(METHODS)
    assert cells[0].command.endswith("--tasks two_moons --simulations 1000 --methods nsf --seeds 0")
    (cell,) = plan(["slcp"], [1000], ["sbi-npe"], (0,), 2, 500)
    assert cell.command.endswith("--observations 2 --c2st-samples 500")
    assert cell.settings["c2st_samples"] == 500


def test_draws_outside_the_prior_are_drawn_again():
    task, calls = TASKS["two_moons"], []

    def sampler(observation, rows, seed):
        calls.append(seed)
        return generator(seed).uniform(-2, 2, (rows, 2))

    samples, share = draw_inside(sampler, task, np.zeros(2), 400, 1)
    assert samples.shape == (400, 2)
    assert task.inside(samples).all()
    assert share == pytest.approx(0.25, abs=0.05)
    assert len(set(calls)) == len(calls) > 3
    assert len(np.unique(samples, axis=0)) == 400
    with pytest.raises(AdvectError, match="0 of 500 draws"):
        draw_inside(lambda observation, rows, seed: np.full((rows, 2), 9.0), task, np.zeros(2), 5, 1)


def test_the_two_sample_test_knows_equal_from_different():
    pytest.importorskip("sklearn")
    draw = generator()
    reference, equal = draw.normal(5, 3, (150, 1)), draw.normal(5, 3, (150, 1))
    assert c2st(equal, reference) == pytest.approx(0.5, abs=0.1)
    assert c2st(equal + 30, reference) > 0.98


def test_our_fit_conditions_on_the_observation(monkeypatch):
    monkeypatch.setattr(posterior.advect, "fit", partial(posterior.advect.fit, steps=150, network="mlp-2x32"))
    theta = generator().uniform(-1, 1, (600, 1))
    x = np.stack([theta[:, 0], generator(1).integers(0, 9, 600)], 1)
    sampler, about = fit_ours("i-cfm", theta, x, 0)
    low, high = (sampler(np.array([place, 4.0]), 300, 0) for place in (-0.8, 0.8))
    assert low.shape == (300, 1)
    assert high.mean() - low.mean() > 0.8
    assert about["steps"] == 150
    assert about["parameters"] > 100
    json.dumps(about)


# The table

PUBLISHED = {"two_moons": {1000: 0.725, 10_000: 0.606}}


def record(method, scores, simulations=10_000, seed=0, samples=10_000):
    figures = {"c2st": scores, "inside_share": [0.9] * len(scores), "parameters": 10, "steps": 5000}
    figures |= {"training_seconds": 60.0, "training_cpu_seconds": 50.0, "sampling_seconds": 1.0}
    settings = {"task": "two_moons", "simulations": simulations, "method": method, "seed": seed}
    return {
        "cell": f"two_moons-{simulations}-{method}-{seed}",
        "seed": seed,
        "settings": settings | {"observations": len(scores), "c2st_samples": samples},
        "figures": figures,
        "machine": {"processor": "a processor", "cores": 2, "threads": 1},
        "versions": {"advect": "0"},
    }


def table(folder, records):
    path = folder / "table.md"
    methods = (*OURS, "sbi-npe")
    write_table(
        path, records, published=PUBLISHED, ours=(*OURS, "i-cfm"), methods=methods, seeds=(0,), observations=3,
        samples=10_000,
    )  # fmt: skip
    return path.read_text()


def row_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(f"| {start} |"))


def test_differences_are_paired_by_observation():
    found = compared([0.6, 0.7, 0.8], [0.61, 0.71, 0.81])
    assert found.mean == pytest.approx(-0.01)
    assert found.error == pytest.approx(0.0, abs=1e-12)
    assert found.verdict == "at or below"
    assert compared([0.6, 0.72, 0.8], [0.6, 0.7, 0.8]).verdict == "equal"
    assert compared([0.62, 0.72, 0.82], [0.6, 0.7, 0.8]).verdict == "above"
    assert compared([0.6], [0.6]).verdict == "at or below"


def test_the_better_of_ours_is_judged_against_the_peer(tmp_path):
    records = [record("nsf", [0.60, 0.61, 0.62]), record("ot-cfm", [0.7, 0.7, 0.7])]
    records.append(record("sbi-npe", [0.61, 0.62, 0.63]))
    text = table(tmp_path, records)
    assert "**Partial**: 3 of 6 cells" in text
    row = row_of(text, "two_moons | 10,000")
    assert "| 0.610 ± 0.006 | 0.700 ± 0.000 | 0.620 ± 0.006 | 0.606 |" in row
    assert row.endswith("nsf -0.010 ± 0.000: pass |")
    assert row_of(text, "two_moons | 1,000").endswith("| 0.725 | no result |")
    assert "(ot-cfm, defaults) on two_moons with 10,000 simulations: 0.700; the known failure is 0.9: pass" in text
    worse = table(tmp_path, [record("nsf", [0.65, 0.66, 0.67]), records[2]])
    assert row_of(worse, "two_moons | 10,000").endswith("nsf +0.040 ± 0.000: **fail** |")
    failed = table(tmp_path, [record("ot-cfm", [0.9, 0.91, 0.92])])
    assert "known failure is 0.9: **fail**" in failed


def test_other_protocols_are_not_judged_and_never_mixed(tmp_path):
    quick = [record("nsf", [0.6, 0.6, 0.6], samples=500), record("sbi-npe", [0.6, 0.6, 0.6], samples=500)]
    assert "not judged (3 observations, 500 draws)" in table(tmp_path, quick)
    mixed = [record("nsf", [0.6, 0.6, 0.6]), quick[1]]
    assert "not judged (different protocols)" in table(tmp_path, mixed)
    with pytest.raises(ConfigError, match="differ"):
        table(tmp_path, [record("nsf", [0.6]), record("nsf", [0.6], seed=1, samples=500)])


def test_optional_methods_get_a_column_when_they_have_results(tmp_path):
    assert "| i-cfm |" not in table(tmp_path, [record("nsf", [0.6, 0.6, 0.6])])
    assert "| i-cfm |" in table(tmp_path, [record("i-cfm", [0.6, 0.6, 0.6])])
