"""The frozen records that travel the spine, one per arrow.

    Table ─read, check─▶ Rows ─coupling─▶ Pairs ─path─▶ Bridge ─objective─▶ loss (batch,) ─solver─▶ Solution ─▶ Estimate

A record never grows with a flag: a field that does not apply is None. Shapes are written as ``(batch, *event)``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import IntEnum
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Module


class Status(IntEnum):
    """What became of one row. Everything above `OK` has a sentence; `failed` rows carry NaN as their value."""

    OK = 0
    IMPUTED = 1
    OUTSIDE_SUPPORT = 2
    NAN_FIELD = 3
    BLOW_UP = 4
    STIFF = 5
    STEP_LIMIT = 6
    NOT_CONVERGED = 7

    @property
    def failed(self) -> bool:
        """Whether the row has no usable value."""
        return self >= Status.NAN_FIELD


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: As the user wrote it.
        kind: ``continuous``, ``integer`` (any whole-valued column, whatever its dtype), ``categorical`` or ``boolean``.
        dtype: The dtype to give back, as text (``float64``, ``int32``, ``str``, ``category``, ``bool``).
        minimum: Smallest observed value (numeric columns).
        maximum: Largest observed value.
        categories: The values of a categorical column, in order.
        missing: Whether gaps were seen.
        unit: Free text, kept and shown, never computed with.
    """

    name: str
    kind: str
    dtype: str
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str | int | float | bool, ...] = ()
    missing: bool = False
    unit: str | None = None


@dataclass(frozen=True)
class Schema:
    """What a set of rows looks like from outside, enough to give samples back as the same kind of thing.

    Attributes:
        columns: The columns that are modelled, in the user's order.
        container: ``csv``, ``tsv``, ``parquet``, ``npy``, ``npz``, ``h5ad``, ``numpy``, ``torch``, ``pandas``,
            ``polars``.
        event_shape: Shape of one row of an array: ``(d,)``, ``()`` for scalars, ``(c, height, width)`` for pictures.
            The number of columns is its product.
        image: Whether the columns are the pixels of a picture.
        condition: The columns that are given, not modelled.
        key: The array inside an ``.npz``, or the representation of cells, where one was read.
    """

    columns: tuple[Column, ...]
    container: str
    event_shape: tuple[int, ...]
    image: bool = False
    condition: tuple[Column, ...] = ()
    key: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modelled columns."""
        return tuple(c.name for c in self.columns)


@runtime_checkable
class Columns(Protocol):
    """Columns of one length: a tuple of arrays, or what reads them when they are looked at."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> np.ndarray: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class Table:
    """Columns as they were read: nothing scaled, nothing filled, nothing dropped.

    Attributes:
        names: Column names; ``x0, x1, …`` for arrays without any.
        columns: One NumPy array per name, all of one length. Numbers keep their dtype (a gap is NaN, so columns with
            gaps are floats); text and categories are object arrays with None for a gap; booleans are bool. Of rows that
            are not in memory, `data.stored.StoredColumns`.
        container: See `Schema.container`.
        event_shape: See `Schema.event_shape`.
        image: See `Schema.image`.
        origin: Where it came from, for messages: a path or ``moons``.
        key: The array inside an ``.npz``.
        sides: Named per-row arrays that came along (labels, times, weights) and are not modelled unless asked for.
        dtypes: The dtype of each column to give back, as text.
        categories: Column name to its values, for the columns whose frame declared them.
        ordered: Which of those columns declared their values to be in order.
        notes: What reading decided that the user may want to know (semicolons between cells, renamed columns).
    """

    names: tuple[str, ...]
    columns: Columns
    container: str
    event_shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    origin: str = "data"
    image: bool = False
    key: str | None = None
    sides: Mapping[str, np.ndarray] = field(default_factory=dict)
    categories: Mapping[str, tuple[str | int | float | bool, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ordered: frozenset[str] = frozenset()

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        stored = getattr(self.columns, "num_rows", None)  # known without reading any
        return stored if stored is not None else len(self.columns[0]) if self.columns else 0


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of the space the flow lives in, made from a column.

    Attributes:
        name: The column's name, or ``name is missing`` for an indicator.
        column: Index of the column in the schema.
        role: ``value`` or ``indicator``.
        scaling: How `transforms.preprocess` brings it to unit scale: ``standardise``, ``asinh`` (heavy tails),
            ``cumulative`` (discrete levels 0..cells-1 with uniform noise in [0, 1) on top), ``pixel``, or ``common``
            (one scale for all columns of a representation).
        cells: Number of levels of a ``cumulative`` coordinate, else 0.
    """

    name: str
    column: int
    role: str
    scaling: str
    cells: int = 0


@dataclass(frozen=True)
class Coded:
    """Rows as a tensor of coordinates: dequantised, gaps filled, nothing scaled yet.

    Attributes:
        values: ``(batch, *event)``.
        log_proposal: ``(batch,)`` log-density of the noise and the fills that were drawn, to be subtracted from the
            log-density of ``values`` in an importance-weighted estimate of the probability of the row.
        status: ``(batch,)`` int8: `Status.IMPUTED` where a gap was filled, `Status.OUTSIDE_SUPPORT` where a value
            cannot occur.
    """

    values: Float[Tensor, "batch *event"]
    log_proposal: Float[Tensor, " batch"]
    status: Int[Tensor, " batch"]


@dataclass(frozen=True)
class Finding:
    """One thing the data check noticed, and what will be done about it.

    Attributes:
        kind: ``missing``, ``constant``, ``duplicate rows``, ``discrete``, ``heavy tails``, ``repeated value``, ….
        where: A column name, or ``rows``.
        message: What was seen, with the count.
        action: What advect does about it.
    """

    kind: str
    where: str
    message: str
    action: str


@dataclass(frozen=True)
class Pairs:
    """Which source row goes with which data row: indices only, so that every per-row tensor can follow.

    Attributes:
        index0: ``(batch,)`` into the source rows given to the coupling.
        index1: ``(batch,)`` into the data rows given to the coupling.
        weight: ``(batch,)`` loss weights, or None for one each.
        report: Figures about the plan (mean cost, iterations, marginal error), for metrics and messages.
    """

    index0: Int[Tensor, " batch"]
    index1: Int[Tensor, " batch"]
    weight: Float[Tensor, " batch"] | None = None
    report: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """What an objective sees: paired ends in the coordinates of the flow's map.

    Attributes:
        x1: ``(batch, *event)`` data.
        x0: ``(batch, *event)`` source, or None for objectives that need none.
        condition: ``(batch, *condition)`` or None.
        weight: ``(batch,)`` or None.
        interval: ``(batch, 2)`` times of the flow at which x0 and x1 stand; None for 0 and 1.
        slopes: ``(batch, 2, *event)`` slopes at x0 and x1, per unit of the path's own time, of a curve that the path is
            bent onto; None for none.
        drawn: What the objective has drawn for these rows, where that was done ahead of the step.
    """

    x1: Float[Tensor, "batch *event"]
    x0: Float[Tensor, "batch *event"] | None = None
    condition: Float[Tensor, "batch *condition"] | None = None
    weight: Float[Tensor, " batch"] | None = None
    interval: Float[Tensor, "batch 2"] | None = None
    slopes: Float[Tensor, "batch 2 *event"] | None = None
    drawn: "Drawn | Regression | None" = None


@dataclass(frozen=True)
class Bridge:
    """One draw from a conditional path p_t(x | x0, x1) with the conditional velocity there.

    Attributes:
        t: ``(batch,)`` times.
        x: ``(batch, *event)`` points.
        velocity: ``(batch, *event)`` conditional velocity u_t(x | x0, x1).
        score: ``(batch, *event)`` ∇ log p_t(x | x0, x1), or None where the path has no density.
        x0: The very source rows the path used.
        x1: The very data rows the path used.
    """

    t: Float[Tensor, " batch"]
    x: Float[Tensor, "batch *event"]
    velocity: Float[Tensor, "batch *event"]
    score: Float[Tensor, "batch *event"] | None = None
    x0: Float[Tensor, "batch *event"] | None = None
    x1: Float[Tensor, "batch *event"] | None = None


@dataclass(frozen=True)
class Drawn:
    """Everything that is random about the loss of a batch, drawn for all of its rows before the loss of any.

    Attributes:
        bridge: Times, points and targets.
        condition: ``(batch, *condition)``, zeros where it was dropped; or None.
        interval: `Batch.interval`.
    """

    bridge: Bridge
    condition: Float[Tensor, "batch *condition"] | None = None
    interval: Float[Tensor, "batch 2"] | None = None


@dataclass(frozen=True)
class Regression:
    """A loss that is a squared error of what a network says: weight · mean over the event of (network − target)².

    Attributes:
        network: ``network(t, x, condition)``.
        t: ``(batch,)`` times that it is shown.
        x: ``(batch, *event)`` points that it is shown.
        target: ``(batch, *event)`` what it should say there.
        condition: ``(batch, *condition)`` or None.
        weight: ``(batch,)``; None for one each.
    """

    network: Module
    t: Float[Tensor, " batch"]
    x: Float[Tensor, "batch *event"]
    target: Float[Tensor, "batch *event"]
    condition: Float[Tensor, "batch *condition"] | None = None
    weight: Float[Tensor, " batch"] | None = None


Record = TypeVar("Record", Batch, Bridge, Drawn, Regression)


def take(record: Record, rows: slice | Tensor) -> Record:
    """The record of some of its rows: every tensor in it, and every record in it, with these rows alone."""
    return replace(record, **{f.name: _taken(getattr(record, f.name), rows) for f in fields(record)})


def _taken(value: Any, rows: slice | Tensor) -> Any:
    return value[rows] if isinstance(value, Tensor) else take(value, rows) if is_dataclass(value) else value


@dataclass(frozen=True)
class Solution:
    """The end of an integration, row by row.

    Attributes:
        state: ``(batch, *event)`` at the end; NaN in failed rows.
        nfe: ``(batch,)`` evaluations of the field spent on each row.
        status: ``(batch,)`` int8, see `Status`.
        failed_at: ``(batch,)`` time of failure; NaN where nothing failed.
        log_abs_det: ``(batch,)`` log|det ∂x(t1)/∂x(t0)| = ∫ div dt, when a divergence was asked for.
        log_abs_det_error: ``(batch,)`` standard error of it from the stochastic trace (0 for an exact one).
        times: ``(times,)`` the requested times, when any were.
        states: ``(times, batch, *event)`` at those times; of a failed row, those before it failed are kept.
        along: ``(batch, quantities)`` other integrals along the way, in the order they were asked for.
    """

    state: Float[Tensor, "batch *event"]
    nfe: Int[Tensor, " batch"]
    status: Int[Tensor, " batch"]
    failed_at: Float[Tensor, " batch"]
    log_abs_det: Float[Tensor, " batch"] | None = None
    log_abs_det_error: Float[Tensor, " batch"] | None = None
    times: Float[Tensor, " times"] | None = None
    states: Float[Tensor, "times batch *event"] | None = None
    along: Float[Tensor, "batch quantities"] | None = None


@dataclass(frozen=True)
class Mapped:
    """What `encode` or `decode` returns.

    Attributes:
        value: ``(batch, *event)`` on the other side; NaN in failed rows.
        log_abs_det_jacobian: ``(batch,)`` of the direction that was called; None if it was not asked for.
        status: ``(batch,)`` int8, see `Status`.
        standard_error: ``(batch,)`` of the log-determinant; None where it is exact by construction.
        nfe: ``(batch,)`` network evaluations; None for maps without a solver.
    """

    value: Float[Tensor, "batch *event"]
    log_abs_det_jacobian: Float[Tensor, " batch"] | None
    status: Int[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"] | None = None
    nfe: Int[Tensor, " batch"] | None = None


@dataclass(frozen=True)
class Estimate:
    """A number per row with its error.

    Attributes:
        value: ``(batch,)``; NaN in failed rows.
        standard_error: ``(batch,)``; 0 where the value carries no sampling noise.
        status: ``(batch,)`` int8, see `Status`.
        nfe: ``(batch,)`` or None.
    """

    value: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]
    status: Int[Tensor, " batch"]
    nfe: Int[Tensor, " batch"] | None = None


@dataclass(frozen=True)
class Metric:
    """A score that can be judged without expertise.

    Attributes:
        name: Such as ``sliced W2``.
        value: The figure for samples against held-out rows.
        error: Its standard error, or None.
        floor: The same figure for real against real rows: what a perfect model would get.
        floor_error: Spread of the floor.
        ceiling: The same figure for a Gaussian fitted to the training rows: what no effort gets.
        better: ``lower`` or ``higher``.
        unit: ``nats``, ``standard deviations``, ``accuracy``, ….
    """

    name: str
    value: float
    error: float | None = None
    floor: float | None = None
    floor_error: float | None = None
    ceiling: float | None = None
    better: str = "lower"
    unit: str = ""
