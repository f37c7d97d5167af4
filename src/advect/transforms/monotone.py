"""Monotone functions of one number with parameters: what coupling and autoregressive layers apply to each coordinate.

A layer computes parameters from the coordinates it may look at and hands them to a monotone function,

    y_i = τ(x_i; θ_i),    log |∂y_i/∂x_i| = log τ'(x_i; θ_i)        (Papamakarios et al. 2021, arXiv 1912.02762, §3.1)

so a new function joins every layer at once. All-zero parameters are the identity by contract: a layer whose
parameter network ends in a zero layer starts as the identity.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Moved:
    """Where a monotone function took its points.

    Attributes:
        value: ``(*points)``.
        log_slope: ``(*points)`` log of the derivative of the direction that was called.
        converged: ``(*points)``, False where a numeric inverse found no root; None for closed forms.
    """

    value: Float[Tensor, "*points"]
    log_slope: Float[Tensor, "*points"]
    converged: Bool[Tensor, "*points"] | None = None


class Monotone(nn.Module, ABC):
    """A strictly rising function of one number for every value of its parameters.

    Attributes:
        num_parameters: Numbers in θ for one coordinate.

    ``x`` and ``y`` have any shape ``(*points)`` (also none, also empty), ``parameters`` is
    ``(*points, num_parameters)`` in the same dtype, unconstrained; zeros give the identity. Values, slopes and their
    gradients are finite for every finite point and moderate parameters, on every edge and far outside every box.
    """

    num_parameters: int

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y = τ(x; θ) with log ∂y/∂x."""

    @abstractmethod
    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x = τ⁻¹(y; θ) with log ∂x/∂y, taken at the recovered x."""
