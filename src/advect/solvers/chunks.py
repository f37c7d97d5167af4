"""Rows in chunks that stay in cache.

A field on ten thousand rows at once moves its activations through main memory at every layer; a chunk of one or two
thousand keeps them near the processor, which about halves the time of a wide network. Rows are independent and the
probes are drawn once for the whole batch, so the results are those of one solve.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.records import Solution
from advect.solvers.along import Along
from advect.solvers.divergence import TraceEstimator
from advect.typing import Divergence, Field, Solver


@dataclass(frozen=True)
class Chunked:
    """A solver that integrates at most ``rows`` rows at a time. One that adds noise draws for each chunk in turn.

    Args:
        solver: Any solver.
        rows: Rows of one chunk.

    Raises:
        ConfigError: ``rows`` below one.
    """

    solver: Solver
    rows: int = 2048

    def __post_init__(self) -> None:
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1:
            raise ConfigError(
                f"rows must be a whole number of at least 1, got {self.rows!r}",
                where="Chunked",
                remedy="Give the rows of one chunk, such as 2048.",
            )

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
        """Integrate chunk after chunk; arguments as in the solver's own call."""
        probes = divergence.probes(x, generator) if divergence is not None else None
        extra = {"along": along} if along else {}
        parts = []
        for start in range(0, max(x.shape[0], 1), self.rows):
            chunk = slice(start, start + self.rows)
            held = divergence
            if divergence is not None and probes is not None:
                held = hold(divergence, probes[chunk])
            parts.append(
                self.solver(
                    field,
                    x[chunk],
                    t0,
                    t1,
                    times=times,
                    condition=None if condition is None else condition[chunk],
                    divergence=held,
                    generator=generator,
                    **extra,
                )
            )
        return parts[0] if len(parts) == 1 else _joined(parts)


@dataclass(frozen=True)
class _Held:
    """A divergence whose probes have been drawn before."""

    divergence: Divergence
    drawn: Tensor

    def probes(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """The probes drawn before."""
        return self.drawn

    def __call__(
        self, field: Field, t: Tensor | float, x: Tensor, condition: Tensor | None, probes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As the divergence itself."""
        return self.divergence(field, t, x, condition, probes)


@dataclass(frozen=True)
class _HeldTrace(_Held):
    """The same for a divergence that offers the norm of the Jacobian."""

    def with_jacobian_norm(
        self, field: Field, t: Tensor | float, x: Tensor, condition: Tensor | None, probes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As the divergence itself."""
        assert isinstance(self.divergence, TraceEstimator)
        return self.divergence.with_jacobian_norm(field, t, x, condition, probes)


def hold(divergence: Divergence, probes: Tensor) -> Divergence:
    """The same divergence with probes ``(batch, probes, *event)`` that were drawn before."""
    kind = _HeldTrace if isinstance(divergence, TraceEstimator) else _Held
    return kind(divergence, probes)


def _joined(parts: list[Solution]) -> Solution:
    """Chunks of one batch put end to end."""

    def optional(name: str, axis: int = 0) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values, dim=axis)

    return Solution(
        state=torch.cat([part.state for part in parts]),
        nfe=torch.cat([part.nfe for part in parts]),
        status=torch.cat([part.status for part in parts]),
        failed_at=torch.cat([part.failed_at for part in parts]),
        log_abs_det=optional("log_abs_det"),
        log_abs_det_error=optional("log_abs_det_error"),
        times=parts[0].times,
        states=optional("states", axis=1),
        along=optional("along"),
    )
