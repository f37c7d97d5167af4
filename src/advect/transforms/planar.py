"""Planar layers: one kink across a hyperplane (Rezende & Mohamed 2015, arXiv 1505.05770, eq. 10–12).

    z = x + û tanh(wᵀx + b),    |det ∂z/∂x| = 1 + m tanh'(wᵀx + b),    m = wᵀû

is invertible exactly if m > −1 (appendix A.1), so the part of u along w is replaced by one that is,

    û = u + (m(wᵀu) − wᵀu) w / ‖w‖²,    m(s) = softplus(s + s₀) − (1 − δ),

with s₀ such that m(0) = 0: u = 0 is the identity, and no slope falls below δ. The formula is the direction of training,
`encode`. To decode, only the coordinate along w is unknown: a + m tanh(a + b) = wᵀz, one scalar root.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from advect.records import Mapped, Status
from advect.solvers.inverse import Root, bracketed_root
from advect.transforms.amortised import Amortised, condition_shape
from advect.transforms.bijection import Bijection, mapped

SMALLEST_SLOPE = 1e-3
"""δ: the most a layer compresses. A round trip loses no more than three digits to one layer."""

_AT_ZERO = math.log(math.expm1(1 - SMALLEST_SLOPE))  # s₀


def slope_change(raw: Tensor) -> Tensor:
    """m: any number to one above −(1 − δ), zero to zero."""
    return F.softplus(raw + _AT_ZERO) - (1 - SMALLEST_SLOPE)


def kink_root(target: Float[Tensor, " batch"], change: Float[Tensor, " batch"]) -> Root:
    """s with s + m tanh(s) = target, row by row, for m = ``change`` > −1."""

    def derivative(s: Tensor) -> Tensor:
        return 1 + change * (1 - torch.tanh(s).square())

    return bracketed_root(lambda s: s + change * torch.tanh(s), target, derivative=derivative, start=target.detach())


class Planar(Bijection):
    """z = x + û tanh(wᵀx + b); the identity at the start.

    Args:
        features: Numbers in one row.
        condition_features: Numbers in one condition, 0 for none; u, w and b then come from it.
        depth: Hidden layers of the network of the condition.
        width: Units of each.
        generator: Draws the start.

    Decoding reports `Status.NOT_CONVERGED` for a row whose root was not found.
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
        # On rows of unit variance wᵀx has unit variance too, and the planes cut through the bulk of it.
        direction = torch.randn(features, generator=generator) / math.sqrt(features)
        offset = torch.randn(1, generator=generator)
        start = torch.cat([torch.zeros(features), direction, offset])
        self.numbers = Amortised(start, condition_features, depth=depth, width=width, generator=generator)
        self.features = features

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        push, w, b, change = self._parts(condition, x)
        h = torch.tanh((x * w).sum(1) + b)
        z = x + push * h.unsqueeze(1)
        return mapped(z, torch.log1p(change * (1 - h * h)).expand(len(x)) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        push, w, b, change = self._parts(condition, z)
        root = kink_root((z * w).sum(1) + b, change.expand(len(z)))
        found = root.status == Status.OK
        h = torch.tanh(torch.where(found, root.value, 0.0))  # a failed row must not send NaN into shared parameters
        x = torch.where(found.unsqueeze(1), z - push * h.unsqueeze(1), torch.nan)
        back = torch.where(found, -torch.log1p(change * (1 - h * h)), torch.nan) if log_det else None
        return mapped(x, back, root.status)

    def _parts(self, condition: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """û, w ``(rows, features)``, b and m ``(rows,)``, with one row where all share them."""
        u, w, b = self.numbers(condition, like).split([self.features, self.features, 1], dim=1)
        along = (w * u).sum(1)
        change = slope_change(along)
        length = (w * w).sum(1).clamp(min=torch.finfo(w.dtype).tiny)
        push = u + ((change - along) / length).unsqueeze(1) * w
        return push, w, b.squeeze(1), change
