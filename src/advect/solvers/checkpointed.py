"""Gradients in constant memory: a solve with fixed steps that forgets what it computed and computes it again.

A gradient through N steps keeps the activations of N steps. Here the steps are cut into segments; of each only the
state at its start is kept, and when the gradient arrives there, the segment is run again (Griewank 1992; for
differential equations the discrete adjoint, as in Gholami et al. 2019, arXiv 1902.10298). With √N segments, states and
activations alike grow as √N, for one more evaluation per evaluation.

It is the same solve and the same graph: what is dropped are the numbers that autograd saved in it, and what comes back
are the same numbers. So state, log-determinant and passengers are those of the solver alone bit for bit, and so, to the
rounding of sums, are their gradients in rows, condition, parameters and whatever else the field holds on to, second
derivatives included. (The adjoint *equation* of Chen et al. 2018 solves another discrete system backwards, and its
gradients are off by its error.)

A saved tensor is dropped after its step, not at once: a divergence by backward passes needs it within the step.
"""

import math
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.autograd.graph import saved_tensors_hooks

from advect.errors import ConfigError, SolverError
from advect.records import Solution
from advect.solvers.along import Along, System
from advect.solvers.fixed import FixedSolver, Trial
from advect.solvers.grid import Grid
from advect.typing import Divergence, Field, Solver


@dataclass(frozen=True)
class Checkpointed:
    """A solver with fixed steps whose gradient needs the memory of a few steps only.

    The field must be a function: called again with the same rows it gives the same numbers (no dropout, and parameters
    that stay as they are until the gradient has been taken; both are checked).

    Args:
        solver: A solver with fixed steps.
        segments: Parts that are kept and run again as one; None for √steps, the least memory.

    Raises:
        ConfigError: A solver without fixed steps, or fewer than one segment.
    """

    solver: Solver
    segments: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.solver, FixedSolver):
            raise ConfigError(
                f"{type(self.solver).__name__} has no fixed steps",
                where="Checkpointed",
                remedy="Take a solver with fixed steps, such as RK4(8).",
            )
        if self.segments is not None and (isinstance(self.segments, bool) or self.segments < 1):
            raise ConfigError(
                f"segments must be a whole number of at least 1, got {self.segments!r}",
                where="Checkpointed",
                remedy="Leave it out for √steps.",
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
        """Integrate, remembering little; arguments as in the solver's own call."""
        solver = self.solver
        assert isinstance(solver, FixedSolver)
        if torch.is_grad_enabled():
            steps = solver.num_steps
            length = math.ceil(steps / min(self.segments or math.isqrt(steps - 1) + 1, steps))
            solver = _Recorded(solver.steps, solver.grid, solver=solver, tape=_Tape(solver, length))
        return solver(
            field, x, t0, t1, times=times, condition=condition, divergence=divergence, generator=generator, along=along
        )


@dataclass(frozen=True)
class _Recorded(FixedSolver):
    """The solver, each of its steps taken through a tape."""

    solver: FixedSolver = field(kw_only=True)
    tape: "_Tape" = field(kw_only=True)

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        return self.tape.step(system, grid, number, y, carry)

    def laid(self, t0: float, t1: float) -> Grid:
        return self.solver.laid(t0, t1)

    def prepared(self, system: System, y: Tensor, generator: Generator | None) -> System:
        return self.solver.prepared(system, y, generator)


@dataclass
class _Segment:
    """Steps in a row, and what it takes to run them again. Nothing here holds a graph of the solve, else a graph would
    hold itself."""

    system: System
    grid: Grid
    first: int
    y: Tensor
    carry: tuple[Tensor, ...]
    precision: Callable[[], AbstractContextManager]
    steps: int = 0
    saved: int = 0


class _Slot:
    """Stands in the graph for a saved tensor: number ``index`` of its segment."""

    __slots__ = ("index", "kind", "segment", "value")

    def __init__(self, segment: _Segment, value: Tensor) -> None:
        self.segment, self.index, self.kind = segment, segment.saved, (value.shape, value.dtype)
        self.value: Tensor | None = value.detach()
        segment.saved += 1


class _Tape:
    """Takes the steps of one solve, and runs a segment again when one of its saved tensors is asked for."""

    def __init__(self, solver: FixedSolver, length: int) -> None:
        self.solver, self.length = solver, length
        self._segment: _Segment | None = None
        # System and end of the step before; the end belongs to the graph, which the tape must not hold.
        self._last: tuple[System, weakref.ref[Tensor]] | None = None
        self._fresh: list[_Slot] = []  # of the step under way
        self._again: tuple[_Segment, list[Tensor]] | None = None  # the one segment that was run again

    def step(self, system: System, grid: Grid, number: int, y: Tensor, carry: tuple[Tensor, ...]) -> Trial:
        """Step ``number`` of the solver; what autograd saves in it becomes slots."""
        segment = self._segment
        # Rows that failed leave the batch between two steps: the system is then another one, and so is the segment.
        goes_on = self._last is not None and self._last[0] is system and self._last[1]() is y
        if segment is None or not goes_on or segment.steps == self.length:
            held = tuple(slope.detach().requires_grad_(slope.requires_grad) for slope in carry)
            start = y.detach().requires_grad_(y.requires_grad)
            segment = self._segment = _Segment(system, grid, number, start, held, _precision(y.device.type))
        segment.steps += 1
        with saved_tensors_hooks(self._pack, self._unpack):
            # A view is no leaf: a first state of the user's is treated as all later ones.
            trial = self.solver.step(system, grid, number, y.view_as(y), carry)
        for slot in self._fresh:
            slot.value = None
        self._fresh.clear()
        self._last = (system, weakref.ref(trial.y))
        return trial

    def _pack(self, tensor: Tensor) -> "_Slot | tuple[Tensor, int]":
        if tensor.is_leaf and tensor.requires_grad:  # a parameter, which is there anyway
            return tensor, tensor._version
        assert self._segment is not None
        slot = _Slot(self._segment, tensor)
        self._fresh.append(slot)
        return slot

    def _unpack(self, held: "_Slot | tuple[Tensor, int]") -> Tensor:
        if isinstance(held, tuple):
            if held[0]._version != held[1]:
                raise _changed("a parameter was changed in place before the gradient was taken")
            return held[0]
        if held.value is not None:
            return held.value
        if self._again is None or self._again[0] is not held.segment:
            self._again = None  # free the other one first
            self._again = held.segment, self._run_again(held.segment)
        values = self._again[1]
        if len(values) != held.segment.saved or (values[held.index].shape, values[held.index].dtype) != held.kind:
            raise _changed("the field did other things when it was called again")
        return values[held.index]

    def _run_again(self, segment: _Segment) -> list[Tensor]:
        """All tensors that autograd saves in a segment, in order."""
        values: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            if not (tensor.is_leaf and tensor.requires_grad):
                values.append(tensor.detach())
            return tensor.detach() if tensor.grad_fn is not None else tensor

        with torch.enable_grad(), segment.precision(), saved_tensors_hooks(pack, lambda tensor: tensor):
            y, carry = segment.y, tuple(slope.view_as(slope) for slope in segment.carry)
            for number in range(segment.first, segment.first + segment.steps):
                trial = self.solver.step(segment.system, segment.grid, number, y.view_as(y), carry)
                y, carry = trial.y, trial.carry
        return values


def _precision(device: str) -> Callable[[], AbstractContextManager]:
    """Mixed precision as it is now, to be entered again."""
    if not torch.is_autocast_enabled(device):
        return nullcontext
    dtype = torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype)


def _changed(what: str) -> SolverError:
    return SolverError(
        what,
        where="Checkpointed",
        remedy="Take the gradient first, keep dropout out of the field, or use the solver without Checkpointed.",
    )
