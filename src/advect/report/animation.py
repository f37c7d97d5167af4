"""Pictures that move: a cloud becoming the data, or noise becoming pictures, as a GIF and, where ffmpeg is, an MP4."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advect.errors import ShapeError, UnsupportedError
from advect.files import WriteError, atomic_path
from advect.report.images import grid_image
from advect.report.ink import FAINT, INK, REAL, SAMPLES, house_style, label, new_figure
from advect.report.values import LIKE, frame

if TYPE_CHECKING:
    import PIL.Image

DPI = 100
SIDE = 5.0  # inches
HOLD_FIRST, HOLD_LAST = 0.6, 1.6  # seconds that the two ends are shown


@house_style()
def point_frames(
    states: np.ndarray,
    captions: Sequence[str],
    names: tuple[str, str] = ("x0", "x1"),
    real: np.ndarray | None = None,
) -> "list[PIL.Image.Image]":
    """One picture per state of a cloud in the plane, all in one frame, real rows faint behind.

    Args:
        states: ``(frames, rows, 2)``; points that are not finite are left out.
        captions: A word per frame.
        names: Of the two axes.
        real: ``(rows, 2)`` or None.

    Raises:
        ShapeError: States of another shape.
    """
    from PIL import Image

    if states.ndim != 3 or states.shape[2] != 2 or len(captions) != len(states):
        raise ShapeError(f"states have shape {states.shape}, expected (frames, rows, 2) and a caption for each frame")
    figure = new_figure(SIDE, SIDE)
    axes = figure.add_subplot()
    seen = frame(np.concatenate([states[0], states[-1], *([] if real is None else [real])]))
    axes.set(
        xlim=(seen.low[0], seen.high[0]),
        ylim=(seen.low[1], seen.high[1]),
        xlabel=label(names[0]),
        ylabel=label(names[1]),
    )
    if 1 / LIKE < float(np.ptp(axes.get_xlim()) / np.ptp(axes.get_ylim())) < LIKE:
        axes.set_aspect("equal")  # columns of like size are a plane, whose shapes should not be stretched
    size = float(np.clip(9000 / max(states.shape[1], 1), 2.0, 22.0))
    if real is not None:
        axes.scatter(real[:, 0], real[:, 1], s=size, c=REAL, alpha=0.18, linewidths=0)
    cloud = axes.scatter(states[0, :, 0], states[0, :, 1], s=size, c=SAMPLES, alpha=0.75, linewidths=0)
    words = axes.set_title(captions[0], color=INK)
    done = axes.plot([0, 0], [1.0, 1.0], transform=axes.transAxes, color=FAINT, linewidth=3, clip_on=False)[0]
    frames = []
    for i, (state, caption) in enumerate(zip(states, captions, strict=True)):
        cloud.set_offsets(np.where(np.isfinite(state), state, np.nan))
        words.set_text(caption)
        done.set_xdata([0, i / max(len(states) - 1, 1)])
        figure.set_dpi(DPI)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
        frames.append(Image.fromarray(pixels[..., :3].copy()))
    return frames


def picture_frames(
    states: np.ndarray, bounds: tuple[float, float] | None, *, columns: int = 8
) -> "list[PIL.Image.Image]":
    """One grid per state of some pictures ``(frames, rows, channels, height, width)``."""
    if states.ndim != 5:
        raise ShapeError(f"states have shape {states.shape}, expected (frames, rows, channels, height, width)")
    return [grid_image(state, columns=columns, bounds=bounds) for state in states]


def write_gif(frames: "Sequence[PIL.Image.Image]", path: Path, *, seconds: float) -> Path:
    """Frames as an endless GIF of ``seconds``, its ends held a little; whole or not at all.

    Raises:
        WriteError: The file cannot be written.
    """
    from PIL import Image

    each = 1000 * seconds / max(len(frames) - 1, 1)
    times = [max(20, round(each))] * len(frames)  # viewers slow down what is faster than 20 ms
    times[0], times[-1] = round(1000 * HOLD_FIRST), round(1000 * HOLD_LAST)
    palette = frames[-1].quantize(colors=128)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with atomic_path(path) as temporary:
        small[0].save(
            temporary, format="GIF", save_all=True, append_images=small[1:], duration=times, loop=0, optimize=True
        )
    return path


def ffmpeg() -> str | None:
    """Where ffmpeg is, or None."""
    return shutil.which("ffmpeg")


def write_mp4(frames: "Sequence[PIL.Image.Image]", path: Path, *, seconds: float) -> Path:
    """The same as an MP4 by ffmpeg.

    Raises:
        UnsupportedError: There is no ffmpeg.
        WriteError: It failed.
    """
    program = ffmpeg()
    if program is None:
        raise UnsupportedError(
            "there is no ffmpeg to write an MP4", where=str(path), remedy="Install it, or write a .gif."
        )
    rate = max(1.0, (len(frames) - 1) / seconds)
    shown = [frames[0]] * round(HOLD_FIRST * rate) + list(frames) + [frames[-1]] * round(HOLD_LAST * rate)
    width, height = (size - size % 2 for size in frames[0].size)  # the common pixel format wants even sizes
    command = [
        *(program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-r", f"{rate:g}", "-i", "-", "-an", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"),
    ]
    content = b"".join(frame.convert("RGB").crop((0, 0, width, height)).tobytes() for frame in shown)
    with atomic_path(path, suffix=".mp4") as temporary:
        done = subprocess.run([*command, str(temporary)], input=content, capture_output=True, check=False)
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            raise WriteError(f"ffmpeg failed: {words[-1] if words else done.returncode}", where=str(path))
    return path
