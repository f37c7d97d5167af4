"""Features for small classifiers of our own: nothing to tune, the same rows and seed give the same features.

Columns, their squares and products, and random Fourier features at several widths (Rahimi & Recht 2007), all in the
scale of the rows that the map was fitted to. Ridge regression on them is closed form.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.evaluation.mmd import median_distance

_WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of the median distance, shared out among the Fourier features
_FOURIER = 400
_MOST_COLUMNS = 256  # more columns are mixed down to this number by a random matrix
_MOST_PRODUCTS = 200


@dataclass(frozen=True)
class Scale:
    """Columns to mean zero and spread one."""

    mean: Float[Tensor, " dim"]
    spread: Float[Tensor, " dim"]

    @classmethod
    def of(cls, rows: Float[Tensor, "rows dim"]) -> "Scale":
        """Fit to rows; a constant column stays near zero."""
        return cls(rows.mean(0), rows.std(0).clamp_min(1e-12))

    def __call__(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """The rows in the fitted scale."""
        return (rows - self.mean) / self.spread


@dataclass(frozen=True)
class FeatureMap:
    """Rows to features, fixed by the rows it was fitted to and a generator.

    Attributes:
        scale: Of the columns.
        mixing: ``(dim, 256)`` and the scale of what it gives, where there are more columns; else None.
        pairs: ``(2, products)`` which columns are multiplied.
        directions: ``(width, waves)`` for as many columns as are left.
        phase: ``(waves,)``.
    """

    scale: Scale
    mixing: tuple[Float[Tensor, "dim mixed"], Scale] | None
    pairs: Int[Tensor, "2 products"]
    directions: Float[Tensor, "width waves"]
    phase: Float[Tensor, " waves"]

    @classmethod
    def of(cls, rows: Float[Tensor, "rows dim"], generator: Generator) -> "FeatureMap":
        """Fit to at least two rows."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()

        rows = rows.detach().double().cpu()
        scale, mixing = Scale.of(rows), None
        rows = scale(rows)
        if rows.shape[1] > _MOST_COLUMNS:
            matrix = normal(rows.shape[1], _MOST_COLUMNS)
            mixing = matrix, Scale.of(rows @ matrix)
            rows = mixing[1](rows @ matrix)
        dim = rows.shape[1]
        pairs = torch.triu_indices(dim, dim, offset=1 if dim * (dim + 1) // 2 <= _MOST_PRODUCTS else dim)
        width = median_distance(rows) * torch.tensor(_WIDTHS, dtype=torch.float64).repeat(_FOURIER // len(_WIDTHS))
        turn = torch.rand(_FOURIER, generator=generator, device=generator.device, dtype=torch.float64).cpu()
        return cls(scale, mixing, pairs, normal(dim, _FOURIER) / width, 2 * math.pi * turn)

    def __call__(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows features"]:
        """A constant, columns, squares, products where there are few, and cosines of random directions."""
        rows = self.scale(rows.detach().double().cpu())
        if self.mixing is not None:
            matrix, scale = self.mixing
            rows = scale(rows @ matrix)
        first, second = self.pairs
        waves = torch.cos(rows @ self.directions + self.phase) * math.sqrt(2 / len(self.phase))
        plain = torch.cat([rows, rows.square(), rows[:, first] * rows[:, second]], 1) / math.sqrt(rows.shape[1])
        return torch.cat([torch.ones(len(rows), 1, dtype=torch.float64), plain, waves], 1)
