"""Figures of a model alone, from plain arrays: its samples, its density, its field, the ways its rows take.

The report's figures set real rows beside samples; these show what a model says where there is nothing to set beside it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advect.records import Table
from advect.report import ink
from advect.report.figures import cloud_density, draw_cloud, few_ticks, finite_points
from advect.report.ink import SAMPLES, house_style, label, new_figure
from advect.report.marginals import draw_numbers, say
from advect.report.numerals import number
from advect.report.values import LIKE, numbers

if TYPE_CHECKING:
    from typing import Literal

    import matplotlib.axes
    import matplotlib.figure

    _LineStyle = Literal["solid", "dashed", "dotted"]

MASSES = (0.5, 0.9, 0.99)  # of the contours
_LINES: "tuple[_LineStyle, ...]" = ("solid", "dashed", "dotted")
DEEPEST = 12.0  # nats below the highest density that the heat map still tells apart
_RAMP = ("#ffffff", "#fbe9d9", "#f6cfae", "#ea9550", "#D55E00", "#6b2d00")
_MARGIN = 0.06
_TALLEST = 5.0  # inches


def frame(values: np.ndarray, *, margin: float = _MARGIN) -> tuple[float, float]:
    """Where nearly all of the values are, with some room: one stray point must not shrink the rest."""
    values = values[np.isfinite(values)]
    if not values.size:
        return -1.0, 1.0
    low, high = (float(v) for v in np.quantile(values, (0.002, 0.998)))
    room = margin * (high - low) if high > low else 0.5
    return low - room, high + room


def _all_of(values: np.ndarray) -> tuple[float, float]:
    """Where all of the finite values are, with some room."""
    low, high = float(values.min()), float(values.max())
    room = _MARGIN * (high - low) if high > low else 0.5
    return low - room, high + room


def mass_levels(log_density: np.ndarray, masses: Sequence[float] = MASSES) -> dict[float, float]:
    """The log-densities above which these shares of the mass on an even grid lie, by share; equal levels once.

    The regions are those of highest density (Hyndman 1996, The American Statistician 50(2), p. 120–126).
    """
    finite = np.sort(log_density[np.isfinite(log_density)])[::-1]
    if not finite.size:
        return {}
    mass = np.cumsum(np.exp(finite - finite[0]))
    places = np.minimum(np.searchsorted(mass / mass[-1], masses), len(finite) - 1)
    found = {share: float(finite[place]) for share, place in zip(masses, places, strict=True)}
    return {share: level for share, level in found.items() if list(found.values()).count(level) == 1}


def _plane(
    width: float, xlim: tuple[float, float], ylim: tuple[float, float], *, beside: float = 0.65, above: float = 0.85
) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    """A figure ``width`` inches wide with one frame; columns of like size share a scale, so that shapes stay.

    Args:
        width: Of the figure.
        xlim: The frame.
        ylim: The frame.
        beside: Inches of the width that are not frame.
        above: Inches of the height that are not frame.
    """
    stretch = (ylim[1] - ylim[0]) / (xlim[1] - xlim[0])
    alike = 1 / LIKE < stretch < LIKE
    height = (width - beside) * (stretch if alike else 0.7)
    if height > _TALLEST:  # a narrow frame gets a narrow figure
        width, height = beside + max(_TALLEST / stretch, 1.6), _TALLEST
    figure = new_figure(width, max(height, 0.9) + above)
    axes = figure.subplots()
    axes.set(xlim=xlim, ylim=ylim)
    if alike:
        axes.set_aspect("equal")
    _ticks(axes)
    return figure, axes


def _ticks(axes: "matplotlib.axes.Axes", most: int = 5) -> None:
    """Few, and where all of them begin with the same digits (times, map coordinates) those once at the end."""
    few_ticks(axes, most)
    axes.ticklabel_format(useOffset=True)


@house_style()
def density_figure(
    x: np.ndarray, y: np.ndarray, log_density: np.ndarray, names: tuple[str, str]
) -> "matplotlib.figure.Figure":
    """A log-density as a heat map, with contours around half, 90 % and 99 % of the mass in the frame.

    Args:
        x: ``(columns,)`` evenly spaced.
        y: ``(rows,)`` evenly spaced.
        log_density: ``(rows, columns)`` in nats; −∞ where nothing can be, NaN where it is not known (left grey).
        names: Of the two axes.
    """
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = _plane(5.8, (float(x[0]), float(x[-1])), (float(y[0]), float(y[-1])), beside=1.6, above=1.0)
    axes.set_facecolor("#d5d9e0")
    finite = log_density[np.isfinite(log_density)]
    highest = float(finite.max()) if finite.size else 0.0
    lowest = max(highest - DEEPEST, float(finite.min())) if finite.size else highest - 1.0
    lowest = lowest if lowest < highest else highest - 1.0
    drawn = np.where(np.isneginf(log_density), lowest - 1.0, log_density)
    image = axes.pcolormesh(
        x, y, np.ma.masked_invalid(drawn), cmap=LinearSegmentedColormap.from_list("density", _RAMP),
        vmin=lowest, vmax=highest, shading="nearest" if np.isnan(drawn).any() else "gouraud", rasterized=True,
    )  # fmt: skip
    _contours(axes, x, y, drawn, mass_levels(log_density))
    bar = figure.colorbar(image, ax=axes, extend="min", aspect=18)
    bar.set_label("log-density, nats", fontsize=9)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axes.set(xlabel=label(names[0]), ylabel=label(names[1]))
    return figure


def _contours(
    axes: "matplotlib.axes.Axes", x: np.ndarray, y: np.ndarray, values: np.ndarray, levels: dict[float, float]
) -> None:
    """Lines at the levels, and a legend that says which share of the mass each holds."""
    from matplotlib.lines import Line2D

    if not levels:
        return
    rising = sorted(levels.items(), key=lambda item: item[1])
    styles = [_LINES[MASSES.index(share)] for share, _ in rising]
    axes.contour(x, y, values, levels=[v for _, v in rising], colors=ink.INK, linewidths=0.9, linestyles=styles)
    handles = [
        Line2D([], [], color=ink.INK, linewidth=0.9, linestyle=style, label=f"{100 * share:g} %")
        for style, (share, _) in reversed(list(zip(styles, rising, strict=True)))
    ]
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(handles=handles, loc="outside upper left", ncols=4, title="highest density regions, share of mass")


@house_style()
def curve_figure(x: np.ndarray, density: np.ndarray, name: str, unit: str = "") -> "matplotlib.figure.Figure":
    """A density of one column as a curve, per unit of the column."""
    figure = new_figure(5.6, 3.0)
    axes = figure.subplots()
    axes.fill_between(x, density, color=SAMPLES, alpha=0.15, linewidth=0)
    axes.plot(x, density, color=SAMPLES, linewidth=1.7)
    axes.set(xlabel=label(name), ylabel=f"density, per {label(unit) if unit else 'unit'}", xlim=(x[0], x[-1]))
    axes.set_ylim(0, None)
    _ticks(axes)
    return figure


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
    figure, axes = _plane(5.6, (left, right), (bottom, top))
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
    from matplotlib.collections import LineCollection

    ways = states.transpose(1, 0, 2)
    ways = ways[np.isfinite(ways).all((1, 2))]
    if not ways.size:
        figure = new_figure(5.6, 1.4)
        say(figure.subplots(), "There are no finished ways to draw.")
        return figure
    figure, axes = _plane(5.6, *(_all_of(ways[..., i]) for i in (0, 1)))
    axes.add_collection(LineCollection(list(ways), colors=ink.FAINT, linewidths=0.5, alpha=0.6, rasterized=True))
    for place, inside, rim in ((0, "none", "#5b6472"), (-1, SAMPLES, SAMPLES)):
        time = float(times[place])
        name = f"t = {time:.3g}" + {0.0: ", source", 1.0: ", samples"}.get(time, "")
        axes.plot(*ways[:, place].T, "o", ms=3, mfc=inside, mec=rim, mew=0.7, label=name, rasterized=True)
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
        limits = [frame(state[:, i]) for i in (0, 1)]
        cloud = finite_points(*state.T)
        density = cloud_density(cloud, *np.array(limits).T)
        draw_cloud(axes, cloud, density, float(density.max(initial=0.0)), ink.SAMPLES_RAMP)
        axes.set_title(caption, fontsize=9)
        axes.set(xlim=limits[0], ylim=limits[1])
        _ticks(axes, 3)
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
    limits = [frame(v.samples) for v in (x, y)]
    figure, axes = _plane(4.4, *limits)
    density = cloud_density(cloud, *np.array(limits).T)
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
                axes.set(xlim=frame(columns[j].samples), ylim=frame(columns[i].samples))
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
