"""Links between pages lead somewhere, and pages made from the code are up to date with it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import DOCS, ROOT, all_pages, anchors_of, links_of, name_of


@pytest.mark.parametrize("page", all_pages(), ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{name_of(page)}: {link}"


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in all_pages()
        for link in links_of(page)
        if "://" not in link and not link.startswith("#")
    }
    assert {name_of(page) for page in all_pages() if page not in linked} == set()


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_explain", DOCS / "make_explain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_of_the_methods_are_those_the_table_makes() -> None:
    maker = _maker()
    made = maker.pages()
    committed = {page.name: page.read_text(encoding="utf-8") for page in (DOCS / "explain").glob("*.md")}
    for written in maker.HAND_WRITTEN:
        committed.pop(written)
    assert committed == made, "run: python docs/make_explain.py"


def test_the_architecture_names_every_file_and_no_other() -> None:
    """Each room is a heading with a table below it, one row per file."""
    source = ROOT / "src" / "advect"
    there = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if path.name != "__init__.py" or path.parent == source
    }
    named = set()
    for line in (DOCS / "architecture.md").read_text(encoding="utf-8").splitlines():
        cell = line.split("|")[1].strip() if line.startswith("| `") else ""
        if cell.endswith(".py`"):
            named.add(cell.strip("`"))
    assert named == there, f"not named: {sorted(there - named)}; not there: {sorted(named - there)}"
