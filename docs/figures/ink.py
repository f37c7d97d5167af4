"""The hand that draws the figures: two papers, three hues, and panels without clutter.

Hues are Okabe and Ito's, lighter on dark paper. Backgrounds are transparent, so a figure lies on any page.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

WIDTH = 7.4  # inches: the text column of the site at 96 dots per inch
DPI = 190  # of point clouds inside the vector picture


@dataclass(frozen=True)
class Ink:
    """The colours of one paper.

    Attributes:
        name: "light" or "dark", also the class of the picture on the site.
        text: Of labels and thin lines that matter.
        faint: Of axes and of what lies behind.
        data: Of real rows and of what is exact.
        model: Of samples and of what was learnt.
        other: Of a third thing.
        paper: Nearly the page's own colour, for halos and the low end of ramps.
    """

    name: str
    text: str
    faint: str
    data: str
    model: str
    other: str
    paper: str

    @property
    def nothing(self) -> str:
        """Of the value zero between two hues: it can be told from the paper."""
        return "#e6e9ee" if self.name == "light" else "#2b2f36"

    @property
    def ramp(self) -> LinearSegmentedColormap:
        """From paper to the hue of data: for densities."""
        return LinearSegmentedColormap.from_list(f"ramp-{self.name}", [self.paper, self.data, self.text])

    @property
    def hues(self) -> LinearSegmentedColormap:
        """From hue to hue, never as pale or dark as either paper: for what tells points apart."""
        return LinearSegmentedColormap.from_list(f"hues-{self.name}", [self.data, self.other, self.model])

    @property
    def wheel(self) -> LinearSegmentedColormap:
        """The same for angles: it ends where it begins."""
        around = [self.data, self.other, "#D9A400", self.model, "#B65A9C", self.data]
        return LinearSegmentedColormap.from_list(f"wheel-{self.name}", around)


LIGHT = Ink("light", "#1d2433", "#9aa3b2", "#0072B2", "#D55E00", "#009E73", "#ffffff")
DARK = Ink("dark", "#d9dee7", "#646c7a", "#56B4E9", "#F0883E", "#35C99A", "#131416")
PAPERS = (LIGHT, DARK)


def panels(ink: Ink, rows: int, columns: int, height: float, **grid: object) -> tuple[Figure, np.ndarray]:
    """A figure of the site's width with a grid of empty panels, an array ``(rows, columns)``."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def plane(
    axes: Axes,
    title: str = "",
    half_width: float | None = None,
    centre: Sequence[float] = (0.0, 0.0),
    flat: float = 1.0,
) -> None:
    """Make a panel a piece of the plane: equal scales, no ticks; ``flat`` is its height as a share of its width."""
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    if half_width is not None:
        axes.set_xlim(centre[0] - half_width, centre[0] + half_width)
        axes.set_ylim(centre[1] - flat * half_width, centre[1] + flat * half_width)


def dots(axes: Axes, points: np.ndarray, colour: object, size: float = 3.0, alpha: float = 0.6, **more: object) -> None:
    """A cloud of points ``(rows, 2)``, rasterised inside the picture."""
    axes.scatter(*points.T, s=size, c=colour, alpha=alpha, linewidths=0, rasterized=True, **more)


def ways(axes: Axes, states: np.ndarray, colour: object, width: float = 0.8, alpha: float = 0.7) -> None:
    """Lines of points on their way, ``(times, rows, 2)``."""
    axes.add_collection(LineCollection(list(states.transpose(1, 0, 2)), colors=colour, linewidths=width, alpha=alpha))
    axes.autoscale_view()


def svg(draw: Callable[[Any, Ink], Figure], found: Any, ink: Ink) -> bytes:
    """The picture that ``draw`` makes of ``found`` on this paper; the same content gives the same bytes."""
    buffer = io.BytesIO()
    with style.context(["default", _house(ink)]):
        draw(found, ink).savefig(buffer, format="svg", dpi=DPI, transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def _house(ink: Ink) -> dict[str, object]:
    return {
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.labelsize": 9.5,
        "axes.linewidth": 0.8,
        "axes.edgecolor": ink.faint,
        "axes.labelcolor": ink.text,
        "axes.titlecolor": ink.text,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "none",
        "text.color": ink.text,
        "xtick.color": ink.text,
        "ytick.color": ink.text,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.labelcolor": ink.text,
        "svg.fonttype": "path",
        "svg.hashsalt": "advect",
    }
