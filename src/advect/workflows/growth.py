"""Growth of rows between the times of a run whose plan makes and loses mass: its rate, and the mass they carry.

Both come from the plan between neighbouring snapshots (`couplings.PlanGrowth`), solved once after training between at
most `ROWS` training rows of either; its duals are kept with the weights and answer for any row. A row between two times
is first taken back by the flow to the earlier one.
"""

import numpy as np
import torch
from torch import Tensor

from advect.couplings import NotConvergedError, PlanGrowth
from advect.data import beside
from advect.records import Table
from advect.run import Artefact
from advect.training import Snapshots, generator_for
from advect.workflows.prepare import Prepared
from advect.workflows.snapshots import needed_timeline
from advect.workflows.streams import PAIR

ROWS = 512
MASS = "relative_mass"


def growth_of(prepared: Prepared) -> tuple[PlanGrowth, ...]:
    """Of each pair of neighbouring snapshots; nothing where the plan is balanced, or does not come to rest."""
    train = prepared.train
    if not isinstance(train, Snapshots):
        return ()
    found = []
    for place, coupling in enumerate(train.couplings):
        generator = generator_for(prepared.training.seed, PAIR, place, 1)
        early, late = (
            rows.draw(torch.randperm(rows.num_rows, generator=generator)[:ROWS], generator)
            for rows in train.rows[place : place + 2]
        )
        try:
            growth = PlanGrowth.of(coupling, early, late)
        except NotConvergedError:
            return ()
        if growth is None:
            return ()
        found.append(growth)
    return tuple(found)


@torch.no_grad()
def growth_rate(artefact: Artefact, latent: Tensor, times: np.ndarray) -> np.ndarray | None:
    """Rates ``(rows,)`` per unit of the user's times; None where the plan neither makes nor loses mass.

    It is constant on the way from one snapshot to the next. At a snapshot it is that of the way to the next, at the
    last one that of the way there.

    Args:
        artefact: A model with times.
        latent: ``(rows, *event)`` in latent coordinates.
        times: ``(rows,)`` in the user's units.
    """
    if not artefact.growth:
        return None
    timeline = needed_timeline(artefact, "growth")
    trained = np.array(timeline.trained)
    rates = np.full(len(latent), np.nan)
    for time in np.unique(times).tolist():
        here = np.flatnonzero(times == time)
        rows = latent[torch.from_numpy(here)]
        place = int(np.searchsorted(trained, time, side="right")) - 1
        if place == len(artefact.growth):
            growth, length = artefact.growth[-1], trained[-1] - trained[-2]
            rates[here] = growth.late_rate(rows).numpy() / length
            continue
        length = trained[place + 1] - trained[place]
        early = _at(artefact, rows, timeline.position(time), timeline.position(trained[place]))
        rates[here] = artefact.growth[place].rate(early).numpy() / length
    return rates


@torch.no_grad()
def mass_gain(artefact: Artefact, latent: Tensor, start: float, end: float) -> np.ndarray | None:
    """The mass ``(rows,)`` that rows of mass 1 have after the way from one place on the flow's axis to another.

    Backwards it is the mass they came from. None where the plan neither makes nor loses mass.
    """
    if not artefact.growth:
        return None
    timeline = needed_timeline(artefact, "growth")
    places = [timeline.position(time) for time in timeline.trained]
    gained, state, now = torch.zeros(len(latent), dtype=torch.float64), latent, start
    low, high = min(start, end), max(start, end)
    passed = [k for k in range(len(artefact.growth)) if places[k] < high and places[k + 1] > low]
    for place in passed if end >= start else passed[::-1]:
        first, last = places[place], places[place + 1]
        state, now = _at(artefact, state, now, first), first
        way = [min(max((where - first) / (last - first), 0.0), 1.0) for where in (start, end)]
        gained += (way[1] - way[0]) * artefact.growth[place].rate(state)
    return gained.exp().numpy()


def with_mass(table: Table, mass: np.ndarray | None) -> Table:
    """Rows with the mass they carry beside them; as they are where there is none."""
    if mass is None:
        return table
    name = MASS
    while name in table.names or name in table.sides:
        name += "_"
    return beside(table, {name: mass}, (str(mass.dtype),))


def _at(artefact: Artefact, latent: Tensor, start: float, end: float) -> Tensor:
    """Rows of one place on the axis at another, by the solver of likelihoods."""
    if start == end:
        return latent
    flow = artefact.flow
    assert flow.ode is not None  # a run with times is trained on an ODE
    ode = flow.ode.with_options(interval=(min(start, end), max(start, end)), solver=flow.ode.likelihood_solver)
    verb = ode.decode if end >= start else ode.encode
    return torch.cat([verb(rows, log_det=False).value for rows in latent.split(flow.chunk_rows)])
