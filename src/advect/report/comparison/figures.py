"""The figures of a comparison: likelihoods with errors, metrics between floor and ceiling, quality against cost.

Methods keep their place from top to bottom in every figure, and their colour, sign and line in every curve.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from advect.records import Table
from advect.report.comparison.content import TOLD_APART, CurvePoint, MethodRow, MetricCell, Ruler
from advect.report.figures import cloud_density, draw_cloud, few_ticks, finite_points
from advect.report.ink import FAINT, INK, REAL, REAL_RAMP, SAMPLES, SAMPLES_RAMP, house_style, label, new_figure
from advect.report.marginals import say
from advect.report.values import numbers

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8f7500", "#1d2433")
_SIGNS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
_BAND = "#d6e6f2"
_ACROSS = 3
_LOG_RATIO = 5.0
_LEAST_BAND = 1e-12


def style_of(place: int) -> tuple[str, str, str]:
    """Colour, sign and line of the method at this place; no two of the first 28 agree."""
    count = len(_COLOURS)
    return _COLOURS[place % count], _SIGNS[place % count], _LINES[place // count % len(_LINES)]


def _names(axes: "matplotlib.axes.Axes", rows: Sequence[MethodRow]) -> None:
    """Methods from top to bottom."""
    axes.set_yticks(range(len(rows)), [label(row.method) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


@house_style()
def likelihood_figure(rows: Sequence[MethodRow]) -> "matplotlib.figure.Figure":
    """Left the likelihoods with two standard errors, right the paired differences to the best with theirs."""
    shown = [row for row in rows if row.likelihood is not None and row.likelihood.value is not None]
    figure = new_figure(7.2, 0.85 + 0.34 * max(len(shown), 2))
    if not shown:
        say(figure.subplots(), "No method here has a likelihood.")
        return figure
    left, right = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(shown):
        cell = row.likelihood
        assert cell is not None
        assert cell.value is not None
        error = TOLD_APART * (cell.standard_error or 0.0)
        left.errorbar(cell.value.mean, place, xerr=error, fmt="o", color=REAL, ms=5, capsize=3, linewidth=1.4)
        if cell.difference is not None:
            wide = TOLD_APART * (cell.difference_error or 0.0)
            colour = REAL if cell.tied else SAMPLES
            right.errorbar(cell.difference, place, xerr=wide, fmt="o", color=colour, ms=5, capsize=3, linewidth=1.4)
    right.axvline(0.0, color=FAINT, linewidth=1.0, linestyle=":")
    _names(left, shown)
    left.set_title("log-likelihood")
    right.set_title("difference to the best, row by row")
    for axes in (left, right):
        axes.set_xlabel("nats per row, ± 2 standard errors")
        axes.grid(axis="x")
        axes.margins(x=0.12)
        few_ticks(axes, 4)
    left.set_yticks(range(len(shown)), [label(row.method) for row in shown])
    return figure


@house_style()
def metrics_figure(rows: Sequence[MethodRow]) -> "matplotlib.figure.Figure":
    """One panel per metric: a mark per method, tied to the floor, the floor as a band and the Gaussian fit dashed."""
    shown = [row for row in rows if row.metrics]
    names = [cell.metric.name for cell in (shown[0].metrics if shown else ()) if _has_floor(cell)]
    figure = new_figure(7.2, 1.4)
    if not names:
        say(figure.subplots(), "No two-sample metric was computed.")
        return figure
    down = -(-len(names) // _ACROSS)
    figure = new_figure(7.8, down * (0.95 + 0.26 * max(len(shown), 2)))
    panels = figure.subplots(down, _ACROSS, squeeze=False, sharey=True).ravel()
    for axes, name in zip(panels, names, strict=False):
        _metric_panel(axes, shown, name)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    return figure


def _has_floor(cell: MetricCell) -> bool:
    return cell.metric.floor is not None and cell.metric.floor_error is not None


def _metric_panel(axes: "matplotlib.axes.Axes", rows: Sequence[MethodRow], name: str) -> None:
    cells = {row.method: cell for row in rows for cell in row.metrics if cell.metric.name == name}
    some = next(iter(cells.values())).metric
    floor, spread = some.floor or 0.0, some.floor_error or 0.0
    band = max(TOLD_APART * spread, _LEAST_BAND)
    axes.axvspan(floor - band, floor + band, color=_BAND, linewidth=0)
    if some.ceiling is not None:
        axes.axvline(some.ceiling, color=INK, linestyle="--", linewidth=1.1)
    for place, row in enumerate(rows):
        cell = cells.get(row.method)
        if cell is None or not np.isfinite(cell.metric.value):
            continue
        axes.plot([floor, cell.metric.value], [place, place], color=SAMPLES, linewidth=2.2, alpha=0.45)
        axes.errorbar(
            cell.metric.value, place, xerr=cell.spread or 0.0, fmt="o", color=SAMPLES, ms=5, capsize=2.5, linewidth=1.2
        )
    _names(axes, rows)
    axes.set_title(label(name.replace("Kolmogorov–Smirnov", "KS"), 30), fontsize=9)
    few_ticks(axes, 4)
    axes.set_yticks(range(len(rows)), [label(row.method) for row in rows])
    axes.margins(x=0.1)


@house_style()
def curve_figure(
    rows: Sequence[MethodRow], ruler: Ruler | None, place: Callable[[CurvePoint], float], words: str
) -> "matplotlib.figure.Figure":
    """Error of samples against what they cost, log axes; stars are the runs' own settings, the band real rows.

    Args:
        rows: The methods.
        ruler: Floor of the error.
        place: Where a point stands on the horizontal axis.
        words: The axis in words.
    """
    figure = new_figure(6.2, 3.5)
    axes = figure.subplots()
    shown = [(i, row) for i, row in enumerate(rows) if row.point is not None or row.curve]
    if not shown:
        say(axes, "No samples were measured.")
        return figure
    if ruler is not None:
        band = TOLD_APART * ruler.spread
        axes.axhspan(max(ruler.floor - band, ruler.floor / 10, 1e-12), ruler.floor + band, color=_BAND, linewidth=0)
        axes.axhline(ruler.floor, color=FAINT, linewidth=0.9, linestyle=":")
    for i, row in shown:
        colour, sign, line = style_of(i)
        name = " " + label(row.method)  # a leading _ would hide it
        if row.curve:
            points = np.array([(place(p), p.error) for p in row.curve])
            axes.plot(*points.T, sign + line, color=colour, ms=4, linewidth=1.4, label=name)
        if row.point is not None:
            own = (place(row.point), row.point.error)
            mark, size, shown_as = ("*", 11, None) if row.curve else (sign, 8, name)
            axes.plot(*own, mark, color=colour, ms=size, mec="white", label=shown_as)
    axes.set(xscale="log", xlabel=words, ylabel=label(ruler.measure if ruler else "error", 40))
    errors = [p.error for _, row in shown for p in (*row.curve, *((row.point,) if row.point else ()))]
    if min(errors) > 0 and max(errors) > _LOG_RATIO * min(errors):
        axes.set_yscale("log")
    places = sorted({place(p) for _, row in shown for p in row.curve})
    if places and all(p == round(p) for p in places):
        axes.set_xticks(places, [f"{p:.0f}" for p in places])
        axes.minorticks_off()
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


@house_style()
def samples_figure(real: Table, samples: Mapping[str, Table], names: tuple[str, str]) -> "matplotlib.figure.Figure":
    """Two columns as clouds, real rows first and every method beside them, in one frame; darker where denser."""
    columns = [numbers(real, None, name) for name in names]
    lows, highs = (np.array([getattr(c, end) for c in columns]) for end in ("low", "high"))
    pad = np.where(highs > lows, 0.05 * (highs - lows), 0.5)
    lows, highs = lows - pad, highs + pad
    tables = {"real rows": real, **samples}
    across = min(_ACROSS, len(tables))
    down = -(-len(tables) // across)
    figure = new_figure(7.8, 0.4 + 2.5 * down)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    clouds = [_cloud_of(real, table, names) for table in tables.values()]
    densities = [cloud_density(cloud, lows, highs) for cloud in clouds]
    darkest = max((float(d.max(initial=0.0)) for d in densities), default=0.0)
    for place, (axes, name) in enumerate(zip(panels, tables, strict=False)):
        draw_cloud(axes, clouds[place], densities[place], darkest, SAMPLES_RAMP if place else REAL_RAMP)
        axes.set(xlim=(lows[0], highs[0]), ylim=(lows[1], highs[1]))
        axes.set_title(label(name))
        few_ticks(axes, 4)
    for axes in panels[len(tables) :]:
        axes.set_axis_off()
    figure.supxlabel(label(names[0], 40), fontsize=9.5)
    figure.supylabel(label(names[1], 40), fontsize=9.5)
    return figure


def _cloud_of(real: Table, table: Table, names: tuple[str, str]) -> np.ndarray:
    """Rows of two columns ``(n, 2)``, in the scale that the real rows set."""
    first, second = (numbers(real, table, name) for name in names)
    return finite_points(first.samples, second.samples)
