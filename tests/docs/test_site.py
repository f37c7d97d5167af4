"""The pages as a site: navigation, figures, translations, and the build itself where Sphinx is installed."""

import importlib
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from advect.methods import METHODS
from tests.docs.pages import DOCS, ROOT, all_pages, blocks_of, name_of, original_of

TRANSLATED = [page for page in all_pages() if original_of(page) is not None]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that rewrites pages for the site."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("site_pages")


def test_every_page_stands_once_in_the_navigation(site: ModuleType) -> None:
    listed = re.findall(r"^.+ <(\S+)>$", site.navigation((DOCS / "index.md").read_text(encoding="utf-8")), re.MULTILINE)
    assert sorted(f"{page}.md" for page in listed) == sorted({name_of(page) for page in all_pages()} - {"index.md"})


def test_every_figure_is_shown_and_every_page_of_the_line_shows_one(site: ModuleType) -> None:
    shown = {page: [found["name"] for found in site.FIGURE.finditer(page.read_text("utf-8"))] for page in all_pages()}
    assert {name for names in shown.values() for name in names} == set(site.figure_names())
    assert [name_of(page) for page, names in shown.items() if page.parent.name == "line" and not names] == []


def test_every_figure_says_what_it_shows_computes_draws_and_captions(site: ModuleType) -> None:
    for name in site.figure_names():
        figure = importlib.import_module(f"figures.{name}")
        assert len(figure.ALT) > 60, name
        assert "\n" not in figure.ALT, name  # one option of the directive
        assert all(callable(getattr(figure, part)) for part in ("compute", "draw", "caption")), name


def test_a_figure_is_the_same_picture_each_time_on_each_paper(site: ModuleType) -> None:
    ink, figure = importlib.import_module("figures.ink"), importlib.import_module("figures.jacobians")
    found = figure.compute()
    for paper in ink.PAPERS:
        picture = ink.svg(figure.draw, found, paper)
        assert paper.text.encode() in picture
        assert picture == ink.svg(figure.draw, figure.compute(), paper)
    assert "autoregressive 44%" in figure.caption(found)  # 28 of 64 cells lie above the diagonal


def test_every_flow_has_its_place_in_the_line() -> None:
    maker = importlib.util.spec_from_file_location("make_explain", DOCS / "make_explain.py")
    assert maker is not None
    assert maker.loader is not None
    module = importlib.util.module_from_spec(maker)
    maker.loader.exec_module(module)
    placed = [name for names, *_ in module.PLACES for name in names]
    assert sorted(placed) == sorted(name for name, row in METHODS.items() if row.recipe.likelihood == "exact")


@pytest.mark.parametrize("page", TRANSLATED, ids=name_of)
def test_a_translation_has_the_code_of_its_original(page: Path) -> None:
    original = original_of(page)
    assert original is not None
    assert [(b.language, b.text) for b in blocks_of(page)] == [(b.language, b.text) for b in blocks_of(original)]
    inline = [set(re.findall(r"`([^`\n]+)`", path.read_text("utf-8"))) for path in (original, page)]
    assert inline[0] == inline[1], f"only in one of them: {inline[0] ^ inline[1]}"


class _Page(HTMLParser):
    """What a page of the site loads, and its language."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.language = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "html":
            self.language = given.get("lang") or ""
        if tag in ("script", "img", "source", "iframe") and given.get("src"):
            self.loaded.append(given["src"] or "")
        if tag == "link" and given.get("rel") == "stylesheet":
            self.loaded.append(given["href"] or "")


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "furo", "myst_parser")),
    reason="Sphinx, furo and MyST are not installed: pip install '.[docs]'",
)
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Without the figures, which `make docs` draws."""
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-D", "draw_figures=0", "-b", "html"]
    done = subprocess.run(
        [*build, "-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for page in all_pages():
        made = tmp_path / "html" / Path(name_of(page)).with_suffix(".html")
        read = _Page(made.read_text(encoding="utf-8"))
        assert read.language == ("zh-Hans" if original_of(page) is not None else "en"), name_of(page)
        assert [address for address in read.loaded if "//" in address] == [], name_of(page)
