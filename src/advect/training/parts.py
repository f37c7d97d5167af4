"""A record of many rows in parts of some rows each, and back."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advect.records import Record


def parts_of(record: Record, sizes: list[int]) -> list[Record]:
    """The record in parts of so many rows each, one after another; views of the same numbers."""
    columns = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, Tensor):
            columns[f.name] = value.split(sizes)
        elif is_dataclass(value):
            columns[f.name] = parts_of(value, sizes)  # type: ignore[type-var]
        else:
            columns[f.name] = [value] * len(sizes)
    return [type(record)(**dict(zip(columns, part, strict=True))) for part in zip(*columns.values(), strict=True)]


def joined(records: Sequence[Record]) -> Record:
    """The rows of records of one kind, one after another; what is no rows is that of the first."""
    first = records[0]

    def rows(name: str) -> Any:
        value = getattr(first, name)
        every = [getattr(record, name) for record in records]
        return torch.cat(every) if isinstance(value, Tensor) else joined(every) if is_dataclass(value) else value

    return replace(first, **{f.name: rows(f.name) for f in fields(first)})
