"""What the pictures of a model show: numbers in the units of the data, or the reason why there are none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.data import read_table, some_rows, take_rows
from advect.data.align import align
from advect.errors import AdvectError, ConfigError, UnsupportedError, unknown_name
from advect.records import Table
from advect.report.density import DensityGrid
from advect.report.values import frame
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.again import find_data
from advect.workflows.density_map import density_on, refuse_unknown_density
from advect.workflows.generate import condition_vectors, generate
from advect.workflows.grown import grown
from advect.workflows.motion import refuse_a_jump, stops_of
from advect.workflows.streams import SAMPLE

FRAME_ROWS = 2000  # drawn to find where the mass is
_REAL = 5  # stream below SAMPLE
_INSTEAD = "Draw its rows: plot_samples."


@dataclass(frozen=True)
class VelocityGrid:
    """A field on an even grid at one time, and rows that are on their way then.

    Attributes:
        points: ``(rows, columns, 2)`` in the units of the data.
        velocity: The same shape, in the units of the data per unit of time.
        cloud: ``(n, 2)``.
        names: Of the axes.
    """

    points: np.ndarray
    velocity: np.ndarray
    cloud: np.ndarray
    names: tuple[str, str]


@dataclass(frozen=True)
class Ways:
    """Rows on their way.

    Attributes:
        states: ``(places, rows, *event)`` in the coordinates and units of the data.
        places: ``(places,)``: the times of an ODE, or how many layers are behind.
        layers: How many there are; None for an ODE.
    """

    states: np.ndarray
    places: np.ndarray
    layers: int | None


def axis_names(artefact: Artefact) -> tuple[str, ...]:
    """Names of the coordinates with the units of their columns."""
    columns = artefact.schema.columns
    units = (columns[c.column].unit for c in artefact.codec.coordinates)
    return tuple(c.name + (f" ({u})" if u else "") for c, u in zip(artefact.codec.coordinates, units, strict=True))


def samples_and_real(
    artefact: Artefact, n: int, real: Any, *, condition: Any = None, seed: int = 0
) -> tuple[Table, Table | None]:
    """``n`` samples, and at most as many real rows in the same columns, or None.

    ``real`` are rows, False for none, or None for held-out rows of the run where its data can be found. Under a
    condition there is no looking: all held-out rows would be compared with the samples of one condition.
    """
    samples = _modelled(artefact, grown(artefact, n, condition=condition, seed=seed).table)
    if real is False or (real is None and condition is not None):
        return samples, None
    if real is None:
        try:
            table, split = find_data(artefact)
        except AdvectError:
            return samples, None
        table = take_rows(table, split.test if len(split.test) else split.train)
    else:
        table = read_table(real, min_rows=1)
    return samples, some_rows(_modelled(artefact, table), n, generator_for(seed, SAMPLE, _REAL))


def _modelled(artefact: Artefact, table: Table) -> Table:
    """The columns the model has, under its names."""
    schema = artefact.schema
    columns, _ = align(table, schema)
    return replace(
        table, names=schema.names, columns=tuple(columns), dtypes=tuple(c.dtype for c in schema.columns),
        event_shape=schema.event_shape, image=schema.image, sides={},
    )  # fmt: skip


def chosen(names: Sequence[str], asked: Any) -> tuple[str, ...]:
    """The columns asked for: one name or several, each known and named once.

    Raises:
        UnknownNameError: There is no such column.
        ConfigError: None, or one twice.
    """
    asked = (asked,) if isinstance(asked, str) else tuple(asked)
    for name in asked:
        if name not in names:
            raise unknown_name("column", str(name), names, where="columns")
    if not asked or len(set(asked)) < len(asked):
        raise ConfigError(
            "no column is named" if not asked else "a column is named twice",
            where="columns",
            remedy="Name each column once, or leave columns out.",
        )
    return asked


def _continuous(artefact: Artefact, where: str, most: int = 2, least: int = 1) -> int:
    """How many columns the model has, where all are continuous and they are few enough to be drawn."""
    schema = artefact.schema
    width = len(artefact.codec.coordinates)
    wanted = f"{least} or {most} columns" if least < most else f"{most} columns"
    what = None
    if schema.image:
        what = "this model makes pictures"
    elif any(c.kind != "continuous" for c in schema.columns) or width != len(schema.columns):
        what = "this model has columns that are not continuous, are constant, or have gaps"
    elif not least <= width <= most:
        what = f"this model has {width} column{'s' * (width != 1)}"
    if what is not None:
        raise UnsupportedError(f"{what}; {wanted} of plain numbers can be drawn", where=where, remedy=_INSTEAD)
    return width


def _one_condition(artefact: Artefact, condition: Any, where: str) -> None:
    if artefact.condition is not None and condition is None:
        names = ", ".join(c.name for c in artefact.schema.condition)
        raise ConfigError(
            f"the model has a condition ({names}), and its law differs from value to value",
            where=where,
            remedy="Give one value for all of the picture: condition=….",
        )


def _at_least(value: int, least: int, name: str) -> int:
    if value < least:
        raise ConfigError(f"{name} is {value}", where=name, remedy=f"Give {least} or more.")
    return value


def density_grid(
    artefact: Artefact, *, columns: Any = None, resolution: int | None = None, condition: Any = None, seed: int = 0
) -> DensityGrid:
    """The log-density where the model's samples are.

    Raises:
        UnsupportedError: The model has no density, or not one or two continuous columns.
        ConfigError: No one condition for a conditional model; a column of two.
    """
    where = "plot_density"
    refuse_unknown_density(artefact, where, _INSTEAD)
    width = _continuous(artefact, where)
    _one_condition(artefact, condition, where)
    schema = artefact.schema
    order = tuple(schema.names.index(name) for name in chosen(schema.names, columns or schema.names))
    if len(order) < width:
        raise UnsupportedError(
            "the density of one column of two is an integral over the other", where=where, remedy=_INSTEAD
        )
    count = _at_least((64 if width == 2 else 401) if resolution is None else resolution, 2, "resolution")
    drawn = generate(artefact, FRAME_ROWS, condition=condition, seed=seed).table
    seen = frame(np.stack([np.asarray(c, dtype=np.float64) for c in _modelled(artefact, drawn).columns], 1))
    vectors = condition_vectors(artefact, 1, condition, generator_for(seed, SAMPLE))
    found = density_on(
        artefact, [np.linspace(seen.low[i], seen.high[i], count) for i in order], order,
        condition=None if vectors is None else vectors[0], seed=seed,
    )  # fmt: skip
    names = axis_names(artefact)
    return replace(found, names=tuple(names[i] for i in order), unit=schema.columns[order[0]].unit or "")


@torch.no_grad()
def ways(
    artefact: Artefact, n: int, *, times: Sequence[float] | np.ndarray | Tensor, condition: Any = None, seed: int = 0
) -> Ways:
    """Rows on their way from source to data: at times of the ODE, or after each layer.

    Raises:
        UnsupportedError: The model is no flow.
        ConfigError: No rows, or times that are not rising in [0, 1].
    """
    refuse_a_jump(artefact, "plot_trajectories", _INSTEAD)
    _at_least(n, 1, "n")
    generator = generator_for(seed, SAMPLE)
    given = condition_vectors(artefact, n, condition, generator)
    if artefact.flow.ode is None:
        stops = stops_of(artefact, artefact.flow.base.sample(n, given, generator=generator), given)
        return Ways(artefact.codec.in_units(stops.double().cpu().numpy()), np.arange(len(stops)), len(stops) - 1)
    grid = torch.as_tensor(times, dtype=torch.float32)
    if grid.ndim != 1 or len(grid) < 2 or not (grid[0] >= 0 and grid[-1] <= 1 and bool((grid.diff() > 0).all())):
        raise ConfigError(
            "the times are not rising from 0 to 1", where="times", remedy="Give two or more, such as (0, 0.5, 1)."
        )
    states = artefact.flow.trajectory(n, grid, given, generator=generator)
    return Ways(artefact.codec.in_units(states.double().cpu().numpy()), grid.double().numpy(), None)


def velocity_grid(
    artefact: Artefact, time: float, *, n: int = 500, resolution: int = 20, condition: Any = None, seed: int = 0
) -> VelocityGrid:
    """The field of the ODE around the rows that are on their way at ``time``.

    Raises:
        UnsupportedError: The model has no ODE, or not two continuous columns.
        ConfigError: A time outside [0, 1]; no one condition for a conditional model.
    """
    where = "plot_velocity"
    refuse_a_jump(artefact, where, _INSTEAD)
    if artefact.flow.ode is None:
        raise UnsupportedError(
            f"{artefact.config['method']} is made of discrete layers: there is no ODE, hence no velocity",
            where=where,
            remedy="Look at its layers: plot_trajectories.",
        )
    _continuous(artefact, where, least=2)
    _one_condition(artefact, condition, where)
    if not 0 <= time <= 1:
        raise ConfigError(f"time is {time}", where=where, remedy="Give one from 0 (source) to 1 (data).")
    count = _at_least(resolution, 2, "resolution")
    generator = generator_for(seed, SAMPLE)
    given = condition_vectors(artefact, _at_least(n, 1, "n"), condition, generator)
    with torch.no_grad():
        states = artefact.flow.trajectory(n, torch.tensor([time], dtype=torch.float32), given, generator=generator)
    cloud = states[0].reshape(n, 2).double().cpu().numpy()
    seen = frame(cloud, margin=0.12)
    axes = [np.linspace(seen.low[i], seen.high[i], count) for i in (0, 1)]
    points = np.stack(np.meshgrid(*axes), -1)
    rows = torch.as_tensor(points.reshape(-1, 2)).reshape(-1, *artefact.codec.event_shape)
    vectors = condition_vectors(artefact, len(rows), condition, generator)
    names = axis_names(artefact)
    velocity = data_velocity(artefact, time, rows, vectors).reshape(points.shape)
    placed = (artefact.codec.in_units(x.reshape(-1, *artefact.codec.event_shape)) for x in (points, cloud))
    points, cloud = (x.reshape(shape) for x, shape in zip(placed, (points.shape, cloud.shape), strict=True))
    return VelocityGrid(points, velocity, cloud, (names[0], names[1]))


def data_velocity(artefact: Artefact, time: float, rows: Tensor, condition: Tensor | None) -> np.ndarray:
    """The velocity of the ODE at coordinates in the units of the data: dx/dt = J v(t, z), x = g(z), g preprocessing."""
    before, ode, _ = artefact.flow.split_at_ode("plot_velocity")
    given = None if before.condition_shape is None else condition
    with torch.no_grad():
        inner = before.encode(rows, given, log_det=False).value
        velocity = ode.field(time, inner, condition)
        moved = torch.func.jvp(lambda z: before.decode(z, given, log_det=False).value, (inner,), (velocity,))[1]
    return moved.reshape(len(rows), -1).double().cpu().numpy()
