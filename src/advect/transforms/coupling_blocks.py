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
from advect.transforms.layer_pass import Chain, Layer, LayerPass

_BLOCK = 64  # rows of a block; kRows of the source
_MOST_LANES = 16  # numbers in the widest vector


class Told:
    """What a compiled function is told of layers, and the room it needs.

    Args:
        layers: The compiled functions.
        chain: The layers.
        weights: Weight and bias of every linear layer in turn.
        depths: How many linear layers each layer has.
        conditions: Numbers in a condition.

    Attributes:
        layers: As given.
        chain: As given.
        weights: As given.
        conditions: As given.
        plain: Whether all weights lie in their plain order, where a function reads them.
        products: Multiplications of a row in the largest layer.
        carried: Numbers that a block carries along.
        kept: Numbers that are kept of a block.
        largest: Numbers of a block in the largest layer.
        scratch: Numbers that are needed on the way back.
    """

    def __init__(
        self, layers: Layers, chain: Chain, weights: Sequence[Tensor], depths: Sequence[int], conditions: int
    ) -> None:
        self.layers, self.chain, self.weights, self.conditions = layers, chain, weights, conditions
        self.kept, self.largest, self.products, self.scratch = 0, 0, 0, 0
        shape: list[int] = []
        widest, first = 0, 0
        for (kept, moved), depth in zip(chain.columns, depths, strict=True):
            shifts = weights[first + 1 : first + 2 * depth : 2]
            sizes = [weights[first].shape[1], *(shift.shape[0] for shift in shifts)]
            # A function reads what it is told to: a network of other sizes must not come so far.
            assert [matrix.shape for matrix in weights[first : first + 2 * depth : 2]] == [
                (b, a) for a, b in pairwise(sizes)
            ]
            assert sizes[0] - len(kept) in (0, conditions)
            assert not sizes[-1] % len(moved)
            shape += [len(kept), len(moved), sizes[0] - len(kept), depth, *kept, *moved, *sizes]
            columns = sum(sizes) + sum(sizes[1:-1]) + len(kept) + len(moved)
            self.kept, self.largest = self.kept + columns * _BLOCK, max(self.largest, columns * _BLOCK)
            self.products = max(self.products, sum(a * b for a, b in pairwise(sizes)))
            self.scratch += sum(b * (a + 2 * _MOST_LANES) for a, b in pairwise(sizes))
            widest = max(widest, *sizes)
            first += 2 * depth
        self.carried = 2 * (len(chain.order) + conditions + 1) * _BLOCK
        self.scratch += 3 * (widest + _MOST_LANES) * _BLOCK
        self._lie, self._matrices = _lie(weights), [weight.contiguous() for weight in weights]
        self.plain = all(weight.is_contiguous() for weight in weights)
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

    def holds(self, layers: Layers, chain: Chain, weights: Sequence[Tensor], conditions: int) -> bool:
        """Whether it says the same of these, whose weights lie where those lay and are read there."""
        same = layers is self.layers and chain is self.chain and conditions == self.conditions
        return same and self.plain and _lie(weights) == self._lie

    def arguments(self, x: Tensor, condition: Tensor | None) -> tuple[Any, ...]:
        """With which every function begins."""
        return len(x), *self._arguments, *place(x), *place(condition)


class Blocks(LayerPass):
    """One pass by blocks of rows; one tensor is kept.

    Rows that a way back is asked of lie column by column at the end, as it reads them best, others in plain order.

    Args:
        told: The layers and their weights.
        x: ``(rows, features)``.
        condition: ``(rows, condition)`` or None.
    """

    def __init__(self, told: Told, x: Tensor, condition: Tensor | None) -> None:
        super().__init__(told.layers, x, condition, told.weights)
        self._name, self._told = told.chain.kernel.name, told

    @staticmethod
    def alone(layers: Layers, layer: Layer, x: Tensor, condition: Tensor | None, weights: Sequence[Tensor]) -> "Blocks":
        """A pass through one layer; arguments as for `LayerPass`."""
        conditions = 0 if condition is None else condition.shape[1]
        return Blocks(Told(layers, layer.chain, weights, [len(weights) // 2], conditions), x, condition)

    def forward(self, *, log_det: bool = True, kept: bool = False) -> tuple[Tensor, Tensor | None]:
        """See `LayerPass.forward`."""
        x, told = self._x, self._told
        rows = len(x)
        value = x.new_empty(x.shape[::-1]).t() if kept else x.new_empty(x.shape)
        total = x.new_empty(rows) if log_det else None
        room = x.new_empty(told.carried + (-(-rows // _BLOCK) * told.kept if kept else told.largest))
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
        told: The layers and their weights, which lie in their plain order and stay where they are.
        into: Where the gradients by the weights go, in their plain order too.
    """

    def __init__(self, told: Told, into: Sequence[Tensor]) -> None:
        self._told, self._function = told, told.layers.likelihood[told.chain.kernel.name]
        self._into, self._held = pointers(into), into
        self._room = into[0].new_empty(told.carried + told.kept)
        self._scratch = into[0].new_empty(told.scratch)

    def holds(self, x: Tensor, condition: Tensor | None) -> bool:
        """Whether it is for such rows, and all weights are where they were."""
        told = self._told
        layers = layers_for(x) if condition is None else layers_for(x, condition)
        if told.conditions != (0 if condition is None else condition.shape[1]):
            return False
        return layers is not None and told.holds(layers, told.chain, told.weights, told.conditions)

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
        assert share.shape == (len(x),)
        by_x = x.new_empty(x.shape[::-1]).t() if rows else None
        loss = ctypes.c_double()
        failed = self._function(
            *self._told.arguments(x, condition),
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


def _lie(weights: Sequence[Tensor]) -> list[tuple[int, torch.dtype, torch.Size, bool]]:
    """Where weights lie, and how."""
    return [(weight.data_ptr(), weight.dtype, weight.shape, weight.is_contiguous()) for weight in weights]


def _numbers(numbers: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)
