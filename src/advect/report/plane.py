"""A figure with one frame in the plane: columns of like size share a scale, so that shapes stay."""

from typing import TYPE_CHECKING

import numpy as np

from advect.report.figures import few_ticks
from advect.report.ink import new_figure
from advect.report.values import LIKE, frame

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

    Limits = tuple[float, float]

_TALLEST = 5.0  # inches


def limits(cloud: np.ndarray, **how: float) -> "tuple[Limits, Limits]":
    """The frame of ``(n, 2)`` points as limits of the two axes; ``how`` as in `values.frame`."""
    seen = frame(cloud, **how)
    return (float(seen.low[0]), float(seen.high[0])), (float(seen.low[1]), float(seen.high[1]))


def plane_figure(
    width: float, xlim: "Limits", ylim: "Limits", *, beside: float = 0.65, above: float = 0.85
) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    """A figure ``width`` inches wide with one frame.

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
    offset_ticks(axes)
    return figure, axes


def offset_ticks(axes: "matplotlib.axes.Axes", most: int = 5) -> None:
    """Few, and where all of them begin with the same digits (times, map coordinates) those once at the end."""
    few_ticks(axes, most)
    axes.ticklabel_format(useOffset=True)
