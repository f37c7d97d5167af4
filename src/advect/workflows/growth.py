"""Growth of rows in a run whose plan makes and loses mass: its rate, and the mass they carry.

Both come from the plan between neighbouring snapshots, or between the source and the data of a run without times
(`couplings.PlanGrowth`), solved once between at most `ROWS` training rows of either; its duals are kept with the
weights and answer for any row. Under labels there is a plan for each, and beside scales one that minds them. A row
between two times is first taken back by the flow to the earlier one.
"""

import math

import numpy as np
import torch
from torch import Generator, Tensor

from advect.couplings import (
    Alike,
    Classwise,
    Growth,
    LabelGrowth,
    NotConvergedError,
    PlanGrowth,
    ScaleGrowth,
    Unbalanced,
)
from advect.data import beside
from advect.flows import EmpiricalBase
from advect.records import Table
from advect.run import Artefact
from advect.training import DataRows, Snapshots, generator_for
from advect.typing import Base, Coupling
from advect.workflows.prepare import Prepared
from advect.workflows.snapshots import needed_timeline, timeline_of
from advect.workflows.streams import PAIR

ROWS = 512
MOST_KINDS = 64  # of labels, each with a plan of its own
DRAWN = 4096  # of the source, to know how much mass there is in all
MASS = "relative_mass"


def growth_of(prepared: Prepared) -> tuple[Growth, ...]:
    """Of each pair of neighbouring snapshots, or from the source to the data.

    Nothing where the plan is balanced or does not come to rest, and for rows with weights but without times: their
    batches are paired first and weighed after, and no plan of whole populations says what comes of that.
    """
    train, seed = prepared.train, prepared.training.seed
    found: list[Growth | None] = []
    try:
        if isinstance(train, Snapshots):
            for place, coupling in enumerate(train.couplings):
                generator = generator_for(seed, PAIR, place, 1)
                found.append(_between(coupling, train.rows[place], train.rows[place + 1], generator))
        elif train.weight is None and prepared.teacher is None:
            found.append(_from_source(prepared.built.coupling, prepared.built.core.base, train, seed))
    except NotConvergedError:
        return ()
    known = tuple(one for one in found if one is not None)
    return known if len(known) == len(found) else ()


def _unbalanced(coupling: Coupling | None) -> bool:
    inner = getattr(coupling, "inner", coupling)
    return isinstance(inner, Unbalanced) and isinstance(inner.cost, str)


def _between(coupling: Coupling, early: DataRows, late: DataRows, generator: Generator) -> Growth | None:
    """The growth from one snapshot to the next."""
    if not _unbalanced(coupling):
        return None
    if not isinstance(coupling, Alike) or early.condition is None or late.condition is None:
        x0, x1 = (rows.draw(_some(rows.num_rows, generator), generator) for rows in (early, late))
        return PlanGrowth.of(coupling, x0, x1)
    before, after = early.condition.cpu(), late.condition.cpu()
    if not coupling.labels:
        after = after[one := _some(late.num_rows, generator)]
        other = coupling.choose(before, after, generator)
        x0, x1 = early.draw(other, generator), late.draw(one, generator)
        return ScaleGrowth.of(coupling, x0, x1, before[other], after)
    kinds, which = torch.unique(after, dim=0, return_inverse=True)
    parts = []
    for place, kind in enumerate(kinds):
        # Asked for as many as there are it gives all that are alike.
        own = coupling.choose(before, kind.expand(early.num_rows, -1), generator).unique()
        x0 = early.draw(own[_some(len(own), generator)], generator)
        parts.append(PlanGrowth.of(coupling, x0, _of_kind(late, which == place, generator)))
    return _by_label(kinds, parts)


def _from_source(coupling: Coupling | None, base: Base, data: DataRows, seed: int) -> Growth | None:
    """The growth from the source to the data; under labels each has a part of the whole source."""
    if not _unbalanced(coupling) or (data.condition is not None and not isinstance(coupling, Classwise)):
        return None
    generator = generator_for(seed, PAIR, 0, 1)
    if isinstance(base, EmpiricalBase):
        x0 = base.points[_some(len(base.points), generator).to(base.points.device)]
    else:
        x0 = base.sample(ROWS, generator=generator)
    if data.condition is None:
        return PlanGrowth.of(coupling, x0, data.draw(_some(data.num_rows, generator), generator))
    kinds, which = torch.unique(data.condition.cpu(), dim=0, return_inverse=True)
    if len(kinds) > min(MOST_KINDS, data.num_rows / 2):  # paired by `Conditioned`, which keeps all mass
        return None
    rows = [_of_kind(data, which == place, generator) for place in range(len(kinds))]
    return _by_label(kinds, [PlanGrowth.of(coupling, x0, x1) for x1 in rows])


def _by_label(kinds: Tensor, parts: list[PlanGrowth | None]) -> LabelGrowth | None:
    known = tuple(part for part in parts if part is not None)
    return LabelGrowth(kinds, known) if len(known) == len(parts) else None


def _of_kind(rows: DataRows, here: Tensor, generator: Generator) -> Tensor:
    own = here.nonzero()[:, 0]
    return rows.draw(own[_some(len(own), generator)], generator)


def _some(count: int, generator: Generator) -> Tensor:
    return torch.randperm(count, generator=generator)[:ROWS]


@torch.no_grad()
def growth_rate(
    artefact: Artefact, latent: Tensor, times: np.ndarray, condition: Tensor | None = None
) -> np.ndarray | None:
    """Rates ``(rows,)`` per unit of the user's times; None where the plan neither makes nor loses mass.

    It is constant on the way from one snapshot to the next. At a snapshot it is that of the way to the next, at the
    last one that of the way there.

    Args:
        artefact: A model with times.
        latent: ``(rows, *event)`` in latent coordinates.
        times: ``(rows,)`` in the user's units.
        condition: ``(rows, condition)`` of a model that has some.
    """
    if not artefact.growth:
        return None
    timeline = needed_timeline(artefact, "growth")
    trained = np.array(timeline.trained)
    rates = np.full(len(latent), np.nan)
    for time in np.unique(times).tolist():
        here = np.flatnonzero(times == time)
        rows, given = latent[torch.from_numpy(here)], None if condition is None else condition[torch.from_numpy(here)]
        place = int(np.searchsorted(trained, time, side="right")) - 1
        if place == len(artefact.growth):
            growth, length = artefact.growth[-1], trained[-1] - trained[-2]
            rates[here] = growth.late_rate(rows, given).numpy() / length
            continue
        length = trained[place + 1] - trained[place]
        early = _at(artefact, rows, given, timeline.position(time), timeline.position(trained[place]))
        rates[here] = artefact.growth[place].rate(early, given).numpy() / length
    return rates


@torch.no_grad()
def mass_gain(
    artefact: Artefact, latent: Tensor, start: float, end: float, condition: Tensor | None = None
) -> np.ndarray | None:
    """The mass ``(rows,)`` that rows of mass 1 have after the way from one place on the flow's axis to another, under
    their conditions.

    Backwards it is the mass they came from. None where the plan neither makes nor loses mass.
    """
    if not artefact.growth:
        return None
    timeline = timeline_of(artefact)
    places = [0.0, 1.0] if timeline is None else [timeline.position(time) for time in timeline.trained]
    gained, state, now = torch.zeros(len(latent), dtype=torch.float64), latent, start
    low, high = min(start, end), max(start, end)
    passed = [k for k in range(len(artefact.growth)) if places[k] < high and places[k + 1] > low]
    for place in passed if end >= start else passed[::-1]:
        first, last = places[place], places[place + 1]
        state, now = _at(artefact, state, condition, now, first), first
        way = [min(max((where - first) / (last - first), 0.0), 1.0) for where in (start, end)]
        gained += (way[1] - way[0]) * artefact.growth[place].rate(state, condition)
    return gained.exp().numpy()


@torch.no_grad()
def log_weight(artefact: Artefact, rows: Tensor, condition: Tensor | None = None) -> Tensor | None:
    """What the log-density of the moved rows lacks to that of the law in which they count by their mass.

    q(y) = p(y) M(x(y)) / Z with x the row at the source and Z the mean of M over it, under each condition; Z is 1 for
    the rows of the plan, and for a source that is a density taken over `DRAWN` draws.

    Args:
        artefact: A model without times, whose source is a density.
        rows: ``(rows, *event)`` in the coordinates of the codec.
        condition: ``(rows, condition)`` of a model that has some.

    Returns: ``(rows,)`` float64, on the processor; None where the plan neither makes nor loses mass.
    """
    if not artefact.growth:
        return None
    growth, source = artefact.growth[0], artefact.flow.base
    gained = growth.rate(artefact.flow.encode(rows, condition).value, condition)
    kinds = [None] if condition is None else list(condition.unique(dim=0))
    for kind in kinds:
        here = slice(None) if kind is None or condition is None else (condition == kind).all(1).cpu()
        given = None if kind is None else kind.expand(DRAWN, *kind.shape)
        drawn = growth.rate(source.sample(DRAWN, given, generator=generator_for(0, PAIR, 2)), given)
        gained[here] -= torch.logsumexp(drawn, 0) - math.log(DRAWN)
    return gained


def with_mass(table: Table, mass: np.ndarray | None) -> Table:
    """Rows with the mass they carry beside them; as they are where there is none."""
    if mass is None:
        return table
    name = MASS
    while name in table.names or name in table.sides:
        name += "_"
    return beside(table, {name: mass}, (str(mass.dtype),))


def mass_name(artefact: Artefact) -> str:
    """What `with_mass` calls it beside the columns of the data."""
    name = MASS
    while name in artefact.schema.names:
        name += "_"
    return name


def _at(artefact: Artefact, latent: Tensor, condition: Tensor | None, start: float, end: float) -> Tensor:
    """Rows of one place on the axis at another, by the solver of likelihoods."""
    if start == end:
        return latent
    flow = artefact.flow
    assert flow.ode is not None  # a run with a coupling is trained on an ODE
    ode = flow.ode.with_options(interval=(min(start, end), max(start, end)), solver=flow.ode.likelihood_solver)
    verb, step = ode.decode if end >= start else ode.encode, flow.chunk_rows
    chunks = (slice(first, first + step) for first in range(0, len(latent), step))
    return torch.cat(
        [verb(latent[c], None if condition is None else condition[c], log_det=False).value for c in chunks]
    )
