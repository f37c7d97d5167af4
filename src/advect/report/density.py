"""The density of a model of one or two columns: a curve, or a heat map with the regions of highest density."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from advect.report.ink import INK, REAL, SAMPLES, clean, house_style, label, new_figure
from advect.report.marginals import say
from advect.report.numerals import grouped, listed, number, percent
from advect.report.parts import Card, figure_card
from advect.report.plane import offset_ticks, plane_figure

if TYPE_CHECKING:
    from typing import Literal

    import matplotlib.axes
    import matplotlib.figure

    _LineStyle = Literal["solid", "dashed", "dotted"]

MASSES = (0.5, 0.9, 0.99)  # of the contours
DEEPEST = 10.0  # nats below the highest value: colours are not spent on densities e^-10 times as small
MOST_DOTS = 400
_LINES: "tuple[_LineStyle, ...]" = ("solid", "dashed", "dotted")
_RAMP = ("#ffffff", "#fbe9d9", "#f6cfae", "#ea9550", SAMPLES, "#6b2d00")
_SHADES = 64  # told apart by no eye, and a picture of them is two thirds the size of one of 256
_UNKNOWN = "#d5d9e0"


@dataclass(frozen=True)
class DensityGrid:
    """A log-density on an even grid.

    Attributes:
        axes: Coordinates of the grid, one array per column.
        log_density: In nats, in the units of the data; ``(len(axes[0]),)``, or ``(len(axes[1]), len(axes[0]))`` of two
            columns. −∞ where nothing can be, NaN where it could not be computed.
        names: Of the columns.
        unit: Of the first one, where it is known.
        rows: ``(n, columns)`` real rows to stand on it.
    """

    axes: tuple[np.ndarray, ...]
    log_density: np.ndarray
    names: tuple[str, ...]
    unit: str = ""
    rows: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray:
        """Where the density is known, be it zero."""
        return np.isfinite(self.log_density) | np.isneginf(self.log_density)


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


def shares_inside(density: DensityGrid) -> dict[float, float]:
    """The share of the rows in each region of highest density of a map, by the share of the mass that it holds.

    Between the points of the grid the log-density is bilinear; rows outside the frame are in no region. Empty without
    rows, or where the density could not be computed everywhere.
    """
    rows = density.rows
    if rows is None or not density.known.all():
        return {}
    rows = rows[np.isfinite(rows).all(1)]
    levels = mass_levels(density.log_density)
    if not len(rows) or not levels:
        return {}
    floor = min(levels.values()) - DEEPEST  # lower values are in no region, and −∞ cannot be interpolated
    values = RegularGridInterpolator(
        density.axes[::-1], np.maximum(density.log_density, floor), bounds_error=False, fill_value=floor
    )(rows[:, ::-1])
    return {share: float(np.mean(values >= level)) for share, level in levels.items()}


@house_style()
def density_figure(density: DensityGrid) -> "matplotlib.figure.Figure":
    """A curve, per unit of the column, or a map: dark is dense, contours hold half, 90 % and 99 % of the mass in the
    frame, grey is unknown, and real rows are dots."""
    if len(density.axes) == 1:
        return _curve(density)
    (x, y), values = density.axes, density.log_density
    figure, axes = plane_figure(5.8, (float(x[0]), float(x[-1])), (float(y[0]), float(y[-1])), beside=1.6, above=1.0)
    axes.set(xlabel=label(density.names[0]), ylabel=label(density.names[1]), facecolor=_UNKNOWN)
    finite = values[np.isfinite(values)]
    if not density.known.any():
        say(axes, "The density could not be computed anywhere here.")
        return figure
    highest = float(finite.max()) if finite.size else 0.0
    lowest = max(highest - DEEPEST, float(finite.min())) if finite.size else highest - 1.0
    lowest = lowest if lowest < highest else highest - 1.0
    _heat(axes, density, lowest, highest)
    if density.rows is not None:
        rows = density.rows[np.isfinite(density.rows).all(1)][:MOST_DOTS]
        axes.plot(*rows.T, "o", ms=2.6, mfc=REAL, mec="#ffffff", mew=0.4, rasterized=True, scalex=False, scaley=False)
    return figure


def _heat(axes: "matplotlib.axes.Axes", density: DensityGrid, lowest: float, highest: float) -> None:
    """Colours, contours and their key."""
    from matplotlib.colors import LinearSegmentedColormap

    figure = axes.get_figure()
    assert figure is not None
    (x, y), values = density.axes, density.log_density
    drawn = np.where(density.known, np.maximum(values, lowest - 1.0), np.nan)
    half = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    image = axes.imshow(
        drawn, origin="lower", extent=(x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1]),
        cmap=LinearSegmentedColormap.from_list("density", _RAMP, _SHADES), vmin=lowest, vmax=highest,
        interpolation="bilinear", aspect=axes.get_aspect(),
    )  # fmt: skip
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    _contours(axes, density)
    bar = figure.colorbar(image, ax=axes, extend="min", aspect=18)
    bar.set_label("log-density, nats", fontsize=9)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _contours(axes: "matplotlib.axes.Axes", density: DensityGrid) -> None:
    """Lines around the regions of highest density, and a legend that says which share of the mass each holds."""
    from matplotlib.lines import Line2D

    values, levels = density.log_density, mass_levels(density.log_density)
    if not levels:
        return
    rising = sorted(levels.items(), key=lambda item: item[1])
    styles = [_LINES[MASSES.index(share)] for share, _ in rising]
    shown = np.where(np.isneginf(values), rising[0][1] - 1.0, values)
    axes.contour(*density.axes, shown, [v for _, v in rising], colors=INK, linewidths=0.9, linestyles=styles)
    handles = [
        Line2D([], [], color=INK, linewidth=0.9, linestyle=style, label=f"{100 * share:g} %")
        for style, (share, _) in reversed(list(zip(styles, rising, strict=True)))
    ]
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(handles=handles, loc="outside upper left", ncols=4, title="highest density regions, share of mass")


def _curve(density: DensityGrid) -> "matplotlib.figure.Figure":
    x, unit = density.axes[0], density.unit
    values = np.exp(density.log_density)
    figure = new_figure(5.6, 3.0)
    axes = figure.subplots()
    axes.fill_between(x, values, color=SAMPLES, alpha=0.15, linewidth=0)
    axes.plot(x, values, color=SAMPLES, linewidth=1.7)
    axes.set(xlabel=label(density.names[0]), ylabel=f"density, per {label(unit) if unit else 'unit'}")
    axes.set(xlim=(x[0], x[-1]), ylim=(0, None))
    offset_ticks(axes)
    return figure


def density_card(density: DensityGrid | None) -> Card | None:
    """The map with its words."""
    if density is None or len(density.axes) != 2 or min(density.log_density.shape) < 2:
        return None
    first, second = (clean(name) for name in density.names)
    finite = density.log_density[np.isfinite(density.log_density)]
    told = f" Highest {number(float(finite.max()))} nats." if finite.size else ""
    alt = f"Heat map of the model's log-density, {second} against {first}; dark is dense.{told}"
    caption = f"Colours end {DEEPEST:.0f} nats below the highest value."
    if density.rows is not None:
        alt += f" {grouped(min(len(density.rows), MOST_DOTS))} real rows stand on it as dots."
        caption += " Dots: held-out rows."
    inside = [
        f"{percent(found)} are inside the line of {percent(share)}" for share, found in shares_inside(density).items()
    ]
    if inside:
        caption += f" Of these {listed(inside)}."
    missing = 1 - float(density.known.mean())
    if missing:
        caption += f" Grey: the density could not be computed ({percent(missing)} of the grid)."
    return figure_card(density_figure(density), alt, caption=caption)
