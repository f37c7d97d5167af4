"""What moves on the page of a run: some rows on their way, and the field of a run in the plane."""

from dataclasses import dataclass

import numpy as np

from advect.errors import AdvectError, UnsupportedError
from advect.records import Schema, Table
from advect.report import Motion
from advect.report.field import PlaneField
from advect.report.moving import affordable_pictures
from advect.report.values import pair_to_draw
from advect.run import Artefact
from advect.workflows.motion import FRAMES, motion, real_points, visible
from advect.workflows.page_field import page_field

MOST_ROWS, FEWEST_ROWS, MOST_COLUMNS, MOST_BESIDE = 600, 100, 12, 6
NUMBERS = 160_000  # of 16 bits each: 430 kB as text
PICTURE_FRAMES = 21  # and of points where several models share a page
_NOTE = (
    "The model's own schedule starts from noise far wider than the data; the way is shown on the linear schedule, "
    "which has the same ends."
)


def shown_motion(artefact: Artefact, real: Table, *, seed: int, beside: int = 1) -> Motion | None:
    """Rows on their way from source to data; None where there is no way, or no two columns to draw it in.

    Args:
        artefact: The model.
        real: Held-out rows, to stand behind.
        seed: Of the draw.
        beside: How many models share the page: each then has fewer rows, and none a field that the page evaluates.
    """
    try:
        if artefact.schema.image:
            return _pictures(artefact, seed, beside)
        return _points(artefact, real, seed, beside)
    except UnsupportedError:  # what is no flow jumps
        return None


def _pictures(artefact: Artefact, seed: int, beside: int) -> Motion:
    pixels = int(np.prod(artefact.schema.event_shape))
    frames = None if artefact.flow.ode is None else PICTURE_FRAMES  # of layers, one for each
    count = min(affordable_pictures(pixels * beside, frames or FRAMES), 16 if beside == 1 else 8)
    found = motion(artefact, rows=count, frames=frames, seed=seed)
    return Motion(
        found.states,
        found.captions,
        bounds=pixel_bounds(artefact.schema),
        layered=artefact.flow.ode is None,
        note=_NOTE if found.rescheduled else "",
    )


def _points(artefact: Artefact, real: Table, seed: int, beside: int) -> Motion | None:
    chosen = shown_coordinates(artefact, real, MOST_COLUMNS if beside == 1 else MOST_BESIDE)
    if chosen is None:
        return None
    columns = chosen.places
    most = MOST_ROWS if beside == 1 else MOST_ROWS // 2
    frames = None if beside == 1 or artefact.flow.ode is None else PICTURE_FRAMES
    rows = int(np.clip(NUMBERS // ((frames or FRAMES) * len(columns) * beside), FEWEST_ROWS, most))
    found = motion(artefact, rows=rows, frames=frames, seed=seed)
    shift = np.array([_shift(artefact, i) for i in columns])
    states = chosen.of(found.states)
    field: PlaneField | str = ""
    if artefact.flow.ode is None:
        field = "a flow of layers has no velocity"
    elif len(artefact.codec.coordinates) > 2:
        field = "the page evaluates velocities in the plane only"
    elif artefact.condition is not None:
        field = "the model is conditional"
    elif beside == 1:
        field = page_field(visible(artefact.flow), states, shift)
    return Motion(
        states,
        found.captions,
        chosen.names,
        chosen.pair,
        shown_rows(artefact, real, chosen, rows, seed),
        layered=artefact.flow.ode is None,
        field=None if isinstance(field, str) else field,
        why_stored=field if isinstance(field, str) else "",
        note=_NOTE if found.rescheduled else "",
    )


@dataclass(frozen=True)
class ShownCoordinates:
    """Coordinates of a model that are drawn.

    Attributes:
        places: Of the coordinates.
        names: Of each, as it is written beside an axis.
        centre: From a coordinate on its column's scale to where it is drawn: a level is in the middle of its cell.
        pair: The two of them that say most.
    """

    places: tuple[int, ...]
    names: tuple[str, ...]
    centre: np.ndarray
    pair: tuple[int, int]

    def of(self, states: np.ndarray) -> np.ndarray:
        """``(frames, rows, *event)`` on the scale of the columns to ``(frames, rows, shown)``."""
        return states.reshape(*states.shape[:2], -1)[..., list(self.places)] + self.centre


def shown_coordinates(artefact: Artefact, real: Table | None, most: int) -> ShownCoordinates | None:
    """The columns of numbers, the two that say most among them; categories by their place where numbers are few.

    None where there are no two to draw against one another.
    """
    coordinates = artefact.codec.coordinates
    values = [i for i, c in enumerate(coordinates) if c.role == "value"]
    numeric = [i for i in values if _is_number(artefact, i)]
    chosen = numeric if len(numeric) > 1 else values
    if len(chosen) > most:
        pair = {chosen[place] for place in _pair(tuple(coordinates[i].name for i in chosen), real)}
        others = [i for i in chosen if i not in pair][: most - len(pair)]
        chosen = sorted([*pair, *others])
    if len(chosen) < 2:
        return None
    return ShownCoordinates(
        tuple(chosen),
        tuple(_name(artefact, i) for i in chosen),
        np.array([_centre(artefact, i) for i in chosen]),
        _pair(tuple(coordinates[i].name for i in chosen), real),
    )


def _is_number(artefact: Artefact, coordinate: int) -> bool:
    return artefact.schema.columns[artefact.codec.coordinates[coordinate].column].kind in ("continuous", "integer")


def _name(artefact: Artefact, coordinate: int) -> str:
    name = artefact.codec.coordinates[coordinate].name
    return name if _is_number(artefact, coordinate) else f"{name} (place of the category)"


def _shift(artefact: Artefact, coordinate: int) -> float:
    """From a coordinate to the column's own number."""
    return artefact.codec.codes[artefact.codec.coordinates[coordinate].column].offset + _centre(artefact, coordinate)


def _centre(artefact: Artefact, coordinate: int) -> float:
    """The same for a coordinate on its column's scale: a level is in the middle of its cell."""
    place = artefact.codec.coordinates[coordinate].column
    column, code = artefact.schema.columns[place], artefact.codec.codes[place]
    if code.form == "levels":
        return (column.minimum or 0.0) - 0.5 if column.kind == "integer" else -0.5
    return -0.5 if code.form == "whole" else 0.0


def _pair(names: tuple[str, ...], real: Table | None) -> tuple[int, int]:
    """Places of the two columns that depend most on one another, else the first two."""
    found = pair_to_draw(real) if len(names) > 2 and real is not None else None
    if found is None or not set(found) <= set(names):
        return 0, 1
    return names.index(found[0]), names.index(found[1])


def shown_rows(artefact: Artefact, real: Table, chosen: ShownCoordinates, rows: int, seed: int) -> np.ndarray | None:
    """Real rows where they are drawn, ``(rows, shown)``; None where they cannot be."""
    try:
        return real_points(artefact, real, chosen.places, rows=rows, seed=seed) + chosen.centre
    except AdvectError:
        return None


def pixel_bounds(schema: Schema) -> tuple[float, float] | None:
    """The values shown as black and white: the smallest and largest pixel that training saw."""
    lows = [c.minimum for c in schema.columns if c.minimum is not None]
    highs = [c.maximum for c in schema.columns if c.maximum is not None]
    return (min(lows), max(highs)) if schema.image and lows and highs else None
