"""Tables to the coordinates of a flow and back, with every probability accounted for.

`Codec.encode` draws u (uniform noise on levels, fills for gaps) from a known density r(u | row), and a row's
probability is the expectation

    p(row) = E_{u ~ r} [ q(values(row, u)) / r(u | row) ],

q the flow's density of the coordinates: K draws averaged inside the logarithm estimate it without bias (importance
weighted dequantisation, Ho et al. 2019, eq. 12). It is a probability mass for discrete columns, a density in the user's
units for continuous ones, and the marginal over the fill for gaps. `Coded.log_proposal` is log r.

`Codec.decode` is total: every finite row of coordinates is a row of the table. Levels outside their range, and numbers
outside the observed minimum and maximum, are clipped to them; constants are put back. The sampled law therefore differs
from q by the little mass q has outside those bounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from advect.data.align import align, bounds, is_plain_array
from advect.data.annotated import CONTAINER
from advect.data.arrays import refuse_non_finite
from advect.data.kinds import stack_numbers
from advect.data.levels import ColumnCode, Told, cast, fit_code, read_column, restore_column, smoothed
from advect.data.prepared import Fill, PreparedRows
from advect.data.schema import only_keys, schema_from_dict, schema_to_dict
from advect.data.stored import blocks_of
from advect.errors import ConfigError, DataError, ShapeError
from advect.records import Coded, Column, Columns, Coordinate, Finding, Schema, Status, Table

MOST_PIXEL_LEVELS = 32  # 5 bits: up to here a picture's grey levels are modelled as levels


@dataclass(frozen=True)
class Codec:
    """The rules of all columns.

    Attributes:
        schema: Kinds, bounds, categories.
        codes: One per modelled column. For pictures of few levels (``MOST_PIXEL_LEVELS``) one per pixel; empty for
            other pictures, whose pixels are taken as they are.
    """

    schema: Schema
    codes: tuple[ColumnCode, ...]

    @staticmethod
    def fit(table: Table, schema: Schema) -> "Codec":
        """Fit frequencies, means and spreads to the training rows; bounds and levels are the schema's.

        Rows on disk are gone through in blocks.

        Raises:
            DataError: Columns that do not fit the schema.
        """
        if schema.image:
            return Codec(schema, _pixel_codes(schema.columns[0], table, schema))
        told: list[list[Told]] = [[] for _ in schema.columns]
        for block in blocks_of(table):
            columns, _ = align(block, schema)
            for column, values, so_far in zip(schema.columns, columns, told, strict=True):
                numbers, outside = read_column(values, column, table.origin)
                so_far.append(Told.by(column, numbers[~outside]))
        codes = [fit_code(column, Told.by_all(so_far)) for column, so_far in zip(schema.columns, told, strict=True)]
        # The columns of a representation are of one unit, and what is near and far is what all of them say.
        common = schema.container == CONTAINER
        codes = [replace(code, scaling="common") if common and code.form == "real" else code for code in codes]
        return Codec(schema, tuple(codes))

    @cached_property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """One record per coordinate of the flattened event."""
        if self.schema.image:
            scaling, cells = ("cumulative", len(self.codes[0].probabilities)) if self.codes else ("pixel", 0)
            return tuple(Coordinate(c.name, i, "value", scaling, cells) for i, c in enumerate(self.schema.columns))
        result: list[Coordinate] = []
        for i, (column, code) in enumerate(zip(self.schema.columns, self.codes, strict=True)):
            if code.form != "constant":
                result.append(Coordinate(column.name, i, "value", code.scaling, len(code.probabilities)))
            if code.indicator:
                result.append(Coordinate(f"{column.name} is missing", i, "indicator", "cumulative", 2))
        return tuple(result)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """``(coordinates,)``, or ``(channels, height, width)`` for pictures."""
        return self.schema.event_shape if self.schema.image else (len(self.coordinates),)

    def in_units(self, states: np.ndarray) -> np.ndarray:
        """Coordinates ``(…, *event)`` on the scale of their columns: what was subtracted from far values is put back.

        Levels stay indices, with their noise.
        """
        offsets = [self.codes[c.column].offset if self.codes and c.role == "value" else 0.0 for c in self.coordinates]
        return states + np.array(offsets).reshape(self.event_shape)

    @property
    def exact(self) -> bool:
        """Whether coding draws nothing: every column continuous (or constant) and without gaps."""
        if self.schema.image:
            return self.schema.columns[0].kind != "integer"
        return all(code.form in ("real", "constant") and not code.indicator for code in self.codes)

    @cached_property
    def probabilities(self) -> dict[int, Tensor]:
        """For each ``cumulative`` coordinate its index and ``(cells,)`` smoothed frequencies, float64."""
        result = {}
        for i, coordinate in enumerate(self.coordinates):
            if coordinate.scaling == "cumulative":
                code = self.codes[coordinate.column]
                cells = code.probabilities if coordinate.role == "value" else code.indicator
                result[i] = torch.tensor(cells, dtype=torch.float64)
        return result

    @property
    def moments(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Means and variances of the coordinates in the rows that were fitted to, ``(coordinates,)``.

        None where the rules do not tell: draws stand in coordinates, tails are bent, values lie far from zero (whose
        means are rounded), or a column's spread was taken from its bounds.
        """
        if self.schema.image or not self.exact:
            return None
        found = []
        for code, column in zip(self.codes, self.schema.columns, strict=True):
            low, high = bounds(column)
            if code.scaling == "asinh" or code.offset or (code.scaling and code.std == (high - low) / 4):
                return None
            found += [(code.mean, code.std**2)] if code.scaling else []
        means, variances = np.array(found).reshape(-1, 2).T
        return means, variances

    def check(self, table: Table) -> tuple[Finding, ...]:
        """Refuse a table that does not fit; report columns that will be ignored.

        Raises:
            ShapeError: An array of another width or event shape.
            DataError: Missing columns, text where numbers are expected, infinite values.
        """
        columns, findings = align(table, self.schema)
        self._refuse_gaps_in_arrays(columns, table)
        if not self.schema.image:
            for column, values in zip(self.schema.columns, columns, strict=True):
                read_column(values, column, table.origin)
        return findings

    def prepare(self, table: Table, *, dtype: torch.dtype = torch.float32) -> PreparedRows:
        """Do once what does not depend on the noise.

        Args:
            table: Any rows that fit the schema, see `check`.
            dtype: Of the values drawn: float32 or float64.
        """
        if dtype not in (torch.float32, torch.float64):
            raise ConfigError(f"rows cannot be coded as {dtype}", remedy="Use torch.float32 or torch.float64.")
        columns, _ = align(table, self.schema)
        self._refuse_gaps_in_arrays(columns, table)
        return self._prepare_pixels(columns, dtype) if self.schema.image else self._prepare(columns, table, dtype)

    def encode(self, table: Table, *, generator: Generator, dtype: torch.dtype = torch.float32) -> Coded:
        """All rows once, with fresh noise: `prepare` and one draw."""
        prepared = self.prepare(table, dtype=dtype)
        return prepared.draw(torch.arange(prepared.num_rows), generator)

    def decode(self, values: Float[Tensor, "batch *event"]) -> Table:
        """Coordinates to a table of the schema's kind: names, order and dtypes restored.

        A row with a coordinate that is not finite comes back with every column missing; `non_finite` finds them.
        """
        self._check_event(values)
        broken = self.non_finite(values).numpy(force=True)
        flat = values.detach().to("cpu", torch.float64).reshape(len(values), -1).numpy()
        columns = self._decode_pixels(flat, broken) if self.schema.image else self._decode(flat, broken)
        schema = self.schema
        return Table(
            names=schema.names,
            columns=columns,
            container=schema.container,
            event_shape=schema.event_shape,
            dtypes=tuple(c.dtype for c in schema.columns),
            origin="samples",
            image=schema.image,
            key=schema.key,
            categories={c.name: c.categories for c in schema.columns if c.kind == "categorical"},
        )

    def non_finite(self, values: Float[Tensor, "batch *event"]) -> Bool[Tensor, " batch"]:
        """Which rows hold a coordinate that is NaN or infinite, and so come back from `decode` as missing."""
        return ~torch.isfinite(values).reshape(len(values), -1).all(1)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values; `from_dict` rebuilds the very same codec."""
        return {"schema": schema_to_dict(self.schema), "codes": [code.to_dict() for code in self.codes]}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> "Codec":
        """The inverse of `to_dict`.

        Raises:
            DataError: A key that is missing or unknown, or codes that do not match the schema.
        """
        only_keys(stored, ("schema", "codes"), (), "codec")
        schema = schema_from_dict(stored["schema"])
        codes = tuple(ColumnCode.from_dict(code) for code in stored["codes"])
        if len(codes) != len(schema.columns) and not (schema.image and not codes):
            raise DataError(f"the stored codec has rules for {len(codes)} columns, expected {len(schema.columns)}")
        return Codec(schema, codes)

    def _prepare(self, columns: Columns, table: Table, dtype: torch.dtype) -> PreparedRows:
        whole = getattr(columns, "array", None)
        if whole is not None and self.exact:
            return self._prepare_real(whole, dtype)
        rows = table.num_rows
        base = np.zeros((len(self.coordinates), rows))
        status = np.zeros(rows, np.int8)
        noisy: list[int] = []
        fills: list[Fill] = []
        row_of = {(c.column, c.role): i for i, c in enumerate(self.coordinates)}
        for i, (column, code) in enumerate(zip(self.schema.columns, self.codes, strict=True)):
            numbers, outside = read_column(columns[i], column, table.origin)
            gaps = np.isnan(numbers)
            status = np.maximum(status, np.where(outside, Status.OUTSIDE_SUPPORT, gaps * Status.IMPUTED))
            if code.indicator:
                base[row_of[i, "indicator"]] = gaps
                noisy.append(row_of[i, "indicator"])
            if code.form == "constant":
                continue
            place = row_of[i, "value"]
            base[place] = np.where(gaps, 0.0, numbers - code.offset)
            if code.form != "real":
                noisy.append(place)
            if gaps.any():
                cells = self.probabilities.get(place)
                fills.append(Fill(place, torch.from_numpy(gaps), cells, code.mean, code.std))
        return PreparedRows(
            base=torch.from_numpy(base).to(dtype).T.contiguous(),
            status=torch.from_numpy(status.astype(np.int8)),
            noisy=torch.tensor(sorted(noisy), dtype=torch.long),
            fills=tuple(fills),
            event_shape=self.event_shape,
            dtype=dtype,
        )

    def _prepare_real(self, numbers: np.ndarray, dtype: torch.dtype) -> PreparedRows:
        """The same for numbers that were read as one array, in which no column is discrete and nothing is missing."""
        constant = np.array([code.form == "constant" for code in self.codes])
        offset = np.array([code.offset for code in self.codes])
        always = np.array([bounds(column)[0] for column in self.schema.columns])
        outside = (numbers[:, constant] != always[constant]).any(1)
        return PreparedRows(
            base=torch.from_numpy(numbers[:, ~constant].astype(np.float64) - offset[~constant]).to(dtype),
            status=torch.from_numpy(np.where(outside, Status.OUTSIDE_SUPPORT, Status.OK).astype(np.int8)),
            noisy=torch.arange(0),
            fills=(),
            event_shape=self.event_shape,
            dtype=dtype,
        )

    def _prepare_pixels(self, columns: Columns, dtype: torch.dtype) -> PreparedRows:
        pixels, first = stack_numbers(columns), self.schema.columns[0]
        if pixels.dtype.kind not in "biuf":
            raise DataError(f"pixels of type {pixels.dtype} where numbers are expected")
        noisy, outside = torch.arange(0), np.zeros(len(pixels), bool)
        if first.kind == "integer":
            noisy = torch.arange(pixels.shape[1])
            outside = (pixels != np.floor(pixels)).any(1)
        if self.codes:  # levels count from the smallest
            low, high = bounds(first)
            outside = outside | (pixels < low).any(1) | (pixels > high).any(1)
            pixels = np.clip(pixels, low, high) - low
        whole = first.kind == "integer" and not outside.any()
        compact = whole and pixels.size > 0 and pixels.min() >= 0 and pixels.max() <= 255
        stored = np.uint8 if compact else (np.float32 if dtype == torch.float32 else np.float64)
        return PreparedRows(
            base=torch.from_numpy(pixels.astype(stored)),
            status=torch.from_numpy(np.where(outside, Status.OUTSIDE_SUPPORT, Status.OK).astype(np.int8)),
            noisy=noisy,
            fills=(),
            event_shape=self.event_shape,
            dtype=dtype,
        )

    def _decode(self, flat: np.ndarray, broken: np.ndarray) -> tuple[np.ndarray, ...]:
        place = {(c.column, c.role): j for j, c in enumerate(self.coordinates)}
        result = []
        for i, (column, code) in enumerate(zip(self.schema.columns, self.codes, strict=True)):
            indicator, value = place.get((i, "indicator")), place.get((i, "value"))
            gaps = broken if indicator is None else broken | (flat[:, indicator] >= 1)
            numbers = np.zeros(len(flat)) if value is None else flat[:, value] + code.offset
            result.append(restore_column(numbers, gaps, column))
        return tuple(result)

    def _decode_pixels(self, flat: np.ndarray, broken: np.ndarray) -> tuple[np.ndarray, ...]:
        first = self.schema.columns[0]
        low, high = bounds(first)
        pixels = np.where(broken[:, None], low, flat + low if self.codes else flat)
        whole = np.floor(pixels) if first.kind == "integer" else pixels
        pixels = cast(whole.clip(low, high), np.repeat(broken[:, None], flat.shape[1], axis=1), first)
        return tuple(pixels[:, j] for j in range(pixels.shape[1]))

    def _check_event(self, values: Tensor) -> None:
        if tuple(values.shape[1:]) != self.event_shape:
            raise ShapeError(
                f"rows of shape {self.event_shape} are expected, rows of shape {tuple(values.shape[1:])} were found"
            )

    def _refuse_gaps_in_arrays(self, columns: Columns, table: Table) -> None:
        """NaN means missing in a table only; an array or a picture that holds one is damaged."""
        if not self.schema.image and not is_plain_array(table):
            return
        whole = getattr(columns, "array", None)
        if whole is not None:
            refuse_non_finite(whole, self.schema.names, table.origin)
            return
        for name, values in zip(self.schema.names, columns, strict=True):
            refuse_non_finite(values[:, None], [name], table.origin)


def _pixel_codes(pixel: Column, table: Table, schema: Schema) -> tuple[ColumnCode, ...]:
    """One rule per pixel where pictures have few levels; none otherwise.

    With few levels most pixels of many pictures stand at one of them (paper white, ink black). Scaled as they are, the
    uniform noise on that level is a narrow step which a smooth field blurs over its neighbours; through their own
    cumulative distribution they are standard normal like every other coordinate.
    """
    align(table, schema)  # refuses pictures of another shape
    if pixel.kind != "integer" or pixel.minimum is None or pixel.maximum is None:
        return ()
    cells = int(pixel.maximum - pixel.minimum) + 1
    if cells > MOST_PIXEL_LEVELS or cells < 2:
        return ()
    counts = np.zeros((len(schema.columns), cells), np.int64)
    for block in blocks_of(table):
        for place, values in enumerate(align(block, schema)[0]):
            counts[place] += np.bincount((values - pixel.minimum).astype(np.int64), minlength=cells)
    return tuple(ColumnCode("levels", "cumulative", probabilities=smoothed(count)) for count in counts)
