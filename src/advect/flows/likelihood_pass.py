"""The gradient of a mean log-density through layers, without a graph of the whole.

Maximum likelihood of z = f_k(… f_1(x)) under a standard normal, L = Σ_r s_r (|z_r|²/2 + (d/2) log 2π − log |det ∂f|_r)
with shares s_r that add up to one, has ∂L/∂z_r = s_r z_r, and every log-determinant has the gradient −s_r. From there
each layer hands back what its rows ask for: a coupling by its own pass (`transforms.coupling_pass`), which knows its
gradient and writes it where it belongs; any other by autograd, alone. The plain way is `MaximumLikelihood` and
``backward()``; both give the same numbers to rounding, this one without a node and a fresh tensor for every weight.
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
from advect.transforms.layer_pass import LayerPass
from advect.transforms.scale import Scale, Shift
from advect.transforms.spline import RationalQuadraticSpline

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
    if not any(type(map) is Coupling and map.has_pass for map in maps):
        return None
    return _Likelihood(flow, maps, gradients)


class _Likelihood:
    """See `likelihood_pass`."""

    def __init__(self, flow: Flow, maps: Sequence[Bijection], gradients: Mapping[nn.Parameter, Tensor]) -> None:
        self._flow, self._maps = flow, maps
        self._into = [[gradients[parameter] for parameter in map.parameters()] for map in maps]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor | None:
        """The mean loss, whose gradient is then where it belongs."""
        x, rows = batch.x1, len(batch.x1)
        if not 0 < rows <= self._flow.chunk_rows or tuple(x.shape[1:]) != self._flow.event_shape:
            return None
        if batch.condition is not None and all(map.condition_shape is None for map in self._maps):
            return None  # which refuses it
        parts: list[LayerPass | _Apart] = []
        total = x.new_zeros(rows)
        for map in self._maps:
            condition = batch.condition if map.condition_shape is not None else None
            map.check_rows(x, condition)
            part = map.walk(x, condition) if type(map) is Coupling else None
            parts.append(_Apart(map, x, condition) if part is None else part)
            x, log_det = parts[-1].forward(kept=True)
            assert log_det is not None
            total += log_det
        return self._back(parts, x, total, batch.weight)

    def _back(self, parts: "list[LayerPass | _Apart]", z: Tensor, total: Tensor, weight: Tensor | None) -> Tensor:
        """The loss, and the gradients from the last part to the first."""
        rows, features = z.shape
        loss = (z * z).sum(1).mul_(0.5).add_(0.5 * features * math.log(2 * math.pi)).sub_(total)
        if weight is None:
            share = torch.full_like(loss, 1 / rows)
            by_z = z * (1 / rows)
        else:
            share = weight.to(loss.dtype)
            share = share / share.sum().clamp(min=torch.finfo(loss.dtype).tiny)
            by_z = z * share.unsqueeze(1)
        by_total = -share
        for index in range(len(parts) - 1, -1, -1):
            found = parts[index].backward(by_z, by_total, rows=index > 0, into=self._into[index])[0]
            by_z = by_z if found is None else found
        return torch.dot(loss, share)


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
