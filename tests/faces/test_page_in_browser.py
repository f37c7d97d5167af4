"""The page in a real browser: nothing of a stranger's runs, nothing leaves, and what moves answers hand and keys.

Skipped where playwright or a chromium is not installed: ``pip install -e .[browser]`` and the system's chromium.
"""

import copy
import csv
import dataclasses
import functools
import itertools
import re
import shutil
from pathlib import Path
from unittest import mock
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest
import torch

from advect.data import read_table
from advect.report import render_report
from advect.report.comparison import render_comparison
from advect.report.field import ACTIVATIONS, OuterMap, PlaneField, PlaneNetwork, TimeTables, trace
from advect.report.parts import Card
from advect.solvers import Adaptive
from advect.workflows.motion import FRAMES, visible
from advect.workflows.shown_motion import shown_motion
from tests.faces.made_pages import ATTACKS, content_of, images_of, motion_of, pictures_of, table, text_of
from tests.faces.test_cli_compare import content_of as comparison_of
from tests.workflows.tiny import moons, run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra: browser)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # No sandbox: in a container the tests may run as root. Only pages made here are opened.
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that writes content and opens its page; whatever it says, asks for or runs fails the test."""
    contexts, trouble = [], []

    def opened(content, **how):
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(content if isinstance(content, str) else render_report(content), encoding="utf-8")
        # Without the page's smooth scrolling, for which every step of a test would wait.
        usual = {"viewport": {"width": 1000, "height": 800}, "reduced_motion": "reduce"}
        context = browser.new_context(**(usual | how))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))

        def guard(route):
            if route.request.url.startswith(path.as_uri()) or route.request.url.startswith("data:"):
                route.continue_()
            else:
                trouble.append(f"request: {route.request.url}")
                route.abort()

        context.route("**/*", guard)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


@functools.cache
def moving_page():
    """The text of a page with little but rows on their way: the other figures take most of the time."""
    return render_report(dataclasses.replace(text_of("plain"), motion=motion_of()))


@functools.cache
def full_page():
    """The text of a page with everything."""
    return render_report(content_of())


def with_motion(motion):
    """The same with other rows, and without the still pictures of them, which no test here looks at."""
    drawn = Card("data:,", "a strip of some times", 10, 10)
    strip = mock.patch("advect.report.moving.strip_of_points", return_value=drawn)
    with strip, mock.patch("advect.report.sections.paths", return_value=drawn):
        return render_report(dataclasses.replace(text_of("plain"), motion=motion))


def numbers(text):
    """The numbers of the sentence about the dragged point: here, from, to, each a pair."""
    found = [float(n) for n in re.findall(r"-?\d[\d.]*(?:e[-+]?\d+)?", text.split(":", 1)[1].replace("−", "-"))]
    return np.array(found[:6]).reshape(3, 2)


def pixels(page):
    return page.evaluate("document.querySelector('canvas').toDataURL()")


def place(page):
    return int(page.locator(".time").input_value())


def drag(page, by):
    """Drag the ringed point by pixels."""
    page.locator(".handle").scroll_into_view_if_needed()
    box = page.locator(".handle").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by[0] / 2, y + by[1] / 2)
    page.mouse.move(x + by[0], y + by[1])
    page.mouse.up()


# --- strangers -----------------------------------------------------------------------------------------------------


def test_words_of_strangers_stay_words(opened):
    """Every attack in every place that takes text: the shown text is what was written, and nothing else happens."""
    page = opened(text_of("plain"))
    for words in ATTACKS:
        Path(url2pathname(urlparse(page.url).path)).write_text(render_report(text_of(words)), encoding="utf-8")
        page.reload()
        assert page.title() == " ".join(page.title().split())
        if words.isprintable():
            assert page.locator("h1").text_content() == words
            assert words in page.locator("#again pre").first.text_content()
        assert page.locator("script").count() == 0


def test_names_in_figures_and_controls_stay_words(opened):
    """Column names on the canvas, in the choice of columns, and categories in the pictures."""
    rng = np.random.default_rng(0)
    words = np.array([*ATTACKS, None], object)
    rows = table([*rng.normal(size=(3, 40)), rng.choice(words, 40)], [*ATTACKS[:3], "kinds"])
    states = rng.normal(size=(5, 20, len(ATTACKS)))
    motion = dataclasses.replace(motion_of(ATTACKS[0]), states=states, real=states[-1], names=tuple(ATTACKS))
    page = opened(dataclasses.replace(content_of(ATTACKS[0]), samples=rows, real=rows, motion=motion))
    offered = page.locator(".across option").all_text_contents()
    assert len(offered) == len(ATTACKS)
    assert [o for o, a in zip(offered, ATTACKS, strict=True) if a.isprintable()] == [
        " ".join(a.split()) for a in ATTACKS if a.isprintable()
    ]
    for value in (3, 9):
        page.locator(".across").select_option(str(value))
    page.locator(".play").click()
    assert page.evaluate("document.scripts.length") == 1


def test_a_run_on_a_strangers_file(opened, tmp_path):
    """From the file to the browser: its name, its columns, its categories and the run's folder are all hostile."""
    attack = '"><img src=x onerror=alert(1)> {{ 7*7 }} \u202e<script>alert(1)<'  # a slash cannot be in a name
    rng, path = np.random.default_rng(0), tmp_path / f"{attack}.csv"
    head = [f"{attack} one", f"{attack} two", f"{attack} kind"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        for x, y, kind in zip(*rng.normal(size=(2, 80)), rng.integers(0, 2, 80), strict=True):
            writer.writerow([f"{x:.5f}", f"{y:.5f}", (attack, "</script><script>alert(1)</script>")[kind]])
    result = run(str(path), out=tmp_path / f"run {attack}", steps=3, evaluate=True)
    page = opened(result.files["report"].read_text(encoding="utf-8"))
    shown = attack.replace("\u202e", " ")  # marks that turn the direction of text are taken out
    assert page.locator("h1").text_content() == f"{shown}.csv, learned by i-cfm"
    assert f"run {shown}" in page.locator("#again pre").first.text_content()
    assert [text.strip() for text in page.locator("#data tbody th").all_text_contents()][-3:] == [
        name.replace("\u202e", " ") for name in head
    ]
    first = pixels(page)
    page.locator(".time").focus()
    page.keyboard.press("End")
    assert pixels(page) != first
    assert page.evaluate("document.scripts.length") == 1


def test_a_comparison_moves_side_by_side(opened):
    words = ATTACKS[1]
    page = opened(render_comparison(comparison_of(words)))
    assert page.locator(".panel .heading").all_text_contents() == [f"{words} a", f"{words} b"]
    assert page.locator("canvas").count() == 2

    def both():
        return page.evaluate("[...document.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL())")

    before = both()
    page.locator(".time").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".now").text_content() == "5 % of the way"
    assert all(one != other for one, other in zip(before, both(), strict=True))
    assert page.locator(".handle").count() == 0


def test_the_policy_forbids_what_is_not_the_pages_own(browser, tmp_path):
    """The net beneath: a page into which a script was smuggled does not run it."""
    path = tmp_path / "page.html"
    smuggled = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    path.write_text(moving_page().replace("<main>", f"<main>{smuggled}"), encoding="utf-8")
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.title() == "plain"
    assert sum("Content Security Policy" in text for text in said) >= 2
    assert page.locator(".live").is_visible()  # and the page's own script did run
    context.close()


# --- time ----------------------------------------------------------------------------------------------------------


def test_the_slider_by_keys(opened):
    page = opened(moving_page(), reduced_motion="no-preference")
    slider, first = page.locator(".time"), pixels(page)
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert (place(page), page.locator(".now").text_content()) == (1, "t = 0.25")
    assert slider.get_attribute("aria-valuetext") == "t = 0.25"
    assert pixels(page) != first
    page.keyboard.press("End")
    assert page.locator(".now").text_content() == "t = 1.00"
    page.keyboard.press("Home")
    assert (place(page), pixels(page)) == (0, first)
    page.keyboard.press(" ")
    playwright.expect(slider).not_to_have_value("0")
    assert page.locator(".play").text_content() == "Pause"
    page.keyboard.press(" ")
    assert page.locator(".play").text_content() == "Play"
    stopped = place(page)
    page.wait_for_timeout(150)
    assert place(page) == stopped


def test_play_reaches_the_data_and_begins_anew(opened):
    page = opened(moving_page(), reduced_motion="no-preference")
    page.clock.install()
    page.locator(".play").click()
    page.clock.run_for(4500)
    assert (place(page), page.locator(".play").text_content()) == (4, "Play")
    page.locator(".play").click()
    page.clock.run_for(1000)
    assert place(page) < 4


def test_where_motion_is_unwelcome_there_are_stops(opened):
    page = opened(moving_page())
    page.clock.install()
    page.locator(".play").click()
    pictures = []
    for _ in range(12):
        page.clock.run_for(100)
        pictures.append(pixels(page))
    assert len(set(pictures)) <= 3  # of 1.2 seconds, at 0.6 seconds a stop


def test_pictures_on_their_way(opened):
    page = opened(dataclasses.replace(images_of((1, 8, 8)), motion=pictures_of((3, 8, 8))))
    first = pixels(page)
    page.locator(".time").focus()
    page.keyboard.press("End")
    assert pixels(page) != first
    assert page.locator("#motion img").is_visible()  # the strip of all times stays


# --- the point -----------------------------------------------------------------------------------------------------

RUNS = {
    "residual network, far from zero": {"data": "far"},
    "plain network, heavy tails": {"method": "ot-cfm", "network": "mlp-2x16", "data": "heavy"},
    "another schedule": {"method": "edm"},
    "by likelihood": {"method": "cnf", "network": "mlp-2x8", "steps": 20},
}


def rows_of(name):
    rows = moons(300)
    if name == "heavy":  # one column with tails that the scaling bends
        rows[:, 0] = np.exp(1.5 * np.random.default_rng(2).standard_normal(len(rows)))
    if name == "far":
        rows += 1e6
    return rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for name, how in RUNS.items():
        how = dict(how)
        rows = rows_of(how.pop("data", "moons"))
        artefact = run(rows, out=folder / name, **how).artefact
        made[name] = artefact, shown_motion(artefact, read_table(rows), seed=0)
    assert made["plain network, heavy tails"][1].field.outer.bend[0, 1] > 0  # bent by a sinh
    assert made["another schedule"][1].note
    return made


@torch.no_grad()
def moved(artefact, x, start, end):
    """A point of the data moved from one time to another by the model itself, by a very careful solve."""
    flow = copy.deepcopy(visible(artefact.flow)).double()
    before, ode, _ = flow.split_at_ode("test")
    shift = np.array([code.offset for code in artefact.codec.codes])
    z = before.encode(torch.as_tensor(x - shift)[None].double(), log_det=False).value.double()
    first, last = (min(max(t, ode.interval[0]), ode.interval[1]) for t in (start, end))
    z = z if first == last else Adaptive(rtol=1e-7, atol=1e-7)(ode.field, z, first, last).state
    return before.decode(z, log_det=False).value[0].double().numpy() + shift


@pytest.mark.parametrize("name", RUNS)
def test_the_dragged_point_goes_where_the_model_takes_it(opened, runs, name):
    """At three times, along the whole way, by hand and by keys: the page's Runge–Kutta against an adaptive solve.

    The page promises 1e-3, in units of the spread of the data; it writes a hundred-thousandth of what is seen.
    """
    artefact, motion = runs[name]
    page = opened(with_motion(motion))
    # A bent column is seen on its own scale near the middle only: there the tolerance is that of its middle half.
    quarters = np.quantile(rows_of(RUNS[name].get("data", "moons")), [0.25, 0.75], axis=0)
    tolerance = 1e-3 * (quarters[1] - quarters[0])
    hint = page.locator("#hint").text_content()
    assert "integrates the model's own velocity" in hint, hint
    for at in (0, (FRAMES - 1) // 2, FRAMES - 1):
        page.locator(".time").fill(str(at))
        drag(page, (23, -17))
        here, source, end = numbers(page.locator(".where").text_content())
        t = at / (FRAMES - 1)
        assert (np.abs(source - moved(artefact, here, t, 0.0)) <= tolerance).all()
        assert (np.abs(end - moved(artefact, here, t, 1.0)) <= tolerance).all()
    page.locator(".time").fill("8")
    page.locator(".handle").focus()
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("ArrowUp")
    start = numbers(page.locator(".where").text_content())[0]
    for at in range(8, FRAMES, 8):
        page.locator(".time").fill(str(at))
        here = numbers(page.locator(".where").text_content())[0]
        assert (np.abs(here - moved(artefact, start, 0.2, at / 40)) <= tolerance).all()


def made_field(kind, activation, seed=3):
    """A field with weights large enough that each of them matters, on a grid with every table at work."""
    rng = np.random.default_rng(seed)
    sizes = {
        "mlp": [(5, 12), (12, 12), (12, 2)],
        "residual": [(3, 8), (8, 48), (2, 12), *[(12, 12)] * 4, (12, 2)],  # two blocks of 12
    }[kind]
    layers = tuple((rng.normal(size=(b, a)) / a**0.5, 0.3 * rng.normal(size=b)) for a, b in sizes)
    layers = tuple((weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers)
    times = np.linspace(0, 1, 17)
    tables = TimeTables(
        times,
        np.stack([np.sin((k + 1) * times) for k in range(3)], 1),
        np.stack([times - 0.5, 0.3 * times], 1),
        np.stack([np.array([[0.4, -0.6], [0.6, 0.2]]) * (1 - t) for t in times]),
        1 + times,
        1 / (1 + times),
    )
    outer = OuterMap(np.array([[1.2, 0.3], [-0.1, 0.8]]), np.array([0.5, -0.2]), np.array([[0.3, 1.5], [0.0, 0.0]]))
    return PlaneField(PlaneNetwork(kind, activation, layers), tables, outer)


@pytest.mark.parametrize(
    ("kind", "activation"), [*(("mlp", name) for name in ACTIVATIONS), ("residual", "silu")], ids=lambda word: word
)
def test_the_script_evaluates_what_python_does(opened, kind, activation):
    field = made_field(kind, activation)
    page = opened(with_motion(dataclasses.replace(motion_of(), field=field)))  # five frames, eight steps
    for at in (0, 1, 4):
        page.locator(".time").fill(str(at))
        drag(page, (31, -12))
        here, source, end = numbers(page.locator(".where").text_content())
        z = field.outer.from_data(here[None])
        for found, step in ((source, 0), (end, field.steps)):
            true = field.outer.to_data(trace(field, z, 2 * at, step)[-1])[0]
            # What is written is good to a hundred-thousandth of a frame of about 6.
            np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-3)


def test_the_point_follows_mouse_key_and_finger(opened):
    page = opened(moving_page(), has_touch=True)
    said = [page.locator(".where").text_content()]
    drag(page, (80, 60))
    said.append(page.locator(".where").text_content())
    assert page.evaluate("document.activeElement.className") == "handle"
    before = page.locator(".handle").bounding_box()["x"]
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    said.append(page.locator(".where").text_content())
    assert page.locator(".handle").bounding_box()["x"] > before + 50
    page.locator("canvas").scroll_into_view_if_needed()
    box = page.locator("canvas").bounding_box()
    page.touchscreen.tap(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    said.append(page.locator(".where").text_content())
    finger(page, (60, 90))
    said.append(page.locator(".where").text_content())
    assert all(one != other for one, other in itertools.pairwise(said)), said


def finger(page, by):
    """Drag the ringed point by touch."""
    page.locator(".handle").scroll_into_view_if_needed()
    box = page.locator(".handle").bounding_box()
    x, y = box["x"] + 22, box["y"] + 22
    session = page.context.new_cdp_session(page)
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": x + by[0] / 2, "y": y + by[1] / 2}]),
        ("touchMove", [{"x": x + by[0], "y": y + by[1]}]),
        ("touchEnd", []),
    ):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_elsewhere_the_nearest_stored_path_is_shown(opened):
    """The point is put on a row at its time: what is said must be that row's own way."""
    motion = motion_of(columns=3, rows=6)
    page = opened(with_motion(motion))
    assert "nearest of the stored paths: plain." in page.locator("#hint").text_content()
    page.locator(".across").select_option("2")
    page.locator(".up").select_option("1")
    page.locator(".time").fill("2")
    here, source, end = numbers(page.locator(".where").text_content())
    states = motion.states[:, :, [2, 1]]
    row = int(np.abs(states[2] - here).sum(1).argmin())
    width = np.ptp(states, axis=(0, 1)).max()  # a quantum is three ranges in 65534 steps
    for found, frame in ((here, 2), (source, 0), (end, 4)):
        np.testing.assert_allclose(found, states[frame, row], atol=2e-4 * width)
    drag(page, (-40, 30))
    assert page.locator(".up").input_value() == "1"
    page.locator(".up").select_option("2")
    assert page.locator(".across").input_value() != "2"  # never one column against itself


# --- every kind of reader ------------------------------------------------------------------------------------------


def test_without_a_script_and_on_paper_there_is_a_strip(opened):
    page = opened(moving_page(), java_script_enabled=False)
    assert page.locator(".still img").first.is_visible()
    assert not page.locator(".live").is_visible()
    page = opened(moving_page())
    assert not page.locator(".still").first.is_visible()
    page.emulate_media(media="print")
    assert page.locator(".still img").first.is_visible()
    assert not page.locator(".live").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way_only(opened, scheme):
    page = opened(full_page(), viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in (".play", ".time", ".handle"):  # large enough for a thumb
        assert page.locator(name).bounding_box()["height"] >= 44


def test_keys_alone_reach_everything(opened):
    page = opened(with_motion(motion_of(columns=3)))
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert {"handle", "play", "time", "across", "up", "A", "SUMMARY", "scroll"} <= reached
