"""One small panel per column: filled blue for real rows, an orange line for samples.

Numbers are histograms of the share of rows per bar, so that tables of different length compare; categories are bars.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advect.records import Table
from advect.report import ink
from advect.report.ink import REAL, SAMPLES, house_style, label, new_figure
from advect.report.numerals import number
from advect.report.values import Numbers, bins, column, is_numeric, names_of, numbers, shares

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_PANELS = 24


def say(axes: "matplotlib.axes.Axes", sentence: str) -> None:
    """Put a sentence where a picture cannot be."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, label(sentence, 70), ha="center", va="center", transform=axes.transAxes, color="#5b6472")


@house_style()
def marginals_figure(
    real: Table | None,
    samples: Table | None,
    names: Sequence[str] | None = None,
    *,
    across: int = 4,
    titles: bool = True,
) -> "matplotlib.figure.Figure":
    """Small multiples, one panel per column, real rows against samples.

    Args:
        real: Held-out rows.
        samples: Drawn rows.
        names: The columns to show; all of them otherwise. Beyond 24 the rest is left out and the figure says so.
        across: Panels per row.
        titles: Whether each panel carries its column's name and the figure a legend (a page writes both itself).
    """
    names = list(names_of(real, samples) if names is None else names)
    shown = names[:MOST_PANELS]
    across = max(1, min(across, len(shown)))
    down = max(1, -(-len(shown) // across))
    figure = new_figure(3.1 * across, (2.1 if titles else 1.9) * down + (0.35 if titles else 0.0))
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, name in zip(panels, shown, strict=False):
        draw_marginal(axes, real, samples, name)
        if titles:
            axes.set_title(label(name))
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    if not shown:
        say(panels[0], "There are no columns to draw.")
    elif titles:
        _legend(figure, beside=real is not None)
    if len(names) > len(shown):
        figure.supxlabel(f"the first {len(shown)} of {len(names)} columns", fontsize=9, color="#5b6472")
    return figure


def _legend(figure: "matplotlib.figure.Figure", *, beside: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=REAL, alpha=0.4, label="real rows"), Line2D([], [], color=SAMPLES, label="samples")]
    figure.legend(handles=handles if beside else handles[1:], loc="outside upper right", ncols=2)


def draw_marginal(axes: "matplotlib.axes.Axes", real: Table | None, samples: Table | None, name: str) -> None:
    """Draw one column into ``axes``: a histogram, bars, or the sentence why there is neither."""
    if not is_numeric(real, samples, name):
        _draw_categories(axes, column(real, name), column(samples, name))
        return
    draw_numbers(axes, numbers(real, samples, name))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def draw_numbers(axes: "matplotlib.axes.Axes", values: Numbers) -> None:
    """Draw a numeric column as a histogram, or say why there is none."""
    if values.empty:
        say(axes, "no rows with a value" if len(values.real) + len(values.samples) else "no rows to draw")
        return
    if values.constant:
        say(axes, f"always {number(values.low, 6)}{' ' + values.scale if values.scale else ''}")
        return
    _draw_histogram(axes, values)
    if values.scale:
        axes.set_xlabel(values.scale)


def _draw_histogram(axes: "matplotlib.axes.Axes", values: Numbers) -> None:
    """Share of rows per bar, real filled and samples as a line."""
    from matplotlib.ticker import MaxNLocator

    edges = bins(values)
    real, samples = (_shares_per_bin(v, edges) for v in (values.real, values.samples))
    axes.stairs(real, edges, fill=True, color=REAL, alpha=0.4, linewidth=0)
    axes.stairs(real, edges, color=REAL, linewidth=0.8)
    axes.stairs(samples, edges, color=SAMPLES, linewidth=1.7)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.06 * max(real.max(), samples.max(), 1e-12))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=values.whole))


def _shares_per_bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    values = values[np.isfinite(values)]
    return np.histogram(values, edges)[0] / max(len(values), 1)


def _draw_categories(axes: "matplotlib.axes.Axes", real: np.ndarray, samples: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    names, real_shares, sample_shares = shares(real, samples)
    if not names:
        say(axes, "no rows with a value" if len(real) + len(samples) else "no rows to draw")
        return
    place = np.arange(len(names), dtype=float)
    axes.barh(place - 0.19, real_shares, 0.36, color=REAL, alpha=0.55, edgecolor=REAL, linewidth=0.8)
    axes.barh(place + 0.19, sample_shares, 0.36, color=ink.PAPER, edgecolor=SAMPLES, linewidth=1.5)
    axes.set_yticks(place, [label(name, 18) for name in names], fontsize=8.5 if len(names) < 7 else 7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.05 * max(*real_shares, *sample_shares, 1e-12))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.tick_params(axis="y", length=0)
