"""Are samples where real rows are, and are there samples wherever real rows are?

Around each row stands a ball that reaches to its k-th nearest neighbour in its own sample. With real rows x_i of radii
r_i and samples s_j of radii q_j:

    precision  share of samples inside some real ball                   (Kynkäänniemi et al. 2019, arXiv 1904.06991)
    recall     share of real rows inside some sample's ball             (the same, eq. 2)
    density    mean over samples of (real balls around it) / k          (Naeem et al. 2020, arXiv 2002.09797)
    coverage   share of real balls with a sample inside                 (the same)

Balls are closed. Density may pass 1. For equal distributions of n rows each density has mean 1 and coverage
1 − (n − 1)…(n − k) / ((2n − 1)…(2n − k)), about 1 − 2^(−k) (Naeem et al. 2020, §3.2).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ShapeError

NEIGHBOURS = 5
_BLOCK = 1024


@dataclass(frozen=True)
class SupportOverlap:
    """The four figures, each the mean of one number per row, with its standard error over these rows.

    The error is that of the mean given the other sample; the balls themselves are not drawn anew.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    precision_error: float
    recall_error: float
    density_error: float
    coverage_error: float


def support_overlap(
    samples: Float[Tensor, "samples dim"], real: Float[Tensor, "real dim"], *, neighbours: int = NEIGHBOURS
) -> SupportOverlap:
    """Precision, recall, density and coverage of samples against real rows.

    Args:
        samples: Features of samples.
        real: Features of real rows; figures compare at equal numbers of rows only.
        neighbours: k.

    Raises:
        ShapeError: Not more rows than neighbours on a side, or different features.
    """
    if samples.shape[1:] != real.shape[1:] or neighbours < 1 or min(len(samples), len(real)) <= neighbours:
        raise ShapeError(
            f"features of shape {tuple(samples.shape)} and {tuple(real.shape)} with {neighbours} neighbours",
            where="support_overlap",
            remedy="Give more rows than neighbours on each side.",
        )
    samples, real = samples.detach().double(), real.detach().double()
    reach, reach_of_samples = radii(real, neighbours), radii(samples, neighbours)
    inside_real = torch.zeros(len(samples), dtype=torch.float64)
    inside_sample = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for first in range(0, len(samples), _BLOCK):
        part = slice(first, first + _BLOCK)
        distance = _distances(samples[part], real)
        within = distance <= reach
        inside_real[part] = within.sum(1).double().cpu()
        covered |= within.any(0).cpu()
        inside_sample |= (distance <= reach_of_samples[part, None]).any(0).cpu()
    figures = (inside_real > 0, inside_sample, inside_real / neighbours, covered)
    means = [float(figure.double().mean()) for figure in figures]
    errors = [float(figure.double().std()) / math.sqrt(len(figure)) for figure in figures]
    return SupportOverlap(*means, *errors)


def radii(rows: Float[Tensor, "rows dim"], neighbours: int) -> Float[Tensor, " rows"]:
    """Distance of each row to its ``neighbours``-th nearest other row; a twin is another row at distance zero."""
    found = []
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        distance = _distances(block, rows)
        own = torch.arange(len(block), device=rows.device)
        distance[own, first + own] = -1.0  # itself, whatever rounding says of its distance
        found.append(distance.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(found)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # By differences: a row and its twin are at distance zero exactly, and a ball's own neighbour lies on its edge.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
