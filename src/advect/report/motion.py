"""Rows on their way from source to data, as the page's script takes them, and as a strip for paper.

Coordinates travel as 16-bit integers, pictures as bytes (`packing`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from advect.errors import ShapeError
from advect.report.field import PlaneField, packed_field
from advect.report.figures import few_ticks
from advect.report.images import grid_image, pictures, png_bytes
from advect.report.ink import REAL, SAMPLES, clean, data_uri, house_style, label, new_figure
from advect.report.numerals import grouped, listed
from advect.report.packing import quantised, text64
from advect.report.parts import Card, figure_card
from advect.report.values import LIKE, ends_frame, frame

if TYPE_CHECKING:
    import matplotlib.figure

STRIP_TIMES, STRIP_PICTURES, STRIP_PICTURE_TIMES = 5, 5, 8
MOST_PICTURE_BYTES = 900_000
_ACROSS = 8
_STRIP_DOTS = 800


@dataclass(frozen=True)
class Motion:
    """Rows on their way.

    Attributes:
        states: ``(frames, rows, columns)`` in the units of the data, or ``(frames, rows, channels, height, width)``.
        captions: A word on each frame.
        names: Of the columns; empty for pictures.
        pair: The two columns shown first.
        real: ``(rows, columns)`` real rows to stand behind, or None.
        bounds: Black and white of pictures.
        layered: Whether the frames are layers, between which rows are only drawn as moving.
        field: The velocity, where the page can evaluate it.
        why_stored: Why it cannot, in a sentence; empty where it can.
        note: What else has to be said.
    """

    states: np.ndarray
    captions: tuple[str, ...]
    names: tuple[str, ...] = ()
    pair: tuple[int, int] = (0, 1)
    real: np.ndarray | None = None
    bounds: tuple[float, float] | None = None
    layered: bool = False
    field: PlaneField | None = None
    why_stored: str = ""
    note: str = ""

    @property
    def image(self) -> bool:
        """Whether the rows are pictures."""
        return self.states.ndim == 5


@dataclass(frozen=True)
class Moving:
    """What the page needs of it.

    Attributes:
        script: The numbers for the page's script, as JSON.
        lead: What is seen.
        still: The strip.
        names: Of the columns there are to choose from, in order; fewer than three leave no choice.
        pair: The two that are shown first.
        last: The number of the last frame.
        captions: First and last caption, and which times the strip shows.
        image: Whether the rows are pictures.
        hint: How the point is moved.
        note: What has to be said besides.
        titles: One for each panel; empty text for none.
    """

    script: str
    lead: str
    still: Card
    names: tuple[str, ...]
    pair: tuple[int, int]
    last: int
    captions: tuple[str, ...]
    image: bool
    hint: str = ""
    note: str = ""
    titles: tuple[str, ...] = ("",)


def moving(motion: Motion | None) -> Moving | None:
    """The section, or None where nothing moves that can be drawn."""
    if motion is None or len(motion.states) != len(motion.captions) or len(motion.states) < 2:
        return None
    if motion.image:
        return _moving_pictures(motion)
    if motion.states.ndim != 3 or motion.states.shape[2] < 2 or motion.states.shape[2] != len(motion.names):
        return None
    return _moving_points(motion)


def _moving_points(motion: Motion) -> Moving:
    low, high = _frame_of(motion)
    script: dict[str, Any] = {
        "kind": "points",
        "names": [clean(name) for name in motion.names],
        "pair": motion.pair,
        "low": low.tolist(),
        "high": high.tolist(),
        "real": None if motion.real is None else text64(quantised(motion.real, low, high)),
        "panels": [_panel(motion, low, high)],
    }
    first, second = (clean(motion.names[i]) for i in motion.pair)
    unit = "layer by layer" if motion.layered else "from t = 0, the source, to t = 1, the data"
    lead = f"{grouped(motion.states.shape[1])} rows of the source on their way {unit}; faint: real rows."
    if motion.layered:
        lead += " Between two layers rows are drawn as moving straight, which the layers do not say."
    hint = "Drag the ringed point, or move it with the arrow keys, to see where it comes from and where it goes. "
    hint += (
        "The page integrates the model's own velocity from there, both ways."
        if motion.field is not None
        else f"Shown is the nearest of the stored paths: {motion.why_stored or 'the field is not on this page'}."
    )
    return Moving(
        json.dumps(script, separators=(",", ":")),
        lead,
        _strip_of_points(motion, first, second),
        tuple(script["names"]),
        motion.pair,
        len(motion.captions) - 1,
        (motion.captions[0], motion.captions[-1]),
        False,
        hint,
        motion.note,
    )


def _frame_of(motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """An ODE stays between its ends; layers may throw rows far out and bring them back."""
    if not motion.layered:
        return ends_frame(motion.states, motion.real)
    return frame(motion.states.reshape(-1, motion.states.shape[2]), outside=0.005)


def _panel(motion: Motion, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    return {
        "captions": motion.captions,
        "rows": motion.states.shape[1],
        "states": text64(quantised(motion.states, low, high)),
        "field": None if motion.field is None else packed_field(motion.field),
    }


def strip_places(frames: int, times: int) -> list[int]:
    """Evenly spaced frames, both ends among them, each once."""
    return sorted({round(place) for place in np.linspace(0, frames - 1, times)})


def _strip_of_points(motion: Motion, first: str, second: str) -> Card:
    shown = strip_places(len(motion.states), STRIP_TIMES)
    low, high = _frame_of(motion)
    pair = list(motion.pair)
    figure = strip_figure(
        motion.states[shown][:, :, pair],
        [motion.captions[i] for i in shown],
        (first, second),
        None if motion.real is None else motion.real[:, pair],
        (low[pair], high[pair]),
    )
    alt = (
        f"{len(shown)} scatter plots of {second} against {first}, left to right from source to data: "
        f"{listed([motion.captions[i] for i in shown], 9)}. Real rows stand faint behind."
    )
    return figure_card(figure, alt, caption=motion.note, wide=True)


@house_style()
def strip_figure(
    states: np.ndarray,
    captions: Sequence[str],
    names: tuple[str, str] = ("x0", "x1"),
    real: np.ndarray | None = None,
    extent: tuple[np.ndarray, np.ndarray] | None = None,
) -> "matplotlib.figure.Figure":
    """A cloud at a few times, side by side in one frame.

    Args:
        states: ``(times, rows, 2)``.
        captions: One for each time.
        names: Of the axes.
        real: ``(rows, 2)`` rows faint behind, or None.
        extent: Lower and upper ends of the two axes; by default those of both ends of the way.

    Raises:
        ShapeError: States of another shape.
    """
    if states.ndim != 3 or states.shape[2] != 2 or len(captions) != len(states):
        raise ShapeError(f"states have shape {states.shape}, expected (times, rows, 2) and a caption for each time")
    low, high = ends_frame(states, real) if extent is None else extent
    figure = new_figure(9.2, 2.35)
    panels = figure.subplots(1, len(states), sharex=True, sharey=True, squeeze=False)[0]
    size = float(np.clip(1500 / max(states.shape[1], 1), 1.0, 9.0))
    for axes, state, caption in zip(panels, states[:, :_STRIP_DOTS], captions, strict=True):
        if real is not None:
            axes.scatter(*real[:_STRIP_DOTS].T, s=size, c=REAL, alpha=0.16, linewidths=0, rasterized=True)
        state = state[np.isfinite(state).all(1)]
        axes.scatter(*state.T, s=size, c=SAMPLES, alpha=0.75, linewidths=0, rasterized=True)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set_title(label(caption))
        few_ticks(axes, 3)
        axes.set_xlabel(label(names[0], 18))
        if 1 / LIKE < (high[0] - low[0]) / (high[1] - low[1]) < LIKE:
            axes.set_aspect("equal")
    panels[0].set_ylabel(label(names[1], 18))
    return figure


def _moving_pictures(motion: Motion) -> Moving | None:
    try:
        shown = pictures(motion.states.reshape(-1, *motion.states.shape[2:]), motion.bounds)
    except ShapeError:
        return None  # pixels in a shape no picture has
    frames, rows, channels = motion.states.shape[:3]
    height, width = shown.shape[1:3]
    values = shown if channels == 3 else shown[..., :1]
    script = {
        "kind": "pictures",
        "captions": motion.captions,
        "rows": rows,
        "height": height,
        "width": width,
        "channels": values.shape[-1],
        "across": _ACROSS,
        "states": text64(np.ascontiguousarray(values)),
    }
    unit = "layer by layer" if motion.layered else "from noise at t = 0 to t = 1"
    return Moving(
        json.dumps(script, separators=(",", ":")),
        f"{grouped(rows)} samples on their way {unit}: none were chosen.",
        _strip_of_pictures(motion),
        (),
        (0, 1),
        frames - 1,
        (motion.captions[0], motion.captions[-1]),
        True,
        note=motion.note,
    )


def _strip_of_pictures(motion: Motion) -> Card:
    places = strip_places(len(motion.states), STRIP_PICTURE_TIMES)
    rows = min(STRIP_PICTURES, motion.states.shape[1])
    grid = motion.states[places][:, :rows].swapaxes(0, 1)
    image = grid_image(grid.reshape(-1, *motion.states.shape[2:]), columns=len(places), bounds=motion.bounds)
    told = listed([motion.captions[i] for i in places], 9)
    alt = f"{rows} pictures, one a row, on their way from noise at the left to samples at the right: {told}."
    caption = f"Left to right: {told}. {motion.note}".strip()
    return Card(data_uri(png_bytes(image), "image/png"), alt, image.width, image.height, caption=caption)


def affordable_pictures(pixels: int, frames: int) -> int:
    """How many pictures of so many numbers go on a page at so many times: 2 to 16."""
    return int(np.clip(MOST_PICTURE_BYTES // max(pixels * frames, 1), 2, 16))
