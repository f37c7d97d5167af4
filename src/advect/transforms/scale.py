"""Shift and scale with parameters: the functions of additive and affine layers.

    y = x + b                      (NICE: Dinh et al. 2015, arXiv 1410.8516, §3.2)
    y = x exp(s) + b               (RealNVP: Dinh et al. 2017, arXiv 1605.08803, eq. 7; MAF: 1705.07057, eq. 4)

An unbounded s lets one layer multiply by e¹⁰⁰ and the way back divide by it; here s = B tanh(r/B) stays between −B and
B, with slope 1 at 0.
"""

import torch
from torch import Tensor

from advect.errors import ConfigError
from advect.transforms.kernel import Kernel, moved
from advect.transforms.monotone import Monotone, Moved


class Shift(Monotone):
    """y = x + b, with b the only parameter; volume is kept."""

    num_parameters = 1

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x = 0; see `Monotone`."""
        value = x + parameters.squeeze(-1)
        return Moved(value, x.new_zeros(()).expand(value.shape))

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y = 0; see `Monotone`."""
        value = y - parameters.squeeze(-1)
        return Moved(value, y.new_zeros(()).expand(value.shape))


class Scale(Monotone):
    """y = x exp(s) + b; the parameters are r, with s = B tanh(r/B), and b.

    Args:
        bound: B, the largest |s| in nats: one layer stretches by at most e^B.
    """

    num_parameters = 2

    def __init__(self, bound: float = 3.0) -> None:
        super().__init__()
        if not 0 < bound < float("inf"):
            raise ConfigError(
                f"The bound of the log-scale is {bound!r}", where="Scale", remedy="Choose a positive number of nats."
            )
        self.bound = bound
        self.kernel = Kernel("affine", (bound,)) if type(self) is Scale else None

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x = s; see `Monotone`."""
        return moved(self.kernel, self._forward, x, parameters, inverse=False)

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y = −s; see `Monotone`."""
        return moved(self.kernel, self._inverse, y, parameters, inverse=True)

    def _forward(self, x: Tensor, parameters: Tensor) -> Moved:
        log_scale, shift = self._split(parameters)
        return Moved(torch.addcmul(shift, x, log_scale.exp()), log_scale)

    def _inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        log_scale, shift = self._split(parameters)
        return Moved((y - shift) * (-log_scale).exp(), -log_scale)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """s and b, each ``(*points)``."""
        raw, shift = parameters.unbind(-1)
        # tanh(r/B) = 2 sigmoid(2r/B) − 1, which a processor computes six times as fast; 0 stays 0.
        return ((raw * (2 / self.bound)).sigmoid() - 0.5) * (2 * self.bound), shift
