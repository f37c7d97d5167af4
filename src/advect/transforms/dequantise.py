"""From the levels of pictures to the real line.

Whole numbers 0 … L−1 with noise in [0, 1) on top lie in [0, L). The map

    z = logit(α + (1 − 2α) x/L),    log ∂z/∂x = log (1−2α)/L − log s − log(1 − s),    s = α + (1 − 2α) x/L

(Dinh et al. 2017, arXiv 1605.08803, §4.1; with 1 − 2α as in Papamakarios et al. 2017, arXiv 1705.07057, appendix E.2)
opens that interval to the whole line, so that a model wastes no density far outside it, and keeps the edges off
infinity with α > 0. It is a map with a log-determinant like any other: scaling and logit are part of the density, which
stays one of x in levels. Where the noise comes from is the business of `objectives.dequantised`.

Support. With α > 0 the map reaches a little beyond the data, to −αL/(1−2α) and as far above L; the mass a model
leaves there is the price of α (a sum over whole numbers falls short of one by it). With α = 0 the support is [0, L] and
nothing is lost; the ends stay finite by holding s and 1 − s above the rounding unit.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped, outside_support
from advect.typing import sum_event


class Logit(Bijection):
    """z = logit(α + (1 − 2α) x / levels), number by number.

    Args:
        event_shape: Shape of one row, of any rank; None for any.
        levels: L; x runs from 0 to L. 256 for bytes, 1 for numbers in the unit interval.
        alpha: In [0, 0.5). The literature takes 0.05 for colour pictures and 1e-6 for MNIST. Densities of z depend on
            the choice, densities of x are compared across it.

    `encode` moves numbers outside the support to its ends and marks the row `Status.OUTSIDE_SUPPORT`.
    """

    def __init__(self, event_shape: tuple[int, ...] | None, levels: float = 256.0, alpha: float = 1e-6) -> None:
        super().__init__(event_shape)
        if not (levels > 0 and math.isfinite(levels)):
            raise ConfigError(f"levels is {levels}", where="Logit", remedy="Give a positive number, 256 for bytes.")
        if not 0 <= alpha < 0.5:
            raise ConfigError(f"alpha is {alpha}", where="Logit", remedy="Choose a number in [0, 0.5), such as 1e-6.")
        self.levels, self.alpha = float(levels), float(alpha)
        self._slope = (1 - 2 * self.alpha) / self.levels

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        # s and 1 − s from the nearer end of the interval each: both keep their digits.
        unit = torch.finfo(x.dtype).eps
        from_below = self.alpha + self._slope * x
        from_above = self.alpha + self._slope * (self.levels - x)
        outside = outside_support((from_below < 0) | (from_above < 0))
        log_s, log_rest = from_below.clamp(unit, 1).log(), from_above.clamp(unit, 1).log()
        log_slope = math.log(self._slope) - log_s - log_rest if log_det else None
        return mapped(log_s - log_rest, None if log_slope is None else sum_event(log_slope), outside)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        x = (torch.sigmoid(z) - self.alpha) / self._slope
        log_slope = F.logsigmoid(z) + F.logsigmoid(-z) - math.log(self._slope) if log_det else None
        return mapped(x, None if log_slope is None else sum_event(log_slope))

    def extra_repr(self) -> str:
        """Levels and α, for ``print``."""
        return f"levels={self.levels:g}, alpha={self.alpha:g}"
