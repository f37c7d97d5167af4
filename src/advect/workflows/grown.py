"""Samples of a run whose plan makes and loses mass, as often as the mass says that they carry.

Such a flow carries rows *and* their mass: its law at a time is that of the moved rows weighted by what each of them has
there. Counted alike they would have the shares of the source for ever, so figures and pictures take rows that are
kept with probability mass/max mass: independent draws of the weighted law.
"""

from typing import Any

import numpy as np
import torch

from advect.data import find_array, set_aside, take_rows
from advect.records import Table
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.generate import Generated, SolverChoice, generate
from advect.workflows.growth import mass_name
from advect.workflows.streams import SAMPLE
from advect.workflows.weighted import kept

SPARE = 3  # rows drawn for one that is wanted: enough where no kind grows to three times its share
_STREAM = 7  # below SAMPLE


def by_mass(artefact: Artefact, table: Table, *, seed: int) -> np.ndarray:
    """Which samples of one time stand for all of them, by the mass that is told beside them; all where none is told."""
    mass = find_array(table, mass_name(artefact))
    carried = np.zeros(0) if mass is None else np.nan_to_num(np.asarray(mass, dtype=np.float64), posinf=0.0)
    if not carried.sum() > 0:
        return np.arange(table.num_rows)
    return kept(torch.from_numpy(carried), generator_for(seed, SAMPLE, _STREAM)).numpy()


def grown(
    artefact: Artefact,
    num_rows: int,
    *,
    condition: Any = None,
    choice: SolverChoice | None = None,
    seed: int = 0,
) -> Generated:
    """`generate`, of a run with times at the last one, counted by mass where the plan makes and loses some.

    Args:
        artefact: The model.
        num_rows: How many rows are wanted; there are fewer where some grow to more than `SPARE` times their share.
        condition: A table with one for each row, or one for all rows, as in `generate`.
        choice: Solver and guidance; by default the run's own.
        seed: Of every draw.

    Returns: Rows in no order, each with its condition beside it, and what failed. The seconds are those of as many rows
        as were wanted.
    """
    choice = SolverChoice() if choice is None else choice
    if not artefact.growth:
        return generate(artefact, num_rows, condition=condition, choice=choice, seed=seed)
    many = SPARE * num_rows
    each = isinstance(condition, Table)
    given = take_rows(condition, np.arange(many) % condition.num_rows) if each else condition
    found = generate(artefact, many, condition=given, choice=choice, seed=seed)
    lost = np.flatnonzero(~found.usable)[:num_rows]
    chosen = by_mass(artefact, found.table, seed=seed)
    chosen = chosen[found.usable[chosen]]
    if each:  # conditions come round and round: what is left out should not be of the last alone
        order = torch.randperm(len(chosen), generator=generator_for(seed, SAMPLE, _STREAM, 1))
        chosen = chosen[order.numpy()]
    chosen = chosen[:num_rows]
    usable = np.repeat([True, False], [len(chosen), len(lost)])
    table = take_rows(set_aside(found.table, mass_name(artefact)), np.concatenate([chosen, lost]))
    return Generated(table, found.nfe, found.seconds / SPARE, usable, found.notes)
