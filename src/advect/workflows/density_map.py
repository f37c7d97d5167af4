"""The density of a run of one or two columns on a grid, for its page and its plots."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from advect.errors import UnsupportedError
from advect.flows import EmpiricalBase
from advect.records import Table
from advect.report.density import DensityGrid
from advect.report.values import frame
from advect.run import Artefact
from advect.solvers import Adaptive
from advect.training import generator_for
from advect.workflows.growth import log_weight
from advect.workflows.motion import real_points
from advect.workflows.streams import SCORE

SIDES = (80, 64, 48, 32)  # points a side, where a grid of them is done in the time there is; at least the last
SECONDS = 4.0
TOLERANCE = 1e-3  # a hundredth of a nat is no shade of colour
_TRIED = 128
_MARGIN = 0.12  # of the range, around the rows


def refuse_unknown_density(artefact: Artefact, where: str, remedy: str) -> None:
    """Raise `UnsupportedError` for a model whose log-density is not known exactly."""
    known = artefact.flow.likelihood
    what = None
    if isinstance(artefact.flow.base, EmpiricalBase):
        what = "this model's source is a data set, which has no density"
    elif known != "exact":
        less = "knows no density" if known == "none" else "knows a lower bound of its density only"
        what = f"{artefact.config['method']} {less}"
    if what is not None:
        raise UnsupportedError(what, where=where, remedy=remedy)


@torch.no_grad()
def density_on(
    artefact: Artefact,
    axes: Sequence[np.ndarray],
    order: Sequence[int] | None = None,
    *,
    condition: Tensor | None = None,
    seed: int = 0,
) -> DensityGrid:
    """Log-densities on the grid that the axes span.

    Args:
        artefact: A model of as many continuous coordinates as there are axes.
        axes: Coordinates in the units of the data.
        order: Which coordinate of the model each axis is; by default as they stand.
        condition: ``(condition,)`` one for the whole grid, of a model that has one.
        seed: Of the probes of a stochastic trace.
    """
    order = tuple(range(len(axes))) if order is None else tuple(order)
    mesh = np.meshgrid(*axes)
    points = np.stack([mesh[order.index(i)].ravel() for i in range(len(axes))], 1)
    rows = torch.as_tensor(points - _offsets(artefact)).reshape(-1, *artefact.codec.event_shape)
    given = None if condition is None else condition.expand(len(rows), *condition.shape)
    values = artefact.flow.log_prob(rows, given, generator=generator_for(seed, SCORE)).double().cpu()
    weight = log_weight(artefact, rows, given)
    values = values if weight is None else values + weight
    coordinates = artefact.codec.coordinates
    return DensityGrid(tuple(axes), values.numpy().reshape(mesh[0].shape), tuple(coordinates[i].name for i in order))


def _offsets(artefact: Artefact) -> np.ndarray:
    """What coding takes off each coordinate, so that columns far from zero keep their digits."""
    return np.array([artefact.codec.codes[c.column].offset for c in artefact.codec.coordinates])


def density_around(
    artefact: Artefact, real: Table, *, seed: int = 0, deadline: float | None = None
) -> DensityGrid | None:
    """Log-densities on a grid around the rows, to a hundredth of a nat or so, as fine as the time allows.

    None for a model whose log-density is not known exactly or depends on a condition, and for rows that are anything
    but two continuous columns.

    Args:
        artefact: The model.
        real: Rows around which the grid is laid, and which stand on it.
        seed: Of the rows' noise, where they have any.
        deadline: ``time.monotonic()`` of which no more than half of the time left is taken; by default `SECONDS` are.
    """
    codec = artefact.codec
    if artefact.schema.image or len(codec.coordinates) != 2 or not codec.exact or artefact.condition is not None:
        return None
    try:
        refuse_unknown_density(artefact, "", "")
    except UnsupportedError:
        return None
    rows = real_points(artefact, real, (0, 1), rows=real.num_rows, seed=seed)
    if artefact.flow.ode is not None:
        coarse = Adaptive(rtol=TOLERANCE, atol=TOLERANCE)
        artefact = replace(artefact, flow=artefact.flow.with_options(likelihood_solver=coarse))
    offsets = _offsets(artefact)
    seen = frame(rows - offsets, margin=_MARGIN)
    low, high = seen.low + offsets, seen.high + offsets
    side = _affordable(artefact, low, high, SECONDS if deadline is None else (deadline - time.monotonic()) / 2)
    return replace(density_on(artefact, [np.linspace(low[i], high[i], side) for i in (0, 1)], seed=seed), rows=rows)


def _affordable(artefact: Artefact, low: np.ndarray, high: np.ndarray, seconds: float) -> int:
    """The finest grid that is done in time, judged by a few of its points."""
    tried = [np.linspace(low[0], high[0], _TRIED // 8), np.linspace(low[1], high[1], 8)]
    started = time.perf_counter()
    density_on(artefact, tried)
    each = (time.perf_counter() - started) / _TRIED
    return next((side for side in SIDES if side**2 * each <= min(seconds, SECONDS)), SIDES[-1])
