"""The compiled elementwise parts of layers, where there are any (`layers_kernel.cpp` says what they compute).

A spline is some three hundred small operations of torch, there and back; compiled it is two passes over memory. The
plain functions (`spline`, `scale`, `networks.conditioner`) say what is computed, and are what runs where there is no
compiled file, on other devices, under ``torch.compile`` and under forward derivatives and `torch.func`. Both give the
same numbers to rounding, and second derivatives are always those of the plain ones. `advect.compiled` says how the file
comes to be there.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advect import compiled
from advect.transforms.monotone import Moved

LIBRARY = Path(__file__).with_name("layers_kernel.so")
_KINDS = {torch.float32: "float", torch.float64: "double"}
_POINTER, _NUMBER, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_CONSTANTS = {"spline": [_NUMBER, _REAL, _REAL, _REAL], "affine": [_REAL]}
_NEWEST = "advect_spline_likelihood_float"  # a file built before there was this function counts as none
MOST_BINS = 64


@dataclass(frozen=True)
class Kernel:
    """A monotone function that has a compiled form.

    Attributes:
        name: ``spline`` or ``affine``.
        constants: Of the spline its bins, both ends of its box and the least share of a bin; of the affine function the
            bound of its log-scale.
    """

    name: str
    constants: tuple[float, ...]

    @property
    def fits(self) -> bool:
        """Whether the compiled function takes these constants."""
        return self.name != "spline" or self.constants[0] <= MOST_BINS


class Layers:
    """The compiled functions for one dtype: ``spline``, ``spline_back``, ``spline_walk``, …; arguments as in the
    sources.
    """

    def __init__(self, path: Path, instructions: str, kind: str) -> None:
        library = compiled.library(path)

        def function(name: str, *types: Any) -> Any:
            found = getattr(library, f"advect_{name}_{kind}_{instructions}")
            found.argtypes, found.restype = types, ctypes.c_int
            return found

        grid, theta = [_POINTER, _NUMBER, _NUMBER], [_POINTER, _NUMBER, _NUMBER, _NUMBER]
        self.forward, self.backward, self.walk = {}, {}, {}
        self.coupling, self.coupling_back, self.likelihood = {}, {}, {}
        for name, constants in _CONSTANTS.items():
            start = [_NUMBER, _NUMBER, *constants, _NUMBER, *grid, *theta]
            self.forward[name] = function(name, *start, *grid, *grid)
            self.backward[name] = function(f"{name}_back", *start, *grid, *grid, *grid, _POINTER)
            network = [*[_NUMBER] * 6, _REAL, *[_POINTER] * 4]
            self.walk[name] = function(
                f"{name}_walk", _NUMBER, *constants, *network, *grid, *grid, *grid, _POINTER, _POINTER
            )
            told = [_NUMBER, *constants, *[_NUMBER] * 3, _POINTER, _REAL, _NUMBER, _POINTER, _POINTER, *grid, *grid]
            self.coupling[name] = function(f"{name}_coupling", *told, *grid, _POINTER, _POINTER, _NUMBER)
            back = [_POINTER, _POINTER, _POINTER, _NUMBER]
            self.coupling_back[name] = function(f"{name}_coupling_back", *told, *grid * 4, *back)
            share = [_POINTER, _NUMBER]
            self.likelihood[name] = function(f"{name}_likelihood", *told, *share, *grid, _POINTER, *back)
        self.squash = function("squash", _NUMBER, _NUMBER, _REAL, *grid, *grid)
        self.squash_back = function("squash_back", _NUMBER, _NUMBER, _REAL, *grid, *grid, *grid, *grid)
        self.silu = function("silu", _NUMBER, _POINTER, _POINTER, _POINTER)


def instruction_set() -> str | None:
    """The instruction set of the compiled layers, None where there are none or they are switched off."""
    return compiled.instruction_set(LIBRARY, _NEWEST)


@functools.cache
def _layers(path: Path, instructions: str, kind: str) -> Layers:
    return Layers(path, instructions, kind)


def layers_for(*tensors: Tensor) -> Layers | None:
    """The compiled functions for these tensors; None where only the plain way will do, as wherever torch wants to see
    operations (`compiled.watched`).
    """
    instructions, dtype = instruction_set(), tensors[0].dtype
    if instructions is None or dtype not in _KINDS or compiled.watched():
        return None
    for tensor in tensors:
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.dtype != dtype or tensor.device.type != "cpu":
            return None
    return _layers(LIBRARY, instructions, _KINDS[dtype])


def moved(
    kernel: Kernel | None, plain: Callable[[Tensor, Tensor], Moved], x: Tensor, parameters: Tensor, *, inverse: bool
) -> Moved:
    """What ``plain(x, parameters)`` is, by the compiled function where there is one for these tensors."""
    layers = None if kernel is None else layers_for(x, parameters)
    if kernel is None or layers is None or not x.numel() or not kernel.fits:
        return plain(x, parameters)
    if x.ndim != 2:  # one column
        found = moved(kernel, plain, x.reshape(-1, 1), parameters.reshape(-1, 1, parameters.shape[-1]), inverse=inverse)
        return Moved(found.value.reshape(x.shape), found.log_slope.reshape(x.shape))
    if torch.is_grad_enabled() and (x.requires_grad or parameters.requires_grad):
        return Moved(*_Moving.apply(layers, kernel, plain, inverse, x, parameters))
    return Moved(*_forward(layers, kernel, inverse, x, parameters))


class _Moving(torch.autograd.Function):
    """`moved` with its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        layers: Layers,
        kernel: Kernel,
        plain: Callable[[Tensor, Tensor], Moved],
        inverse: bool,
        x: Tensor,
        parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Value and log-slope."""
        ctx.save_for_backward(x, parameters)
        ctx.set_materialize_grads(False)
        ctx.layers, ctx.kernel, ctx.plain, ctx.inverse = layers, kernel, plain, inverse
        return _forward(layers, kernel, inverse, x, parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """By x and by the parameters; where these shall have a graph of their own, the plain function's."""
        x, parameters = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
                found = ctx.plain(x, parameters)
                return found.value, found.log_slope

            return None, None, None, None, *plain_gradients(plain, (x, parameters), gradients)
        by_x, by_parameters = torch.empty_like(x), torch.empty_like(parameters)
        if by_parameters.stride() != parameters.stride():  # numbers that several points share
            parameters = parameters.contiguous()
            by_parameters = torch.empty_like(parameters)
        turned = _turned(x, parameters)
        by_value = torch.zeros_like(x) if gradients[0] is None else gradients[0]
        ctx.layers.backward[ctx.kernel.name](
            *(x.shape[::-1] if turned else x.shape),
            *ctx.kernel.constants,
            ctx.inverse,
            *_place(x, turned),
            *_place(parameters, turned),
            *_place(by_value, turned),
            *_place(gradients[1], turned),
            *_place(by_x, turned),
            by_parameters.data_ptr(),
        )
        return None, None, None, None, by_x, by_parameters


def plain_gradients(
    function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor | None, ...], gradients: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """The gradients of a plain computation by its inputs, themselves with a graph; None for inputs that are not there.

    By `torch.func.vjp`, which looks at the function alone: one input may come from another by a graph of before.
    """
    found: Any = torch.func.vjp(function, *(tensor for tensor in inputs if tensor is not None))
    outputs, pull = found
    asked = zip(outputs, gradients, strict=True)
    by_input = iter(pull(tuple(torch.zeros_like(out) if g is None else g for out, g in asked)))
    return [None if tensor is None else next(by_input) for tensor in inputs]


def _forward(layers: Layers, kernel: Kernel, inverse: bool, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Value and log-slope."""
    value, log_slope, turned = torch.empty_like(x), torch.empty_like(x), _turned(x, parameters)
    layers.forward[kernel.name](
        *(x.shape[::-1] if turned else x.shape),
        *kernel.constants,
        inverse,
        *_place(x, turned),
        *_place(parameters, turned),
        *_place(value, turned),
        *_place(log_slope, turned),
    )
    return value, log_slope


def _turned(x: Tensor, parameters: Tensor) -> bool:
    """Whether the second dimension is what a compiled function calls rows: that whose parameters lie side by side, else
    the longer.
    """
    first, second, _ = parameters.stride()
    return second == 1 or (first != 1 and x.shape[1] > x.shape[0])


def _place(tensor: Tensor | None, turned: bool) -> tuple[int | None, ...]:
    """Where numbers lie, and their strides by row, column and parameter."""
    if tensor is None:
        return None, 0, 0
    first, second, *rest = tensor.stride()
    return (tensor.data_ptr(), second, first, *rest) if turned else (tensor.data_ptr(), first, second, *rest)
