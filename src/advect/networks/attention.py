"""Self-attention among tokens, softmax(q kᵀ/√d) v.

On a processor torch's fused attention calls its products for each block, and lays scores down between calls;
`attention_kernel.cpp` does it head by head in one call, there and back, and `attention_bfloat16_kernel.cpp` does so for
tokens in bfloat16, where the processor multiplies such numbers. For everything else torch computes it. Its way back in
bfloat16 takes longer than that in float32, so there it goes back in float32 from the bfloat16 numbers it was given:
quicker by a fifth or more, and no less exact.
"""

import ctypes
import functools
import math
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from advect import compiled

LIBRARY = Path(__file__).with_name("attention_kernel.so")
_KINDS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64

SHARE = 2**20
"""Products that are worth a thread: they take several times as long as starting one."""

LEAST = 48
"""Tokens from which on the compiled attention is quicker there and back; there alone it takes ten times as many."""

WIDEST = 96
"""Numbers of a head up to which it is in float32; products of greater depth reach their pace in torch's way too."""

_forward: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_back: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def instruction_set() -> str | None:
    """The instruction set of the compiled attention, None where there is none or torch's is as quick: that of plain
    instructions is for those who name it.
    """
    found = compiled.instruction_set(LIBRARY, "advect_attention_forward_float")
    return None if found == "plain" and os.environ.get("ADVECT_KERNEL") != "plain" else found


def bfloat16_set() -> str | None:
    """The same in bfloat16."""
    return compiled.bfloat16_set(LIBRARY, "advect_attention_able_bfloat16")


def attention(tokens: Float[Tensor, "batch tokens 3 heads each"]) -> Float[Tensor, "batch tokens heads each"]:
    """What every token gathers from all of its row, by q, k and v, which lie side by side."""
    if not torch.compiler.is_compiling() and _ours(tokens):
        instructions = _quicker(tokens)
        if instructions is not None:
            return _Compiled.apply(tokens, instructions)
        if _rounded_back(tokens):
            return _Attention.apply(tokens)
    q, k, v = _parts(tokens)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _ours(tokens: Tensor) -> bool:
    """Whether they are numbers of a processor that a function of ours may take out of torch's sight."""
    return (
        tokens.is_cpu
        and tokens.dtype in _KINDS
        and type(tokens) in (Tensor, nn.Parameter)
        and tokens.numel() > 0
        and not compiled.watched(autocast=tokens.dtype == torch.float32)
    )


def _quicker(tokens: Tensor) -> str | None:
    """The instruction set of the compiled attention where it takes less time than torch's, else None."""
    if tokens.shape[1] < LEAST * (1 if _goes_back(tokens) else 10):
        return None
    if tokens.dtype == torch.bfloat16:
        return bfloat16_set()
    return instruction_set() if tokens.shape[-1] <= WIDEST else None


def _goes_back(tokens: Tensor) -> bool:
    return tokens.requires_grad and torch.is_grad_enabled()


def _rounded_back(tokens: Tensor) -> bool:
    """Whether they will go back, in bfloat16, by functions that torch has."""
    return _goes_back(tokens) and tokens.dtype == torch.bfloat16 and not (_forward is None or _back is None)


def _parts(tokens: Tensor) -> tuple[Tensor, ...]:
    """q, k and v ``(batch, heads, tokens, each)``."""
    return tokens.transpose(1, 3).unbind(2)


def _in_order(tokens: Tensor) -> Tensor:
    """The same, the numbers of a head one after another: torch's kernels read them so and do not look."""
    return tokens if tokens.stride(-1) == 1 else tokens.contiguous()


def _formula_back(tokens: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by tokens, itself in autograd's graph, from that ``(batch, tokens, heads, each)`` by the output."""
    q, k, v = _parts(tokens)
    again = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v
    return torch.autograd.grad(again.transpose(1, 2), tokens, gradient, create_graph=True)[0]


class _Compiled(torch.autograd.Function):
    """The compiled attention and its way back; second derivatives go through plain operations."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, instructions: str) -> Tensor:
        rows, count, _, heads, each = tokens.shape
        read = _in_order(tokens)
        out = tokens.new_empty((rows, count, heads, each))
        log_sums = tokens.new_empty((rows, heads, count), dtype=torch.float32)
        _function(LIBRARY, f"forward_{_KINDS[tokens.dtype]}_{instructions}")(
            _sizes(tokens), compiled.pointers(read.unbind(2)), _strides(read, out), out.data_ptr(),
            log_sums.data_ptr(), _threads(tokens),
        )  # fmt: skip
        ctx.save_for_backward(tokens, out, log_sums)
        ctx.instructions = instructions
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        tokens, out, log_sums = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _formula_back(tokens, gradients[0]), None
        gradient = gradients[0].to(out.dtype).contiguous()
        read = _in_order(tokens)
        found = tokens.new_empty(tokens.shape)
        _function(LIBRARY, f"back_{_KINDS[tokens.dtype]}_{ctx.instructions}")(
            _sizes(tokens), compiled.pointers([*read.unbind(2), gradient, out]), _strides(read, out, found),
            log_sums.data_ptr(), compiled.pointers(found.unbind(2)), _threads(tokens),
        )  # fmt: skip
        return found, None


@functools.cache
def _function(path: Path, name: str) -> Any:
    found = getattr(compiled.library(path), f"advect_attention_{name}")
    found.argtypes, found.restype = [*[_POINTER] * 5, _NUMBER], ctypes.c_int
    return found


def _sizes(tokens: Tensor) -> Any:
    rows, count, _, heads, each = tokens.shape
    return (_NUMBER * 4)(rows, count, heads, each)


def _strides(tokens: Tensor, out: Tensor, found: Tensor | None = None) -> Any:
    """By batch, token and head: of what is read, of output and its gradient, and of what is found."""
    by = [tokens.stride()[at] for at in (0, 1, 3)] + list(out.stride()[:3])
    by += [] if found is None else [found.stride()[at] for at in (0, 1, 3)]
    return (_NUMBER * len(by))(*by)


def _threads(tokens: Tensor) -> int:
    products = tokens.numel() * tokens.shape[1]
    return max(1, min(torch.get_num_threads(), products // SHARE))


class _Attention(torch.autograd.Function):
    """In bfloat16 there and in float32 back; second derivatives go through plain operations."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor) -> Tensor:
        out, log_sums = _forward(*_parts(_in_order(tokens)))
        ctx.save_for_backward(tokens, out, log_sums)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        tokens, out, log_sums = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _formula_back(tokens, gradients[0])
        gradient = _in_order(gradients[0]).transpose(1, 2)
        wide = (part.float() for part in (gradient, *_parts(_in_order(tokens)), _in_order(out)))
        found = torch.empty_like(tokens)
        for part, by in zip(_parts(found), _back(*wide, log_sums, 0.0, False), strict=True):
            part.copy_(by)
        return found
