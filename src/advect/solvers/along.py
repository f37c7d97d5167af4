"""What a solve integrates: the state of each row and any quantities along its way.

The solver sees one matrix per batch: the event of a row, flattened, followed by its passengers. Passengers are

    d log|det ∂x(t)/∂x(t0)| / dt = tr ∂v/∂x     (Chen et al. 2018, theorem 1), one column per probe, and
    any number of other rates, such as ‖v‖² and ‖∂v/∂x‖²_F   (Finlay et al. 2020, section 3),

so a regulariser rides along without the solver knowing it. Whatever belongs to a row (condition, probes) is kept
here and follows the row when others leave the batch.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError
from advect.solvers.divergence import TraceEstimator
from advect.typing import Divergence, Field, sum_event


@dataclass(frozen=True)
class Motion:
    """One evaluation of the field.

    Attributes:
        t: Scalar or ``(rows,)``.
        x: ``(rows, *event)``.
        velocity: ``(rows, *event)``.
        condition: As given to the field.
        squared_jacobian: ``(rows,)`` estimate of ‖∂v/∂x‖²_F, where a passenger asked for it.
    """

    t: Tensor
    x: Tensor
    velocity: Tensor
    condition: Tensor | None = None
    squared_jacobian: Tensor | None = None


@runtime_checkable
class Along(Protocol):
    """A quantity integrated along. One with an attribute ``needs_jacobian = True`` finds it in the motion."""

    def __call__(self, motion: Motion) -> Tensor:
        """Its rate per unit of time, ``(rows,)``."""
        ...


@dataclass(frozen=True)
class KineticEnergy:
    """∫ ‖v‖² dt: at its least where paths are straight (Finlay et al. 2020)."""

    def __call__(self, motion: Motion) -> Tensor:
        """‖v‖², summed over the event."""
        return sum_event(motion.velocity.square())


@dataclass(frozen=True)
class JacobianNorm:
    """∫ ‖∂v/∂x‖²_F dt, from the products the divergence computes anyway (Finlay et al. 2020)."""

    needs_jacobian: bool = True

    def __call__(self, motion: Motion) -> Tensor:
        """The squared Frobenius norm, exact or by the probes of the divergence on board."""
        assert motion.squared_jacobian is not None
        return motion.squared_jacobian


@dataclass(frozen=True)
class System:
    """The right-hand side for the rows still on their way.

    Attributes:
        field: The velocity.
        event: Shape of one row.
        dtype: What the field sees. The state is kept at least in float32 while steps are added up.
        condition: ``(rows, …)`` or None.
        divergence: The trace on board, or None.
        probes: ``(rows, probes, *event)``, fixed for the solve, or None.
        along: Other quantities.
    """

    field: Field
    event: torch.Size
    dtype: torch.dtype
    condition: Tensor | None = None
    divergence: Divergence | None = None
    probes: Tensor | None = None
    along: tuple[Along, ...] = ()

    @property
    def size(self) -> int:
        """Numbers in one event."""
        return self.event.numel()

    @property
    def traces(self) -> int:
        """Columns of the log-determinant."""
        if self.divergence is None:
            return 0
        return 1 if self.probes is None else self.probes.shape[1]

    def take(self, index: Tensor) -> "System":
        """The same for some of the rows."""
        pick = [None if held is None else held[index] for held in (self.condition, self.probes)]
        return replace(self, condition=pick[0], probes=pick[1])

    def bare(self) -> "System":
        """The same without passengers."""
        return replace(self, divergence=None, probes=None, along=())

    def events(self, y: Tensor) -> Tensor:
        """The part of ``y`` that is the state, as ``(rows, *event)`` in the dtype of the field."""
        if y.dtype == self.dtype and y.shape[1:] == self.event:
            return y  # nothing is on board
        return y[:, : self.size].reshape(y.shape[0], *self.event).to(self.dtype)

    def __call__(self, t: float | Tensor, y: Tensor) -> Tensor:
        """dy/dt ``(rows, columns)`` at a number ``t`` or at ``(rows,)`` times. One evaluation of the field."""
        x = self.events(y)
        if isinstance(t, Tensor):
            time = t.to(self.dtype)
        else:
            time = torch.full((), t, dtype=self.dtype, device=x.device)
        velocity, traces, squared = self._evaluate(time, x)
        if velocity.shape != x.shape:
            raise ShapeError(
                f"the field returned {tuple(velocity.shape)} for points {tuple(x.shape)}",
                where="field",
                remedy="A velocity has the shape of its points.",
            )
        flat = velocity.reshape(y.shape[0], -1).to(y.dtype)
        if self.divergence is None and not self.along:
            return flat
        motion = Motion(time, x, velocity, self.condition, squared)
        rates = [quantity(motion).unsqueeze(1) for quantity in self.along]
        columns = [traces, *rates] if traces is not None else rates
        return torch.cat([flat, *(column.to(y.dtype) for column in columns)], dim=1)

    def _evaluate(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Velocity, traces and squared Jacobian, the last two where asked for."""
        if self.divergence is None:
            return self.field(t, x, self.condition), None, None
        if any(needs_jacobian(quantity) for quantity in self.along):
            assert isinstance(self.divergence, TraceEstimator)
            return self.divergence.with_jacobian_norm(self.field, t, x, self.condition, self.probes)
        velocity, traces = self.divergence(self.field, t, x, self.condition, self.probes)
        return velocity, traces, None


def needs_jacobian(quantity: Along) -> bool:
    """Whether a quantity reads `Motion.squared_jacobian`."""
    return bool(getattr(quantity, "needs_jacobian", False))


def board(
    field: Field,
    x: Tensor,
    condition: Tensor | None,
    divergence: Divergence | None,
    generator: Generator | None,
    along: tuple[Along, ...],
) -> tuple[System, Tensor]:
    """Check the inputs, draw the probes once, and return the system with its first matrix ``(rows, columns)``.

    Raises:
        ShapeError: ``x`` is no batch of floating-point rows, or ``condition`` has another number of rows.
        ConfigError: A quantity needs the Jacobian and no divergence that offers it is on board.
    """
    if x.ndim < 1 or not x.is_floating_point():
        raise ShapeError(
            f"x is {x.dtype} of shape {tuple(x.shape)}",
            where="solver",
            remedy="Give floating-point rows of shape (batch, *event).",
        )
    if condition is not None and (condition.ndim < 1 or condition.shape[0] != x.shape[0]):
        raise ShapeError(
            f"the condition has shape {tuple(condition.shape)} for {x.shape[0]} rows",
            where="solver",
            remedy="Give one condition per row.",
        )
    if any(needs_jacobian(quantity) for quantity in along) and not isinstance(divergence, TraceEstimator):
        raise ConfigError(
            "a quantity along the way needs the Jacobian, and no divergence on board offers it",
            where="along",
            remedy="Integrate with divergence=HutchinsonDivergence() or ExactDivergence().",
        )
    probes = divergence.probes(x, generator) if divergence is not None else None
    system = System(field, x.shape[1:], x.dtype, condition, divergence, probes, tuple(along))
    working = torch.promote_types(x.dtype, torch.float32)
    y = x.reshape(x.shape[0], system.size).to(working)
    extra = system.traces + len(system.along)
    if extra:
        y = torch.cat([y, y.new_zeros(x.shape[0], extra)], dim=1)
    return system, y
