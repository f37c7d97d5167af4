"""Convolutions of size 3 by minimal filtering: four outputs from 16 products a channel in place of 36.

Winograd's F(2×2, 3×3) (Lavin & Gray 2015, arXiv 1509.09308), there and back, is `convolution_kernel.cpp`, for float32
pictures that lie pixel by pixel (channels_last) on a processor. A picture that is doubled before, every pixel by
itself, needs 9 products and is never laid down. For everything else torch computes it; numbers agree to rounding.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from advect import compiled

LIBRARY = Path(__file__).with_name("convolution_kernel.so")
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64

SHARE = 2**22
"""Products of a convolution that are worth a thread: they take several times as long as starting one."""


FILL = 16
"""Channels that fill vectors; others go one by one, and three times as slowly."""


def instruction_set() -> str | None:
    """The instruction set of the compiled convolutions, None where there is none or torch's are as quick: that of plain
    instructions is for those who name it.
    """
    found = compiled.instruction_set(LIBRARY, "advect_convolution_forward")
    return None if found == "plain" and os.environ.get("ADVECT_KERNEL") != "plain" else found


class Convolution(nn.Conv2d):
    """torch's layer, whose convolutions of size 3 are compiled where that is quicker."""

    @final
    def forward(self, input: Tensor) -> Tensor:
        """The convolution of pictures ``(batch, inputs, height, width)``."""
        if _quicker(self, input, 1):
            return _Filtered.apply(input, self.weight, self.bias, False)
        return super().forward(input)


def doubled(
    layer: nn.Module, x: Float[Tensor, "batch inputs h w"], size: Sequence[int]
) -> Float[Tensor, "batch outputs height width"]:
    """A convolution of pictures that are first enlarged to a size, each pixel repeated."""
    if (
        not compiled.watched()  # first: such tensors do not answer all that is asked here
        and type(layer) is Convolution
        and "forward" not in layer.__dict__
        and not compiled.heard([layer])
        and tuple(size) == (2 * x.shape[2], 2 * x.shape[3])
        and _quicker(layer, x, 2)
    ):
        return _Filtered.apply(x, layer.weight, layer.bias, True)
    return layer(F.interpolate(x, size=tuple(size), mode="nearest"))


def _quicker(layer: nn.Conv2d, x: Tensor, scale: int) -> bool:
    """Whether the compiled convolution is there, computes this one, and takes less time than torch's."""
    return (
        not compiled.watched()
        and x.is_cpu
        and x.dtype == torch.float32
        and type(x) in (Tensor, nn.Parameter)
        and x.ndim == 4
        and x.shape[1] == layer.in_channels
        and layer.kernel_size == (3, 3)
        and layer.padding == (1, 1)
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and x.numel() > 0
        and worth(layer.in_channels, layer.out_channels, _patches(x, scale))
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(part is None or _readable(part) for part in (layer.weight, layer.bias))
        and instruction_set() is not None
    )


def worth(inputs: int, outputs: int, patches: int) -> bool:
    """Whether it takes less time than torch's: channels fill vectors, and there are patches of 2×2 outputs enough to
    pay for the filters, which are transformed at every call.
    """
    return inputs % FILL == outputs % FILL == 0 and inputs * outputs <= (8 * patches) ** 2


def _patches(x: Tensor, scale: int) -> int:
    return len(x) * ((x.shape[2] * scale + 1) // 2) * ((x.shape[3] * scale + 1) // 2)


def _readable(part: Tensor) -> bool:
    return compiled.in_rows(part if part.is_contiguous() else part.contiguous(), torch.float32)


class _Filtered(torch.autograd.Function):
    """The compiled convolution, and its way back; second derivatives go through torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, double: bool) -> Tensor:
        scale = 2 if double else 1
        shape = (len(x), len(weight), scale * x.shape[2], scale * x.shape[3])
        out = torch.empty(shape, memory_format=torch.channels_last)
        instructions, read = instruction_set(), weight.contiguous()
        _function(LIBRARY, f"forward_{instructions}")(
            _sizes(x, out), x.data_ptr(), read.data_ptr(), *compiled.pointers([bias]), out.data_ptr(),
            _threads(x, out),
        )  # fmt: skip
        ctx.save_for_backward(x, weight)
        ctx.how = instructions, double
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        instructions, double = ctx.how
        by_input, by_weight, by_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            return *_of_plain(x, weight, gradients[0], double, ctx.needs_input_grad), None
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        read, filters = weight.contiguous(), by_weight or by_bias
        found = [
            torch.empty_like(x) if by_input else None,
            torch.empty_like(read) if filters else None,
            weight.new_empty(len(weight)) if by_bias else None,
        ]
        _function(LIBRARY, f"back_{instructions}")(
            _sizes(x, gradient), x.data_ptr(), read.data_ptr(), gradient.data_ptr(), *compiled.pointers(found),
            _threads(x, gradient),
        )  # fmt: skip
        return found[0], found[1] if by_weight else None, found[2], None


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, double: bool) -> Tensor:
    """What is computed, in torch's operations."""
    return F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest") if double else x, weight, bias, padding=1)


def _of_plain(x: Tensor, weight: Tensor, gradient: Tensor, double: bool, wanted: Sequence[bool]) -> list[Tensor | None]:
    """The gradients by pictures, weights and bias that are wanted, themselves in autograd's graph."""
    by = [part for part, want in zip((x, weight), wanted, strict=False) if want]
    found = iter(torch.autograd.grad(plain(x, weight, None, double), by, gradient, create_graph=True) if by else ())
    by_x, by_weight = (next(found) if want else None for want in wanted[:2])
    return [by_x, by_weight, gradient.sum((0, 2, 3)) if wanted[2] else None]


@functools.cache
def _function(path: Path, name: str) -> Any:
    found = getattr(compiled.library(path), f"advect_convolution_{name}")
    found.argtypes, found.restype = [*[_POINTER] * (7 if name.startswith("back") else 5), _NUMBER], ctypes.c_int
    return found


def _sizes(x: Tensor, out: Tensor) -> Any:
    """Of a call: those of the output, and whether the input is doubled."""
    pictures, outputs, height, width = out.shape
    return (_NUMBER * 6)(pictures, height, width, x.shape[1], outputs, height != x.shape[2])


def _threads(x: Tensor, out: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), out.numel() * x.shape[1] * 9 // SHARE))
