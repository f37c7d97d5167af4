"""From a column of a table to what can be drawn: finite numbers on a sane scale, or counted categories.

Nothing here assumes that the numbers are kind: columns may be empty, constant, all gaps, of size 1e300, or differ in
their ninth digit only.
"""

from dataclasses import dataclass

import numpy as np

from advect.records import Table
from advect.report.ink import clean
from advect.report.numerals import number

# The frame shows the middle 99 %; a few far rows must not squeeze all others into one bar.
_INNER = (0.005, 0.995)
MOST_CATEGORIES = 8
LIKE = 4.0  # ratio of ranges up to which two columns are drawn on one scale
_EDGE = 0.04  # of the range, around a cloud of points
_LARGEST = 1e300  # three times the range is still a number


@dataclass(frozen=True)
class Numbers:
    """One numeric column, real rows and samples, on a scale that can be drawn.

    Attributes:
        real: ``(n,)`` per row of the real table, NaN in gaps and where not finite.
        samples: ``(m,)`` likewise.
        low: Left end of the frame.
        high: Right end; larger than `low` unless the column is constant or empty.
        scale: What was done to the numbers, for the axis: ``""``, ``× 1e+200`` or ``+ 1000000000``.
        whole: Whether the real rows (the samples, where there are none) are whole numbers.
    """

    real: np.ndarray
    samples: np.ndarray
    low: float
    high: float
    scale: str
    whole: bool

    @property
    def constant(self) -> bool:
        """Whether there is nothing to spread along an axis."""
        return not self.high > self.low

    @property
    def empty(self) -> bool:
        """Whether no finite number is there at all."""
        return not (np.isfinite(self.real).any() or np.isfinite(self.samples).any())


def column(table: Table | None, name: str) -> np.ndarray:
    """The named column, empty where the table or the column is not there."""
    if table is None or name not in table.names:
        return np.zeros(0)
    return np.asarray(table.columns[table.names.index(name)])


def names_of(real: Table | None, samples: Table | None) -> tuple[str, ...]:
    """The columns of either table, in the real one's order, each once."""
    names = [*(real.names if real else ()), *(samples.names if samples else ())]
    return tuple(dict.fromkeys(names))


def is_numeric(real: Table | None, samples: Table | None, name: str) -> bool:
    """Whether the column can stand on a number line; truth values and text cannot."""
    kinds = {column(table, name).dtype.kind for table in (real, samples) if table is not None and name in table.names}
    return bool(kinds) and kinds <= set("iuf")


def numbers(real: Table | None, samples: Table | None, name: str) -> Numbers:
    """Bring one numeric column of both tables to a common, drawable scale."""
    pair = [_finite(column(table, name)) for table in (real, samples)]
    pair, scale = _rescale(pair)
    low, high = _frame(*pair)
    # The real rows decide: whole numbers in bars of uneven width would show a comb that is not in the data.
    decisive = next((v[np.isfinite(v)] for v in pair if np.isfinite(v).any()), np.zeros(0))
    # Beyond 2^52 every double is whole, and half-way edges between two of them do not exist.
    small = scale == "" and decisive.size > 0 and max(abs(low), abs(high)) < 2.0**52
    whole = bool(small and (decisive == np.round(decisive)).all())
    return Numbers(pair[0], pair[1], low, high, scale, whole)


def _finite(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _rescale(pair: list[np.ndarray]) -> tuple[list[np.ndarray], str]:
    """Take out an extreme power of ten, or a large common offset, which no axis can label."""
    pool = np.concatenate([v[np.isfinite(v)] for v in pair])
    largest = float(np.abs(pool).max(initial=0.0))
    if largest and not 1e-100 < largest < 1e100:
        exponent = int(np.floor(np.log10(largest)))
        # In two factors: 10**-(-310) is itself out of range.
        half = exponent // 2
        return [v / 10.0**half / 10.0 ** (exponent - half) for v in pair], f"× 1e{exponent:+d}"
    spread = float(np.ptp(pool)) if pool.size else 0.0
    if 0 < spread < 1e-7 * largest:
        offset = float(pool.min())
        return [v - offset for v in pair], f"+ {number(offset, 10)}"
    return pair, ""


def _frame(real: np.ndarray, samples: np.ndarray) -> tuple[float, float]:
    real, samples = real[np.isfinite(real)], samples[np.isfinite(samples)]
    pool = np.concatenate([real, samples])
    if not pool.size:
        return 0.0, 0.0
    low, high = np.quantile(real if real.size else samples, _INNER)
    if real.size and samples.size and np.mean((samples < low) | (samples > high)) > 0.1:
        # Samples that miss the data's range are the very thing to see.
        low, high = np.quantile(np.concatenate([[low, high], samples]), _INNER)
        low, high = min(low, np.quantile(real, _INNER[0])), max(high, np.quantile(real, _INNER[1]))
    if not high > low:
        low, high = pool.min(), pool.max()
    pad = 0.06 * (high - low)
    return float(max(low - pad, pool.min())), float(min(high + pad, pool.max()))


def outside(values: np.ndarray, low: float, high: float) -> float:
    """Share of the finite values that lie outside the frame."""
    values = values[np.isfinite(values)]
    return float(np.mean((values < low) | (values > high))) if values.size else 0.0


def bins(column: Numbers) -> np.ndarray:
    """Edges of a histogram: one bar per whole number where few occur, else as many as the rows can fill."""
    span = column.high - column.low
    if column.whole and span <= 40:
        return np.arange(np.floor(column.low) - 0.5, np.ceil(column.high) + 1.0)
    rows = max(int(np.isfinite(column.real).sum()), int(np.isfinite(column.samples).sum()), 1)
    edges = np.linspace(column.low, column.high, int(np.clip(2 * np.sqrt(rows), 8, 40)) + 1)
    if column.whole:
        # Bars that hold equally many whole numbers, or a comb of artefacts appears.
        width = np.ceil(span / (len(edges) - 1))
        edges = np.arange(np.floor(column.low) - 0.5, column.high + width, width)
    return edges


def gap_share(values: np.ndarray) -> float:
    """Share of missing cells; for text a None, for numbers anything not finite."""
    if not values.size:
        return 0.0
    if values.dtype.kind == "f":
        return float(np.mean(~np.isfinite(values)))
    if values.dtype.kind != "O":
        return 0.0
    return float(np.mean([_is_gap(v) for v in values]))


def _is_gap(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def shares(real: np.ndarray, samples: np.ndarray) -> tuple[list[str], list[float], list[float]]:
    """Categories by falling frequency in the real rows, with the share of each in both; the tail is one bar."""
    counts = [_counts(values) for values in (real, samples)]
    order = sorted(counts[0] | counts[1], key=lambda c: (-counts[0].get(c, 0), -counts[1].get(c, 0), c))
    totals = [max(sum(count.values()), 1) for count in counts]
    shown, rest = order[:MOST_CATEGORIES], order[MOST_CATEGORIES:]
    columns = [[count.get(c, 0) / total for c in shown] for count, total in zip(counts, totals, strict=True)]
    if rest:
        shown = [*shown, f"{len(rest)} others"]
        for shares_, count, total in zip(columns, counts, totals, strict=True):
            shares_.append(sum(count.get(c, 0) for c in rest) / total)
    return shown, columns[0], columns[1]


def _counts(values: np.ndarray) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values.tolist():
        if not _is_gap(value):
            text = clean(str(value))
            counts[text] = counts.get(text, 0) + 1
    return counts


@dataclass(frozen=True)
class Frame:
    """What is seen of each column.

    Attributes:
        low: ``(columns,)`` lower ends.
        high: ``(columns,)`` upper ends, above the lower ones.
    """

    low: np.ndarray
    high: np.ndarray


def frame(values: np.ndarray, *, outside: float = 0.002, margin: float = _EDGE) -> Frame:
    """Nearly all of the range of each column of ``(rows, columns)``, so that one stray point does not shrink the rest.

    Args:
        values: Rows that are not finite are left out.
        outside: The share of the rows beyond each end; 0 frames them all.
        margin: Room at each end, as a share of the range.
    """
    values = values[np.isfinite(values).all(1)].clip(-_LARGEST, _LARGEST)
    if not len(values):
        ones = np.ones(values.shape[1])
        return Frame(-ones, ones)
    low, high = np.quantile(values, outside, axis=0), np.quantile(values, 1 - outside, axis=0)
    # Equal numbers still need a frame that floating point can tell apart.
    least = np.maximum(1.0, 1e-6 * np.abs(high))
    room = np.where(high - low > 1e-9 * least, margin * (high - low), least)
    return Frame(low - room, high + room)


def pair_to_draw(real: Table) -> tuple[str, str] | None:
    """The two columns of numbers that depend most on one another by rank, the first two of two."""
    found = [name for name, c in zip(real.names, real.columns, strict=True) if c.dtype.kind in "iuf"][:40]
    usable = [n for n in found if len(np.unique(_numbers_of(real, n)[np.isfinite(_numbers_of(real, n))])) > 2]
    if len(usable) < 2:
        return None
    if len(usable) == 2:
        return usable[0], usable[1]
    ranks = np.stack([_ranks(_numbers_of(real, name)) for name in usable])
    strength = np.triu(np.abs(np.corrcoef(ranks)), 1)
    # Columns that are functions of one another make a line, which shows nothing.
    strength[strength > 0.995] = 0.0
    i, j = np.unravel_index(int(np.argmax(strength)), strength.shape)
    return usable[i], usable[j]


def _numbers_of(table: Table, name: str) -> np.ndarray:
    return column(table, name).astype(np.float64)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value, gaps in the middle."""
    filled = np.where(np.isfinite(values), values, np.nanmedian(values))
    return filled.argsort(kind="stable").argsort(kind="stable").astype(np.float64)
