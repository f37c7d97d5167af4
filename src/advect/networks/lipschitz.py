"""Linear layers and activations whose Lipschitz constant is bounded, in the Euclidean norm of a row.

    W̄ = W min(1, c' / σ(W)),   c' = c / (1 + margin),   so that ‖W̄‖₂ ≤ c
                                                        (Behrmann et al. 2019, arXiv 1811.00995, section 2.1)

A weight is scaled only where its norm is above the target. The norm σ is that of the linear operator itself, for a
convolution the one at the actual size of the picture. It is found by power iteration on a block of four directions V at
once, each time with the best vectors in the span of V, WᵀW V and the V before (Knyazev 2001): two singular values that
cross during training, where one single vector would stay with the wrong one, do no harm, nor do singular values close
to one another, as those of convolutions are. The directions are buffers: they persist from step to step, where the
weight has hardly moved, and are saved with it. The iteration ends when the residual ‖WᵀW v − σ² v‖ is below a
tolerance, not after a fixed number of rounds, and where it is so already the directions stay as they are, to the bit.

In evaluation nothing is remembered and nothing can be stale: norms are computed from the weights of the moment, of
dense layers by an SVD and of convolutions by an iteration to rounding.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from advect.errors import ConfigError
from advect.networks.field import check_sizes

DIRECTIONS = 4
MARGIN = 0.01  # covers the error of a norm whose residual is TOLERANCE: half of it, relative to the norm
TOLERANCE = 1e-2  # of ‖WᵀWv − σ²v‖/σ² in training
ROUNDS = 200  # a safeguard: three or four suffice in training

_SWISH_SLOPE = 1.09984  # the largest slope of a·sigmoid(a), 1.0998393201 at a = 2.3994, rounded up


class LipschitzLayer(nn.Module, ABC):
    """A linear operator and a shift, with a Lipschitz constant of at most ``coefficient``.

    Attributes:
        weight: The free weight; `bounded_weight` is the one in use.
        bias: Added to the result.
        directions: ``(directions, *inputs)`` orthonormal, near the leading right singular vectors of the operator.
        coefficient: The largest norm allowed.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    directions: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, inputs: tuple[int, ...], coefficient: float) -> None:
        super().__init__()
        if not 0 < coefficient <= 1:
            raise ConfigError(
                f"The Lipschitz coefficient is {coefficient!r}",
                where=type(self).__name__,
                remedy="Choose it above 0 and at most 1.",
            )
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.coefficient = coefficient
        self.inputs = inputs
        self.register_buffer("directions", torch.empty(0))

    @abstractmethod
    def operate(self, weight: Tensor, x: Tensor) -> Tensor:
        """W x for ``(batch, *inputs)``, without the shift."""

    @abstractmethod
    def adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """Wᵀ y for ``(batch, *outputs)``."""

    @abstractmethod
    def simple_bound(self) -> float:
        """A bound on the norm that needs no iteration, such as Frobenius'."""

    def forward(self, x: Tensor) -> Tensor:
        """W̄ x + b for ``(batch, *inputs)``."""
        return self.affine(self.bounded_weight()[0], x)

    def affine(self, weight: Tensor, x: Tensor) -> Tensor:
        """W x + b with a weight from `bounded_weight`."""
        return self.operate(weight, x) + self.bias.reshape(-1, *([1] * (x.ndim - 2)))

    def bounded_weight(self) -> tuple[Tensor, float]:
        """W̄ and a bound on its norm, at most ``coefficient``; differentiable in the weight."""
        limit = self.coefficient / (1 + MARGIN)
        simple = self.simple_bound()
        if not limit < simple < math.inf:  # nothing to do, or numbers that no iteration would survive
            return self.weight, min(self.coefficient, (1 + MARGIN) * simple)
        u, v = self._top_pair()
        norm = (self.operate(self.weight, v.unsqueeze(0)).squeeze(0) * u).sum()
        found = float(norm.detach())
        if found <= limit:
            return self.weight, (1 + MARGIN) * found
        return self.weight * (limit / norm), self.coefficient

    def _top_pair(self) -> tuple[Tensor, Tensor]:
        """Leading left and right singular vectors, constants for the gradient: ∂σ/∂W = u vᵀ."""
        # The error of σ is the square of the residual: at the root of the rounding unit σ is right to rounding.
        tolerance = TOLERANCE if self.training else torch.finfo(self.weight.dtype).eps ** 0.5
        with torch.no_grad():
            leading, directions = self._iterate(tolerance)
            if self.training and directions is not self.directions:
                self.directions.copy_(directions)
            return leading.image / leading.square.sqrt(), leading.direction

    def _iterate(self, tolerance: float) -> tuple["_Leading", Tensor]:
        """From the directions at hand until the residual of the leading pair is small; the pair and the directions."""
        directions = before = self.directions
        leading = self._leading(directions)
        for _ in range(ROUNDS):
            if not bool(leading.residual > tolerance * leading.square):
                break
            span = _orthonormal(torch.cat([directions, leading.back, before]))
            _, mixing = self._ritz(self.operate(self.weight, span))
            before, directions = directions, _mix(mixing[:, -len(directions) :].T, span)
            leading = self._leading(directions)
        return leading, directions

    def _leading(self, directions: Tensor) -> "_Leading":
        """The leading Ritz pair of WᵀW in the span of some directions."""
        images = self.operate(self.weight, directions)
        squares, mixing = self._ritz(images)
        square, top = squares[-1], mixing[:, -1]
        back = self.adjoint(self.weight, images)
        image, v = _mix(top, images), _mix(top, directions)
        return _Leading(square, (_mix(top, back) - square * v).norm(), v, image, back)

    def _ritz(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Ritz values of WᵀW, rising, and how they mix the directions of these images."""
        flat = images.flatten(1)
        return torch.linalg.eigh(flat @ flat.T)

    def _draw_directions(self, generator: Generator | None) -> None:
        """Random orthonormal directions, as many as there are up to `DIRECTIONS`."""
        count = min(DIRECTIONS, math.prod(self.inputs))
        self.directions = _orthonormal(torch.randn(count, *self.inputs, generator=generator)).contiguous()

    def extra_repr(self) -> str:
        """Shape and coefficient, for ``print``."""
        return f"weight={tuple(self.weight.shape)}, coefficient={self.coefficient:.4g}"


class _Leading(NamedTuple):
    """σ² of the pair, ‖WᵀWv − σ²v‖, v, W v, and WᵀW of all directions."""

    square: Tensor
    residual: Tensor
    direction: Tensor
    image: Tensor
    back: Tensor


def _mix(weights: Tensor, rows: Tensor) -> Tensor:
    """Linear combinations of ``(rows, *shape)`` with weights ``(rows,)`` or ``(results, rows)``."""
    return (weights @ rows.flatten(1)).reshape(*weights.shape[:-1], *rows.shape[1:])


def _orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows that span ``(directions, *inputs)``; any completion where those are dependent."""
    return torch.linalg.qr(rows.flatten(1).T)[0].T.reshape(-1, *rows.shape[1:])


def _start(
    inputs: int, outputs: int, bias: float | None, zero: bool, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """An orthogonal weight ``(outputs, inputs)`` and a shift.

    All singular values are one, so the bound on the norm is reached in every direction: of a random matrix only few
    directions would pass with nearly the norm, and little would be left of them after some layers.
    """
    if zero:
        return torch.zeros(outputs, inputs), torch.zeros(outputs)
    drawn = torch.randn(max(outputs, inputs), min(outputs, inputs), generator=generator)
    weight = torch.linalg.qr(drawn)[0]
    limit = 1 / math.sqrt(inputs) if bias is None else bias
    shift = (2 * torch.rand(outputs, generator=generator) - 1) * limit
    return (weight if outputs >= inputs else weight.T).contiguous(), shift


class LipschitzLinear(LipschitzLayer):
    """A dense layer on ``(batch, inputs)``.

    Args:
        inputs: Numbers in.
        outputs: Numbers out.
        coefficient: The largest spectral norm.
        bias: Bound of the initial shifts, which are uniform; None for 1/√inputs.
        zero: Start at zero.
        generator: Draws the initial weight, orthogonal, with the shifts and directions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        coefficient: float = 0.97,
        bias: float | None = None,
        zero: bool = False,
        generator: Generator | None = None,
    ) -> None:
        check_sizes("LipschitzLinear", inputs=inputs, outputs=outputs)
        weight, shift = _start(inputs, outputs, bias, zero, generator)
        super().__init__(weight, shift, (inputs,), coefficient)
        self._draw_directions(generator)

    def operate(self, weight: Tensor, x: Tensor) -> Tensor:
        """``(batch, inputs)`` to ``(batch, outputs)``."""
        return x @ weight.T

    def affine(self, weight: Tensor, x: Tensor) -> Tensor:
        """The same with the shift, in one product."""
        return F.linear(x, weight, self.bias)

    def adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """``(batch, outputs)`` to ``(batch, inputs)``."""
        return y @ weight

    def simple_bound(self) -> float:
        """Frobenius' norm."""
        return float(self.weight.detach().norm())

    def _top_pair(self) -> tuple[Tensor, Tensor]:
        if self.training:
            return super()._top_pair()
        left, _, right = torch.linalg.svd(self.weight.detach(), full_matrices=False)
        return left[:, 0], right[0]


class LipschitzConv2d(LipschitzLayer):
    """A convolution with stride one and zeros around the picture, whose size it keeps.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        size: Height and width of the pictures: the norm is that of the operator at this size.
        kernel: Odd width of the kernel.
        coefficient: The largest norm.
        bias: Bound of the initial shifts, which are uniform; None for 1/√(inputs · kernel²).
        zero: Start at zero.
        generator: Draws the initial weight, orthogonal as a matrix, with the shifts and directions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        *,
        kernel: int = 3,
        coefficient: float = 0.97,
        bias: float | None = None,
        zero: bool = False,
        generator: Generator | None = None,
    ) -> None:
        check_sizes("LipschitzConv2d", inputs=inputs, outputs=outputs, height=size[0], width=size[1], kernel=kernel)
        if kernel % 2 == 0:
            raise ConfigError(f"The kernel is {kernel} wide", where="LipschitzConv2d", remedy="Choose an odd width.")
        weight, shift = _start(inputs * kernel**2, outputs, bias, zero, generator)
        super().__init__(weight.reshape(outputs, inputs, kernel, kernel), shift, (inputs, *size), coefficient)
        self.kernel = kernel
        self._draw_directions(generator)

    def operate(self, weight: Tensor, x: Tensor) -> Tensor:
        """``(batch, inputs, height, width)`` to ``(batch, outputs, height, width)``."""
        return F.conv2d(x, weight, padding=self.kernel // 2)

    def adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """``(batch, outputs, height, width)`` to ``(batch, inputs, height, width)``."""
        return F.conv_transpose2d(y, weight, padding=self.kernel // 2)

    def simple_bound(self) -> float:
        """Every input is read by kernel² patches, each of which applies the flattened weight."""
        return self.kernel * float(self.weight.detach().norm())


class LipschitzActivation(nn.Module, ABC):
    """An elementwise function of slope at most one, smooth, with a learnt sharpness β > 0 for each unit.

        φ(a) = h(βa) / β,   |h'| ≤ 1,   so that |φ'| ≤ 1 while φ'' = β h'' is free.

    The second derivative must not vanish: the log-determinant depends on the weights through φ', and learns through
    φ'' (Chen et al. 2019, arXiv 1906.02735, section 3.3 on derivative saturation).

    Args:
        units: Units or channels.
        spatial: Axes after that of the units.
        sharpness: β at the start, about the inverse of the size of a unit's argument. Behind a weight of norm one that
            size falls as the root of the width, and with β = 1 a wide network would be nearly linear.
    """

    def __init__(self, units: int, spatial: int = 0, sharpness: float = 1.0) -> None:
        super().__init__()
        start = sharpness + math.log(-math.expm1(-sharpness))  # softplus of it is the sharpness
        self.sharpness = nn.Parameter(torch.full((units, *([1] * spatial)), start))

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """φ(a) and φ'(a) for ``(batch, units, *spatial)``."""
        beta = F.softplus(self.sharpness)
        value, slope = self.shape(a * beta)
        return value / beta, slope

    @abstractmethod
    def shape(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """h(b) and h'(b)."""


class LipSwish(LipschitzActivation):
    """h(b) = b·sigmoid(b) / 1.09984 (Chen et al. 2019, arXiv 1906.02735, section 3.3, who divide by 1.1)."""

    def shape(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """h and h'."""
        s = torch.sigmoid(b)
        value = b * s
        return value / _SWISH_SLOPE, (s + value * (1 - s)) / _SWISH_SLOPE


class Sine(LipschitzActivation):
    """h(b) = sin b."""

    def shape(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """h and h'."""
        return torch.sin(b), torch.cos(b)


ACTIVATIONS: dict[str, type[LipschitzActivation]] = {"lipswish": LipSwish, "sine": Sine}
