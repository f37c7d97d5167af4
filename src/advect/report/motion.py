"""Rows of a model on their way from source to data, as a report holds them."""

from dataclasses import dataclass

import numpy as np

from advect.report.field import PlaneField


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
