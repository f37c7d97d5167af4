"""Rows on their way as still pictures, for paper and for pages without a script: some times from left to right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advect.report.figures import few_ticks
from advect.report.images import grid_image, png_bytes
from advect.report.ink import REAL, SAMPLES, clean, data_uri, house_style, label, new_figure
from advect.report.motion import Motion
from advect.report.numerals import listed
from advect.report.parts import Card, figure_card
from advect.report.values import LIKE, Frame

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

TIMES, PICTURES, PICTURE_TIMES = 5, 5, 8
_DOTS = 800


@dataclass(frozen=True)
class Clouds:
    """One row of a strip.

    Attributes:
        states: ``(times, rows, 2)``.
        captions: One for each time.
        title: On the left; empty for none.
    """

    states: np.ndarray
    captions: Sequence[str]
    title: str = ""


def places(frames: int, times: int) -> list[int]:
    """Evenly spaced frames, both ends among them, each once."""
    return sorted({round(place) for place in np.linspace(0, frames - 1, times)})


def strip_of_points(motions: Mapping[str, Motion], frame: Frame) -> Card:
    """A row of clouds for each model."""
    first = next(iter(motions.values()))
    pair = list(first.pair)
    rows = []
    for title, motion in motions.items():
        shown = places(len(motion.states), TIMES)
        rows.append(Clouds(motion.states[shown][:, :, pair], [motion.captions[i] for i in shown], title))
    across, up = (clean(first.names[i]) for i in pair)
    figure = strip_figure(
        rows,
        (across, up),
        None if first.real is None else first.real[:, pair],
        Frame(frame.low[pair], frame.high[pair]),
    )
    told = "; ".join(f"{clean(row.title)} {listed(list(row.captions), 9)}".strip() for row in rows)
    alt = f"Scatter plots of {up} against {across}, left to right from source to data: {told}. Faint: real rows."
    return figure_card(figure, alt, caption=first.note, wide=True)


@house_style()
def strip_figure(
    rows: Sequence[Clouds], names: tuple[str, str], real: np.ndarray | None, frame: Frame
) -> "matplotlib.figure.Figure":
    """Clouds at a few times in one frame, a row for each model, real rows faint behind.

    Args:
        rows: From top to bottom.
        names: Of the axes.
        real: ``(n, 2)`` or None.
        frame: Of the two axes.
    """
    across = max(len(row.states) for row in rows)
    figure = new_figure(9.2, 0.25 + 2.1 * len(rows))
    grid = figure.subplots(len(rows), across, sharex=True, sharey=True, squeeze=False)
    for row, panels in zip(rows, grid, strict=True):
        for place, axes in enumerate(panels):
            if place >= len(row.states):
                axes.set_axis_off()
                continue
            _cloud(axes, row.states[place], real, frame)
            axes.set_title(label(row.captions[place]))
        title = f"{label(row.title, 18)}\n" if row.title else ""
        panels[0].set_ylabel(title + label(names[1], 18))
    for axes in grid[-1]:
        axes.set_xlabel(label(names[0], 18))
    return figure


def _cloud(axes: "matplotlib.axes.Axes", state: np.ndarray, real: np.ndarray | None, frame: Frame) -> None:
    size = float(np.clip(1500 / max(len(state), 1), 1.0, 9.0))
    if real is not None:
        axes.scatter(*real[:_DOTS].T, s=size, c=REAL, alpha=0.16, linewidths=0, rasterized=True)
    state = state[np.isfinite(state).all(1)][:_DOTS]
    axes.scatter(*state.T, s=size, c=SAMPLES, alpha=0.75, linewidths=0, rasterized=True)
    low, high = frame.low, frame.high
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    few_ticks(axes, 3)
    if 1 / LIKE < (high[0] - low[0]) / (high[1] - low[1]) < LIKE:
        axes.set_aspect("equal")


def strip_of_pictures(motions: Mapping[str, Motion]) -> Card:
    """A few pictures, one a row, from noise at the left to samples at the right; of several models one each."""
    each = PICTURES if len(motions) == 1 else 1
    rows, told = [], []
    for title, motion in motions.items():
        shown = places(len(motion.states), PICTURE_TIMES)
        rows.append(motion.states[shown][:, :each].swapaxes(0, 1))
        told.append(f"{clean(title)} {listed([motion.captions[i] for i in shown], 9)}".strip())
    across = max(row.shape[1] for row in rows)
    # A flow of few layers has fewer stops: its last one stands in for the rest.
    filled = [np.concatenate([row, *[row[:, -1:]] * (across - row.shape[1])], 1) for row in rows]
    cells = np.concatenate([row.reshape(-1, *row.shape[2:]) for row in filled])
    first = next(iter(motions.values()))
    image = grid_image(cells, columns=across, bounds=first.bounds)
    alt = f"Pictures on their way, one a row, from noise at the left to samples at the right: {'; '.join(told)}."
    caption = f"Left to right: {'; '.join(told)}. {first.note}".strip()
    return Card(data_uri(png_bytes(image), "image/png"), alt, image.width, image.height, caption=caption)
