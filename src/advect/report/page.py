"""One page about one run: a single file with nothing to load, readable on a phone, on paper, in the dark and without
colour.

The template escapes everything it is given, and the page's own security policy forbids outside addresses and every
script but the one that is meant, by its digest: a column called ``<script>`` is a column called ``<script>``.
"""

import base64
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from advect.files import write_bytes
from advect.report import sections
from advect.report.content import ReportContent
from advect.report.density import density_card
from advect.report.ink import clean
from advect.report.moving import moving
from advect.report.numerals import grouped
from advect.report.pairing import pairing_card, pairing_words
from advect.report.parts import column_row, score_row
from advect.report.times import HEADS, course_card, course_rows

if TYPE_CHECKING:
    import jinja2

_STATIC = Path(__file__).parent / "static"
# In order: each uses what stands before it only.
_SCRIPTS = ("numbers", "field", "plot", "pictures", "player", "point", "main")


def write_report(content: ReportContent, path: Path | str) -> Path:
    """Render ``content`` and write it to ``path``, whole or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    return write_bytes(path, render_report(content).encode("utf-8"))


def render_report(content: ReportContent) -> str:
    """The page as text: one HTML document with its own script, no outside address, and nothing unescaped."""
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
            likelihood_card=sections.likelihood_card(content),
            training=sections.training(content),
            on_the_way=sections.on_the_way(content),
            regression=sections.regression(content),
            pairing=pairing_card(content.pairing),
            pairing_words=pairing_words(content.pairing),
            cost=sections.cost(content),
            paths=sections.paths(content),
            motion=moving(content.motion),
            density=density_card(content.density),
            data_words=sections.data_words(content.data),
            columns=[column_row(one) for one in content.data.columns],
            course=None if content.course is None else course_card(content.course),
            course_heads=HEADS,
            course_rows=() if content.course is None else course_rows(content.course),
            open_rows=sections.OPEN_ROWS,
            **behaviour(),
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


def behaviour() -> dict[str, str]:
    """The script and the policy that lets it run, for a template; the script is not to be escaped."""
    from markupsafe import Markup

    return {"script": Markup(script()), "policy": policy()}


@functools.cache
def script() -> str:
    """The page's script: the files of `static`, one after another, in a scope of their own."""
    return in_scope(static_text(f"{name}.js") for name in _SCRIPTS)


def static_text(name: str) -> str:
    """One of the files of `static`."""
    return (_STATIC / name).read_text(encoding="utf-8")


def in_scope(parts: Iterable[str]) -> str:
    """Pieces of script, one after another, in a scope of their own."""
    return "\n".join(["(() => {", '"use strict";', *parts, "})();"])


def digest(text: str) -> str:
    """A script or a style sheet as a security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def policy() -> str:
    """The security policy: pictures from the page itself, its own styles, and the one script with this digest."""
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {digest(script())}; "
        "base-uri 'none'; form-action 'none'"
    )


def _printable(value: object) -> object:
    """What may stand in a page: text loses control characters and half surrogates but keeps its lines."""
    if type(value) is str:
        return "\n".join(clean(line) for line in value.expandtabs(4).splitlines())
    return grouped(value) if type(value) is int else value
