"""Text tables (.csv, .tsv, also gzipped), read in blocks.

A block of plain numbers goes through NumPy's parser in one call; a block with gaps or text is split and parsed column
by column; from the first double quote on, the standard library's reader takes over, because a quoted cell may hold
newlines. A table of numbers never exists as text: beside the finished columns there are one block and, while the
blocks are joined, one more column, so that the peak is below three times the size of the result.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import chain, islice
from pathlib import Path

import numpy as np

from advect.data.cells import EXACT, ColumnReader
from advect.data.dialect import MAX_LINE_BYTES, Dialect, opened, parser, refuse_encoding, sniff
from advect.errors import DataError
from advect.records import Table

BLOCK_BYTES = 1 << 20
BLOCK_CELLS = 1 << 17
"""Cells per block on the way through the standard library's reader."""

_PLAIN = b"0123456789+-.eE, ;\t\n"


def read_delimited(path: Path, container: str) -> Table:
    """Read a text table.

    Args:
        path: A file whose name ends in .csv, .tsv or one of these with .gz.
        container: ``csv`` (the delimiter is found) or ``tsv`` (it is the tab).

    Returns:
        A `Table` with ``event_shape == (columns,)``. Whole-number columns are int64 (float64 with dtype ``int64``
        where there are gaps), other numbers float64, true/false bool, the rest text.

    Raises:
        DataError: Empty, ragged, mixed, infinite, wrongly encoded or damaged; names the file and the line.
    """
    dialect = sniff(path, "\t" if container == "tsv" else None)
    as_text: frozenset[int] = frozenset()
    while True:
        columns = _read_columns(path, dialect, as_text)
        turned = {j for j, c in enumerate(columns) if not c.as_text and c.mostly_text}
        if not turned:
            break
        as_text |= turned  # found to be categories: their cells are wanted as they are written

    arrays, dtypes = zip(*(c.finish(str(path)) for c in columns), strict=True)
    return Table(
        names=dialect.names,
        columns=arrays,
        container=container,
        event_shape=(len(arrays),),
        dtypes=dtypes,
        origin=str(path),
        notes=dialect.notes,
    )


def _read_columns(path: Path, dialect: Dialect, as_text: frozenset[int]) -> list[ColumnReader]:
    """One pass over the file; stops after the first block when it shows that another column is text."""
    columns = [ColumnReader(name, j in as_text) for j, name in enumerate(dialect.names)]
    rows = 0
    with opened(path) as handle:
        _skip(handle, dialect.data_start)
        for block in _blocks(handle, dialect, path):
            rows += block.feed(columns, dialect.delimiter, str(path))
            if any(c.mostly_text and not c.as_text for c in columns):
                return columns
    if not rows:
        raise DataError("there are no rows under the header", where=str(path), remedy="Give a file with rows in it.")
    return columns


@dataclass(frozen=True)
class _Lines:
    """A block of lines without any quotes; ``plain``: of numbers only, ``whole``: without a point or an exponent."""

    lines: Sequence[str]
    numbers: Sequence[int]
    plain: bool
    whole: bool

    def feed(self, columns: Sequence[ColumnReader], delimiter: str, path: str) -> int:
        """Hand every column its cells; returns the number of rows."""
        if self.plain and delimiter != " " and not any(c.as_text for c in columns):
            values = self._parse(delimiter, len(columns))
            if values is not None:
                self._feed_numbers(columns, values, delimiter)
                return len(values)

        width = len(columns)
        for line, number in zip(self.lines, self.numbers, strict=True):
            if line.count(delimiter) != width - 1:
                raise _ragged(path, number, line.count(delimiter) + 1, width)
        cells = delimiter.join(self.lines).split(delimiter)
        for j, column in enumerate(columns):
            column.add(cells[j::width], self.numbers)
        return len(self.lines)

    def _parse(self, delimiter: str, width: int) -> np.ndarray | None:
        """All cells at once, or None where some cell is empty or a row has another width."""
        try:
            values = np.loadtxt(self.lines, delimiter=delimiter, ndmin=2, comments=None)
        except ValueError:
            return None
        return values if values.shape == (len(self.lines), width) else None

    def _feed_numbers(self, columns: Sequence[ColumnReader], values: np.ndarray, delimiter: str) -> None:
        cells: list[str] = []
        width = len(columns)
        for j, column in enumerate(columns):
            numbers = np.ascontiguousarray(values[:, j])
            if self.whole and bool((np.abs(numbers) < EXACT).all()):
                column.add_numbers(numbers, True, self.numbers)
            elif bool((numbers == np.floor(numbers)).all()):  # whole values: written as 1 or as 1.0?
                cells = cells or delimiter.join(self.lines).split(delimiter)
                column.add(cells[j::width], self.numbers)
            else:
                column.add_numbers(numbers, False, self.numbers)


@dataclass(frozen=True)
class _Records:
    """A block of rows from the standard library's reader, with the line each ends on."""

    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]

    def feed(self, columns: Sequence[ColumnReader], delimiter: str, path: str) -> int:
        """Hand every column its cells; returns the number of rows."""
        for column, cells in zip(columns, zip(*self.rows, strict=True), strict=True):
            column.add(cells, self.numbers)
        return len(self.rows)


def _ragged(path: str, line: int, found: int, expected: int) -> DataError:
    return DataError(
        f"the row has {found} {'cell' if found == 1 else 'cells'}, expected {expected}",
        where=f"{path}, line {line}",
        remedy="Give every row the same number of cells; put cells that hold the delimiter in double quotes.",
    )


def _skip(handle: BufferedIOBase, count: int) -> None:
    while count > 0 and (skipped := len(handle.read(min(count, BLOCK_BYTES)))):
        count -= skipped


def _blocks(handle: BufferedIOBase, dialect: Dialect, path: Path) -> Iterator[_Lines | _Records]:
    """Blocks of whole rows; lines until the first double quote, records after it."""
    carry, line = b"", dialect.first_line
    while True:
        chunk = handle.read(BLOCK_BYTES)
        data = carry + chunk
        if not data:
            return
        if b'"' in data:
            yield from _records(data, handle, dialect, line, path)
            return
        cut = data.rfind(b"\n") + 1 if chunk else len(data)
        if not cut and len(data) > MAX_LINE_BYTES:
            raise _endless(path, line)
        whole, carry = data[:cut], data[cut:]
        count = whole.count(b"\n")
        if whole.strip():
            yield _lines(whole, dialect.delimiter, line, path)
        line += count


def _lines(data: bytes, delimiter: str, first_line: int, path: Path) -> _Lines:
    """Decode a block, drop blank lines, and take the blanks after delimiters away."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").rstrip(b"\r")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse_encoding(error, path, first_line) from None
    lines = text.removesuffix("\n").split("\n")
    numbers: Sequence[int] = range(first_line, first_line + len(lines))
    if any(not line or line[0] == " " or line[-1] == " " for line in lines):
        numbers = [n for n, line in zip(numbers, lines, strict=True) if line.strip(" ")]
        lines = [line.lstrip(" ") for line in lines if line.strip(" ")]
    if delimiter == " ":
        lines = [" ".join(line.split()) for line in lines]
    elif delimiter + " " in text:
        lines = [re.sub(f"{re.escape(delimiter)} +", delimiter, line) for line in lines]
    plain = not data.translate(None, _PLAIN)
    return _Lines(lines, numbers, plain, plain and not any(mark in data for mark in (b".", b"e", b"E")))


def _records(data: bytes, handle: BufferedIOBase, dialect: Dialect, first_line: int, path: Path) -> Iterator[_Records]:
    """The rest of the file through the standard library's reader."""
    place = _Place(first_line)
    width = len(dialect.names)
    rows = _rows(parser(_decoded(data, handle, path, place), dialect.delimiter), place, width, str(path))
    while True:
        try:
            batch = list(islice(rows, max(1, BLOCK_CELLS // width)))
        except csv.Error as error:
            raise DataError(
                f"the row cannot be read: {error}",
                where=f"{path}, line {place.line - 1}",
                remedy='Close every double quote, and write a double quote inside a quoted cell as "".',
            ) from error
        if not batch:
            return
        numbers, cells = zip(*batch, strict=True)
        yield _Records(cells, numbers)


def _rows(reader: Iterator[list[str]], place: "_Place", width: int, path: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank with their lines; one of another width is refused before any further one is held."""
    for row in reader:
        if not row or (len(row) == 1 and width > 1 and not row[0].strip()):
            continue
        if len(row) != width:
            raise _ragged(path, place.line - 1, len(row), width)
        yield place.line - 1, row


@dataclass
class _Place:
    """The number of the line that will be read next."""

    line: int


def _decoded(data: bytes, handle: BufferedIOBase, path: Path, place: _Place) -> Iterator[str]:
    """Lines of text with their ends: those in ``data``, then those left in the file."""
    cut = data.rfind(b"\n") + 1
    here = (line + b"\n" for line in data[:cut].split(b"\n")[:-1])
    readline: Callable[[], bytes] = lambda: handle.readline(MAX_LINE_BYTES)  # noqa: E731 (iter wants a callable)
    across = (piece for piece in [data[cut:] + readline()] if piece)
    for raw in chain(here, across, iter(readline, b"")):
        if len(raw) >= MAX_LINE_BYTES:
            raise _endless(path, place.line)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise refuse_encoding(error, path, place.line) from None
        place.line += 1
        yield text


def _endless(path: Path, line: int) -> DataError:
    return DataError(
        f"one line is longer than {MAX_LINE_BYTES >> 20} MiB: this is no table", where=f"{path}, line {line}"
    )
