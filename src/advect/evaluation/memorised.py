"""Which training rows are nearest to samples, and how many samples are copies of one?

A sample at distance d₁ from its nearest training row and d₂ from the second counts as memorised where

    d₁ < d₂ / 3

(Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize"; Gu et al. 2023, arXiv
2310.02664, use it likewise). A rule of ratios needs no scale: a row between training rows has d₁ near d₂, a copy has d₁
near zero. Held-out rows under the same rule say what it finds where nothing was learnt by heart. The second figure is
the share of samples nearer to training than the nearest 1 % of held-out rows are: 0.01 for a model that neither copies
nor strays.

Distances are Euclidean, between rows as they are given (pixels, say). A training row that occurs twice makes d₁ = d₂
for its copies, which the rule then misses: equal training rows count once.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advect.errors import ShapeError

RATIO = 1 / 3
NEAREST = 0.01
_CANDIDATES, _BLOCK = 8, 256


@dataclass(frozen=True)
class Nearest:
    """The two nearest different records of each row.

    Attributes:
        index: ``(rows,)`` place of the nearest.
        first: ``(rows,)`` distance to it, float64.
        second: ``(rows,)`` distance to the nearest record that differs from it; ∞ where there is none among the
            candidates.
    """

    index: Int[Tensor, " rows"]
    first: Float[Tensor, " rows"]
    second: Float[Tensor, " rows"]


@dataclass(frozen=True)
class Memorised:
    """Shares of rows that repeat training rows, samples beside held-out rows.

    Attributes:
        share: Of samples with d₁ < d₂ / 3.
        real_share: Of held-out rows.
        near_share: Of samples nearer to training than the nearest hundredth of held-out rows.
        real_near_share: Of held-out rows: 0.01, or more where many are equally near.
    """

    share: float
    real_share: float
    near_share: float
    real_near_share: float


def nearest_records(rows: Float[Tensor, "rows dim"], records: Float[Tensor, "records dim"]) -> Nearest:
    """The nearest record of each row, and the distance to the second.

    A few candidates are found by products in single precision, and their distances taken by differences in double, so
    that a copy is at distance zero exactly.

    Raises:
        ShapeError: Fewer than two records, or other columns.
    """
    if len(records) < 2 or rows.shape[1:] != records.shape[1:]:
        raise ShapeError(f"rows of shape {tuple(rows.shape)}, records {tuple(records.shape)}", where="nearest_records")
    centre = records.float().mean(0)
    flat = records.float() - centre
    norms = flat.square().sum(1)
    most = min(_CANDIDATES, len(records))
    parts = []
    for block in rows.split(_BLOCK) if len(rows) else ():
        near = (norms - 2 * (block.float() - centre) @ flat.T).topk(most, largest=False).indices
        candidates = records[near].double()
        distance = (block.double()[:, None] - candidates).square().sum(2).sqrt()
        order = distance.argsort(1)
        distance, near = distance.gather(1, order), near.gather(1, order)
        ordered = candidates.gather(1, order[..., None].expand_as(candidates))
        twin = (ordered == ordered[:, :1]).all(2)
        second = distance.masked_fill(twin, torch.inf).amin(1)
        parts.append(Nearest(near[:, 0], distance[:, 0], second))
    empty = rows.new_zeros(0, dtype=torch.float64)
    if not parts:
        return Nearest(torch.zeros(0, dtype=torch.long), empty, empty)
    return Nearest(*(torch.cat([getattr(part, name) for part in parts]) for name in ("index", "first", "second")))


def memorised(samples: Nearest, real: Nearest) -> Memorised:
    """The shares, from the nearest training rows of samples and of held-out rows.

    Raises:
        ShapeError: No samples or no held-out rows.
    """
    if not len(samples.first) or not len(real.first):
        raise ShapeError(f"{len(samples.first)} samples and {len(real.first)} held-out rows", where="memorised")
    bar = torch.quantile(real.first, NEAREST)

    def share(found: Tensor) -> float:
        return float(found.double().mean())

    return Memorised(
        share(samples.first < RATIO * samples.second),
        share(real.first < RATIO * real.second),
        share(samples.first <= bar),
        share(real.first <= bar),
    )
