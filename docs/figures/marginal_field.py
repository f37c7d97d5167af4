"""One target makes an easy field; averaged over the data, it makes the field that generates."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from advect.flows import EmpiricalField
from advect.paths import Linear
from advect.solvers import Adaptive
from figures.ink import Ink, dots, panels, plane, ways

ALT = (
    "Three panels of arrows and paths. Given one data point all arrows aim at it; given another at that one; the "
    "average field bends: far out it aims between the points, near a point at that point."
)
DATA = ((-1.6, 1.1), (1.7, 0.9), (0.2, -1.6))
TIME, END = 0.55, 0.97


@dataclass(frozen=True)
class Found:
    """Fields on a grid and paths, for two conditions and for their mean.

    Attributes:
        grid: ``(places, 2)``.
        arrows: Three arrays ``(places, 2)``, velocities at `TIME`.
        weights: Two arrays ``(places,)``: the share that each of the two conditions has there.
        paths: Three arrays ``(times, rows, 2)``.
    """

    grid: np.ndarray
    arrows: list[np.ndarray]
    paths: list[np.ndarray]


def compute() -> Found:
    """All in closed form."""
    data = torch.tensor(DATA, dtype=torch.float64)
    side = torch.linspace(-2.6, 2.6, 14, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    starts = torch.randn(60, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    times = torch.linspace(0, END, 50, dtype=torch.float64)
    arrows, paths = [], []
    for rows in (data[:1], data[1:2], data):
        field = EmpiricalField(rows, Linear())
        arrows.append(field(TIME, grid).numpy())
        paths.append(Adaptive(rtol=1e-7, atol=1e-7)(field, starts, 0.0, END, times=times).states.numpy())
    return Found(grid.numpy(), arrows, paths)


def draw(found: Found, ink: Ink) -> Figure:
    """Two conditions, and the marginal field."""
    figure, axes = panels(ink, 1, 3, 2.75)
    titles = ("given x1 = the left point", "given x1 = the right point", "their average, all three points")
    shown = (DATA[:1], DATA[1:2], DATA)
    for panel, arrows, paths, title, targets in zip(axes[0], found.arrows, found.paths, titles, shown, strict=True):
        panel.quiver(*found.grid.T, *arrows.T, color=ink.faint, scale=62, width=0.005, headwidth=4)
        ways(panel, paths, ink.model, 0.7, 0.75)
        dots(panel, paths[0], ink.text, 3.5, 0.9)
        panel.scatter(*np.array(targets).T, s=42, color=ink.data, zorder=5)
        plane(panel, title, 2.8)
    return figure


def caption(found: Found) -> str:
    """What it shows."""
    return (
        f"Arrows: velocities at t = {TIME:g}; lines: paths from the same 60 source points (small dots). Given one "
        "data point (blue), u_t(x | x1) is a formula, and all paths end there. The marginal field averages these "
        "with the weights p_t(x | x1); its paths bend, do not cross, and share the points out."
    )
