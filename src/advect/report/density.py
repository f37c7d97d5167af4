"""The density of a model in the plane as a heat map, real rows on top."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advect.report.figures import few_ticks
from advect.report.ink import INK, clean, house_style, label, new_figure
from advect.report.marginals import say
from advect.report.numerals import grouped, number, percent
from advect.report.parts import Card, figure_card
from advect.report.values import LIKE

if TYPE_CHECKING:
    import matplotlib.figure

DEEPEST = 10.0  # nats below the highest value: colours are not spent on densities e^-10 times as small
MOST_DOTS = 400


@dataclass(frozen=True)
class DensityMap:
    """Log-densities on a grid.

    Attributes:
        log_density: ``(ny, nx)`` nats, in the units of the data; −∞ where nothing can be, NaN where it could not be
            computed.
        x: ``(nx,)`` evenly spaced.
        y: ``(ny,)`` likewise.
        names: Of the two columns.
        rows: ``(n, 2)`` real rows to stand on it.
    """

    log_density: np.ndarray
    x: np.ndarray
    y: np.ndarray
    names: tuple[str, str]
    rows: np.ndarray | None = None


@house_style()
def density_figure(density: DensityMap) -> "matplotlib.figure.Figure":
    """Dark is dense, from pale yellow to navy (told apart by every kind of colour vision); rows as light dots."""
    x, y = density.x, density.y
    stretch = float(np.ptp(y) / np.ptp(x))
    alike = 1 / LIKE < stretch < LIKE
    figure = new_figure(5.6, float(np.clip(1.0 + 4.1 * (stretch if alike else 0.7), 2.6, 5.2)))
    axes = figure.subplots()
    if not np.isfinite(density.log_density).any():
        say(axes, "The density could not be computed anywhere here.")
        return figure
    high = float(density.log_density[np.isfinite(density.log_density)].max())
    half = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    shown = axes.imshow(
        np.where(_known(density), np.maximum(density.log_density, high - DEEPEST), np.nan),
        origin="lower",
        extent=(x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1]),
        cmap="YlGnBu",
        vmin=high - DEEPEST,
        vmax=high,
        interpolation="bilinear",
        aspect="equal" if alike else "auto",
    )
    if density.rows is not None:
        rows = density.rows[np.isfinite(density.rows).all(1)][:MOST_DOTS]
        axes.scatter(*rows.T, s=5, c="#ffffff", edgecolors=INK, linewidths=0.45, rasterized=True)
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), xlabel=label(density.names[0]), ylabel=label(density.names[1]))
    few_ticks(axes)
    bar = figure.colorbar(shown, ax=axes, shrink=0.9, extend="min")
    bar.set_label("log-density, nats")
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _known(density: DensityMap) -> np.ndarray:
    """Where the density is known, be it zero."""
    return np.isfinite(density.log_density) | np.isneginf(density.log_density)


def density_card(density: DensityMap | None) -> Card | None:
    """The figure with its words."""
    if density is None or min(density.log_density.shape) < 2:
        return None
    first, second = (clean(name) for name in density.names)
    finite = density.log_density[np.isfinite(density.log_density)]
    told = f" Highest {number(float(finite.max()))} nats." if finite.size else ""
    alt = f"Heat map of the model's log-density, {second} against {first}; dark is dense.{told}"
    if density.rows is not None:
        alt += f" {grouped(min(len(density.rows), MOST_DOTS))} real rows stand on it as dots."
    caption = (
        f"Colours end {DEEPEST:.0f} nats below the highest value. Dots: held-out rows, which should lie in the dark."
    )
    missing = 1 - float(_known(density).mean())
    if missing:
        caption += f" White: the density could not be computed ({percent(missing)} of the grid)."
    return figure_card(density_figure(density), alt, caption=caption)
