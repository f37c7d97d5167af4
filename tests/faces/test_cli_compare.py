"""``advect compare`` as a process, its refusals, and its page against hostile names."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from advect.evaluation import ClosestRecord, TrainedOn
from advect.records import Metric
from advect.report.comparison import ComparisonContent, MethodRow, render_comparison
from advect.report.comparison.content import CurvePoint, LikelihoodCell, MetricCell, Ruler, Spread
from advect.report.comparison.figures import style_of
from advect.report.comparison.table import blocks
from advect.report.comparison.verdict import verdict, winner
from advect.report.values import pair_to_draw
from tests.faces.made_pages import motion_of
from tests.faces.made_runs import advect, houses, only_json, refuse, succeed
from tests.faces.test_report_page import ATTACKS, Page, table
from tests.workflows.tiny import moons

COMPARE = "compare moons.csv --methods nice,i-cfm --seeds 2 --steps 60 --batch-size 32"


@pytest.mark.slow
def test_two_methods_of_two_seeds_on_moons(tmp_path):
    np.savetxt(tmp_path / "moons.csv", moons(), delimiter=",", header="x,y", comments="")
    done = advect(COMPARE, tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "4 trainings" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split("\t")[:3] == ["method", "log-likelihood", "to the best"]
    assert [line.split("\t")[0] for line in lines[1:5]] == ["nice", "i-cfm", "real rows", "Gaussian fit"]
    folder = tmp_path / "runs/moons-compare"
    assert {p.name for p in folder.iterdir()} >= {"compare.csv", "compare.json", "compare.html", "nice-0", "i-cfm-1"}
    command = next(line.strip() for line in lines if "advect sample" in line)
    again = advect(command.removeprefix("advect ").replace("-n 1000", "-n 20"), tmp_path)
    assert again.returncode == 0, again.stderr

    # The same command is done already, and says the same; a run of it is an ordinary run.
    repeated = advect(f"{COMPARE} --json", tmp_path, timeout=300)
    value = only_json(repeated.stdout)
    assert "nothing to train" in repeated.stderr
    assert value == {**value, **json.loads((folder / "compare.json").read_text())}
    with (folder / "compare.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["log_likelihood"]) for row in rows] == [
        row["likelihood"]["value"]["mean"] for row in value["rows"]
    ]
    one = "train moons.csv --method nice --steps 60 --batch-size 32 --seed 1 --split-seed 0"
    assert "this run is finished" in advect(f"{one} --out runs/moons-compare/nice-1", tmp_path).stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("compare moons", "--methods needs a value"),
        ("compare moons --methods nsf,ot-cmf", "Did you mean 'ot-cfm'"),
        ("compare moons --methods ,", "no method to compare"),
        ("compare moons --methods nsf --seeds 0", "--seeds"),
        ("compare moons --methods nsf --budget soon", "not a duration"),
        ("compare moons --methods nsf --budget 5s --steps 5", "contradict"),
        ("compare mons --methods nsf", "moons"),
        ("compare moons --methods nsf --label lable", "'label'"),
        ("compare houses.csv --methods glow", "none of these methods"),
        ("compare houses.csv --methods nice --condition plaice", "place"),
        ("compare houses.csv --methods nice --batch-size 1", "at least 2"),
        ("compare moons --methods nsf --set bins=4", "does not say which method"),
        ("compare moons --methods nsf --set nsf=4", "does not say which method"),
        ("compare moons --methods nsf --set maf.layers=4", "no method in this comparison 'maf'"),
        ("compare moons --methods nsf --set nsf.bns=4", "Did you mean 'bins'"),
        ("compare moons --methods nsf --set nsf.bins=four", "bins must be a whole number"),
    ],
)
def test_refusals_leave_nothing_behind(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    houses(tmp_path / "houses.csv")
    said = refuse(command, capsys)
    assert words in said
    assert said.count("error:") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["houses.csv"]


def test_a_dry_run_says_what_would_happen_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = "compare moons --methods nice,glow --set nice.layers=2 --steps 2 --seeds 2 --dry-run"
    said, _ = succeed(asked, capsys)
    assert "2 trainings" in said
    assert "glow is left out" in said
    assert "moons-compare" in said
    facts = only_json(succeed(f"{asked} --json", capsys)[0])
    assert facts["trainings"] == 2
    assert "glow" in facts["refusals"]
    assert not list(tmp_path.iterdir())


# The page


def spread(mean, deviation=0.1):
    return Spread(mean, deviation, 2)


def row_of(name, words, mean=-1.0, difference=0.0, error=None, share=0.1):
    metrics = (
        MetricCell(Metric(f"sliced Wasserstein-2 {words}", 0.2, 0.01, 0.1, 0.02, 0.5, unit=words), 0.01),
        MetricCell(Metric("energy distance", 0.2, 0.01, 0.1, 0.02, 0.5), 0.01),
    )
    return MethodRow(
        method=name, title=words, asked=2, runs={0: f"c/{words}-0", 1: "c/b-1"}, failures=(words,), parameters=12_345,
        steps=spread(100.0), rate=spread(20.0), training_seconds=spread(5.0),
        likelihood=LikelihoodCell(words, spread(mean), 0.1, 50, 3, difference, error, 0.06, -2.0), metrics=metrics,
        sampling_seconds=spread(0.1), nfe=spread(25.0), straightness=spread(0.2), point=CurvePoint(25, 0.1, 0.2),
        curve=tuple(CurvePoint(2.0**i, 0.1 * i, 0.5 / i) for i in range(1, 6)),
        closest=ClosestRecord(0.1, 0.12, 0.04, 0.05, 0.01), synthetic=TrainedOn(0.8, 0.9, 0.5, 0.02, "accuracy"),
        share=share, share_spread=0.01, best_run=f"c/{words}-0",
    )  # fmt: skip


def content_of(words="plain"):
    random = np.random.default_rng(0)
    rows = (
        row_of(f"{words} a", words),
        row_of(f"{words} b", words, -1.5, -0.5, 0.1, 0.3),
        MethodRow(f"{words} c", words, 2, failures=(words,)),
        dataclasses.replace(row_of(f"{words} d", words), likelihood=LikelihoodCell(reason=words), curve=()),
    )
    clouds = [table(random.normal(size=(3, 40)), [f"{words}{i}" for i in range(3)]) for _ in range(3)]
    return ComparisonContent(
        title=words, data=words, terms=words, verdict=(*verdict(rows), words), rows=rows, label=words,
        ruler=Ruler(words, 0.1, 0.01, 50), samples={f"{words} a": clouds[1], f"{words} b": clouds[2]}, real=clouds[0],
        command=f"advect compare {words}", next_commands=(f"advect sample {words}",), notes=(words,),
        links=((words, "a-0/report.html"),), versions={words: words},
        motions={f"{words} a": motion_of(words), f"{words} b": dataclasses.replace(motion_of(words), layered=True)},
    )  # fmt: skip


def test_the_page_is_whole_and_loads_nothing():
    page = Page(render_comparison(content_of()))
    assert len(page.find("script")) == 1  # its own
    assert len(page.find("canvas")) == 2
    assert "Nothing on the way to show: plain c and plain d." in page.text
    assert all(image["src"].startswith("data:") and image["alt"] for image in page.find("img"))
    assert len(page.find("img")) == 6
    assert {link["href"] for link in page.find("a")} >= {"#table", "a-0/report.html"}
    assert all("://" not in link["href"] for link in page.find("a"))
    assert "plain a leads" in page.text


@pytest.mark.parametrize("words", ATTACKS)
def test_names_of_strangers_stay_words(words, monkeypatch):
    from advect.report.comparison import page as pages

    # Without the figures, which take most of the time; `label` keeps what they draw from breaking.
    for name in ("_likelihood", "_metrics", "_samples"):
        monkeypatch.setattr(pages, name, lambda _: None)
    monkeypatch.setattr(pages, "_costs", lambda _: ())
    contents = (dataclasses.replace(content_of(w), motions={}) for w in ("plain", words))
    plain, hostile = (Page(render_comparison(content)) for content in contents)
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(a) for _, a in hostile.elements] == [sorted(a) for _, a in plain.elements]
    assert not {name for _, a in hostile.elements for name in a if name.startswith("on")}


def test_figures_draw_hostile_names():
    page = Page(render_comparison(content_of("$\\frac{ <b> \x00\u202e")))
    assert len(page.find("img")) == 6


def test_the_table_marks_what_cannot_be_told_from_the_best():
    rows = (row_of("a", "w"), row_of("b", "w", -1.1, -0.1, 0.06), row_of("c", "w", -2.0, -1.0, 0.1))
    quality, cost = blocks(rows, "kind")
    assert [str(cells[2]) for cells in quality.rows] == ["best ✓", "−0.100 ± 0.060 ✓", "−1.00 ± 0.10"]
    varied = blocks((rows[0], row_of("d", "w", -2.0, -1.0, 0.7)))[0]
    assert str(varied.rows[1][2]) == "−1.00 ± 0.70 ?"
    assert quality.heads[-1] == "accuracy of kind"
    assert {len(cells) for cells in (*quality.rows, *quality.references)} == {len(quality.heads)}
    assert {len(cells) for cells in cost.rows} == {len(cost.heads)}


def test_the_verdict_names_who_leads_and_who_ties():
    rows = (row_of("a", "w"), row_of("b", "w", -1.1, -0.1, 0.06, 0.3), row_of("c", "w", -2.0, -1.0, 0.1, 0.5))
    rows = tuple(dataclasses.replace(row, failures=()) for row in rows)
    first, second, third = verdict(rows)
    assert first == "a leads, by likelihood and by samples."
    assert "b within two standard errors" in second
    assert "the next, c, is 1.00 ± 0.10 below" in second
    assert "b 30 % and c 50 %" in third
    split = (rows[0], dataclasses.replace(rows[1], share=0.01))
    assert winner(split).method == "b"
    assert verdict(split)[0] == "b has the best samples; a the highest likelihood."
    assert verdict((MethodRow("a", "A", 1, failures=("no",)),)) == ("No method could be trained on these data.",)
    assert verdict((MethodRow("a", "A", 1),)) == ("No training is finished yet.",)


def test_columns_that_depend_on_one_another_are_drawn():
    random = np.random.default_rng(0)
    x, z = random.normal(size=(2, 300))
    words = np.array(["a"] * 300, dtype=object)
    rows = table([words, x, z, x + 0.3 * z, 2 * x], ["w", "x", "z", "sum", "twice"])
    assert set(pair_to_draw(rows)) in ({"x", "sum"}, {"sum", "twice"})  # x and twice are one line
    assert pair_to_draw(table([words, x], ["w", "x"])) is None


def test_methods_keep_a_look_of_their_own():
    assert len({style_of(i) for i in range(28)}) == 28
