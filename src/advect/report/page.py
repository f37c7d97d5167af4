"""One page about one run: a single file with nothing to load, readable on a phone, on paper, in the dark and without
colour.

The template escapes everything it is given, and the page's own security policy forbids scripts and outside addresses,
so that a column called ``<script>`` is a column called ``<script>``.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from advect.files import write_bytes
from advect.report import sections
from advect.report.content import ReportContent
from advect.report.ink import clean
from advect.report.numerals import grouped
from advect.report.parts import column_row, score_row
from advect.report.times import HEADS, course_card, course_rows

if TYPE_CHECKING:
    import jinja2

_STATIC = Path(__file__).parent / "static"


def write_report(content: ReportContent, path: Path | str) -> Path:
    """Render ``content`` and write it to ``path``, whole or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    return write_bytes(path, render_report(content).encode("utf-8"))


def render_report(content: ReportContent) -> str:
    """The page as text: one HTML document without scripts, outside addresses, or anything unescaped."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            c=content,
            tiles=sections.tiles(content),
            pictures=sections.pictures(content),
            previews=sections.previews(content),
            scores=[score_row(metric) for metric in content.metrics],
            likelihood=sections.likelihood(content),
            training=sections.training(content),
            cost=sections.cost(content),
            paths=sections.paths(content),
            data_words=sections.data_words(content.data),
            columns=[column_row(one) for one in content.data.columns],
            course=None if content.course is None else course_card(content.course),
            course_heads=HEADS,
            course_rows=() if content.course is None else course_rows(content.course),
            open_rows=sections.OPEN_ROWS,
        )
    )


@functools.cache
def environment() -> "jinja2.Environment":
    """The templates, with everything they are given escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_STATIC),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def _printable(value: object) -> object:
    """What may stand in a page: text loses control characters and half surrogates but keeps its lines."""
    if type(value) is str:
        return "\n".join(clean(line) for line in value.expandtabs(4).splitlines())
    return grouped(value) if type(value) is int else value
