"""The base of all invertible maps.

A bijection f takes data x to the source side z = f(x). Densities follow the change of variables

    log p(x) = log q(f(x)) + log |det ∂f/∂x|        (Rezende & Mohamed 2015, arXiv 1505.05770, eq. 5, read from x to z)

so every map returns, with its value, the log-determinant *of the direction that was called*: `encode` and `decode` have
opposite signs. Shapes are checked here, once, for all maps; a map writes only `_encode` and `_decode`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from advect.errors import DataError, ShapeError
from advect.records import Mapped, Status

ANY_CONDITION: Literal["any"] = "any"
"""The condition shape of a composite whose members check the condition themselves."""

Likelihood = Literal["exact", "bound", "none"]
"""What is known of a log-density: its value (up to an error that is told), a lower bound of it, or nothing."""


def least_known(kinds: Iterable[Likelihood]) -> Likelihood:
    """What is known of the log-density of maps one after another: as much as of the least known of them."""
    found = set(kinds)
    return "none" if "none" in found else "bound" if "bound" in found else "exact"


def mapped(
    value: Float[Tensor, "batch *event"],
    log_abs_det_jacobian: Float[Tensor, " batch"] | None,
    status: Int[Tensor, " batch"] | None = None,
) -> Mapped:
    """The record of an exact map; every row is `Status.OK` unless ``status`` says otherwise."""
    if status is None:
        status = torch.zeros(value.shape[0], dtype=torch.int8, device=value.device)
    return Mapped(value, log_abs_det_jacobian, status)


def worst_status(statuses: Sequence[Int[Tensor, " batch"]]) -> Int[Tensor, " batch"]:
    """The worst status of each row: `Status` is ordered from `OK` to what left no value."""
    worst = statuses[0]
    for status in statuses[1:]:
        worst = torch.maximum(worst, status)
    return worst


def outside_support(outside: Tensor) -> Int[Tensor, " batch"]:
    """`Status.OUTSIDE_SUPPORT` for the rows of a boolean ``(batch, *event)`` in which anything is true."""
    rows = outside.reshape(outside.shape[0], -1).any(1) if outside.numel() else outside.new_zeros(len(outside))
    return rows.to(torch.int8) * int(Status.OUTSIDE_SUPPORT)


class Bijection(nn.Module, ABC):
    """An invertible map from data to source.

    Args:
        event_shape: Shape of one row; None for a map that works on any.
        condition_shape: Shape of one condition, None for a map that takes none. A map given a condition it does not
            take, or lacking one it needs, raises: a condition is never silently ignored.
        source_shape: Shape of one row on the source side, where it differs: maps that stand in a flow's place without
            being invertible.

    Attributes:
        likelihood: What a flow through this map knows of its log-density, see `Likelihood`.

    Values keep the dtype of the input: parameters and buffers are cast to it at use.
    """

    likelihood: Likelihood = "exact"

    def __init__(
        self,
        event_shape: tuple[int, ...] | None,
        condition_shape: tuple[int, ...] | Literal["any"] | None = None,
        source_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.condition_shape = condition_shape
        self.source_shape = event_shape if source_shape is None else source_shape

    @final
    def encode(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        log_det: bool = True,
        generator: Generator | None = None,
    ) -> Mapped:
        """Data ``x`` ``(batch, *event)`` to source, with log |det ∂z/∂x| ``(batch,)`` if ``log_det``.

        ``condition`` is ``(batch, *condition)``; ``generator`` feeds maps that estimate their log-determinant.
        Raises `ShapeError` with the expected and the given shape.
        """
        self._check(x, condition, self.event_shape)
        return self._encode(x, condition, log_det, generator)

    @final
    def decode(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        *,
        log_det: bool = True,
        generator: Generator | None = None,
    ) -> Mapped:
        """Source ``z`` ``(batch, *event)`` to data, with log |det ∂x/∂z| ``(batch,)`` if ``log_det``."""
        self._check(z, condition, self.source_shape)
        return self._decode(z, condition, log_det, generator)

    @abstractmethod
    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        """`encode` after the checks."""

    @abstractmethod
    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        """`decode` after the checks."""

    def check_rows(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Raise `DataError` or `ShapeError` for what `encode` would refuse."""
        self._check(x, condition, self.event_shape)

    def _check(self, x: Tensor, condition: Tensor | None, shape: tuple[int, ...] | None) -> None:
        where = type(self).__name__
        if not x.is_floating_point():
            raise DataError(f"Rows have dtype {x.dtype}", where=where, remedy="Give floating-point rows.")
        if x.ndim == 0 or (shape is not None and tuple(x.shape[1:]) != shape):
            expected = "(batch, ...)" if shape is None else shape_text(shape)
            raise ShapeError(f"Rows have shape {tuple(x.shape)}, expected {expected}", where=where)
        check_condition(condition, self.condition_shape, x.shape[0], where)


def shape_text(event_shape: tuple[int, ...]) -> str:
    """``(batch, 3, 4)`` for the event ``(3, 4)``."""
    return f"({', '.join(['batch', *map(str, event_shape)])})"


def check_condition(
    condition: Tensor | None,
    shape: tuple[int, ...] | Literal["any"] | None,
    num_rows: int,
    where: str,
) -> None:
    """Raise `ShapeError` unless ``condition`` is what a map with the condition shape ``shape`` takes."""
    if shape == ANY_CONDITION:
        return
    if shape is None:
        if condition is not None:
            raise ShapeError(
                f"A condition of shape {tuple(condition.shape)} was given, expected none",
                where=where,
                remedy="Leave the condition out, or build the map with a condition shape.",
            )
        return
    expected = shape_text(shape)
    if condition is None:
        raise ShapeError(
            f"No condition was given, expected {expected}",
            where=where,
            remedy="Give one per row; a condition of zeros stands for none.",
        )
    if tuple(condition.shape) != (num_rows, *shape):
        raise ShapeError(
            f"The condition has shape {tuple(condition.shape)}, expected {expected} with batch {num_rows}",
            where=where,
        )
