"""Columns of text cells turned into typed columns, block by block.

A column is decided by all of its cells: whole numbers, numbers, true/false, or text (a category). An empty, NA, NaN,
nan or null cell is a gap. Numbers are read by the correctly rounding parsers of NumPy and Python, so that the shortest
decimal of a float comes back as that very float. A column of numbers in which a few cells are text is refused rather
than turned into a category: that is nearly always a slip in the file.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from advect.errors import DataError

GAPS = frozenset({"", "NA", "NaN", "nan", "null"})
"""The words that stand for a missing value in a text file."""

EXACT = 2**53
"""Whole numbers up to here are exact in float64."""

_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity)", re.ASCII | re.I)
_INTEGER_BYTES = b"0123456789+- \t"
_TRUTH = {"true": True, "false": False}


def is_gap(cell: str) -> bool:
    """Whether a cell stands for a missing value."""
    return cell.strip() in GAPS


def is_number(cell: str) -> bool:
    """Whether a cell is a number (infinities among them, which are refused later by name).

    >>> [is_number(c) for c in ("1", " -2.5e3 ", "inf", "1_000", "", "a")]
    [True, True, True, False, False, False]
    """
    return _NUMBER.fullmatch(cell.strip()) is not None


def are_integers(cells: Sequence[str]) -> bool:
    """Whether cells known to be numbers or gaps are all written as whole numbers ("1", not "1.0" or "1e0")."""
    joined = "".join(cells)
    if joined.isascii() and not joined.encode().translate(None, _INTEGER_BYTES):
        return True
    letters = "".join(c for c in cells if c.strip() not in GAPS)
    return letters.isascii() and not letters.encode().translate(None, _INTEGER_BYTES)


def _parse(cells: Sequence[str]) -> np.ndarray | None:
    """Cells as float64 with NaN for gaps, or None when some cell is neither."""
    joined = "".join(cells)
    if "_" in joined or not joined.isascii():  # Python's float takes 1_000 and other scripts' digits; we do not
        return None
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    try:
        filled = ["nan" if c.strip() in GAPS else c for c in cells]
        return np.fromiter(map(float, filled), np.float64, len(filled))
    except ValueError:
        return None


@dataclass
class ColumnReader:
    """One column while its blocks arrive.

    Attributes:
        name: The column's name, for messages.
        as_text: Keep the cells as text, because the column was found to be a category.
        numbers: Cells that are numbers.
        texts: Cells that are neither numbers nor gaps.
        first_text: Line number and content of the first such cell.
        infinite: How many cells are infinite.
        first_infinite: Line number of the first.
    """

    name: str
    as_text: bool = False
    numbers: int = 0
    texts: int = 0
    first_text: tuple[int, str] | None = None
    infinite: int = 0
    first_infinite: int | None = None
    _whole: bool = True
    _pieces: list[np.ndarray] = field(default_factory=list)
    _stored: dict[str, str | None] = field(default_factory=dict)

    @property
    def mostly_text(self) -> bool:
        """Whether at least half of the cells seen that are not gaps are text."""
        return self.texts > 0 and self.texts >= self.numbers

    def add(self, cells: Sequence[str], lines: Sequence[int]) -> None:
        """Take one block of cells; ``lines`` are their line numbers in the file, counted from 1."""
        if self.as_text:
            self._add_text(cells, lines)
            return

        values = _parse(cells)
        if values is None:
            values = self._parse_singly(cells, lines)

        gaps = np.isnan(values)
        inside = values[~gaps] if gaps.any() else values
        whole = self._whole and bool((inside == np.floor(inside)).all()) and are_integers(cells)
        if whole and inside.size and np.abs(inside).max() >= EXACT:
            exact = _exact_integers(cells) if not gaps.any() else None
            whole, values = exact is not None, values if exact is None else exact
        self.add_numbers(values, whole, lines)

    def add_numbers(self, values: np.ndarray, whole: bool, lines: Sequence[int]) -> None:
        """Take one block of cells already parsed; ``whole`` says that they were written as whole numbers."""
        self._whole = self._whole and whole
        if values.dtype.kind == "f":
            infinite = np.isinf(values)
            if infinite.any():
                self.infinite += int(infinite.sum())
                self.first_infinite = self.first_infinite or lines[int(infinite.argmax())]
            self.numbers += int(values.size - np.isnan(values).sum())
            fits = whole and not infinite.any() and not np.isnan(values).any()
            values = values.astype(np.int64) if fits else np.ascontiguousarray(values)
        else:
            self.numbers += values.size
        self._pieces.append(values)

    def finish(self, path: str) -> tuple[np.ndarray, str]:
        """The whole column and the dtype to give back; refuses infinities and mixed text."""
        if self.infinite:
            raise DataError(
                f"column {self.name!r} holds an infinite value{_further(self.infinite)}",
                where=f"{path}, line {self.first_infinite}",
                remedy="Put a finite number, or leave the cell empty to mark a gap.",
            )
        if self.texts and self.numbers and (self.numbers > self.texts or not self.as_text):
            self._refuse_mixed(path)
        pieces, self._pieces = self._pieces, []
        if self.as_text:
            return _texts_or_truth(np.concatenate(pieces))
        column = np.concatenate(pieces)  # a block with gaps is float64, and makes the whole column so
        return column, "int64" if self._whole and self.numbers else "float64"

    def _add_text(self, cells: Sequence[str], lines: Sequence[int]) -> None:
        """Store cells as text, each distinct one once."""
        for cell, count in Counter(cells).items():
            if cell not in self._stored:
                self._stored[cell] = None if is_gap(cell) else cell
            if self._stored[cell] is None:
                continue
            if is_number(cell):
                self.numbers += count
            else:
                self.texts += count
                self.first_text = self.first_text or (lines[list(cells).index(cell)], cell)
        piece = np.empty(len(cells), dtype=object)
        piece[:] = [self._stored[c] for c in cells]
        self._pieces.append(piece)

    def _parse_singly(self, cells: Sequence[str], lines: Sequence[int]) -> np.ndarray:
        """Cells one by one, text counted and read as NaN."""
        values = np.full(len(cells), np.nan)
        for row, cell in enumerate(cells):
            if is_number(cell):
                values[row] = float(cell)
            elif not is_gap(cell):
                self.texts += 1
                self.first_text = self.first_text or (lines[row], cell)
        return values

    def _refuse_mixed(self, path: str) -> None:
        line, cell = self.first_text or (0, "")
        shown = cell if len(cell) <= 40 else cell[:40] + "…"
        comma = re.fullmatch(r"\s*[+-]?[0-9]+,[0-9]+\s*", cell) is not None
        raise DataError(
            f"mixed text in a numeric column: column {self.name!r} holds {shown!r}{_further(self.texts)}, "
            f"while {self.numbers} of its cells are numbers",
            where=f"{path}, line {line}",
            remedy="Write decimal points, not decimal commas."
            if comma
            else "Mend the cell, or leave it empty if the value is missing; "
            "for a category give every value of the column a letter.",
        )


def _further(count: int) -> str:
    """The clause that counts the other cells of the same kind."""
    return f" (and {count - 1} further)" if count > 1 else ""


def _exact_integers(cells: Sequence[str]) -> np.ndarray | None:
    """Whole numbers beyond 2^53 as int64, or None where they do not fit."""
    try:
        return np.array([int(c) for c in cells], dtype=np.int64)
    except (OverflowError, ValueError):
        return None


def _texts_or_truth(column: np.ndarray) -> tuple[np.ndarray, str]:
    """A text column, or a boolean one when every cell says true or false in any case."""
    levels = {c for c in set(column.tolist()) if c is not None}
    if not levels or any(c.strip().lower() not in _TRUTH for c in levels):
        return column, "str"
    truth = {None: None} | {c: _TRUTH[c.strip().lower()] for c in levels}
    values = np.empty(len(column), dtype=object)
    values[:] = [truth[c] for c in column.tolist()]
    return (values if None in values.tolist() else values.astype(bool)), "bool"
