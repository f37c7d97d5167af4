"""The studio in a real browser: sliders by keyboard, nothing of a stranger's run, nothing from outside.

Skipped where playwright or a chromium is not installed: ``pip install -e .[browser]`` and the system's chromium.
"""

import csv
import json
import shutil

import numpy as np
import pytest

from advect.run.folder import REPORT
from tests.studio.served import Served
from tests.workflows.tiny import moons, run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra: browser)")
pytest.importorskip("starlette", reason="starlette is not installed (the extra: web)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path"),
]
ATTACK = '"><img src=x onerror=alert(1)> {{ 7*7 }} <script>alert(1)<'  # a slash cannot be in a name


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # No sandbox: in a container the tests may run as root. Only pages made here are opened.
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


def strangers_table(path):
    """Two columns of numbers and a category, all with hostile names."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([f"{ATTACK} one", f"{ATTACK} two", f"{ATTACK} kind"])
        for x, y, kind in zip(*rng.normal(size=(2, 120)), rng.integers(0, 2, 120), strict=True):
            writer.writerow([f"{x:.5f}", f"{y:.5f}", (ATTACK, "</script><script>alert(1)</script>")[kind]])
    return path


@pytest.fixture(scope="module")
def studios(tmp_path_factory):
    """Links of running studios by name."""
    folder, made = tmp_path_factory.mktemp("studios"), {}
    runs = {
        "plane": (moons(), {}),
        "stranger": (
            str(strangers_table(folder / f"{ATTACK}.csv")),
            {"condition": (f"{ATTACK} kind",), "steps": 20},
        ),
        "optimal": (np.concatenate([moons(), moons(seed=1)[:, :1]], 1), {"method": "ot-cfm", "steps": 20}),
    }
    for name, (data, how) in runs.items():
        out = folder / (f"run {ATTACK}" if name == "stranger" else name)
        run(data, out=out, **how)
        scratch = folder / f"log of {name}"
        scratch.mkdir()
        made[name] = Served(out, scratch)
    yield made
    for one in made.values():
        one.stop()


@pytest.fixture
def opened(browser, studios):
    """A function that opens the page of a studio; whatever it says, asks elsewhere or runs fails the test."""
    contexts, trouble = [], []

    def opened(name, path="", **how):
        usual = {"viewport": {"width": 1100, "height": 800}, "reduced_motion": "reduce"}
        context = browser.new_context(**(usual | how))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))

        def guard(route):
            if route.request.url.startswith((studios[name].link, "data:")):
                route.continue_()
            else:
                trouble.append(f"request: {route.request.url}")
                route.abort()

        context.route("**/*", guard)
        page.goto(studios[name].link + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def drawn(page):
    """The wish whose rows are shown, once nothing is waited for."""
    page.wait_for_selector("#rows-figure[data-drawn]:not(.waiting)")
    return json.loads(page.locator("#rows-figure").get_attribute("data-drawn"))


def drawn_anew(page, before):
    """The same once it differs."""
    for _ in range(600):
        found = drawn(page)
        if found != before:
            return found
        page.wait_for_timeout(50)
    raise AssertionError("nothing was drawn anew")


def looked(page):
    """The network's figure, once it is there."""
    page.locator("#network").scroll_into_view_if_needed()
    page.wait_for_selector("#network-figure:not([hidden]):not(.waiting)")
    return page.locator("#network-figure")


def picture(page, canvas="#rows-figure canvas"):
    return page.locator(canvas).evaluate("canvas => canvas.toDataURL()")


# --- sliders -------------------------------------------------------------------------------------------------------


def test_sliders_by_keyboard(opened, studios):
    """Rows, evaluations, solver and seed by keys alone: each draws anew, and what is shown is what the server gives."""
    page = opened("plane")
    first = drawn(page)
    assert first == {"seed": 0, "rows": 1000}
    shown = [picture(page)]
    page.locator("#evaluations").focus()
    page.keyboard.press("Home")
    wish = drawn_anew(page, first)
    assert wish["evaluations"] == 1  # of the run's own solver, which moving the slider has chosen
    assert page.locator("#solver").input_value() == wish["solver"] != ""
    assert page.locator("#evaluations").get_attribute("aria-valuetext") == "1: 1 step"
    shown.append(picture(page))
    page.locator("#solver").focus()
    page.locator("#solver").select_option("rk4")
    wish = drawn_anew(page, wish)
    page.locator("#evaluations").focus()
    page.keyboard.press("End")
    wish = drawn_anew(page, wish)
    assert (wish["solver"], wish["evaluations"]) == ("rk4", 200)
    assert page.locator("#evaluations").get_attribute("aria-valuetext") == "200: 50 steps"
    shown.append(picture(page))
    page.locator("#rows").focus()
    page.keyboard.press("ArrowLeft")
    wish = drawn_anew(page, wish)
    assert wish["rows"] == 500
    page.locator("#next-seed").focus()
    page.keyboard.press("Enter")
    wish = drawn_anew(page, wish)
    assert wish["seed"] == 1
    shown.append(picture(page))
    assert len(set(shown)) == len(shown)
    said = studios["plane"].post("draw", wish).json
    assert page.locator("#draw .the-same code").text_content() == said["command"]
    cells = page.locator(".as-rows tbody tr").first.locator("td").all_text_contents()
    assert cells == said["preview"]["rows"][0]
    assert page.locator(".said").first.text_content().startswith("500 rows, 200 evaluations of the network each")


def test_adaptive_solvers_have_a_tolerance(opened):
    page = opened("plane")
    first = drawn(page)
    assert not page.locator("#tolerance").is_visible()
    page.locator("#solver").select_option("tsit5")
    wish = drawn_anew(page, first)
    assert not page.locator("#evaluations").is_visible()
    page.locator("#tolerance").focus()
    page.keyboard.press("ArrowRight")
    assert drawn_anew(page, wish)["tolerance"] < wish["tolerance"]


def test_conditions_and_guidance(opened, studios):
    """Choosing one gives up "as in training", and both figures follow."""
    page = opened("stranger")
    first = drawn(page)
    assert "condition" not in first
    looked(page)
    before = picture(page, "canvas.way")
    page.locator("#condition-0").select_option("1")
    wish = drawn_anew(page, first)
    assert wish["condition"] == [1]
    assert not page.locator("#as-seen").is_checked()
    page.locator("#guidance").focus()
    page.keyboard.press("ArrowRight")
    wish = drawn_anew(page, wish)
    assert (wish["condition"], wish["guidance"]) == ([1], 0.25)
    for _ in range(200):
        if picture(page, "canvas.way") != before:
            break
        page.wait_for_timeout(50)
    assert picture(page, "canvas.way") != before
    page.locator("#as-seen").check()
    assert "condition" not in drawn_anew(page, wish)


def test_columns_and_bars(opened):
    page = opened("optimal")
    drawn(page)
    figure = page.locator("#rows-figure")
    shown = [picture(page)]
    figure.locator(".across").select_option("2")
    shown.append(picture(page))
    figure.locator(".up").select_option("")  # how many
    shown.append(picture(page))
    assert "shares" in figure.locator("canvas").get_attribute("aria-label")
    figure.locator(".up").select_option("2")  # against itself: the other one gives way
    assert figure.locator(".across").input_value() != "2"
    shown.append(picture(page))
    assert len(set(shown)) == 4


# --- the network -----------------------------------------------------------------------------------------------------


def test_views_of_the_same_network(opened):
    page = opened("plane")
    drawn(page)
    figure, shown = looked(page), []
    figure.locator(".time").fill("20")
    assert figure.locator(".now").text_content() == "t = 0.50"
    figure.locator("input[value=velocity]").focus()
    for view in ("velocity", "score", "x1", "noise"):
        assert figure.locator(f"input[value={view}]").is_checked()
        shown.append((picture(page, "canvas.way"), figure.locator(".meaning").text_content()))
        page.keyboard.press("ArrowRight")  # to the next radio button
    assert len(set(shown)) == 4
    before = picture(page, "canvas.way")
    figure.locator(".time").focus()
    page.keyboard.press("End")
    assert figure.locator(".now").text_content() == "t = 1.00"
    assert picture(page, "canvas.way") != before


def test_views_that_do_not_apply(opened):
    page = opened("optimal")
    drawn(page)
    figure = looked(page)
    assert figure.locator("input[value=score]").is_disabled()
    assert "No score: the score is known where" in figure.locator(".missing").text_content()
    assert figure.locator("input[value=x1]").is_enabled()


# --- strangers -----------------------------------------------------------------------------------------------------


def test_a_strangers_run(opened, studios):
    """Names of file, folder, columns and categories stay text in lists, tables, axes and commands."""
    page = opened("stranger")
    drawn(page)
    assert page.locator("h1").text_content() == f"run {ATTACK}"
    assert page.title() == f"run {ATTACK} – advect studio"
    assert page.locator(".condition label").text_content() == f"{ATTACK} kind"
    assert set(page.locator("#condition-0 option").all_text_contents()) == {
        ATTACK,
        "</script><script>alert(1)</script>",
    }
    names = page.locator("#rows-figure .across option").all_text_contents()
    assert names == [f"{ATTACK} one", f"{ATTACK} two"]
    page.locator("#condition-0").select_option("0")
    drawn_anew(page, {"seed": 0, "rows": 1000})
    assert ATTACK in page.locator(".the-same code").text_content()
    page.locator(".as-rows summary").click()
    assert ATTACK in page.locator(".as-rows thead").text_content()
    looked(page)
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("img").count() == 0


def test_a_strangers_report_does_not_run(opened, browser, studios):
    """What lies in the folder as the report is shown, and its script is not run."""
    folder = studios["stranger"].log.parent.parent / f"run {ATTACK}"
    smuggled = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    (folder / REPORT).write_text(f"<!doctype html><title>kept</title><p>words</p>{smuggled}")
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(studios["stranger"].link + "report")
    assert page.title() == "kept"
    assert page.locator("p").text_content() == "words"
    assert sum("Content Security Policy" in text for text in said) >= 2
    context.close()


def test_another_page_cannot_ask(browser, studios):
    """A page of another origin with the link in hand: it can neither read an answer nor have rows drawn."""
    context = browser.new_context()
    page = context.new_page()
    page.route("http://other.example/", lambda route: route.fulfill(body="<p>other</p>", content_type="text/html"))
    page.goto("http://other.example/")
    for how in ("GET", "POST"):
        failed = page.evaluate(
            "([link, how]) => fetch(link + 'state', {method: how, mode: 'no-cors'}).then(r => r.type, e => 'refused')",
            [studios["plane"].link, how],
        )
        assert failed in ("refused", "opaque")
        readable = page.evaluate(
            "([link, how]) => fetch(link + 'state', {method: how}).then(() => 'read', () => 'refused')",
            [studios["plane"].link, how],
        )
        assert readable == "refused"
    context.close()


# --- every kind of reader --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way_only(opened, scheme):
    page = opened("stranger", viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    drawn(page)
    looked(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("#rows", "#evaluations", "#guidance", "#solver", "#next-seed", ".play", ".time"):
        assert page.locator(name).bounding_box()["height"] >= 44, name  # large enough for a thumb


def test_keys_alone_reach_everything(opened):
    page = opened("stranger")
    drawn(page)
    looked(page)
    page.locator("h1").click()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = {
        "rows",
        "solver",
        "evaluations",
        "as-seen",
        "condition-0",
        "guidance",
        "seed",
        "next-seed",
        "play",
        "time",
    }
    assert wanted <= reached


def test_every_control_has_a_name(opened):
    page = opened("stranger")
    drawn(page)
    looked(page)
    nameless = page.evaluate(
        """[...document.querySelectorAll("input, select, button")].filter((one) =>
        !one.getAttribute("aria-label") && !(one.labels && one.labels.length) && !one.textContent.trim())
        .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_without_a_script_there_is_the_report(opened):
    page = opened("plane", java_script_enabled=False)
    assert "needs its script" in page.locator("noscript").text_content()


def test_a_closed_studio_is_told(browser, studios, tmp_path):
    one = Served(studios["plane"].log.parent.parent / "plane", tmp_path)
    context = browser.new_context()
    page = context.new_page()
    page.goto(one.link)
    drawn(page)
    one.stop()
    page.locator("#next-seed").click()
    playwright.expect(page.locator("#rows-figure .trouble")).to_have_text(
        "The studio does not answer. It may have been closed.", timeout=30_000
    )
    context.close()
