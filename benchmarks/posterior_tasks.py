"""Four tasks of the simulation-based inference benchmark (Lueckmann et al. 2021, 2101.04653), written from their
published definitions: a prior, a simulator, and the support of the prior.

A simulator takes parameters ``(rows, parameters)`` and a NumPy generator and returns observations ``(rows, numbers)``,
all float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, RandomState

Draw = Callable[[np.ndarray, Generator], np.ndarray]


@dataclass(frozen=True)
class Task:
    """One problem of inference.

    Attributes:
        parameters: How many.
        numbers: In one observation.
        simulate: The simulator.
        bound: The prior is uniform on [−bound, bound] in every parameter; None for the Gaussian of `glm_covariance`.
        published: Mean C2ST of NPE by number of simulations, over ten observations.
    """

    parameters: int
    numbers: int
    simulate: Draw
    bound: float | None
    published: dict[int, float]

    def prior(self, rows: int, generator: Generator) -> np.ndarray:
        """Draw ``(rows, parameters)``."""
        if self.bound is not None:
            return generator.uniform(-self.bound, self.bound, (rows, self.parameters))
        return generator.standard_normal((rows, self.parameters)) @ np.linalg.cholesky(glm_covariance()).T

    def inside(self, theta: np.ndarray) -> np.ndarray:
        """Which rows lie in the support of the prior, ``(rows,)``."""
        if self.bound is None:
            return np.isfinite(theta).all(1)
        return (np.abs(theta) <= self.bound).all(1)


def two_moons(theta: np.ndarray, generator: Generator) -> np.ndarray:
    """x = (r cos a + ¼ − |θ₁ + θ₂|/√2, r sin a + (θ₂ − θ₁)/√2), a uniform on ±π/2, r ~ N(0.1, 0.01²)."""
    angle = generator.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = generator.normal(0.1, 0.01, len(theta))
    first = radius * np.cos(angle) + 0.25 - np.abs(theta[:, 0] + theta[:, 1]) / np.sqrt(2)
    second = radius * np.sin(angle) + (theta[:, 1] - theta[:, 0]) / np.sqrt(2)
    return np.stack([first, second], 1)


SLCP_DRAWS = 4


def slcp(theta: np.ndarray, generator: Generator) -> np.ndarray:
    """Four draws from a Gaussian of mean (θ₁, θ₂), deviations θ₃², θ₄² and correlation tanh θ₅, one after another."""
    noise = generator.standard_normal((len(theta), SLCP_DRAWS, 2))
    first, second = theta[:, 2, None] ** 2, theta[:, 3, None] ** 2
    correlation = np.tanh(theta[:, 4, None])
    x = theta[:, 0, None] + first * noise[..., 0]
    y = theta[:, 1, None] + second * (correlation * noise[..., 0] + np.sqrt(1 - correlation**2) * noise[..., 1])
    return np.stack([x, y], 2).reshape(len(theta), 2 * SLCP_DRAWS)


def gaussian_mixture(theta: np.ndarray, generator: Generator) -> np.ndarray:
    """x ~ ½ N(θ, I) + ½ N(θ, 0.1² I)."""
    deviation = np.where(generator.random(len(theta)) < 0.5, 1.0, 0.1)
    return theta + deviation[:, None] * generator.standard_normal(theta.shape)


GLM_STEPS, GLM_DELAYS = 100, 9


def glm_design() -> np.ndarray:
    """``(steps, 10)``: a column of ones, and the stimulus delayed by 0 to 8 steps, zero before it began."""
    stimulus = RandomState(42).randn(GLM_STEPS).astype(np.float32).astype(np.float64)  # as published
    columns = [np.ones(GLM_STEPS)]
    columns += [np.concatenate([np.zeros(j), stimulus[: GLM_STEPS - j]]) for j in range(GLM_DELAYS)]
    return np.stack(columns, 1)


def glm_covariance() -> np.ndarray:
    """Of the Gaussian prior, ``(10, 10)``: the offset has variance 2, the filter a smoothness prior.

    The filter's precision is FᵀF with F = D² + diag(√(k/9)), k = 0 to 8, D the identity minus ones below the diagonal.
    """
    difference = np.eye(GLM_DELAYS) - np.eye(GLM_DELAYS, k=-1)
    factor = difference @ difference + np.diag(np.sqrt(np.arange(GLM_DELAYS) / GLM_DELAYS))
    precision = np.zeros((GLM_DELAYS + 1, GLM_DELAYS + 1))
    precision[0, 0], precision[1:, 1:] = 0.5, factor.T @ factor
    return np.linalg.inv(precision)


def bernoulli_glm(theta: np.ndarray, generator: Generator) -> np.ndarray:
    """Spikes y ~ Bernoulli(sigmoid(Vθ)); x = Vᵀy, the count of spikes and their correlation with the stimulus."""
    design = glm_design()
    rate = 1 / (1 + np.exp(-theta @ design.T))
    return (generator.random(rate.shape) < rate).astype(np.float64) @ design


TASKS: dict[str, Task] = {
    "two_moons": Task(2, 2, two_moons, 1.0, {1_000: 0.725, 10_000: 0.606}),
    "slcp": Task(5, 8, slcp, 3.0, {1_000: 0.975, 10_000: 0.901}),
    "gaussian_mixture": Task(2, 2, gaussian_mixture, 10.0, {1_000: 0.731, 10_000: 0.661}),
    "bernoulli_glm": Task(10, 10, bernoulli_glm, None, {1_000: 0.863, 10_000: 0.678}),
}
"""Name to task, with the published NPE of sbibm's result file."""
