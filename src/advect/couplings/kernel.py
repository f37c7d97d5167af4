"""The compiled assignment solver, where there is one (`assignment_kernel.cpp` says how it works).

Without it, every caller has another way (`exact`), with the same results and more time; `advect.compiled` says how it
comes to be there and which instruction set it uses.

The solver holds no lock of the interpreter, so that pairs can be made beside a training step.
"""

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from advect import compiled

LIBRARY = Path(__file__).with_name("assignment_kernel.so")
SETS = compiled.SETS
_REFUSED = 2  # what the solver of points returns where a coordinate is not finite or cannot be squared


@dataclass(frozen=True)
class Solved:
    """An assignment with the dual numbers that bound its loss.

    Attributes:
        columns: ``(rows,)`` the column of each row.
        prices: ``(columns,)`` p_j; whatever they are, Σ_i min_j (c_ij + p_j) − Σ_j p_j is a lower bound of the cost of
            every assignment.
        total: Cost of the assignment, summed over the rows.
        gap: Its excess over the bound that these prices give, computed with the costs that were solved.
        mean: Of all costs.
        work: Bids, rows read, rows left to the augmenting paths, columns that these settled.
    """

    columns: Int[np.ndarray, " rows"]
    prices: Float[np.ndarray, " columns"]
    total: float
    gap: float
    mean: float
    work: tuple[int, int, int, int]

    @property
    def relative_gap(self) -> float:
        """The gap as a share of the cost; 0 where both are 0."""
        gap = max(self.gap, 0.0)
        return gap / abs(self.total) if gap else 0.0


def instruction_set() -> str | None:
    """The instruction set the compiled solver runs with, None where there is no solver (or it is switched off).

    Raises:
        ConfigError: ``ADVECT_KERNEL`` names none of the sets.
    """
    return compiled.instruction_set(LIBRARY, "advect_assign_float")


@functools.cache
def _loaded(path: Path, kind: str, instructions: str) -> "ctypes._NamedFuncPointer | None":
    function = getattr(compiled.library(path), f"advect_assign_{kind}_{instructions}", None)
    if function is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    answer = [ctypes.c_double, pointer, pointer, pointer]
    function.argtypes = {
        "near_float": [pointer, pointer, number, number, *answer],
        "near_double": [pointer, pointer, number, number, *answer],
        "distances": [pointer, pointer, number, number, pointer, pointer],
        "round": [pointer, pointer, number, number, pointer, pointer],
        "apart": [pointer, pointer, pointer, number, number, pointer],
    }.get(kind, [pointer, pointer, pointer, number, *answer])
    function.restype = ctypes.c_int
    return function


def _function(kind: str) -> "ctypes._NamedFuncPointer | None":
    """A compiled function; None where there is none, as in a file that was built before there was this one."""
    instructions = instruction_set()
    return _loaded(LIBRARY, kind, instructions) if instructions else None


class _Answer:
    """Memory that the solver writes to: the column of each row, the price of each column, seven figures.

    It is one piece, and its place is asked for once: that takes NumPy as long as a small pairing takes the solver.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._numbers = (ctypes.c_double * (2 * rows + 7))()
        first = ctypes.addressof(self._numbers)
        self.places = first, first + 8 * rows, first + 16 * rows

    def of(self, status: int) -> Solved:
        rows = self._rows
        if status:
            raise MemoryError(f"no memory for the assignment of {rows} rows")
        numbers = np.frombuffer(memoryview(self._numbers))
        gap, total, *work, mean = numbers[2 * rows :].tolist()
        bids, scans, searches, settled = (int(count) for count in work)
        columns, prices = numbers[:rows].view(np.int64), numbers[rows : 2 * rows]
        return Solved(columns, prices, total, gap, mean, (bids, scans, searches, settled))


def solve(
    cost: Float[np.ndarray, "rows rows"],
    *,
    norms: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]] | None = None,
    tolerance: float = 0.0,
) -> Solved | None:
    """A cheapest assignment, or one within ``tolerance`` of it; None where there is no compiled solver.

    Args:
        cost: Finite, contiguous, float64 of any size and sign or float32 from 0 upwards.
        norms: |x_i|² and |y_j|², both of the type of ``cost``. Then ``cost`` holds the products x_i·y_j instead, and is
            overwritten with |x_i|² + |y_j|² − 2 x_i·y_j.
        tolerance: Stop once the gap is at most this share of the cost. 0 goes on to the end: exact for the costs given,
            to the rounding of float64.
    """
    rows = len(cost)
    function = _function("float" if cost.dtype == np.float32 else "double")
    if function is None or rows < 2:
        return None
    answer = _Answer(rows)
    ends = (None, None) if norms is None else (norms[0].ctypes.data, norms[1].ctypes.data)
    return answer.of(function(cost.ctypes.data, *ends, rows, tolerance, *answer.places))


def solve_points(
    x: Float[Tensor, "rows ..."], y: Float[Tensor, "rows ..."], *, tolerance: float = 0.0
) -> Solved | None:
    """The same for the squared distances of points in float64: a row of the matrix for each of ``x``.

    Returns: None where there is no compiled solver, or coordinates are not finite or too large to be squared.
    """
    rows = len(x)
    single = compiled.in_rows(x, torch.float32) and compiled.in_rows(y, torch.float32)
    function = _function("near_float" if single else "near_double")
    if function is None or rows < 2:
        return None
    if not single:
        x, y = (points.detach().to("cpu", torch.float64).contiguous() for points in (x, y))
    answer = _Answer(rows)
    status = function(x.data_ptr(), y.data_ptr(), rows, x.numel() // rows, tolerance, *answer.places)
    return None if status == _REFUSED else answer.of(status)


def rounded_distances(
    x: Float[Tensor, "rows dim"], y: Float[Tensor, "rows dim"]
) -> tuple[Float[np.ndarray, "rows rows"], float] | None:
    """|x_i − y_j|² of float32 rows, with products of bfloat16 numbers about a common centre, summed in float32.

    Returns: With them the mean of |x_i|² + |y_i|² about that centre; None where the processor has no fast products.
    """
    instructions = compiled.bfloat16_set(LIBRARY, "advect_assign_able_bfloat16")
    function = _loaded(LIBRARY, "distances", instructions) if instructions else None
    if function is None or not (compiled.in_rows(x, torch.float32) and compiled.in_rows(y, torch.float32)):
        return None
    cost, spread = np.empty((len(x), len(x)), np.float32), ctypes.c_double()
    status = function(x.data_ptr(), y.data_ptr(), *x.shape, cost.ctypes.data, ctypes.addressof(spread))
    if status:
        raise MemoryError(f"no memory for the distances of {len(x)} rows")
    return cost, spread.value


def rounded_rows(
    x: Float[Tensor, "rows dim"], centre: Float[Tensor, " dim"]
) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, " rows"]]:
    """Float32 rows less their centre in bfloat16, and the squares of their norms before they are rounded."""
    function = _function("round")
    if function is None or not (compiled.in_rows(x, torch.float32) and compiled.in_rows(centre, torch.float32)):
        moved = x - centre
        return moved.bfloat16(), moved.square().sum(1)
    rounded, norms = torch.empty_like(x, dtype=torch.bfloat16), x.new_empty(len(x))
    function(x.data_ptr(), centre.data_ptr(), *x.shape, rounded.data_ptr(), norms.data_ptr())
    return rounded, norms


def total_apart(x0: Float[Tensor, "rows dim"], x1: Float[Tensor, "rows dim"], index0: Int[Tensor, " rows"]) -> float:
    """The sum of |x0 − x1|² over pairs of float32 rows."""
    function = _function("apart")
    if function is None or not (compiled.in_rows(x0, torch.float32) and compiled.in_rows(x1, torch.float32)):
        return float((x0[index0] - x1).square_().sum(1).sum(dtype=torch.float64))
    total = np.empty(1)
    function(x0.data_ptr(), x1.data_ptr(), index0.data_ptr(), *x1.shape, total.ctypes.data)
    return float(total[0])
