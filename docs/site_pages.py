"""What is done to the pages on their way to the site; on a forge they stand as they are.

- A line that is one link to a file of `docs/figures` becomes that figure, in its light and its dark form.
- In `index.md` each list of links below a heading becomes a part of the navigation, under that heading.
- A link to a file of the repository outside `docs` becomes a download of that file.
- A page whose name ends in `.zh` is marked as Chinese.
"""

import os
import re
from pathlib import Path
from typing import Any

from figures.make import Drawn, drawn, figure_names

FIGURE = re.compile(r"^\[(?P<text>Figure: [^\]]*)\]\((?:\.\./|\./)*figures/(?P<name>\w+)\.py\)$", re.MULTILINE)
_OUTSIDE = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>(?:\.\./)+[^)#\s]+)\)")
_SECTION = re.compile(r"^## (?P<title>.+)\n(?P<body>(?:(?!^## ).*\n?)*)", re.MULTILINE)
_ENTRY = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<page>[\w./-]+)\.md\)")


def setup(app: Any) -> dict[str, bool]:
    """Join the build."""
    app.add_config_value("draw_figures", True, "env", bool)
    app.connect("builder-inited", _draw)
    app.connect("source-read", _rewrite)
    app.connect("html-page-context", _say_language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _draw(app: Any) -> None:
    folder = Path(app.srcdir) / "_build" / "figures"
    app.site_figures = {name: drawn(name, folder) for name in figure_names()} if app.config.draw_figures else {}


def _rewrite(app: Any, name: str, source: list[str]) -> None:
    root = Path(app.srcdir)
    page = Path(app.env.doc2path(name))
    text = FIGURE.sub(lambda found: _figure(found, app.site_figures, page, root), source[0])
    text = _OUTSIDE.sub(lambda found: _download(found, page, root), text)
    source[0] = text + navigation(text) if name == app.config.root_doc else text


def _figure(found: re.Match[str], figures: dict[str, Drawn], page: Path, root: Path) -> str:
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


def _download(found: re.Match[str], page: Path, root: Path) -> str:
    """A file outside the folder of the pages, to be taken along; any other link as it is."""
    target = (page.parent / found["target"]).resolve()
    if not target.is_file() or target.is_relative_to(root):
        return found[0]
    return f"{{download}}`{found['text']} <{os.path.relpath(target, page.parent)}>`"


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
