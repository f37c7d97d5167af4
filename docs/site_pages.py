"""What is done to the pages on their way to the site; on a forge they stand as they are.

- A line that is one link to a file of `docs/figures` becomes that figure, in its light and its dark form.
- In `index.md` each list of links below a heading becomes a part of the navigation, under that heading.
- The recorded results under `benchmarks` come along as pages, copied to `_recorded` for the build.
- A link to any other file of the repository outside `docs` becomes a download of that file.
- A page whose name ends in `.zh` is marked as Chinese.
"""

import os
import re
from pathlib import Path
from typing import Any

from figures.make import Drawn, drawn, figure_names

FIGURE = re.compile(r"^\[(?P<text>Figure: [^\]]*)\]\((?:\.\./|\./)*figures/(?P<name>\w+)\.py\)$", re.MULTILINE)
RECORDS = Path(__file__).resolve().parents[1] / "benchmarks"
RECORDED = "_recorded"
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
_SECTION = re.compile(r"^## (?P<title>.+)\n(?P<body>(?:(?!^## ).*\n?)*)", re.MULTILINE)
_ENTRY = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<page>[\w./-]+)\.md\)")


def setup(app: Any) -> dict[str, bool]:
    """Join the build."""
    app.add_config_value("draw_figures", True, "env", bool)
    app.connect("builder-inited", _draw)
    app.connect("builder-inited", _bring_records)
    app.connect("source-read", _rewrite)
    app.connect("html-page-context", _say_language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _draw(app: Any) -> None:
    folder = Path(app.srcdir) / "_build" / "figures"
    app.site_figures = {name: drawn(name, folder) for name in figure_names()} if app.config.draw_figures else {}


def _rewrite(app: Any, name: str, source: list[str]) -> None:
    root = Path(app.srcdir)
    page = Path(app.env.doc2path(name))
    text = FIGURE.sub(lambda found: _figure(found, app.site_figures, root), source[0])
    text = _LINK.sub(lambda found: _relinked(found, page, root), text)
    source[0] = text + navigation(text) if name == app.config.root_doc else text


def _bring_records(app: Any) -> None:
    """Copy the pages of recorded results, once for each change of them."""
    folder = Path(app.srcdir) / RECORDED
    wanted = {folder / page.relative_to(RECORDS): page for page in RECORDS.rglob("*.md")}
    for copy in folder.rglob("*.md"):
        if copy not in wanted:
            copy.unlink()
    for copy, page in wanted.items():
        text = "---\norphan: true\n---\n" + page.read_text(encoding="utf-8")
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")


def _figure(found: re.Match[str], figures: dict[str, Drawn], root: Path) -> str:
    """A figure for each paper, of which the site shows one; nothing where figures are left out."""
    if not figures:
        return ""
    figure = figures[found["name"]]
    return "\n".join(
        "\n".join(
            [
                f"```{{figure}} /{path.relative_to(root).as_posix()}",
                f":figclass: only-{paper}",
                f":alt: {figure.alt}",
                "",
                figure.caption,
                "```",
                "",
            ]
        )
        for paper, path in figure.pictures.items()
    )


def _relinked(found: re.Match[str], page: Path, root: Path) -> str:
    """A link as it must stand on the site.

    To a recorded page: its copy. To another file outside the folder of the pages: a download. To a record that is not
    there yet: its text. Any other link as it is.
    """
    copies = root / RECORDED
    origin = RECORDS / page.relative_to(copies) if page.is_relative_to(copies) else page
    target = (origin.parent / found["target"]).resolve()
    if target.is_relative_to(root) and origin == page:
        return found[0]
    if target.is_relative_to(root):
        at = target
    elif target.is_relative_to(RECORDS) and target.suffix == ".md" and target.exists():
        at = copies / target.relative_to(RECORDS)
    elif target.is_file():
        return f"{{download}}`{found['text']} <{os.path.relpath(target, page.parent)}>`"
    else:
        return found["text"] if target.is_relative_to(RECORDS) else found[0]
    return f"[{found['text']}]({Path(os.path.relpath(at, page.parent)).as_posix()}{found['anchor'] or ''})"


def navigation(index: str) -> str:
    """Hidden tables of contents made of the index: one a heading, each page once, under the words of its link."""
    parts, seen = [], set()
    for section in _SECTION.finditer(index):
        entries = [(text.replace("`", ""), page) for text, page in _ENTRY.findall(section["body"])]
        entries = list({page: f"{text} <{page}>" for text, page in entries if page not in seen}.items())
        seen.update(page for page, _ in entries)
        if entries:
            lines = [
                "",
                "```{toctree}",
                ":hidden:",
                f":caption: {section['title']}",
                "",
                *(line for _, line in entries),
                "```",
            ]
            parts.append("\n".join(lines))
    return "\n" + "\n".join(parts) + "\n"


def _say_language(app: Any, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if name.endswith(".zh"):
        context["language"] = "zh-Hans"
