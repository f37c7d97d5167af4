"""Marginal fields known in closed form, written apart from the library."""

import math

import torch
from torch import Tensor, nn

from advect.typing import expand_time


class MixtureField(nn.Module):
    """Exact marginal velocity from N(0, I) to a mixture of isotropic Gaussians, independent coupling, affine
    schedule.

    Given component k the pair is Gaussian, so E[α' x1 + σ' x0 | x] is affine; the marginal velocity is the
    average of these over the posterior of k.
    """

    def __init__(self, weights: Tensor, means: Tensor, stds: Tensor, schedule) -> None:
        super().__init__()
        self.weights, self.means, self.stds, self.schedule = weights, means, stds, schedule

    def forward(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        time = expand_time(t, x)  # (batch, 1)
        a, s = self.schedule.alpha(time), self.schedule.sigma(time)
        da, ds = self.schedule.alpha_derivative(time), self.schedule.sigma_derivative(time)
        variance = a**2 * self.stds**2 + s**2  # (batch, components)
        offset = x.unsqueeze(1) - a.unsqueeze(2) * self.means  # (batch, components, d)
        log_weight = self.weights.log() - 0.5 * offset.square().sum(2) / variance - 0.5 * x.shape[1] * variance.log()
        slope = (da * a * self.stds**2 + ds * s) / variance
        velocity = da.unsqueeze(2) * self.means + slope.unsqueeze(2) * offset
        return (log_weight.softmax(1).unsqueeze(2) * velocity).sum(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of the mixture itself."""
        squares = (x.unsqueeze(1) - self.means).square().sum(2)
        normaliser = 0.5 * x.shape[1] * (2 * math.pi * self.stds**2).log()
        return torch.logsumexp(self.weights.log() - squares / (2 * self.stds**2) - normaliser, 1)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Moments of the mixture."""
        mean = self.weights @ self.means
        spread = self.means - mean
        between = (self.weights.unsqueeze(1) * spread).T @ spread
        within = (self.weights * self.stds**2).sum() * torch.eye(len(mean), dtype=mean.dtype)
        return mean, between + within


class LinearField(nn.Module):
    """v = A x for the flattened event: log |det ∂x(1)/∂x(0)| = tr A."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix
        self.calls = 0

    def forward(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        self.calls += 1
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape)


def one_dimensional(schedule) -> MixtureField:
    """Three well-separated unequal bumps on the line."""
    tensor = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    return MixtureField(tensor(0.5, 0.3, 0.2), tensor(-2.0, 0.5, 3.0).unsqueeze(1), tensor(0.4, 0.25, 0.6), schedule)


def two_dimensional(schedule) -> MixtureField:
    """Two bumps in the plane."""
    return MixtureField(
        torch.tensor([0.4, 0.6], dtype=torch.float64),
        torch.tensor([[-1.5, 0.5], [1.0, -0.5]], dtype=torch.float64),
        torch.tensor([0.5, 0.35], dtype=torch.float64),
        schedule,
    )
