"""Scores: closed forms of the estimator, probabilities that sum to one, units, gaps, and what cannot occur."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from advect.data import read_table, split_rows, take_rows
from advect.errors import ConfigError, DataError, ShapeError, UnsupportedError
from advect.records import Estimate, Status, Table
from advect.workflows.again import evaluate_run, find_data
from advect.workflows.evaluate import evaluate_rows, evaluate_table, figures
from advect.workflows.held_out import summary
from advect.workflows.open import open_run
from advect.workflows.score import Scored, combine, score, score_table
from tests.workflows.tiny import QUICK, mixed, moons, run

# Steps this small leave the start in place: the Gaussian fit of the training rows in latent coordinates.
UNTRAINED = {"steps": 1, "training": {"learning_rate": 1e-12, "warmup_steps": 0}}


def logs(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_one_draw_is_the_value_itself():
    value, error = combine(logs([-3.0, 700.0, -math.inf]), torch.zeros(1, 3))
    assert value.tolist() == [-3.0, 700.0, -math.inf]
    assert error.tolist() == [0.0, 0.0, 0.0]


def test_draws_are_averaged_inside_the_logarithm():
    value, error = combine(logs([math.log(1.0)], [math.log(3.0)]), torch.zeros(2, 1))
    assert value.item() == pytest.approx(math.log(2), rel=1e-14)
    # sd of (1, 3) is √2; divided by the mean 2 and by √2 draws
    assert error.item() == pytest.approx(math.sqrt(2) / 2 / math.sqrt(2), rel=1e-14)
    shifted = combine(logs([math.log(1.0) - 5000], [math.log(3.0) - 5000]), torch.zeros(2, 1))
    assert shifted[0].item() == pytest.approx(math.log(2) - 5000, rel=1e-14)
    assert shifted[1].item() == pytest.approx(error.item(), rel=1e-9)
    one_sided, _ = combine(logs([-math.inf], [0.0]), torch.zeros(2, 1))
    assert one_sided.item() == pytest.approx(-math.log(2), rel=1e-14)


def test_the_mean_of_weights_is_unbiased():
    """All 3-tuples of a two-valued weight, each with its probability: the estimates average to the mean weight."""
    weights, chances = (0.2, 5.0), (0.7, 0.3)
    total = 0.0
    for picks in itertools.product((0, 1), repeat=3):
        value, _ = combine(logs(*[[math.log(weights[i])] for i in picks]), torch.zeros(3, 1))
        total += math.prod(chances[i] for i in picks) * math.exp(value.item())
    assert total == pytest.approx(0.7 * 0.2 + 0.3 * 5.0, rel=1e-12)


def test_stochastic_traces_average_the_logarithms():
    """The exponential would turn the trace's noise into bias."""
    value, error = combine(logs([1.0], [3.0]), logs([0.1], [0.2]))
    assert value.item() == 2.0
    assert error.item() == pytest.approx(max(math.sqrt(2) / math.sqrt(2), math.hypot(0.1, 0.2) / 2))
    alone = combine(logs([1.0]), logs([0.25]))
    assert (alone[0].item(), alone[1].item()) == (1.0, 0.25)


@pytest.fixture(scope="module")
def on_moons():
    return run(moons()).artefact


@pytest.fixture(scope="module")
def on_mixed():
    return run(mixed(), settings={"likelihood_tolerance": 1e-4}).artefact  # a little quicker


def test_density_is_in_the_units_of_the_user():
    """The untrained model is the Gaussian fit, in kilometres and grams alike: SciPy says the same."""
    data = moons(3000) * [1000.0, 0.1] + [5e5, -3.0]
    result = run(data, **UNTRAINED)
    train = data[_train_rows(result)]
    law = stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True))
    scored = score(result.artefact, read_table(data[:50]))
    # Solver at 1e-5 in float32; the fit shrinks the covariance by order d/n, a tenth of a percent of itself.
    assert scored.estimate.value.numpy() == pytest.approx(law.logpdf(data[:50]), abs=0.02)
    assert scored.estimate.standard_error.tolist() == [0.0] * 50
    assert scored.estimate.status.tolist() == [Status.OK] * 50
    assert not scored.bound
    assert scored.importance_samples == 1


def _train_rows(result) -> np.ndarray:
    data = result.artefact.config["data"]
    seed = result.artefact.config["seed"]
    return split_rows(data["rows"], seed=seed, validation=data["validation"], test=data["test"]).train


@pytest.mark.parametrize("method", ["i-cfm", "ot-cfm"])
def test_change_of_units_adds_its_logarithm(on_moons, method):
    """Trap D1: fitted on X and on 1000·X + 5 with one seed, log-densities differ by d·log 1000."""
    data = moons()
    small = on_moons if method == "i-cfm" else run(data, method=method).artefact
    large = run(1000 * data + 5, method=method).artefact
    left = score(small, read_table(data[:40])).estimate.value
    right = score(large, read_table(1000 * data[:40] + 5)).estimate.value
    # The trainings differ by the rounding of the standardised rows alone.
    assert (left - right).numpy() == pytest.approx(2 * math.log(1000), abs=1e-3)


def test_a_row_scores_the_same_in_any_company(on_moons):
    """Trap S1: alone, among others, in another order; ten times the tolerance in float32."""
    data = moons(60, seed=5)
    together = score(on_moons, read_table(data)).estimate
    backwards = score(on_moons, read_table(data[::-1].copy())).estimate.value.flip(0)
    assert together.value.numpy() == pytest.approx(backwards.numpy(), abs=1e-4)
    for row in (0, 17, 59):
        alone = score(on_moons, read_table(data[row : row + 1], min_rows=1)).estimate
        assert alone.value.item() == pytest.approx(together.value[row].item(), abs=1e-4)
        assert alone.nfe.item() == together.nfe[row].item()


def test_rows_beyond_one_block_score_like_the_first(on_moons, monkeypatch):
    data = read_table(moons(50, seed=5))
    whole = score(on_moons, data).estimate
    monkeypatch.setattr("advect.workflows.score.ROWS_AT_ONCE", 7)
    parts = score(on_moons, data).estimate
    assert parts.value.numpy() == pytest.approx(whole.value.numpy(), abs=1e-4)
    assert parts.nfe.tolist() == whole.nfe.tolist()


def test_density_integrates_to_one():
    """A trained model of two modes in one dimension, over a grid wide enough for all its mass."""
    random = np.random.default_rng(0)
    data = (np.where(random.random(400) < 0.3, -2.0, 1.0) + 0.3 * random.standard_normal(400)).reshape(-1, 1)
    artefact = run(data, steps=150).artefact
    grid = np.linspace(-8, 8, 801).reshape(-1, 1)
    value = score(artefact, read_table(grid)).estimate.value.numpy()
    # Trapezoidal rule on a smooth density: exact to far below the solver's 1e-5 per row.
    assert np.trapezoid(np.exp(value), grid[:, 0]) == pytest.approx(1, abs=1e-3)


def discrete(rows: int = 300) -> Table:
    random = np.random.default_rng(1)
    place = np.array(random.choice(["sea", "hill", "town"], rows, p=[0.2, 0.3, 0.5]), dtype=object)
    place[random.random(rows) < 0.2] = None
    rooms = random.integers(2, 5, rows)
    return Table(("place", "rooms"), (place, rooms), "csv", (2,), ("str", "int64"))


def test_masses_of_a_discrete_table_sum_to_one():
    """Three places or a gap, times three whole numbers: twelve rows have all the probability there is."""
    table = discrete()
    artefact = run(table, steps=100).artefact
    rows = list(itertools.product(["sea", "hill", "town", None], [2, 3, 4]))
    every = Table(
        table.names,
        (np.array([a for a, _ in rows], dtype=object), np.array([b for _, b in rows])),
        "csv",
        (2,),
        table.dtypes,
    )
    # Many copies of each row in one call: the mean of unbiased estimates is one, and shows its own error.
    copies = 60
    repeated = take_rows(every, np.repeat(np.arange(12), copies))
    estimate = score(artefact, repeated, importance_samples=4).estimate
    draws = estimate.value.exp().reshape(12, copies)
    mass, spread = draws.mean(1), draws.std(1) / copies**0.5
    error = float(spread.square().sum().sqrt())
    assert float(mass.sum()) == pytest.approx(1, abs=5 * error + 1e-3)
    assert error < 0.02
    # And each is near how often it occurs: the fit of 240 rows, five standard errors of their counts.
    seen = np.array([np.mean([x == a and y == b for x, y in zip(*table.columns, strict=True)]) for a, b in rows])
    assert (np.abs(mass.numpy() - seen) < 5 * np.sqrt(seen / 240) + 0.03).all()
    gaps = np.repeat([place is None for place, _ in rows], copies)
    assert (estimate.status.numpy() == np.where(gaps, Status.IMPUTED, Status.OK)).all()


def test_more_draws_give_a_smaller_error_around_the_same_value(on_mixed):
    table = take_rows(mixed(), np.arange(12))
    few = score(on_mixed, table, importance_samples=3).estimate
    many = score(on_mixed, table, importance_samples=27, seed=1).estimate
    # A third is expected where weights have a variance; errors from three draws are rough themselves.
    assert float(many.standard_error.median()) < 0.7 * float(few.standard_error.median())
    spread = torch.hypot(few.standard_error, many.standard_error)
    assert ((few.value - many.value).abs() < 6 * spread + 0.5).all()


def test_draws_follow_the_seed(on_mixed):
    table = take_rows(mixed(), np.arange(5))
    first, again, other = (score(on_mixed, table, seed=s).estimate.value for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_that_cannot_occur(on_mixed):
    """Trap L14: a place or a number of rooms that training never saw has probability zero, and a status."""
    table = take_rows(mixed(), np.arange(20))
    table.columns[2][3] = "moon"
    table.columns[1][5] = 2.5
    scored = score(on_mixed, table)
    assert scored.estimate.value[[3, 5]].tolist() == [-math.inf, -math.inf]
    assert scored.estimate.standard_error[[3, 5]].tolist() == [0.0, 0.0]
    assert scored.estimate.status[[3, 5]].tolist() == [Status.OUTSIDE_SUPPORT] * 2
    others = [i for i in range(20) if i not in (3, 5)]
    assert torch.isfinite(scored.estimate.value[others]).all()
    gaps = np.array([table.columns[2][i] is None or np.isnan(table.columns[1][i]) for i in others])
    assert (scored.estimate.status[others].numpy() == np.where(gaps, Status.IMPUTED, Status.OK)).all()
    words = score_table(scored).columns[2]
    assert words[3] == "outside support"
    assert set(words) <= {"ok", "imputed", "outside support"}


def test_far_rows_have_low_densities_and_no_surprises(on_moons):
    """Trap L14: points at 1e4 standard deviations."""
    far = np.array([[1e4, 0.0], [0.0, -1e4], [1e4, 1e4]])
    estimate = score(on_moons, read_table(far)).estimate
    near = score(on_moons, read_table(moons(3))).estimate
    for value, status in zip(estimate.value.tolist(), estimate.status.tolist(), strict=True):
        assert (math.isnan(value) and Status(status).failed) or value < float(near.value.min()) - 100


def test_rows_that_do_not_fit_are_refused(on_moons, on_mixed):
    with pytest.raises(ShapeError, match="rows of 2 columns are expected, rows of 3"):
        score(on_moons, read_table(np.zeros((5, 3))))
    with pytest.raises(DataError, match="price"):
        score(on_mixed, Table(("rooms",), (np.ones(3),), "csv", (1,), ("float64",)))
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match="at least 1"):
            score(on_moons, read_table(moons(5)), importance_samples=wrong)


def test_a_source_without_density_is_a_reason_not_a_number():
    artefact = run(moons(), source=moons(seed=3)).artefact
    with pytest.raises(UnsupportedError, match="data set, which has no density"):
        score(artefact, read_table(moons(5)))
    evaluation = evaluate_table(artefact, read_table(moons(60, seed=7)), read_table(moons()))
    assert "no density" in evaluation["likelihood"]["reason"]
    assert ("log-likelihood", f"none: {evaluation['likelihood']['reason']}") in figures(evaluation)


def scored(values, status) -> Scored:
    value = torch.tensor(values, dtype=torch.float64)
    return Scored(Estimate(value, torch.zeros(len(values)), torch.tensor(status, dtype=torch.int8)), 1, False)


def test_failed_and_impossible_rows_are_counted():
    """Trap L8: nothing is dropped in silence."""
    given = scored(
        [-1.0, -3.0, math.nan, -math.inf, -2.0, math.nan],
        [Status.OK, Status.IMPUTED, Status.BLOW_UP, Status.OUTSIDE_SUPPORT, Status.OK, Status.STEP_LIMIT],
    )
    facts = summary(given, torch.tensor([-2.0, -2.0, -9.0, -50.0, -3.5, -9.0], dtype=torch.float64))
    assert (facts["mean"], facts["rows"]) == (-2.0, 3)
    assert (facts["failed_rows"], facts["impossible_rows"], facts["imputed_rows"]) == (2, 1, 1)
    # The Gaussian beside it is averaged over the same rows, so that the difference of means is the mean difference.
    assert facts["gaussian"] == pytest.approx(-2.5)
    assert facts["difference"] == pytest.approx(facts["mean"] - facts["gaussian"])
    nothing = summary(scored([math.nan, -math.inf], [Status.BLOW_UP, Status.OUTSIDE_SUPPORT]))
    assert math.isnan(nothing["mean"])
    assert nothing["rows"] == 0


@pytest.mark.parametrize("kind", ["moons", "mixed"])
def test_evaluation_is_plain_json(kind, on_moons, on_mixed):
    artefact = on_moons if kind == "moons" else on_mixed
    data = read_table(moons(80, seed=9)) if kind == "moons" else mixed(80, seed=9)
    reference = read_table(moons()) if kind == "moons" else mixed()
    evaluation = evaluate_table(artefact, data, reference)
    text = json.dumps(evaluation, allow_nan=False)  # refuses NaN, infinities, tensors and NumPy numbers
    assert json.loads(text) == evaluation
    names = [metric["name"] for metric in evaluation["metrics"]]
    assert len(names) == len(set(names)) > 4
    for metric in evaluation["metrics"]:
        if metric["name"] in ("rows compared", "non-finite share"):  # counts, which need nothing beside them
            continue
        assert metric["floor"] is not None, metric["name"]
        assert metric["ceiling"] is not None, metric["name"]
    like = evaluation["likelihood"]
    assert like["rows"] + like["failed_rows"] + like["impossible_rows"] == 80
    assert like["kind"] == ("log-density" if kind == "moons" else "mixed")
    assert evaluation["sampling"]["failed_rows"] == 0
    assert all(text for _, text in figures(evaluation))
    assert evaluate_table(artefact, data, reference)["likelihood"] == like


def test_evaluation_of_few_rows(on_moons):
    """As few held-out rows as there may be: nothing that JSON cannot hold, one line of text per figure."""
    evaluation = evaluate_table(on_moons, read_table(moons(2)), read_table(moons(4)))
    json.dumps(evaluation, allow_nan=False)
    assert all(text for _, text in figures(evaluation))
    with pytest.raises(DataError, match="cannot be compared"):
        evaluate_table(on_moons, take_rows(read_table(moons(5)), np.array([1])), read_table(moons()))


def test_text_of_an_evaluation_without_usable_rows():
    like = {"mean": None, "standard_error": None, "rows": 0, "failed_rows": 3, "impossible_rows": 2}
    assert figures({"likelihood": like}) == [("log-likelihood", "none: 3 rows failed, 2 impossible")]
    one = {"mean": -1.5, "standard_error": None, "rows": 1, "gaussian": None}
    assert figures({"likelihood": one}) == [("log-likelihood", "-1.500 nats per row (1 rows)")]


def test_the_data_of_a_run_are_found_again_or_refused(tmp_path):
    np.savetxt(tmp_path / "rows.csv", moons(100), delimiter=",", header="a,b", comments="")
    run(tmp_path / "rows.csv", out=tmp_path / "run")
    artefact = open_run(tmp_path / "run")
    table, split = find_data(artefact)
    assert table.num_rows == 100
    assert split.digest() == artefact.config["data"]["split"]
    first = evaluate_run(tmp_path / "run")
    assert open_run(tmp_path / "run").evaluation == first
    again = evaluate_rows(artefact, table, split)
    assert {k: v for k, v in again.items() if k != "sampling"} == {k: v for k, v in first.items() if k != "sampling"}

    given = evaluate_run(tmp_path / "run", tmp_path / "rows.csv")
    assert given["held_out_rows"] == 100

    np.savetxt(tmp_path / "rows.csv", moons(100, seed=1), delimiter=",", header="a,b", comments="")
    with pytest.raises(DataError, match="changed since"):
        evaluate_run(tmp_path / "run")
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(DataError, match="not there any more"):
        evaluate_run(tmp_path / "run")
    assert open_run(tmp_path / "run").evaluation == first


def test_data_given_from_python_are_not_stored(tmp_path):
    run(moons(), out=tmp_path / "run")
    with pytest.raises(DataError, match="given from Python"):
        evaluate_run(tmp_path / "run")
    assert evaluate_run(tmp_path / "run", moons(50))["reference"] == "the given rows themselves"
    assert QUICK["steps"] == open_run(tmp_path / "run").config["training"]["steps"]
