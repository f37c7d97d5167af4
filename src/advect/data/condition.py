"""Given columns as a vector that a network can be told.

The vector starts with a 1 that says *a condition is given*; the all-zero vector means that none is, which is what
classifier-free guidance trains with in a share of the rows (Ho and Salimans 2022, §3.2). Then one block per column: one
entry per level for labels, one standardised number for a scale. The block of a gap is zero: for a scale that is the
mean, so a model conditioned on a column with gaps cannot tell the two apart by this block alone.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.data.align import GAP, UNKNOWN, column_levels, level_index, read_numbers
from advect.data.schema import MOST_LABELS, column_from_dict, column_to_dict, find_array, only_keys
from advect.errors import ConfigError, DataError, ShapeError, nearest, unknown_name
from advect.records import Column, Schema, Table

LABEL_APART = 10.0  # standard deviations of a scale
_KEPT = 1000  # rows of conditions remembered for `draw`


@dataclass(frozen=True)
class ConditionCodec:
    """How the given columns become a vector.

    Attributes:
        columns: Their schema, in order; at least one.
        means: Of the training rows, for scales; 0 for labels.
        stds: Likewise; 1 for labels.
        examples: ``(examples, columns)`` conditions seen in training: level indices or numbers, NaN for a gap.
        weights: ``(examples,)`` how often each was seen; they sum to one.
    """

    columns: tuple[Column, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    examples: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    @staticmethod
    def fit(table: Table, schema: Schema) -> "ConditionCodec":
        """Fit means and spreads, and remember which conditions occur, on the training rows.

        All distinct conditions are remembered with their frequency where there are at most a thousand; else a thousand
        rows at even distances.

        Raises:
            ConfigError: The schema has no condition columns.
            DataError: A condition column is missing from the table, or there are no rows.
        """
        if not schema.condition:
            raise ConfigError("the model has no condition", remedy="Train with condition columns.")
        if not table.num_rows:
            raise DataError("no rows to learn conditions from", where=table.origin)
        codes = np.stack([_codes(_find(table, c), c, table.origin) for c in schema.condition], axis=1)
        means, stds = [], []
        for j, column in enumerate(schema.condition):
            seen = codes[:, j][~np.isnan(codes[:, j])]
            scale = not _is_label(column) and len(seen) > 0
            means.append(float(seen.mean()) if scale else 0.0)
            stds.append((float(seen.std()) or 1.0) if scale else 1.0)
        distinct, counts = np.unique(codes, axis=0, return_counts=True)  # NaN equals NaN here
        if len(distinct) > _KEPT:
            distinct = codes[np.linspace(0, len(codes) - 1, _KEPT).round().astype(np.int64)]
            counts = np.ones(_KEPT)
        return ConditionCodec(
            columns=schema.condition,
            means=tuple(means),
            stds=tuple(stds),
            examples=tuple(tuple(row) for row in distinct.tolist()),
            weights=tuple((counts / counts.sum()).tolist()),
        )

    @property
    def width(self) -> int:
        """Length of the vector."""
        return 1 + sum(self._widths)

    @property
    def is_discrete(self) -> bool:
        """Whether every column is a label, so that rows of one condition form a class."""
        return all(_is_label(c) for c in self.columns)

    @property
    def compared(self) -> tuple[float, ...]:
        """What the numbers of the vector are multiplied by where distances of conditions are asked for.

        A scale counts in standard deviations, a label that differs as much as `LABEL_APART` of them.
        """
        widths = zip(self.columns, self._widths, strict=True)
        weights = ((LABEL_APART / math.sqrt(2),) * width if _is_label(column) else (1.0,) for column, width in widths)
        return (1.0, *(weight for block in weights for weight in block))

    def drawn_as(self, other: "ConditionCodec") -> "ConditionCodec":
        """This codec with the conditions that `draw` gives taken from another of the same columns."""
        return replace(self, examples=other.examples, weights=other.weights)

    def encode(self, table: Table, *, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch condition"]:
        """The conditions of a table's rows, from its columns or side arrays of the same names.

        Raises:
            DataError: A condition column that is missing or of the wrong type.
            UnknownNameError: A label that training never saw.
        """
        codes = [_codes(_find(table, c), c, table.origin) for c in self.columns]
        return self._vectors(np.stack(codes, axis=1)).to(dtype)

    def parse(
        self, given: Any, num_rows: int, *, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "batch condition"]:
        """A condition as a user states it.

        Args:
            given: None for no condition; a value for a single column (``7``, ``"INLAND"``); text ``label=7,size=0.3``;
                a mapping from names to values. A value may also be a sequence of ``num_rows`` values.
            num_rows: How many rows to give back.

        Raises:
            UnknownNameError: An unknown column or label; the nearest known one is offered.
            ConfigError: Text where a number is expected, or a column without a value.
            ShapeError: A sequence of another length.
        """
        if given is None:
            return torch.zeros(num_rows, self.width, dtype=dtype)
        values = self._assignments(given)
        for name in values:
            if name not in self._names:
                raise unknown_name("condition", name, self._names)
        codes = np.empty((num_rows, len(self.columns)))
        for j, column in enumerate(self.columns):
            if column.name not in values and not column.missing:
                example = ",".join(f"{n}=…" for n in self._names)
                raise ConfigError(f"no value for the condition {column.name!r}", remedy=f"Give all: {example}.")
            codes[:, j] = _stated(values.get(column.name), column, num_rows)
        return self._vectors(codes).to(dtype)

    def draw(self, num_rows: int, generator: Generator, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(num_rows, condition)`` conditions as often as training saw them: the whole of a conditional model."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        chosen = torch.multinomial(weights, num_rows, replacement=True, generator=generator).numpy()
        return self._vectors(np.array(self.examples, dtype=np.float64)[chosen]).to(dtype)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, exact under JSON; a gap among the examples is the text ``missing``."""
        return {
            "columns": [column_to_dict(c) for c in self.columns],
            "means": list(self.means),
            "stds": list(self.stds),
            "examples": [["missing" if v != v else v for v in row] for row in self.examples],
            "weights": list(self.weights),
        }

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> "ConditionCodec":
        """The inverse of `to_dict`.

        Raises:
            DataError: A key that is missing or unknown.
        """
        only_keys(stored, tuple(ConditionCodec.__dataclass_fields__), (), "condition codec")
        return ConditionCodec(
            columns=tuple(column_from_dict(c) for c in stored["columns"]),
            means=tuple(stored["means"]),
            stds=tuple(stored["stds"]),
            examples=tuple(tuple(float("nan") if v == "missing" else v for v in row) for row in stored["examples"]),
            weights=tuple(stored["weights"]),
        )

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @cached_property
    def _widths(self) -> tuple[int, ...]:
        return tuple(len(_labels(c)) if _is_label(c) else 1 for c in self.columns)

    def _vectors(self, codes: np.ndarray) -> Tensor:
        """``(rows, columns)`` level indices and numbers, NaN for gaps, to ``(rows, width)`` float64."""
        vectors = np.zeros((len(codes), self.width))
        vectors[:, 0] = 1
        first = 1
        for j, column in enumerate(self.columns):
            rows = np.flatnonzero(~np.isnan(codes[:, j]))
            if _is_label(column):
                vectors[rows, first + codes[rows, j].astype(np.int64)] = 1
            else:
                vectors[rows, first] = (codes[rows, j] - self.means[j]) / self.stds[j]
            first += self._widths[j]
        return torch.from_numpy(vectors)

    def _assignments(self, given: Any) -> Mapping[str, Any]:
        """Values by column name."""
        if isinstance(given, Mapping):
            return {str(name): value for name, value in given.items()}
        single = len(self.columns) == 1
        if isinstance(given, str):
            named = "|".join(re.escape(name) for name in self._names)
            if re.match(rf"\s*(?:{named})\s*=", given):
                parts = re.split(rf",(?=\s*(?:{named})\s*=)", given)
                pairs = [part.split("=", 1) for part in parts]  # a name with = in it cannot be written as text
                values = {name.strip(): value.strip() for name, value in pairs}
                self._refuse_stray_names(values)
                return values
            stray = re.match(r"\s*([\w .-]+?)\s*=[^=]", given)
            if stray and not (single and given.strip() in map(str, self.columns[0].categories)):
                raise unknown_name("condition", stray[1], self._names)
        if not single:
            example = ",".join(f"{n}=…" for n in self._names)
            raise ConfigError(f"{given!r} does not say which condition it is", remedy=f"Write {example}.")
        return {self._names[0]: given}

    def _refuse_stray_names(self, values: Mapping[str, str]) -> None:
        """A misspelt later name would otherwise be read as part of the value before it."""
        for name, value in values.items():
            column = self.columns[self._names.index(name)] if name in self._names else None
            stray = re.search(r",\s*([^,=]+?)\s*=", value)
            if stray and (column is None or value not in map(str, column.categories)):
                raise unknown_name("condition", stray[1], self._names)


def _is_label(column: Column) -> bool:
    if column.kind in ("categorical", "boolean"):
        return True
    return column.kind == "integer" and 0 < len(column.categories) <= MOST_LABELS


def _labels(column: Column) -> Sequence[str | int | float | bool]:
    levels = column_levels(column)
    assert levels is not None
    return levels


def labels_of(column: Column) -> Sequence[str | int | float | bool] | None:
    """The values that a condition column can take, in the order of their codes; None for a scale."""
    return _labels(column) if _is_label(column) else None


def _find(table: Table, column: Column) -> np.ndarray:
    found = find_array(table, column.name)
    if found is not None:
        return found
    known = [*table.names, *table.sides]
    guess = nearest(column.name, known)
    raise DataError(
        f"the condition {column.name!r} is missing",
        where=table.origin,
        remedy=(f"Is {guess!r} meant? " if guess else "")
        + "The model was trained with it: give it as a column of that name.",
    )


def _codes(values: np.ndarray, column: Column, origin: str) -> np.ndarray:
    """``(rows,)`` float64: level indices or numbers, NaN for gaps."""
    if not _is_label(column):
        return read_numbers(values, column, origin)
    index = level_index(values, column, origin)
    unknown = np.flatnonzero(index == UNKNOWN)
    if len(unknown):
        row = int(unknown[0])
        where = f"{origin}, row {row} (counted from 0), column {column.name!r}"
        raise unknown_name("category", str(values[row]), map(str, _labels(column)), where=where)
    return np.where(index == GAP, np.nan, index)


def _stated(value: Any, column: Column, num_rows: int) -> np.ndarray | float:
    """The code of one stated value, or ``(num_rows,)`` codes of a sequence."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple)):
        return _code(value, column)
    if len(value) != num_rows:
        raise ShapeError(
            f"{len(value)} values for the condition {column.name!r}, {num_rows} rows are asked for",
            remedy="Give one value, or one per row.",
        )
    return np.array([_code(v, column) for v in value], dtype=np.float64)


def _code(value: Any, column: Column) -> float:
    if value is None or value != value:
        return math.nan
    if not _is_label(column):
        return _number(value, column)
    levels = _labels(column)
    texts = [str(v).lower() if column.kind == "boolean" else str(v) for v in levels]
    text = str(value).strip()
    if column.kind == "boolean":
        text = {"1": "true", "0": "false", "1.0": "true", "0.0": "false"}.get(text, text.lower())
    if text in texts:
        return float(texts.index(text))
    numbers = [i for i, v in enumerate(levels) if not isinstance(v, (str, bool)) and _same_number(text, v)]
    if numbers:
        return float(numbers[0])
    raise unknown_name("category", text, texts, where=f"condition {column.name!r}")


def _same_number(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False


def _number(value: Any, column: Column) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"{value!r} is not a number",
            where=f"condition {column.name!r}",
            remedy=f"Training saw values from {column.minimum:g} to {column.maximum:g}.",
        )
    return number
