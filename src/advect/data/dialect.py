"""How a text table is written: its encoding, delimiter, comments and header, found from its first lines.

The first row is a header when it cannot be data: some cell of it is text while that column is numeric below (or the
other way round), and no column is numeric both in it and below it. A file of nothing but text is taken to have one.
Lines that start with # before the table are comments; the last of them names the columns if it has one word for each.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from advect.data.archives import SUSPICIOUS_BYTES, SUSPICIOUS_RATIO
from advect.data.arrays import refuse_width
from advect.data.cells import is_gap, is_number
from advect.errors import DataError

SAMPLE_BYTES = 1 << 18
SAMPLE_ROWS = 100
MOST_COLUMNS = 1 << 17
MAX_LINE_BYTES = 16 << 20
"""A longer line is refused: it is not a table (and may be a compression bomb)."""

_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_DELIMITER_NAMES = {";": "semicolons", "\t": "tabs", " ": "spaces"}


@dataclass(frozen=True)
class Dialect:
    """How one file is written.

    Attributes:
        delimiter: Between cells; a space stands for any run of blanks.
        names: Column names.
        data_start: Bytes before the first row of data (of the unpacked file).
        first_line: The line number of that row, counted from 1.
        notes: What was decided that the user may want to know.
    """

    delimiter: str
    names: tuple[str, ...]
    data_start: int
    first_line: int
    notes: tuple[str, ...]


class _Unpacked(io.RawIOBase):
    """The bytes of a gzipped file, up to the bound on well packed files."""

    def __init__(self, path: Path) -> None:
        self._stream, self._path = gzip.open(path, "rb"), path  # noqa: SIM115 - closed by `close`
        self._packed, self._bytes = path.stat().st_size, 0

    def readable(self) -> bool:
        """As every file that is read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes.

        Raises:
            DataError: More than can be an honest table.
        """
        count = self._stream.readinto(buffer)
        self._bytes += count
        if self._bytes > max(SUSPICIOUS_BYTES, SUSPICIOUS_RATIO * self._packed):
            raise DataError(
                f"{self._packed} packed bytes expand to more than {self._bytes}",
                where=str(self._path),
                remedy="That looks like a compression bomb; if the table is yours, unpack it first.",
            )
        return count

    def close(self) -> None:
        """Close the file, too."""
        self._stream.close()
        super().close()


def unpacked(path: Path) -> io.BufferedReader:
    """A gzipped file, unpacked as it is read."""
    return io.BufferedReader(_Unpacked(path), SAMPLE_BYTES)


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file for reading bytes, unpacked when its name ends in .gz; damage becomes a `DataError`."""
    try:
        with unpacked(path) if path.suffix.lower() == ".gz" else path.open("rb") as handle:
            yield handle
    except (OSError, EOFError, zlib.error) as error:  # gzip has no error of its own for some kinds of damage
        raise DataError(
            f"the file cannot be read: {error or type(error).__name__}",
            where=str(path),
            remedy="It is damaged, cut short or not of the kind its ending says; fetch or save it again.",
        ) from error


def sniff(path: Path, delimiter: str | None = None) -> Dialect:
    """Find out how a text table is written from its first 256 KiB; ``delimiter`` fixes it (tab for .tsv)."""
    sample, complete = _sample(path)
    start = 3 if sample.startswith(b"\xef\xbb\xbf") else 0
    lines = _decoded_lines(sample[start:], path)

    skipped, comment = _leading_comments(lines)
    body = lines[skipped:]
    if not body:
        raise DataError("there is no table in the file", where=str(path), remedy="Give a file with rows in it.")

    delimiter = delimiter or _find_delimiter(body, complete)
    records, consumed = _records(body, delimiter, complete)
    if not records:
        raise DataError(
            "the first row cannot be read",
            where=f"{path}, line {skipped + 1}",
            remedy="Put cells that hold quotes or line ends in double quotes.",
        )
    first, rest = records[0], records[1:]
    refuse_width(len(first), str(path), MOST_COLUMNS)
    header = _is_header(first, rest, body, consumed, delimiter)
    named_by_comment = None if header else _comment_names(comment, delimiter, len(first))

    notes = [f"cells are separated by {_DELIMITER_NAMES[delimiter]}"] if delimiter in "; " else []
    if delimiter == "\t" and path.name.lower().removesuffix(".gz").endswith(".csv"):
        notes.append("cells are separated by tabs")
    if header:
        names = tuple(n if n else f"x{j}" for j, n in enumerate(first))
        if "" in first:
            notes.append("columns without a name are called x0, x1, … by their place")
        skipped += consumed
    else:
        names = named_by_comment or tuple(f"x{j}" for j in range(len(first)))
    _refuse_duplicates(names, path)
    return Dialect(
        delimiter, names, start + sum(len(line.encode()) for line in lines[:skipped]), skipped + 1, tuple(notes)
    )


def _sample(path: Path) -> tuple[bytes, bool]:
    """The first bytes, at least two lines of them, cut after a newline; and whether that is the whole file."""
    with opened(path) as handle:
        sample = bytearray()
        newlines = 0
        while newlines < 2:
            more = handle.read(SAMPLE_BYTES)
            sample += more
            newlines += more.count(b"\n")
            if not more:
                break
            if len(sample) > MAX_LINE_BYTES:
                raise DataError(
                    f"one line is longer than {MAX_LINE_BYTES >> 20} MiB: this is no table", where=str(path)
                )
        complete = len(sample) < SAMPLE_BYTES or not handle.read(1)
    sample = bytes(sample)
    if not sample.strip():
        raise DataError("the file is empty", where=str(path), remedy="Give a file with rows in it.")
    if sample[:2] in _OTHER_ENCODINGS:
        raise DataError(
            f"the text is encoded in {_OTHER_ENCODINGS[sample[:2]]}", where=str(path), remedy="Save it as UTF-8."
        )
    if b"\0" in sample:
        raise DataError("the file holds NUL bytes: it is not a text table", where=str(path))
    if b"\r" in sample and b"\n" not in sample:
        raise DataError(
            "lines end in a bare carriage return", where=str(path), remedy="Save it with line ends \\n or \\r\\n."
        )
    return (sample if complete else sample[: sample.rfind(b"\n") + 1]), complete


def refuse_encoding(error: UnicodeDecodeError, path: Path, line: int) -> DataError:
    """The refusal of text that is not UTF-8; ``line`` is where the undecodable bytes begin to be read."""
    at = line + error.object[: error.start].count(b"\n")
    return DataError(
        f"byte 0x{error.object[error.start]:02x} is not UTF-8 text",
        where=f"{path}, line {at}",
        remedy="Save the file as UTF-8.",
    )


def _decoded_lines(sample: bytes, path: Path) -> list[str]:
    """Lines with their ends; newlines only, because other separators may stand inside cells."""
    try:
        text = sample.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse_encoding(error, path, 1) from None
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _leading_comments(lines: Sequence[str]) -> tuple[int, str]:
    """How many blank and comment lines come first, and the last comment."""
    comment = ""
    for count, line in enumerate(lines):
        if line.startswith("#"):
            comment = line
        elif line.strip():
            return count, comment
    return len(lines), comment


def parser(lines: Sequence[str] | Iterator[str], delimiter: str, *, strict: bool = True) -> "Iterator[list[str]]":
    """The standard library's reader with our settings."""
    if delimiter == " ":
        lines = (line.strip() for line in lines)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=strict)


def _records(lines: Sequence[str], delimiter: str, complete: bool) -> tuple[list[list[str]], int]:
    """The first rows, and how many lines the very first of them takes."""
    reader = csv.reader(
        (line.strip() if delimiter == " " else line for line in lines), delimiter=delimiter, skipinitialspace=True
    )
    records: list[list[str]] = []
    consumed = 0
    try:
        for record in reader:
            if record:
                consumed = consumed or reader.line_num
                records.append(record)
            if len(records) > SAMPLE_ROWS:
                return records, consumed
    except csv.Error:  # not this delimiter, or damage that reading will name with its line
        pass
    if not complete and len(records) > 1:
        records.pop()  # the sample may end inside it
    return records, consumed


def _find_delimiter(lines: Sequence[str], complete: bool) -> str:
    """The separator that occurs in the first row and gives most rows its number of cells; a comma in doubt."""
    best, best_share = ",", 0.0
    for candidate in (",", ";", "\t", " "):
        records, _ = _records(lines, candidate, complete)
        if not records or len(records[0]) < 2:
            continue
        first, rest = records[0], records[1:]
        share = sum(len(row) == len(first) for row in rest) / len(rest) if rest else 1.0
        if candidate == " " and not (rest and share == 1 and all(is_number(c) for row in rest for c in row)):
            continue
        # ragged files keep the comma, so that the message names the ragged row
        if share > best_share or candidate == ",":
            best, best_share = candidate, share
    return best


def _is_header(
    first: Sequence[str], rest: Sequence[Sequence[str]], lines: Sequence[str], consumed: int, delimiter: str
) -> bool:
    """Whether the first row names the columns; see the module's docstring."""
    quoted = _all_quoted(first, "".join(lines[:consumed]), delimiter)
    if quoted and rest and not _all_quoted(rest[0], lines[consumed], delimiter):
        return True

    any_text = any(not is_number(c) and not is_gap(c) for c in first)
    turned_text = False
    for j, cell in enumerate(first):
        below = [row[j] for row in rest if j < len(row) and not is_gap(row[j])]
        numeric_below = 2 * sum(is_number(c) for c in below) > len(below)
        if is_number(cell) and numeric_below:
            return False
        turned_text |= is_number(cell) and bool(below)
    return any_text or turned_text or (quoted and all(is_gap(c) for c in first))


def _all_quoted(cells: Sequence[str], line: str, delimiter: str) -> bool:
    """Whether a line is exactly its cells, each in double quotes."""
    quoted = delimiter.join('"' + c.replace('"', '""') + '"' for c in cells)
    return line.rstrip("\r\n") == quoted


def _comment_names(comment: str, delimiter: str, width: int) -> tuple[str, ...] | None:
    """Column names out of a comment line with one word per column, none of them a number."""
    text = comment.lstrip("#").strip()
    if not text:
        return None
    try:
        names = next(iter(csv.reader([text], delimiter=delimiter, skipinitialspace=True)), [])
    except csv.Error:  # a carriage return inside it, or a cell without end: no list of names
        return None
    ok = len(names) == width and len(set(names)) == width and not any(is_number(n) or is_gap(n) for n in names)
    return tuple(names) if ok else None


def _refuse_duplicates(names: Sequence[str], path: Path) -> None:
    seen: dict[str, int] = {}
    for j, name in enumerate(names):
        if name in seen:
            raise DataError(
                f"columns {seen[name] + 1} and {j + 1} are both called {name!r}",
                where=str(path),
                remedy="Give every column its own name.",
            )
        seen[name] = j
