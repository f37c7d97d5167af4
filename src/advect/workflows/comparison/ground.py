"""The rows of a comparison: read, checked and split once, so that every method is refused or judged on the same."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from advect.data import (
    Split,
    check_table,
    find_array,
    infer_schema,
    read_table,
    refuse_unusable,
    some_rows,
    split_rows,
    take_rows,
)
from advect.data.align import column_levels
from advect.data.schema import MOST_LABELS
from advect.errors import DataError, unknown_name
from advect.evaluation import noise_floor, sliced_wasserstein
from advect.records import Column, Finding, Schema, Table
from advect.report.comparison.content import Ruler
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.comparison.request import CompareRequest
from advect.workflows.evaluate import MAX_ROWS
from advect.workflows.held_out import flat_latent
from advect.workflows.origin import fingerprint
from advect.workflows.streams import EVALUATE

MEASURE = "sliced Wasserstein-2"
REFERENCE_ROWS = 20_000
_SHOWN, _FLOOR, _CODE, _DIRECTIONS = 11, 12, 13, 14  # streams below EVALUATE


@dataclass(frozen=True)
class Ground:
    """The rows that all methods share.

    Attributes:
        table: All of them.
        schema: What they look like.
        split: Which train, validate and are held out.
        findings: What the check noticed.
        sha256: Of the data.
        label: The column to be predicted, or None.
        seed: Of the split and of every draw of the measurement.
    """

    table: Table
    schema: Schema
    split: Split
    findings: tuple[Finding, ...]
    sha256: str
    label: Column | None
    seed: int

    @property
    def held_out(self) -> Table:
        """The rows no method has seen."""
        return take_rows(self.table, self.split.test)

    @property
    def training(self) -> Table:
        """The rows all methods were trained on."""
        return take_rows(self.table, self.split.train)


def find_ground(request: CompareRequest) -> Ground:
    """Read, check and split.

    Raises:
        AdvectError: Rows that no method could use, an unknown column, too few rows to hold any out.
    """
    table = read_table(request.data)
    schema = infer_schema(table, condition=request.condition)
    refuse_unusable(table, schema)
    label = None if request.label is None else _label(request.label, schema, table)
    plain = request.training(request.methods[0], request.seed)
    split = split_rows(table.num_rows, seed=plain.splits_by, validation=plain.validation, test=plain.test)
    if len(split.test) < 2:
        raise DataError(
            f"{table.num_rows} rows leave {len(split.test)} to be held out, and methods are compared on those",
            where=table.origin,
            remedy="Give at least 20 rows.",
        )
    findings = check_table(table, schema, split)
    return Ground(table, schema, split, findings, fingerprint(request.data, table), label, plain.splits_by)


def _label(name: str, schema: Schema, table: Table) -> Column:
    """The column to be predicted: one that samples have, modelled or given."""
    columns = {c.name: c for c in (*schema.condition, *(() if schema.image else schema.columns))}
    if name in columns:
        return columns[name]
    if name in table.sides:
        raise DataError(
            f"samples would have no {name!r}: it is neither modelled nor given",
            where="--label",
            remedy=f"Add --condition {name}.",
        )
    raise unknown_name("column", name, [*columns, *table.sides], where="--label")


def classes_of(column: Column) -> tuple[str, ...] | None:
    """The classes of a label as text; None for a number, which is predicted as such."""
    levels = column_levels(column)
    discrete = column.kind in ("categorical", "boolean")
    if levels is None or (not discrete and len(levels) > MOST_LABELS):
        return None
    return tuple(map(_word, levels))


def label_target(table: Table, column: Column) -> Tensor:
    """``(rows,)`` float64 numbers or class numbers; NaN for gaps."""
    values = find_array(table, column.name)
    assert values is not None
    classes = classes_of(column)
    if classes is None:
        return torch.as_tensor(np.asarray(values, dtype=np.float64))
    places = {word: float(i) for i, word in enumerate(classes)}
    numbers = [places.get(_word(value), float("nan")) for value in values.tolist()]
    return torch.tensor(numbers, dtype=torch.float64)


def _word(value: object) -> str:
    """One spelling for a level, whatever dtype it came back in."""
    if isinstance(value, bool):
        return str(value)
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@dataclass(frozen=True)
class Yardstick:
    """Rows to measure against, in the latent coordinates that all methods share.

    Attributes:
        artefact: Whose preprocessing gives the coordinates; that of every method of one seed is the same.
        shown: Held-out rows, at most 2000.
        real: The same in latent coordinates.
        train: Training rows in latent coordinates, at most 20,000.
        train_table: The same as rows.
        ruler: The floor of the curves.
        seed: Of every draw.
    """

    artefact: Artefact
    shown: Table
    real: Tensor
    train: Tensor
    train_table: Table
    ruler: Ruler
    seed: int

    def latent(self, table: Table) -> Tensor:
        """Rows in the shared coordinates, ``(rows, coordinates)`` float64; noise inside levels is from one seed."""
        return flat_latent(self.artefact, table, generator_for(self.seed, EVALUATE, _CODE))

    def error(self, samples: Tensor) -> float:
        """Sliced W2 of samples to the held-out rows, along the same directions each time."""
        generator = generator_for(self.seed, EVALUATE, _DIRECTIONS)
        return sliced_wasserstein(samples, self.real, generator=generator)


def yardstick(ground: Ground, artefact: Artefact) -> Yardstick:
    """Measure the floor and bring the rows to latent coordinates."""
    shown = some_rows(ground.held_out, MAX_ROWS, generator_for(ground.seed, EVALUATE, _SHOWN))
    kept = some_rows(ground.training, REFERENCE_ROWS, generator_for(ground.seed, EVALUATE, _SHOWN, 1))
    code = [generator_for(ground.seed, EVALUATE, _CODE, part) for part in (1, 2)]
    real, train = (flat_latent(artefact, t, g) for t, g in zip((shown, kept), code, strict=True))

    def distance(a: Tensor, b: Tensor) -> float:
        return sliced_wasserstein(a, b, generator=generator_for(ground.seed, EVALUATE, _DIRECTIONS))

    pool = torch.cat([real, train])
    size = min(len(real), len(pool) // 2)
    floor = noise_floor(distance, pool, generator=generator_for(ground.seed, EVALUATE, _FLOOR), size=size)
    ruler = Ruler(MEASURE, floor.value, floor.spread, size)
    return Yardstick(artefact, shown, real, train, kept, ruler, ground.seed)
