"""Weights of denoising losses as explicit functions of the log signal-to-noise ratio λ = 2 log(α/σ).

Every loss on an affine path with a standard-normal source, whatever the network predicts and however t is drawn, is

    ½ ∫ w(λ) E|ΔE|² dλ,      |ΔE|² = the squared error of the noise,

for one function w that does not know the schedule (Kingma & Gao 2303.00848, equation 7). So a weight is written once,
as w, and holds on every path; `implied_weight` tells the w of a plain squared error, `multiplier` what a squared error
must be multiplied with to have a given w.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import unknown_name
from advect.objectives.times import TimeSampler
from advect.paths import PREDICTIONS, error_factor, wronskian
from advect.typing import Schedule

AnyTimes = Float[Tensor, "*times"]


def elbo(log_snr: Tensor) -> Tensor:
    """1: the variational bound (Kingma & Gao, equation 8; Song et al. 2101.09258's likelihood weighting)."""
    return torch.ones_like(log_snr)


def flow_matching(log_snr: Tensor) -> Tensor:
    """exp(−λ/2): uniform velocity matching on the linear path, and v-prediction on the cosine schedule."""
    return torch.exp(-log_snr / 2)


def cosine_noise(log_snr: Tensor) -> Tensor:
    """sech(λ/2): uniform noise prediction on the cosine schedule (Nichol & Dhariwal 2102.09672)."""
    return 1 / torch.cosh(log_snr / 2)


def min_snr(log_snr: Tensor, gamma: float = 5.0) -> Tensor:
    """sech(λ/2)·min(1, γ exp(−λ)): Hang et al. 2303.09556 on the cosine schedule."""
    return cosine_noise(log_snr) * torch.clamp(gamma * torch.exp(-log_snr), max=1.0)


def sigmoid(log_snr: Tensor, shift: float = 2.0) -> Tensor:
    """sigmoid(k − λ): monotone, hence a bound with noise augmentation (Kingma & Gao, section 5.2; k = 2)."""
    return torch.sigmoid(shift - log_snr)


def karras(log_snr: Tensor, mean: float = 2.4, std: float = 2.4, data_std: float = 1.0) -> Tensor:
    """2 N(λ; m, s²)·(exp(−λ)/σ_d² + 1): EDM's loss with its noise levels, ln ς ~ N(−m/2, (s/2)²) (2206.00364, table 1).

    ``data_std`` is σ_d; theirs is 0.5 for pictures in [−1, 1], rows here have unit variance.
    """
    normal = torch.exp(-((log_snr - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
    return 2 * normal * (torch.exp(-log_snr) / data_std**2 + 1)


WEIGHTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "elbo": elbo,
    "flow-matching": flow_matching,
    "cosine-noise": cosine_noise,
    "min-snr": min_snr,
    "sigmoid": sigmoid,
    "karras": karras,
}


def log_snr_rate(schedule: Schedule, t: AnyTimes) -> AnyTimes:
    """λ' = 2R/(ασ)."""
    return 2 * wronskian(schedule, t) / (schedule.alpha(t) * schedule.sigma(t))


def implied_weight(prediction: str, t: AnyTimes, schedule: Schedule, times: TimeSampler) -> AnyTimes:
    """w(λ(t)) of the plain squared error of ``prediction`` when t is drawn by ``times``.

    Raises:
        UnknownNameError: No such prediction.
    """
    return 2 * times.density(t) / log_snr_rate(schedule, t) * error_factor("noise", prediction, t, schedule)


@runtime_checkable
class LossWeight(Protocol):
    """What the squared error of a prediction is multiplied with."""

    def __call__(self, t: Tensor, prediction: str, schedule: Schedule, times: TimeSampler) -> Tensor:
        """The multiplier at each drawn time."""
        ...


@dataclass(frozen=True)
class Natural:
    """Weigh as if the network predicted ``of`` and were trained on its plain squared error."""

    of: str

    def __call__(self, t: AnyTimes, prediction: str, schedule: Schedule, times: TimeSampler) -> AnyTimes:
        """|Δof|²/|Δprediction|²; one where both are the same."""
        return error_factor(prediction, self.of, t, schedule)


@dataclass(frozen=True)
class OfLogSnr:
    """Weigh by a function w(λ), with the density of the drawn times divided out."""

    weight: Callable[[Tensor], Tensor]

    def __call__(self, t: AnyTimes, prediction: str, schedule: Schedule, times: TimeSampler) -> AnyTimes:
        """½ w(λ) λ' |ΔE|²/|Δprediction|² / density(t); 0 where the density is."""
        density = times.density(t)
        never = density == 0
        rate = log_snr_rate(schedule, t) / torch.where(never, 1.0, density)
        factor = error_factor(prediction, "noise", t, schedule)
        return torch.where(never, 0.0, 0.5 * self.weight(schedule.log_snr(t)) * rate * factor)


WEIGHTINGS = (*PREDICTIONS, *WEIGHTS)
"""Names of `make_weight`: a prediction stands for its plain squared error."""


def make_weight(name: str) -> LossWeight:
    """A weight by name; raises `UnknownNameError` with the nearest name.

    >>> make_weight("noise")
    Natural(of='noise')
    """
    if name in PREDICTIONS:
        return Natural(name)
    if name not in WEIGHTS:
        raise unknown_name("weighting", name, WEIGHTINGS)
    return OfLogSnr(WEIGHTS[name])
