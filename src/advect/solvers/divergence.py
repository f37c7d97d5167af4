"""The trace of a field's Jacobian.

    tr ∂v/∂x = Σ_i e_iᵀ (∂v/∂x) e_i                    exactly, one backward pass per dimension, or
    tr ∂v/∂x = E[εᵀ (∂v/∂x) ε],  E[ε εᵀ] = I           (Hutchinson 1989; Grathwohl et al. 2019, section 3.1)

with probes ε that stay fixed during one solve, so that the integrand is smooth in time and the solver's error control
is not fooled by fresh noise. Backward passes run one after the other on a single graph: memory does not grow with
the dimension. Under `torch.no_grad` no graph outlives the call; with gradients on, the trace is differentiable.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError, unknown_name
from advect.typing import Field, sum_event


@runtime_checkable
class TraceEstimator(Protocol):
    """A divergence that also offers the Frobenius norm of the Jacobian from the same backward passes."""

    def with_jacobian_norm(
        self, field: Field, t: Tensor | float, x: Tensor, condition: Tensor | None, probes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity ``(rows, *event)``, traces ``(rows, probes)`` and ‖∂v/∂x‖²_F ``(rows,)``."""
        ...


@dataclass(frozen=True)
class ExactDivergence:
    """The exact trace: the field's own where it offers one, else one backward pass per dimension."""

    def probes(self, x: Tensor, generator: Generator | None = None) -> None:
        """Nothing is drawn."""
        return None

    def __call__(
        self,
        field: Field,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None = None,
        probes: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch 1"]]:
        """Velocity and trace."""
        both = getattr(field, "velocity_and_divergence", None)
        if callable(both):
            velocity, trace = both(t, x, condition)
            return velocity, trace.reshape(-1, 1)
        offered = getattr(field, "divergence", None)
        if callable(offered):
            return field(t, x, condition), offered(t, x, condition).reshape(-1, 1)
        velocity, traces, _ = self.with_jacobian_norm(field, t, x, condition)
        return velocity, traces

    def with_jacobian_norm(
        self,
        field: Field,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None = None,
        probes: Tensor | None = None,
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch 1"], Float[Tensor, " batch"]]:
        """The same by autograd, with ‖∂v/∂x‖²_F, also exact."""
        trace, squared = x.new_zeros(x.shape[0]), x.new_zeros(x.shape[0])
        with linearised(field, t, x, condition) as (point, velocity, graph):
            size = x.shape[1:].numel()
            # Rows are independent: the gradient of the sum over rows is one Jacobian row for each of them.
            sums = velocity.reshape(x.shape[0], size).sum(0)
            for index in range(size):
                row = gradient_of(sums[index], point, None, graph=graph)
                if row is not None:
                    trace = trace + row.reshape(x.shape[0], size)[:, index]
                    squared = squared + sum_event(row.square())
        return velocity if graph else velocity.detach(), trace.unsqueeze(1), squared


@dataclass(frozen=True, init=False)
class HutchinsonDivergence:
    """The stochastic trace with fixed probes.

    With one probe the spread, and so the standard error, is unknown (NaN in the solution); take two or more to have
    it. Rademacher probes have the smaller variance 2 Σ_{i≠j} s_ij², s = (J + Jᵀ)/2; Gaussian ones 2 ‖s‖²_F.

    Args:
        probes: Number of probes; each costs one backward pass per evaluation.
        distribution: ``rademacher`` (±1) or ``gaussian``.

    Raises:
        ConfigError: Fewer than one probe.
        UnknownNameError: Another distribution.
    """

    num_probes: int
    distribution: str

    def __init__(self, probes: int = 1, distribution: str = "rademacher") -> None:
        if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
            raise ConfigError(
                f"probes must be a whole number of at least 1, got {probes!r}",
                where="HutchinsonDivergence",
                remedy="Use one probe or more, or ExactDivergence().",
            )
        if distribution not in ("rademacher", "gaussian"):
            raise unknown_name("probe distribution", distribution, ("rademacher", "gaussian"))
        object.__setattr__(self, "num_probes", probes)
        object.__setattr__(self, "distribution", distribution)

    def probes(
        self, x: Float[Tensor, "batch *event"], generator: Generator | None = None
    ) -> Float[Tensor, "batch probes *event"]:
        """Draw ``(batch, probes, *event)`` in the dtype and on the device of ``x``.

        Raises:
            ConfigError: No generator was given.
        """
        if generator is None:
            raise ConfigError(
                "the stochastic trace draws probes and no generator was given",
                where="generator",
                remedy="Pass generator=torch.Generator().manual_seed(0), or use ExactDivergence().",
            )
        shape = (x.shape[0], self.num_probes, *x.shape[1:])
        if self.distribution == "gaussian":
            drawn = torch.randn(shape, generator=generator, device=generator.device)
        else:
            drawn = torch.randint(0, 2, shape, generator=generator, device=generator.device) * 2 - 1
        return drawn.to(device=x.device, dtype=x.dtype)

    def __call__(
        self,
        field: Field,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None,
        probes: Float[Tensor, "batch probes *event"] | None,
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch probes"]]:
        """Velocity and one estimate per probe; their mean is the estimate of the trace."""
        velocity, traces, _ = self.with_jacobian_norm(field, t, x, condition, probes)
        return velocity, traces

    def with_jacobian_norm(
        self,
        field: Field,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None,
        probes: Float[Tensor, "batch probes *event"] | None,
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch probes"], Float[Tensor, " batch"]]:
        """The same with E‖εᵀ ∂v/∂x‖² = ‖∂v/∂x‖²_F, averaged over the probes."""
        probes = drawn_before(probes)
        traces, squared = [], x.new_zeros(x.shape[0])
        with linearised(field, t, x, condition) as (point, velocity, graph):
            for probe in probes.unbind(1):
                row = gradient_of(velocity, point, probe, graph=graph)
                row = torch.zeros_like(x) if row is None else row
                traces.append(sum_event(row * probe))
                squared = squared + sum_event(row.square()) / self.num_probes
        return velocity if graph else velocity.detach(), torch.stack(traces, dim=1), squared


def drawn_before(probes: Tensor | None) -> Tensor:
    """The probes; raises `ConfigError` where a stochastic trace was given none."""
    if probes is None:
        raise ConfigError(
            "the stochastic trace was called without probes",
            where="divergence",
            remedy="Draw them once with divergence.probes(x, generator).",
        )
    return probes


@contextmanager
def linearised(
    field: Field, t: Tensor | float, x: Tensor, condition: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Record a graph from the point to the velocity there, also where gradients are off.

    Yields the point, the velocity, and whether the caller can differentiate the result.
    """
    wanted = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        # Tensors made in inference mode cannot enter a graph; clones of them can.
        time = t.clone() if isinstance(t, Tensor) and t.is_inference() else t
        given = condition.clone() if condition is not None and condition.is_inference() else condition
        point = x.clone() if x.is_inference() else x
        if not (wanted and x.requires_grad):
            point = point.detach().requires_grad_()
        velocity = field(time, point, given)
        if velocity.shape != x.shape:
            raise ShapeError(
                f"the field returned {tuple(velocity.shape)} for points {tuple(x.shape)}",
                where="field",
                remedy="A velocity has the shape of its points.",
            )
        yield point, velocity, wanted and (x.requires_grad or _reaches_beyond(point, velocity))


def _reaches_beyond(point: Tensor, velocity: Tensor) -> bool:
    """Whether the graph of the velocity ends in any leaf but the point: a parameter, say."""
    pending, seen = [velocity.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not point:
            return True
        pending.extend(child for child, _ in node.next_functions)
    return False


def gradient_of(output: Tensor, point: Tensor, cotangent: Tensor | None, *, graph: bool) -> Tensor | None:
    """One vector–Jacobian product; None where the output does not depend on the point."""
    if not output.requires_grad:
        return None
    (row,) = torch.autograd.grad(output, point, cotangent, retain_graph=True, create_graph=graph, allow_unused=True)
    return row


def log_det_columns(columns: Float[Tensor, "batch probes"], *, exact: bool) -> tuple[Tensor, Tensor]:
    """Mean over the probes and its standard error ``(batch,)``: 0 where exact, NaN for a single probe."""
    mean = columns.mean(1)
    if exact:
        return mean, torch.zeros_like(mean).detach()
    if columns.shape[1] == 1:
        return mean, torch.full_like(mean, torch.nan).detach()
    return mean, columns.detach().std(1) / columns.shape[1] ** 0.5
