"""A grid in the source and where a trained flow takes it: density is divided by the stretch."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from figures.ink import Ink, panels, plane, ways
from figures.trained import rows_of, trained

ALT = (
    "Left: a square grid over a Gaussian. Right: the same grid bent into two crescents; its cells are small where "
    "the density is high."
)
REACH, LINES, FINE = 2.4, 13, 601


@dataclass(frozen=True)
class Found:
    """The grid on both sides.

    Attributes:
        source: ``(FINE, 2·LINES, 2)`` grid lines in z.
        data: The same lines in x.
        rows: Real rows.
        points: Source points and their images, each ``(rows, 2)``.
        stretch: log |det ∂x/∂z| at the points.
        worst: Largest |log p(x) − (log q(z) − log |det ∂x/∂z|)| over the points, in nats.
    """

    source: np.ndarray
    data: np.ndarray
    rows: np.ndarray
    points: tuple[np.ndarray, np.ndarray]
    stretch: np.ndarray
    worst: float


def compute() -> Found:
    """Decode grid lines and points with `nsf` trained on two wide crescents."""
    model = trained("crescents", "nsf", 500)
    along, across = np.linspace(-REACH, REACH, FINE), np.linspace(-REACH, REACH, LINES)
    upright = np.stack(np.meshgrid(across, along), axis=2)
    source = np.concatenate([upright, upright[..., ::-1]], axis=1)
    with torch.no_grad():
        lines = model.flow.decode(torch.tensor(source.reshape(-1, 2), dtype=torch.float32)).value
        z = model.flow.base.sample(1500, generator=torch.Generator().manual_seed(1))
        moved = model.flow.map.decode(z)
        worst = (
            (model.flow.log_prob(moved.value) - model.flow.base.log_prob(z) + moved.log_abs_det_jacobian).abs().max()
        )
    points = (z.numpy(), moved.value.numpy())
    return Found(
        source,
        lines.numpy().reshape(source.shape),
        rows_of("crescents"),
        points,
        moved.log_abs_det_jacobian.numpy(),
        float(worst),
    )


def draw(found: Found, ink: Ink) -> Figure:
    """Source and data side by side, points coloured by the stretch there."""
    figure, axes = panels(ink, 1, 2, 3.2, width_ratios=(1, 1.35))
    shades = Normalize(*np.quantile(found.stretch, (0.03, 0.97)))
    for panel, lines, points, title in zip(
        axes[0],
        (found.source, found.data),
        found.points,
        ("source z, standard normal", "data x = decode(z)"),
        strict=True,
    ):
        ways(panel, lines, ink.text, 0.6, 0.75)
        panel.scatter(
            *points.T, s=5, c=found.stretch, cmap=ink.hues, norm=shades, alpha=0.75, linewidths=0, rasterized=True
        )
        plane(panel, title)
    axes[0, 0].set(xlim=(-3, 3), ylim=(-3, 3))
    low, high = found.rows.min(0) - 0.5, found.rows.max(0) + 0.5
    axes[0, 1].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    bar = figure.colorbar(axes[0, 1].collections[-1], ax=axes[0, 1], shrink=0.8, aspect=25)
    bar.set_label("log |det ∂x/∂z|, nats", color=ink.text)
    bar.ax.tick_params(colors=ink.text)
    bar.outline.set_visible(False)
    bar.solids.set_alpha(1)
    return figure


def caption(found: Found) -> str:
    """What it shows, with the check."""
    return (
        "A grid over the source and where `nsf`, trained on two wide crescents, takes it. Where the cells shrink "
        "(blue), the density is high; between the crescents they are torn wide (orange), and it is low. At these "
        "points log p(x) and log q(z) − log |det ∂x/∂z|, computed in opposite directions, differ by "
        f"{found.worst:.0e} nats at most."
    )
