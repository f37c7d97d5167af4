"""The parts of the page, as plain records for the template: cards with a figure, rows of the score table, previews.

A part holds text, never markup: escaping is the template's work alone and happens to everything. A figure becomes a
``data:`` address here and comes with a text alternative that says what it shows in numbers.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advect.records import Column, Metric, Table
from advect.report.ink import clean, figure_uri
from advect.report.numerals import grouped, listed, number, percent, plus_minus
from advect.report.values import column, gap_share, is_numeric
from advect.report.verdict import Judgement, judge

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class Card:
    """One figure of the page.

    Attributes:
        source: Its ``data:`` address.
        alt: What it shows, in words.
        width: Natural width in CSS pixels.
        height: Natural height.
        heading: Above it; a column's name, for instance.
        caption: Below it.
        wide: Whether a narrow screen should scroll it rather than shrink it.
    """

    source: str
    alt: str
    width: int
    height: int
    heading: str = ""
    caption: str = ""
    wide: bool = False


def figure_card(
    figure: "matplotlib.figure.Figure", alt: str, *, heading: str = "", caption: str = "", wide: bool = False
) -> Card:
    """A matplotlib figure as a card."""
    width, height = (round(96 * float(side)) for side in figure.get_size_inches())
    return Card(figure_uri(figure), alt, width, height, heading, caption, wide)


@dataclass(frozen=True)
class Strip:
    """Where the marks of a score stand on a line from 0 to 100; left is like real rows, right is worse.

    Attributes:
        value: The score.
        reach: Half the length of its error bar.
        floor: The floor.
        band: Half the width of the floor's band of two standard deviations.
        ceiling: The Gaussian fit, or None.
        beyond: ``left`` or ``right`` when the score lies off the line, else empty.
        words: The same as a sentence.
    """

    value: float
    reach: float
    floor: float
    band: float
    ceiling: float | None
    beyond: str
    words: str


# The line runs from a third of the way on the good side of the floor to a quarter past the Gaussian fit.
_LEFT, _RIGHT = -0.3, 1.25


def _place(share: float) -> float:
    return 100 * (min(max(share, _LEFT), _RIGHT) - _LEFT) / (_RIGHT - _LEFT)


def strip(metric: Metric) -> Strip | None:
    """The geometry of a score's little picture; None where there is no floor to draw it against."""
    judgement = judge(metric)
    if not judgement.tested or metric.floor is None:
        return None
    worse = -1.0 if metric.better == "higher" else 1.0
    excess = worse * (metric.value - metric.floor)
    spread, error = (e if e is not None and math.isfinite(e) else 0.0 for e in (metric.floor_error, metric.error))
    scaled_by_gaussian = judgement.share is not None and not judgement.weak
    if scaled_by_gaussian and metric.ceiling is not None:
        span = worse * (metric.ceiling - metric.floor)
    else:
        # Nothing useful at the far end: the score itself, or the band, sets the scale.
        span = 1.25 * max(abs(excess), 4 * spread, 1e-300)
    share = excess / span
    beyond = "right" if share > _RIGHT else "left" if share < _LEFT else ""
    return Strip(
        value=_place(share),
        reach=100 * min(error / span, _RIGHT - _LEFT) / (_RIGHT - _LEFT),
        floor=_place(0.0),
        band=100 * min(2 * spread / span, _RIGHT - _LEFT) / (_RIGHT - _LEFT),
        ceiling=_place(1.0) if scaled_by_gaussian else None,
        beyond=beyond,
        words=_strip_words(judgement),
    )


def _strip_words(judgement: Judgement) -> str:
    if judgement.share is None:
        return LEVELS[judgement.level][1]
    if judgement.passed:
        return f"within the band of real rows, {percent(max(judgement.share, 0.0))} of the way to a Gaussian fit"
    return f"{percent(judgement.share)} of the way from real rows to a Gaussian fit"


# A sign and a word for each judgement, so that no colour has to be seen.
LEVELS = {
    "as real": ("✓", "like real rows"),
    "too good": ("?", "better than real rows: look for copies"),
    "between": ("◐", "can be told apart"),
    "no better": ("✗", "no better than a Gaussian fit"),
    "unfloored": ("·", "compared with a Gaussian fit only"),
    "unjudged": ("·", "nothing to compare with"),
    "failed": ("✗", "could not be computed"),
}


@dataclass(frozen=True)
class ScoreRow:
    """One row of the score table, as text, with its strip."""

    name: str
    value: str
    floor: str
    ceiling: str
    unit: str
    level: str
    sign: str
    word: str
    strip: Strip | None


def score_row(metric: Metric) -> ScoreRow:
    """A metric as a row."""
    judgement = judge(metric)
    sign, word = LEVELS[judgement.level]
    if judgement.level == "between" and judgement.share is not None:
        word = f"told apart, {percent(judgement.share)} of the way to a Gaussian"
    if judgement.passed and judgement.weak:
        word = "passes, but so does a Gaussian fit"
    return ScoreRow(
        name=clean(metric.name),
        value=plus_minus(metric.value, metric.error),
        floor=plus_minus(metric.floor, metric.floor_error),
        ceiling=number(metric.ceiling),
        unit=clean(metric.unit),
        level=judgement.level.replace(" ", "-"),
        sign=sign,
        word=word,
        strip=strip(metric),
    )


def column_words(real: Table | None, samples: Table | None, name: str) -> str:
    """A column in numbers, the text alternative of its histogram."""
    parts = [_one_column(column(real, name), "real rows"), _one_column(column(samples, name), "samples")]
    kind = "Histogram" if is_numeric(real, samples, name) else "Bars"
    return f"{kind} of {clean(name)}. " + ". ".join(part for part in parts if part) + "."


def _one_column(values: np.ndarray, who: str) -> str:
    if not values.size:
        return f"No {who}"
    if values.dtype.kind in "iuf":
        finite = values.astype(float)[np.isfinite(values.astype(float))]
        if not finite.size:
            return f"{who.capitalize()}: no numbers"
        low, middle, high = np.quantile(finite, [0.25, 0.5, 0.75])
        return (
            f"{who.capitalize()}: median {number(float(middle))}, middle half from {number(float(low))} to "
            f"{number(float(high))}"
        )
    found, counts = np.unique([str(v) for v in values.tolist() if v is not None], return_counts=True)
    if not found.size:
        return f"{who.capitalize()}: only gaps"
    order = np.argsort(-counts, kind="stable")[:3]
    return f"{who.capitalize()}: " + listed(
        [f"{clean(str(found[i]))} {percent(counts[i] / counts.sum())}" for i in order]
    )


def gap_words(real: Table | None, samples: Table | None, name: str) -> str:
    """How many cells are missing, or nothing when none are."""
    shares = [gap_share(column(table, name)) for table in (real, samples)]
    if not any(shares):
        return ""
    return f"gaps: {percent(shares[0])} of real rows, {percent(shares[1])} of samples"


@dataclass(frozen=True)
class ColumnRow:
    """One row of the list of columns, as text."""

    name: str
    kind: str
    dtype: str
    extent: str
    gaps: str


def column_row(one: Column) -> ColumnRow:
    """A column of the schema as a row."""
    if one.categories:
        extent = listed([clean(str(value)) for value in one.categories], 6)
    elif one.minimum is not None and one.maximum is not None:
        extent = f"{number(one.minimum, 4)} to {number(one.maximum, 4)}"
    else:
        extent = ""
    if one.unit:
        extent = f"{extent} {clean(one.unit)}".strip()
    return ColumnRow(clean(one.name), one.kind, clean(one.dtype), extent, "yes" if one.missing else "no")


@dataclass(frozen=True)
class Preview:
    """The first rows of a table as text."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int


def preview(table: Table, rows: int = 5, columns: int = 10) -> Preview:
    """The first rows and columns of a table, written as people write numbers."""
    shown = [c[:rows].tolist() for c in tuple(table.columns)[:columns]]
    cells = tuple(tuple(_cell(values[i]) for values in shown) for i in range(min(rows, table.num_rows)))
    return Preview(tuple(clean(n) for n in table.names[:columns]), cells, max(len(table.names) - columns, 0))


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return number(value, 4) if isinstance(value, int | float) and not isinstance(value, bool) else clean(str(value))


def kinds_words(columns: tuple[Column, ...]) -> str:
    """How many columns of which kind: ``8 continuous and 1 categorical``."""
    kinds = list(dict.fromkeys(c.kind for c in columns))
    return listed([f"{grouped(sum(c.kind == kind for c in columns))} {clean(kind)}" for kind in kinds])
