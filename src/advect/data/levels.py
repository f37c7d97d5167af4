"""How one column becomes coordinates, and the statistics that takes.

A discrete column with enumerated levels becomes ``index + u`` with u ~ U[0, 1): the model's density integrated over the
cell is the level's probability mass (uniform dequantisation, Theis et al. 2016, eq. 2, made exact by importance weights
as in Ho et al. 2019, eq. 12). A whole-valued scale too wide to enumerate becomes ``value + u``. A continuous column
stays as it is. A gap adds an indicator with the two cells *present* and *missing*, and its value is drawn from a known
density, so that the fill can be integrated out the same way.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from advect.data.align import GAP, UNKNOWN, bounds, column_levels, level_index, read_numbers
from advect.data.schema import only_keys
from advect.records import Column

HEAVY_TAILS = 8.0
"""Excess kurtosis from which a column counts as heavy-tailed: above the exponential distribution's 6, which a shift and
a scale leave within a few standard deviations for the sizes met here, and far below a log-normal's 111."""

_SMOOTHING = 0.5  # the Jeffreys prior's pseudo-count per level
_FLOOR = 0.01  # share of the uniform distribution mixed in, so that no cell is too thin for float32
_COARSE = 1000.0  # a column this many times farther from zero than it is wide is shifted towards zero


@dataclass(frozen=True)
class ColumnCode:
    """The rule for one column.

    Attributes:
        form: ``constant`` (no value coordinate), ``levels``, ``whole`` (value + u) or ``real``.
        scaling: Of the value coordinate, see `records.Coordinate`; empty for a constant.
        offset: Subtracted from the value before it is stored as a coordinate, so that float32 keeps its detail; 0 for
            most columns. A shift has no part in the likelihood.
        mean: Of the observed values, in the coordinate (offset subtracted): the fill's.
        std: Of the observed values, in the column's unit.
        probabilities: Smoothed frequencies of the levels; empty unless ``form`` is ``levels``.
        indicator: Smoothed frequencies of *present* and *missing*; empty where the column has no gaps.
    """

    form: str
    scaling: str = ""
    offset: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    probabilities: tuple[float, ...] = ()
    indicator: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values; floats are exact under JSON."""
        stored = asdict(self)
        return {**stored, "probabilities": list(self.probabilities), "indicator": list(self.indicator)}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> "ColumnCode":
        """The inverse of `to_dict`."""
        keys = tuple(ColumnCode.__dataclass_fields__)
        only_keys(stored, keys, (), "column code")
        values: dict[str, Any] = {**stored}
        for key in ("probabilities", "indicator"):
            values[key] = tuple(stored[key])
        return ColumnCode(**values)


def column_form(column: Column) -> str:
    """Which rule a column falls under; a matter of the schema alone."""
    levels = column_levels(column)
    if column.kind == "categorical":
        return "constant" if len(column.categories) <= 1 else "levels"
    if column.minimum == column.maximum:
        return "constant"
    if levels is not None:
        return "levels"
    return "whole" if column.kind == "integer" else "real"


def read_column(values: np.ndarray, column: Column, origin: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of a given table in the terms of its rule.

    Returns:
        ``(rows,)`` float64 with NaN for gaps: level indices, whole or real values, 0 for a constant; and ``(rows,)``
        bool, true where the value cannot occur: an unknown category, a fraction among whole numbers, a level out of
        range, another value than the constant, a gap in a column without any.

    Raises:
        DataError: Values of another type altogether, or infinite ones.
    """
    form = column_form(column)
    if form == "levels" or column.kind == "categorical":
        index = level_index(values, column, origin)
        numbers, outside = np.where(index == GAP, np.nan, index.clip(0)), index == UNKNOWN
    else:
        numbers = read_numbers(values, column, origin)
        gaps, outside = np.isnan(numbers), np.zeros(len(numbers), bool)
        if form == "constant":
            outside = ~gaps & (numbers != column.minimum)
            numbers = np.where(gaps, np.nan, 0.0)
        elif form == "whole":
            outside = ~gaps & (numbers != np.floor(numbers))
            numbers = np.floor(numbers)
    if not column.missing:
        outside = outside | np.isnan(numbers)
    return numbers, outside


def restore_column(numbers: np.ndarray, gaps: np.ndarray, column: Column) -> np.ndarray:
    """The inverse of `read_column`: values in the column's own dtype, clipped to what was observed.

    Args:
        numbers: ``(rows,)`` coordinates with the offset added back; the fraction above a level is noise.
        gaps: ``(rows,)`` bool, where the value is missing: None in object arrays, NaN in numbers (an integer column
            with a gap comes back as floats).
        column: Its schema.
    """
    form = column_form(column)
    levels = column_levels(column)
    numbers = np.where(gaps, 0.0, numbers)
    if form == "levels" or column.kind == "categorical":
        assert levels is not None
        index = np.floor(numbers).clip(0, len(levels) - 1).astype(np.int64)
        if column.kind == "categorical":
            return _with_gaps(_objects(levels)[index], gaps)
        numbers = np.array([float(v) for v in levels])[index]
    else:
        numbers = (np.floor(numbers) if form == "whole" else numbers).clip(*bounds(column))
    return cast(numbers, gaps, column)


def cast(numbers: np.ndarray, gaps: np.ndarray, column: Column) -> np.ndarray:
    """Float64 numbers in the column's dtype; see `restore_column` for gaps. Also for whole pictures."""
    if column.kind == "boolean":
        return _with_gaps(numbers.astype(bool), gaps)
    dtype = _numpy_dtype(column.dtype)
    if gaps.any():
        dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
        numbers = np.where(gaps, np.nan, numbers)
    if dtype.kind in "iu":  # the largest float64 below the end of a 64-bit range does not overflow
        largest = np.nextafter(2.0 ** (8 * dtype.itemsize - (dtype.kind == "i")), 0)
        numbers = np.minimum(numbers, largest)
    return numbers.astype(dtype)


@dataclass(frozen=True)
class Told:
    """What some rows tell of a column, and all that a rule needs to know of them.

    Attributes:
        count: Of values, gaps not counted.
        gaps: How many.
        levels: ``(levels,)`` how often each occurs; empty where the form is another.
        mean: Of the values of a scale; 0 elsewhere, likewise the others.
        std: Their standard deviation.
        third: Their third central moment.
        kurtosis: Their excess kurtosis.
    """

    count: int
    gaps: int
    levels: np.ndarray
    mean: float = 0.0
    std: float = 0.0
    third: float = 0.0
    kurtosis: float = 0.0

    @staticmethod
    def by(column: Column, values: np.ndarray) -> "Told":
        """From rows in memory, ``(rows,)`` as `read_column` gives them."""
        form, gaps = column_form(column), np.isnan(values)
        values = values[~gaps]
        count, missing, levels = len(values), int(gaps.sum()), np.empty(0, np.int64)
        if form == "levels":
            known = column_levels(column)
            assert known is not None
            levels = np.bincount(values.astype(np.int64), minlength=len(known))
        if form in ("levels", "constant") or not count:
            return Told(count, missing, levels)
        mean, centred = float(values.mean()), values - values.mean()
        third = float((centred * np.square(centred)).mean())
        return Told(count, missing, levels, mean, float(values.std()), third, excess_kurtosis(values))

    @staticmethod
    def by_all(parts: Sequence["Told"]) -> "Told":
        """Of the rows of all parts together (Pébay 2008, SAND2008-6212, eq. 2.1); of one part, that part."""
        if len(parts) == 1:
            return parts[0]
        count = sum(part.count for part in parts)
        gaps, levels = sum(part.gaps for part in parts), np.sum([part.levels for part in parts], axis=0)
        share = np.array([part.count for part in parts]) / max(count, 1)
        means, variances = np.array([part.mean for part in parts]), np.array([part.std**2 for part in parts])
        mean = float(share @ means)
        away = means - mean
        variance = float(share @ (variances + away**2))
        thirds = np.array([part.third for part in parts])
        fourths = np.array([(part.kurtosis + 3) * part.std**4 for part in parts])
        third = float(share @ (thirds + 3 * away * variances + away**3))
        fourth = float(share @ (fourths + 4 * away * thirds + 6 * away**2 * variances + away**4))
        kurtosis = fourth / variance**2 - 3 if variance > 0 else 0.0
        return Told(count, gaps, levels, mean, math.sqrt(variance), third, kurtosis)


def fit_code(column: Column, told: Told) -> ColumnCode:
    """Fit a column's rule to what its training rows tell."""
    form = column_form(column)
    indicator = smoothed(np.array([told.count, told.gaps])) if column.missing else ()
    if form == "constant":
        return ColumnCode("constant", indicator=indicator)
    if form == "levels":
        return ColumnCode("levels", "cumulative", probabilities=smoothed(told.levels), indicator=indicator)
    return replace(_fit_scale(column, form, told), indicator=indicator)


def smoothed(counts: np.ndarray) -> tuple[float, ...]:
    """Level probabilities from counts, none of them zero, summing to one."""
    share = (counts + _SMOOTHING) / (counts + _SMOOTHING).sum()
    share = (1 - _FLOOR) * share + _FLOOR / len(share)
    return tuple((share / share.sum()).tolist())


def excess_kurtosis(values: np.ndarray) -> float:
    """Fourth standardised moment less 3; 0 for a constant."""
    centred = values - values.mean()
    largest = np.abs(centred).max()
    if not largest > 0:
        return 0.0
    squares = np.square(centred / largest)  # powers of numbers up to one cannot overflow
    return float(np.square(squares).mean() / squares.mean() ** 2 - 3.0)


def _fit_scale(column: Column, form: str, told: Told) -> ColumnCode:
    low, high = bounds(column)
    offset = 0.0
    if max(abs(low), abs(high)) > _COARSE * (high - low):
        offset = float(np.rint(low)) if form == "whole" else float(np.float32(low / 2 + high / 2))
    # Training rows may by chance hold one value or none; the bounds of the whole data set then set the scale.
    mean = told.mean if told.count else low / 2 + high / 2
    std = told.std if told.std > 0 else (high - low) / 4
    heavy = told.count > 0 and told.kurtosis > HEAVY_TAILS
    return ColumnCode(form, "asinh" if heavy else "standardise", offset, mean - offset, std)


def _with_gaps(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    if not gaps.any():
        return values
    values = values.astype(object)
    values[gaps] = None
    return values


def _objects(levels: Sequence[Any]) -> np.ndarray:
    result = np.empty(len(levels), dtype=object)
    result[:] = list(levels)
    return result


def _numpy_dtype(text: str) -> np.dtype:
    """The NumPy dtype behind a frame's: ``Int64``, ``double[pyarrow]``, ``UInt8``; float64 if there is none."""
    name, arrow, _ = text.lower().partition("[")
    name = {"float": "float32", "halffloat": "float16"}.get(name, name) if arrow else name
    try:
        dtype = np.dtype(name)
    except TypeError:
        return np.dtype(np.float64)
    return dtype if dtype.kind in "iuf" else np.dtype(np.float64)
