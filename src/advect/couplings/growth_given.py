"""Growth under conditions, as `Alike` and `Classwise` pair rows: how they grow relative to all of their condition.

    labels   a plan of its own for each of them, between the rows of the label alone
    scales   one plan of rows that have their condition beside them, (x, w c) with the w of `Alike`: a row and its
             condition grow as the plan between neighbouring conditions says

Under every label the rows have the mass 1 at both ends, as without conditions: M averages to 1 in each of them, so that
growth never moves mass from one label to another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from advect.couplings.alike import Alike
from advect.couplings.growth import PlanGrowth
from advect.errors import ShapeError

_PART = "part"


@runtime_checkable
class Growth(Protocol):
    """What is known of the growth between two populations."""

    def rate(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(rows,)`` growth of rows at the early end over the interval, see `PlanGrowth`."""
        ...

    def late_rate(self, y: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(rows,)`` growth of rows at the late end over the interval."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What `load_growth` takes, beside the numbers."""
        ...

    def numbers(self) -> dict[str, Any]:
        """Everything that is no tensor."""
        ...


@dataclass(frozen=True)
class LabelGrowth:
    """The growth under each of some labels.

    Attributes:
        kinds: ``(labels, condition)`` their vectors.
        parts: Growth under each.
    """

    kinds: Tensor
    parts: tuple[PlanGrowth, ...]

    @torch.no_grad()
    def rate(
        self, x: Float[Tensor, "rows ..."], condition: Float[Tensor, "rows condition"] | None = None
    ) -> Float[Tensor, " rows"]:
        """As `PlanGrowth.rate`, of rows under their conditions; of one that is not known, that of the nearest."""
        return self._each(x, condition, late=False)

    @torch.no_grad()
    def late_rate(
        self, y: Float[Tensor, "rows ..."], condition: Float[Tensor, "rows condition"] | None = None
    ) -> Float[Tensor, " rows"]:
        """As `PlanGrowth.late_rate`, likewise."""
        return self._each(y, condition, late=True)

    def _each(self, rows: Tensor, condition: Tensor | None, late: bool) -> Tensor:
        given = _needed(rows, condition)
        which = torch.cdist(given, self.kinds.double()).argmin(1)
        found = torch.empty(len(rows), dtype=torch.float64)
        for kind in which.unique().tolist():
            here, part = which == kind, self.parts[kind]
            found[here] = (part.late_rate if late else part.rate)(rows[here.to(rows.device)])
        return found

    def tensors(self) -> dict[str, Tensor]:
        """See `Growth`."""
        own = {"kinds": self.kinds}
        for place, part in enumerate(self.parts):
            own |= {f"{_PART}{place}.{name}": tensor for name, tensor in part.tensors().items()}
        return own

    def numbers(self) -> dict[str, Any]:
        """See `Growth`."""
        return {"parts": [part.numbers() for part in self.parts]}


@dataclass(frozen=True)
class ScaleGrowth:
    """The growth of rows that have numbers beside them.

    Attributes:
        wide: Growth of rows and conditions together.
        weight: ``(condition,)`` what the numbers of a condition are multiplied by beside a row.
    """

    wide: PlanGrowth
    weight: Tensor

    @classmethod
    def of(
        cls, coupling: Alike, x0: Tensor, x1: Tensor, c0: Float[Tensor, "n0 condition"], c1: Tensor
    ) -> "ScaleGrowth | None":
        """The growth between rows that were drawn alike; None for a coupling that makes and loses no mass.

        Raises:
            NotConvergedError: The plan did not come to rest.
        """
        found = coupling.widened(x0, x1, c0, c1)
        wide = PlanGrowth.of(found.inner, _wide(x0, c0, found.weight), _wide(x1, c1, found.weight))
        return None if wide is None else cls(wide, found.weight)

    @torch.no_grad()
    def rate(
        self, x: Float[Tensor, "rows ..."], condition: Float[Tensor, "rows condition"] | None = None
    ) -> Float[Tensor, " rows"]:
        """As `PlanGrowth.rate`, of rows under their conditions."""
        return self.wide.rate(_wide(x, condition, self.weight))

    @torch.no_grad()
    def late_rate(
        self, y: Float[Tensor, "rows ..."], condition: Float[Tensor, "rows condition"] | None = None
    ) -> Float[Tensor, " rows"]:
        """As `PlanGrowth.late_rate`, likewise."""
        return self.wide.late_rate(_wide(y, condition, self.weight))

    def tensors(self) -> dict[str, Tensor]:
        """See `Growth`."""
        return {"weight": self.weight, **self.wide.tensors()}

    def numbers(self) -> dict[str, Any]:
        """See `Growth`."""
        return self.wide.numbers()


def load_growth(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Growth:
    """Restore what `tensors` and `numbers` of a growth gave.

    Raises:
        KeyError: Something is missing.
    """
    if "parts" in numbers:
        parts = []
        for place, own in enumerate(numbers["parts"]):
            begins = f"{_PART}{place}."
            parts.append(
                PlanGrowth.load({n.removeprefix(begins): t for n, t in tensors.items() if n.startswith(begins)}, own)
            )
        return LabelGrowth(tensors["kinds"], tuple(parts))
    wide = PlanGrowth.load(tensors, numbers)
    return ScaleGrowth(wide, tensors["weight"]) if "weight" in tensors else wide


def _wide(rows: Tensor, condition: Tensor | None, weight: Tensor) -> Tensor:
    flat = rows.detach().flatten(1).double().cpu()
    return torch.cat([flat, weight * _needed(rows, condition)], 1)


def _needed(rows: Tensor, condition: Tensor | None) -> Tensor:
    """The conditions as ``(rows, condition)`` float64.

    Raises:
        ShapeError: There are none, or not as many as rows.
    """
    if condition is None or len(condition) != len(rows):
        given = "none" if condition is None else str(len(condition))
        raise ShapeError(f"{len(rows)} rows and {given} of the conditions under which they grow", where="condition")
    return condition.detach().flatten(1).double().cpu()
