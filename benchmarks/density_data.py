"""The data sets of `benchmarks.density`: read, dequantised, split and standardised alike for every contender.

Numbers were recorded in steps (whole counts, hundredths of a degree); a density of such rows grows without bound as
a model sharpens around the values that occur. To every number uniform noise of its own recording step is added, once
and with a fixed seed (Uria et al. 2013, 1306.0186); the mean log-likelihood is then below the log-probability of the
recorded rows. Rows are standardised by mean and deviation of the training rows, and log-likelihoods are those of the
unscaled rows: log p(x) = log q(z) − Σ log deviation.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from advect.errors import DataError

ENVIRONMENT = "ADVECT_DATA"
SEED = 2015  # of noise, splits and the choice of test rows: the same for every contender and seed of training
NOISE, SPLIT, CHOICE = 0, 1, 2
LEAST_DEVIATION = 1e-12


@dataclass(frozen=True)
class Parts:
    """The rows of a set, ``(rows, columns)`` float64, dequantised, in the units of the likelihood."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class DataSet:
    """A row of the benchmark.

    Attributes:
        title: What it is.
        file: Inside the data folder.
        read: From the file's arrays to the parts.
        units: Of the columns, and what was done to them.
        periodic: Whether every column is an angle in [−π, π).
    """

    title: str
    file: str
    read: Callable[[dict[str, np.ndarray]], Parts]
    units: str
    periodic: bool = False


@dataclass(frozen=True)
class Rows:
    """What a contender is trained and scored on.

    Attributes:
        train: ``(rows, columns)`` float32, standardised.
        validation: Likewise.
        test: Likewise, at most as many as asked for: a fixed choice in a fixed random order.
        every_test: All test rows.
        mean: ``(columns,)`` float64 of the training rows.
        deviation: Likewise.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    every_test: Tensor
    mean: Tensor
    deviation: Tensor

    @property
    def log_det(self) -> float:
        """Of the standardisation, in nats: to be added to log-likelihoods of standardised rows."""
        return -float(self.deviation.log().sum())


def stream(number: int) -> Generator:
    """Draws for one purpose."""
    return np.random.default_rng([SEED, number])


def noisy(x: np.ndarray, steps: float | tuple[float, ...]) -> np.ndarray:
    """``x + U[0, step)``, column by column, in float64."""
    x = np.asarray(x, dtype=np.float64)
    return x + np.asarray(steps) * stream(NOISE).random(x.shape)


def in_parts(x: np.ndarray, test: np.ndarray | None = None) -> Parts:
    """Test rows as given, or a tenth of the rows; a ninth of the rest validates."""
    order = stream(SPLIT).permutation(len(x))
    if test is None:
        test = order[: len(x) // 10]
    rest = order[~np.isin(order, test)]
    validation, train = np.split(rest, [len(rest) // 9])
    return Parts(x[train], x[validation], x[test])


def in_groups(x: np.ndarray, groups: np.ndarray) -> Parts:
    """A tenth of the groups tests, a tenth validates: no group is in two parts."""
    names, number = np.unique(groups, return_inverse=True)
    order, tenth = stream(SPLIT).permutation(len(names)), len(names) // 10
    test, validation = np.isin(number, order[:tenth]), np.isin(number, order[tenth : 2 * tenth])
    return Parts(x[~test & ~validation], x[validation], x[test])


def _power_plant(arrays: dict[str, np.ndarray]) -> Parts:
    return in_parts(noisy(arrays["data"], 0.01), arrays["test_index"][0])


# From the decimals that each column was written with.
PROTEIN_STEPS = (0.01, 0.01, 1e-5, 1e-4, 1e-4, 1e-4, 0.01, 1.0, 1e-4, 1e-3)


def _protein(arrays: dict[str, np.ndarray]) -> Parts:
    return in_parts(noisy(arrays["data"], PROTEIN_STEPS), arrays["test_index"][0])


def _usual_rows(arrays: dict[str, np.ndarray]) -> Parts:
    return in_parts(noisy(arrays["X"][arrays["y"] == 0], 1.0))


def _patches(arrays: dict[str, np.ndarray]) -> Parts:
    noise = stream(NOISE)

    def prepared(grey: np.ndarray) -> np.ndarray:
        x = (grey.reshape(len(grey), -1) + noise.random((len(grey), grey[0].size))) / 256
        return (x - x.mean(1, keepdims=True))[:, :-1]

    return Parts(prepared(arrays["train"]), prepared(arrays["val"]), prepared(arrays["test"]))


def _torsions(arrays: dict[str, np.ndarray]) -> Parts:
    degrees = noisy(arrays["angles_deg"], 1e-3)
    return in_groups(np.deg2rad((degrees + 180) % 360 - 180), arrays["pdb_id"])


SETS: dict[str, DataSet] = {
    "power_plant": DataSet(
        "UCI combined-cycle power plant, 5 columns",
        "uci_regression/power_plant.npz",
        _power_plant,
        "columns as published + U[0, 0.01), their recording step; the first of the standard splits",
    ),
    "protein": DataSet(
        "UCI protein tertiary structure, 10 columns",
        "uci_regression/protein_tertiary_structure.npz",
        _protein,
        "columns as published + uniform noise of each column's recording step (1e-5 to 1); the first standard split",
    ),
    "covertype_10d": DataSet(
        "forest cover type, 10 whole-valued columns",
        "covertype_10d/covertype_10d.npz",
        _usual_rows,
        "rows of label 0, whole numbers + U[0, 1)",
    ),
    "shuttle": DataSet(
        "Statlog shuttle, 9 whole-valued columns with outliers beyond 100 deviations",
        "shuttle/shuttle.npz",
        _usual_rows,
        "rows of label 0, whole numbers + U[0, 1)",
    ),
    "bsds300_patches": DataSet(
        "8 × 8 grey patches of BSDS300, redrawn, 63 columns",
        "bsds300_patches/bsds300_patches_8x8.npz",
        _patches,
        "(grey + U[0, 1))/256 minus the patch mean, last pixel dropped",
    ),
    "torsions_lys": DataSet(
        "torsion angles of lysine, Top8000, 6 angles",
        "protein_torsions/top8000_lys.npz",
        _torsions,
        "radians in [−π, π), + U[0, 0.001°); parts share no structure",
        periodic=True,
    ),
}
"""Name to set, in the order of the table."""


def data_folder() -> Path:
    """The folder of larger data sets.

    Raises:
        DataError: The environment does not name one.
    """
    folder = os.environ.get(ENVIRONMENT)
    if not folder or not Path(folder).is_dir():
        raise DataError(
            "no folder of data sets", where=ENVIRONMENT, remedy=f"Set {ENVIRONMENT} to the folder that holds them."
        )
    return Path(folder)


def read_arrays(file: str) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` of the data folder.

    Raises:
        DataError: It is not there.
    """
    path = data_folder() / file
    if not path.exists():
        raise DataError("this file is not in the folder of data sets", where=file)
    with np.load(path) as arrays:  # refuses pickled objects by default
        return {name: arrays[name] for name in arrays.files}


def prepare(parts: Parts, test_rows: int) -> Rows:
    """Standardise by the training rows, and choose the test rows.

    Raises:
        DataError: A column of the training rows is constant.
    """
    mean, deviation = parts.train.mean(0), parts.train.std(0)
    if not (deviation > LEAST_DEVIATION).all():
        raise DataError("a column of the training rows is constant", where="prepare")
    train, validation, test = (
        torch.from_numpy(((x - mean) / deviation).astype(np.float32))
        for x in (parts.train, parts.validation, parts.test)
    )
    chosen = torch.from_numpy(stream(CHOICE).permutation(len(test))[:test_rows])
    return Rows(train, validation, test[chosen], test, torch.from_numpy(mean), torch.from_numpy(deviation))


def load(name: str, test_rows: int) -> Rows:
    """The rows of a set, ready for every contender."""
    return prepare(SETS[name].read(read_arrays(SETS[name].file)), test_rows)


def angles(rows: Rows, standardised: Tensor) -> Tensor:
    """Standardised rows of angles back in radians, inside [−π, π): for contenders that know they are angles."""
    radians = (standardised.double() * rows.deviation + rows.mean).float()
    below = float(np.nextafter(np.float32(math.pi), np.float32(0)))  # the largest float32 below π
    return radians.clamp(-below, below)
