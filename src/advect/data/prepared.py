"""Rows whose numbers are ready, waiting only for their noise: what the training loop draws its batches from.

Reading, looking up and scaling down happen once; a batch costs one gather, one uniform draw and, where there are gaps,
the fills. Noise stays inside its cell in the dtype of the batch: value + u may round up to the next whole number in
float32 (255 + 0.99999999 = 256), and then belongs to another level, so it is held below.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from advect.records import Coded


@dataclass(frozen=True)
class Fill:
    """What replaces the gaps of one column: draws from a known density.

    Attributes:
        coordinate: Index of the column's value coordinate.
        rows: ``(rows,)`` where the gaps are.
        probabilities: ``(cells,)`` of a level to draw, for discrete columns; else None.
        mean: Of the normal density otherwise, in the coordinate.
        std: Of the normal density, in the coordinate.
    """

    coordinate: int
    rows: Bool[Tensor, " rows"]
    probabilities: Float[Tensor, " cells"] | None = None
    mean: float = 0.0
    std: float = 1.0

    def draw(self, like: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """A fill for each of the ``(batch,)`` entries of ``like``, with its log-density; levels come without noise."""
        if self.probabilities is None:
            normal = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
            log_density = -0.5 * normal**2 - math.log(self.std) - 0.5 * math.log(2 * math.pi)
            return self.mean + self.std * normal, log_density
        wide = self.probabilities
        uniform = torch.rand(like.shape, generator=generator, device=like.device, dtype=wide.dtype)
        level = torch.searchsorted(wide.cumsum(0), uniform, right=True).clamp(max=len(wide) - 1)
        return level.to(like.dtype), wide[level].log().to(like.dtype)


@dataclass(frozen=True)
class PreparedRows:
    """The rows of a table in the codec's coordinates, before noise and fills.

    Attributes:
        base: ``(rows, coordinates)``; levels and whole numbers without noise, 0 at gaps. Pictures of bytes stay bytes.
        status: ``(rows,)`` int8, see `records.Coded`.
        noisy: Indices of the coordinates that get uniform noise; all of them where there are as many.
        fills: For the columns with gaps.
        event_shape: Of one row.
        dtype: Of the values drawn.
    """

    base: Tensor
    status: Int[Tensor, " rows"]
    noisy: Int[Tensor, " noisy"]
    fills: tuple[Fill, ...]
    event_shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.base.shape[0]

    def to(self, device: torch.device | str) -> "PreparedRows":
        """The same rows on another device; the generator given to `draw` must live there too."""
        precise = torch.float32 if torch.device(device).type == "mps" else torch.float64
        fills = tuple(
            replace(
                fill,
                rows=fill.rows.to(device),
                probabilities=None if fill.probabilities is None else fill.probabilities.to(device, precise),
            )
            for fill in self.fills
        )
        moved = {name: getattr(self, name).to(device) for name in ("base", "status", "noisy")}
        return replace(self, fills=fills, **moved)

    def draw(self, rows: Int[Tensor, " batch"], generator: Generator) -> Coded:
        """Rows with fresh noise and fills.

        Args:
            rows: ``(batch,)`` indices; a row may stand several times and gets different noise each time.
            generator: Of the noise. The amount drawn depends on the number of rows alone.
        """
        values = self.base.index_select(0, rows).to(self.dtype)
        log_proposal = values.new_zeros(len(rows))
        normals: list[tuple[Fill, Tensor, Tensor]] = []
        for fill in self.fills:
            gaps = fill.rows[rows]
            drawn, log_density = fill.draw(log_proposal, generator)
            log_proposal = log_proposal + torch.where(gaps, log_density, 0.0)
            if fill.probabilities is None:
                normals.append((fill, gaps, drawn))
            else:
                values[:, fill.coordinate] += torch.where(gaps, drawn, 0.0)
        values = self._with_noise(values, generator)
        for fill, gaps, drawn in normals:  # after the noise, which would change their density
            values[:, fill.coordinate] = torch.where(gaps, drawn, values[:, fill.coordinate])
        shape = (len(rows), *self.event_shape)
        return Coded(values.reshape(shape), log_proposal, self.status[rows])

    def _with_noise(self, values: Tensor, generator: Generator) -> Tensor:
        count = len(self.noisy)
        if not count:
            return values
        uniform = torch.rand((len(values), count), generator=generator, device=values.device, dtype=values.dtype)
        if count == values.shape[1]:
            return add_noise(values, uniform)
        values[:, self.noisy] = add_noise(values[:, self.noisy], uniform)
        return values


def add_noise(whole: Float[Tensor, "batch coordinates"], uniform: Float[Tensor, "batch coordinates"]) -> Tensor:
    """``whole + uniform``, held below ``whole + 1`` where rounding would reach it."""
    below = torch.nextafter(whole + 1, whole)
    # Where whole + 1 itself rounds to whole there is no room for noise, and none is added.
    return torch.minimum(whole + uniform, torch.maximum(below, whole))
