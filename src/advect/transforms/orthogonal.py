"""Orthogonal maps as products of reflections, and the QR form of an invertible matrix.

A reflection H = I − 2 v vᵀ / vᵀv is orthogonal for every v ≠ 0. The product of k of them is computed at once,

    H_1 ⋯ H_k = I − V S⁻¹ Vᵀ,   S = striu(VᵀV) + ½ diag(VᵀV),    V = (v_1 … v_k)   (Joffrain et al. 2006, UT transform)

which costs two products and one small triangular solve however many reflections there are.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.linear import SCALE_BOUND, bounded, check_start


def reflections(vectors: Float[Tensor, "features count"]) -> Float[Tensor, "features features"]:
    """The orthogonal H_1 ⋯ H_k of the columns; a column of zeros reflects nothing."""
    gram = vectors.T @ vectors
    length = gram.diagonal()
    lengths = torch.where(length > 0, length, 1.0)
    middle = gram.triu(1) + (lengths / 2).diag()
    eye = torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device)
    return eye - vectors @ torch.linalg.solve_triangular(middle, vectors.T, upper=True)


class Householder(Bijection):
    """z = Q x with Q a product of reflections; log |det| = 0. It starts at a random Q.

    Args:
        features: Numbers in one row. The only orthogonal matrices of one number are ±1, so there is then nothing to
            learn.
        count: How many reflections; as many as features reach every orthogonal matrix of their determinant (−1)^count.
        generator: Draws the start.
    """

    def __init__(self, features: int, count: int | None = None, *, generator: Generator | None = None) -> None:
        super().__init__((features,))
        count = features if count is None else count
        if count < 1:
            raise ConfigError(f"{count} reflections", where="Householder", remedy="Use at least one.")
        self.vectors = nn.Parameter(torch.randn(features, count, generator=generator))

    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "features features"]:
        """Q, in the dtype of the parameters if none is given."""
        vectors = self.vectors.to(self.vectors.dtype if dtype is None else dtype)
        # Only directions count; unit lengths keep S well scaled whatever training does to the lengths.
        return reflections(F.normalize(vectors, dim=0))

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return mapped(x @ self.matrix(x.dtype).T, x.new_zeros(len(x)) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return mapped(z @ self.matrix(z.dtype), z.new_zeros(len(z)) if log_det else None)


class QRLinear(Bijection):
    """z = Q R x + b, Q orthogonal, R upper triangular (Hoogeboom et al. 2019, arXiv 1901.11137, 1×1 QR convolutions).

    One square parameter holds all: R above the diagonal, s with r_ii = exp(B tanh(s_i / B)) on it, and below it the
    reflection vectors v_i = (0, …, 0, 1, entries) as LAPACK stores them. With as many reflections as features
    −H_1 ⋯ H_d is the identity at zero, and reaches every orthogonal matrix whose determinant is one.

    Args:
        features: Numbers in one row.
        bias: Whether there is a b, zero at the start.
        start: ``identity``, or ``rotation``: a random orthogonal matrix.
        bound: Largest |log| of a diagonal entry of R.
        generator: Draws the rotation.
    """

    def __init__(
        self,
        features: int,
        *,
        bias: bool = True,
        start: str = "identity",
        bound: float = SCALE_BOUND,
        generator: Generator | None = None,
    ) -> None:
        super().__init__((features,))
        entries = torch.zeros(features, features)
        if check_start(start) == "rotation":
            entries = torch.geqrf(torch.randn(features, features, generator=generator))[0].tril(-1)
        self.bound = bound
        self.entries = nn.Parameter(entries)
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Q and R, ``(features, features)`` each."""
        entries = self.entries.to(dtype)
        eye = torch.eye(len(entries), dtype=dtype, device=entries.device)
        vectors = F.normalize(entries.tril(-1) + eye, dim=0)
        return -reflections(vectors), entries.triu(1) + self._log_diagonal(dtype).exp().diag()

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        q, r = self.factors(x.dtype)
        z = F.linear(x, q @ r, None if self.bias is None else self.bias.to(x.dtype))
        return mapped(z, self._log_diagonal(x.dtype).sum().expand(len(x)) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        q, r = self.factors(z.dtype)
        centred = z if self.bias is None else z - self.bias.to(z.dtype)
        x = torch.linalg.solve_triangular(r, (centred @ q).T, upper=True).T
        return mapped(x, -self._log_diagonal(z.dtype).sum().expand(len(z)) if log_det else None)

    def _log_diagonal(self, dtype: torch.dtype) -> Tensor:
        return bounded(self.entries.to(dtype).diagonal(), self.bound)
