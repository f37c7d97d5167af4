"""Layers of networks that came from elsewhere, as plain modules: weights copied, nothing of the other library left."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect.errors import UnsupportedError


class Dense(nn.Module):
    """h ↦ (W ∘ mask) h + b.

    Args:
        weight: ``(outputs, inputs)``; copied, like the rest.
        bias: ``(outputs,)`` or None.
        mask: ``(outputs, inputs)`` or None for a full matrix. A buffer that is saved.
    """

    mask: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, mask: Tensor | None = None) -> None:
        super().__init__()
        weight = weight.detach().clone()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.register_buffer("mask", None if mask is None else mask.detach().to(weight))

    def forward(self, h: Tensor) -> Tensor:
        """``(batch, outputs)``."""
        return F.linear(h, self.weight if self.mask is None else self.weight * self.mask, self.bias)


class Residual(nn.Module):
    """h ↦ h + f(h)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, h: Tensor) -> Tensor:
        """``(batch, units)``."""
        return h + self.inner(h)


class Constant(nn.Module):
    """``network(x, condition) -> (batch, outputs)`` that knows neither: the same learned numbers for every row.

    Args:
        values: ``(outputs,)``; copied.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.detach().clone())

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(batch, outputs)``."""
        return self.values.to(x.dtype).expand(len(x), -1)


def dense(layer: nn.Module) -> Dense:
    """The copy of a layer with a ``weight``, and a ``bias`` and a ``mask`` where it has them."""
    weight, bias, mask = (getattr(layer, name, None) for name in ("weight", "bias", "mask"))
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise refused(layer)
    return Dense(weight, bias, mask)


def in_float64(origin: nn.Module) -> nn.Module:
    """A copy of a foreign module in float64 on the CPU, in evaluation mode: what is copied from, and asked."""
    return copy.deepcopy(origin).to("cpu", torch.float64).eval().requires_grad_(False)


def like(origin: nn.Module) -> Tensor:
    """A tensor with the dtype and device of a module's numbers."""
    tensors = (tensor for tensor in (*origin.parameters(), *origin.buffers()) if tensor.is_floating_point())
    return next(tensors, torch.empty(0))


def comes_from(thing: object, package: str, *names: str) -> bool:
    """Whether the class of ``thing`` is one of those names of a package, which need not be imported for that."""
    kind = type(thing)
    return kind.__module__.split(".")[0] == package and kind.__name__ in names


def refused(thing: object, why: str = "There is no counterpart of it in advect") -> UnsupportedError:
    """The error for a part that is not covered, named with its module."""
    kind = thing if isinstance(thing, type) else type(thing)
    return UnsupportedError(
        why,
        where=f"{kind.__module__}.{kind.__qualname__}",
        remedy="Take over the other layers one by one, or train this model anew with advect.fit.",
    )
