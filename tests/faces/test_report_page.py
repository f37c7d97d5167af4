"""The page: one file that loads nothing, escapes everything, and says honestly how good the samples are."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from advect.errors import AdvectError
from advect.records import Metric
from advect.report import (
    DataSummary,
    ReportContent,
    judge,
    render_report,
    verdict,
    write_report,
)
from advect.report.page import script
from advect.report.parts import strip
from tests.faces.made_pages import ATTACKS, METRICS, content_of, images_of, motion_of, table, text_of

VOID = {"meta", "link", "img", "br", "hr", "input", "line", "rect", "circle", "path"}
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def find(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def require_harmless(text):
    """No script but ours, no handler, no address but data: and anchors, no element that loads anything."""
    page = Page(text)
    scripts = SCRIPT.findall(text)
    assert scripts == [script()] * len(page.find("script"))
    assert len(scripts) == len(page.find("canvas")) <= 1
    names = {name for name, _ in page.elements}
    assert not names & {
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "video",
        "audio",
        "use",
        "image",
    }
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.lower().startswith("on"), (tag, key)
            assert tag != "script"
            assert tag != "input" or attributes["type"] == "range"
            assert key != "style", tag
            if key in ("src", "href", "srcset", "xlink:href", "action", "data", "poster"):
                assert re.match(r"data:(image/(png|svg\+xml);base64,[A-Za-z0-9+/=]*)?,?$|#[a-z]+$", value), (tag, key)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "//" not in style
    policies = [a["content"] for a in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    assert policies[0] == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return page


@pytest.mark.parametrize("words", ATTACKS)
def test_nothing_a_stranger_writes_becomes_markup(words):
    page = require_harmless(render_report(text_of(words)))
    plain = Page(render_report(text_of("plain")))
    assert [name for name, _ in page.elements] == [name for name, _ in plain.elements]
    if words.isprintable():
        assert page.text.count(" ".join(words.split())) > 20  # in every place, as it was written


def test_names_and_categories_around_and_inside_figures_are_letters_too():
    rng = np.random.default_rng(0)
    words = np.array([*ATTACKS, None], object)
    rows = table([*rng.normal(size=(len(ATTACKS), 40)), rng.choice(words, 40)], [*ATTACKS, "kinds"])
    content = dataclasses.replace(content_of(ATTACKS[0]), samples=rows, real=rows)
    text = render_report(content)
    page = require_harmless(text)
    for attack in ATTACKS:
        assert not attack.isprintable() or attack in page.text
    drawings = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", text)
    assert len(drawings) > len(ATTACKS)
    for drawing in drawings:
        assert b"<script" not in base64.b64decode(drawing)


def test_the_page_can_be_read_by_everyone():
    page = Page(render_report(content_of()))
    assert page.find("html") == [{"lang": "en"}]
    assert any(a.get("name") == "viewport" for a in page.find("meta"))
    assert any(a.get("charset") == "utf-8" for a in page.find("meta"))
    for image in page.find("img"):
        assert len(image["alt"]) > 20
        assert int(image["width"]) > 0
    assert all(a.get("scope") in ("col", "row") for a in page.find("th"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.find("svg"))
    assert len(page.find("h1")) == 1
    anchors = {a["href"] for a in page.find("a")}
    assert anchors == {f"#{a['id']}" for a in page.find("section")}
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_the_style_serves_dark_rooms_paper_and_small_screens():
    text = render_report(content_of())
    for query in ("(prefers-color-scheme: dark)", "@media print", "max-width", "prefers-reduced-motion"):
        assert query in text


def test_the_page_says_all_it_was_given():
    page = Page(render_report(content_of("plain")))
    for words in (
        "like real rows", "no better than a Gaussian fit", "told apart, 8.1 % of the way", "0.0480 ± 0.0060", "0.310",
        "−1.00 ± 0.10", "−2.00 ± 0.10", "K = 16", "bits per dimension", "3 rows have no value", "step 3 were kept",
        "Where the time went: network 80 %, coupling 20 %.",
        "advect train plain", "advect sample plain", 'name = "plain"', "12 s", "1 of 3",
    ):  # fmt: skip
        assert words in page.text, words


def test_a_wide_page_stays_below_three_megabytes_and_says_what_it_left_out():
    text = render_report(dataclasses.replace(content_of(width=100, rows=5000), metrics=METRICS * 10))
    assert len(text.encode()) < 3e6
    for words in ("The first 24 of 101 columns are drawn", "12 more columns", "14 more scores", "All 101 columns"):
        assert words in text


def test_pictures_are_shown_as_pictures():
    text = render_report(images_of((1, 8, 8)))
    page = require_harmless(text)
    alts = [a["alt"] for a in page.find("img")]
    assert alts == [
        "A grid of 40 pictures, real rows. Black is 0, white 16.",
        "A grid of 40 pictures, samples. Black is 0, white 16.",
    ]
    assert "8 × 8" in page.text
    assert len(text) < 300_000


def test_picture_shaped_rows_that_are_none_become_columns():
    page = Page(render_report(images_of((2, 1, 2))))
    assert [a["alt"].split(".")[0] for a in page.find("img")][1:] == [f"Histogram of pixel{i}" for i in range(4)]


def test_the_emptiest_page():
    page = require_harmless(render_report(ReportContent("t", "m", "e", DataSummary("d", 0, ()))))
    assert page.find("img") == []
    assert "0 rows from d." in page.text


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("samples", [True, False])
def test_tables_without_rows_or_not_given(real, samples):
    empty = table([np.zeros(0), np.zeros(0)], ["a", "b"])
    full = table([np.arange(5.0), np.arange(5.0)], ["a", "b"])
    for nothing in (None, empty):
        content = dataclasses.replace(
            text_of("plain"), real=full if real else nothing, samples=full if samples else nothing
        )
        page = require_harmless(render_report(content))
        assert ("no rows to draw" in page.text) == (not real and not samples and nothing is not None)


def test_equal_content_gives_an_equal_page():
    assert render_report(content_of()) == render_report(content_of())


def test_the_file_is_written_whole_or_not_at_all(tmp_path):
    content = text_of("\ud800 ü")
    path = write_report(content, tmp_path / "report.html")
    assert path.read_text("utf-8") == render_report(content)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    broken = dataclasses.replace(content, motion=dataclasses.replace(motion_of(), states=np.full((5, 3, 2), "a")))
    with pytest.raises(ValueError, match="could not convert"):
        write_report(broken, path)
    assert "ü" in path.read_text("utf-8")
    with pytest.raises(AdvectError):
        write_report(content, path / "below a file.html")


# --- the verdict ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "level"),
    [
        (Metric("a", 1.0, 0.1, 0.9, 0.1, 5.0), "as real"),
        (Metric("a", 1.2, 0.0, 1.0, 0.1, 5.0), "as real"),  # exactly two standard deviations
        (Metric("a", 1.21, 0.0, 1.0, 0.1, 5.0), "between"),
        (Metric("a", 5.0, 0.1, 1.0, 0.1, 5.0), "no better"),
        (Metric("a", 9.0, 0.1, 1.0, 0.1, 5.0), "no better"),
        (Metric("a", 9.0, 0.1, 1.0, 0.1, None), "between"),
        (Metric("a", 0.5, 0.1, 1.0, 0.1, 5.0), "too good"),
        (Metric("a", 0.9, None, 1.0, None, 5.0), "as real"),
        (Metric("a", 1.1, None, 1.0, None, 5.0), "between"),
        (Metric("a", 9.0, 0.1, 10.0, 0.1, 2.0, "higher"), "between"),
        (Metric("a", 9.9, 0.1, 10.0, 0.1, 2.0, "higher"), "as real"),
        (Metric("a", 1.0, 0.1, 10.0, 0.1, 2.0, "higher"), "no better"),
        (Metric("a", float("nan"), 0.1, 1.0, 0.1, 5.0), "failed"),
        (Metric("a", float("inf"), 0.1, 1.0, 0.1, 5.0), "failed"),
        (Metric("a", 1.0, float("nan"), 1.0, float("nan"), float("nan")), "as real"),
        (Metric("a", 1.0, 0.1, None, None, 2.0), "unfloored"),
        (Metric("a", 1.0), "unjudged"),
    ],
)
def test_each_score_is_judged_by_floor_and_ceiling(metric, level):
    assert judge(metric).level == level


def test_the_share_is_the_way_from_floor_to_gaussian():
    assert judge(Metric("a", 2.0, 0.0, 1.0, 0.0, 5.0)).share == pytest.approx(0.25)
    assert judge(Metric("a", 8.0, 0.0, 10.0, 0.0, 2.0, "higher")).share == pytest.approx(0.25)


def test_a_good_model_is_called_good_and_a_bad_one_bad():
    good = [Metric("a", 1.0, 0.1, 1.0, 0.1, 5.0), Metric("b", 1.0, 0.1, 1.0, 0.1, 5.0)]
    bad = [Metric("a", 6.0, 0.1, 1.0, 0.1, 5.0), Metric("b", 3.0, 0.1, 1.0, 0.1, 5.0)]
    assert verdict(good).startswith("On all 2 two-sample tests the samples cannot be told")
    said = verdict(bad)
    assert said.startswith("The samples can be told from held-out rows on every one of 2")
    assert "By a they are no better than a Gaussian fit" in said
    assert "b (3; real rows 1.00 ± 0.10, a Gaussian fit 5, so 50 % of the way from real to Gaussian)" in said
    assert verdict([good[0], bad[1]]).startswith("On 1 of 2 two-sample tests")
    assert verdict([good[0]]).startswith("On the one two-sample test the samples cannot be told")
    assert "can be told from held-out rows on the one" in verdict([bad[0]])


def test_a_test_that_a_gaussian_passes_is_not_boasted_of():
    assert "Passing says little for a" in verdict([Metric("a", 1.0, 0.1, 1.0, 0.1, 1.1)])


def test_scores_better_than_real_rows_are_suspect():
    assert "look for rows that are both in" in verdict([Metric("a", 0.1, 0.01, 1.0, 0.1, 5.0)])


def test_failures_and_silence_are_said():
    assert "No number came out for a" in verdict([Metric("a", float("nan"))])
    assert verdict([]) == "Nothing has been measured yet, so there is nothing to say about quality."


def test_scores_without_a_floor_are_held_against_the_gaussian():
    better = Metric("log-likelihood", -1.0, 0.1, None, None, -2.0, "higher", "nats")
    assert verdict([better]) == "Log-likelihood is −1 nats, better than a Gaussian fit (−2 nats)."
    assert "worse than" in verdict([dataclasses.replace(better, value=-3.0)])
    assert "not clearly different" in verdict([dataclasses.replace(better, value=-1.9)])


def test_only_the_worst_are_told_at_length():
    many = [Metric(f"column {i}", 1.5 + i / 10, 0.01, 1.0, 0.1, 5.0) for i in range(9)]
    said = verdict(many)
    assert said.index("column 8 (") < said.index("column 7 (") < said.index("column 6 (")
    assert "and 6 more" in said
    assert "column 5" not in said


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_strips_run_from_real_to_gaussian_whichever_way_is_better(better):
    sign = 1 if better == "lower" else -1
    half = strip(Metric("a", sign * 3.0, 0.1, sign * 1.0, 0.1, sign * 5.0, better))
    assert half.value == pytest.approx((half.floor + half.ceiling) / 2)
    assert half.words == "50 % of the way from real rows to a Gaussian fit"
    far = strip(Metric("a", sign * 30.0, 0.1, sign * 1.0, 0.1, sign * 5.0, better))
    assert (far.beyond, far.value) == ("right", 100.0)
    assert strip(Metric("a", 1.0)) is None
    assert strip(Metric("a", 0.0, None, 0.0, None, None)).value == strip(Metric("a", 0.0, None, 0.0)).floor
