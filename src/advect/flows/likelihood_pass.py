"""The gradient of a mean log-density through layers, without a graph of the whole.

Maximum likelihood of z = f_k(… f_1(x)) under a standard normal, L = Σ_r s_r (|z_r|²/2 + (d/2) log 2π − log |det ∂f|_r)
with shares s_r that add up to one, has ∂L/∂z_r = s_r z_r, and every log-determinant has the gradient −s_r. From there
each layer hands back what its rows ask for: a coupling by its own pass (`transforms.coupling_pass`), which knows its
gradient and writes it where it belongs; any other by autograd, alone. Couplings that end the flow go there and back in
one call (`transforms.coupling_run`). The plain way is `MaximumLikelihood` and ``backward()``; both give the same
numbers to rounding, this one without a node and a fresh tensor for every weight.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from advect.flows.base import StandardNormal
from advect.flows.flow import Flow
from advect.records import Batch
from advect.transforms import Autoregressive, Bijection, LULinear, Permutation, Standardise
from advect.transforms.compose import members
from advect.transforms.coupling import Coupling, Elementwise
from advect.transforms.coupling_blocks import Likelihood
from advect.transforms.coupling_run import Run, in_runs
from advect.transforms.layer_pass import LayerPass
from advect.transforms.scale import Scale, Shift
from advect.transforms.spline import RationalQuadraticSpline
from advect.typing import Bijection as Map

# Maps that draw nothing and answer for every row.
_CERTAIN = (Coupling, Elementwise, Autoregressive, LULinear, Permutation, Standardise)
_CLOSED = (Shift, Scale, RationalQuadraticSpline)


def likelihood_pass(
    flow: nn.Module, gradients: Mapping[nn.Parameter, Tensor]
) -> Callable[[Batch], Tensor | None] | None:
    """A function that puts the gradient of a batch's mean −log p into ``gradients`` and returns that mean.

    Args:
        flow: What is trained.
        gradients: A tensor for every parameter of the flow.

    Returns: None where a part of the flow is not known to be one of those above, or no layer has a pass of its own.
    The function returns None for a batch that only the plain way can take.
    """
    if type(flow) is not Flow or type(flow.base) is not StandardNormal or len(flow.event_shape) != 1:
        return None
    whole = list(members(flow.map))
    maps = [map for map in whole if isinstance(map, Bijection) and type(map) in _CERTAIN]
    if len(maps) < len(whole) or any(type(getattr(map, "function", Shift())) not in _CLOSED for map in maps):
        return None
    parameters = [parameter for map in maps for parameter in map.parameters()]  # twice where two maps share one
    if len(parameters) != len(gradients) or {id(p) for p in parameters} != {id(p) for p in gradients}:
        return None
    if not any(type(map) is Coupling and map.layer() is not None for map in maps):
        return None
    return _Likelihood(flow, maps, gradients)


class _Likelihood:
    """See `likelihood_pass`."""

    def __init__(self, flow: Flow, maps: Sequence[Bijection], gradients: Mapping[nn.Parameter, Tensor]) -> None:
        self._flow, self._maps = flow, maps
        self._gradients = gradients
        *before, last = in_runs(maps)
        # A last run goes there and back at once.
        self._last = last if isinstance(last, Run) else None
        self._before: list[Map | Run] = before if self._last is not None else [*before, last]
        self._at_once: Likelihood | None = None

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor | None:
        """The mean loss, whose gradient is then where it belongs."""
        x, rows = batch.x1, len(batch.x1)
        if not 0 < rows <= self._flow.chunk_rows or tuple(x.shape[1:]) != self._flow.event_shape:
            return None
        if batch.condition is not None and all(map.condition_shape is None for map in self._maps):
            return None  # which refuses it
        share = _shares(batch, x)
        steps = _Steps(self._gradients, x)
        for part in self._before:
            steps.take(part, batch.condition)
        if self._last is not None:
            given = self._last.given(steps.x, batch.condition)
            at_once = self._found(self._last, steps.x, given)
            if at_once is not None:
                value, by_x = at_once(steps.x, given, share, rows=steps.any)
                loss = share.new_full((), value)
                if by_x is None:
                    return loss
                steps.back(by_x, -share)
                return loss - torch.dot(share, steps.total)
            steps.take(self._last, batch.condition)
        z = steps.x
        loss = (z * z).sum(1).mul_(0.5).add_(0.5 * z.shape[1] * math.log(2 * math.pi)).sub_(steps.total)
        steps.back(z * share.unsqueeze(1), -share)
        return torch.dot(loss, share)

    def _found(self, run: Run, x: Tensor, condition: Tensor | None) -> Likelihood | None:
        """What the last run did before, where it still holds, or anew; None where its layers must go one by one."""
        if self._at_once is None or not self._at_once.holds(x, condition):
            self._at_once = run.likelihood(x, condition, _places(run, self._gradients))
        return self._at_once


def _shares(batch: Batch, x: Tensor) -> Tensor:
    """What each row has of the mean, ``(rows,)``."""
    if batch.weight is None:
        return x.new_full((len(x),), 1 / len(x))
    share = batch.weight.to(x.dtype)
    return share / share.sum().clamp(min=torch.finfo(x.dtype).tiny)


def _places(part: Map | Run, gradients: Mapping[nn.Parameter, Tensor]) -> list[Tensor]:
    """Where the gradients of a map or a run go."""
    maps = part.couplings if isinstance(part, Run) else [part]
    return [gradients[parameter] for map in maps if isinstance(map, nn.Module) for parameter in map.parameters()]


class _Steps:
    """Rows on their way through maps, with what brings gradients back.

    Attributes:
        x: Where they are.
        total: Log-determinants so far.
    """

    def __init__(self, gradients: Mapping[nn.Parameter, Tensor], x: Tensor) -> None:
        self.x, self.total = x, x.new_zeros(len(x))
        self._gradients = gradients
        self._done: list[tuple[LayerPass | _Apart, list[Tensor]]] = []

    @property
    def any(self) -> bool:
        """Whether a step was taken."""
        return bool(self._done)

    def take(self, part: Map | Run, condition: Tensor | None) -> None:
        """The next map, or all of a run."""
        found: LayerPass | _Apart | None
        if isinstance(part, Run):
            found = part.blocks(self.x, condition)
            if found is None:
                for map in part.maps:
                    self.take(map, condition)
                return
        else:
            assert isinstance(part, Bijection)
            given = condition if part.condition_shape is not None else None
            part.check_rows(self.x, given)
            found = part.walk(self.x, given) if type(part) is Coupling else None
            found = _Apart(part, self.x, given) if found is None else found
        self._done.append((found, _places(part, self._gradients)))
        self.x, log_det = found.forward(kept=True)
        assert log_det is not None
        self.total += log_det

    def back(self, by_x: Tensor, by_total: Tensor) -> None:
        """The gradients of all that was taken."""
        for index, (part, into) in reversed(list(enumerate(self._done))):
            found = part.backward(by_x, by_total, rows=index > 0, into=into)[0]
            by_x = by_x if found is None else found


class _Apart:
    """A map whose gradient autograd finds, from its rows to its parameters and no further."""

    def __init__(self, map: Bijection, x: Tensor, condition: Tensor | None) -> None:
        self._map, self._condition = map, condition
        self._x = x.detach().requires_grad_()
        self._found: tuple[Tensor, Tensor]

    def forward(self, *, kept: bool) -> tuple[Tensor, Tensor]:
        """The rows and their log-determinants."""
        with torch.enable_grad():
            found = self._map.encode(self._x, self._condition)
        assert kept
        assert found.log_abs_det_jacobian is not None
        self._found = found.value, found.log_abs_det_jacobian
        return found.value.detach(), found.log_abs_det_jacobian.detach()

    def backward(self, by_value: Tensor, by_total: Tensor, *, rows: bool, into: Sequence[Tensor]) -> list[Tensor]:
        """The gradient by the rows; those by the parameters go where they belong."""
        asked = zip(self._found, (by_value, by_total), strict=True)
        values, given = zip(*((out, gradient) for out, gradient in asked if out.requires_grad), strict=True)
        wanted = [self._x, *self._map.parameters()]
        by_x, *found = torch.autograd.grad(values, wanted, given, allow_unused=True)
        for gradient, place in zip(found, into, strict=True):
            place.zero_() if gradient is None else place.copy_(gradient)
        assert by_x is not None
        return [by_x]
