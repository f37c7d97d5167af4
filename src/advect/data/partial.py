"""Rows of which some cells are unknown and shall be completed.

Such a file has the model's columns, or some of them: a column that is absent is unknown in every row, and so is an
empty cell. That is another meaning than a gap has in training data, where it says that the value *is* missing. In
arrays and pictures NaN stands for an unknown number; nowhere else does an array hold NaN.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from advect.data.align import bounds, is_plain_array
from advect.data.codec import Codec
from advect.data.kinds import is_gap
from advect.data.levels import cast, column_form, read_column, restore_column
from advect.data.read import read_table
from advect.data.schema import default_names
from advect.data.select import take_rows
from advect.errors import DataError, ShapeError, unknown_name
from advect.records import Column, Schema, Table


@dataclass(frozen=True)
class PartialRows:
    """Rows with unknown cells.

    Attributes:
        table: All modelled columns in the model's order; gaps where unknown.
        known: ``(rows, columns)`` bool.
    """

    table: Table
    known: Bool[np.ndarray, "rows columns"]

    def taken(self, rows: np.ndarray) -> "PartialRows":
        """The rows of these indices, in this order; a row may stand several times."""
        return PartialRows(take_rows(self.table, rows), self.known[rows])

    def coordinates(self, codec: Codec, generator: Generator) -> Float[Tensor, "batch *event"]:
        """The rows in the codec's coordinates, float64, NaN where unknown.

        A discrete value is known up to its cell: the noise inside is drawn. Every indicator of a gap says *present*,
        in unknown cells too: what is asked for is their value.

        Raises:
            DataError: A known cell whose value cannot occur; names the row and the column.
        """
        schema = codec.schema
        if schema.image:
            columns = [self._filled_pixel(j, column) for j, column in enumerate(schema.columns)]
            coded = codec.encode(replace(self.table, columns=tuple(columns)), generator=generator, dtype=torch.float64)
            self._refuse(coded.status.numpy() != 0, "a pixel that this model cannot draw")
            known = torch.from_numpy(self.known)
            return torch.where(known.reshape(coded.values.shape), coded.values, torch.nan)
        for j, column in enumerate(schema.columns):
            outside = read_column(self.table.columns[j], column, self.table.origin)[1]
            self._refuse(outside & self.known[:, j], f"a value that column {column.name!r} cannot have")
        values = codec.encode(self.table, generator=generator, dtype=torch.float64).values
        known = torch.from_numpy(self.known)
        for i, coordinate in enumerate(codec.coordinates):
            if coordinate.role == "indicator":
                values[:, i] = values[:, i] - values[:, i].floor()
            else:
                values[:, i] = torch.where(known[:, coordinate.column], values[:, i], torch.nan)
        return values

    def put_back(self, drawn: Table, schema: Schema) -> Table:
        """The drawn table, a row for each of these, with the known cells as they were given."""
        columns = []
        for j, column in enumerate(schema.columns):
            known = self.known[:, j]
            given = self._restored(j, column, schema)
            values = drawn.columns[j]
            if known.any() and not known.all() and values.dtype != given.dtype:
                values, given = (part.astype(np.result_type(values, given)) for part in (values, given))
            columns.append(given if known.all() else np.where(known, given, values))
        return replace(drawn, columns=tuple(columns))

    def _restored(self, j: int, column: Column, schema: Schema) -> np.ndarray:
        """A column of given values in the model's dtype; anything where they are unknown."""
        values, nothing = self.table.columns[j], np.zeros(len(self.known), bool)
        if schema.image:
            return cast(self._filled_pixel(j, column), nothing, column)
        numbers, _ = read_column(values, column, self.table.origin)
        numbers = np.where(np.isnan(numbers), 0.0, numbers)
        if column_form(column) in ("real", "whole"):
            return cast(numbers, nothing, column)
        return restore_column(numbers, nothing, column)

    def _filled_pixel(self, j: int, column: Column) -> np.ndarray:
        return np.where(self.known[:, j], self.table.columns[j].astype(np.float64), bounds(column)[0])

    def _refuse(self, bad: np.ndarray, what: str) -> None:
        if bad.any():
            raise DataError(
                f"{what} in {int(bad.sum())} rows, the first of them row {int(np.argmax(bad))} (counted from 0)",
                where=self.table.origin,
                remedy="Mend the value, or leave the cell empty.",
            )


def read_partial(source: Any, schema: Schema) -> PartialRows:
    """Read rows to be completed.

    Args:
        source: As for `read_table`; NaN in arrays is unknown.
        schema: Of the model.

    Raises:
        UnknownNameError: A column that the model does not have; the nearest one is offered.
        ShapeError: An array of another width.
        DataError: Nothing is known, or nothing is unknown; or what `read_table` refuses.
    """
    table = read_table(source, min_rows=1, gaps=True)
    columns = _placed(table, schema)
    known = ~np.stack([is_gap(values) for values in columns], 1)
    if not known.any():
        raise DataError(
            "nothing is given: every cell is unknown",
            where=table.origin,
            remedy="Fill some cells, or draw whole rows with `advect sample` without --given.",
        )
    if known.all():
        raise DataError(
            "every cell is given: there is nothing to complete",
            where=table.origin,
            remedy="Leave cells empty, or a column out (NaN in an array).",
        )
    place = dict(zip(table.names, table.columns, strict=True))
    given = {c.name: place[c.name] for c in schema.condition if c.name in place}
    # Not as an array, in which the codec would refuse gaps.
    whole = replace(table, names=schema.names, columns=tuple(columns), container="csv", image=schema.image)
    return PartialRows(replace(whole, event_shape=schema.event_shape, sides={**table.sides, **given}), known)


def _placed(table: Table, schema: Schema) -> list[np.ndarray]:
    """The columns in the model's order, absent ones as gaps: by position in arrays, else by name."""
    nameless = table.names == default_names(len(table.names)) and not set(table.names) & set(schema.names)
    if schema.image or nameless or is_plain_array(table):
        if len(table.columns) != len(schema.columns):
            raise ShapeError(
                f"rows of {len(schema.columns)} numbers are expected, rows of {len(table.columns)} were found",
                where=table.origin,
                remedy="Give rows of the model's shape, with NaN for what is unknown.",
            )
        return list(table.columns)
    place = dict(zip(table.names, table.columns, strict=True))
    conditions = {column.name for column in schema.condition}
    for name in table.names:
        if name not in conditions and name not in schema.names:
            raise unknown_name("column", name, schema.names, where=table.origin)
    return [place[c.name] if c.name in place else _unknown(c, table.num_rows) for c in schema.columns]


def _unknown(column: Column, rows: int) -> np.ndarray:
    return np.full(rows, None, object) if column.kind == "categorical" else np.full(rows, np.nan)
