"""A Gaussian fitted to the training rows: the ceiling that no effort gets.

Any model should beat it; one that does not has learnt means and correlations and nothing else, or less.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ShapeError, UnsupportedError
from advect.evaluation.columns import varying_columns

_SINGULAR = 1e-12  # smallest eigenvalue of the correlation matrix that still counts as a direction


@dataclass(frozen=True)
class GaussianFit:
    """Mean and factor of the maximum-likelihood Gaussian: x = mean + w·factor, w standard normal.

    Attributes:
        mean: ``(dim,)`` float64.
        factor: ``(rank, dim)`` with factor'factor the covariance, singular or not.
    """

    mean: Float[Tensor, " dim"]
    factor: Float[Tensor, "rank dim"]

    @classmethod
    def of(cls, rows: Float[Tensor, "rows dim"]) -> "GaussianFit":
        """Fit to at least two rows. Constant and dependent columns stay constant and dependent in samples."""
        if len(rows) < 2:
            raise ShapeError(f"a Gaussian cannot be fitted to {len(rows)} rows", where="GaussianFit")
        rows = rows.detach().double()
        # The mean of a constant column may be off by rounding; its deviations are zero all the same.
        centred = (rows - rows.mean(0)) * varying_columns(rows) / math.sqrt(len(rows))
        # With fewer rows than columns the centred rows are themselves a factor, and the smaller one.
        if len(rows) <= rows.shape[1]:
            return cls(rows.mean(0), centred)
        # Of the correlations, so that columns of very different scales keep their digits.
        scale = centred.norm(dim=0)
        standard = centred / torch.where(scale > 0, scale, 1.0)
        values, vectors = torch.linalg.eigh(standard.T @ standard)
        return cls(rows.mean(0), values.clamp_min(0.0).sqrt()[:, None] * vectors.T * scale)

    def sample(self, num_rows: int, generator: Generator) -> Float[Tensor, "rows dim"]:
        """Draw ``(num_rows, dim)`` in float64."""
        rank = len(self.factor)
        normal = torch.randn(num_rows, rank, generator=generator, device=generator.device, dtype=torch.float64)
        return self.mean + normal.to(self.factor.device) @ self.factor

    def log_prob(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
        """Log-density in nats of rows in the units of the fit, float64.

        Raises:
            UnsupportedError: The fitted covariance is singular, so there is no density.
        """
        dim = len(self.mean)
        covariance = self.factor.T @ self.factor
        scale = covariance.diagonal().sqrt()
        # A constant column has scale 0; the unit in its place leaves a zero eigenvalue, which is what is looked for.
        safe = torch.where(scale > 0, scale, 1.0)
        values, vectors = torch.linalg.eigh(covariance / safe / safe[:, None])
        if bool(values[0] < _SINGULAR * dim):
            raise UnsupportedError(
                "the Gaussian fitted to the training rows is flat in some direction and has no density",
                where="GaussianFit.log_prob",
                remedy="Remove constant and duplicated columns, or give more rows than columns.",
            )
        whitened = ((rows.detach().double() - self.mean) / scale) @ vectors / values.sqrt()
        log_det = 2 * scale.log().sum() + values.log().sum()
        return -0.5 * (whitened.square().sum(1) + log_det + dim * math.log(2 * math.pi))
