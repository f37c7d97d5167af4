"""How far the law at the start of a path is from the base that sampling starts from.

A diffusion's path starts at x = α x1 + σ x0 with α small and not 0, and is sampled from N(0, s² I). The difference is
part of the model. For data with mean m and covariance Σ, the Gaussian of the same moments has

    KL(N(αm, α²Σ + σ²I) ‖ N(0, s²I)) = ½ Σ_i (r_i − 1 − log r_i) + α²|m|²/(2s²),    r_i = (α²λ_i + σ²)/s²,

λ_i the eigenvalues of Σ, and for any data of these moments KL is convex in its first argument, so that

    KL(p ‖ N(0, s²I)) ≤ E_x1 KL(N(αx1, σ²I) ‖ N(0, s²I)) = ½ d (r − 1 − log r) + α²(|m|² + tr Σ)/(2s²),   r = σ²/s².
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advect.paths import EndWeights


@dataclass(frozen=True)
class StartLaw:
    """The mismatch at the start, in nats per row.

    Attributes:
        data_weight: α: how much of the data the path still holds there.
        gaussian: KL of the Gaussian with the data's moments.
        bound: KL is at most this for any data with these moments; infinite where the path has no noise there.
    """

    data_weight: float
    gaussian: float
    bound: float


def start_law(start: EndWeights, scale: float, mean: Tensor, spectrum: Tensor) -> StartLaw:
    """The mismatch between p_0 and N(0, scale² I).

    Args:
        start: What the path is made of there.
        scale: Standard deviation of the base.
        mean: ``(d,)`` of the data, in the flow's coordinates.
        spectrum: ``(d,)`` eigenvalues of the data's covariance.
    """
    mean, spectrum = mean.detach().double().flatten(), spectrum.detach().double().flatten()
    noise = start.source**2 + start.noise**2
    ratio = (start.data**2 * spectrum + noise) / scale**2
    shift = start.data**2 * float(mean.square().sum()) / (2 * scale**2)
    gaussian = 0.5 * float((ratio - 1 - ratio.log()).sum()) + shift
    if noise == 0:
        return StartLaw(start.data, gaussian, math.inf)
    alone = noise / scale**2
    spread = start.data**2 * float(spectrum.sum()) / (2 * scale**2)
    bound = 0.5 * len(spectrum) * (alone - 1 - math.log(alone)) + shift + spread
    return StartLaw(start.data, gaussian, bound)


def data_moments(field: object, event_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and covariance eigenvalues of the data a field was fitted to; of standardised data where it keeps none."""
    baseline = getattr(field, "baseline", None) or getattr(field, "field", None) or field
    mean, spectrum = getattr(baseline, "mean", None), getattr(baseline, "spectrum", None)
    if isinstance(mean, Tensor) and isinstance(spectrum, Tensor):
        return mean, spectrum
    width = math.prod(event_shape)
    return torch.zeros(width), torch.ones(width)
