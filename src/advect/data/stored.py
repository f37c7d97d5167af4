"""Columns of rows that are not in memory: those asked for are read, and nothing else.

`Rows` is where rows lie, in memory or not: a file that is mapped, pictures that are decoded when they are wanted.
`StoredColumns` stands in a `Table` where its columns would: choosing some of the rows reads nothing, and a choice small
enough to be held is read once, when one of its columns is looked at. What would need all rows at once is refused rather
than read in silence; whoever can go through them in blocks says so by `blocks_of`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from advect.data.extent import Extent, extent_of
from advect.errors import DataError
from advect.records import Table

HELD_VALUES = 1 << 26
"""Numbers that a choice of rows may hold in memory at once."""
BLOCK_VALUES = 1 << 22
"""Numbers in a block of a pass over all rows."""
SAMPLE_VALUES = 1 << 24
"""Numbers in the rows that stand for all of them where a pass over all would say no more: 128 MiB in float64."""


@runtime_checkable
class Rows(Protocol):
    """Rows that can be had in any order, wherever they lie.

    Attributes:
        shape: ``(rows, *event)``.
        dtype: Of the numbers.
        at_once: Rows that are best asked for together.
        workers: How many may ask at the same time, to some use.
        extent: What is known of the values without looking at them; None where they must be looked at.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    at_once: int
    workers: int
    extent: Extent | None

    def take(self, index: np.ndarray) -> np.ndarray:
        """``(len(index), *event)`` numbers of the rows of these indices, in memory."""
        ...

    def notes(self) -> list[str]:
        """What happened to rows that were asked for and that the user should know."""
        ...

    def fingerprint(self) -> str | None:
        """A digest of what lies there, or None where the values themselves must tell."""
        ...


class StoredColumns:
    """The columns of `Rows`, or of some of the rows, or some of the columns.

    Args:
        rows: Where they lie.
        origin: For messages.
        chosen: ``(chosen,)`` indices of rows; None for all of them.
        places: ``(columns,)`` indices of columns of the flattened rows; None for all of them.
        extent: What is known of the values of these very rows and columns.
    """

    def __init__(
        self,
        rows: Rows,
        origin: str,
        chosen: np.ndarray | None = None,
        places: np.ndarray | None = None,
        extent: Extent | None = None,
    ) -> None:
        self.rows, self.origin, self._chosen, self._places = rows, origin, chosen, places
        self._width = int(np.prod(rows.shape[1:], dtype=np.int64))
        if extent is not None:
            self.extent = extent

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.rows.shape[0] if self._chosen is None else len(self._chosen)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.array.T)

    def __len__(self) -> int:
        return self._width if self._places is None else len(self._places)

    def __getitem__(self, place: int) -> np.ndarray:
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self.array[:, place]

    @cached_property
    def array(self) -> np.ndarray:
        """``(rows, columns)`` in memory.

        Raises:
            DataError: They are too many to be held at once.
        """
        if self.num_rows * len(self) > HELD_VALUES:
            raise DataError(
                f"this needs {self.num_rows} rows of {len(self)} numbers in memory at once, and they stay on disk",
                where=self.origin,
                remedy=f"Give a part of the rows: up to {max(1, HELD_VALUES // len(self))} can be held.",
            )
        return self._read(np.arange(self.num_rows))

    @cached_property
    def extent(self) -> Extent:
        """Bounds and whole-valuedness of every column, by one pass over the rows."""
        if self.rows.extent is not None:
            return self.rows.extent if self._places is None else self.rows.extent.select(self._places)
        return extent_of(self.blocks(), self.num_rows)

    def take(self, index: np.ndarray) -> "StoredColumns":
        """Some of the rows; nothing is read."""
        chosen = np.asarray(index, np.int64) if self._chosen is None else self._chosen[index]
        return StoredColumns(self.rows, self.origin, chosen, self._places)

    def select(self, places: Sequence[int]) -> "StoredColumns":
        """Some of the columns; nothing is read."""
        kept = np.asarray(places, np.int64)
        known = self.__dict__.get("extent")
        kept_extent = None if known is None else known.select(kept)
        kept = kept if self._places is None else self._places[kept]
        return StoredColumns(self.rows, self.origin, self._chosen, kept, kept_extent)

    def column(self, place: int) -> np.ndarray:
        """One column of all rows, ``(rows,)``, by a pass over them."""
        if "array" in self.__dict__:
            return self.array[:, place]
        one = self.select([place])
        parts = [one._read(np.arange(*span)) for span in self._spans()]
        return np.concatenate(parts)[:, 0] if parts else np.empty(0, self.rows.dtype)

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in turn, ``(block, columns)`` at a time."""
        for span in self._spans():
            yield self._read(np.arange(*span))

    def _spans(self) -> Iterator[tuple[int, int]]:
        step = max(1, BLOCK_VALUES // self._width)
        for start in range(0, self.num_rows, step):
            yield start, min(start + step, self.num_rows)

    def _read(self, index: np.ndarray) -> np.ndarray:
        index = index if self._chosen is None else self._chosen[index]
        flat = self.rows.take(index).reshape(len(index), self._width)
        return flat if self._places is None else flat[:, self._places]


def on_disk(table: Table) -> StoredColumns | None:
    """The columns of a table whose rows are not in memory; None where they are."""
    return table.columns if isinstance(table.columns, StoredColumns) else None


def blocks_of(table: Table) -> Iterator[Table]:
    """A table in blocks of rows that fit in memory: as it is where it is in memory.

    Side arrays go with their rows.
    """
    columns = on_disk(table)
    if columns is None or columns.num_rows * len(columns) <= BLOCK_VALUES:
        yield table
        return
    for start, stop in columns._spans():
        sides = {name: values[start:stop] for name, values in table.sides.items()}
        yield replace(table, columns=columns.take(np.arange(start, stop)), sides=sides)


def rows_to_hold(table: Table) -> int:
    """How many rows of a table may be looked at together: all where they are in memory."""
    columns = on_disk(table)
    return table.num_rows if columns is None else min(table.num_rows, max(2, SAMPLE_VALUES // max(len(columns), 1)))
