"""Compiled files beside the code, which no installation needs: where they are there, and which instruction set is used.

An installation with a C++ compiler builds them; without one, every caller has another way, with the same results and
more time. In a checkout that is used without being installed, `python setup.py build_ext --inplace` builds them. A file
holds its functions once for each instruction set; the set is chosen when it is first used, as torch chooses its own.
``ADVECT_KERNEL`` in the environment names another (``plain``, ``avx2``, ``avx512``), or ``none`` to leave all alone.
Products of bfloat16 numbers have sets of their own (``avx512bf16``, ``amx``), which processors have beside ``avx512``:
naming one of them leaves everything else as it is, naming one of the others leaves bfloat16 to torch.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from advect.errors import ConfigError

SETS = ("plain", "avx2", "avx512")
BFLOAT16_SETS = ("avx512bf16", "amx")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@functools.cache
def library(path: Path) -> ctypes.CDLL | None:
    """The file as ctypes sees it, None where there is none."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def instruction_set(path: Path, function: str) -> str | None:
    """The instruction set that a compiled file runs with, None where there is no file (or it is switched off).

    Args:
        path: The file.
        function: The name of one of its functions, without the set.

    Raises:
        ConfigError: ``ADVECT_KERNEL`` names none of the sets.
    """
    return _chosen(path, function, _asked())


def bfloat16_set(path: Path, able: str) -> str | None:
    """The instruction set for products of bfloat16 numbers, None where file or processor have none.

    Args:
        path: The file.
        able: The name of the function, without the set, that says whether this processor has a set (1) and is quicker
            by it than in float32 (2); it is then taken unasked.

    Raises:
        ConfigError: ``ADVECT_KERNEL`` names none of the sets.
    """
    return _chosen_bfloat16(path, able, _asked())


def _asked() -> str:
    asked, known = os.environ.get("ADVECT_KERNEL", ""), ("none", *SETS, *BFLOAT16_SETS)
    if asked not in ("", *known):
        raise ConfigError(
            f"ADVECT_KERNEL is {asked!r}, but must be one of {', '.join(known)}",
            where="the environment",
            remedy="Unset it: the best of them is chosen by itself.",
        )
    return asked


@functools.cache
def _chosen_bfloat16(path: Path, able: str, asked: str) -> str | None:
    found = library(path) if asked in ("", *BFLOAT16_SETS) else None
    if found is None or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    for name in reversed(BFLOAT16_SETS if not asked else (asked,)):
        function = getattr(found, f"{able}_{name}", None)
        if function is not None and function() >= (1 if asked else 2):
            return name
    return None


@functools.cache
def _chosen(path: Path, function: str, asked: str) -> str | None:
    found = None if asked == "none" else library(path)
    if found is None:
        return None
    capability = torch.backends.cpu.get_cpu_capability().lower()
    able = SETS[: SETS.index(capability) + 1] if capability in SETS else ("plain",)
    built = [name for name in able if hasattr(found, f"{function}_{name}")]
    if not built:  # it was built before there was this function
        return None
    return asked if asked in built else built[-1]


def watched(*, autocast: bool = True) -> bool:
    """Whether torch wants to see every operation: transformed functions, forward derivatives, autocast, compiling,
    tracing, or a mode that looks at calls. What is compiled here it cannot see.

    Args:
        autocast: Whether autocast counts; what is compiled in its precision may leave it out.
    """
    return (
        torch.compiler.is_compiling()  # first: what follows is nothing it could trace
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (autocast and torch.is_autocast_enabled("cpu"))
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch.jit.is_tracing()
    )


_PRECISIONS = {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}


def float32_products() -> str:
    """How exact torch is told that products of float32 numbers on processors have to be: ``highest``, ``high`` or
    ``medium``, as `torch.set_float32_matmul_precision` names them.
    """
    # Where a program names backends one by one, as torch allows since 2.9, the old question is an error.
    newer = getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", None)
    return torch.get_float32_matmul_precision() if newer is None else _PRECISIONS.get(newer, "highest")


def heard(modules: Sequence[nn.Module]) -> bool:
    """Whether a hook waits for the pass of one of them."""
    if any(getattr(nn.modules.module, f"_global{name}") for name in _HOOKS):
        return True
    return any(getattr(module, name) for module in modules for name in _HOOKS)


def in_rows(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a compiled function can read a tensor where it lies: of this dtype, in this memory, rows in their plain
    order and nothing else behind the name.
    """
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype == dtype
        and tensor.is_cpu
        and tensor.is_contiguous()
        and tensor.layout == torch.strided
    )


def place(tensor: Tensor | None) -> tuple[int | None, int, int]:
    """Where a tensor ``(rows, columns)`` lies, and its strides by row and column, for a compiled function."""
    if tensor is None:
        return None, 0, 0
    row, column = tensor.stride()
    return tensor.data_ptr(), row, column


def pointers(tensors: Sequence[Tensor | None]) -> Any:
    """Where tensors lie, as one argument of a compiled function; None where there is none."""
    return (ctypes.c_void_p * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))
