"""The density of a run in the plane on a grid, for its page."""

import time

import numpy as np
import torch

from advect.errors import UnsupportedError
from advect.flows import Flow
from advect.records import Table
from advect.report.density import DensityMap
from advect.report.values import frame
from advect.run import Artefact
from advect.solvers import Adaptive
from advect.workflows.motion import real_points

SIDES = (80, 64, 48, 32)  # points a side, where a grid of them is done in the time there is; at least the last
SECONDS = 4.0
TOLERANCE = 1e-3  # a hundredth of a nat is no shade of colour
_TRIED = 128
_MARGIN = 0.08  # of the range, around the rows


@torch.no_grad()
def density_map(artefact: Artefact, real: Table, *, seed: int = 0, deadline: float | None = None) -> DensityMap | None:
    """Log-densities on a grid around the rows.

    None for a model whose log-density is not known exactly or depends on a condition, and for rows that are anything
    but two continuous columns.

    Args:
        artefact: The model.
        real: Rows around which the grid is laid, and which stand on it.
        seed: Of the rows' noise, where they have any.
        deadline: ``time.monotonic()`` of which no more than half of the time left is taken; by default `SECONDS` are.
    """
    coordinates, codec = artefact.codec.coordinates, artefact.codec
    if artefact.schema.image or len(coordinates) != 2 or not codec.exact or artefact.condition is not None:
        return None
    if artefact.flow.likelihood != "exact":
        return None
    shift = np.array([codec.codes[c.column].offset for c in coordinates])
    rows = real_points(artefact, real, (0, 1), rows=real.num_rows, seed=seed) - shift  # in the flow's coordinates
    seen = frame(rows)
    room = _MARGIN * (seen.high - seen.low)
    low, high = seen.low - room, seen.high + room
    flow = artefact.flow
    if flow.ode is not None:
        flow = flow.with_options(likelihood_solver=Adaptive(rtol=TOLERANCE, atol=TOLERANCE))
    try:
        side = _affordable(flow, low, high, SECONDS if deadline is None else (deadline - time.monotonic()) / 2)
        x, y = (np.linspace(low[i], high[i], side) for i in (0, 1))
        values = _log_prob(flow, np.stack(np.meshgrid(x, y), -1).reshape(-1, 2))
    except UnsupportedError:  # a source that is a data set has no density
        return None
    return DensityMap(
        values.reshape(side, side),
        x + shift[0],
        y + shift[1],
        (coordinates[0].name, coordinates[1].name),
        rows + shift,
    )


def _affordable(flow: Flow, low: np.ndarray, high: np.ndarray, seconds: float) -> int:
    """The finest grid that is done in time, judged by a few of its points."""
    tried = np.random.default_rng(0).uniform(low, high, (_TRIED, 2))
    started = time.perf_counter()
    _log_prob(flow, tried)
    each = (time.perf_counter() - started) / _TRIED
    return next((side for side in SIDES if side**2 * each <= min(seconds, SECONDS)), SIDES[-1])


def _log_prob(flow: Flow, points: np.ndarray) -> np.ndarray:
    """Log-densities ``(rows,)``, −∞ and failures as they are."""
    return flow.log_prob(torch.as_tensor(points)).double().cpu().numpy()
