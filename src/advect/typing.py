"""The words the rooms share: shapes, protocols, and the one rule for broadcasting time.

A protocol here has one verb. Anything with that verb may take the place of ours.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.progress import Progress, Window
from advect.records import Batch, Bridge, Drawn, Mapped, Pairs, Regression, Solution

Rows = Float[Tensor, "batch *event"]
Times = Float[Tensor, " batch"]
Scalars = Float[Tensor, " batch"]


def expand_time(t: Tensor | float, like: Tensor) -> Tensor:
    """Give ``t`` the shape ``(batch, 1, …, 1)`` that broadcasts against ``like`` of shape ``(batch, *event)``.

    ``t`` is a number, a scalar tensor or ``(batch,)``; dtype and device become those of ``like``. This is the only
    place where time meets an event shape.
    """
    t = torch.as_tensor(t, dtype=like.dtype, device=like.device)
    return t.expand(like.shape[0]).reshape(-1, *([1] * (like.ndim - 1)))


def batch_time(t: Tensor | float, like: Tensor) -> Tensor:
    """Give ``t`` the shape ``(batch,)`` with dtype and device of ``like``."""
    return torch.as_tensor(t, dtype=like.dtype, device=like.device).expand(like.shape[0])


def sum_event(x: Tensor) -> Tensor:
    """Sum ``(batch, *event)`` over the event to ``(batch,)``; also for scalars of shape ``(batch,)``."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x


@runtime_checkable
class Field(Protocol):
    """A velocity. May also offer ``divergence(t, x, condition) -> (batch,)``, equal to autograd's."""

    def __call__(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity ``(batch, *event)`` at time ``t`` (scalar or ``(batch,)``) and points ``x``."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """x_t = α(t) x1 + σ(t) x0. Every method maps a tensor of times to a tensor of the same shape."""

    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data end; α(1) is the limit at data."""
        ...

    def sigma(self, t: Tensor) -> Tensor:
        """Weight of the source end."""
        ...

    def alpha_derivative(self, t: Tensor) -> Tensor:
        """dα/dt."""
        ...

    def sigma_derivative(self, t: Tensor) -> Tensor:
        """dσ/dt."""
        ...

    def log_snr(self, t: Tensor) -> Tensor:
        """λ(t) = 2 log(α/σ); ±∞ at ends where a weight vanishes."""
        ...

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        ...


@runtime_checkable
class Path(Protocol):
    """A conditional probability path p_t(x | x0, x1)."""

    def sample(self, t: Tensor, x0: Tensor, x1: Tensor, *, generator: Generator | None = None) -> Bridge:
        """Draw x ~ p_t(· | x0, x1) and the velocity there; finite at t = 0 and t = 1."""
        ...

    def velocity(self, t: Tensor, x: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Conditional velocity u_t(x | x0, x1)."""
        ...


@runtime_checkable
class Coupling(Protocol):
    """Chooses which source row goes with which data row."""

    def prepare(
        self,
        source: Tensor | None,
        data: Tensor,
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> "Coupling":
        """Do once what depends on the whole sets; couplings without such work return themselves.

        ``source`` is None for a standard normal; ``condition`` belongs to the data rows.
        """
        ...

    def draw(
        self, x0: Tensor, x1: Tensor, *, condition: Tensor | None = None, generator: Generator | None = None
    ) -> Pairs:
        """Pair the rows of a batch."""
        ...


@runtime_checkable
class SetCoupling(Coupling, Protocol):
    """A coupling that, once prepared, finds the data row of a source row in the whole data set."""

    def choose(self, x0: Tensor, *, condition: Tensor | None = None, generator: Generator | None = None) -> Pairs:
        """Pairs whose ``index1`` counts the rows of the data set it was prepared with."""
        ...


@runtime_checkable
class Objective(Protocol):
    """A loss per row."""

    def __call__(self, flow: torch.nn.Module, batch: Batch, *, generator: Generator | None = None) -> Tensor:
        """Loss ``(batch,)`` before row weights."""
        ...


@runtime_checkable
class DrawingObjective(Objective, Protocol):
    """An objective whose draws can be made for a whole batch before the loss of some of its rows is taken.

    ``objective(flow, batch, generator=g)`` is ``objective.loss(flow, objective.draw(batch, generator=g))``. So the loss
    of a batch does not depend on how its rows are shared out, in memory or over processes.
    """

    def draw(self, batch: Batch, *, generator: Generator | None = None) -> Drawn:
        """Everything random, row by row."""
        ...

    def loss(self, flow: torch.nn.Module, drawn: Drawn) -> Tensor:
        """Loss ``(batch,)`` of what was drawn; no further draw is made."""
        ...


@runtime_checkable
class RegressionObjective(DrawingObjective, Protocol):
    """An objective that may be the squared error of what one network says.

    Where it is, ``objective.loss(flow, drawn)`` is to rounding the loss of ``objective.regression(flow, drawn)``
    (`objectives.regression_loss`), whose gradient some networks know without a graph (`RegressionNetwork`).
    """

    def regression(self, flow: torch.nn.Module, drawn: Drawn) -> Regression | None:
        """The loss of what was drawn as such an error, or None. No parameter has a part in anything but ``network``."""
        ...


@runtime_checkable
class DirectObjective(Objective, Protocol):
    """An objective that, of some flows, knows the gradient of its mean loss without a graph."""

    def direct(
        self, flow: torch.nn.Module, gradients: Mapping[torch.nn.Parameter, Tensor]
    ) -> Callable[[Batch], Tensor | None] | None:
        """A function that puts the gradient of a batch's weighted mean loss into ``gradients`` and returns the loss.

        It draws nothing, and returns None for a batch that only the plain way can take, before it has changed anything
        but ``gradients``.

        Args:
            flow: What is trained.
            gradients: A tensor for every trained parameter.

        Returns: None where the flow has parts for which no such function was written.
        """
        ...


@runtime_checkable
class RegressionNetwork(Protocol):
    """A network that knows the gradient of a squared error of what it says, without a graph."""

    def regressor(
        self, gradients: Mapping[torch.nn.Parameter, Tensor], precision: torch.dtype
    ) -> Callable[[Regression], Tensor] | None:
        """A function that puts the gradient of the mean loss of a `Regression` into ``gradients`` and returns the loss.

        Args:
            gradients: A tensor for every parameter of the network.
            precision: Of the arithmetic; that of the parameters, or bfloat16 as under torch's autocast.

        Returns: None where the network has parts for which no such function was written.
        """
        ...


@cache
def written_for(kind: type, fast: str, *plain: str) -> bool:
    """Whether the method ``fast`` of a class was written for the methods ``plain`` that the class has.

    It was not where one of these was overridden in a class further down: what is the same function for the parent need
    not be for the child.
    """

    def depth(name: str) -> int:
        return next(i for i, parent in enumerate(kind.__mro__) if name in vars(parent))

    return all(depth(fast) <= depth(name) for name in plain)


@runtime_checkable
class Solver(Protocol):
    """Integrates a field from t0 to t1, in either direction."""

    def __call__(
        self,
        field: Field,
        x: Tensor,
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        times: Tensor | None = None,
        condition: Tensor | None = None,
        divergence: "Divergence | None" = None,
        generator: Generator | None = None,
    ) -> Solution:
        """The state at t1, with evaluations and status per row."""
        ...


@runtime_checkable
class Divergence(Protocol):
    """The trace of a field's Jacobian, exact or by fixed probes."""

    def probes(self, x: Tensor, generator: Generator | None) -> Tensor | None:
        """Draw what stays fixed during one solve; ``(batch, probes, *event)`` or None."""
        ...

    def __call__(
        self, field: Field, t: Tensor | float, x: Tensor, condition: Tensor | None, probes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Velocity ``(batch, *event)`` and one trace estimate per probe ``(batch, max(probes, 1))``."""
        ...


@runtime_checkable
class Bijection(Protocol):
    """An invertible map; `encode` goes from data to source, `decode` back."""

    def encode(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        log_det: bool = True,
        generator: Generator | None = None,
    ) -> Mapped:
        """Data to source."""
        ...

    def decode(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        *,
        log_det: bool = True,
        generator: Generator | None = None,
    ) -> Mapped:
        """Source to data."""
        ...


@runtime_checkable
class Base(Protocol):
    """The source distribution of a flow."""

    def sample(self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """Draw ``(num_rows, *event)``."""
        ...

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-density ``(batch,)`` in nats; raises `UnsupportedError` where there is none."""
        ...


@runtime_checkable
class PartSink(Protocol):
    """Where each of several processes sends its part of a checkpoint, which is written while the training goes on."""

    def begin(self, tensors: Mapping[str, Tensor], windows: Mapping[str, Window], state: Mapping[str, object]) -> None:
        """Take a copy of what this process holds; ``windows`` are the rows of those tensors that are parts."""
        ...

    def settle(self, *, wait: bool = False) -> None:
        """Let a checkpoint count once all processes have written; all of them must ask together.

        What went wrong in writing is raised here.
        """
        ...


@runtime_checkable
class Sink(Protocol):
    """Where the training loop sends what happens."""

    def progress(self, progress: Progress) -> None:
        """A line of life."""
        ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers to keep."""
        ...

    def checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
        """Everything needed to go on with the same bits."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...
