"""What the values of many columns are like, found in one pass over blocks of rows.

Bounds, whole-valuedness and levels do not depend on how rows are cut into blocks: they are those that `kinds` finds for
a column in memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from advect.data.kinds import EXACT, MOST_LEVELS, ROWS_PER_LEVEL, WIDEST_RANGE
from advect.records import Column


@dataclass(frozen=True)
class Extent:
    """Facts about columns.

    Attributes:
        minimum: ``(columns,)`` smallest value, float64.
        maximum: ``(columns,)`` largest value, float64.
        whole: ``(columns,)`` whether all values are whole numbers.
        levels: Of each column, its values where they are few, far apart and each seen often; else nothing.
        unfit: Row and column of the first value that is NaN or infinite; None where there is none.
        unfit_values: How many there are.
    """

    minimum: np.ndarray
    maximum: np.ndarray
    whole: np.ndarray
    levels: tuple[tuple[int, ...], ...]
    unfit: tuple[int, int] | None = None
    unfit_values: int = 0

    def select(self, places: np.ndarray) -> "Extent":
        """Of some of the columns; all values must be finite."""
        levels = tuple(self.levels[place] for place in places.tolist())
        return Extent(self.minimum[places], self.maximum[places], self.whole[places], levels)

    def columns(self, names: Sequence[str], dtypes: Sequence[str], *, truth: bool) -> tuple[Column, ...]:
        """The columns of a schema; ``truth``: they are truth values."""
        found = zip(names, dtypes, self.whole.tolist(), self.minimum.tolist(), self.maximum.tolist(), strict=True)
        return tuple(
            Column(name, "boolean" if truth else "integer" if whole else "continuous", dtype, low, high, levels)
            for (name, dtype, whole, low, high), levels in zip(found, self.levels, strict=True)
        )


def extent_of(blocks: Iterable[np.ndarray], num_rows: int) -> Extent:
    """One pass over ``(block, columns)`` numbers of one dtype."""
    low, high, whole = np.empty(0), np.empty(0), np.empty(0, bool)
    seen: list[set[float]] | None = None
    unfit, unfit_values, start = None, 0, 0
    for block in blocks:
        if seen is None:
            width = block.shape[1]
            low, high = np.full(width, np.inf), np.full(width, -np.inf)
            whole, seen = np.ones(width, bool), [set() for _ in range(width)]
        if block.dtype.kind == "f" and not (fit := np.isfinite(block)).all():
            rows, columns = np.nonzero(~fit)
            unfit = unfit or (start + int(rows[0]), int(columns[0]))
            unfit_values += len(rows)
        low = np.minimum(low, block.min(0).astype(np.float64))
        high = np.maximum(high, block.max(0).astype(np.float64))
        _keep_whole(block, whole, seen, num_rows)
        start += len(block)
    levels = tuple(
        _levels(values, is_whole, wide, num_rows)
        for values, is_whole, wide in zip(seen or (), whole.tolist(), (high - low > WIDEST_RANGE).tolist(), strict=True)
    )
    return Extent(low, high, whole.astype(bool), levels, unfit, unfit_values)


def _keep_whole(block: np.ndarray, whole: np.ndarray, seen: list[set[float]], num_rows: int) -> None:
    """Strike off the columns that are not whole here, and note the values of those that may be levels."""
    if block.dtype.kind == "f":
        still = np.flatnonzero(whole)
        part = block[:, still]
        with np.errstate(invalid="ignore"):
            whole[still] = (part == np.rint(part)).all(0) & (np.abs(part) < EXACT).all(0)
    if block.dtype.itemsize == 1:
        return  # no range wider than that of levels
    for place in np.flatnonzero(whole).tolist():
        if len(seen[place]) <= MOST_LEVELS:
            seen[place].update(np.unique(block[:, place])[: MOST_LEVELS + 1].tolist())


def _levels(values: set[float], whole: bool, wide: bool, num_rows: int) -> tuple[int, ...]:
    few = 0 < len(values) <= MOST_LEVELS and len(values) * ROWS_PER_LEVEL <= num_rows
    return tuple(int(value) for value in sorted(values)) if whole and wide and few else ()
