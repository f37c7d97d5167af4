"""The data sets that are asked for by name: our own distributions, and the real ones that scikit-learn ships.

A distribution reads as 10,000 rows drawn with a fixed seed (`toys.DATA_SEED`), so that a name means the same rows
everywhere; ``moons`` and ``8gaussians`` bring the arc or mode of each row as the side column ``label``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from advect.data.arrays import from_array
from advect.data.toys import DATA_ROWS, DATA_SEED, TOYS
from advect.errors import missing_extra, unknown_name
from advect.records import Table

LABELLED_TOYS = ("moons", "8gaussians")


@dataclass(frozen=True)
class Builtin:
    """A data set with a name.

    Attributes:
        title: What it is, in a few words.
        rows: Number of rows.
        columns: Number of columns (pixels of a picture).
        load: Makes the table.
    """

    title: str
    rows: int
    columns: int
    load: Callable[[], Table]


def read_builtin(name: str) -> Table:
    """Read a built-in data set.

    Raises:
        UnknownNameError: No file or built-in data set is called so.
        MissingExtraError: It is one of scikit-learn's, which is not installed.
    """
    if name not in BUILTINS:
        raise unknown_name("file or built-in data set", name, BUILTINS)
    return BUILTINS[name].load()


def _toy(name: str) -> Table:
    drawn = TOYS[name].draw(DATA_ROWS, torch.Generator().manual_seed(DATA_SEED))
    sides = {}
    if name in LABELLED_TOYS and drawn.label is not None:
        sides["label"] = drawn.label.numpy()
    return from_array(drawn.x.numpy(), origin=name, sides=sides)


def _bundle(name: str) -> Any:
    """One of scikit-learn's small data sets; nothing is fetched."""
    try:
        from sklearn import datasets
    except ImportError:
        raise missing_extra("scikit-learn", "sklearn", f"the data set {name!r}") from None
    return getattr(datasets, f"load_{name}")()


def _digits() -> Table:
    """Pictures ``(1, 8, 8)`` of whole pixels 0..16, the digit as ``label``."""
    bundle = _bundle("digits")
    pixels = bundle.images.astype(np.uint8)  # scikit-learn hands out whole numbers as floats
    return from_array(pixels, origin="digits", sides={"label": bundle.target.astype(np.int64)})


def _named(name: str) -> Table:
    """Measurements under their names, the name of the class as ``label``."""
    bundle = _bundle(name)
    label = np.empty(len(bundle.target), dtype=object)
    label[:] = [str(bundle.target_names[t]) for t in bundle.target]
    return from_array(bundle.data, origin=name, names=[str(n) for n in bundle.feature_names], sides={"label": label})


BUILTINS: dict[str, Builtin] = {
    **{name: Builtin(toy.title, DATA_ROWS, 2, partial(_toy, name)) for name, toy in TOYS.items()},
    "digits": Builtin("handwritten digits, 8×8 pixels of 0..16 (scikit-learn)", 1797, 64, _digits),
    "iris": Builtin("sizes of 150 flowers of three species (scikit-learn)", 150, 4, partial(_named, "iris")),
    "wine": Builtin("analyses of wines of three growers (scikit-learn)", 178, 13, partial(_named, "wine")),
    "breast_cancer": Builtin("cell nuclei of 569 tumours (scikit-learn)", 569, 30, partial(_named, "breast_cancer")),
}
"""Name to data set, for `read_table` and the list of the command line."""
