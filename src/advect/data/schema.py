"""What kind of thing each column is, and how to write that down.

A column is modelled by what its values are, not by how they are stored: a float column that only holds whole numbers is
an ``integer`` column (its log-likelihood is a probability, not a density that grows without bound as the model sharpens
around the integers), text is ``categorical``, the rest is ``continuous``. The dtype is kept beside the kind and given
back in samples. `schema_to_dict` holds no None and only plain values, so that it may be stored as TOML or JSON.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from advect.data.arrays import refuse_width
from advect.data.kinds import as_floats, infer_column, is_gap, is_whole, stack_numbers
from advect.data.stored import StoredColumns, on_disk
from advect.errors import DataError, UnknownNameError, unknown_name
from advect.records import Column, Schema, Table

MOST_LABELS = 20
_COLUMN_KEYS = ("name", "kind", "dtype", "minimum", "maximum", "categories", "missing", "unit")


def infer_schema(table: Table, *, condition: Sequence[str] = ()) -> Schema:
    """Decide the kind, bounds and categories of every column.

    Args:
        table: All rows, held-out ones included: bounds and categories are facts about the data set.
        condition: Columns (or side arrays) that are given rather than modelled.

    Raises:
        UnknownNameError: A condition that is neither a column nor a side array.
        DataError: A column of a type that cannot be modelled, or one that looks like an identifier.
    """
    given = tuple(_condition_column(table, name) for name in dict.fromkeys(condition))
    far = on_disk(table)
    if far is not None:
        columns = _stored_columns(table, far, set(condition))
    elif table.image:
        columns = _pixel_columns(table)
    else:
        taken = set(condition)
        columns = tuple(
            infer_column(name, values, dtype, table.origin, declared=table.categories.get(name))
            for name, values, dtype in zip(table.names, table.columns, table.dtypes, strict=True)
            if name not in taken
        )
    whole = len(columns) == len(table.columns)
    return Schema(
        columns=columns,
        container=table.container,
        event_shape=table.event_shape if whole else (len(columns),),
        image=table.image,
        condition=given,
        key=table.key,
    )


def schema_to_dict(schema: Schema) -> dict[str, Any]:
    """The schema as plain lists, texts and numbers without None; exact under JSON."""
    result: dict[str, Any] = {
        "container": schema.container,
        "event_shape": list(schema.event_shape),
        "image": schema.image,
        "condition": [column_to_dict(c) for c in schema.condition],
    }
    if schema.image:  # the pixels share everything but their names
        first = schema.columns[0]
        result["pixel"] = {k: v for k, v in column_to_dict(first).items() if k != "name"}
        if schema.names != default_names(len(schema.columns)):
            result["pixel_names"] = list(schema.names)
    else:
        result["columns"] = [column_to_dict(c) for c in schema.columns]
    if schema.key is not None:
        result["key"] = schema.key
    return result


def schema_from_dict(stored: Mapping[str, Any]) -> Schema:
    """The inverse of `schema_to_dict`.

    Raises:
        DataError: A key that is missing or unknown.
    """
    image = bool(stored.get("image"))
    required = {"container", "event_shape", "image", "condition"} | ({"pixel"} if image else {"columns"})
    only_keys(stored, required, {"key", "pixel_names"} if image else {"key"}, "schema")
    shape = tuple(int(n) for n in stored["event_shape"])
    if image:
        refuse_width(math.prod(shape), "the stored schema")
        names = stored.get("pixel_names") or default_names(math.prod(shape))
        columns = tuple(column_from_dict({"name": name, **stored["pixel"]}) for name in names)
    else:
        columns = tuple(column_from_dict(c) for c in stored["columns"])
    return Schema(
        columns=columns,
        container=stored["container"],
        event_shape=shape,
        image=image,
        condition=tuple(column_from_dict(c) for c in stored["condition"]),
        key=stored.get("key"),
    )


def only_keys(stored: Mapping[str, Any], required: Collection[str], optional: Collection[str], what: str) -> None:
    """Refuse a stored ``what`` whose keys are not exactly the known ones.

    Raises:
        DataError: Keys that are missing, or unknown (such as from a newer version).
    """
    missing = sorted(set(required) - set(stored))
    unknown = sorted(set(stored) - set(required) - set(optional))
    if missing or unknown:
        parts = ([f"lacks {', '.join(missing)}"] if missing else []) + (
            [f"holds the unknown {', '.join(unknown)}"] if unknown else []
        )
        raise DataError(
            f"the stored {what} {' and '.join(parts)}",
            remedy="The file is damaged or was written by another version of advect.",
        )


def _condition_column(table: Table, name: str) -> Column:
    found = None if table.image else find_array(table, name)
    if found is None:
        found = table.sides.get(name)
    if found is None:
        known = [*(() if table.image else table.names), *table.sides]
        if not known:
            raise UnknownNameError(
                f"There is no column {name!r}: the data are pictures without side columns",
                where=table.origin,
                remedy="Give labels as another array of equal length in the same .npz file.",
            )
        raise unknown_name("column", name, known, where=table.origin)
    if found.ndim != 1:
        raise DataError(
            f"the condition {name!r} has shape {found.shape}; one value per row is needed", where=table.origin
        )
    dtype = table.dtypes[table.names.index(name)] if name in table.names and not table.image else _dtype_name(found)
    column = infer_column(name, found, dtype, table.origin, declared=table.categories.get(name))
    if column.minimum is None and not column.categories:
        raise DataError(f"the condition {name!r} holds nothing but gaps", where=table.origin)
    if column.kind == "integer" and not column.categories:  # few whole values are labels
        distinct = np.unique(as_floats(found[~is_gap(found)]))
        if len(distinct) <= MOST_LABELS:
            return replace(column, categories=tuple(int(v) for v in distinct))
    return column


def find_array(table: Table, name: str) -> np.ndarray | None:
    """The column, or else the side array, called ``name``; None if there is neither."""
    if name in table.names:
        place, columns = table.names.index(name), on_disk(table)
        return table.columns[place] if columns is None else columns.column(place)
    return table.sides.get(name)


def _pixel_columns(table: Table) -> tuple[Column, ...]:
    """Pixels are alike: one kind, one range, the widest of all."""
    values = stack_numbers(table.columns)
    if values.dtype.kind not in "biuf":
        raise DataError(f"pixels of type {values.dtype} cannot be modelled", where=table.origin)
    kind = "integer" if is_whole(values) else "continuous"
    low, high = (float(values.min()), float(values.max())) if values.size else (None, None)
    return tuple(Column(name, kind, dtype, low, high) for name, dtype in zip(table.names, table.dtypes, strict=True))


def _stored_columns(table: Table, columns: StoredColumns, given: Collection[str]) -> tuple[Column, ...]:
    """The same of rows on disk, by one pass over them."""
    found = columns.extent.columns(table.names, table.dtypes, truth=columns.rows.dtype.kind == "b" and not table.image)
    if not table.image:
        return tuple(column for column in found if column.name not in given)
    kind = "integer" if columns.extent.whole.all() else "continuous"
    low, high = float(columns.extent.minimum.min()), float(columns.extent.maximum.max())
    return tuple(Column(name, kind, dtype, low, high) for name, dtype in zip(table.names, table.dtypes, strict=True))


def _dtype_name(values: np.ndarray) -> str:
    return "str" if values.dtype.kind in "OUST" else str(values.dtype)


def default_names(count: int) -> tuple[str, ...]:
    """The names of columns that have none: ``x0, x1, …``."""
    return tuple(f"x{i}" for i in range(count))


def column_to_dict(column: Column) -> dict[str, Any]:
    """One column as plain values, without what is empty."""
    result = {key: getattr(column, key) for key in _COLUMN_KEYS}
    result["categories"] = list(column.categories)
    return {k: v for k, v in result.items() if v is not None and v != [] and v is not False}


def column_from_dict(stored: Mapping[str, Any]) -> Column:
    """The inverse of `column_to_dict`; refuses unknown keys."""
    only_keys(stored, {"name", "kind", "dtype"}, _COLUMN_KEYS, "column")
    values: dict[str, Any] = {**stored, "categories": tuple(stored.get("categories", ()))}
    return Column(**values)
