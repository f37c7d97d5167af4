"""Linear maps in LU form, z = W x + b with W = P L U.

P permutes, L is lower triangular with a unit diagonal, U upper triangular, so that

    log |det ∂z/∂x| = Σ log |u_ii|            (Kingma & Dhariwal 2018, arXiv 1807.03039, eq. 9–10)

costs a sum and the inverse two triangular solves. The pivots keep their sign and move within a bounded factor of where
they started, |u_ii| = |start_i| exp(B tanh(s_i / B)): training can neither make W singular nor let it overflow. P and
the start of the pivots are buffers; the rest of L and U, and s, share one square parameter.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, DataError, ShapeError, unknown_name
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped

STARTS = ("identity", "rotation")
"""Where an invertible matrix may start: at the identity, or at a random orthogonal matrix."""

SCALE_BOUND = 7.0
"""B: a pivot moves by no more than a factor e⁷ ≈ 1100 either way."""

_EIGENVALUE_FLOOR = 1e-6  # of the correlation matrix: condition 10³, which leaves float32 rows four digits


class Permutation(Bijection):
    """z_i = x_{order_i}.

    Args:
        order: Each of 0 … features − 1 once.

    Raises:
        ConfigError: Anything else.
    """

    order: Tensor

    def __init__(self, order: Sequence[int] | Int[Tensor, " features"]) -> None:
        order = torch.as_tensor(order, dtype=torch.int64).detach().clone()
        if order.ndim != 1 or not torch.equal(order.sort().values, torch.arange(len(order), device=order.device)):
            raise ConfigError(
                f"{order.tolist()} is no permutation",
                where="Permutation",
                remedy="Give each of 0 … features − 1 once.",
            )
        super().__init__((len(order),))
        self.register_buffer("order", order)

    @staticmethod
    def reverse(features: int) -> "Permutation":
        """The last coordinate first."""
        return Permutation(torch.arange(features - 1, -1, -1))

    @staticmethod
    def random(features: int, *, generator: Generator | None = None) -> "Permutation":
        """Any order as likely as any other."""
        return Permutation(torch.randperm(features, generator=generator))

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return mapped(x[:, self.order], x.new_zeros(len(x)) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return mapped(z[:, self.order.argsort()], z.new_zeros(len(z)) if log_det else None)


class LUMatrix(nn.Module):
    """A square matrix W = P L U that stays invertible.

    Args:
        matrix: ``(size, size)`` where to start; invertible.
        bound: B of the module's docstring, positive.

    Raises:
        ConfigError: A matrix that is singular or not finite.
    """

    order: Tensor
    pivots: Tensor

    def __init__(self, matrix: Float[Tensor, "size size"], *, bound: float = SCALE_BOUND) -> None:
        super().__init__()
        self.bound = _positive(bound)
        permutation, lower, upper = torch.linalg.lu(matrix.detach().double())
        pivots = upper.diagonal()
        if not (torch.isfinite(matrix).all() and (pivots.abs() >= torch.finfo(matrix.dtype).tiny).all()):
            raise ConfigError(
                "The matrix to start from is singular or not finite",
                where="LUMatrix",
                remedy="Start from an invertible matrix.",
            )
        self.register_buffer("order", permutation.argmax(1))  # row i of W is row order_i of L U
        self.register_buffer("pivots", pivots.to(matrix.dtype).clone())
        self.entries = nn.Parameter((lower.tril(-1) + upper.triu(1)).to(matrix.dtype))

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """L without its unit diagonal and U, ``(size, size)`` each."""
        entries = self.entries.to(dtype)
        diagonal = self.pivots.to(dtype) * self._log_factors(entries).exp()
        return entries.tril(-1), entries.triu(1) + diagonal.diag()

    def forward(self, dtype: torch.dtype) -> Float[Tensor, "size size"]:
        """W."""
        lower, upper = self.factors(dtype)
        return (_unit(lower) @ upper)[self.order]

    def solve(self, columns: Float[Tensor, "size columns"]) -> Float[Tensor, "size columns"]:
        """W⁻¹ times the columns."""
        lower, upper = self.factors(columns.dtype)
        columns = columns[self.order.argsort()]
        columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, columns, upper=True)

    def log_abs_det(self, dtype: torch.dtype) -> Float[Tensor, ""]:
        """log |det W|."""
        return self.pivots.to(dtype).abs().log().sum() + self._log_factors(self.entries.to(dtype)).sum()

    def _log_factors(self, entries: Tensor) -> Tensor:
        return bounded(entries.diagonal(), self.bound)


class LULinear(Bijection):
    """z = P L U x + b.

    Args:
        features: Numbers in one row.
        bias: Whether there is a b, zero at the start.
        start: ``identity``, or ``rotation``: a random orthogonal matrix.
        bound: Largest |log| of the factor by which training may move a pivot.
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
        self.lu = LUMatrix(start_matrix(features, start, generator), bound=bound)
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None

    @staticmethod
    def from_matrix(
        matrix: Float[Tensor, "features features"],
        shift: Float[Tensor, " features"] | None = None,
        *,
        bound: float = SCALE_BOUND,
    ) -> "LULinear":
        """The layer that starts as z = matrix · x + shift, in the dtype of ``matrix``.

        Raises `ConfigError` for a singular matrix.
        """
        layer = LULinear(len(matrix), bound=bound)
        layer.lu = LUMatrix(matrix, bound=bound)
        layer.bias = nn.Parameter(matrix.new_zeros(len(matrix)) if shift is None else shift.detach().to(matrix).clone())
        return layer

    def matrix(self) -> Float[Tensor, "features features"]:
        """W, in the dtype of the parameters."""
        return self.lu(self.lu.entries.dtype)

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        lower, upper = self.lu.factors(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        # Two products with the rows, not one of the factors: features may well outnumber the rows of a batch.
        z = F.linear(F.linear(x, upper), _unit(lower)[self.lu.order], bias)
        return mapped(z, self.lu.log_abs_det(x.dtype).expand(len(x)) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        centred = z if self.bias is None else z - self.bias.to(z.dtype)
        x = self.lu.solve(centred.T).T
        return mapped(x, -self.lu.log_abs_det(z.dtype).expand(len(z)) if log_det else None)


class Invertible1x1(Bijection):
    """The same invertible matrix at every position of a picture, Glow's 1×1 convolution (arXiv 1807.03039, §3.2).

    z_{·hw} = P L U x_{·hw}, log |det ∂z/∂x| = height · width · Σ log |u_ii|.

    Args:
        channels: Channels of the pictures ``(batch, channels, height, width)``; any number, also odd, also one.
        size: Height and width; None for pictures of any size.
        start: ``rotation`` (as published) or ``identity``.
        bound: Largest |log| of the factor by which training may move a pivot.
        generator: Draws the rotation.
    """

    def __init__(
        self,
        channels: int,
        *,
        size: tuple[int, int] | None = None,
        start: str = "rotation",
        bound: float = SCALE_BOUND,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(None if size is None else (channels, *size))
        self.channels = channels
        self.lu = LUMatrix(start_matrix(channels, start, generator), bound=bound)

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        self._check_picture(x)
        z = self.lu(x.dtype) @ x.flatten(2)
        return mapped(z.reshape(x.shape), self._log_det(x) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        self._check_picture(z)
        rows, channels, height, width = z.shape
        columns = self.lu.solve(z.transpose(0, 1).reshape(channels, rows * height * width))
        x = columns.reshape(channels, rows, height, width).transpose(0, 1)
        return mapped(x, -self._log_det(z) if log_det else None)

    def _log_det(self, like: Tensor) -> Tensor:
        positions = like.shape[2] * like.shape[3]
        return (positions * self.lu.log_abs_det(like.dtype)).expand(len(like))

    def _check_picture(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ShapeError(
                f"Rows have shape {tuple(x.shape)}, expected (batch, {self.channels}, height, width)",
                where="Invertible1x1",
            )


def whitening(rows: Float[Tensor, "rows features"], *, floor: float = _EIGENVALUE_FLOOR) -> LULinear:
    """The layer that takes the Gaussian fitted to the rows to N(0, I): z = C⁻¹ (x − mean), C Cᵀ the covariance.

    The correlation matrix has its eigenvalues lifted to at least ``floor``, and to at least (features / rows)³: copies
    of a column stay at a finite scale, and a direction that few rows cannot have shown is given the variance of an
    average one instead of none. That bound falls fast enough not to touch what enough rows have measured; from as many
    rows as features down it is one. Constant columns keep their scale.

    Args:
        rows: ``(rows, features)``, at least one, finite.
        floor: Smallest eigenvalue of the correlation matrix, in (0, 1].

    Returns a layer in the dtype of ``rows``; the fit itself is computed in float64.

    Raises `DataError` if there is no row or a number is not finite, `ConfigError` for a floor outside (0, 1].
    """
    if not 0 < floor <= 1:
        raise ConfigError(f"The floor {floor!r} must lie in (0, 1]", where="whitening")
    if not (len(rows) and torch.isfinite(rows).all()):
        raise DataError(f"{len(rows)} rows, or numbers that are not finite", where="whitening")
    exact = rows.detach().double()
    count, features = exact.shape
    mean = exact.mean(0)
    centred = exact - mean

    deviation = centred.square().mean(0).sqrt()
    constant = deviation <= 16 * torch.finfo(rows.dtype).eps * mean.abs()  # what is left is rounding
    deviation = torch.where(constant, 1.0, deviation)
    scaled = torch.where(constant, 0.0, centred / deviation)
    correlation = scaled.T @ scaled / count + constant.double().diag()

    values, vectors = torch.linalg.eigh(correlation)
    values = values.clamp(min=max(floor, min(1.0, features / count) ** 3))
    factor = torch.linalg.cholesky((vectors * values) @ vectors.T)
    identity = torch.eye(features, dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False) / deviation
    return LULinear.from_matrix(inverse.to(rows.dtype), (-inverse @ mean).to(rows.dtype))


def start_matrix(size: int, start: str, generator: Generator | None) -> Float[Tensor, "size size"]:
    """The identity, or an orthogonal matrix drawn uniformly (Mezzadri 2007, arXiv math-ph/0609050, §5)."""
    if size < 1:
        raise ConfigError(f"A matrix of size {size}", where="linear map", remedy="Use at least one feature.")
    if check_start(start) == "identity":
        return torch.eye(size)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).to(torch.get_default_dtype())


def check_start(start: str) -> str:
    """The name, if it is one of `STARTS`."""
    if start not in STARTS:
        raise unknown_name("start", start, STARTS)
    return start


def bounded(x: Tensor, bound: float) -> Tensor:
    """B tanh(x / B): x near zero, never beyond ±B."""
    return bound * torch.tanh(x / bound)


def _unit(lower: Tensor) -> Tensor:
    """The triangle with its diagonal of ones."""
    return lower + torch.eye(len(lower), dtype=lower.dtype, device=lower.device)


def _positive(bound: float) -> float:
    if not (bound > 0 and math.isfinite(bound)):
        raise ConfigError(f"The bound {bound!r} must be positive and finite", where="LUMatrix")
    return bound
