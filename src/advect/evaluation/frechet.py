"""Fréchet distance between the Gaussian fits of two samples of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    d² = |μa − μb|² + tr(Σa + Σb − 2 (Σa^½ Σb Σa^½)^½)

is the squared Wasserstein-2 distance of N(μa, Σa) and N(μb, Σb) (Dowson & Landau 1982), zero where means and
covariances agree, whatever else differs. Square roots are taken of symmetric matrices only, so that fewer rows than
features, and features that are constant, are no special case.

Of finite samples d² is biased upward, by about c/n with a c that depends on the model (Chong & Forsyth 2020, arXiv
1911.07023): it compares with another only at the same number of rows, and stands beside the figure of real against
real rows at that number. The bootstrap of `frechet_error` gives its spread; the bias it leaves alone.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ShapeError


@dataclass(frozen=True)
class Moments:
    """Mean ``(dim,)`` and covariance ``(dim, dim)``, float64."""

    mean: Float[Tensor, " dim"]
    covariance: Float[Tensor, "dim dim"]

    @classmethod
    def of(cls, rows: Float[Tensor, "rows dim"]) -> "Moments":
        """Of at least two rows; the covariance is divided by rows − 1.

        Raises:
            ShapeError: Fewer than two rows.
        """
        if rows.ndim != 2 or len(rows) < 2:
            raise ShapeError(
                f"rows of shape {tuple(rows.shape)} have no covariance", where="Moments", remedy="Give two or more."
            )
        rows = rows.detach().double()
        mean = rows.mean(0)
        centred = rows - mean
        return cls(mean, centred.T @ centred / (len(rows) - 1))


def frechet_squared(a: Moments, b: Moments) -> float:
    """d² between two Gaussians; not negative.

    Raises:
        ShapeError: Different dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise ShapeError(f"{len(a.mean)} and {len(b.mean)} features", where="frechet_squared")
    root = _square_root(a.covariance)
    # tr (Σa^½ Σb Σa^½)^½ is the sum of the singular values of Σa^½ Σb^½, to which no square root of rounding adds.
    shared = torch.linalg.svdvals(root @ _square_root(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))


def frechet_distance(a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"]) -> float:
    """d² between the Gaussian fits of two samples of features; see `Moments.of` and `frechet_squared`."""
    return frechet_squared(Moments.of(a), Moments.of(b))


def frechet_error(
    a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"], *, generator: Generator, repeats: int = 20
) -> float:
    """Standard error of `frechet_distance`: its spread over bootstrap samples of both sides (Efron 1979)."""
    drawn = [frechet_distance(_resampled(a, generator), _resampled(b, generator)) for _ in range(repeats)]
    return float(torch.tensor(drawn, dtype=torch.float64).std()) if repeats > 1 else math.nan


def _resampled(rows: Tensor, generator: Generator) -> Tensor:
    index = torch.randint(len(rows), (len(rows),), generator=generator, device=generator.device)
    return rows[index.to(rows.device)]


def _square_root(matrix: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues that rounding left below zero count as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
