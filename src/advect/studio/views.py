"""What the network says on the way, as a record for the page's script: in the plane of two columns, or as pictures."""

from dataclasses import replace
from typing import Any

import numpy as np

from advect.errors import ShapeError
from advect.report.images import pictures
from advect.report.ink import clean
from advect.report.packing import quantised, text64
from advect.report.values import frame
from advect.run import Artefact
from advect.studio.bench import Bench
from advect.studio.wish import Wish
from advect.workflows.motion import motion, time_caption
from advect.workflows.predictions import PLACES, VIEWS, Predictions, predictions
from advect.workflows.shown_motion import ShownCoordinates, shown_coordinates, shown_rows
from advect.workflows.snapshots import timeline_of

FRAMES, PICTURE_FRAMES = 41, 21
ROWS, MANY_COLUMNS_ROWS, FEWEST_ROWS = 300, 150, 20
NUMBERS = 2_000_000  # of all times and coordinates, held at once for each view
MOST_COLUMNS = 8
GRID = 17  # points along each side
_LINEAR_NOTE = (
    "The model's own schedule starts from noise far wider than the data; the way and its times are those of the linear "
    "schedule, which has the same ends."
)


def views_of(bench: Bench, wish: Wish) -> dict[str, Any]:
    """The record; ``{"kind": "none", "why": …}`` where there is nothing to look at.

    Raises:
        AdvectError: The condition or the guidance cannot be used.
    """
    artefact = bench.artefact
    if artefact.flow.ode is None:
        return {"kind": "none", "why": _no_network(artefact)}
    return _pictures(bench, wish) if artefact.schema.image else _points(bench, wish)


def _no_network(artefact: Artefact) -> str:
    method = artefact.config["method"]
    if getattr(artefact.flow.map, "likelihood", "exact") != "exact":
        return f"{method} draws its rows in one jump: there is no way from source to data on which it could be asked."
    return (
        f"{method} is made of layers: there is no velocity, hence no noise, score or x1 that it would predict. "
        "The report shows its rows layer by layer."
    )


def _points(bench: Bench, wish: Wish) -> dict[str, Any]:
    artefact = bench.artefact
    held_out = bench.real_rows(replace(wish, at=()))  # the way ends at the last time
    chosen = shown_coordinates(artefact, bench.held_out, MOST_COLUMNS)
    if chosen is None:
        return {"kind": "none", "why": "There are no two columns to draw the way in."}
    plane = len(artefact.codec.coordinates) == len(chosen.places) == 2
    affordable = NUMBERS // (FRAMES * len(artefact.codec.coordinates))
    rows = ROWS if plane else min(max(affordable, FEWEST_ROWS), MANY_COLUMNS_ROWS)
    how: dict[str, Any] = {"condition": wish.condition, "seed": wish.seed}
    real = None if held_out is None else shown_rows(artefact, held_out, chosen, rows, wish.seed)
    ends = chosen.of(motion(artefact, rows=rows, frames=2, **how).states)
    ends = frame(np.concatenate([*ends, *([] if real is None else [real])]))
    # Under a condition that differs from row to row the field at a point is not one.
    one_field = plane and (artefact.condition is None or wish.condition is not None)
    grid = _grid(ends.low - chosen.centre, ends.high - chosen.centre) if one_field else None
    found = predictions(artefact, rows=rows, frames=FRAMES, grid=grid, guidance=wish.guidance, **how)
    low, high = ends.low, ends.high
    return {
        "kind": "points",
        "names": [clean(name) for name in chosen.names],
        "pair": chosen.pair,
        "low": low.tolist(),
        "high": high.tolist(),
        "real": None if real is None else text64(quantised(real, low, high)),
        "rows": rows,
        "captions": _captions(artefact, found),
        "states": text64(quantised(chosen.of(found.states), low, high)),
        "points": text64(quantised(chosen.of(found.points), low, high)),
        "grid": grid is not None,
        **_said(found, chosen, low, high),
    }


def _said(found: Predictions, chosen: ShownCoordinates, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Every view as text: places over the frame, directions as they are."""
    said = {}
    for view, values in found.says.items():
        if view in PLACES:
            said[view] = text64(quantised(chosen.of(values), low, high))
        else:
            flat = values.reshape(*values.shape[:2], -1)[..., list(chosen.places)]
            said[view] = text64(flat.astype(np.float32))
    return {"says": said, "missing": dict(found.missing), "note": _LINEAR_NOTE if found.rescheduled else ""}


def _captions(artefact: Artefact, found: Predictions) -> list[str]:
    timeline = timeline_of(artefact)
    return [clean(time_caption(timeline, float(time))) for time in found.times]


def _grid(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """``(GRID², 2)`` points in the middle of even cells of the frame."""
    shares = (np.arange(GRID) + 0.5) / GRID
    x, y = (low[i] + shares * (high[i] - low[i]) for i in (0, 1))
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def _pictures(bench: Bench, wish: Wish) -> dict[str, Any]:
    artefact = bench.artefact
    count = bench.affordable(PICTURE_FRAMES)
    how: dict[str, Any] = {"condition": wish.condition, "guidance": wish.guidance, "seed": wish.seed}
    found = predictions(artefact, rows=count, frames=PICTURE_FRAMES, **how)
    bounds = bench.grey(found.states[-1])
    try:
        shown = _bytes(found.states, bounds)
    except ShapeError as error:  # pixels in a shape no picture has
        return {"kind": "none", "why": error.message}
    says = {}
    for view in VIEWS:
        if view in found.says:
            values = found.says[view]
            grey = {"x1": lambda _: bounds, "noise": _spread}.get(view, _even)
            says[view] = text64(_bytes(values, grey(values)))
    return {
        "kind": "pictures",
        "height": shown.shape[2],
        "width": shown.shape[3],
        "channels": shown.shape[4],
        "rows": count,
        "captions": _captions(artefact, found),
        "states": text64(shown),
        "says": says,
        "missing": dict(found.missing),
        "note": _LINEAR_NOTE if found.rescheduled else "",
    }


def _bytes(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """``(frames, rows, *event)`` as bytes ``(frames, rows, height, width, 1 or 3)``."""
    flat = pictures(values.reshape(-1, *values.shape[2:]), bounds)
    channels = 3 if 3 in (values.shape[2], values.shape[-1]) and values.ndim == 5 else 1
    return np.ascontiguousarray(flat[..., :channels].reshape(*values.shape[:2], *flat.shape[1:3], channels))


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Black and white that hold nearly all of what is finite."""
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, (0.01, 0.99)) if finite.size else (0.0, 1.0)
    return (float(low), float(high)) if low < high else (float(low), float(low) + 1.0)


def _even(values: np.ndarray) -> tuple[float, float]:
    """Black and white on either side of nothing in grey, so that nearly all of it is seen."""
    finite = np.abs(values[np.isfinite(values)])
    size = float(np.quantile(finite, 0.98)) if finite.size else 1.0
    return (-size, size) if size > 0 else (-1.0, 1.0)
