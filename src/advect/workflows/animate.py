"""`animate`: a run as a picture that moves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advect.data import take_rows
from advect.errors import AdvectError, ConfigError
from advect.files import check_writable, files_like
from advect.report.animation import ffmpeg, picture_frames, point_frames, write_gif, write_mp4
from advect.run import Artefact
from advect.workflows.again import find_data
from advect.workflows.motion import chosen_columns, motion, real_points
from advect.workflows.open import open_run
from advect.workflows.shown_motion import pixel_bounds

ENDINGS = (".gif", ".mp4")
NAME = "animation.gif"


@dataclass(frozen=True)
class AnimateRequest:
    """An animation as it was asked for.

    Attributes:
        run: The run folder.
        out: ``.gif`` or ``.mp4``; by default ``animation.gif`` in the run folder, with an ``.mp4`` beside it where
            ffmpeg is found.
        rows: Points, or pictures of the grid; by default 1500 and 32.
        frames: States shown.
        seconds: From source to data.
        columns: The two columns of a table; by default the first two.
        condition: As in `generate`.
        seed: Of the draw.
    """

    run: Path
    out: Path | None = None
    rows: int | None = None
    frames: int = 60
    seconds: float = 4.0
    columns: tuple[str, ...] = ()
    condition: Any = None
    seed: int = 0


def animate(request: AnimateRequest) -> dict[str, Path]:
    """Draw rows, follow them, and write the files.

    Raises:
        AdvectError: No finished run, a model that is no flow, an ending that cannot be written.
    """
    artefact = open_run(request.run)
    out = request.out if request.out is not None else request.run / NAME
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(
            f"animations cannot be written to {files_like(out)}",
            where="--out",
            remedy=f"Use one of {', '.join(ENDINGS)}.",
        )
    if not request.seconds > 0:
        raise ConfigError(f"an animation of {request.seconds:g} seconds", where="--seconds", remedy="Give more than 0.")
    check_writable(out)
    frames = _pictures(artefact, request) if artefact.schema.image else _points(artefact, request)
    if out.suffix.lower() == ".mp4":
        return {"mp4": write_mp4(frames, out, seconds=request.seconds)}
    files = {"gif": write_gif(frames, out, seconds=request.seconds)}
    if request.out is None and ffmpeg() is not None:
        files["mp4"] = write_mp4(frames, out.with_suffix(".mp4"), seconds=request.seconds)
    return files


def _pictures(artefact: Artefact, request: AnimateRequest) -> list:
    if request.columns:
        raise ConfigError("pictures have no columns to choose", where="--columns", remedy="Leave it out.")
    found = motion(
        artefact, rows=request.rows or 32, frames=request.frames, condition=request.condition, seed=request.seed
    )
    return picture_frames(found.states, pixel_bounds(artefact.schema))


def _points(artefact: Artefact, request: AnimateRequest) -> list:
    names = tuple(c.name for c in artefact.codec.coordinates)
    columns = chosen_columns(names, request.columns)
    rows = request.rows or 1500
    found = motion(artefact, rows=rows, frames=request.frames, condition=request.condition, seed=request.seed)
    states = found.states.reshape(*found.states.shape[:2], -1)[:, :, list(columns)]
    real = _real(artefact, columns, rows, request.seed)
    shown = [names[column] for column in columns]
    if len(columns) == 1:  # a single column is spread over the height, so that it can be seen
        height = np.random.default_rng(request.seed)
        states = _spread(states, height.random(states.shape[1]))
        real = None if real is None else _spread(real, height.random(len(real)))
        shown = [*shown, ""]
    schedule = " on the linear schedule" if found.rescheduled else ""
    return point_frames(states, [caption + schedule for caption in found.captions], (shown[0], shown[1]), real)


def _spread(values: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """A second coordinate beside the only one."""
    return np.concatenate([values, np.broadcast_to(heights[:, None], (*values.shape[:-1], 1))], -1)


def _real(artefact: Artefact, columns: tuple[int, ...], rows: int, seed: int) -> np.ndarray | None:
    """Held-out rows to stand behind, where the run's data can be found."""
    try:
        table, split = find_data(artefact)
        held_out = split.test if len(split.test) else split.train
        return real_points(artefact, take_rows(table, held_out[:rows]), columns, rows=rows, seed=seed)
    except AdvectError:
        return None
