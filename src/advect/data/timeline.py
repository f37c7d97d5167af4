"""Rows observed at several times: the column of times, and the axis on which a flow runs through them.

Times are numbers, texts that hold one number each and are otherwise alike ("day4", "D7.5", "4h"), or the levels of an
ordered category without numbers, which then stand one apart. A flow's own axis is [0, 1] from the first to the last
time; users see and give their own times.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advect.data.kinds import is_gap
from advect.data.schema import find_array
from advect.errors import ConfigError, DataError, unknown_name
from advect.records import Table

FEWEST_ROWS = 20
"""Rows that a time must have: a tenth of them is kept for the figures, and two rows are the least to compare with."""

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")  # "E8.5" is a time and no power of ten


@dataclass(frozen=True)
class Timeline:
    """The times of a set of snapshots.

    Attributes:
        key: Name of the column or side array that holds them.
        times: At least two, rising, in the user's units.
        words: Each as the data write it.
        pattern: How a time is written, with ``{}`` for its number.
        text: Whether the data hold text rather than numbers.
        left_out: Which of the times no model is trained on; never the first or the last.
    """

    key: str
    times: tuple[float, ...]
    words: tuple[str, ...]
    pattern: str = "{}"
    text: bool = False
    left_out: tuple[float, ...] = ()

    @property
    def trained(self) -> tuple[float, ...]:
        """The times that a model is trained on."""
        return tuple(time for time in self.times if time not in self.left_out)

    @property
    def duration(self) -> float:
        """From the first time to the last, in the user's units."""
        return self.times[-1] - self.times[0]

    def position(self, time: float) -> float:
        """Where a time stands on the axis [0, 1].

        Raises:
            ConfigError: Before the first time or after the last: nothing was learnt there.
        """
        if not self.times[0] <= time <= self.times[-1]:
            raise ConfigError(
                f"{self.word(time)} lies outside the times of the data, {self.words[0]} to {self.words[-1]}",
                where=self.key,
                remedy="Ask for a time between them: beyond, nothing was learnt.",
            )
        return (time - self.times[0]) / self.duration

    def time(self, position: float) -> float:
        """The inverse of `position`."""
        return self.times[0] + position * self.duration

    def word(self, time: float) -> str:
        """A time as the data would write it."""
        for known, word in zip(self.times, self.words, strict=True):
            if known == time:
                return word
        return self.pattern.format(f"{time:g}")

    def phrase(self, time: float) -> str:
        """A time as a sentence can take it: ``day4``, or ``t 4`` where the data hold numbers."""
        return timed_phrase(self.key, self.word(time))

    def parse(self, given: Any, *, where: str = "time") -> float:
        """A time as a user states it: a number, or text as in the data; it need not be one of the data's.

        Raises:
            ConfigError: Neither.
        """
        if isinstance(given, str):
            word = given.strip()
            if word in self.words:
                return self.times[self.words.index(word)]
            read = _plain_number(word)
            if read is None and self.pattern != "{}":
                number, pattern = _split(word)
                read = number if pattern is not None and pattern.lower() == self.pattern.lower() else None
            if read is not None:
                return read
        elif isinstance(given, int | float | np.number) and math.isfinite(float(given)):
            return float(given)
        raise ConfigError(
            f"{given!r} is no time of this data",
            where=where,
            remedy=f"Write a number, or as the data do: {_listed(self.words)}.",
        )

    def neighbours(self, time: float) -> tuple[float, float]:
        """The trained times next before and next after a time that lies between two."""
        before = [known for known in self.trained if known < time]
        after = [known for known in self.trained if known > time]
        return before[-1], after[0]

    def without(self, given: Sequence[Any]) -> "Timeline":
        """The same axis with times left out of training.

        Raises:
            ConfigError: A time that the data do not have, the first or the last, or too many of them.
        """
        chosen = []
        for one in given:
            time = self.parse(one, where="--leave-out")
            if time not in self.times:
                raise ConfigError(
                    f"the data have no time {self.word(time)}",
                    where="--leave-out",
                    remedy=f"Known: {_listed(self.words)}.",
                )
            if time in (self.times[0], self.times[-1]):
                raise ConfigError(
                    f"{self.word(time)} is the {'first' if time == self.times[0] else 'last'} time: a model cannot be "
                    "asked about what lies outside the times it was trained on",
                    where="--leave-out",
                    remedy=f"Leave out a time between two others{_inner(self.words)}.",
                )
            chosen.append(time)
        return replace(self, left_out=tuple(sorted(set(chosen))))

    def column(self, times: np.ndarray) -> np.ndarray:
        """Times ``(rows,)`` in the user's units as a column of the data's own kind."""
        if not self.text:
            whole = all(float(time).is_integer() for time in (*self.times, *np.unique(times).tolist()))
            return times.astype(np.int64) if whole else times
        result = np.empty(len(times), dtype=object)
        words = {time: self.word(float(time)) for time in np.unique(times).tolist()}
        result[:] = [words[time] for time in times.tolist()]
        return result

    def read(self, table: Table) -> np.ndarray | None:
        """The ``(rows,)`` times of another table, in the user's units; None where it has no such column.

        Raises:
            DataError: A time that is missing or cannot be read.
        """
        values = find_array(table, self.key)
        if values is None:
            return None
        where = f"{table.origin}, column {self.key!r}"
        _refuse_gaps(values, where)
        if values.dtype.kind in "iuf":
            return values.astype(np.float64)
        try:
            known = {word: self.parse(word) for word in dict.fromkeys(map(str, values.tolist()))}
        except ConfigError as error:
            raise DataError(error.what, where=where, remedy=error.remedy) from error
        return np.array([known[str(word)] for word in values.tolist()])


def timed_phrase(key: str, word: str) -> str:
    """The word of a time, with the name of its column where it is a bare number.

    >>> timed_phrase("day", "4"), timed_phrase("day", "day4")
    ('day 4', 'day4')
    """
    return word if any(letter.isalpha() for letter in word) else f"{key} {word}"


def read_timeline(table: Table, key: str) -> tuple[Timeline, np.ndarray]:
    """The times of a table and the ``(rows,)`` index of each row's time.

    Args:
        table: Rows with a column, or a side array, of times.
        key: Its name.

    Raises:
        UnknownNameError: No such column.
        DataError: Times that are missing, cannot be put in order, are all the same, or have too few rows.
    """
    values = find_array(table, key) if not table.image else table.sides.get(key)
    where = f"{table.origin}, column {key!r}"
    if values is None:
        names = (() if table.image else table.names) + tuple(table.sides)
        raise unknown_name("column", key, names, where=f"{table.origin}, --time-key")
    if values.ndim != 1:
        raise DataError(f"times of shape {values.shape}; one per row is needed", where=where)
    if values.dtype.kind == "b":
        raise DataError("true and false are no times", where=where, remedy="Name a column of numbers or of texts.")
    _refuse_gaps(values, where)
    if values.dtype.kind in "iuf":
        times, snapshot = np.unique(values.astype(np.float64), return_inverse=True)
        line = Timeline(key, tuple(times.tolist()), tuple(f"{time:g}" for time in times))
        if len(set(line.words)) < len(line.words):  # more digits than a person writes
            line = replace(line, words=tuple(repr(time) for time in line.times))
    else:
        ordered = table.categories.get(key) if key in table.ordered else None
        line, snapshot = _text_times(np.array([str(v) for v in values.tolist()]), key, ordered, where)
    _refuse_few(line, np.bincount(snapshot, minlength=len(line.times)), where)
    return line, snapshot.astype(np.int64)


def _text_times(values: np.ndarray, key: str, ordered: Sequence[Any] | None, where: str) -> tuple[Timeline, np.ndarray]:
    """Times from texts: their numbers where they have one each, else their declared order."""
    words, index = np.unique(values, return_inverse=True)
    parts = [_split(word.strip()) for word in words.tolist()]
    patterns = {pattern.lower() for _, pattern in parts if pattern is not None}
    if all(pattern is not None for _, pattern in parts) and len(patterns) == 1:
        numbers = np.array([number for number, _ in parts])
        if len(set(numbers.tolist())) < len(numbers):
            raise DataError(f"one time is written in several ways: {_listed(words.tolist())}", where=where)
        pattern = str(parts[0][1])
    elif ordered is not None:
        place = {str(level): i for i, level in enumerate(level for level in ordered if str(level) in set(words))}
        numbers, pattern = np.array([float(place[word]) for word in words.tolist()]), "{}"
    else:
        mixed = len(patterns) > 1 and all(pattern is not None for _, pattern in parts)
        raise DataError(
            f"the times are written in different ways: {_listed(words.tolist())}"
            if mixed
            else f"the times {_listed(words.tolist())} are words without an order",
            where=where,
            remedy="Write them all in one unit, or as numbers."
            if mixed
            else "Write numbers, or texts with one number each such as day4; or declare an order (an ordered category "
            "of a data frame).",
        )
    order = np.argsort(numbers)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    names = tuple(words[order].tolist())
    return Timeline(key, tuple(numbers[order].tolist()), names, pattern, text=True), rank[index]


def _split(word: str) -> tuple[float, str | None]:
    """The one number of a text and the text around it; no pattern where it has none or several."""
    found = list(_NUMBER.finditer(word))
    if len(found) != 1:
        return math.nan, None
    start, end = found[0].span()
    if start == 1 and word[0] == "-":  # a sign; elsewhere a hyphen only separates
        return -float(found[0].group()), "{}" + word[end:].replace("{", "{{").replace("}", "}}")
    around = [part.replace("{", "{{").replace("}", "}}") for part in (word[:start], word[end:])]
    return float(found[0].group()), around[0] + "{}" + around[1]


def _plain_number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _refuse_gaps(values: np.ndarray, where: str) -> None:
    gaps = is_gap(values)
    if gaps.any():
        raise DataError(
            f"{int(gaps.sum())} rows have no time, first row {int(gaps.argmax())} (counted from 0)",
            where=where,
            remedy="Drop those rows, or fill in their times.",
        )


def _refuse_few(line: Timeline, counts: np.ndarray, where: str) -> None:
    if len(line.times) < 2:
        raise DataError(
            f"all rows are of one time, {line.words[0]}",
            where=where,
            remedy="A flow through time needs two times or more; leave --time-key out to learn a single one.",
        )
    few = np.flatnonzero(counts < FEWEST_ROWS)
    if len(few):
        first = int(few[0])
        whole = f"{len(few)} of {len(counts)} times have" if len(few) > 1 else f"the time {line.words[first]} has"
        raise DataError(
            f"{whole} fewer than {FEWEST_ROWS} rows; {line.words[first]} has {int(counts[first])}",
            where=where,
            remedy="Merge neighbouring times, or leave those rows out.",
        )


def _listed(words: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(str(word) for word in words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"


def _inner(words: Sequence[str]) -> str:
    return f": {_listed(words[1:-1])}" if len(words) > 2 else "; these data have only two"
