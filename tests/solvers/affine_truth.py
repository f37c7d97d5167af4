"""Fields of affine paths known in closed form, and what the samplers of such paths share in their tests."""

import math

import torch
from torch import Tensor

from advect.paths import Linear, Lipman, Trigonometric, VariancePreserving
from advect.solvers import (
    DDIM,
    DEIS,
    ChurnedHeun,
    DPMSolver2M,
    DPMSolver2S,
    NoiseAdams,
    ReverseSDE,
    StraightAdams,
    UniPC,
)
from advect.typing import expand_time


class Exploding:
    """α = 1, σ = s(1 − t)², with an end at σ = 0 and R = 0 there; written apart from the library."""

    def __init__(self, largest: float = 8.0) -> None:
        self.largest = largest

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.largest * (1 - t) ** 2

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_derivative(self, t: Tensor) -> Tensor:
        return -2 * self.largest * (1 - t)

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * self.sigma(t).log()

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return 1 - (torch.exp(-log_snr / 2) / self.largest).sqrt()


SCHEDULES = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "lipman": Lipman(0.01),
    "vp": VariancePreserving(),
    "vp, σ' = -inf": VariancePreserving(cutoff=0.0),
    "exploding": Exploding(),
}

DETERMINISTIC = {
    "ddim": DDIM,
    "2m": DPMSolver2M,
    "2s": DPMSolver2S,
    "deis": DEIS,
    "straight": StraightAdams,
    "noise": NoiseAdams,
    "unipc": UniPC,
    "edm": ChurnedHeun,
}


def churned(*arguments, **settings) -> ChurnedHeun:
    """EDM's sampler with as much churn as a step may have."""
    return ChurnedHeun(*arguments, churn=1e3, **settings)


AFFINE = {**DETERMINISTIC, "sde": ReverseSDE, "churn": churned}


def weights(schedule, t: float) -> tuple[float, float]:
    time = torch.tensor(t, dtype=torch.float64)
    return float(schedule.alpha(time)), float(schedule.sigma(time))


def four(schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """α, σ, α', σ'."""
    return schedule.alpha(t), schedule.sigma(t), schedule.alpha_derivative(t), schedule.sigma_derivative(t)


def rows(*shape, seed=0, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class GaussianField:
    """The velocity from N(0, 1) to data N(m, S) in the plane, S with variances 1.5² and 0.4² along turned axes."""

    spread = torch.tensor([1.5, 0.4], dtype=torch.float64)
    turn = torch.tensor([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]], dtype=torch.float64)
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64)

    def __init__(self, schedule) -> None:
        self.schedule, self.times = schedule, []

    def __call__(self, t, x, condition=None):
        self.times.extend(torch.as_tensor(t).reshape(-1).tolist())
        time = expand_time(t, x)
        a, s, da, ds = four(self.schedule, time)
        slope = (da * a * self.spread**2 + ds * s) / (a**2 * self.spread**2 + s**2)
        return da * self.mean + ((x - a * self.mean) @ self.turn * slope) @ self.turn.T

    def moved(self, x: Tensor, t0: float, t1: float) -> Tensor:
        """Where the ODE takes rows from t0 to t1: along each axis of S by the ratio of the standard deviations."""
        (a0, s0), (a1, s1) = weights(self.schedule, t0), weights(self.schedule, t1)
        ratio = ((a1**2 * self.spread**2 + s1**2) / (a0**2 * self.spread**2 + s0**2)).sqrt()
        return a1 * self.mean + ((x - a0 * self.mean) @ self.turn * ratio) @ self.turn.T

    def start(self, batch: int, seed: int = 0) -> Tensor:
        """Rows of p_0."""
        a, s = weights(self.schedule, 0.0)
        return a * self.mean + (rows(batch, 2, seed=seed) * (a**2 * self.spread**2 + s**2).sqrt()) @ self.turn.T
