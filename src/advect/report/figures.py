"""The figures of a report, each a function from tables to a matplotlib `Figure`.

They take real rows and samples side by side, because a picture of samples alone says nothing. Clouds of points are
rasterised, so that a page stays small; every figure says how much of the data it leaves out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advect.records import Table
from advect.report import ink
from advect.report.ink import REAL, SAMPLES, house_style, label, new_figure
from advect.report.marginals import draw_numbers, marginals_figure, say
from advect.report.numerals import percent
from advect.report.values import Numbers, is_numeric, names_of, numbers, outside

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

__all__ = [
    "cloud_density",
    "draw_cloud",
    "few_ticks",
    "finite_points",
    "marginals_figure",
    "matrix_columns",
    "matrix_figure",
    "scatter_figure",
    "share_outside",
    "trajectory_figure",
]

MOST_POINTS = 6000
MOST_MATRIX_COLUMNS = 5
MOST_PATHS = 300
_CELLS = 56


def _thin(values: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` rows, evenly spaced: the same ones each time."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).astype(int)]


def finite_points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rows where both are finite, ``(n, 2)``."""
    points = np.stack([x, y], 1) if len(x) == len(y) else np.zeros((0, 2))
    return points[np.isfinite(points).all(1)]


@house_style()
def scatter_figure(
    real: Table | None, samples: Table | None, names: tuple[str, str] | None = None
) -> "matplotlib.figure.Figure":
    """Two numeric columns, real rows left and samples right, in one frame; darker where denser.

    Args:
        real: Held-out rows.
        samples: Drawn rows.
        names: The two columns; the first two numeric ones otherwise.
    """
    if names is None:
        found = [n for n in names_of(real, samples) if is_numeric(real, samples, n)]
        names = (found[0], found[1]) if len(found) > 1 else None
    if names is None:
        figure = new_figure(5.6, 1.4)
        say(figure.subplots(), "There are no two numeric columns to draw.")
        return figure
    x, y = numbers(real, samples, names[0]), numbers(real, samples, names[1])
    clouds = [finite_points(x.real, y.real), finite_points(x.samples, y.samples)]
    lows, highs = np.array([x.low, y.low]), np.array([x.high, y.high])
    pad = np.where(highs > lows, 0.03 * (highs - lows), 0.5)
    lows, highs = lows - pad, highs + pad
    stretch = float((highs[1] - lows[1]) / (highs[0] - lows[0]))
    undistorted = 0.45 < stretch < 1.6  # the axes are alike enough to show shapes as they are
    figure = new_figure(5.6, 0.85 + 2.35 * stretch if undistorted else 3.0)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    densities = [cloud_density(cloud, lows, highs) for cloud in clouds]
    darkest = max((float(d.max(initial=0.0)) for d in densities), default=0.0)
    for axes, cloud, density, (title, ramp) in zip(
        panels, clouds, densities, [("real rows", ink.REAL_RAMP), ("samples", ink.SAMPLES_RAMP)], strict=True
    ):
        draw_cloud(axes, cloud, density, darkest, ramp)
        axes.set(xlim=(lows[0], highs[0]), ylim=(lows[1], highs[1]))
        missed = float(np.mean(((cloud < lows) | (cloud > highs)).any(1))) if len(cloud) else 0.0
        axes.set_title(title + (f"  ({percent(missed)} outside)" if missed else ""))
        axes.set_xlabel(_axis(names[0], x))
        few_ticks(axes)
        if undistorted:
            axes.set_aspect("equal")
    panels[0].set_ylabel(_axis(names[1], y))
    return figure


def _axis(name: str, column: Numbers) -> str:
    return label(name) + (f"  ({column.scale})" if column.scale else "")


def few_ticks(axes: "matplotlib.axes.Axes", most: int = 5) -> None:
    """Few enough numbers on both axes to be read."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(most))
    axes.yaxis.set_major_locator(MaxNLocator(most))


def cloud_density(points: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
    """Share of the cloud near each point: a histogram smoothed by one cell, read off at the points."""
    if not len(points):
        return np.zeros(0)
    place = (points - lows) / (highs - lows) * _CELLS
    inside = ((place >= 0) & (place < _CELLS)).all(1)
    cell = np.clip(np.nan_to_num(place), 0, _CELLS - 1).astype(int)
    counts = np.zeros((_CELLS + 2, _CELLS + 2))
    np.add.at(counts, (cell[inside, 0] + 1, cell[inside, 1] + 1), 1.0)
    for axis in (0, 1):
        counts = (np.roll(counts, 1, axis) + 2 * counts + np.roll(counts, -1, axis)) / 4
    return counts[cell[:, 0] + 1, cell[:, 1] + 1] / len(points)


def draw_cloud(
    axes: "matplotlib.axes.Axes",
    points: np.ndarray,
    density: np.ndarray,
    darkest: float,
    ramp: tuple[str, ...],
) -> None:
    """Points coloured by density, the dense ones on top."""
    from matplotlib.colors import LinearSegmentedColormap

    if not len(points):
        say(axes, "no rows to draw")
        return
    both = _thin(np.column_stack([points, density]), MOST_POINTS)
    both = both[np.argsort(both[:, 2], kind="stable")]
    size = float(np.clip(9000 / len(both), 2.5, 22))
    axes.scatter(
        both[:, 0], both[:, 1], c=np.sqrt(both[:, 2] / max(darkest, 1e-300)), s=size, linewidths=0, rasterized=True,
        cmap=LinearSegmentedColormap.from_list("ramp", ramp), vmin=0.0, vmax=1.0,
    )  # fmt: skip


def matrix_columns(real: Table | None, samples: Table | None) -> tuple[str, ...]:
    """The columns a scatter matrix shows: the first numeric ones that vary, five at most."""
    chosen = []
    for name in names_of(real, samples):
        if len(chosen) < MOST_MATRIX_COLUMNS and is_numeric(real, samples, name):
            column = numbers(real, samples, name)
            chosen += [] if column.empty or column.constant else [name]
    return tuple(chosen)


@house_style()
def matrix_figure(
    real: Table | None, samples: Table | None, names: Sequence[str] | None = None
) -> "matplotlib.figure.Figure":
    """Every pair of up to five columns: real rows below the diagonal, samples above, both on it.

    The upper panels have the column of their *row* on the horizontal axis, so that the upper half is the mirror image
    of the lower one when the samples are right.
    """
    names = list(matrix_columns(real, samples) if names is None else names)[:MOST_MATRIX_COLUMNS]
    if len(names) < 2:
        figure = new_figure(5.6, 1.4)
        say(figure.subplots(), "There are no two numeric columns that vary.")
        return figure
    columns = [numbers(real, samples, name) for name in names]
    side = 1.42 if len(names) > 2 else 2.4
    figure = new_figure(side * len(names) + 0.4, side * len(names) + 0.4)
    grid = figure.subplots(len(names), len(names))
    for i, row in enumerate(grid):
        for j, axes in enumerate(row):
            axes.tick_params(labelleft=False, labelbottom=False, length=2)
            few_ticks(axes, 3)
            if i == j:
                draw_numbers(axes, columns[i])
                axes.set_yticks([])
            elif i > j:
                _pair(axes, columns[j], columns[i], "real", REAL)
            else:
                _pair(axes, columns[i], columns[j], "samples", SAMPLES)
        shown = names[i] if ink.drawable(names[i]) else f"column {i + 1}"
        grid[-1][i].set_xlabel(label(shown, 16))
        row[0].set_ylabel(label(shown, 16))
    return figure


def _pair(axes: "matplotlib.axes.Axes", x: Numbers, y: Numbers, which: str, colour: str) -> None:
    points = _thin(finite_points(getattr(x, which), getattr(y, which)), MOST_POINTS // 4)
    if not len(points):
        say(axes, "no rows")
        return
    axes.scatter(points[:, 0], points[:, 1], s=3.5, alpha=0.35, linewidths=0, color=colour, rasterized=True)
    for setter, column in ((axes.set_xlim, x), (axes.set_ylim, y)):
        pad = 0.04 * (column.high - column.low) or 0.5
        setter(column.low - pad, column.high + pad)


@house_style()
def trajectory_figure(
    trajectories: np.ndarray, names: tuple[str, str] = ("x0", "x1"), *, start: str = "noise"
) -> "matplotlib.figure.Figure":
    """Paths ``(times, n, 2)`` from their start (grey rings) to samples (vermillion dots)."""
    figure = new_figure(5.6, 4.1)
    axes = figure.subplots()
    if trajectories.ndim != 3 or trajectories.shape[2] != 2:
        say(axes, "Paths are drawn for two columns only.")
        return figure
    paths = _thin(trajectories.astype(np.float64).transpose(1, 0, 2), MOST_PATHS)
    paths = paths[np.isfinite(paths).all((1, 2))]
    if not paths.size:
        say(axes, "There are no finished paths to draw.")
        return figure
    draw_ways(axes, paths, (f"t = 0, {label(start)}", "t = 1, samples"))
    axes.set(xlabel=label(names[0]), ylabel=label(names[1]))
    axes.autoscale_view()
    few_ticks(axes)
    figure.legend(loc="outside upper left", ncols=2, markerscale=1.6)
    return figure


def draw_ways(axes: "matplotlib.axes.Axes", ways: np.ndarray, ends: tuple[str, str]) -> None:
    """Ways ``(n, times, 2)`` as lines from rings to dots; ``ends`` name both in the legend."""
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(list(ways), colors=ink.FAINT, linewidths=0.5, alpha=0.55, rasterized=True))
    for place, inside, rim in ((0, "none", "#5b6472"), (-1, SAMPLES, SAMPLES)):
        axes.plot(*ways[:, place].T, "o", ms=3, mfc=inside, mec=rim, mew=0.7, label=ends[place], rasterized=True)


def share_outside(real: Table | None, samples: Table | None, name: str) -> tuple[float, float]:
    """Shares of real rows and of samples that a histogram of ``name`` leaves outside its frame."""
    column = numbers(real, samples, name)
    return outside(column.real, column.low, column.high), outside(column.samples, column.low, column.high)
