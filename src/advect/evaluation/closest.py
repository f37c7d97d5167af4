"""Distance to the closest record: does a model repeat its training rows?

For a sample s, d(s) = min over training rows x of |s − x|. A model that copies has d near zero; one that has learned
the distribution has d distributed as it is for real rows that training did not see, however small that is. So the
samples' distances stand beside those of held-out rows to the same training rows (Platzer & Reutterer 2021,
"Holdout-based empirical assessment of mixed-type synthetic data", Frontiers in Big Data 4, 679939, compare the two
likewise). Two figures:

    median      of d, samples beside held-out rows
    near share  of samples with d at most the 5 % quantile of the held-out rows' d: 0.05 where samples are like real
                rows, much more where training rows come back, less where samples stay in between or outside

Held-out rows that have twins in training (repeated measurements) have d = 0 themselves and set the bar accordingly.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ShapeError

NEAR = 0.05
_BLOCK = 1024


@dataclass(frozen=True)
class ClosestRecord:
    """How near samples come to training rows, beside held-out rows.

    Attributes:
        median: Of the samples' distances to their nearest training row.
        real_median: The same of held-out rows.
        near_share: Share of samples no farther than the 5 % quantile of the held-out rows.
        real_near_share: Share of held-out rows no farther than that; 0.05, or more where many are equally near.
        near_error: Standard error of the difference of the two shares for equal distributions.
    """

    median: float
    real_median: float
    near_share: float
    real_near_share: float
    near_error: float


def nearest_distance(rows: Float[Tensor, "rows dim"], records: Float[Tensor, "records dim"]) -> Float[Tensor, " rows"]:
    """Euclidean distance of each row to its nearest record, float64.

    Raises:
        ShapeError: No records, or other columns.
    """
    if not len(records) or rows.shape[1:] != records.shape[1:]:
        raise ShapeError(
            f"rows of shape {tuple(rows.shape)} and records of shape {tuple(records.shape)}", where="nearest_distance"
        )
    rows, records = rows.detach().double(), records.detach().double()
    # By differences, not by products: a copy is at distance zero exactly.
    found = [
        torch.stack(
            [torch.cdist(block, part, compute_mode="donot_use_mm_for_euclid_dist").amin(1) for part in _parts(records)]
        ).amin(0)
        for block in _parts(rows)
    ]
    return torch.cat(found) if found else rows.new_zeros(0)


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(_BLOCK) if len(rows) else ()


def closest_record(
    samples: Float[Tensor, "samples dim"], real: Float[Tensor, "real dim"], train: Float[Tensor, "train dim"]
) -> ClosestRecord:
    """Distances of samples and of held-out rows to the training rows.

    Args:
        samples: Generated rows, in the units in which distances shall count; finite.
        real: Held-out rows.
        train: The rows the model was trained on.

    Raises:
        ShapeError: No samples, held-out or training rows, or different columns.
    """
    if not len(samples) or not len(real):
        raise ShapeError(f"{len(samples)} samples and {len(real)} held-out rows", where="closest_record")
    drawn, held = nearest_distance(samples, train), nearest_distance(real, train)
    bar = torch.quantile(held, NEAR)
    near, real_near = float((drawn <= bar).double().mean()), float((held <= bar).double().mean())
    spread = real_near * (1 - real_near) * (1 / len(samples) + 1 / len(real))
    return ClosestRecord(float(drawn.median()), float(held.median()), near, real_near, math.sqrt(spread))
