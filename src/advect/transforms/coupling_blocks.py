"""A coupling layer as one compiled call there and one back: `coupling_kernel.cpp` says how, this what it is given.

A block of rows goes through the conditioner and the function before the next begins, so that nothing of it leaves the
cache in between; what the way back needs of each block is kept as it lies.
"""

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from advect.compiled import place, pointers
from advect.networks.conditioner import BULK
from advect.transforms.kernel import Layers
from advect.transforms.layer_pass import Layer, LayerPass

_BLOCK = 64  # rows of a block; kRows of the source
_MOST_LANES = 16  # numbers in the widest vector


class Blocks(LayerPass):
    """One pass by blocks of rows, which come and go side by side in memory, column by column; one tensor is kept.

    Arguments as for `LayerPass`.
    """

    def __init__(
        self, layers: Layers, layer: Layer, x: Tensor, condition: Tensor | None, weights: Sequence[Tensor]
    ) -> None:
        super().__init__(layers, layer, x, condition, weights)
        self._sizes = [weights[0].shape[1], *(shift.shape[0] for shift in weights[1::2])]
        self._matrices = [weight if weight.is_contiguous() else weight.contiguous() for weight in weights]
        self._given = self._start()

    def forward(self, *, log_det: bool = True, kept: bool = False) -> tuple[Tensor, Tensor | None]:
        """See `LayerPass.forward`."""
        rows, features = self._x.shape
        value = self._x.new_empty(features, rows).t()
        total = self._x.new_empty(rows) if log_det else None
        blocks = -(-rows // _BLOCK) if kept else 1
        room = self._x.new_empty(blocks * (sum(self._sizes) + sum(self._sizes[1:-1])) * _BLOCK)
        failed = self._layers.coupling[self._layer.kernel.name](
            *self._given,
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
        (room,), x, condition = self.kept, self._x, self._condition
        into = [torch.empty_like(weight) for weight in self.weights] if into is None else into
        found = [wanted if wanted.is_contiguous() else wanted.new_empty(wanted.shape) for wanted in into]
        by_value = torch.zeros_like(x) if by_value is None else by_value
        by_x = x.new_empty(x.shape[::-1]).t() if rows else None
        by_condition = torch.empty_like(condition) if rows and condition is not None else None
        sizes, widest = self._sizes, max(self._sizes) + _MOST_LANES
        size = sum(b * (a + 2 * _MOST_LANES) for a, b in pairwise(sizes)) + 3 * widest * _BLOCK
        scratch = x.new_empty(size)
        failed = self._layers.coupling_back[self._layer.kernel.name](
            *self._given,
            *place(by_value),
            *((None, 0, 0) if by_total is None else (by_total.data_ptr(), by_total.stride(0), 0)),
            *place(by_x),
            *place(by_condition),
            pointers(found),
            room.data_ptr(),
            scratch.data_ptr(),
            size,
        )
        assert not failed
        for wanted, gradient in zip(into, found, strict=True):
            if gradient is not wanted:
                wanted.copy_(gradient)
        return by_x, by_condition, *into

    def _start(self) -> tuple[Any, ...]:
        """The arguments that say what goes into the layer."""
        layer, condition = self._layer, self._condition
        return (
            len(self._x),
            *layer.kernel.constants,
            layer.inverse,
            *layer.kept,
            *layer.moved,
            0 if condition is None else condition.shape[1],
            len(self._sizes) - 1,
            (ctypes.c_int64 * len(self._sizes))(*self._sizes),
            pointers(self._matrices),
            BULK,
            *place(self._x),
            *place(condition),
        )
