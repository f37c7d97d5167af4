"""Rational-quadratic splines: piecewise ratios of quadratics, monotone, smooth to first order, with a closed inverse.

K bins cut a box; the spline passes through the knots (x_k, y_k) with derivatives δ_k. In bin k, with
ξ = (x − x_k)/w, θ = ξ(1 − ξ) and the bin's mean slope s = h/w (Gregory & Delbourgo 1982; Durkan et al. 2019, arXiv
1906.04032, eqs. 4-8),

    y = y_k + h (s ξ² + δ_k θ) / (s + (δ_{k+1} + δ_k − 2s) θ)
    ∂y/∂x = s² (δ_{k+1} ξ² + 2 s θ + δ_k (1 − ξ)²) / (s + (δ_{k+1} + δ_k − 2s) θ)²
    ξ = 2c / (−b − √(b² − 4ac))        a, b, c from the same knots, for the inverse

The root is written so that nothing cancels, and its discriminant, a square in exact arithmetic, is clamped above zero:
rounding cannot make it fail. Points outside the box are clipped before the spline and put back after it, so that the
branch not taken cannot send a NaN into the gradient.

Inside, the points lie along the last axis and the bins along the first: softmax and sums over eight bins then run
along contiguous points instead of along eight numbers at a time, which is several times faster on a CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect.errors import ConfigError
from advect.transforms.kernel import Kernel, moved
from advect.transforms.monotone import Monotone, Moved

MIN_WIDTH = 1e-3
MIN_DERIVATIVE = 1e-3


@dataclass(frozen=True)
class _Bin:
    """The bin of each point, all ``(points,)``: lower corner, size, and the derivatives at both ends."""

    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor
    left: Tensor
    right: Tensor

    def at(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """(y − y_k)/h and log ∂y/∂x at the fraction ``xi`` of the bin (eqs. 4 and 5)."""
        rest = 1 - xi
        theta = xi * rest
        slope = self.height / self.width
        denominator = slope + (self.left + self.right - 2 * slope) * theta
        square = slope * xi * xi
        fraction = (square + self.left * theta) / denominator
        numerator = self.right * xi * xi + 2 * slope * theta + self.left * rest * rest
        return fraction, 2 * (slope / denominator).log() + numerator.log()

    def find(self, fraction: Tensor) -> Tensor:
        """The ξ at which the spline has passed ``fraction`` = (y − y_k)/h of the bin's height (eqs. 6-8)."""
        slope = self.height / self.width
        b = self.left - fraction * (self.left + self.right - 2 * slope)
        a = slope - b
        c = slope * fraction  # −c of the paper
        smallest = torch.finfo(fraction.dtype).tiny
        q = (b.abs() + (b * b + 4 * a * c).clamp(min=smallest).sqrt()) / 2
        falling = b < 0
        root = torch.where(falling, q, c) / torch.where(falling, a, q)
        # Rounding may step over the end of the bin; the gradient is that of the root all the same.
        return root + (root.clamp(0, 1) - root).detach()


class _Knots(nn.Module):
    """Knots and bins of a box [low, high] in both axes, with no bin narrower than ``minimum`` of the box."""

    steps: Tensor

    def __init__(self, bins: int, low: float, high: float, minimum: float, where: str) -> None:
        super().__init__()
        _check(bins, low, high, minimum, where)
        self.bins, self.low, self.high, self.minimum = bins, low, high, minimum
        # Whole numbers, so that a map moved to float32 still has exact constants for float64 rows.
        self.register_buffer("steps", torch.arange(bins + 1), persistent=False)

    def clip(self, x: Tensor) -> Tensor:
        """``x`` moved to the nearest point of the box."""
        return x.clamp(self.low, self.high)

    def place(self, shares: Tensor) -> Tensor:
        """Knots ``(2, bins + 1, points)`` from the bins' shares of the box ``(2, bins, points)``.

        x_k = low + span (k·minimum + (1 − K·minimum) Σ_{j<k} share_j), in one product; the last is exactly ``high``.
        """
        span, steps = self.high - self.low, self.steps
        lattice = self.low + steps.to(shares.dtype) * (span * self.minimum)
        lattice = torch.where(steps == self.bins, self.high, lattice).reshape(1, -1, 1)
        below = (steps[:-1] < steps.unsqueeze(1)) & (steps.unsqueeze(1) < self.bins)
        free = span * (1 - self.bins * self.minimum)
        return torch.baddbmm(lattice, below.to(shares.dtype).expand(2, -1, -1), shares, alpha=free)

    def locate(self, point: Tensor, raw: Tensor, log_derivatives: Tensor, axis: int) -> _Bin:
        """The bin that holds each point, looked up on ``axis`` 0 (x) or 1 (y).

        ``point`` is ``(points,)`` inside the box, ``raw`` ``(2·bins, points)`` unconstrained widths and heights,
        ``log_derivatives`` ``(bins + 1, points)`` unconstrained, one for each knot.
        """
        knots = self.place(raw.reshape(2, self.bins, point.shape[0]).softmax(1))
        return _bin_of(point, knots, log_derivatives, axis, _bounded_exp)


class RationalQuadraticSpline(Monotone):
    """A spline inside [−bound, bound], the identity outside.

    Args:
        bins: Number of bins K.
        bound: Half the side of the box, in the units of x. Data should have unit scale; what lies outside keeps its
            place, with slope 1.
        min_width: Smallest width and height of a bin, as a share of the box.

    The parameters are K widths, K heights and the derivatives at the K − 1 inner knots, which lie between 1e-3 and 1e3.
    At both ends of the box the derivative is 1: the slope is continuous there. Zeros are the identity up to rounding.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0, *, min_width: float = MIN_WIDTH) -> None:
        super().__init__()
        self.knots = _Knots(bins, -bound, bound, min_width, "RationalQuadraticSpline")
        self.num_parameters = 3 * bins - 1
        own = type(self) is RationalQuadraticSpline
        self.kernel = Kernel("spline", (bins, -bound, bound, min_width)) if own else None

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x; see `Monotone`."""
        return moved(self.kernel, self._forward, x, parameters, inverse=False)

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y; see `Monotone`."""
        return moved(self.kernel, self._inverse, y, parameters, inverse=True)

    def _forward(self, x: Tensor, parameters: Tensor) -> Moved:
        point, inside, found = self._locate(x, parameters, axis=0)
        fraction, log_slope = found.at((point - found.x) / found.width)
        return _within(inside, found.y + found.height * fraction, log_slope, x)

    def _inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        point, inside, found = self._locate(y, parameters, axis=1)
        xi = found.find((point - found.y) / found.height)
        return _within(inside, found.x + found.width * xi, -found.at(xi)[1], y)

    def _locate(self, x: Tensor, parameters: Tensor, axis: int) -> tuple[Tensor, Tensor, _Bin]:
        """Clipped points, whether they were inside, and their bins; all flat."""
        x = x.reshape(-1)
        point = self.knots.clip(x)
        raw, inner = _bins_first(parameters).split([2 * self.knots.bins, self.knots.bins - 1])
        # A raw derivative of 0 is a derivative of 1: that of the tails.
        return point, point == x, self.knots.locate(point, raw, F.pad(inner, (0, 0, 1, 1)), axis)


class CircularSpline(Monotone):
    """A spline on a circle, followed by a rotation: for angles and other periodic coordinates.

    Args:
        bins: Number of bins K.
        low: Where the circle is cut.
        high: The same point again, one period later.
        min_width: Smallest width and height of a bin, as a share of the period.

    The parameters are K widths, K heights, K derivatives between 1e-3 and 1e3 (the last knot has that of the first, so
    the slope is continuous across the cut; Rezende et al. 2020, arXiv 2002.02428, §2.2.1) and an angle of rotation in
    the units of x. Values outside the box are wrapped into it first, and results lie in it. Zeros are the identity.
    """

    def __init__(
        self, bins: int = 8, low: float = -math.pi, high: float = math.pi, *, min_width: float = MIN_WIDTH
    ) -> None:
        super().__init__()
        self.knots = _Knots(bins, low, high, min_width, "CircularSpline")
        self.num_parameters = 3 * bins + 1

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x; see `Monotone`."""
        raw, derivatives, rotation = self._split(parameters)
        point = self._wrap(x.reshape(-1))
        found = self.knots.locate(point, raw, derivatives, axis=0)
        fraction, log_slope = found.at((point - found.x) / found.width)
        value = self._wrap(found.y + found.height * fraction + rotation)
        return Moved(value.reshape(x.shape), log_slope.reshape(x.shape))

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y; see `Monotone`."""
        raw, derivatives, rotation = self._split(parameters)
        point = self._wrap(y.reshape(-1) - rotation)
        found = self.knots.locate(point, raw, derivatives, axis=1)
        xi = found.find((point - found.y) / found.height)
        value = found.x + found.width * xi
        return Moved(value.reshape(y.shape), -found.at(xi)[1].reshape(y.shape))

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Widths and heights, the derivatives with the first again at the end, and the rotation."""
        bins = self.knots.bins
        raw, derivatives, rotation = _bins_first(parameters).split([2 * bins, bins, 1])
        return raw, torch.cat([derivatives, derivatives[:1]]), rotation.squeeze(0)

    def _wrap(self, x: Tensor) -> Tensor:
        """``x`` modulo the period, in the box; what lies in it already is left exactly as it is."""
        low, period = self.knots.low, self.knots.high - self.knots.low
        return self.knots.clip(x - period * ((x - low) / period).floor().detach())


def through_knots(x: Tensor, places: Tensor, values: Tensor, derivatives: Tensor, *, inverse: bool = False) -> Moved:
    """The spline through given knots, the identity outside them: for other parametrisations than those above.

    Args:
        x: ``(*points)``; with ``inverse`` the values whose places are wanted.
        places: ``(*points, bins + 1)`` x_k, rising.
        values: Likewise y_k; the first and the last are those of ``places``.
        derivatives: Likewise δ_k, positive; 1 at both ends for a slope that is continuous there.
    """
    axis, flat = int(inverse), x.reshape(-1)
    knots = torch.stack([_bins_first(places), _bins_first(values)])
    point = flat.clamp(knots[axis, 0], knots[axis, -1])
    found = _bin_of(point, knots, _bins_first(derivatives), axis)
    if inverse:
        xi = found.find((point - found.y) / found.height)
        return _within(point == flat, found.x + found.width * xi, -found.at(xi)[1], x)
    fraction, log_slope = found.at((point - found.x) / found.width)
    return _within(point == flat, found.y + found.height * fraction, log_slope, x)


def _bin_of(
    point: Tensor,
    knots: Tensor,
    derivatives: Tensor,
    axis: int,
    positive: Callable[[Tensor], Tensor] = lambda derivative: derivative,
) -> _Bin:
    """The bin of each of ``(points,)`` among ``(2, bins + 1, points)`` knots, looked up on ``axis``.

    ``positive`` makes derivatives of the two of each point's bin out of ``(bins + 1, points)`` numbers.
    """
    index = (knots[axis, 1:-1] <= point).sum(0)
    ends = torch.stack([index, index + 1])
    left, right, bottom, top = knots.gather(1, ends.expand(2, 2, -1)).flatten(0, 1).unbind(0)
    first, last = positive(derivatives.gather(0, ends)).unbind(0)
    return _Bin(left, bottom, right - left, top - bottom, first, last)


def _bins_first(parameters: Tensor) -> Tensor:
    """``(*points, parameters)`` as a contiguous ``(parameters, points)``."""
    return parameters.reshape(-1, parameters.shape[-1]).t().contiguous()


def _bounded_exp(raw: Tensor) -> Tensor:
    """exp(r / (1 + |r|/L)) with L = −log `MIN_DERIVATIVE`: between e⁻ᴸ and eᴸ, and like exp around 0."""
    return (raw / (1 - raw.abs() / math.log(MIN_DERIVATIVE))).exp()


def _within(inside: Tensor, value: Tensor, log_slope: Tensor, x: Tensor) -> Moved:
    """The spline's result inside the box and the identity's outside, in the shape of ``x``."""
    value = torch.where(inside, value, x.reshape(-1))
    return Moved(value.reshape(x.shape), torch.where(inside, log_slope, 0.0).reshape(x.shape))


def _check(bins: int, low: float, high: float, minimum: float, where: str) -> None:
    if bins < 1:
        raise ConfigError(f"The number of bins is {bins}", where=where, remedy="Choose at least 1.")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(
            f"The box [{low!r}, {high!r}] is empty or not finite",
            where=where,
            remedy="Give finite ends, low below high.",
        )
    if not 0 <= minimum < 1 / bins:
        raise ConfigError(
            f"The smallest bin is {minimum!r} of the box, with {bins} bins",
            where=where,
            remedy=f"Choose at least 0 and less than 1/{bins}.",
        )
