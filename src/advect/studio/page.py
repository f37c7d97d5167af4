"""The studio's page: what can be turned, in the clothes of the report. What it shows comes by its script."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from advect.errors import AdvectError
from advect.methods import Method, get_method
from advect.report.ink import clean
from advect.report.page import digest, environment, in_scope, static_text
from advect.run import RunFolder, read_config
from advect.studio.bench import Bench
from advect.studio.knobs import EVALUATIONS, TOLERANCES, Knobs
from advect.studio.views import FRAMES, PICTURE_FRAMES
from advect.workflows.predictions import VIEWS

if TYPE_CHECKING:
    import jinja2

_STATIC = Path(__file__).parent / "static"
# In order: each uses what stands before it only. The first are the report's.
_REPORT_SCRIPTS = ("numbers", "plot", "pictures", "player")
_SCRIPTS = ("asking", "curve", "bars", "rows", "knobs", "says", "network", "studio")

VIEW_WORDS = {
    "velocity": "velocity",
    "score": "score",
    "x1": "x1: where to",
    "noise": "noise: where from",
}
assert tuple(VIEW_WORDS) == VIEWS


def render_page(folder: RunFolder, bench: Bench | None, model: str, trouble: str = "") -> str:
    """The page as text.

    Args:
        folder: Of the run.
        bench: The opened run; None while it is in training.
        model: Which model that is (`Standing.model`).
        trouble: What keeps the run from being opened; empty for nothing.
    """
    from markupsafe import Markup

    method = _method(folder)
    return (
        _environment()
        .get_template("studio.html.j2")
        .render(
            title=folder.path.resolve().name,
            path=str(folder.path),
            method="" if method is None else method.name,
            explanation="" if method is None else method.sentence,
            bench=bench,
            knobs=None if bench is None else bench.knobs,
            given=None if bench is None else _for_script(bench.knobs),
            image=bench is not None and bench.artefact.schema.image,
            solved=bench is not None and bench.artefact.flow.ode is not None,
            last=(PICTURE_FRAMES if bench is not None and bench.artefact.schema.image else FRAMES) - 1,
            views=VIEW_WORDS,
            model=model,
            trouble=trouble,
            style=Markup(_style()),
            script=Markup(_script()),
        )
    )


def _method(folder: RunFolder) -> Method | None:
    """The row of the table that a run is of, as far as its folder tells."""
    try:
        return get_method(str(read_config(folder).get("method")))
    except AdvectError:
        return None


def _for_script(knobs: Knobs) -> str:
    """What the sliders need, as JSON for an attribute."""
    return json.dumps(
        {
            "rows": knobs.stops,
            "first_rows": knobs.stops.index(knobs.rows),
            "evaluations": EVALUATIONS,
            "tolerances": TOLERANCES,
            "times": [clean(word) for word in knobs.times],
            "own": None if knobs.own is None else vars(knobs.own),
            "solvers": {s.name: {"evaluations": s.evaluations, "adaptive": s.adaptive} for s in knobs.solvers},
            "conditions": [{"labels": len(c.labels), "low": c.low, "high": c.high} for c in knobs.conditions],
        }
    )


@functools.cache
def studio_policy() -> str:
    """The security policy: one script and one style sheet, by digest, and requests to where the page came from."""
    return (
        f"default-src 'none'; img-src data:; style-src {digest(_style())}; script-src {digest(_script())}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    shared = environment()
    assert shared.loader is not None
    return shared.overlay(loader=jinja2.ChoiceLoader([jinja2.FileSystemLoader(_STATIC), shared.loader]))


@functools.cache
def _style() -> str:
    return f"\n{static_text('report.css')}\n{(_STATIC / 'studio.css').read_text(encoding='utf-8')}\n"


@functools.cache
def _script() -> str:
    own = ((_STATIC / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    return in_scope([*(static_text(f"{name}.js") for name in _REPORT_SCRIPTS), *own])
