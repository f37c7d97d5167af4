"""Every snippet of the documentation runs: python blocks are executed, ``$ advect`` lines must end with exit code 0.

The blocks of one page share a namespace and a folder, in the order of the page. Lines ``# → …`` in a python block are
what it prints, and are compared. A translation is not run: its blocks are those of its original (`test_site`).
"""

import io
import shlex
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from advect.cli.app import run
from tests.docs.pages import DOCS, LANGUAGES, Block, all_pages, blocks_of, name_of, original_of, prose_of

RUNNABLE = [
    page
    for page in all_pages()
    if original_of(page) is None and any(b.language in ("python", "console") for b in blocks_of(page))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_the_snippets_of_a_page_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "snippets"}
    for block in blocks_of(page):
        if block.language == "python":
            _execute(block, page, namespace)
        if block.language == "console":
            _run(block, page)


@pytest.mark.parametrize("page", all_pages(), ids=name_of)
def test_a_block_says_whether_it_is_run(page: Path) -> None:
    """A misspelt language, or a fence that is never closed, would take a snippet out of the tests in silence."""
    assert {block.language for block in blocks_of(page)} <= set(LANGUAGES)
    assert "```" not in prose_of(page)


def test_the_pages_that_teach_have_snippets() -> None:
    names = {name_of(page) for page in RUNNABLE}
    assert {"start.md", "choose.md", "data.md", "extend.md", "explain/relations.md"} <= names, DOCS
    assert {name_of(page) for page in all_pages() if page.parent.name == "line"} <= names


def _execute(block: Block, page: Path, namespace: dict[str, object]) -> None:
    """Run a python block with the line numbers of its page; a warning of advect's is a failure."""
    source = "\n" * (block.line - 1) + block.text
    said = io.StringIO()
    with redirect_stdout(said), warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning, module="advect")
        exec(compile(source, str(page), "exec"), namespace)
    if block.printed is not None:
        assert said.getvalue().rstrip() == block.printed, f"{name_of(page)}, line {block.line}"


def _run(block: Block, page: Path) -> None:
    """Run the command lines of a console block, which are all of advect."""
    assert block.commands, f"{name_of(page)}, line {block.line}: a console block without a command"
    for line in block.commands:
        command, *arguments = shlex.split(line, comments=True)
        assert command == "advect", f"{name_of(page)}: only advect may stand in a console block, not {line!r}"
        assert run(arguments) == 0, f"{name_of(page)}: {line}"
