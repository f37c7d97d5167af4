"""A potential and its gradient as a velocity (OT-Flow: Onken et al. 2021, arXiv 2006.00104, section 3).

    v = −∇_x Φ,   Φ(t, x) = wᵀ N(s) + ½ Σ_k m_k (a_kᵀ s)² + bᵀ x,   s = (x, t)         (in the paper m = 1, A = (a_k))
    N:  u_0 = σ(K_0 s + C c + b_0),   u_i = u_{i−1} + h σ(K_i u_{i−1} + b_i),   h = 1/blocks

with σ(a) = log(eᵃ + e⁻ᵃ), so σ' = tanh. Optimal transport moves along such a gradient. The gradient is a pass back
through N; the divergence −tr ∇²_x Φ is a sum over the layers, each of the squared tangents pushed into it. Neither
needs autograd.

Without the paper's constant and the slope of Φ in t, of which no velocity depends. The curvatures m_k, w and b start at
zero, and so does the velocity; a_k are drawn, so that m learns from the first step.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from advect.networks.field import FieldNetwork, check_sizes, push, scale
from advect.networks.layers import linear


class Potential(FieldNetwork):
    """The velocity −∇Φ; zero at the start.

    Args:
        event_shape: Shape of one row.
        condition_features: Numbers in one condition, 0 for none.
        width: Units of the residual network N.
        blocks: Residual layers behind its first one.
        rank: Largest number of quadratic directions a_k; never more than the coordinates and the time.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_features: int = 0,
        *,
        width: int = 64,
        blocks: int = 1,
        rank: int = 10,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(event_shape, condition_features)
        check_sizes("Potential", width=width, blocks=blocks, rank=rank)
        rank = min(rank, self.features + 1)
        self.input = linear(self.features + 1, width, generator=generator)
        self.condition_layer = (
            linear(condition_features, width, bias=False, generator=generator) if condition_features else None
        )
        self.inner = nn.ModuleList(linear(width, width, generator=generator) for _ in range(blocks))
        self.output = linear(width, 1, bias=False, generator=generator)
        self.directions = linear(self.features + 1, rank, bias=False, generator=generator)
        self.curvatures = nn.Parameter(torch.zeros(rank))
        self.slope = nn.Parameter(torch.zeros(self.features))
        self.start_at_zero()

    def start_at_zero(self) -> None:
        """Make Φ, and so the velocity, zero everywhere."""
        super().start_at_zero()
        nn.init.zeros_(self.curvatures)
        nn.init.zeros_(self.slope)

    def potential(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Φ ``(batch,)`` at time ``t`` (a number or ``(batch,)``) and points ``x`` ``(batch, *event)``."""
        time, flat, condition = self.flatten(t, x, condition)
        s = _beside(flat, time)
        entered = self._entered(s, condition)
        u = _log_cosh(entered[0])
        for layer in self.inner:
            u = u + _log_cosh(layer(u)) / len(self.inner)
        quadratic = 0.5 * (self.directions(s).square() * self.curvatures).sum(1)
        return self.output(u).squeeze(1) + quadratic + flat @ self.slope

    def time_derivative(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """∂Φ/∂t ``(batch,)``, which the Hamilton–Jacobi–Bellman equation sets to ½‖∇Φ‖²."""
        time, flat, condition = self.flatten(t, x, condition)
        return self._gradient(_beside(flat, time), condition)[0][:, -1]

    def _velocity(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        return -self._gradient(_beside(x, t), condition)[0][:, :-1]

    def _velocity_and_divergence(self, t: Tensor, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        gradient, slopes, adjoints = self._gradient(_beside(x, t), condition)
        bends = [(1 - slope.square()) * adjoint for slope, adjoint in zip(slopes, adjoints, strict=True)]

        # Tangents of x: in the first layer they are the columns of its weight, the same for every row.
        columns = self.input.weight[:, :-1]
        hessian = bends[0] @ columns.square().sum(1)
        tangents = columns.T.contiguous() * slopes[0].unsqueeze(1)
        for number, layer in enumerate(self.inner, start=1):
            pushed = push(tangents, layer)
            hessian = hessian + (bends[number] * pushed.square().sum(1)).sum(1) / len(self.inner)
            if number < len(self.inner):
                tangents = tangents + scale(pushed, slopes[number] / len(self.inner))
        quadratic = self.directions.weight[:, :-1].square().sum(1) @ self.curvatures
        return -gradient[:, :-1], -(hessian + quadratic)

    def _gradient(self, s: Tensor, condition: Tensor | None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """∇_s Φ ``(batch, features + 1)``; of every layer its slope σ' and the derivative of Φ by what it puts out."""
        entered = self._entered(s, condition)
        u = _log_cosh(entered[0])
        for number, layer in enumerate(self.inner, start=1):
            entered.append(layer(u))
            if number < len(self.inner):
                u = u + _log_cosh(entered[-1]) / len(self.inner)
        slopes = [torch.tanh(a) for a in entered]

        adjoint = self.output.weight.expand(len(s), -1)
        adjoints = [adjoint]
        for layer, slope in zip(reversed(self.inner), reversed(slopes[1:]), strict=True):
            adjoint = torch.addmm(adjoint, slope * adjoint, layer.get_parameter("weight"), alpha=1 / len(self.inner))
            adjoints.append(adjoint)
        adjoints.reverse()

        gradient = (slopes[0] * adjoint) @ self.input.weight
        quadratic = (self.directions(s) * self.curvatures) @ self.directions.weight
        return gradient + quadratic + F.pad(self.slope, (0, 1)), slopes, adjoints

    def _entered(self, s: Tensor, condition: Tensor | None) -> list[Tensor]:
        """What goes into the first σ, as a list to be continued."""
        a = self.input(s)
        if self.condition_layer is not None and condition is not None:
            a = a + self.condition_layer(condition)
        return [a]


def _beside(x: Tensor, t: Tensor) -> Tensor:
    """(x, t) ``(batch, features + 1)``."""
    return torch.cat([x, t.expand(len(x)).unsqueeze(1)], dim=1)


def _log_cosh(a: Tensor) -> Tensor:
    """log(eᵃ + e⁻ᵃ), without overflow; the default threshold of softplus would cost float64 seven digits."""
    return F.softplus(-2 * a, threshold=50) + a
