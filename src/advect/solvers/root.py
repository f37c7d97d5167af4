"""What a numeric inverse returns."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Root:
    """A numeric inverse, row by row.

    Attributes:
        value: ``(batch, *event)``; NaN in failed rows.
        iterations: ``(batch,)`` evaluations until the row was done.
        residual: ``(batch,)`` largest |f(x) − y| in the row for `bracketed_root`, ‖x + g(x) − y‖₂ for `fixed_point`.
        status: ``(batch,)`` int8, `OK` or `NOT_CONVERGED`.
    """

    value: Float[Tensor, "batch *event"]
    iterations: Int[Tensor, " batch"]
    residual: Float[Tensor, " batch"]
    status: Int[Tensor, " batch"]
