"""Group norms of pictures with what stands around them: added before, scaled and moved after, bent by SiLU.

    out = silu((1 + gain) norm(x + before) + shift)

On a processor torch's operations pass over memory for each of these, and twice for the norm; `norm_kernel.cpp` does it
picture by picture while it is in cache, for float32 and bfloat16 pictures that lie pixel by pixel (channels_last). What
it computes is `plain`, which is what runs for everything else. Both give the same numbers to rounding.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect import compiled

LIBRARY = Path(__file__).with_name("norm_kernel.so")
_KINDS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64

SHARE = 2**15
"""Numbers that are worth a thread: passing over them takes several times as long as starting one."""


def instruction_set() -> str | None:
    """The instruction set of the compiled norms, None where there is none or it is switched off."""
    return compiled.instruction_set(LIBRARY, "advect_norm_forward_float")


def pixel_by_pixel(x: Tensor) -> Tensor:
    """Pictures in the order in memory that the compiled norm reads, where it is there; else as they are.

    Convolutions and products over pixels are quicker in that order on processors, from a tenth in float32 to twice in
    bfloat16 (`benchmarks/README.md`, B4). torch's own norm is several times slower in it.
    """
    if not x.is_cpu or x.dtype not in _KINDS or compiled.watched(autocast=False) or instruction_set() is None:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def normed(
    norm: nn.GroupNorm,
    x: Tensor,
    *,
    before: Tensor | None = None,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """silu((1 + gain) norm(x + before) + shift), or the same without SiLU, of pictures ``(batch, channels, h, w)``.

    Args:
        norm: Whose groups, weights and biases.
        x: The pictures.
        before: Added to every pixel, ``(batch or 1, channels)``.
        gain: With `shift`, likewise.
        shift: With `gain`.
        silu: Whether SiLU is last.
    """
    if _compilable(norm, x, (before, gain, shift)):
        weight, bias = norm.weight, norm.bias
        return _Normed.apply(x, weight, bias, before, gain, shift, norm.num_groups, norm.eps, silu)
    u = norm(x if before is None else x + before[:, :, None, None])
    return _bent(u, gain, shift, silu)


def plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    before: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    groups: int,
    epsilon: float,
    silu: bool,
) -> Tensor:
    """What is computed, in torch's operations."""
    u = x if before is None else x + before[:, :, None, None]
    return _bent(F.group_norm(u, groups, weight, bias, epsilon), gain, shift, silu)


def _bent(u: Tensor, gain: Tensor | None, shift: Tensor | None, silu: bool) -> Tensor:
    if gain is not None and shift is not None:
        u = torch.addcmul(u + shift[:, :, None, None], u, gain[:, :, None, None])
    return F.silu(u) if silu else u


def _compilable(norm: nn.GroupNorm, x: Tensor, beside: Sequence[Tensor | None]) -> bool:
    """Whether the compiled norm is there, and reads such numbers where they lie."""
    return (
        not compiled.watched(autocast=False)  # first: such tensors do not answer all that is asked here
        and x.is_cpu
        and x.dtype in _KINDS
        and type(norm) is nn.GroupNorm
        and "forward" not in norm.__dict__
        and not compiled.heard([norm])
        and type(x) in (Tensor, nn.Parameter)
        and x.ndim == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(compiled.in_rows(part, torch.float32) for part in (norm.weight, norm.bias))
        and all(part is None or type(part) is Tensor for part in beside)
        and instruction_set() is not None
    )


class _Normed(torch.autograd.Function):
    """The compiled norm, and its way back; second derivatives go through the plain operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
        beside, (groups, epsilon, silu) = rest[:3], rest[3:]
        pictures, channels, height, width = x.shape
        out = torch.empty_like(x)
        mean, rstd = x.new_empty((2, pictures, groups), dtype=torch.float32)
        sizes = _numbers(pictures, height * width, channels, groups, silu)
        numbers = _in_float32(beside, pictures)
        instructions = instruction_set()
        _function(LIBRARY, f"forward_{_KINDS[x.dtype]}_{instructions}")(
            sizes, epsilon, x.data_ptr(), *_given(weight, bias, numbers), out.data_ptr(), mean.data_ptr(),
            rstd.data_ptr(), _threads(x),
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, mean, rstd, *beside)
        ctx.how = groups, epsilon, silu
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd, *beside = ctx.saved_tensors
        groups, _, silu = ctx.how
        wanted = ctx.needs_input_grad[:6]
        if torch.is_grad_enabled():
            inputs = (x, weight, bias, *beside)
            return *_of_plain(inputs, wanted, gradients[0], ctx.how), None, None, None
        gradient = gradients[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
        by_x, numbers = torch.empty_like(x), _in_float32(beside, len(x))
        found: list[Tensor | None] = [weight.new_empty((len(x), len(weight))) for _ in range(2)]
        found += [weight.new_empty((len(x), len(weight))) if part is not None else None for part in beside]
        sizes = _numbers(len(x), x.shape[2] * x.shape[3], x.shape[1], groups, silu)
        _function(LIBRARY, f"back_{_KINDS[x.dtype]}_{instruction_set()}")(
            sizes, x.data_ptr(), gradient.data_ptr(), *_given(weight, bias, numbers), mean.data_ptr(),
            rstd.data_ptr(), by_x.data_ptr(), compiled.pointers(found), _threads(x),
        )  # fmt: skip
        by_weight, by_bias = (None if part is None else part.sum(0) for part in found[:2])
        by_beside = [
            None if part is None or given is None else part.sum_to_size(given.shape).to(given.dtype)
            for part, given in zip(found[2:], beside, strict=True)
        ]
        return by_x, by_weight, by_bias, *by_beside, None, None, None


def _of_plain(
    inputs: Sequence[Tensor | None], wanted: Sequence[bool], gradient: Tensor, how: tuple[int, float, bool]
) -> list[Tensor | None]:
    """The gradients by the inputs that want one, themselves in autograd's graph."""
    by = [part for part, want in zip(inputs, wanted, strict=True) if want and part is not None]
    x, weight, bias, before, gain, shift = inputs
    assert x is not None
    assert weight is not None
    assert bias is not None
    out = plain(x, weight, bias, before, gain, shift, *how)
    found = iter(torch.autograd.grad(out, by, gradient, create_graph=True))
    return [next(found) if want and part is not None else None for part, want in zip(inputs, wanted, strict=True)]


@functools.cache
def _function(path: Path, name: str) -> Any:
    found = getattr(compiled.library(path), f"advect_norm_{name}")
    pointers = [_POINTER] * (8 if name.startswith("back") else 6)
    start = [_POINTER] if name.startswith("back") else [_POINTER, ctypes.c_double]
    found.argtypes, found.restype = [*start, *pointers, _NUMBER], ctypes.c_int
    return found


def _numbers(*numbers: int) -> Any:
    return (_NUMBER * len(numbers))(*numbers)


def _in_float32(beside: Sequence[Tensor | None], pictures: int) -> list[Tensor | None]:
    """What stands beside the pictures as the compiled file reads it; these few numbers must outlive the call."""
    for part in beside:
        assert part is None or len(part) in (1, pictures)
    return [None if part is None else part.to(torch.float32).contiguous() for part in beside]


def _given(weight: Tensor, bias: Tensor, beside: Sequence[Tensor | None]) -> tuple[Any, Any]:
    """Pointers to them, and how far one picture's numbers are from the next one's."""
    rows = (0 if part is None or len(part) == 1 else part.shape[1] for part in beside)
    return compiled.pointers([weight, bias, *beside]), _numbers(*rows)


def _threads(x: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), x.numel() // SHARE))
