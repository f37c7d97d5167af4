"""Discrete levels to a standard normal through their cumulative distribution.

A coordinate with levels 0 … K−1 and uniform noise in [0, 1) on top has the density p_k on the cell [k, k + 1). Its
distribution function F is piecewise linear with slope p_k, and

    z = Φ⁻¹(F(x)),    log ∂z/∂x = log p_k − log φ(z),

is exactly standard normal (the probability integral transform). So a flow starts from the right marginal, however
uneven the levels are, and its density never leaves the support: `decode` returns values inside [0, K).

Tails. Φ⁻¹ diverges at F = 0 and F = 1. Inside the first and the last cell the fraction of the cell is clamped to
[ε, 1 − ε], ε the rounding unit of the input's dtype, so that z stays finite (|z| < 8.3 in float64 for an end cell of
probability one, slowly more for rarer ones). The map is monotone throughout; it is constant on that sliver, whose mass
is ε times that of its cell. Above the median the survival function 1 − F, summed from the right, takes the place of F:
both tails keep their full relative precision. All of this is computed in float64, whatever the dtype of the rows.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped, outside_support

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Cumulative(Bijection):
    """Dequantised levels to standard normals, all coordinates in one call.

    Args:
        probabilities: One tensor ``(cells,)`` of frequencies per coordinate, strictly positive; they are normalised.

    Rows are ``(batch, coordinates)``. Inputs outside ``[0, cells)`` are moved to the nearest end and the row is marked
    `Status.OUTSIDE_SUPPORT`; its density is zero, whatever the number returned.
    """

    probabilities: Tensor
    cells: Tensor

    def __init__(self, probabilities: Sequence[Tensor]) -> None:
        probabilities = [p.detach() for p in probabilities]
        super().__init__((len(probabilities),))
        _check_probabilities(probabilities)
        self.register_buffer("probabilities", torch.nn.utils.rnn.pad_sequence(probabilities, batch_first=True))
        self.register_buffer("cells", torch.tensor([len(p) for p in probabilities]))

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        p, below, above, _ = self._edges()
        outside = outside_support(~((x >= 0) & (x < self.cells)))

        # The cell, and the place in it as a fraction, kept off the two ends of the support.
        wide = x.to(p.dtype)
        last = self.cells - 1
        cell = torch.minimum(wide.detach().nan_to_num().floor().clamp(min=0), last.to(p.dtype)).long()
        fraction = wide - cell
        unit = torch.finfo(x.dtype).eps
        lowest, highest = (cell == 0).to(p.dtype) * unit, 1 - (cell == last).to(p.dtype) * unit
        fraction = fraction.clamp(lowest, highest)

        # F from the nearer end.
        slope, lower, upper = _pick(p, cell), _pick(below, cell), _pick(above, cell)
        mass = lower + slope * fraction
        rest = upper + slope * (1 - fraction)
        left = mass < rest
        tail = torch.special.ndtri(torch.where(left, mass, rest))
        z = torch.where(left, tail, -tail)
        value = z.to(x.dtype)
        return mapped(value, _log_slope(slope, z).sum(1).to(x.dtype) if log_det else None, outside)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        p, below, above, edges = self._edges()
        wide = z.to(p.dtype)

        # Edges in z are accurate in both tails, so the cell is found there; padded cells lie at +inf.
        position = torch.searchsorted(edges, wide.detach().T.contiguous(), right=True).T
        last = self.cells - 1
        cell = torch.minimum(position, last)

        # Where in the cell: from its left edge below the median, from its right edge above.
        slope, lower, upper = _pick(p, cell), _pick(below, cell), _pick(above, cell)
        tail = torch.special.ndtr(-wide.abs())
        fraction = torch.where(wide < 0, (tail - lower) / slope, 1 - (tail - upper) / slope)
        value = (cell + fraction.clamp(0, 1)).to(z.dtype)
        end = self.cells.to(z.dtype)
        value = torch.minimum(value, torch.nextafter(end, torch.zeros_like(end)))
        return mapped(value, -_log_slope(slope, wide).sum(1).to(z.dtype) if log_det else None)

    def _edges(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Slopes, mass below and above each cell ``(coordinates, cells)``, and the right edges in z."""
        p = self.probabilities.to(_wide_dtype(self.probabilities))
        p = p / p.sum(1, keepdim=True)
        upto = p.cumsum(1)
        down = p.flip(1).cumsum(1).flip(1)
        zero = torch.zeros_like(p[:, :1])
        below = torch.cat([zero, upto[:, :-1]], 1)
        above = torch.cat([down[:, 1:], zero], 1)
        edges = torch.where(
            upto < above, torch.special.ndtri(upto.clamp(max=0.5)), -torch.special.ndtri(above.clamp(max=0.5))
        )
        return p, below, above, edges


def _wide_dtype(like: Tensor) -> torch.dtype:
    """Float64, except on the one kind of device that has none."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _pick(
    table: Float[Tensor, "coordinates cells"], cell: Int[Tensor, "batch coordinates"]
) -> Float[Tensor, "batch coordinates"]:
    """Entry ``cell[i, j]`` of row j."""
    return table.gather(1, cell.T).T


def _log_slope(slope: Tensor, z: Tensor) -> Tensor:
    """log ∂z/∂x = log p − log φ(z)."""
    return slope.log() + 0.5 * z**2 + _HALF_LOG_TWO_PI


def _check_probabilities(probabilities: Sequence[Tensor]) -> None:
    if not probabilities:
        raise ShapeError("There are no coordinates", where="Cumulative", remedy="Give one tensor each.")
    for index, p in enumerate(probabilities):
        if p.ndim != 1 or len(p) == 0:
            raise ShapeError(
                f"Coordinate {index} has probabilities of shape {tuple(p.shape)}, expected (cells,)",
                where="Cumulative",
            )
        if not (torch.isfinite(p).all() and (p > 0).all()):
            raise ConfigError(
                f"Coordinate {index} has a cell whose probability is not positive and finite",
                where="Cumulative",
                remedy="Add a small count to empty cells.",
            )
