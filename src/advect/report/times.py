"""Time by time: real rows and the model's beside one another, and how far apart they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advect.report.figures import few_ticks
from advect.report.ink import REAL, SAMPLES, clean, house_style, label, new_figure
from advect.report.numerals import plus_minus
from advect.report.parts import Card, figure_card

if TYPE_CHECKING:
    import matplotlib.figure

_ACROSS = 4
_MOST = 16
_POINTS = 800


@dataclass(frozen=True)
class Snapshot:
    """One time.

    Attributes:
        word: As the data write it.
        left_out: Whether no model was trained on it.
        real: ``(rows, 2)`` real rows at two columns.
        samples: ``(rows, 2)`` rows of the model at this time.
        distances: Wasserstein-1 to the real rows with its spread, by name: ``model``, ``floor``, and of a time that was
            left out ``interpolation`` and ``still``. Empty for the first time.
    """

    word: str
    left_out: bool
    real: np.ndarray
    samples: np.ndarray
    distances: dict[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Course:
    """All times of a run.

    Attributes:
        key: What the data call their times.
        columns: The two columns that are drawn.
        snapshots: One per time, in order.
    """

    key: str
    columns: tuple[str, str]
    snapshots: tuple[Snapshot, ...]


COLUMNS = ("model", "floor", "interpolation", "still")
HEADS = ("model", "real rows (floor)", "OT interpolation", "standing still")


def course_rows(course: Course) -> tuple[tuple[str, ...], ...]:
    """The distances as cells of a table: time, then as in `HEADS`; empty where there is none."""
    rows = []
    for one in course.snapshots:
        if one.distances:
            word = f"{one.word}, left out" if one.left_out else one.word
            cells = (plus_minus(*one.distances[name]) if name in one.distances else "" for name in COLUMNS)
            rows.append((word, *cells))
    return tuple(rows)


def course_card(course: Course) -> Card:
    """The figure with its words."""
    names = [clean(name) for name in course.columns]
    told = ", ".join(one.word + (" (left out)" if one.left_out else "") for one in course.snapshots[:_MOST])
    alt = (
        f"One panel per time of {clean(course.key)}: {clean(told)}. In each, {names[1]} against {names[0]}: real rows "
        "in blue, rows of the first time moved there by the model in vermillion."
    )
    caption = "Blue: real rows. Vermillion: rows of the first time, moved there by the model."
    more = len(course.snapshots) - _MOST
    caption += f" The first {_MOST} of {len(course.snapshots)} times are drawn." if more > 0 else ""
    return figure_card(course_figure(course), alt, caption=caption, wide=True)


@house_style()
def course_figure(course: Course) -> "matplotlib.figure.Figure":
    """Panels in the plane of two columns, time after time, in one frame."""
    shown = course.snapshots[:_MOST]
    across = min(_ACROSS, len(shown))
    down = -(-len(shown) // across)
    figure = new_figure(2.15 * across + 0.5, 2.1 * down + 0.5)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, one in zip(panels, shown, strict=False):
        for points, colour in ((one.real, REAL), (one.samples, SAMPLES)):
            drawn = _finite(points)[:_POINTS]
            size = float(np.clip(2400 / max(len(drawn), 1), 2, 14))
            axes.scatter(*drawn.T, s=size, alpha=0.4, linewidths=0, color=colour, rasterized=True)
        axes.set_title(label(one.word + (", left out" if one.left_out else "")))
        few_ticks(axes, 3)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    _frame(panels[0], shown)
    figure.supxlabel(label(course.columns[0]))
    figure.supylabel(label(course.columns[1]))
    return figure


def _frame(axes: object, shown: Sequence[Snapshot]) -> None:
    """Limits from the real rows: a stray sample does not shrink everything else."""
    real = np.concatenate([_finite(one.real) for one in shown])
    if not len(real):
        return
    low, high = np.quantile(real, (0.002, 0.998), axis=0)
    pad = np.where(high > low, 0.08 * (high - low), 0.5)
    axes.set(xlim=(low[0] - pad[0], high[0] + pad[0]), ylim=(low[1] - pad[1], high[1] + pad[1]))  # type: ignore[attr-defined]


def _finite(points: np.ndarray) -> np.ndarray:
    return points[np.isfinite(points).all(1)]
