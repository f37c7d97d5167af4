"""Sylvester layers: many kinks at once (van den Berg et al. 2018, arXiv 1803.05649, eq. 9–13).

With Q of orthonormal columns and R, R̃ upper triangular,

    z = x + Q R tanh(R̃ Qᵀx + b),    |det ∂z/∂x| = det(I + diag(tanh') R̃ R) = Π (1 + m_i tanh'_i),    m_i = r_ii r̃_ii

by Sylvester's identity, invertible if r̃_ii ≠ 0 and m_i > −1 (theorem 2; m as in `planar`, r̃_ii a bounded exponential).
Q is a QR factor (``orthogonal``), a product of reflections (``householder``), or the identity or the reversed order,
alternating from layer to layer (``triangular``). The formula is the direction of training, `encode`. To decode, the
coordinates y = Qᵀx solve a triangular system

    y_i + Σ_{j≥i} r_ij tanh(Σ_{k≥j} r̃_jk y_k + b_j) = (Qᵀz)_i,

one scalar root after another from the last to the first: each is that of a planar layer.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, unknown_name
from advect.records import Mapped, Status
from advect.transforms.amortised import Amortised, condition_shape
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.linear import bounded
from advect.transforms.orthogonal import reflections
from advect.transforms.planar import kink_root, slope_change

VARIANTS = ("orthogonal", "householder", "triangular")

_SHARPNESS_BOUND = 4.0  # a kink is no narrower than e⁻⁴ = 1/55 and no wider than e⁴, in units of the rows


@dataclass(frozen=True)
class _Triangles:
    """R and R̃ ``(rows, kinks, kinks)``, b and m ``(rows, kinks)``; one row where all share them."""

    outer: Tensor
    inner: Tensor
    offset: Tensor
    change: Tensor

    def kinks(self, y: Tensor) -> Tensor:
        """tanh(R̃ y + b), ``(batch, kinks)``."""
        return torch.tanh(_times(self.inner, y) + self.offset)


class Sylvester(Bijection):
    """z = x + Q R tanh(R̃ Qᵀx + b); the identity at the start.

    Args:
        features: Numbers in one row.
        condition_features: Numbers in one condition, 0 for none; R, R̃ and b then come from it, Q does not.
        variant: ``orthogonal``, ``householder`` or ``triangular``.
        kinks: Columns of Q, at most ``features``; None for all of them. ``triangular`` has all.
        reverse: Whether Q of ``triangular`` is the reversed order.
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
        variant: str = "householder",
        kinks: int | None = None,
        reverse: bool = False,
        depth: int = 2,
        width: int = 64,
        generator: Generator | None = None,
    ) -> None:
        super().__init__((features,), condition_shape(condition_features))
        if variant not in VARIANTS:
            raise unknown_name("variant", variant, VARIANTS, where="Sylvester")
        self.kinks = features if kinks is None or variant == "triangular" else kinks
        if not 1 <= self.kinks <= features:
            raise ConfigError(
                f"{kinks} kinks for {features} features", where="Sylvester", remedy="Use from 1 to as many as features."
            )
        self.variant, self.reverse = variant, reverse
        # One number has no directions to choose from.
        turns = variant != "triangular" and features > 1
        columns = self.kinks if variant == "orthogonal" else features
        self.vectors = nn.Parameter(torch.randn(features, columns, generator=generator)) if turns else None

        square = torch.zeros(self.kinks * self.kinks)
        sharpness, offset = torch.randn(2, self.kinks, generator=generator)
        start = torch.cat([square, sharpness / 2, offset])
        self.numbers = Amortised(start, condition_features, depth=depth, width=width, generator=generator)

    def directions(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Q ``(features, kinks)``, in the dtype of the parameters if none is given; None for a mere order."""
        if self.vectors is None:
            return None
        vectors = self.vectors if dtype is None else self.vectors.to(dtype)
        if self.variant == "orthogonal":
            return torch.linalg.qr(vectors).Q
        return reflections(F.normalize(vectors, dim=0))[:, : self.kinks]

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        q, parts = self.directions(x.dtype), self._triangles(condition, x)
        h = parts.kinks(self._project(x, q))
        z = x + self._lift(_times(parts.outer, h), q)
        return mapped(z, _log_det(parts, h) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        q, parts = self.directions(z.dtype), self._triangles(condition, z)
        target = self._project(z, q)
        with torch.no_grad():
            y, status = _back_substituted(parts, target)
        found = (status == Status.OK).unsqueeze(1)
        # A failed row must not send NaN into shared parameters.
        h = parts.kinks(_attached(parts, torch.where(found, y, 0.0), torch.where(found, target, 0.0)))
        x = torch.where(found, z - self._lift(_times(parts.outer, h), q), torch.nan)
        return mapped(x, torch.where(found.squeeze(1), -_log_det(parts, h), torch.nan) if log_det else None, status)

    def _triangles(self, condition: Tensor | None, like: Tensor) -> _Triangles:
        """R above the diagonal of one square and R̃, turned over, below it; their diagonals from m and r̃."""
        kinks = self.kinks
        square, sharpness, offset = self.numbers(condition, like).split([kinks * kinks, kinks, kinks], dim=1)
        square = square.reshape(-1, kinks, kinks)
        change = slope_change(square.diagonal(dim1=1, dim2=2))
        log_sharpness = bounded(sharpness, _SHARPNESS_BOUND)
        outer = square.triu(1) + torch.diag_embed(change * (-log_sharpness).exp())
        inner = square.mT.triu(1) + torch.diag_embed(log_sharpness.exp())
        return _Triangles(outer, inner, offset, change)

    def _project(self, x: Tensor, q: Tensor | None) -> Tensor:
        """Qᵀx."""
        if q is None:
            return x.flip(1) if self.reverse else x
        return x @ q

    def _lift(self, y: Tensor, q: Tensor | None) -> Tensor:
        """Q y."""
        if q is None:
            return y.flip(1) if self.reverse else y
        return y @ q.T


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix ``(rows or 1, k, k)`` times vector ``(rows, k)``; a shared one is a single product."""
    if len(matrix) == 1:
        return vector @ matrix[0].T
    return (matrix @ vector.unsqueeze(2)).squeeze(2)


def _log_det(parts: _Triangles, h: Tensor) -> Tensor:
    return torch.log1p(parts.change * (1 - h * h)).sum(1)


def _back_substituted(parts: _Triangles, target: Tensor) -> tuple[Tensor, Tensor]:
    """y ``(batch, kinks)`` and the worst status of its roots ``(batch,)``."""
    y, h = torch.zeros_like(target), torch.zeros_like(target)
    status = torch.zeros(len(target), dtype=torch.int8, device=target.device)
    for i in reversed(range(target.shape[1])):
        # With s = r̃_ii y_i + offset the row reads s + m_i tanh(s) = r̃_ii rest + offset.
        offset = parts.offset[:, i] + (parts.inner[:, i, i + 1 :] * y[:, i + 1 :]).sum(1)
        rest = target[:, i] - (parts.outer[:, i, i + 1 :] * h[:, i + 1 :]).sum(1)
        root = kink_root(parts.inner[:, i, i] * rest + offset, parts.change[:, i].expand(len(target)))
        h[:, i] = torch.tanh(root.value)
        y[:, i] = rest - parts.outer[:, i, i] * h[:, i]
        status = torch.maximum(status, root.status)
    return y, status


def _attached(parts: _Triangles, y: Tensor, target: Tensor) -> Tensor:
    """The root with the derivatives of the implicit function in target and parameters.

    Two Newton steps from the root leave it where it is and carry derivatives up to the third.
    """
    inputs = (target, parts.outer, parts.inner, parts.offset, parts.change)
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
        return y
    eye = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    for _ in range(2):
        h = parts.kinks(y)
        miss = y + _times(parts.outer, h) - target
        jacobian = eye + (parts.outer * (1 - h * h).unsqueeze(1)) @ parts.inner
        y = y - torch.linalg.solve_triangular(jacobian, miss.unsqueeze(2), upper=True).squeeze(2)
    return y
