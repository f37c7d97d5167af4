"""The books of one solve: what each row cost, how it ended, and where it was at the requested times.

Rows leave the batch at different times. Their ends are collected with their row numbers and put back in order once,
without writing into a tensor that a gradient flows through. Failed rows are NaN constants: nothing flows to them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advect.records import Solution, Status
from advect.solvers.along import System
from advect.solvers.divergence import log_det_columns

# An evaluation the solver made: times (a number or one per row), the points and the slopes there.
Evaluation = tuple[float | Tensor, Tensor, Tensor]


def magnitude_limit(dtype: torch.dtype) -> float:
    """Beyond this a row counts as blown up: its square, which error norms need, overflows."""
    return torch.finfo(dtype).max ** 0.5


def healthy(y: Float[Tensor, "rows columns"]) -> Tensor:
    """Which rows are finite and below the limit, ``(rows,)``."""
    low, high = y.detach().aminmax(dim=1)  # NaN propagates, and no comparison with it holds
    return torch.maximum(-low, high) <= magnitude_limit(y.dtype)


def judge(evaluations: Sequence[Evaluation], end: float | Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Why and when rows with a non-finite step failed: int8 status and time ``(rows,)``.

    The first non-finite slope decides: NaN at a finite point is the field's doing, all else is growth. Where every
    slope is finite the step itself grew beyond the limit, at its end. Rows that failed in neither way are OK.
    """
    bad = ~healthy(y)
    status = torch.where(bad, int(Status.BLOW_UP), int(Status.OK)).to(torch.int8)
    at = _times(end, y).clone()
    for t, point, slope in reversed(evaluations):
        slope_bad = ~torch.isfinite(slope.detach()).all(1)
        undefined = torch.isnan(slope.detach()).any(1) & healthy(point)
        kind = torch.where(undefined, int(Status.NAN_FIELD), int(Status.BLOW_UP)).to(torch.int8)
        status = torch.where(slope_bad, kind, status)
        at = torch.where(slope_bad, _times(t, y), at)
    return status, at


def _times(t: float | Tensor, y: Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=y.dtype, device=y.device).detach().expand(y.shape[0])


class Ledger:
    """Collects, row by row, and closes into a `Solution`.

    Args:
        y: The first matrix ``(batch, columns)`` of the solve.
        num_times: Number of requested times.
    """

    def __init__(self, y: Tensor, num_times: int) -> None:
        batch, device = y.shape[0], y.device
        self._like = y.detach()
        self._num_times = num_times
        self._nfe = torch.zeros(batch, dtype=torch.int64, device=device)
        self._status = torch.zeros(batch, dtype=torch.int8, device=device)
        self._failed_at = torch.full((batch,), torch.nan, dtype=y.dtype, device=device)
        self._ends: list[tuple[Tensor, Tensor]] = []
        self._stops: list[tuple[Tensor, Tensor]] = []

    def spend(self, rows: Tensor, evaluations: int) -> None:
        """Each of these rows took part in so many evaluations of the field."""
        if rows.shape[0] == self._nfe.shape[0]:  # all of them: no look-up
            self._nfe += evaluations
        else:
            self._nfe[rows] += evaluations

    def fail(self, rows: Tensor, status: Tensor, at: Tensor) -> None:
        """These rows ended without a value."""
        self._status[rows] = status.to(torch.int8)
        self._failed_at[rows] = at.to(self._failed_at.dtype)

    def finish(self, rows: Tensor, y: Tensor) -> None:
        """These rows arrived at ``y``."""
        self._ends.append((rows, y))

    def stop(self, index: int | Tensor, rows: Tensor, y: Tensor) -> None:
        """These rows were at ``y`` at the requested time number ``index`` (one, or one per row)."""
        self._stops.append((index * self._like.shape[0] + rows, y))

    def close(self, system: System, times: Tensor | None) -> Solution:
        """Put everything in order; ``system`` is the one of the whole batch."""
        y = self._gather(self._ends, self._like.shape[0])
        size, traces, dtype = system.size, system.traces, system.dtype
        log_det = error = along = states = None
        if traces:
            columns = y[:, size : size + traces]
            log_det, error = (c.to(dtype) for c in log_det_columns(columns, exact=system.probes is None))
            error = torch.where(self._status == 0, error, torch.nan)
        if system.along:
            along = y[:, size + traces :].to(dtype)
        if times is not None:
            stops = [(index, system.events(value)) for index, value in self._stops]
            flat = self._gather(stops, self._num_times * y.shape[0], system.events(self._like))
            states = flat.reshape(self._num_times, y.shape[0], *system.event)
        return Solution(
            state=system.events(y),
            nfe=self._nfe,
            status=self._status,
            failed_at=self._failed_at.to(dtype),
            log_abs_det=log_det,
            log_abs_det_error=error,
            times=times,
            states=states,
            along=along,
        )

    def _gather(self, pieces: list[tuple[Tensor, Tensor]], total: int, like: Tensor | None = None) -> Tensor:
        """Pieces with their places, put in order; NaN where there is none."""
        like = self._like if like is None else like
        empty = torch.full((total, *like.shape[1:]), torch.nan, dtype=like.dtype, device=like.device)
        if not pieces:
            return empty
        places, values = (torch.cat(part) for part in zip(*pieces, strict=True))
        return empty.index_copy(0, places, values)


def row_numbers(y: Tensor) -> Int[Tensor, " rows"]:
    """0, 1, …, one per row."""
    return torch.arange(y.shape[0], device=y.device)
