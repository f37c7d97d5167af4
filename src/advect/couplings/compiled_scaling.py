"""Rounds of the scaling iteration, compiled (`scaling_kernel.cpp`), where that is there.

`scaling` has the same by torch.
"""

import ctypes
import functools
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from advect import compiled

LIBRARY = Path(__file__).with_name("scaling_kernel.so")


def instruction_set() -> str | None:
    """The instruction set the compiled rounds run with, None where there are none (or they are switched off).

    Raises:
        ConfigError: ``ADVECT_KERNEL`` names none of the sets.
    """
    return compiled.instruction_set(LIBRARY, "advect_scaling_balanced")


def usable(scaled: Float[Tensor, "source data"]) -> bool:
    """Whether these costs can go there."""
    return compiled.in_rows(scaled, torch.float64) and instruction_set() is not None


@functools.cache
def _function(kind: str, instructions: str) -> "ctypes._NamedFuncPointer":
    function = getattr(compiled.library(LIBRARY), f"advect_scaling_{kind}_{instructions}")
    pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    function.argtypes = [pointer, number, number] + {
        "balanced": [pointer, real, number, number, real],
        "unbalanced": [pointer, pointer, real, real, number, pointer],
    }[kind]
    function.restype = ctypes.c_int
    return function


def _called(kind: str, scaled: Float[Tensor, "source data"], *rest: Any) -> int:
    instructions = instruction_set()
    assert instructions is not None, "usable() was not asked"
    rounds = _function(kind, instructions)(scaled.data_ptr(), *scaled.shape, *rest)
    if rounds < 0:
        raise MemoryError(f"no memory for the plan of {tuple(scaled.shape)} rows")
    return rounds


def balanced(
    scaled: Float[Tensor, "source data"],
    late: Float[Tensor, " data"],
    *,
    target: float,
    most: int,
    few: int,
    patience: float,
) -> tuple[Float[Tensor, " data"], int]:
    """As `scaling.balanced`."""
    g = late.detach().clone().contiguous()
    rounds = _called("balanced", scaled, g.data_ptr(), target, most, few, patience)
    return g, rounds


def unbalanced(
    scaled: Float[Tensor, "source data"], reach: float, *, tolerance: float, most: int
) -> tuple[Float[Tensor, " source"], Float[Tensor, " data"], float, int]:
    """As `scaling.unbalanced`."""
    f, g = scaled.new_zeros(scaled.shape[0]), scaled.new_zeros(scaled.shape[1])
    change = ctypes.c_double(math.inf)
    rounds = _called("unbalanced", scaled, f.data_ptr(), g.data_ptr(), reach, tolerance, most, ctypes.addressof(change))
    return f, g, change.value, rounds
