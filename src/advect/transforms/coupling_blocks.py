"""Coupling layers as one compiled call there and one back: `coupling_kernel.cpp` says how, this what it is given.

A block of rows goes through all layers before the next begins, so that nothing of it leaves the cache in between; what
the way back needs of each block is kept as it lies. Where the loss is known, the mean of −log p under a standard
normal, a block goes there and back at once, and nothing is kept of it at all (`Likelihood`).
"""

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from advect.compiled import place, pointers
from advect.networks.conditioner import BULK
from advect.transforms.kernel import Layers, layers_for
from advect.transforms.layer_pass import Chain, LayerPass

_BLOCK = 64  # rows of a block; kRows of the source
_MOST_LANES = 16  # numbers in the widest vector


class Told:
    """What a compiled function is told of layers, and the room it needs.

    Args:
        chain: The layers.
        weights: Weight and bias of every linear layer in turn.
        depths: How many linear layers each layer has.
        conditions: Numbers in a condition.

    Attributes:
        conditions: As given.
        carried: Numbers that a block carries along.
        kept: Numbers that are kept of a block.
        scratch: Numbers that are needed on the way back.
    """

    def __init__(self, chain: Chain, weights: Sequence[Tensor], depths: Sequence[int], conditions: int) -> None:
        shape: list[int] = []
        columns, products, widest, first = 0, 0, 0, 0
        for (kept, moved), depth in zip(chain.columns, depths, strict=True):
            shifts = weights[first + 1 : first + 2 * depth : 2]
            sizes = [weights[first].shape[1], *(shift.shape[0] for shift in shifts)]
            shape += [len(kept), len(moved), sizes[0] - len(kept), depth, *kept, *moved, *sizes]
            columns += sum(sizes) + sum(sizes[1:-1]) + len(kept) + len(moved)
            products += sum(b * (a + 2 * _MOST_LANES) for a, b in pairwise(sizes))
            widest = max(widest, *sizes)
            first += 2 * depth
        self.conditions = conditions
        self.carried = 2 * (len(chain.order) + conditions + 1) * _BLOCK
        self.kept = columns * _BLOCK
        self.scratch = products + 3 * (widest + _MOST_LANES) * _BLOCK
        self._chain, self._lie = chain, _lie(weights)
        self._matrices = [weight if weight.is_contiguous() else weight.contiguous() for weight in weights]
        self._plain = all(given is weight for given, weight in zip(self._matrices, weights, strict=True))
        self._arguments = (
            *chain.kernel.constants,
            chain.inverse,
            len(chain.order),
            conditions,
            _numbers(chain.order),
            BULK,
            len(chain.columns),
            _numbers(shape),
            pointers(self._matrices),
        )

    def holds(self, chain: Chain, weights: Sequence[Tensor], conditions: int) -> bool:
        """Whether it says the same of these layers: the weights lie where they lay, and a function reads them there."""
        same = chain is self._chain and conditions == self.conditions
        return same and self._plain and _lie(weights) == self._lie

    def arguments(self, x: Tensor, condition: Tensor | None) -> tuple[Any, ...]:
        """With which every function begins."""
        return len(x), *self._arguments, *place(x), *place(condition)


class Blocks(LayerPass):
    """One pass by blocks of rows; one tensor is kept.

    Rows that a way back is asked of lie column by column at the end, as it reads them best, others in plain order.

    Args:
        layers: The compiled functions.
        chain: The layers.
        x: ``(rows, features)``.
        condition: ``(rows, condition)`` or None.
        weights: Weight and bias of every linear layer in turn.
        told: Of layers and weights, where that is known; by default there is one layer, which has all weights.
    """

    def __init__(
        self,
        layers: Layers,
        chain: Chain,
        x: Tensor,
        condition: Tensor | None,
        weights: Sequence[Tensor],
        told: Told | None = None,
    ) -> None:
        super().__init__(layers, x, condition, weights)
        self._name = chain.kernel.name
        if told is None:
            told = Told(chain, weights, (len(weights) // 2,), 0 if condition is None else condition.shape[1])
        self._told = told

    def forward(self, *, log_det: bool = True, kept: bool = False) -> tuple[Tensor, Tensor | None]:
        """See `LayerPass.forward`."""
        x, told = self._x, self._told
        rows = len(x)
        value = x.new_empty(x.shape[::-1]).t() if kept else x.new_empty(x.shape)
        total = x.new_empty(rows) if log_det else None
        room = x.new_empty(told.carried + (-(-rows // _BLOCK) if kept else 1) * told.kept)
        failed = self.layers.coupling[self._name](
            *told.arguments(x, self._condition),
            *place(value),
            None if total is None else total.data_ptr(),
            room.data_ptr(),
            kept,
        )
        assert not failed
        self.kept = [room] if kept else []
        return value, total

    def backward(
        self,
        by_value: Tensor | None,
        by_total: Tensor | None,
        *,
        rows: bool,
        into: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """See `LayerPass.backward`."""
        (room,), x, condition, told = self.kept, self._x, self._condition, self._told
        into = [torch.empty_like(weight) for weight in self.weights] if into is None else into
        found = [wanted if wanted.is_contiguous() else wanted.new_empty(wanted.shape) for wanted in into]
        by_value = torch.zeros_like(x) if by_value is None else by_value
        by_x = x.new_empty(x.shape[::-1]).t() if rows else None
        by_condition = torch.empty_like(condition) if rows and condition is not None else None
        scratch = x.new_empty(told.scratch)
        failed = self.layers.coupling_back[self._name](
            *told.arguments(x, condition),
            *place(by_value),
            *((None, 0, 0) if by_total is None else (by_total.data_ptr(), by_total.stride(0), 0)),
            *place(by_x),
            *place(by_condition),
            pointers(found),
            room.data_ptr(),
            scratch.data_ptr(),
            told.scratch,
        )
        assert not failed
        for wanted, gradient in zip(into, found, strict=True):
            if gradient is not wanted:
                wanted.copy_(gradient)
        return by_x, by_condition, *into


class Likelihood:
    """Mean −log p of rows that layers take to a standard normal, and its gradients, by one call.

    Args:
        layers: The compiled functions.
        chain: The layers.
        weights: Weight and bias of every linear layer in turn, in their plain order; they stay where they are.
        depths: How many linear layers each layer has.
        conditions: Numbers in a condition.
        into: Where the gradients by the weights go, in their plain order too.
    """

    def __init__(
        self,
        layers: Layers,
        chain: Chain,
        weights: Sequence[Tensor],
        depths: Sequence[int],
        conditions: int,
        into: Sequence[Tensor],
    ) -> None:
        assert all(tensor.is_contiguous() for tensor in (*weights, *into))
        self._layers, self._chain, self._weights = layers, chain, weights
        self._function, self._told = layers.likelihood[chain.kernel.name], Told(chain, weights, depths, conditions)
        self._into, self._held = pointers(into), into
        self._room = weights[0].new_empty(self._told.carried + self._told.kept)
        self._scratch = weights[0].new_empty(self._told.scratch)

    def holds(self, x: Tensor, condition: Tensor | None) -> bool:
        """Whether it is for such rows, and all weights are where they were."""
        conditions = self._told.conditions
        given = (x,) if condition is None or not conditions else (x, condition)
        return layers_for(*given) is self._layers and self._told.holds(self._chain, self._weights, conditions)

    def __call__(
        self, x: Tensor, condition: Tensor | None, share: Tensor, *, rows: bool
    ) -> tuple[float, Tensor | None]:
        """The loss, and its gradient by the rows where that is wanted.

        Args:
            x: ``(rows, features)``.
            condition: ``(rows, condition)`` or None.
            share: ``(rows,)`` of each in the mean.
            rows: Whether the gradient by the rows is wanted.
        """
        given = condition if self._told.conditions else None
        by_x = x.new_empty(x.shape[::-1]).t() if rows else None
        loss = ctypes.c_double()
        failed = self._function(
            *self._told.arguments(x, given),
            *(share.data_ptr(), share.stride(0)),
            *place(by_x),
            self._into,
            ctypes.byref(loss),
            self._room.data_ptr(),
            self._scratch.data_ptr(),
            self._told.scratch,
        )
        assert not failed
        return loss.value, by_x


def _lie(weights: Sequence[Tensor]) -> list[tuple[int, torch.Size, bool]]:
    """Where weights lie, and how."""
    return [(weight.data_ptr(), weight.shape, weight.is_contiguous()) for weight in weights]


def _numbers(numbers: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)
