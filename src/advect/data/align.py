"""Bringing a table to a model's columns: by name where there are names, by position where there are none.

An array has no names, so its width and shape must be those of the model; a table's columns may stand in any order and
may have company. What does not fit is refused with what was expected and what was found. The values are read as the
schema's kinds: numbers as float64 with NaN for gaps, levels as indices.
"""

from collections.abc import Sequence

import numpy as np

from advect.data.arrays import refuse_non_finite
from advect.data.kinds import WIDEST_RANGE, is_gap
from advect.data.schema import default_names
from advect.errors import DataError, ShapeError, nearest
from advect.records import Column, Columns, Finding, Schema, Table

GAP = -1
UNKNOWN = -2
ARRAYS = ("npy", "npz", "numpy", "torch")


def is_plain_array(table: Table) -> bool:
    """Whether the rows came as an array without column names, where NaN is damage and not a gap.

    A structured array has named fields: it is a table, and its gaps are NaN.
    """
    return table.container in ARRAYS and table.names == default_names(len(table.names))


def align(table: Table, schema: Schema) -> tuple[Columns, tuple[Finding, ...]]:
    """The table's arrays in the schema's order (as they are where it is theirs), and a finding for columns left aside.

    Raises:
        ShapeError: An array of another width or event shape.
        DataError: Named columns that are missing.
    """
    _check_shape(table, schema)
    wanted, given = schema.names, {c.name for c in schema.condition}
    if table.names == wanted:
        return table.columns, ()
    if not _has_names(table) and set(table.names) != set(wanted) | given:
        if len(table.columns) != len(wanted):
            raise ShapeError(
                f"rows of {len(wanted)} columns are expected, rows of {len(table.columns)} were found",
                where=table.origin,
                remedy=f"The model knows the columns {_listed(wanted)}.",
            )
        return table.columns, ()
    extra = [name for name in table.names if name not in set(wanted) | given]
    position = {name: i for i, name in enumerate(table.names)}
    missing = [name for name in wanted if name not in position]
    if missing:
        if len(table.columns) == len(wanted) and wanted == default_names(len(wanted)):
            return table.columns, ()  # the model was trained on an array: its names mean positions
        raise _missing_columns(missing, extra, table, schema)
    columns = [table.columns[position[name]] for name in wanted]
    if not extra:
        return columns, ()
    message = f"{len(extra)} column{'s' * (len(extra) > 1)} the model does not know: {_listed(extra)}"
    return columns, (Finding("extra columns", "columns", message, "ignored"),)


def read_numbers(values: np.ndarray, column: Column, origin: str) -> np.ndarray:
    """A numeric column as float64, gaps as NaN.

    Raises:
        DataError: Text where numbers are expected, or an infinite value; names the row.
    """
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
    else:
        numbers = np.full(len(values), np.nan)
        for row in np.flatnonzero(~is_gap(values.astype(object))):
            if isinstance(values[row], (str, bytes)) or not np.isscalar(values[row]):
                raise DataError(
                    f"{str(values[row])!r} is not a number; the model knows the column as {column.kind}",
                    where=f"{origin}, row {row} (counted from 0), column {column.name!r}",
                    remedy="Mend or remove the value; an empty cell counts as missing.",
                )
            numbers[row] = values[row]
    refuse_non_finite(numbers[:, None], [column.name], origin, gaps_allowed=True)
    return numbers


def bounds(column: Column) -> tuple[float, float]:
    """The observed minimum and maximum of a numeric column that has values."""
    assert column.minimum is not None, column.name
    assert column.maximum is not None, column.name
    return column.minimum, column.maximum


def column_levels(column: Column) -> Sequence[str | int | float | bool] | None:
    """The values of a discrete column in order; None where they are not enumerated (a scale, not levels)."""
    if column.kind == "boolean":
        return (False, True)
    if column.categories:
        return column.categories
    if column.kind == "integer" and column.minimum is not None and column.maximum is not None:
        low, high = int(column.minimum), int(column.maximum)
        return range(low, high + 1) if high - low <= WIDEST_RANGE else None
    return None


def level_index(values: np.ndarray, column: Column, origin: str) -> np.ndarray:
    """Index of each value among `column_levels`, `GAP` for a gap and `UNKNOWN` for anything else; int64.

    Raises:
        DataError: A column of another type altogether.
    """
    levels = column_levels(column)
    assert levels is not None
    if column.kind == "categorical":
        return _category_index(values, column, origin)
    numbers = read_numbers(values, column, origin)
    known = np.array([float(v) for v in levels])
    place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)  # NaN sorts last
    index = np.where(known[place] == numbers, place, UNKNOWN)
    return np.where(np.isnan(numbers), GAP, index).astype(np.int64)


def _category_index(values: np.ndarray, column: Column, origin: str) -> np.ndarray:
    levels = column.categories
    lookup: dict[object, int] = {value: i for i, value in enumerate(levels)}
    if values.dtype.kind in "biuf" and all(isinstance(v, str) for v in levels):
        # A file without the texts among its values is read as numbers: '7' is then 7 or 7.0.
        lookup = {number: i for text, i in lookup.items() if (number := _number(text)) is not None}
    try:
        index = np.fromiter((lookup.get(v, UNKNOWN) for v in values.tolist()), np.int64, len(values))
    except TypeError as error:
        raise DataError("holds values that cannot be categories", where=f"{origin}, column {column.name!r}") from error
    index[is_gap(values)] = GAP
    if values.dtype.kind in "biuf" and len(index) and index.max() < 0 and (index == UNKNOWN).any():
        raise DataError(
            f"numbers where one of the categories {_listed([str(v) for v in levels])} is expected",
            where=f"{origin}, column {column.name!r}",
            remedy="Give the column the type it had in training.",
        )
    return index


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _has_names(table: Table) -> bool:
    return table.container not in ARRAYS and table.names != default_names(len(table.names))


def _check_shape(table: Table, schema: Schema) -> None:
    """An array of a shape of its own must have the model's; a flat row of the right length will do."""
    flat = len(table.event_shape) <= 1
    if not flat and table.event_shape != schema.event_shape:
        raise ShapeError(
            f"rows of shape {schema.event_shape} are expected, rows of shape {table.event_shape} were found",
            where=table.origin,
            remedy="Reshape the array, channels first for pictures.",
        )


def _missing_columns(missing: list[str], extra: list[str], table: Table, schema: Schema) -> DataError:
    guesses = {name: nearest(name, extra) for name in missing}
    hints = [f"Is {guess!r} meant to be {name!r}?" for name, guess in guesses.items() if guess]
    return DataError(
        f"the column{'s' * (len(missing) > 1)} {_listed(missing)} of the model {'are' if len(missing) > 1 else 'is'} "
        f"missing ({len(schema.columns)} expected, {len(missing)} not found)",
        where=table.origin,
        remedy=" ".join([*hints[:3], f"The table holds {_listed(table.names)}."]),
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(n) for n in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
