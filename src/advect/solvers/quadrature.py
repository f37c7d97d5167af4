"""Log-determinants by Gauss–Legendre nodes along a multistep solve.

    x(t) by `Adams3`,     ∫ r(t, x(t)) dt = Σ_k w_k r(t_k, x(t_k))      for r = tr ∂v/∂x and whatever else rides along

The trace does not act on the state: it need not be taken wherever the velocity is. One exact trace costs as much as
some d velocities, and it varies as slowly as the state; n Gauss nodes integrate polynomials of degree 2n − 1 exactly
(Golub & Welsch 1969, Math. Comp. 23), so a few of them are enough where a solver that carries the trace on board takes
it at every evaluation. States at the nodes come from the solver's interpolant and cost no evaluation.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.records import Solution, Status
from advect.solvers.along import Along, System, board
from advect.solvers.divergence import log_det_columns
from advect.solvers.fixed import all_healthy
from advect.solvers.ledger import healthy
from advect.solvers.multistep import Adams3
from advect.typing import Divergence, Field

TOGETHER = 2**12
"""Numbers in the states of all nodes up to which they are one call of the field."""


@lru_cache(maxsize=256)
def gauss_nodes(nodes: int, t0: float, t1: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Times from ``t0`` towards ``t1`` and weights that add up to ``t1 − t0``; exact to degree 2·nodes − 1."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    half = (t1 - t0) / 2
    return tuple((t0 + half * (1 + places)).tolist()), tuple((half * weights).tolist())


@dataclass(frozen=True)
class Adams3Quadrature(Adams3):
    """`Adams3` for the state; the trace and other quantities at one Gauss node for every few steps. Order 3.

    Without anything on board it is `Adams3`. The error of the state's steps dominates, so halving the steps tells it
    as for any fixed solver.

    Args:
        between: Steps for each node, 1 or more; there are at least two nodes.

    Raises:
        ConfigError: As `Adams3`, and for ``between`` below one.
    """

    between: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.between, bool) or not isinstance(self.between, int) or self.between < 1:
            raise ConfigError(
                f"between is {self.between!r}",
                where="Adams3Quadrature",
                remedy="Give the steps for each node, 1 or more.",
            )

    @property
    def num_nodes(self) -> int:
        """Evaluations of the quantities on board."""
        return max(2, -(-self.num_steps // self.between))

    def __call__(
        self,
        field: Field,
        x: Float[Tensor, "batch *event"],
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        times: Tensor | None = None,
        condition: Tensor | None = None,
        divergence: Divergence | None = None,
        generator: Generator | None = None,
        along: tuple[Along, ...] = (),
    ) -> Solution:
        """Integrate ``field``; arguments as for every fixed solver."""
        if (divergence is None and not along) or t0 == t1 or x.numel() == 0:
            return super().__call__(
                field,
                x,
                t0,
                t1,
                times=times,
                condition=condition,
                divergence=divergence,
                generator=generator,
                along=along,
            )
        system, _ = board(field, x, condition, divergence, generator, along)
        nodes, weights = gauss_nodes(self.num_nodes, t0, t1)
        stops = torch.tensor(nodes, dtype=torch.float64)
        if times is not None:
            stops = torch.cat([stops, times.to("cpu", torch.float64)])
        order = stops.argsort(stable=True, descending=t1 < t0)
        states = super().__call__(field, x, t0, t1, times=stops[order], condition=condition)
        assert states.states is not None
        place = order.argsort()
        wanted = None if times is None else states.states[place[len(nodes) :]]
        solution = replace(states, times=times, states=wanted)
        return _with_passengers(solution, system, states.states[place[: len(nodes)]], nodes, weights)


def _with_passengers(
    solution: Solution, system: System, states: Tensor, nodes: tuple[float, ...], weights: tuple[float, ...]
) -> Solution:
    """The solution with what is on board integrated over ``states`` ``(nodes, batch, *event)``."""
    extra = system.traces + len(system.along)
    rows = (solution.status == int(Status.OK)).nonzero().squeeze(1)
    few = system.take(rows)
    working = torch.promote_types(states.dtype, torch.float32)
    flat = states[:, rows].reshape(len(nodes), rows.shape[0], system.size).to(working)
    rates = _rates(few, flat, nodes, extra)
    total = (rates * rates.new_tensor(weights).reshape(-1, 1, 1)).sum(0)
    status, at, state = solution.status.clone(), solution.failed_at.clone(), solution.state
    if rates.numel() and not all_healthy(rates):
        failed_at = torch.full_like(at[rows], torch.nan)
        for t, found in zip(nodes, rates, strict=True):
            failed_at = torch.where(failed_at.isnan() & ~healthy(found), t, failed_at)
        bad = ~failed_at.isnan()
        total = torch.where(bad.unsqueeze(1), torch.nan, total)
        status[rows[bad]], at[rows[bad]] = int(Status.NAN_FIELD), failed_at[bad]
    columns = total.new_full((len(status), extra), torch.nan).index_copy(0, rows, total)
    failed = (status != int(Status.OK)).reshape(-1, *([1] * (state.ndim - 1)))
    nfe = solution.nfe.clone()
    nfe[rows] += len(nodes)
    log_det = error = None
    if system.traces:
        found = log_det_columns(columns[:, : system.traces], exact=system.probes is None)
        log_det, error = (column.to(state.dtype) for column in found)
        error = torch.where(status == 0, error, torch.nan)
    return replace(
        solution,
        state=torch.where(failed, torch.nan, state),
        nfe=nfe,
        status=status,
        failed_at=at,
        log_abs_det=log_det,
        log_abs_det_error=error,
        along=columns[:, system.traces :].to(state.dtype) if system.along else None,
    )


def _rates(system: System, states: Tensor, nodes: tuple[float, ...], extra: int) -> Tensor:
    """The rates of what is on board ``(nodes, rows, extra)`` at ``states`` ``(nodes, rows, size)``.

    Few numbers are asked for all at once, of a field with a divergence of its own: a call costs more than its
    arithmetic then. Others may count on one time for all rows, as fixed solvers give it.
    """
    count, rows, size = states.shape
    if states.numel() > TOGETHER or not callable(getattr(system.field, "velocity_and_divergence", None)):
        asked = [(t, system, y) for t, y in zip(nodes, states, strict=True)]
    else:
        held = system.condition is not None or system.probes is not None
        every = system.take(torch.arange(rows, device=states.device).repeat(count)) if held else system
        times = states.new_tensor(nodes).repeat_interleave(rows)
        asked = [(times, every, states.reshape(count * rows, size))]
    found = [few(t, torch.cat([y, y.new_zeros(len(y), extra)], dim=1))[:, size:] for t, few, y in asked]
    return torch.cat(found).reshape(count, rows, extra)
