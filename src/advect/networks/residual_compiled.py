"""The compiled functions for residual networks, where there are any (`residual_kernel.cpp` says what they compute).

`residual` and `residual_regressor` say what is computed, and are what runs without a compiled file, on other devices,
wherever torch wants to see every operation (`compiled.watched`), where a gradient by points or weights is asked for,
where layers are not torch's own or have hooks, and where torch is no slower (`worth_it`). Both give the same numbers to
rounding.
"""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advect import compiled
from advect.networks.perceptron import SHARED, Rows, weights_of

LIBRARY = Path(__file__).with_name("residual_kernel.so")
MOST_BLOCKS = 32
WIDEST, WIDEST_TANGENTS = 256, 512
"""Units of the widest network that goes the compiled way, without divergences and with them."""

SHARE = 30_000_000
"""Multiplications of a thread at least: about half a millisecond, some ten times what it takes to start one."""

_KINDS = {torch.float32: "float", torch.float64: "double"}
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


def instruction_set() -> str | None:
    """The instruction set of the compiled residual network, None where there is none or it is switched off."""
    return compiled.instruction_set(LIBRARY, "advect_residual_room_float")


@dataclass(frozen=True)
class Sizes:
    """Of a residual network, in the order in which the compiled file takes them.

    Attributes:
        blocks: Of two layers each.
        features: Numbers of a point.
        times: Features of the time.
        conditions: Numbers of the condition.
        narrow: Units of the embedding of both.
        width: Units of the stream.
    """

    blocks: int
    features: int
    times: int
    conditions: int
    narrow: int
    width: int

    @property
    def weights(self) -> int:
        """Multiplications of one row."""
        by_time = (self.times + self.conditions) * self.narrow
        return by_time + 2 * self.blocks * self.width * (self.narrow + self.width) + 2 * self.features * self.width


class Compiled:
    """The compiled functions for networks of one size.

    Args:
        path: The compiled file.
        instructions: Which of its sets.
        dtype: Of all numbers.
        sizes: Of the network.
        gradients: Whether for the way back, or for values and divergences.
    """

    def __init__(self, path: Path, instructions: str, dtype: torch.dtype, sizes: Sizes, gradients: bool) -> None:
        library = compiled.library(path)

        def function(name: str, *types: Any) -> Any:
            found = getattr(library, f"advect_residual_{name}_{_KINDS[dtype]}_{instructions}")
            found.argtypes, found.restype = types, ctypes.c_int
            return found

        self._pack = function("pack", _POINTER, _NUMBER, *[_POINTER] * 3)
        start = [_POINTER, _NUMBER, _POINTER, _POINTER]
        self._forward = function("forward", *start, _NUMBER, *[_POINTER] * 5, _NUMBER)
        self._back = function("back", *start, *[_POINTER] * 7)
        self._shape = (_NUMBER * 6)(*astuple(sizes))
        rooms = (_NUMBER * 3)()
        function("room", _POINTER, _NUMBER, _POINTER)(self._shape, gradients, rooms)
        self._packed_size, self._room_size, self._joined = rooms
        self.dtype, self.sizes, self._gradients = dtype, sizes, gradients

    def packed(self, weights: Sequence[Tensor | None]) -> Tensor:
        """Weights, in the order of `Layers.numbers`, as the other functions want them."""
        to = self.empty()
        self.pack(compiled.pointers(weights), to)
        return to

    def empty(self) -> Tensor:
        """Memory for packed weights."""
        return torch.empty(self._packed_size, dtype=self.dtype)

    def pack(self, weights: Any, to: Tensor) -> None:
        """Pack weights, given as pointers, into memory that is there."""
        joined = torch.empty(self._joined, dtype=self.dtype)
        self._pack(self._shape, self._gradients, weights, to.data_ptr(), joined.data_ptr())

    def room(self, threads: int = 1) -> Tensor:
        """Memory for one call at a time."""
        return torch.empty(self._room_size * threads, dtype=self.dtype)

    def forward(self, packed: Tensor, rows: Rows, *, trace: bool) -> tuple[Tensor, Tensor | None]:
        """What the network says ``(rows, features)`` and, where asked for, the trace of its Jacobian ``(rows,)``.

        Rows are shared among as many threads as torch has, where each gets enough of them.
        """
        out = torch.empty_like(rows.x)
        traces = out.new_empty(len(out)) if trace else None
        of_time = self.sizes.times if len(rows.time) == len(rows.x) else 0
        condition, traced = (None if part is None else part.data_ptr() for part in (rows.condition, traces))
        given = (self._shape, len(out), rows.x.data_ptr(), rows.time.data_ptr(), of_time, condition)
        threads = threads_for(len(out), self.sizes.weights * (1 + self.sizes.features * trace))
        room = self.room(threads)
        self._forward(*given, packed.data_ptr(), room.data_ptr(), out.data_ptr(), traced, threads)
        return out, traces

    def back(
        self, packed: Tensor, rows: Rows, room: Tensor, target: Tensor, weight: Tensor | None, gradients: Any
    ) -> float:
        """The mean squared error, and its gradients into memory that is there.

        Args:
            packed: The weights.
            rows: Where, each with a time of its own.
            room: Of `room`.
            target: What the network should say.
            weight: A factor for each row, or None.
            gradients: Pointers, in the order of `Layers.numbers`.
        """
        loss = ctypes.c_double()
        condition, factor = (None if part is None else part.data_ptr() for part in (rows.condition, weight))
        given = (self._shape, len(rows.x), rows.x.data_ptr(), rows.time.data_ptr(), condition)
        self._back(*given, packed.data_ptr(), room.data_ptr(), target.data_ptr(), factor, gradients, ctypes.byref(loss))
        return loss.value


@functools.lru_cache(maxsize=64)
def _compiled(path: Path, instructions: str, dtype: torch.dtype, sizes: Sizes, gradients: bool) -> Compiled:
    return Compiled(path, instructions, dtype, sizes, gradients)


def threads_for(rows: int, work: int) -> int:
    """Threads that share rows of so much work each: no more than torch has, with `SHARE` multiplications at least."""
    return max(1, min(torch.get_num_threads(), rows * work // SHARE, rows))


def enough(rows: int, width: int) -> bool:
    """Whether rows are enough to pack the weights for: that takes as long as about two rows a unit save."""
    return rows >= 2 * width


def worth_it(sizes: Sizes, rows: int, *, tangents: int = 0, times: int = 1, gradients: bool = False) -> bool:
    """Whether the compiled way is the quicker one: with rows enough to be worth packing the weights for.

    On one thread of a Xeon with AVX-512 it took 0.4 to 0.7 times as long with 64 and 128 units, 0.6 to 0.9 with 256,
    and as long as torch beyond (`benchmarks/README.md`). Values and divergences are shared among threads as torch's
    products are, gradients are not.

    Args:
        sizes: Of the network.
        rows: How many.
        tangents: For each row, where a divergence is asked for.
        times: Calls with the same packed weights.
        gradients: Whether for the way back.
    """
    together = rows * (1 + tangents)
    if rows < 1 or sizes.width > (WIDEST_TANGENTS if tangents else WIDEST):
        return False
    if not enough(together * times * (3 if gradients else 1), sizes.width):  # the way back is two more products
        return False
    if instruction_set() != "plain" and (torch.get_num_threads() == 1 or not gradients):
        return True
    return together * sizes.weights <= SHARED


@dataclass(frozen=True)
class Layers:
    """The linear layers of a residual network, in the order of the compiled file.

    Attributes:
        time: Of the features of the time.
        condition: Of the condition, without a bias, or None.
        modulation: Gains and shifts of all blocks, without a bias.
        input: To the stream.
        blocks: The inner and the outer of each.
        output: From the stream.
    """

    time: nn.Module
    condition: nn.Module | None
    modulation: nn.Module
    input: nn.Module
    blocks: Sequence[nn.Module]
    output: nn.Module

    @property
    def all(self) -> list[nn.Module]:
        """Those that are there."""
        condition = [] if self.condition is None else [self.condition]
        return [self.time, *condition, self.modulation, self.input, *self.blocks, self.output]

    def numbers(self) -> list[Tensor | None]:
        """Time (weight, bias), condition, modulation (weights), input, blocks, output (weights, biases)."""
        plain: list[Any] = self.all
        time, *between, modulation = plain[: 2 if self.condition is None else 3]
        condition = weights_of(between)[0] if between else None
        rest = weights_of(plain[len(between) + 2 :])
        return [*weights_of([time]), condition, weights_of([modulation])[0], *rest]


def sizes_of(layers: Layers, dtype: torch.dtype, times: int, conditions: int) -> Sizes | None:
    """The sizes; None where a layer is not torch's own or lies otherwise than the compiled file reads it."""
    if any(type(layer) is not nn.Linear for layer in layers.all):
        return None
    numbers = layers.numbers()
    time, modulation, last = numbers[0], numbers[3], numbers[-2]
    if time is None or modulation is None or last is None or dtype not in _KINDS:
        return None
    blocks, narrow, width, features = len(layers.blocks) // 2, len(time), last.shape[1], len(last)
    of_block = [(width, width), (width,)]
    wanted = [
        *((narrow, times), (narrow,), (narrow, conditions), (2 * blocks * width, narrow), (width, features), (width,)),
        *(2 * blocks * of_block),
        *((features, width), (features,)),
    ]
    if not 1 <= blocks <= MOST_BLOCKS or min(features, times, narrow, width) < 1 or len(numbers) != len(wanted):
        return None
    for at, (tensor, shape) in enumerate(zip(numbers, wanted, strict=True)):
        if tensor is None:
            if at != 2 or conditions:  # only a condition may be missing
                return None
        elif tuple(tensor.shape) != shape or not compiled.in_rows(tensor, dtype):
            return None
    return Sizes(blocks, features, times, conditions, narrow, width)


def functions_for(
    layers: Layers, rows: Rows, *, tangents: bool = False, gradients: bool = False, times: int = 1
) -> Compiled | None:
    """The compiled functions for such rows; None where only torch's operations will do."""
    instructions = instruction_set()
    if instructions is None or compiled.watched():
        return None
    dtype = rows.x.dtype
    if not all(compiled.in_rows(part, dtype) for part in rows.tensors):
        return None
    sizes = sizes_of(layers, dtype, rows.time.shape[1], 0 if rows.condition is None else rows.condition.shape[1])
    if sizes is None or rows.x.shape[1] != sizes.features or (gradients and len(rows.time) != len(rows.x)):
        return None
    tangents_each = sizes.features if tangents else 0
    if not worth_it(sizes, len(rows.x), tangents=tangents_each, times=times, gradients=gradients):
        return None
    return _compiled(LIBRARY, instructions, dtype, sizes, gradients)
