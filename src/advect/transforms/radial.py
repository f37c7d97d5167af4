"""Radial layers: contraction or expansion about a point (Rezende & Mohamed 2015, arXiv 1505.05770, eq. 14).

With r = ‖x − x₀‖, α > 0 and q = α / (α + r) in (0, 1],

    z = x₀ + (1 + m q)(x − x₀),    |det ∂z/∂x| = (1 + m q)^(d−1) (1 + m q²),    m = β / α > −1.

The radius R = ‖z − x₀‖ solves r (1 + m q) = R, the quadratic r² + (α (1 + m) − R) r − α R = 0, so both directions are
closed formulas and no search is needed.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from advect.records import Mapped
from advect.transforms.amortised import Amortised, condition_shape
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.planar import slope_change

_SMALLEST_RADIUS = 1e-3  # of α: a sharper point than data of unit scale can show


class Radial(Bijection):
    """z = x₀ + (1 + m α / (α + r))(x − x₀); the identity at the start.

    Args:
        features: Numbers in one row.
        condition_features: Numbers in one condition, 0 for none; x₀, α and m then come from it.
        depth: Hidden layers of the network of the condition.
        width: Units of each.
        generator: Draws the start.
    """

    def __init__(
        self,
        features: int,
        condition_features: int = 0,
        *,
        depth: int = 2,
        width: int = 64,
        generator: Generator | None = None,
    ) -> None:
        super().__init__((features,), condition_shape(condition_features))
        start = torch.cat([torch.randn(features, generator=generator), torch.zeros(2)])
        self.numbers = Amortised(start, condition_features, depth=depth, width=width, generator=generator)
        self.features = features

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        centre, alpha, change = self._parts(condition, x)
        away = x - centre
        q = alpha / (alpha + _radius(away))
        return mapped(centre + (1 + change * q) * away, self._log_det(change, q) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        centre, alpha, change = self._parts(condition, z)
        away = z - centre
        radius = _radius(away)
        # The roots of r² + c r − α R multiply to −α R: the larger in size is a sum, the other a quotient.
        c = alpha * (1 + change) - radius
        larger = (c.abs() + torch.sqrt(c * c + 4 * alpha * radius)) / 2
        r = torch.where(c > 0, alpha * radius / larger, larger)
        q = alpha / (alpha + r)
        return mapped(centre + away / (1 + change * q), -self._log_det(change, q) if log_det else None)

    def _log_det(self, change: Tensor, q: Tensor) -> Tensor:
        across, along = torch.log1p(change * q), torch.log1p(change * q * q)
        return ((self.features - 1) * across + along).squeeze(1)

    def _parts(self, condition: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x₀ ``(rows, features)``, α and m ``(rows, 1)``, with one row where all share them."""
        centre, alpha, raw = self.numbers(condition, like).split([self.features, 1, 1], dim=1)
        return centre, F.softplus(alpha) + _SMALLEST_RADIUS, slope_change(raw)


def _radius(away: Tensor) -> Tensor:
    """‖away‖ ``(rows, 1)``; its gradient at zero is zero."""
    return torch.linalg.vector_norm(away, dim=1, keepdim=True)
