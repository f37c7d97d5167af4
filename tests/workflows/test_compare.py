"""A comparison: the same terms and rows for all, resumable, a row with a reason for what cannot be used."""

import csv
import json

import numpy as np
import pytest

from advect.errors import ConfigError, DataError, RunFolderError, TrainingError, UnknownNameError
from advect.run import RunFolder, read_config
from advect.workflows import compare as verb
from advect.workflows.compare import compare
from advect.workflows.comparison import measure as measuring
from advect.workflows.comparison.request import CompareRequest
from advect.workflows.comparison.rows import DoneRun, mean_share, paired_difference
from tests.workflows.tiny import Ear, mixed, moons, stop_after

METHODS = ("nice", "i-cfm")
TERMS = {"methods": METHODS, "steps": 12, "batch_size": 32, "seeds": 2}


def asked(out, data=None, **more):
    return CompareRequest(data=moons(200) if data is None else data, out=out, **(TERMS | more))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished comparison that the tests look at."""
    return compare(asked(tmp_path_factory.mktemp("compared") / "c"))


@pytest.fixture(autouse=True)
def no_report_of_each_run(monkeypatch):
    """The pages of single runs have tests of their own and take most of the time; `done` has them all the same."""
    monkeypatch.setattr(measuring, "write_run_report", lambda *_: {})


def plain(path):
    """The table without the clock, which no two machines agree on."""
    with path.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    clocks = ("seconds", "steps_per_second", "best_run")
    return [{k: v for k, v in line.items() if not any(clock in k for clock in clocks)} for line in lines]


# What comes out


def test_every_method_has_a_run_per_seed_on_one_split(done):
    runs = {path for row in done.rows for path in row.runs.values()}
    assert {p.rpartition("/")[2] for p in runs} == {f"{m}-{s}" for m in METHODS for s in (0, 1)}
    configs = [read_config(RunFolder(path)) for path in runs]
    assert len({config["data"]["split"] for config in configs}) == 1
    assert {config["seed"] for config in configs} == {0, 1}
    for path in runs:
        names = {"model.safetensors", "evaluation.json", "report.html", "comparison.json"}
        assert all((RunFolder(path).file(name)).exists() for name in names)


def test_the_table_holds_what_it_promises(done):
    assert done.state == "finished"
    assert [row.method for row in done.rows] == list(METHODS)
    discrete, ode = done.rows
    for row in done.rows:
        assert row.steps.mean == 12
        assert row.rate.count == row.likelihood.value.count == 2
        assert row.parameters > 0
        assert row.closest is not None
        assert {"sliced Wasserstein-2", "energy distance"} <= {cell.metric.name for cell in row.metrics}
        assert all(cell.metric.floor is not None for cell in row.metrics if "Wasserstein" in cell.metric.name)
    assert discrete.curve == ()
    assert discrete.point.nfe == 1
    assert discrete.straightness is None
    assert [round(point.nfe) for point in ode.curve] == [2, 4, 8, 16, 32, 64]
    assert ode.straightness.mean > 0
    assert sum(row.likelihood.best for row in done.rows) == 1
    assert done.best is not None
    assert done.best.is_dir()


def test_the_files_say_the_same(done):
    facts = json.loads(done.files["everything"].read_text())
    assert facts["state"] == "finished"
    assert [row["method"] for row in facts["rows"]] == list(METHODS)
    with done.files["table"].open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    for line, row in zip(lines, done.rows, strict=True):
        assert float(line["log_likelihood"]) == pytest.approx(row.likelihood.value.mean)
        assert float(line["steps"]) == 12
    assert done.verdict[0] in done.files["page"].read_text()


def test_differences_are_paired_row_by_row(done):
    """By hand from the scores that the runs keep."""
    best = next(row for row in done.rows if row.likelihood.best)
    other = next(row for row in done.rows if row is not best)

    def scores(row):
        return np.array([RunFolder(path).read_json("comparison.json")["scores"] for path in row.runs.values()])

    differences = scores(other) - scores(best)
    assert other.likelihood.difference == pytest.approx(differences.mean())
    rows_error = differences.mean(0).std(ddof=1) / np.sqrt(differences.shape[1])
    seeds_error = differences.mean(1).std(ddof=1) / np.sqrt(2)
    assert other.likelihood.difference_error == pytest.approx(np.hypot(rows_error, seeds_error))
    assert other.likelihood.rows_error == pytest.approx(rows_error)
    assert other.likelihood.tied == (abs(differences.mean()) <= 2 * rows_error)


def test_paired_differences_by_hand():
    mine, theirs = np.array([[1.0, 2.0, 3.0, np.nan]]), np.array([[0.0, 2.0, 1.0, 5.0]])
    mean, over_rows, error = paired_difference(mine, theirs)
    assert mean == 1.0
    assert over_rows == error == pytest.approx(1 / np.sqrt(3))
    twice = paired_difference(np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]), np.zeros((2, 3)))
    assert twice == pytest.approx((3.0, 1 / np.sqrt(3), np.hypot(1 / np.sqrt(3), 1.0)))
    assert paired_difference(mine, theirs[:, :3]) is None
    assert paired_difference(mine[:, :1], theirs[:, :1]) is None


# Continuing


def test_the_same_command_again_changes_nothing(done, tmp_path):
    before = plain(done.files["table"])
    ear = Ear()
    again = compare(asked(done.folder), listener=ear)
    assert plain(again.files["table"]) == before
    assert ear.lines == []  # nothing was trained


def test_stopped_after_the_first_training_it_gives_the_same_table(done, tmp_path):
    out = tmp_path / "c"
    first = compare(asked(out), stop=stop_after(20))  # twelve steps of the first, eight of the second
    assert first.state == "interrupted"
    assert [len(row.runs) for row in first.rows] == [1, 0]
    assert json.loads((out / "compare.json").read_text())["state"] == "interrupted"
    second = compare(asked(out))
    assert second.state == "finished"
    assert plain(second.files["table"]) == plain(done.files["table"])


def test_more_methods_and_seeds_may_be_added(done):
    more = compare(asked(done.folder, methods=(*METHODS, "realnvp"), seeds=2))
    assert [len(row.runs) for row in more.rows] == [2, 2, 2]
    assert len(compare(asked(done.folder, methods=("i-cfm",), seeds=1)).rows) == 1


@pytest.mark.parametrize("changed", [{"steps": 13}, {"batch_size": 64}, {"seed": 1}, {"data": moons(seed=5)}], ids=str)
def test_other_terms_are_refused_before_anything_is_trained(done, changed):
    with pytest.raises(RunFolderError, match="other terms"):
        compare(asked(done.folder, **changed))


def test_a_folder_that_is_something_else_is_refused(done, tmp_path):
    with pytest.raises(RunFolderError, match="is a run"):
        compare(asked(done.best))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="holds no comparison"):
        compare(asked(tmp_path))
    with pytest.raises(RunFolderError, match="file is there"):
        compare(asked(tmp_path / "thesis.txt"))


# What cannot be used


def test_a_method_that_cannot_be_used_is_a_row_with_its_reason(tmp_path):
    found = compare(asked(tmp_path / "c", methods=("glow", "nice"), seeds=1))
    refused, usable = found.rows
    assert refused.runs == {}
    assert "pictures" in refused.failures[0]
    assert len(usable.runs) == 1
    assert found.best.name == "nice-0"
    page = found.files["page"].read_text()
    assert "glow works on pictures" in page


def test_a_training_that_diverges_takes_no_other_with_it(tmp_path, monkeypatch):
    straight = verb.train

    def train(request, **more):
        if request.method == "nice" and request.seed == 0:
            raise TrainingError("the loss is not finite", where="step 3")
        if request.method == "realnvp":
            raise ZeroDivisionError("a fault")
        return straight(request, **more)

    monkeypatch.setattr(verb, "train", train)
    found = compare(asked(tmp_path / "c", methods=("nice", "realnvp", "i-cfm")))
    nice, broken, whole = found.rows
    assert list(nice.runs) == [1]
    assert nice.failures == ("step 3: the loss is not finite.",)
    assert broken.runs == {}
    assert "ZeroDivisionError" in broken.failures[0]
    assert list(whole.runs) == [0, 1]
    assert whole.likelihood.difference is not None


def test_nothing_usable_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="none of these methods"):
        compare(asked(tmp_path / "c", methods=("glow",)))


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"methods": ("nsf", "ot-cmf")}, UnknownNameError, "Did you mean 'ot-cfm'"),
        ({"methods": ()}, ConfigError, "no method"),
        ({"methods": ("nsf", "nsf")}, ConfigError, "named twice"),
        ({"seeds": 0}, ConfigError, "--seeds"),
        ({"steps": 5, "budget_seconds": 5.0}, ConfigError, "contradict"),
        ({"seed": -1}, ConfigError, "--seed"),
    ],
    ids=str,
)
def test_bad_requests(tmp_path, wrong, error, words):
    with pytest.raises(error, match=words):
        asked(tmp_path / "c", **wrong)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"label": "x7"}, UnknownNameError, "x0"),
        ({"data": moons(12)}, DataError, "held out"),
        ({"condition": ("z",)}, UnknownNameError, "z"),
        ({"data": "moons", "label": "label"}, DataError, "Add --condition label"),
        ({"data": "mons"}, UnknownNameError, "moons"),
    ],
    ids=str,
)
def test_bad_data_is_refused_before_a_folder_is_made(tmp_path, wrong, error, words):
    with pytest.raises(error, match=words):
        compare(asked(tmp_path / "c", **wrong))
    assert not (tmp_path / "c").exists()


# Columns of every kind, conditions, labels


@pytest.mark.parametrize("label", ["place", "price", "sold"])
def test_a_mixed_table_with_a_condition_and_a_label(tmp_path, label):
    condition = ("sold",) if label == "sold" else ()
    terms = {"methods": ("nice",), "seeds": 1, "condition": condition, "label": label}
    found = compare(asked(tmp_path / "c", data=mixed(150), **terms))
    learned = found.rows[0].synthetic
    assert learned.measure == ("R²" if label == "price" else "accuracy")
    assert learned.real >= learned.guess - 0.5
    assert found.rows[0].likelihood.label == "mixed"
    # Another label later is measured anew, and nothing is trained.
    again = compare(asked(tmp_path / "c", data=mixed(150), **(terms | {"label": None})))
    assert again.rows[0].synthetic is None


# Summaries


def test_a_likelihood_is_compared_with_its_own_kind_only(done):
    """A bound is ranked among bounds, the only one not at all; one without a likelihood says why."""
    from dataclasses import replace

    from advect.workflows.comparison.measure import Measurement
    from advect.workflows.comparison.rows import method_rows

    stored = RunFolder(done.rows[0].runs[0]).read_json("comparison.json")
    base = Measurement.from_dict(stored)

    def run(method, scores, **likelihood):
        return DoneRun(method, 0, "r", replace(base, scores=scores), {"likelihood": likelihood})

    runs = [
        run("nice", (1.0, 2.0, 3.0), kind="log-density"),
        run("vae", (5.0, 5.0, 5.0), kind="log-density", elbo=4.0),
        run("gan", (), reason="no density"),
    ]
    value, bound, none = (row.likelihood for row in method_rows(("nice", "vae", "gan"), 1, runs, []))
    assert value.best
    assert bound.label == "lower bound of the log-density"
    assert bound.difference is None
    assert not bound.best
    assert not bound.tied
    second = run("nsf", (4.0, 4.0, 4.5), kind="log-density", elbo=3.0)
    _, first, _, behind = (r.likelihood for r in method_rows(("nice", "vae", "gan", "nsf"), 1, [*runs, second], []))
    assert first.best
    assert behind.difference == pytest.approx(-2.5 / 3)
    assert none.value is None
    assert none.reason == "no density"


def test_the_share_leaves_out_metrics_that_cannot_tell():
    from advect.records import Metric

    tells = Metric("a", 0.3, floor=0.1, floor_error=0.01, ceiling=0.5)
    weak = Metric("b", 9.0, floor=0.1, floor_error=1.0, ceiling=0.5)
    below = Metric("c", 0.05, floor=0.1, floor_error=0.01, ceiling=0.5)
    assert mean_share([tells, weak]) == pytest.approx(0.5)
    assert mean_share([tells, below]) == pytest.approx(0.25)
    assert mean_share([weak]) is None
