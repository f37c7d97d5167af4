"""What is worth knowing about a data set before hours are spent on it.

Nothing here changes the data. Each `Finding` says what was seen and what advect does about it; what cannot be used at
all is refused by `refuse_unusable`. Every check is a pass of NumPy over the columns.
"""

from collections.abc import Iterable

import numpy as np
import torch

from advect.data.align import bounds, is_plain_array
from advect.data.arrays import refuse_non_finite
from advect.data.kinds import as_floats, is_gap
from advect.data.levels import HEAVY_TAILS, column_form, excess_kurtosis
from advect.data.rows import repeated_rows, row_keys, shared_rows
from advect.data.schema import find_array
from advect.data.select import sample_rows
from advect.data.split import Split
from advect.data.stored import on_disk
from advect.errors import DataError
from advect.records import Column, Finding, Schema, Table

LARGEST = 1e30  # the likelihood of float32 coordinates needs room for sums and squares after scaling
_ATOM = 0.01  # share of the rows from which one value of a continuous column is a spike
_FEW_DISTINCT = 0.2  # distinct values per row below which a continuous column looks discrete
_SPIKE = 10  # times the mean count of a stepped column's values
_CORRELATED = 1 - 1e-6
_SCALE_RATIO = 1e4
_ROWS_PER_COLUMN = 10
_LEVEL_NOISE = "uniform noise on each level; scored as probability"
_WHOLE_NOISE = "uniform noise in [0, 1) added; scored as probability"
_NO_BOUND = "its log-likelihood is not bounded"
_ROUNDED = "modelled as continuous; its log-likelihood depends on the rounding. Whole numbers would be scored exactly"
_ON_A_SHEET = "kept; rows on a sheet have no density, and the likelihood grows without bound. Leave one out"
_ROWS_CORRELATED = 100_000
_MOST_CORRELATED = 300  # columns; their correlation matrix has the square of that many entries
_LISTED = 6


def refuse_unusable(table: Table, schema: Schema) -> None:
    """Refuse data that no model can be trained on.

    Raises:
        DataError: No columns, fewer than two rows, a column without values, nothing but constants, values that are
            infinite or too large, NaN in an array; with row (counted from 0) and column.
    """
    if not schema.columns:
        raise DataError("there are no columns to model", where=table.origin, remedy="Keep at least one column.")
    if table.num_rows < 2:
        count = "one row" if table.num_rows else "no rows"
        raise DataError(f"{count} cannot be learned from", where=table.origin, remedy="Give at least two rows.")
    for column, values in _modelled(table, schema) if on_disk(table) is None else ():  # else looked for in reading
        if column.kind != "categorical":
            gaps_allowed = not is_plain_array(table) and not table.image
            refuse_non_finite(as_floats(values)[:, None], [column.name], table.origin, gaps_allowed=gaps_allowed)
    for column in schema.columns:
        if column.kind != "categorical":
            _refuse_bounds(column, table)
        if column.minimum is None and not column.categories:
            raise DataError(
                "the column holds nothing but gaps",
                where=f"{table.origin}, column {column.name!r}",
                remedy="Leave it out.",
            )
    if all(column_form(c) == "constant" and not c.missing for c in schema.columns):
        raise DataError(
            "every column is constant: there is nothing to learn", where=table.origin, remedy="Give rows that differ."
        )


def check_table(table: Table, schema: Schema, split: Split | None = None) -> tuple[Finding, ...]:
    """Everything worth saying about usable rows; of rows on disk, what some of them tell.

    Args:
        table: The rows.
        schema: Their schema.
        split: To count rows that stand on both sides of it.

    Returns:
        Findings, those about rows first; of one kind about many columns as a single finding.
    """
    looked_at = sample_rows(table, torch.Generator().manual_seed(0))
    if looked_at is not table:
        share = f"{looked_at.num_rows} of {table.num_rows} rows"
        message = f"duplicates, spikes, tails and correlations were looked for in {share}, drawn at random"
        some = Finding("many rows", "rows", message, "all of them are trained on")
        return (some, *check_table(looked_at, schema))
    findings = [*_row_findings(table, schema, split)]
    if schema.image:
        return (*findings, *_pixel_findings(table, schema))
    scales: dict[str, float] = {}
    numeric: dict[str, np.ndarray] = {}
    for column, values in _modelled(table, schema):
        findings += _column_findings(column, values)
        if column.kind in ("continuous", "integer") and column.minimum != column.maximum:
            numeric[column.name] = as_floats(values)
            scales[column.name] = float(np.nanstd(numeric[column.name]))
    findings += _scale_findings(scales)
    findings += _correlation_findings(numeric)
    return tuple(_gathered(findings))


def unbounded_likelihood(table: Table, schema: Schema) -> tuple[str, ...]:
    """Why the log-likelihood of such rows grows without bound as a model sharpens: one reason per finding.

    Rows on a sheet, and values that repeat, have no density; what a smooth model is then given for one measures how
    sharp it is, and the rounding of the numbers.
    """
    if schema.image:
        return ()
    marks = (_NO_BOUND, _ROUNDED, _ON_A_SHEET)
    return tuple(
        f"{finding.where}: {finding.message}"
        for finding in check_table(table, schema)
        if any(mark in finding.action for mark in marks)
    )


def _modelled(table: Table, schema: Schema) -> Iterable[tuple[Column, np.ndarray]]:
    position = {name: i for i, name in enumerate(table.names)}
    return ((column, table.columns[position[column.name]]) for column in schema.columns)


def _refuse_bounds(column: Column, table: Table) -> None:
    """Refuse values that 32-bit arithmetic cannot tell apart, or cannot hold."""
    where = f"{table.origin}, column {column.name!r}"
    if column.minimum is None or column.maximum is None:
        return
    if max(abs(column.minimum), abs(column.maximum)) > LARGEST:
        found = find_array(table, column.name)
        assert found is not None
        numbers = as_floats(found)
        large = int(np.nanargmax(np.abs(numbers)))
        raise DataError(
            f"{numbers[large]:.3g} in row {large} (counted from 0) is too large for 32-bit arithmetic",
            where=where,
            remedy="Give the column in a larger unit, or its logarithm.",
        )
    if 0 < column.maximum - column.minimum < 1 / LARGEST:
        raise DataError(
            f"values differ by {column.maximum - column.minimum:.3g} only, too little for 32-bit arithmetic",
            where=where,
            remedy="Give the column in a smaller unit.",
        )


def _row_findings(table: Table, schema: Schema, split: Split | None) -> Iterable[Finding]:
    rows, columns = table.num_rows, len(schema.columns)
    for note in table.notes:
        yield Finding("reading", "table", note, "read so")
    if rows < _ROWS_PER_COLUMN * columns and not schema.image:
        yield Finding(
            "few rows",
            "rows",
            f"{rows} rows for {columns} columns",
            "kept; watch for overfitting",
        )
    keys = row_keys(table, schema)
    repeated = repeated_rows(keys)
    if repeated:
        yield Finding("duplicate rows", "rows", f"{repeated} of {rows} rows {_repeat(repeated)} another row", "kept")
    if split is not None:
        held = len(split.validation) + len(split.test)
        shared = shared_rows(keys, split)
        if shared:
            yield Finding(
                "duplicate rows across the split",
                "rows",
                f"{shared} of {held} held-out rows ({shared / held:.1%}) also stand in the training rows",
                "kept; held-out scores flatter a model that remembers rows: remove the duplicates to judge it",
            )


def _repeat(count: int) -> str:
    return "repeats" if count == 1 else "repeat"


def _column_findings(column: Column, values: np.ndarray) -> Iterable[Finding]:
    gaps = is_gap(values)
    name, rows, missing = column.name, len(values), int(gaps.sum())
    if missing:
        yield Finding(
            "missing",
            name,
            f"{missing} of {rows} values are missing ({missing / rows:.1%})",
            "an indicator coordinate and a fill that is integrated out; samples have gaps again",
        )
    form = column_form(column)
    if form == "constant":
        value = column.categories[0] if column.categories else column.minimum
        yield Finding("constant", name, f"always {value!r}", "not modelled; put back into samples")
    elif column.kind == "categorical":
        yield Finding(
            "discrete",
            name,
            f"{len(column.categories)} categories",
            _LEVEL_NOISE,
        )
    elif form == "levels":
        yield Finding("discrete", name, "whole numbers or levels", _LEVEL_NOISE)
    else:
        yield from _scale_column_findings(column, form, as_floats(values)[~gaps], rows)


def _scale_column_findings(column: Column, form: str, numbers: np.ndarray, rows: int) -> Iterable[Finding]:
    """Findings about a column on a scale: whole numbers, heavy tails, spikes, few distinct values."""
    name = column.name
    if form == "whole":
        yield Finding("discrete", name, "whole numbers", _WHOLE_NOISE)
    kurtosis = excess_kurtosis(numbers)
    if kurtosis > HEAVY_TAILS:
        yield Finding(
            "heavy tails",
            name,
            f"excess kurtosis {kurtosis:.3g} (normal: 0)",
            "bent by asinh inside the map, and unbent",
        )
    distinct, counts = np.unique(numbers, return_counts=True)
    most = int(np.argmax(counts))
    stepped = form == "real" and len(distinct) < _FEW_DISTINCT * rows
    if stepped:
        yield Finding(
            "discrete",
            name,
            f"only {len(distinct)} different values in {rows} rows",
            _ROUNDED,
        )
    # On a grid of steps every value repeats; a spike stands out from its neighbours.
    ordinary = _SPIKE * len(numbers) / len(distinct) if stepped else 2
    if counts[most] > max(_ATOM * rows, ordinary):
        spike = "the density has a spike there that a smooth model blurs"
        yield Finding(
            "repeated value",
            name,
            f"{distinct[most]:g} stands in {counts[most]} of {rows} rows ({counts[most] / rows:.1%})",
            f"kept; {spike}" if form == "whole" else f"kept; {spike}, and {_NO_BOUND}",
        )


def _pixel_findings(table: Table, schema: Schema) -> Iterable[Finding]:
    constant = sum(bool(np.all(v == v[0])) for v in table.columns)
    if schema.columns[0].kind == "integer":
        low, high = bounds(schema.columns[0])
        yield Finding(
            "discrete",
            "pixels",
            f"whole numbers from {low:g} to {high:g}",
            _WHOLE_NOISE,
        )
    if constant:
        yield Finding("constant", "pixels", f"{constant} of {len(table.columns)} pixels never change", "kept")


def _scale_findings(scales: dict[str, float]) -> Iterable[Finding]:
    if len(scales) < 2:
        return
    small, large = min(scales, key=lambda n: scales[n]), max(scales, key=lambda n: scales[n])
    if scales[large] > _SCALE_RATIO * scales[small]:
        yield Finding(
            "scales",
            "columns",
            f"{large!r} spreads {scales[large] / scales[small]:.1e} times wider than {small!r}",
            "each column is brought to unit scale inside the map; likelihoods stay in your units",
        )


def _correlation_findings(numeric: dict[str, np.ndarray]) -> Iterable[Finding]:
    """Pairs of columns that determine each other linearly, on the rows where all columns are present."""
    if not 2 <= len(numeric) <= _MOST_CORRELATED:
        return
    # A linear map holds in every row or in none worth the name: a hundred thousand of them tell.
    every = max(1, len(next(iter(numeric.values()))) // _ROWS_CORRELATED)
    names, values = list(numeric), np.stack([column[::every] for column in numeric.values()])
    values = values[:, ~np.isnan(values).any(0)]
    if values.shape[1] <= 2:
        return
    centred = values - values.mean(1, keepdims=True)
    largest = np.abs(centred).max(1, keepdims=True)
    centred = centred / np.where(largest > 0, largest, 1)  # squares of tiny or huge units would leave the range
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(norm > 0, norm, 1)
    for i, j in zip(*np.nonzero(np.triu(np.abs(unit @ unit.T) > _CORRELATED, 1)), strict=True):
        yield Finding(
            "correlated",
            f"{names[i]}, {names[j]}",
            "each is a linear map of the other",
            _ON_A_SHEET,
        )


def _gathered(findings: list[Finding]) -> Iterable[Finding]:
    """Findings of one kind and action as one, where there are many."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.action), []).append(finding)
    for (kind, action), members in groups.items():
        if len(members) <= _LISTED:
            yield from members
            continue
        shown = "; ".join(f"{m.where}: {m.message}" for m in members[:3])
        yield Finding(kind, f"{len(members)} columns", f"{shown}; and {len(members) - 3} more", action)
