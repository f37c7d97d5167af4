"""A picture as a density in the plane: dark is dense.

The density is constant inside each pixel and proportional to its darkness (0 for white, 1 for black; transparency lies
on white). Points are drawn from it, the same ones each time, with the longer side from −1 to 1 and y upwards. So the
rows of ``cat.png`` are a cloud in the shape of a cat.
"""

from pathlib import Path

import numpy as np

from advect.data.folders import ENDINGS, MOST_PIXELS
from advect.decoding import decoded
from advect.errors import DataError
from advect.records import Table

POINTS = 20_000
_SIDE = 512  # pixels of the longer side that are kept: finer than a cloud of that many points can show
_FAINT = 1 / 255  # darkness below which a pixel counts as paper


def require_picture(data: str) -> None:
    """Refuse what is no picture, by its ending.

    Raises:
        DataError: It is something else.
    """
    if not data.lower().endswith(ENDINGS):
        raise DataError(
            "only a picture can be taken for a density",
            where=f"--as-density {data}",
            remedy=f"Give one ending in {' '.join(ENDINGS)}, or leave --as-density out.",
        )


def read_silhouette(path: Path, *, points: int = POINTS, seed: int = 0) -> Table:
    """Points in the plane with the darkness of a picture for their density.

    Args:
        path: The picture.
        points: How many.
        seed: Of the draw.

    Raises:
        DataError: A picture that cannot be read, or one without anything dark in it.
    """
    answer = decoded("picture", path, side=_SIDE, most_pixels=MOST_PIXELS)
    if "grey" not in answer.meaning:
        raise DataError(
            "the picture cannot be read",
            where=str(path),
            remedy=f"It is damaged, or larger than {MOST_PIXELS >> 20} million pixels; save it again.",
        )
    darkness = 1 - np.atleast_2d(answer.array(answer.meaning["grey"]).astype(np.float64)) / 255
    darkness[darkness < _FAINT] = 0
    if not darkness.any():
        raise DataError("the picture is all white", where=str(path), remedy="What is dark becomes the density.")
    random = np.random.default_rng(seed)
    cells = random.choice(darkness.size, size=points, p=darkness.ravel() / darkness.sum())
    height, width = darkness.shape
    row, column = np.divmod(cells, width)
    place = np.stack([column, height - 1 - row], 1) + random.random((points, 2))
    plane = (2 * place - [width, height]) / max(width, height)
    return Table(
        names=("x", "y"),
        columns=(plane[:, 0], plane[:, 1]),
        container="csv",
        event_shape=(2,),
        dtypes=("float64", "float64"),
        origin=str(path),
        notes=(f"{points} points were drawn with the darkness of the picture for their density",),
    )
