"""Filling the unknown cells of given rows, by draws from a trained model given the known ones.

The model is one that was trained on whole rows, and nothing is trained here: see `flows.observed` for the method, and
for where it is exact. A row with nothing known is a plain draw, one with everything known comes back as it is.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from advect.data import PartialRows, read_partial, with_condition
from advect.errors import ConfigError
from advect.flows import Flow, given_coordinates, schedule_with_score
from advect.run import Artefact
from advect.solvers import make_solver
from advect.training import generator_for
from advect.workflows.generate import Generated, SolverChoice, condition_vectors
from advect.workflows.streams import SAMPLE

SOLVER, STEPS = "adams3-straight", 48


@torch.no_grad()
def complete(
    artefact: Artefact,
    given: Any,
    *,
    draws: int = 1,
    noise: float = 0.0,
    condition: Any = None,
    choice: SolverChoice | None = None,
    seed: int = 0,
) -> Generated:
    """Draw what is unknown in each row given what is known.

    Args:
        artefact: The model; it must know its score.
        given: Rows with unknown cells, see `data.read_partial`.
        draws: Completions of each row; they stand together.
        noise: Standard deviation of the known numbers, in their own units; what is discrete is taken as it is.
        condition: As for `generate`; taken from the rows where they have the model's condition columns.
        choice: Solver, guidance and schedule; without a solver 48 steps of ``adams3-straight``.
        seed: Of every draw.

    Returns:
        ``draws`` times as many rows, their known cells as they were given; `Generated.usable` is False where the solver
        failed and the unknown cells stayed empty.

    Raises:
        UnsupportedError: A model without a score.
        AdvectError: Rows that do not fit the model, see `data.read_partial`.
    """
    if draws < 1:
        raise ConfigError(f"the number of draws must be at least 1, not {draws}", where="--draws")
    if not 0 <= noise < float("inf"):
        raise ConfigError(
            f"the noise of what is observed is {noise}", where="--observed-noise", remedy="Give 0 or more."
        )
    flow = _solved(artefact, SolverChoice() if choice is None else choice)
    partial = read_partial(given, artefact.schema)
    generator = generator_for(seed, SAMPLE)
    rows = np.repeat(np.arange(partial.table.num_rows), draws)
    repeated = partial.taken(rows)
    vectors = _conditions(artefact, repeated, condition, generator)
    started = time.perf_counter()
    coordinates = repeated.coordinates(artefact.codec, generator)
    posterior = given_coordinates(flow, coordinates, noise=_noise(artefact, noise), condition=vectors)
    drawn = posterior.draw(generator=generator)
    assert drawn.nfe is not None
    values = drawn.value.cpu()
    usable = torch.isfinite(values).flatten(1).all(1).numpy() | repeated.known.all(1)
    table = repeated.put_back(artefact.codec.decode(values), artefact.schema)
    if artefact.condition is not None and vectors is not None:
        table = with_condition(table, artefact.condition, vectors)
    return Generated(table, float(drawn.nfe.double().mean()), time.perf_counter() - started, usable)


def _solved(artefact: Artefact, choice: SolverChoice) -> Flow:
    """The flow with the choice, or with the solver of completions.

    The run's own setting is what was enough for its own field; the field given observations bends more.
    """
    if artefact.flow.ode is not None:
        schedule_with_score(artefact.flow.ode.field, "--given")
    flow = choice.applied(artefact)
    if choice.solves or flow.ode is None:
        return flow
    schedule = schedule_with_score(flow.ode.field, "--given")
    return flow.with_options(solver=make_solver(SOLVER, steps=STEPS, schedule=schedule))


def _noise(artefact: Artefact, noise: float) -> Tensor:
    """Standard deviation of each coordinate: none where it stands for a level or for the presence of a value."""
    scales = [0.0 if c.scaling == "cumulative" else noise for c in artefact.codec.coordinates]
    return torch.tensor(scales, dtype=torch.float64).reshape(artefact.codec.event_shape)


def _conditions(artefact: Artefact, rows: PartialRows, condition: Any, generator: Generator) -> Tensor | None:
    """The condition of each row: from its own columns, or as for plain samples."""
    codec = artefact.condition
    if codec is not None and condition is None:
        names = {*rows.table.sides}
        if all(column.name in names for column in codec.columns):
            return codec.encode(rows.table).float()
    return condition_vectors(artefact, rows.table.num_rows, condition, generator)
