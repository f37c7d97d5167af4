"""Pictures of pictures: samples laid out in a grid, beside real ones or alone.

Small pictures are enlarged by whole factors without smoothing, so that each pixel stays a square and can be read back.
Values are brought from the data's own range (0..16 for scikit-learn's digits) to 0..255 by

    byte = round(255 (value - low) / (high - low)),

which is one-to-one for whole numbers when high - low <= 255.
"""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advect.errors import ConfigError, ShapeError
from advect.files import atomic_folder, write_bytes
from advect.records import Table

if TYPE_CHECKING:
    import PIL.Image

GAP = 0.12  # of a picture's side, between two of them
PAPER, GROUND, TEXT, BROKEN = (255, 255, 255), (226, 229, 234), (29, 36, 51), (213, 94, 0)
# A grid is about this wide in pixels, so that 8×8 digits and 64×64 faces are both worth looking at.
_TARGET_WIDTH = 640
MOST_CLASSES = 1000
GRID_KEY = "advect-grid"
NEAREST_COLUMNS = 10


def pictures(source: Table | np.ndarray, bounds: tuple[float, float] | None = None) -> np.ndarray:
    """Rows as bytes ``(n, height, width, 3)``; a picture with any non-finite pixel becomes plain orange.

    Args:
        source: A table of pictures, or an array ``(n, height, width)``, ``(n, channels, height, width)`` or
            ``(n, height, width, channels)`` with 1 or 3 channels.
        bounds: The values shown as black and as white; see `natural_bounds` for the default.

    Raises:
        ShapeError: If a row is not a picture.
        ConfigError: If the bounds are not in order.
    """
    values = _channels_last(_array(source))
    low, high = natural_bounds(source) if bounds is None else bounds
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ConfigError(
            f"black {low} and white {high} are no range of brightness",
            where="bounds",
            remedy="Give two finite numbers, the smaller first.",
        )
    broken = ~np.isfinite(values).all((1, 2, 3))
    scaled = (np.nan_to_num(values, posinf=high, neginf=low).clip(low, high) - low) / (high - low)
    shown = np.rint(255 * scaled).astype(np.uint8)
    shown = np.broadcast_to(shown, (*shown.shape[:3], 3)).copy()
    shown[broken] = BROKEN
    return shown


def natural_bounds(source: Table | np.ndarray) -> tuple[float, float]:
    """Black and white of a set of pictures: 0..255 for bytes, 0..1 for numbers within it, else their range."""
    values = _array(source)
    byte = source.dtype == np.uint8 if isinstance(source, np.ndarray) else set(source.dtypes) == {"uint8"}
    finite = values[np.isfinite(values)]
    if byte:
        return 0.0, 255.0
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    whole = bool((finite == np.round(finite)).all())
    if low >= 0 and high <= 1 and not whole:
        return 0.0, 1.0
    low = min(low, 0.0) if low >= 0 else low
    return (low, high) if low < high else (low, low + 1.0)


def _array(source: Table | np.ndarray) -> np.ndarray:
    """Rows ``(n, *event)`` in float64."""
    if isinstance(source, np.ndarray):
        return source.astype(np.float64)
    rows = [np.asarray(c, dtype=np.float64) for c in source.columns]
    flat = np.stack(rows, 1) if rows else np.zeros((0, 0))
    return flat.reshape(source.num_rows, *source.event_shape)


def _channels_last(values: np.ndarray) -> np.ndarray:
    """``(n, height, width, 1 or 3)``."""
    if values.ndim == 3:
        return values[..., None]
    if values.ndim == 4 and values.shape[1] in (1, 3):
        return values.transpose(0, 2, 3, 1)
    if values.ndim == 4 and values.shape[3] in (1, 3):
        return values
    raise ShapeError(
        f"rows of shape {values.shape[1:]} are not pictures",
        remedy="Give (height, width), (1, height, width) or (3, height, width) per row.",
    )


def _enlarged(shown: np.ndarray, factor: int) -> np.ndarray:
    return shown.repeat(factor, 1).repeat(factor, 2)


def _factor(height: int, width: int, columns: int) -> int:
    """The whole number of times a picture is enlarged: 1 for big ones, at most 16."""
    return int(np.clip(_TARGET_WIDTH // max(columns * max(height, width), 1), 1, 16))


def _tile(shown: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Lay ``(n, h, w, 3)`` out row by row on the ground, with ``gap`` pixels around each."""
    count, height, width, _ = shown.shape
    down = -(-count // columns)
    canvas = np.empty((gap + down * (height + gap), gap + columns * (width + gap), 3), np.uint8)
    canvas[:] = GROUND
    for i, picture in enumerate(shown):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def _require_columns(columns: int) -> None:
    if columns < 1:
        raise ConfigError(f"a grid of {columns} columns", where="columns", remedy="Give a whole number of at least 1.")


def grid_image(
    source: Table | np.ndarray,
    *,
    columns: int = 8,
    bounds: tuple[float, float] | None = None,
    limit: int | None = None,
) -> "PIL.Image.Image":
    """One grid of the first ``limit`` pictures as an RGB image; a blank strip where there are none."""
    from PIL import Image

    _require_columns(columns)
    shown = pictures(source, bounds)[:limit]
    if not len(shown):
        return Image.new("RGB", (240, 24), GROUND)
    columns = min(columns, len(shown))
    height, width = shown.shape[1:3]
    factor = _factor(height, width, columns)
    gap = max(1, round(GAP * max(height, width) * factor))
    return Image.fromarray(_tile(_enlarged(shown, factor), columns, gap))


def over_nearest(samples: Table | np.ndarray, nearest: np.ndarray, *, rows: int = 3) -> np.ndarray:
    """Rows of samples, each over a row of the pictures nearest to them, for a grid of `NEAREST_COLUMNS`.

    Args:
        samples: Pictures; the first are shown, as many as fill whole rows where there are enough.
        nearest: One picture ``(channels, height, width)`` for each.
        rows: At most so many rows of samples.
    """
    own, other = _channels_last(_array(samples)), _channels_last(_array(nearest))
    most = min(len(own), len(other), rows * NEAREST_COLUMNS)
    parts = []
    for first in range(0, most, NEAREST_COLUMNS):
        pair = [values[first : min(first + NEAREST_COLUMNS, most)] for values in (own, other)]
        short = NEAREST_COLUMNS - len(pair[0])
        blank = (
            np.full((short, *own.shape[1:]), float(np.nanmin(own)))
            if short and first + NEAREST_COLUMNS > most
            else None
        )
        parts += pair if blank is None else [np.concatenate([pair[0], blank]), pair[1]]
    return np.concatenate(parts)


def png_bytes(image: "PIL.Image.Image", texts: dict[str, str] | None = None) -> bytes:
    """An image as PNG, with texts in its header."""
    from PIL.PngImagePlugin import PngInfo

    header = PngInfo()
    for key, text in (texts or {}).items():
        header.add_text(key, text)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, pnginfo=header)
    return buffer.getvalue()


def picture_grid(
    source: Table | np.ndarray,
    path: Path | str,
    *,
    columns: int = 8,
    beside: Table | np.ndarray | None = None,
    bounds: tuple[float, float] | None = None,
    limit: int = 64,
    captions: tuple[str, str] = ("samples", "real rows"),
) -> Path:
    """Write a picture of sample pictures, with real ones to their left when given, each under its caption.

    Args:
        source: The samples, see `pictures`.
        path: The PNG to write, whole or not at all.
        columns: Pictures per row of each grid.
        beside: Real pictures.
        bounds: Values shown as black and white; by default those natural for ``beside``, else for ``source``.
        limit: At most this many of each.
        captions: The words above the samples and above the real ones.

    Raises:
        ShapeError: If the rows are not pictures.
        WriteError: If the file cannot be written.
    """
    if bounds is None:
        bounds = natural_bounds(source if beside is None else beside)
    parts = [(source, captions[0])] if beside is None else [(beside, captions[1]), (source, captions[0])]
    grids = [(grid_image(part, columns=columns, bounds=bounds, limit=limit), caption) for part, caption in parts]
    return write_bytes(path, png_bytes(_side_by_side(grids)))


def write_pictures(table: Table, folder: Path | str, *, bounds: tuple[float, float] | None = None) -> Path:
    """Write pictures one by one, as ``00000.png`` and on, into a new folder that appears whole or not at all.

    Where the table has one side column of few values, as a class condition leaves it, each value is a sub-folder: the
    folder can be read back with its labels.

    Args:
        table: Pictures.
        folder: New or empty.
        bounds: The values written as 0 and as 255; by default those natural for the table.

    Raises:
        ShapeError: If the rows are not pictures.
        WriteError: If the folder cannot be written, or holds something.
    """
    from PIL import Image

    grey = table.event_shape[0] == 1
    shown = pictures(table, bounds)
    labels = _class_folders(table)
    with atomic_folder(folder) as temporary:
        for i, pixels in enumerate(shown):
            place = temporary / labels[i] if labels else temporary
            place.mkdir(exist_ok=True)
            Image.fromarray(pixels[..., 0] if grey else pixels).save(place / f"{i:05d}.png")
    return Path(folder)


def _class_folders(table: Table) -> list[str]:
    """A name of a folder for each row, made of letters, digits and dashes alone; empty where rows have no one class."""
    if len(table.sides) != 1:
        return []
    (values,) = table.sides.values()
    if values.ndim != 1 or len(set(values.tolist())) > MOST_CLASSES:
        return []
    plain = {value: "".join(c if c.isalnum() else "-" for c in str(value))[:64] or "-" for value in values.tolist()}
    if len(set(plain.values())) < len(plain):  # two classes would share a folder
        plain = {value: f"{name}-{i}" for i, (value, name) in enumerate(plain.items())}
    return [plain[value] for value in values.tolist()]


def _side_by_side(grids: "list[tuple[PIL.Image.Image, str]]") -> "PIL.Image.Image":
    from PIL import Image, ImageDraw, ImageFont

    margin, line = 16, 26
    font = ImageFont.load_default(size=17)
    width = sum(image.width for image, _ in grids) + margin * (len(grids) + 1)
    height = max(image.height for image, _ in grids) + line + 2 * margin
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, left = ImageDraw.Draw(sheet), margin
    for image, caption in grids:
        pen.text((left, margin - 4), caption, fill=TEXT, font=font)
        sheet.paste(image, (left, margin + line))
        left += image.width + margin
    return sheet


def write_png_grid(
    source: Table | np.ndarray,
    path: Path | str,
    *,
    columns: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> Path:
    """Write every picture into one PNG that can be read back as data.

    The text chunk ``advect-grid`` of the PNG holds JSON: ``count``, ``columns``, ``height``, ``width``, ``channels``,
    ``low``, ``high``, and the geometry ``factor`` and ``gap``. Picture i stands in row i // columns, column
    i % columns; its pixel (r, c) is the byte at (gap + row (height·factor + gap) + r·factor, likewise for the column).

    Raises:
        ShapeError: If the rows are not pictures, or there are none.
        WriteError: If the file cannot be written.
    """
    from PIL import Image

    values = _channels_last(_array(source))
    if not len(values):
        raise ShapeError("there are no pictures to write", remedy="Ask for at least one sample.")
    count, height, width, channels = values.shape
    columns = int(np.ceil(np.sqrt(count))) if columns is None else columns
    _require_columns(columns)
    low, high = natural_bounds(source) if bounds is None else bounds
    # Many pictures are not enlarged: the file is then data more than something to look at.
    factor = _factor(height, width, columns) if count <= 400 else 1
    gap = max(1, round(GAP * max(height, width) * factor))
    card = {"count": count, "columns": columns, "height": height, "width": width, "channels": channels}
    card |= {"low": float(low), "high": float(high), "factor": factor, "gap": gap}
    canvas = _tile(_enlarged(pictures(source, (low, high)), factor), columns, gap)
    return write_bytes(path, png_bytes(Image.fromarray(canvas), {GRID_KEY: json.dumps(card)}))
