"""Samples of a run whose plan makes and loses mass, as often as the mass says that they carry.

Such a flow carries rows *and* their mass: its law at a time is that of the moved rows weighted by what each of them has
there. Counted alike they would have the shares of the first time for ever, so figures and pictures take rows that are
kept with probability mass/max mass: independent draws of the weighted law.
"""

import numpy as np
import torch

from advect.data import find_array, set_aside, take_rows
from advect.records import Table
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.generate import Generated, SolverChoice, generate
from advect.workflows.growth import MASS
from advect.workflows.snapshots import needed_timeline
from advect.workflows.streams import SAMPLE
from advect.workflows.weighted import kept

SPARE = 3  # rows drawn for one that is wanted: enough where no kind grows to three times its share
_STREAM = 7  # below SAMPLE


def by_mass(artefact: Artefact, table: Table, *, seed: int) -> np.ndarray:
    """Which samples of one time stand for all of them, by the mass that is told beside them; all where none is told."""
    mass = find_array(table, _mass_name(artefact))
    carried = np.zeros(0) if mass is None else np.nan_to_num(np.asarray(mass, dtype=np.float64), posinf=0.0)
    if not carried.sum() > 0:
        return np.arange(table.num_rows)
    return kept(torch.from_numpy(carried), generator_for(seed, SAMPLE, _STREAM)).numpy()


def grown(artefact: Artefact, num_rows: int, *, condition: Table | None = None, seed: int = 0) -> Generated:
    """`generate` at the last time, counted by mass where the plan of the run makes and loses some.

    Args:
        artefact: The model.
        num_rows: How many rows are wanted; there are fewer where some grow to more than `SPARE` times their share.
        condition: One for each row, of a model that has some.
        seed: Of every draw.
    """
    if not artefact.growth:
        return generate(artefact, num_rows, condition=condition, choice=SolverChoice(), seed=seed)
    timeline = needed_timeline(artefact, "growth")
    found = generate(artefact, SPARE * num_rows, seed=seed, at=timeline.times[-1:])
    lost = np.flatnonzero(~found.usable)
    chosen = by_mass(artefact, found.table, seed=seed)
    chosen = chosen[found.usable[chosen]][:num_rows]
    table = set_aside(set_aside(found.table, _mass_name(artefact)), timeline.key)
    usable = np.repeat([True, False], [len(chosen), len(lost)])
    rows = np.concatenate([chosen, lost])
    return Generated(take_rows(table, rows), found.nfe, found.seconds, usable, found.notes)


def _mass_name(artefact: Artefact) -> str:
    """What `growth.with_mass` calls it beside the columns of the data."""
    name = MASS
    while name in artefact.schema.names:
        name += "_"
    return name
