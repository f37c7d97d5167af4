"""Embedded Runge–Kutta pairs with step control row by row; the walk itself is in `advect.solvers.walk`."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, unknown_name
from advect.records import Solution
from advect.solvers.along import Along, board
from advect.solvers.control import Tolerance
from advect.solvers.fixed import stand_still
from advect.solvers.grid import check_times
from advect.solvers.ledger import Ledger
from advect.solvers.tableau import BOSH3, DOPRI5, TSIT5, Tableau
from advect.solvers.walk import Walk, clock
from advect.typing import Divergence, Field

PAIRS = {tableau.name: tableau for tableau in (TSIT5, DOPRI5, BOSH3)}
# The smallest step as a part of the interval, unless the user says otherwise; it must still move the state, so it is
# at least ten units in the last place (1.2e-6 in float32).
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Adaptive:
    """An embedded Runge–Kutta pair with per-row step control.

    Args:
        method: ``tsit5``, ``dopri5`` (order 5) or ``bosh3`` (order 3).
        rtol: Relative tolerance per step.
        atol: Absolute tolerance per step, in the units of the state.
        max_steps: Attempts per row, rejected ones included.
        min_step: Smallest step, in units of time; None for 1e-12 of the interval (1.2e-6 in float32, where a
            smaller one is lost in rounding).
        first_step: First step to try; None for an estimate, which costs one evaluation.
        log_det_tolerance: Error of the log-determinant per step, in nats (never relative); None for ``atol``.

    Raises:
        ConfigError: A tolerance, step or count that is not positive.
        UnknownNameError: Another method.
    """

    method: str = "tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000
    min_step: float | None = None
    first_step: float | None = None
    log_det_tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.method not in PAIRS:
            raise unknown_name("adaptive method", self.method, PAIRS)
        given = {
            name: getattr(self, name)
            for name in ("rtol", "atol", "max_steps", "min_step", "first_step", "log_det_tolerance")
        }
        for name, value in given.items():
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(
                    f"{name} must be positive and finite, got {value!r}",
                    where="Adaptive",
                    remedy="A tolerance such as 1e-5 is usual." if "tol" in name else "Give a positive number.",
                )

    @property
    def tableau(self) -> Tableau:
        """The table of the pair."""
        return PAIRS[self.method]

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
        """Integrate ``field`` from ``t0`` to ``t1``, see `advect.typing.Solver`.

        Args:
            field: The velocity; it sees ``t`` of shape ``(rows,)`` in the dtype of ``x``, for the rows under way.
            x: Rows at ``t0``, float32 or float64.
            t0: First time.
            t1: Last time, on either side.
            times: Where to report ``states``, from ``t0`` towards ``t1``; they cost no evaluation.
            condition: One row per row of ``x``.
            divergence: Integrate the log-determinant too, under error control.
            generator: For the probes of a stochastic divergence.
            along: Other quantities to integrate, under error control.

        Raises:
            ConfigError: ``x`` in half precision, whose rounding hides the embedded error.
        """
        if x.is_floating_point() and torch.finfo(x.dtype).bits < 32:
            raise ConfigError(
                f"adaptive steps need float32 or float64, got {x.dtype}",
                where="Adaptive",
                remedy="Convert the rows with .float(), or take a solver with fixed steps.",
            )
        stops = check_times(times, t0, t1)
        system, y = board(field, x, condition, divergence, generator, along)
        ledger = Ledger(y, len(stops or ()))
        if t0 == t1 or y.numel() == 0:
            stand_still(ledger, y, stops)
        else:
            smallest = self.min_step or max(_SMALLEST, 10 * torch.finfo(y.dtype).eps) * abs(t1 - t0)
            walk = Walk(
                table=self.tableau,
                tolerance=Tolerance(self.rtol, self.atol, self.log_det_tolerance or self.atol),
                max_steps=self.max_steps,
                first_step=self.first_step,
                smallest=smallest,
                t0=float(t0),
                t1=float(t1),
                stops=clock(stops or [], y),
                ledger=ledger,
            )
            walk.run(system, y)
        return ledger.close(system, times)
