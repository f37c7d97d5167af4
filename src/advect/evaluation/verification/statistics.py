"""Averages that must be zero, judged by their own standard error."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FALSE_ALARM = 1e-6  # of a whole table of averages: one verification in a million breaks a law by chance


@dataclass(frozen=True)
class ZeroMeans:
    """Averages over rows of columns that a law makes zero.

    Attributes:
        worst: Index of the column that is furthest from zero in standard errors.
        ratio: Its distance in standard errors.
        mean: Its average, as a part of ``size``.
        error: Standard error of that.
        limit: The largest ratio that chance leaves.
    """

    worst: int
    ratio: float
    mean: float
    error: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether chance explains the averages, or they are zero up to rounding."""
        return self.ratio <= self.limit or abs(self.mean) < 1e-9


def zero_means(values: Tensor, size: Tensor, tests: int) -> ZeroMeans:
    """Judge ``(rows, columns)`` of independent rows.

    Args:
        values: What averages to zero under the law.
        size: ``(columns,)`` the size of the terms whose difference it is; averages are told as parts of it.
        tests: Averages looked at in all, whose chances of a false alarm add up to `FALSE_ALARM`.
    """
    mean = values.mean(0)
    error = values.std(0) / math.sqrt(values.shape[0])
    rounding = 1e-12 * size.clamp(min=1e-300)
    ratio = mean.abs() / torch.maximum(error, rounding)
    worst = int(torch.where(ratio.isfinite(), ratio, torch.inf).argmax())
    unit = max(float(size[worst]), 1e-300)
    return ZeroMeans(
        worst, float(ratio[worst]), float(mean[worst]) / unit, float(error[worst]) / unit, normal_limit(tests)
    )


def fitted(columns: list[Tensor], aim: Tensor) -> Tensor:
    """Least-squares weights ``(columns,)`` of ``aim``, the smallest ones where columns say the same or nothing."""
    return torch.linalg.lstsq(torch.stack(columns, 1), aim[:, None], driver="gelsd").solution[:, 0]


def normal_limit(tests: int) -> float:
    """The largest of ``tests`` standard normals, either sign, that chance passes once in 1/`FALSE_ALARM` times."""
    tail = torch.tensor(FALSE_ALARM / (2 * tests), dtype=torch.float64)
    return float(-torch.special.ndtri(tail))


def reason_of(limit: float, tests: int) -> str:
    """Why this limit, in words."""
    return (
        f"an average that the law makes zero, as a part of its terms; {limit:.1f} standard errors are accepted: with "
        f"{tests} averages chance passes that once in {1 / FALSE_ALARM:.0e} verifications"
    )
