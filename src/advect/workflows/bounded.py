"""Building what a file describes, within bounds.

A few bytes of settings can ask for a network that no machine holds. What a run folder describes is therefore built
while every tensor is counted, and the building ends as soon as it takes more than the weights beside it can justify.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from advect.errors import AdvectError, RunFolderError

SPARE_BYTES = 64 << 20
TIMES = 8
"""Bytes that may be made for each byte of stored weights: initial values, factors of matrices, copies."""
OPERATIONS, OPERATIONS_PER_TENSOR = 2000, 50
_DAMAGE = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    MemoryError,
)
REMEDY = "The run folder is damaged, or was written by another version; restore it or train anew."


class _Counting(TorchDispatchMode):
    """Counts the bytes of tensors that are made; the size of a plain new tensor before it is made."""

    def __init__(self, most_bytes: int, most_operations: int) -> None:
        super().__init__()
        self.left, self.operations = most_bytes, most_operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations -= 1
        size = args[0] if args and isinstance(args[0], list | tuple | torch.Size) else ()
        if all(isinstance(n, int) for n in size):
            self._spend(0, 4 * math.prod(size))
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self._spend(made.numel() * made.element_size(), 0)
        return made

    def _spend(self, made: int, asked: int) -> None:
        self.left -= made
        if self.left < asked or self.operations < 0:
            raise ValueError("they ask for far more than the weights beside them")


@contextmanager
def described_by_file(where: str, weights: Collection[Tensor]) -> Iterator[None]:
    """Whatever goes wrong inside becomes one refusal that names the folder, and nothing large is made on the way.

    Args:
        where: The folder.
        weights: Those that the model is built for.

    Raises:
        RunFolderError: The settings describe no model.
    """
    try:
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights)
        with _Counting(SPARE_BYTES + TIMES * num_bytes, OPERATIONS + OPERATIONS_PER_TENSOR * len(weights)):
            yield
    except RunFolderError:
        raise
    except (AdvectError, *_DAMAGE) as error:
        said = error.what if isinstance(error, AdvectError) else str(error) or type(error).__name__
        raise RunFolderError(f"the stored settings describe no model ({said})", where=where, remedy=REMEDY) from error


def checked(name: str, value: Any, fits: Callable[[Any], bool]) -> Any:
    """A stored setting, if it fits.

    Raises:
        ValueError: It does not.
    """
    if not fits(value):
        raise ValueError(f"{name} is {value!r}")
    return value
