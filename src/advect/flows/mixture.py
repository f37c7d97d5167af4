"""A learnable mixture of Gaussians as a source.

    p(z) = Σ_k π_k ∏_i N(z_i; μ_ki, σ²_ki)

in the log domain. Which component a row came from is discrete, so a draw μ_k + σ_k ε has no derivative in π. The draw
as a whole does have one: with F_i the distribution function of z_i given z_<i, F_i(z_i | z_<i; θ) = u_i for fixed
uniform u, hence

    ∂z_i/∂θ = −(∂F_i/∂θ + Σ_{j<i} ∂F_i/∂z_j ∂z_j/∂θ) / p(z_i | z_<i)

(implicit reparameterisation; Figurnov et al. 2018, arXiv 1805.08498; for mixtures Graves 2016, arXiv 1607.05690).
It is taken one coordinate after the other, and only when a gradient can be asked for.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError
from advect.flows.base import check_num_rows
from advect.flows.bases import SCALE_FLOOR, normals, raw_scale, uniforms

_ROOT_TWO_PI = math.sqrt(2 * math.pi)


class GaussianMixture(nn.Module):
    """Diagonal Gaussians with learnable weights, means and scales on events of any shape.

    Args:
        event_shape: Shape of one row.
        components: How many; at least one.
        spread: Standard deviation of the initial means around 0; the initial scales are one, the weights equal.
        floor: Least scale.
        generator: Draws the initial means; components that start alike would stay alike.

    Raises:
        ConfigError: For no component.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        components: int,
        *,
        spread: float = 1.0,
        floor: float = SCALE_FLOOR,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ConfigError(f"components is {components}", where="GaussianMixture", remedy="Give 1 or more.")
        self.event_shape, self.floor = tuple(event_shape), floor
        shape = (components, math.prod(self.event_shape))
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(spread * normals(components, shape[1:], self.logits.detach(), generator))
        self.raw_scales = nn.Parameter(raw_scale(torch.ones(shape), floor))

    @property
    def scales(self) -> Float[Tensor, "components numbers"]:
        """σ_k."""
        return self.floor + F.softplus(self.raw_scales)

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``, differentiable in weights, means and scales; the condition plays no part."""
        with torch.no_grad():
            u = uniforms(check_num_rows(num_rows), (), self.means, generator)
            upto = self.logits.softmax(0).cumsum(0)[:-1]
            chosen = torch.searchsorted(upto, u, right=True)
            noise = normals(num_rows, self.means.shape[1:], self.means, generator)
            z = self.means[chosen] + self.scales[chosen] * noise
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            z = self._with_gradient(z)
        return z.reshape(num_rows, *self.event_shape)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats."""
        means, scales = self.means.to(z.dtype), self.scales.to(z.dtype)
        offset = (z.reshape(z.shape[0], 1, means.shape[1]) - means) / scales
        height = self.logits.to(z.dtype).log_softmax(0) - (scales * _ROOT_TWO_PI).log().sum(1)
        return torch.logsumexp(height - 0.5 * offset.square().sum(2), dim=1)

    def _with_gradient(self, z: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        """The same numbers, with the derivatives of the module's docstring."""
        log_weights = self.logits.log_softmax(0).expand(
            z.shape[0], -1
        )  # of the components given z_<i, up to a constant
        moved: list[Tensor] = []
        for point, mean, scale in zip(z.unbind(1), self.means.unbind(1), self.scales.unbind(1), strict=True):
            weights = log_weights.softmax(1)
            offset = (point.unsqueeze(1) - mean) / scale
            upto = (weights * torch.special.ndtr(offset)).sum(1)
            density = (weights * torch.exp(-0.5 * offset.square()) / (scale * _ROOT_TWO_PI)).sum(1).detach()
            moved.append(point - (upto - upto.detach()) / density)

            offset = (moved[-1].unsqueeze(1) - mean) / scale
            log_weights = log_weights - 0.5 * offset.square() - scale.log()
        return torch.stack(moved, 1) if moved else z

    def extra_repr(self) -> str:
        """Shape and number of components, for ``print``."""
        return f"event_shape={self.event_shape}, components={self.logits.shape[0]}"
