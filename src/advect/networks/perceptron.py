"""Networks of linear layers in one compiled call, where there is one (`perceptron_kernel.cpp` says what it computes).

On a few hundred rows and layers of 64, torch's thirty small operations cost several times the arithmetic. The plain
functions (`mlp`, `field`, `regressor`) say what is computed, and are what runs without a compiled file, on other
devices, wherever torch wants to see every operation (`compiled.watched`), under second derivatives, and where layers
are so wide or rows so many that torch is no slower (`worth_it`). Both give the same numbers to rounding.

Where bfloat16 is asked for (a training's precision, samples, autocast), `perceptron_bfloat16_kernel.cpp` rounds where
autocast does and less often: weights once a packing, activations, tangents and their gradients before each product.

Where torch is told that products in float32 need not be exact (``torch.set_float32_matmul_precision("high")``), values
without a gradient come from `perceptron_split_kernel.cpp`, whose factors are sums of two numbers in bfloat16, as torch
defines that setting. Of processors only those with tiles are quicker by it; everywhere else it changes nothing.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect import compiled

LIBRARY = Path(__file__).with_name("perceptron_kernel.so")
Precision = torch.dtype | Literal["split"]
"""Of products: that of a dtype, or of float32 numbers as sums of two in bfloat16."""

_KINDS: dict[Precision, str] = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "bfloat16",
    "split": "split",
}
_ACTIVATIONS: dict[Callable[..., Tensor], int] = {F.selu: 0, F.elu: 1, F.silu: 2, torch.tanh: 3}
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_ROWS = [_POINTER, _NUMBER, _POINTER, _NUMBER, _POINTER, _NUMBER, _POINTER, _NUMBER, _POINTER, _POINTER]
MOST_LAYERS = 64

WIDEST = 512
"""Units of the widest layer that goes the compiled way."""

SHARED = 4e6
"""Multiplications up to which one thread is no slower than several, and plain instructions than torch's."""


def instruction_set() -> str | None:
    """The instruction set of the compiled perceptron, None where there is none or it is switched off."""
    return compiled.instruction_set(LIBRARY, "advect_perceptron_room_float")


def bfloat16_set() -> str | None:
    """The instruction set of its products in bfloat16, None where there is none or it is switched off."""
    return compiled.bfloat16_set(LIBRARY, "advect_perceptron_able_bfloat16")


def split_set() -> str | None:
    """The instruction set of its products of numbers in two parts, None where there is none or it is switched off."""
    return compiled.bfloat16_set(LIBRARY, "advect_perceptron_able_split")


def given_as(precision: Precision) -> torch.dtype:
    """The dtype of rows, weights and results of functions that compute in this precision."""
    return torch.float32 if precision == "split" or precision == torch.bfloat16 else precision


def allowed(dtype: torch.dtype) -> Precision:
    """The precision of products of such numbers without a gradient: the quickest that torch's own setting allows
    (``torch.set_float32_matmul_precision``, or ``torch.backends.mkldnn.matmul.fp32_precision`` for processors).
    """
    if dtype != torch.float32:
        return dtype
    setting = compiled.float32_products()
    if setting == "medium" and bfloat16_set() is not None:
        return torch.bfloat16
    return dtype if setting == "highest" or split_set() is None else "split"


@dataclass(frozen=True)
class Layout:
    """The sizes of a network.

    Attributes:
        widths: Of the input, every hidden layer and the output.
        activation: Its number in the compiled file.
        features: Numbers of a point.
        times: Features of the time.
        conditions: Numbers of the condition.
    """

    widths: tuple[int, ...]
    activation: int
    features: int
    times: int
    conditions: int

    @functools.cached_property
    def weights(self) -> int:
        """Multiplications of one row."""
        return sum(a * b for a, b in pairwise(self.widths))


@dataclass(frozen=True)
class Rows:
    """What a network is asked about.

    Attributes:
        x: Points ``(rows, features)``.
        time: Features of the times, ``(rows, times)`` or one for all ``(1, times)``.
        condition: ``(rows, numbers)`` or None.
    """

    x: Tensor
    time: Tensor
    condition: Tensor | None

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.x, self.time] if self.condition is None else [self.x, self.time, self.condition]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of a row of each."""
        return tuple(part.shape[1] for part in self.tensors)


class Compiled:
    """The compiled functions for networks of one layout.

    Args:
        path: The compiled file.
        instructions: Which of its sets.
        precision: Of the products; that of all other numbers is `given_as`.
        layout: Sizes.
        gradients: Whether for the way back, or for values and divergences.

    Attributes:
        dtype: Of rows, weights and results.
    """

    def __init__(self, path: Path, instructions: str, precision: Precision, layout: Layout, gradients: bool) -> None:
        library = compiled.library(path)

        def function(name: str, *types: Any) -> Any:
            found = getattr(library, f"advect_perceptron_{name}_{_KINDS[precision]}_{instructions}")
            found.argtypes, found.restype = types, ctypes.c_int
            return found

        self._pack = function("pack", _POINTER, _NUMBER, _POINTER, _POINTER)
        self._forward = function("forward", *_ROWS, _POINTER, _POINTER)
        if gradients:
            self._back = function("back", *_ROWS, *[_POINTER] * 5)
        numbers = (len(layout.widths) - 1, layout.activation, layout.features, layout.times, layout.conditions)
        self._shape = (_NUMBER * (len(numbers) + len(layout.widths)))(*numbers, *layout.widths)
        sizes = (_NUMBER * 2)()
        function("room", _POINTER, _NUMBER, _POINTER)(self._shape, gradients, sizes)
        self._packed_size, self._room_size = sizes
        self.dtype, self.layout, self._gradients = given_as(precision), layout, gradients
        self._stored = torch.bfloat16 if precision == "split" else precision

    def packed(self, weights: Sequence[Tensor | None]) -> Tensor:
        """Weight and bias of every layer in turn, as the other functions want them."""
        to = self.empty()
        self.pack(compiled.pointers(weights), to)
        return to

    def empty(self) -> Tensor:
        """Memory for packed weights."""
        return torch.empty(self._packed_size, dtype=self._stored)

    def pack(self, weights: Any, to: Tensor) -> None:
        """Pack weights, given as pointers, into memory that is there."""
        self._pack(self._shape, self._gradients, weights, to.data_ptr())

    def room(self) -> Tensor:
        """Memory for one call at a time."""
        return torch.empty(self._room_size, dtype=self._stored)

    def forward(self, packed: Tensor, rows: Rows, *, trace: bool) -> tuple[Tensor, Tensor | None]:
        """What the network says ``(rows, features)`` and, where asked for, the trace of its Jacobian ``(rows,)``."""
        out = torch.empty_like(rows.x)
        traces = out.new_empty(len(out)) if trace else None
        room = self.room()
        place = None if traces is None else traces.data_ptr()
        self._forward(*self._start(rows), packed.data_ptr(), room.data_ptr(), out.data_ptr(), place)
        return out, traces

    def back(
        self,
        packed: Tensor,
        rows: Rows,
        room: Tensor,
        *,
        by_output: Tensor | None = None,
        target: Tensor | None = None,
        weight: Tensor | None = None,
        gradients: Any,
    ) -> float:
        """Gradients of a loss, into memory that is there.

        Args:
            packed: The weights.
            rows: Where.
            room: Of `room`.
            by_output: The gradient of the loss by what the network says, or
            target: what it should say: the loss is then the mean squared error, which is returned, with
            weight: a factor for each row, or None.
            gradients: Pointers for weight and bias of every layer in turn.
        """
        loss = ctypes.c_double()
        given = [None if tensor is None else tensor.data_ptr() for tensor in (by_output, target, weight)]
        start = self._start(rows)
        self._back(*start, packed.data_ptr(), room.data_ptr(), *given, gradients, ctypes.byref(loss))
        return loss.value

    def _start(self, rows: Rows) -> tuple[Any, ...]:
        """Sizes and input, after a look at whether they fit: the compiled file does not look."""
        x, time, condition = rows.x, rows.time, rows.condition
        layout, count = self.layout, len(x)
        assert x.shape == (count, layout.features)
        assert time.shape in ((count, layout.times), (1, layout.times))
        assert (0 if condition is None else condition.shape[1]) == layout.conditions
        assert condition is None or len(condition) == count
        of_time = layout.times if len(time) == count else 0
        given = (None, 0) if condition is None else (condition.data_ptr(), layout.conditions)
        return self._shape, count, x.data_ptr(), layout.features, time.data_ptr(), of_time, *given


def rows_of(x: Tensor, time: Tensor, condition: Tensor | None) -> Rows:
    """The same, each part in its plain order."""
    return Rows(x.contiguous(), time.contiguous(), None if condition is None else condition.contiguous())


@functools.lru_cache(maxsize=64)
def _compiled(path: Path, instructions: str, precision: Precision, layout: Layout, gradients: bool) -> Compiled:
    return Compiled(path, instructions, precision, layout, gradients)


def compiled_for(layout: Layout, precision: Precision, *, gradients: bool = False) -> Compiled | None:
    """The functions for a network of these sizes, None where there are none."""
    if precision not in _KINDS:
        return None
    sets = {torch.bfloat16: bfloat16_set, "split": split_set}
    instructions = sets.get(precision, instruction_set)()
    if instructions is None:
        return None
    return _compiled(LIBRARY, instructions, precision, layout, gradients)


def worth_it(layout: Layout, rows: int, *, tangents: int = 0, times: int = 1) -> bool:
    """Whether the compiled way is the quicker one.

    On one thread it was for all widths that were timed, 64 to 512 units, once a call has rows enough to be worth
    packing the weights for: from about 1 row for 4 units (`benchmarks/README.md`, B1 and D). torch shares its products
    among threads and, where the instructions are none of those we compile for, may have better ones.

    Args:
        layout: Sizes of the network.
        rows: How many.
        tangents: For each row, where a divergence is asked for.
        times: Calls with the same packed weights.
    """
    widest, together = max(layout.widths), rows * (1 + tangents)
    if rows < 1 or widest > WIDEST or 4 * together * times < widest:
        return False
    if torch.get_num_threads() == 1 and instruction_set() != "plain":
        return True
    return together * layout.weights <= SHARED


def weights_of(layers: Sequence[nn.Linear]) -> list[Tensor | None]:
    """Weight and bias of every layer in turn."""
    held = (layer._parameters for layer in layers)  # several times as fast as by attributes
    return [tensor for parameters in held for tensor in (parameters["weight"], parameters["bias"])]


def layout_of(
    weights: Sequence[Tensor | None], dtype: torch.dtype, activation: Callable[..., Tensor], rows: Rows
) -> Layout | None:
    """The sizes of a network for such rows; None where no compiled function is for it, or its weights are of another
    dtype or do not lie as one reads them.
    """
    code, first = _ACTIVATIONS.get(activation), weights[0]  # a network of one's own may have any function
    if code is None or first is None or not 4 <= len(weights) <= 2 * MOST_LAYERS:
        return None
    widths = [first.shape[1]]
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        if weight is None or weight.shape[1:] != (widths[-1],) or not compiled.in_rows(weight, dtype):
            return None
        widths.append(weight.shape[0])
        if bias is not None and (bias.shape != (widths[-1],) or not compiled.in_rows(bias, dtype)):
            return None
    features, times = widths[-1], rows.time.shape[1]
    conditions = 0 if rows.condition is None else rows.condition.shape[1]
    if min(widths) < 1 or rows.x.shape[1] != features or widths[0] != features + times + conditions:
        return None
    return Layout(tuple(widths), code, features, times, conditions)


class Choice:
    """The functions for a network whose weights stay where they are, looked up once for all calls alike.

    Args:
        weights: Weight and bias of every layer in turn.
        activation: Between the layers.
        precision: Of the products, where it is not that of the rows.
        gradients: Whether for the way back.
        times: Calls that are made with the same packed weights.
    """

    def __init__(
        self,
        weights: Sequence[Tensor | None],
        activation: Callable[..., Tensor],
        precision: Precision | None = None,
        *,
        gradients: bool,
        times: int,
    ) -> None:
        self.weights, self._activation, self._precision = weights, activation, precision
        self._gradients, self._times = gradients, times
        self._last: tuple[Any, Compiled | None] | None = None

    def functions(self, rows: Rows) -> Compiled | None:
        """Those for rows like these; None where only the plain way will do."""
        dtype = rows.x.dtype
        precision = dtype if self._precision is None else self._precision
        if compiled.watched() or dtype != given_as(precision):
            return None
        if not all(compiled.in_rows(part, dtype) for part in rows.tensors):
            return None
        like = dtype, rows.x.shape, rows.time.shape, None if rows.condition is None else rows.condition.shape
        if self._last is None or self._last[0] != like:
            layout = layout_of(self.weights, dtype, self._activation, rows)
            wanted = layout is not None and worth_it(layout, len(rows.x), times=self._times)
            found = compiled_for(layout, precision, gradients=self._gradients) if wanted and layout else None
            self._last = like, found
        return self._last[1]
