"""Figures of a model alone, from plain arrays: its samples, its field, the ways its rows take.

The report's figures set real rows beside samples; these show what a model says where there is nothing to set beside it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advect.records import Table
from advect.report import ink
from advect.report.figures import cloud_density, draw_cloud, draw_ways, few_ticks, finite_points
from advect.report.ink import SAMPLES, house_style, label, new_figure
from advect.report.marginals import draw_numbers, say
from advect.report.numerals import number
from advect.report.plane import limits, offset_ticks, plane_figure
from advect.report.values import numbers

if TYPE_CHECKING:
    import matplotlib.figure


@house_style()
def velocity_figure(
    points: np.ndarray, velocity: np.ndarray, cloud: np.ndarray, names: tuple[str, str], time: float
) -> "matplotlib.figure.Figure":
    """Arrows of a field over the rows that are on their way at that time.

    Args:
        points: ``(rows, columns, 2)`` of an even grid.
        velocity: The same shape; in the units of the data per unit of time.
        cloud: ``(n, 2)`` rows at that time.
        names: Of the two axes.
        time: Of both, for the title.
    """
    low, high, steps = points[0, 0], points[-1, -1], points[1, 1] - points[0, 0]
    (left, bottom), (right, top) = low - 0.75 * steps, high + 0.75 * steps
    figure, axes = plane_figure(5.6, (left, right), (bottom, top))
    axes.scatter(*finite_points(*cloud.T).T, s=9, color=SAMPLES, alpha=0.45, linewidths=0, rasterized=True)
    flat, arrows = points.reshape(-1, 2), velocity.reshape(-1, 2)
    lengths = np.linalg.norm(arrows / steps, axis=1)
    lengths = lengths[np.isfinite(lengths)]
    longest = float(np.quantile(lengths, 0.98)) if lengths.size else 0.0
    span = 0.95 / longest if longest > 0 else 1.0  # the fastest arrows just reach the next point
    axes.quiver(
        *flat.T, *np.ma.masked_invalid(arrows).T, angles="xy", scale_units="xy", scale=1 / span,
        color=ink.INK, width=0.0028, headwidth=4, headlength=4.5, headaxislength=4,
    )  # fmt: skip
    axes.set(xlabel=label(names[0]), ylabel=label(names[1]))
    axes.set_title(f"t = {time:.3g}; an arrow is the way of Δt = {number(span, 2)}", fontsize=9.5)
    return figure


@house_style()
def ways_figure(states: np.ndarray, times: np.ndarray, names: tuple[str, str]) -> "matplotlib.figure.Figure":
    """The ways of rows in the plane of two columns, ``(times, n, 2)``, from rings to dots."""
    ways = states.transpose(1, 0, 2)
    ways = ways[np.isfinite(ways).all((1, 2))]
    if not ways.size:
        figure = new_figure(5.6, 1.4)
        say(figure.subplots(), "There are no finished ways to draw.")
        return figure
    figure, axes = plane_figure(5.6, *limits(ways.reshape(-1, 2), outside=0.0))
    first, last = (
        f"t = {float(time):.3g}" + {0.0: ", source", 1.0: ", samples"}.get(float(time), "") for time in times[[0, -1]]
    )
    draw_ways(axes, ways, (first, last))
    axes.set(xlabel=label(names[0]), ylabel=label(names[1]))
    figure.legend(loc="outside upper left", ncols=2, markerscale=1.6)
    return figure


@house_style()
def threads_figure(
    states: np.ndarray, places: np.ndarray, name: str, along: str = "time t"
) -> "matplotlib.figure.Figure":
    """The ways of rows of one column, ``(places, n)``, against time or the number of layers behind."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    axes.plot(places, states, color=ink.FAINT, linewidth=0.5, alpha=0.6, rasterized=True)
    last = np.full(states.shape[1], places[-1])
    axes.plot(last, states[-1], "o", ms=3, color=SAMPLES, alpha=0.6, clip_on=False, rasterized=True)
    axes.set(xlabel=along, ylabel=label(name), xlim=(places[0], places[-1]))
    axes.ticklabel_format(useOffset=True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=places.dtype.kind == "i"))
    return figure


@house_style()
def stages_figure(
    states: np.ndarray, captions: Sequence[str], names: tuple[str, str], *, across: int = 4
) -> "matplotlib.figure.Figure":
    """A cloud after each stage of a flow, ``(stages, n, 2)``, one panel per stage, each in its own frame."""
    across = min(across, len(states))
    down = -(-len(states) // across)
    figure = new_figure(2.1 * across + 0.3, 2.2 * down + 0.3)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, state, caption in zip(panels, states, captions, strict=False):
        cloud, (xlim, ylim) = finite_points(*state.T), limits(state)
        density = cloud_density(cloud, *np.array([xlim, ylim]).T)
        draw_cloud(axes, cloud, density, float(density.max(initial=0.0)), ink.SAMPLES_RAMP)
        axes.set_title(caption, fontsize=9)
        axes.set(xlim=xlim, ylim=ylim)
        offset_ticks(axes, 3)
    for axes in panels[len(states) :]:
        axes.set_axis_off()
    figure.supxlabel(label(names[0]), fontsize=9.5)
    figure.supylabel(label(names[1]), fontsize=9.5)
    return figure


@house_style()
def cloud_figure(samples: Table, names: tuple[str, str]) -> "matplotlib.figure.Figure":
    """Samples of two columns, where there are no real rows to stand beside them."""
    x, y = (numbers(None, samples, name) for name in names)
    cloud = finite_points(x.samples, y.samples)
    seen = limits(cloud)
    figure, axes = plane_figure(4.4, *seen)
    density = cloud_density(cloud, *np.array(seen).T)
    draw_cloud(axes, cloud, density, float(density.max(initial=0.0)), ink.SAMPLES_RAMP)
    marks = [label(name) + (f"  ({c.scale})" if c.scale else "") for name, c in zip(names, (x, y), strict=True)]
    axes.set(xlabel=marks[0], ylabel=marks[1])
    axes.set_title("samples")
    return figure


@house_style()
def corner_figure(samples: Table, names: Sequence[str]) -> "matplotlib.figure.Figure":
    """Every pair of some columns below the diagonal, each column on it: samples without real rows."""
    columns = [numbers(None, samples, name) for name in names]
    side = 1.5 * len(names) + 0.4
    figure = new_figure(side, side)
    for i, row in enumerate(figure.subplots(len(names), len(names))):
        for j, axes in enumerate(row):
            axes.tick_params(labelleft=False, labelbottom=False, length=2)
            if i == j:
                draw_numbers(axes, columns[i])
                axes.set_yticks([])
            elif i > j:
                points = finite_points(columns[j].samples, columns[i].samples)
                axes.scatter(*points.T, s=3.5, alpha=0.35, linewidths=0, color=SAMPLES, rasterized=True)
                xlim, ylim = limits(points)
                axes.set(xlim=xlim, ylim=ylim)
                few_ticks(axes, 3)
            else:
                axes.set_axis_off()
            if j == 0:
                axes.set_ylabel(label(names[i], 16))
            if i == len(names) - 1:
                axes.set_xlabel(label(names[j], 16))
    return figure


@house_style()
def sheet_figure(
    sheets: Sequence[tuple[np.ndarray, str]],
    *,
    ticks: Sequence[tuple[float, str]] = (),
    below: str = "",
    width: float = 4.2,
) -> "matplotlib.figure.Figure":
    """Pictures as they are, ``(height, width, 3)`` bytes under a caption each, side by side.

    Args:
        sheets: The pictures, such as `images.grid_image` makes, and their captions.
        ticks: Marks below the first one: places from 0 to 1 along its width, and words.
        below: Words below the marks.
        width: Of each, in inches.
    """
    tallest = max(picture.shape[0] / picture.shape[1] for picture, _ in sheets)
    figure = new_figure(width * len(sheets), width * tallest + (0.5 if ticks else 0.28) + (0.2 if below else 0.0))
    for axes, (picture, caption) in zip(figure.subplots(1, len(sheets), squeeze=False)[0], sheets, strict=True):
        axes.imshow(picture)
        axes.set_title(caption)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if ticks:
        first, across = figure.axes[0], sheets[0][0].shape[1]
        first.set_xticks([place * across for place, _ in ticks], [words for _, words in ticks])
        first.tick_params(length=0)
        first.set_xlabel(below)
    return figure
