"""What a perfect model would score: real rows against real rows, at the same size.

Nearly every two-sample figure is above zero for finite samples of one distribution. The floor is its mean over random
splits of the pooled real rows into two disjoint sets of the size used for the score; under the hypothesis "samples are
as good as real rows" the score has this very distribution (a permutation test), so a score within a few ``spread`` of
the floor is as good as these rows can tell.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class Floor:
    """Mean and standard deviation of a figure over ``repeats`` splits; NaN figures are left out."""

    value: float
    spread: float
    repeats: int


def noise_floor(
    distance: Callable[[Tensor, Tensor], float],
    real: Float[Tensor, "rows dim"],
    *,
    generator: Generator,
    size: int | None = None,
    repeats: int = 5,
) -> Floor:
    """Score random halves of ``real`` against each other.

    Args:
        distance: Any figure of two samples.
        real: All the real rows there are.
        generator: Draws the splits.
        size: Rows in each part; half of the rows by default.
        repeats: Number of splits, at least 2.

    Raises:
        ShapeError: Too few rows for two parts of that size.
        ConfigError: Fewer than two repeats.
    """
    size = len(real) // 2 if size is None else size
    return spread_of([distance(*parts) for parts in random_halves(real, size, repeats, generator)])


def random_halves(
    real: Float[Tensor, "rows dim"], size: int, repeats: int, generator: Generator
) -> list[tuple[Tensor, Tensor]]:
    """``repeats`` pairs of disjoint random parts of ``size`` rows each; refuses as `noise_floor` does."""
    if size < 1 or 2 * size > len(real):
        raise ShapeError(f"{len(real)} rows cannot give two disjoint parts of {size}", where="noise_floor")
    if repeats < 2:
        raise ConfigError(f"repeats is {repeats}, but a spread needs at least 2", where="noise_floor")
    orders = [
        torch.randperm(len(real), generator=generator, device=generator.device).to(real.device) for _ in range(repeats)
    ]
    return [(real[order[:size]], real[order[size : 2 * size]]) for order in orders]


def spread_of(figures: Sequence[float]) -> Floor:
    """Mean and standard deviation of the figures that are numbers."""
    numbers = [figure for figure in figures if not math.isnan(figure)]
    if not numbers:
        return Floor(math.nan, math.nan, 0)
    spread = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return Floor(statistics.fmean(numbers), spread, len(numbers))
