"""A step of AdamW, with the clipping before it and the averages after it, in one compiled pass over memory.

For weights θ, their gradient g times a factor, moments m and v and averages a, at step s with rate η:

    m ← m + (1 − β₁)(g − m),    v ← β₂ v + (1 − β₂) g²
    θ ← (1 − ηλ) θ − η/(1 − β₁ˢ) m / (√v/√(1 − β₂ˢ) + ε),    a ← a + c (θ − a)

(Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2). torch does it in three or four passes, and on a million
weights these are nothing but memory. `advance_kernel.cpp` reads and writes each number once, and rounds where torch's
kernels do: both give the same numbers, to the bit where they run with the same instruction set of an x86 processor.
"""

import ctypes
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect import compiled

LIBRARY = Path(__file__).with_name("advance_kernel.so")
_KINDS = {torch.float32: "float", torch.float64: "double"}
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64

SHARE = 2**18
"""Numbers that are worth a thread: passing over them takes several times as long as starting one."""

WIDEST = 64
"""Bytes of the widest vector: the numbers of a pass are a multiple of what it holds."""


def instruction_set() -> str | None:
    """The instruction set of the compiled pass, None where there is none or it is switched off."""
    return compiled.instruction_set(LIBRARY, "advect_advance_float")


def rule(group: Mapping[str, Any], step: float, factor: float) -> tuple[float, ...]:
    """The numbers of a step, in the order in which the compiled file takes them.

    Args:
        group: The optimiser's settings, as torch names them.
        step: Which it is, counted from 1.
        factor: Of the gradient.
    """
    rate, (beta1, beta2) = group["lr"], group["betas"]
    kept, root, pace = 1 - rate * group["weight_decay"], math.sqrt(1 - beta2**step), rate / (1 - beta1**step)
    return factor, kept, 1 - beta1, beta2, 1 - beta2, root, group["eps"], pace


class Advance:
    """The compiled pass over tensors that stay where they are, looked up once: it is asked for in every step.

    Args:
        gradients: ``(count,)``; stays as it is.
        weights: Likewise, and all further tensors too.
        moments: Of first and second order.
        averages: Of the weights.
    """

    def __init__(
        self, gradients: Tensor, weights: Tensor, moments: Sequence[Tensor], averages: Sequence[Tensor]
    ) -> None:
        self._held = gradients, weights, *moments, *averages
        count, dtype = weights.numel(), weights.dtype
        self._function = _function(LIBRARY, f"{_KINDS[dtype]}_{instruction_set()}")
        self._rule, self._shares = (ctypes.c_double * 8)(), (ctypes.c_double * len(averages))()
        places = [one.data_ptr() for one in (gradients, weights, *moments)]
        self._given = count, self._rule, *places, len(averages), compiled.pointers(averages), self._shares
        self._most = count // SHARE

    def __call__(self, numbers: Sequence[float], shares: Sequence[float]) -> None:
        """One step.

        Args:
            numbers: Those of `rule`.
            shares: Of the way to the weights that each average goes.
        """
        self._rule[:], self._shares[:] = numbers, shares
        self._function(*self._given, max(1, min(torch.get_num_threads(), self._most)))


def advance_for(
    gradients: Tensor, weights: Tensor, moments: Sequence[Tensor], averages: Sequence[Tensor]
) -> Advance | None:
    """The compiled pass for such tensors; None where there is none, or they do not lie as it reads them."""
    dtype, count = weights.dtype, weights.numel()
    if dtype not in _KINDS or count % (WIDEST // weights.element_size()) or instruction_set() is None:
        return None
    together = (gradients, weights, *moments, *averages)
    if not all(compiled.in_rows(one, dtype) and one.numel() == count for one in together):
        return None
    return Advance(gradients, weights, moments, averages)


@functools.lru_cache(maxsize=16)
def _function(path: Path, name: str) -> Any:
    found = getattr(compiled.library(path), f"advect_advance_{name}")
    found.argtypes = [_NUMBER, *[_POINTER] * 5, _NUMBER, _POINTER, _POINTER, _NUMBER]
    found.restype = ctypes.c_int
    return found
