"""Rows on their way from source to data, as the page's script takes them: of one model, or of several side by side.

Coordinates travel as 16-bit integers, pictures as bytes (`packing`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advect.errors import ShapeError
from advect.report.field import packed_field
from advect.report.images import pictures
from advect.report.ink import clean
from advect.report.motion import Motion
from advect.report.numerals import grouped, listed
from advect.report.packing import quantised, text64
from advect.report.parts import Card
from advect.report.strips import strip_of_pictures, strip_of_points
from advect.report.values import Frame, frame

MOST_PICTURE_BYTES = 900_000
SIDE_BY_SIDE_STEPS = 20  # of the slider
_ACROSS = 8
_STRAIGHT = " Between two layers rows are drawn as moving straight, which the layers do not say."


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
    """The section about one model, or None where nothing moves that can be drawn."""
    if motion is None or not _drawable(motion):
        return None
    if motion.image:
        unit = "layer by layer" if motion.layered else "from noise at t\u00a0=\u00a00 to t\u00a0=\u00a01"
        lead = f"{grouped(motion.states.shape[1])} samples on their way {unit}: none were chosen."
        return _moving({"": motion}, lead, len(motion.captions) - 1, (motion.captions[0], motion.captions[-1]))
    unit = "layer by layer" if motion.layered else "from t\u00a0=\u00a00, the source, to t\u00a0=\u00a01, the data"
    lead = f"{grouped(motion.states.shape[1])} rows of the source on their way {unit}; faint: real rows."
    if motion.layered:
        lead += _STRAIGHT
    hint = (
        "Drag the ringed point, or move it with the arrow keys, to see where it comes from (dashed) and where it goes. "
    )
    hint += (
        "The page integrates the model's own velocity from there, both ways."
        if motion.field is not None
        else f"Shown is the nearest of the stored paths: {motion.why_stored or 'the field is not on this page'}."
    )
    captions = motion.captions[0], motion.captions[-1]
    return _moving({"": motion}, lead, len(motion.captions) - 1, captions, hint)


def moving_side_by_side(motions: Mapping[str, Motion], methods: Sequence[str] = ()) -> Moving | None:
    """Several models of the same rows under one slider; those that do not fit the first are left out.

    Args:
        motions: By name.
        methods: All names, for a word about those that do not move.
    """
    fitting = {name: motion for name, motion in motions.items() if _drawable(motion)}
    if not fitting:
        return None
    first = next(iter(fitting.values()))
    fitting = {
        n: m for n, m in fitting.items() if m.names == first.names and m.states.shape[2:] == first.states.shape[2:]
    }
    count = grouped(first.states.shape[1])
    what = "samples" if first.image else "rows of the source"
    lead = f"{count} {what} on their way to the data in each model, under one slider."
    if not first.image:
        lead += " Faint: real rows."
    if any(motion.layered for motion in fitting.values()):
        lead += _STRAIGHT
    still = [clean(name) for name in methods if name not in fitting]
    if still:
        lead += f" Nothing on the way to show: {listed(still)}."
    return _moving(fitting, lead, SIDE_BY_SIDE_STEPS, ("0 % of the way", "100 % of the way"))


def _drawable(motion: Motion) -> bool:
    if len(motion.states) != len(motion.captions) or len(motion.states) < 2:
        return False
    if motion.image:
        try:
            pictures(motion.states[:1, 0], motion.bounds)
        except ShapeError:  # pixels in a shape no picture has
            return False
        return True
    return motion.states.ndim == 3 and motion.states.shape[2] >= 2 and motion.states.shape[2] == len(motion.names)


def _moving(motions: Mapping[str, Motion], lead: str, last: int, captions: tuple[str, str], hint: str = "") -> Moving:
    first = next(iter(motions.values()))
    if first.image:
        script, still = _pictures_script(motions), strip_of_pictures(motions)
    else:
        frame = _frame_of(motions)
        script, still = _points_script(motions, frame), strip_of_points(motions, frame)
    notes = [f"{name}: {motion.note}".removeprefix(": ") for name, motion in motions.items() if motion.note]
    return Moving(
        json.dumps(script, separators=(",", ":")),
        lead,
        still,
        tuple(clean(name) for name in first.names),
        first.pair,
        last,
        captions,
        first.image,
        hint,
        " ".join(notes),
        tuple(motions),
    )


def _points_script(motions: Mapping[str, Motion], frame: Frame) -> dict[str, Any]:
    first = next(iter(motions.values()))
    return {
        "kind": "points",
        "names": [clean(name) for name in first.names],
        "pair": first.pair,
        "low": frame.low.tolist(),
        "high": frame.high.tolist(),
        "real": None if first.real is None else text64(quantised(first.real, frame.low, frame.high)),
        "panels": [
            {
                "captions": motion.captions,
                "rows": motion.states.shape[1],
                "states": text64(quantised(motion.states, frame.low, frame.high)),
                "field": None if motion.field is None else packed_field(motion.field),
            }
            for motion in motions.values()
        ],
    }


def _pictures_script(motions: Mapping[str, Motion]) -> dict[str, Any]:
    first = next(iter(motions.values()))
    shown = {name: pictures(m.states.reshape(-1, *m.states.shape[2:]), m.bounds) for name, m in motions.items()}
    height, width = next(iter(shown.values())).shape[1:3]
    channels = 3 if first.states.shape[2] == 3 else 1
    return {
        "kind": "pictures",
        "height": height,
        "width": width,
        "channels": channels,
        "across": _ACROSS if len(motions) == 1 else _ACROSS // 2,
        "panels": [
            {
                "captions": motion.captions,
                "rows": motion.states.shape[1],
                "states": text64(np.ascontiguousarray(shown[name][..., :channels])),
            }
            for name, motion in motions.items()
        ],
    }


def _frame_of(motions: Mapping[str, Motion]) -> Frame:
    """An ODE stays between its ends; the layers of a flow that stands alone may throw rows far out and back."""
    only = next(iter(motions.values()))
    if len(motions) == 1 and only.layered:
        return frame(only.states.reshape(-1, only.states.shape[2]), outside=0.005)
    ends = [end for motion in motions.values() for end in (motion.states[0], motion.states[-1])]
    return frame(np.concatenate([*ends, *([] if only.real is None else [only.real])]))


def affordable_pictures(pixels: int, frames: int) -> int:
    """How many pictures of so many numbers go on a page at so many times: 2 to 16."""
    return int(np.clip(MOST_PICTURE_BYTES // max(pixels * frames, 1), 2, 16))
