"""Moving rows between the times of a run, both ways, and following them on the way."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.data import Timeline, beside, joined, take_rows, with_condition
from advect.errors import ConfigError
from advect.records import Mapped, Table
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.generate import condition_vectors
from advect.workflows.growth import mass_gain, with_mass
from advect.workflows.snapshots import needed_timeline, timeline_of
from advect.workflows.streams import SAMPLE, SCORE
from advect.workflows.transport import Transported, from_latent, preprocessing, to_latent, transport

ENDS = ("source", "target")


def move(artefact: Artefact, table: Table, *, start: Any = None, to: Any = None, seed: int = 0) -> Transported:
    """Rows to where they are asked for: between times, or between the two ends of a model without times.

    Args:
        artefact: The model.
        table: Rows.
        start: The time they are of; None for the times in their own column, or the end opposite to ``to``.
        to: A time; ``source`` or ``target`` for the first or the last one, or for the ends of a model without times.
            None is the source, or with times the last one.
        seed: Of the noise inside discrete cells.

    Raises:
        AdvectError: Rows that do not fit, or times that the model does not have.
    """
    if timeline_of(artefact) is None:
        if start is not None:
            needed_timeline(artefact, "--from")
        return transport(artefact, table, to="source" if to is None else to, seed=seed)
    return between(artefact, table, start=start, end="target" if to is None else to, seed=seed)


def goal(artefact: Artefact, to: Any = None) -> str:
    """Where `move` takes rows, in a word."""
    timeline = timeline_of(artefact)
    if timeline is None:
        return f"the {'source' if to is None else to}"
    return timeline.phrase(_time(timeline, "target" if to is None else to, "--to"))


@torch.no_grad()
def between(artefact: Artefact, table: Table, *, start: Any = None, end: Any = "target", seed: int = 0) -> Transported:
    """Rows of one time at another, earlier or later, by the solver of likelihoods; see `move`."""
    timeline = needed_timeline(artefact, "--from, --to")
    starts = _starts(timeline, table, start, end)
    goal = _time(timeline, end, "--to")
    timeline.position(goal)
    parts, places = [], []
    for time in np.unique(starts).tolist():
        rows = np.flatnonzero(starts == time)
        places.append(rows)
        parts.append(_moved(artefact, take_rows(table, rows), timeline.position(time), timeline.position(goal), seed))
    order = np.argsort(np.concatenate(places), kind="stable")
    result = take_rows(joined([part.table for part in parts]), order)
    times = timeline.column(np.full(len(order), goal))
    result = beside(result, {timeline.key: times}, (_dtype(times),))
    nfe = sum(part.nfe * len(part.status) for part in parts) / max(len(order), 1)
    return Transported(result, torch.cat([part.status for part in parts])[torch.from_numpy(order)], nfe)


@torch.no_grad()
def followed(
    artefact: Artefact,
    start: int | Table,
    times: Sequence[Any] | None = None,
    *,
    origin: Any = None,
    condition: Any = None,
    seed: int = 0,
) -> np.ndarray:
    """Rows on their way: ``(times, rows, *coordinates)`` in the units of the data.

    Args:
        artefact: A model with times.
        start: How many rows of the first time to draw, or rows to start from.
        times: Rising, in the user's units; all times of the data by default.
        origin: The time of the given rows; by default the first.
        condition: Of rows that are drawn, as in `generate`; given rows have their own beside them.
        seed: Of the draw.

    Raises:
        ConfigError: Times that fall, or lie before the origin or outside the data's.
    """
    timeline = needed_timeline(artefact, "trajectory")
    first = timeline.times[0] if origin is None else _time(timeline, origin, "origin")
    asked = [_time(timeline, one, "times") for one in (timeline.times if times is None else times)]
    asked = [one for one in asked if one >= first] if times is None else asked
    if any(later < earlier for earlier, later in zip([first, *asked], asked, strict=False)):
        raise ConfigError("the times must rise, from that of the rows on", where="trajectory")
    places = torch.tensor([timeline.position(one) for one in asked], dtype=torch.float32)
    generator = generator_for(seed, SAMPLE)
    if isinstance(start, int):
        rows: int | Tensor = start
        given = condition_vectors(artefact, start, condition, generator)
    else:
        rows, given = to_latent(artefact, start, generator), own_conditions(artefact, start)
    assert artefact.flow.ode is not None  # a run with times is trained on an ODE
    # Given rows are followed exactly, not sampled.
    flow = artefact.flow.with_options(
        interval=(timeline.position(first), 1.0), solver=artefact.flow.ode.likelihood_solver
    )
    states = flow.trajectory(rows, places, given, generator=generator)
    return artefact.codec.in_units(states.double().cpu().numpy())


def _moved(artefact: Artefact, table: Table, start: float, end: float, seed: int) -> Transported:
    """Rows of one time, all of them at another."""
    coded = artefact.codec.encode(table, generator=generator_for(seed, SCORE), dtype=torch.float64)
    latent: Tensor = coded.values
    for part in preprocessing(artefact):
        latent = part.encode(latent, log_det=False).value
    flow, given = artefact.flow, own_conditions(artefact, table)
    assert flow.ode is not None  # a run with times is trained on an ODE
    ode = flow.ode.with_options(interval=(min(start, end), max(start, end)), solver=flow.ode.likelihood_solver)
    verb = ode.decode if end >= start else ode.encode
    chunks = (slice(first, first + flow.chunk_rows) for first in range(0, len(latent), flow.chunk_rows))
    pieces = [verb(latent[some], None if given is None else given[some], log_det=False) for some in chunks]
    status = torch.cat([piece.status for piece in pieces])
    moved = Mapped(torch.cat([piece.value for piece in pieces]), None, status)
    nfe = torch.cat([piece.nfe for piece in pieces if piece.nfe is not None])
    worst = torch.maximum(coded.status.to(torch.int8), status.cpu().to(torch.int8))
    table = with_mass(from_latent(artefact, moved), mass_gain(artefact, latent, start, end, given))
    if artefact.condition is not None and given is not None:  # so that the rows can be moved on
        table = with_condition(table, artefact.condition, given)
    return Transported(table, worst, float(nfe.double().mean()))


def own_conditions(artefact: Artefact, table: Table) -> Tensor | None:
    """The ``(rows, condition)`` that rows have beside them; None for a model without.

    Raises:
        DataError: They have none.
    """
    return None if artefact.condition is None else artefact.condition.encode(table).float()


def _starts(timeline: Timeline, table: Table, start: Any, end: Any) -> np.ndarray:
    """The ``(rows,)`` times that the given rows are of."""
    if start is None:
        own = timeline.read(table)
        if own is not None:
            for time in np.unique(own).tolist():
                timeline.position(time)
            return own
        if end not in ENDS:
            raise ConfigError(
                f"it is not said which time these rows are of, and they have no column {timeline.key!r}",
                where="--from",
                remedy=f"Give it: --from {timeline.words[0]}.",
            )
        start = ENDS[1 - ENDS.index(end)]
    time = _time(timeline, start, "--from")
    timeline.position(time)
    return np.full(table.num_rows, time)


def _time(timeline: Timeline, given: Any, where: str) -> float:
    """A time as it is asked for; the ends may be called source and target."""
    if isinstance(given, str) and given in ENDS and given not in timeline.words:
        return timeline.times[0] if given == "source" else timeline.times[-1]
    return timeline.parse(given, where=where)


def _dtype(values: np.ndarray) -> str:
    return "str" if values.dtype.kind == "O" else str(values.dtype)
