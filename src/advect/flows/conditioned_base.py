"""Rows of a data set as the law at t = 0, where each of them has a condition.

Asked for rows under a condition it gives rows of that condition, or of those nearest to it (`couplings.rows_alike`):
the source of a flow that leads the law of a condition at the first time to that of the same condition later.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings import rows_alike
from advect.errors import ShapeError
from advect.flows.base import EmpiricalBase, check_num_rows


class ConditionedBase(EmpiricalBase):
    """The rows of a data set given their condition.

    Conditions, and how they are compared, are a part of the state, as the rows are.

    Args:
        points: ``(rows, *event)`` source rows, at least one.
        conditions: ``(rows, condition)`` theirs.
        scale: ``(condition,)`` what the numbers of a condition are multiplied by before they are compared.
        labels: Whether all of them are labels: then only the nearest will do.

    Raises:
        DataError: If there is no row.
        ShapeError: Unequal numbers of rows.
    """

    conditions: Tensor
    scale: Tensor
    labels: Tensor

    def __init__(
        self,
        points: Float[Tensor, "rows *event"],
        conditions: Float[Tensor, "given condition"],
        *,
        scale: Float[Tensor, " condition"],
        labels: bool,
    ) -> None:
        super().__init__(points)
        if len(conditions) != len(points):
            raise ShapeError(f"{len(conditions)} conditions for {len(points)} rows", where="conditions")
        self.register_buffer("conditions", conditions.detach().clone())
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("labels", torch.tensor(labels))

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``: of each condition rows that have it or are near; without one any rows."""
        if condition is None:
            return super().sample(num_rows, generator=generator)
        if len(condition) != check_num_rows(num_rows):
            raise ShapeError(f"{len(condition)} conditions for {num_rows} rows", where="condition")
        if not num_rows:
            return self.points[:0]
        if generator is None:  # as torch's own functions do
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        wanted, labels = condition.to(self.conditions), bool(self.labels)
        chosen = rows_alike(self.conditions, wanted, scale=self.scale, labels=labels, generator=generator)
        return self.points[chosen]

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *rest: object, **more: object
    ) -> None:
        stored = state_dict.get(f"{prefix}conditions")
        if stored is not None and stored.shape[1:] == self.conditions.shape[1:]:
            self.conditions = self.conditions.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)
