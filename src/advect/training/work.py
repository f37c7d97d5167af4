"""How much of what a device can multiply a training makes it multiply, and how much memory it takes.

The operations of one step are counted from outside while it is done, by torch's own counter: those of matrix products,
convolutions and attention, multiplications and additions apart, on the way back too, and again where blocks are
computed again. Beside them stands what the device does in one large product in the arithmetic of the training. Both are
found once, and only where asked: on graphics cards.
"""

import math
import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE = 4096  # of a product that fills a card; 70 milliseconds at 2 TFLOP/s, under 1 at 200
TIMES = 5


class Work:
    """The work of a step beside the device's best.

    Args:
        device: Which.
        precision: The arithmetic of the training loss, see `TrainingConfig.precision`.
        side: Of the matrices of the product that tells the device's best.

    Attributes:
        wanted: Whether to look at all; on graphics cards unless it is set.
        operations: Of a step, here; None until one was counted.
    """

    def __init__(self, device: torch.device, precision: str, *, side: int = SIDE) -> None:
        self.device, self.precision, self.side = device, precision, side
        self.wanted = device.type == "cuda"
        self.operations: int | None = None
        self._peak: float | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the operations of the step that is done inside, unless one was counted before."""
        if not self.wanted or self.operations is not None:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self.operations = counter.get_total_flops()

    def share(self, rate: float) -> float:
        """The part of the device's best that so many steps per second are; NaN where it is not known."""
        if not self.operations:
            return math.nan
        if self._peak is None:
            self._peak = product_rate(self.device, getattr(torch, self.precision), self.side)
        return self.operations * rate / self._peak

    def memory(self) -> float:
        """Bytes: on a graphics card the most that tensors took so far, else what the process has resident now.

        NaN where the system does not tell.
        """
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        try:
            resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            return math.nan
        return float(int(resident) * mmap.PAGESIZE)


def product_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations per second in a product of square matrices: the best of five. NaN where there is no room for them."""
    best = math.inf
    try:
        a, b = (torch.ones((side, side), device=device, dtype=dtype) for _ in range(2))
        for _ in range(1 + TIMES):  # the first chooses a kernel
            started = _settled(device)
            torch.mm(a, b)
            best = min(best, _settled(device) - started)
    except RuntimeError:  # torch.OutOfMemoryError is one
        return math.nan
    return 2 * side**3 / best


def _settled(device: torch.device) -> float:
    """The time, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
