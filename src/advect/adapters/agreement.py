"""A copy is asked the same questions as its original before anyone gets it.

Other libraries change their parametrisations between versions, and a subclass may override anything. That both give
the same answers is therefore measured, not assumed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from advect.errors import UnsupportedError
from advect.transforms.bijection import Bijection

TOLERANCE = 1e-6  # of values and log-determinants in float64, beside which rounding is nothing
_ROWS = 32


@torch.no_grad()
def check_agreement(
    ours: Bijection, theirs: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]], where: str
) -> None:
    """Encode rows by both, in float64.

    Args:
        ours: The copy, in float64, on vectors.
        theirs: ``theirs(x, condition) -> (z, log|det|)`` from data to noise, likewise.
        where: What was copied, for the error.

    Raises:
        UnsupportedError: They differ by more than 1e-6, relative to values above one.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(_ROWS, *shape, generator=generator, dtype=torch.float64)

    event, given = ours.event_shape, ours.condition_shape
    assert event is not None
    x = torch.linspace(0.5, 4.0, _ROWS, dtype=torch.float64).unsqueeze(1) * draw(event)
    condition = draw(given) if isinstance(given, tuple) else None
    found, (value, log_det) = ours.encode(x, condition), theirs(x, condition)
    assert found.log_abs_det_jacobian is not None
    errors = difference(found.value, value), difference(found.log_abs_det_jacobian, log_det)
    if not (errors[0] <= TOLERANCE and errors[1] <= TOLERANCE):
        raise UnsupportedError(
            f"advect's copy gives other answers: values differ by {errors[0]:.2g}, log-determinants by {errors[1]:.2g}",
            where=where,
            remedy="Is it a subclass, or another version than this adapter names? Then its parametrisation is another.",
        )


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest |ours − theirs| / max(1, |theirs|); NaN where one of the two is."""
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1)).max())
