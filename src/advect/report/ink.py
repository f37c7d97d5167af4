"""The drawing hand of the report: palette, type, and text that cannot break a picture.

Real rows are blue and filled, samples vermillion and drawn as a line (Okabe and Ito's palette): the two differ in hue
for every kind of colour vision, in lightness on grey paper, and in shape where both are gone. Figures are made as
`Figure` objects on the Agg canvas under matplotlib's own defaults, so neither a user's style file nor the global state
of pyplot reaches them, or is reached by them. Matplotlib is imported inside functions only.
"""

import base64
import functools
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.figure

REAL, SAMPLES = "#0072B2", "#D55E00"
INK, FAINT, PAPER = "#1d2433", "#8a93a3", "#ffffff"
# From nearly paper to nearly ink, so that density reads as darkness in either hue.
REAL_RAMP = ("#b5d6ea", "#5aa5d2", "#0072B2", "#013a5c")
SAMPLES_RAMP = ("#f6cfae", "#ea9550", "#D55E00", "#6b2d00")

_HOUSE = {
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "axes.facecolor": PAPER,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.limits": (-4, 6),
    "axes.formatter.useoffset": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "grid.color": "#e4e7ec",
    "grid.linewidth": 0.7,
    "svg.fonttype": "path",
    "svg.hashsalt": "advect",  # the same content gives the same bytes
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults plus ours, for the duration; also usable as a decorator."""
    from matplotlib import style

    with style.context(["default", _HOUSE]):
        yield


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure of ``width`` × ``height`` inches on the Agg canvas, unknown to pyplot."""
    from advect.report.canvas import ShownFigure

    return ShownFigure(width, height)


@house_style()
def figure_uri(figure: "matplotlib.figure.Figure", kind: str = "svg", dpi: int = 150) -> str:
    """The figure as a ``data:`` address.

    ``svg`` stays sharp on paper and under a magnifying glass, with its point clouds rasterised at ``dpi``; ``png`` is
    smaller for pictures full of lines.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return data_uri(buffer.getvalue(), mime)


def data_uri(content: bytes, mime: str) -> str:
    """Any bytes as a ``data:`` address."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def label(text: object, longest: int = 26) -> str:
    r"""Any text as a figure can show it: one line, not too long, no mathematics, only glyphs the font has.

    >>> label("$\\frac{")
    '\\$\\frac{'
    """
    text = clean(str(text))
    known = _glyphs()
    shown = "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in shorten(text, longest))
    return shown.replace("$", r"\$")


def clean(text: str) -> str:
    """Text without control characters, direction overrides and half surrogates."""
    return _CONTROL.sub(" ", text)


def shorten(text: str, longest: int) -> str:
    """Cut the middle out of a long text, where names of one family differ least."""
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def drawable(text: str) -> bool:
    """Whether the figures' font can show most of ``text``."""
    known = _glyphs()
    return bool(text.strip()) and sum(ord(c) in known for c in text) > 0.7 * len(text)


@functools.cache
def _glyphs() -> frozenset[int]:
    """The characters of matplotlib's own font."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family=["DejaVu Sans"]))).get_charmap())
