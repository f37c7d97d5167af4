"""Constrained data to the real line, so that a flow never leaves the support, and angles to one turn.

    box       z = log(x − l) − log(h − x)                      log |det| = Σ log(h − l) − log(x − l) − log(h − x)
    positive  z = s log(e^{x/s} − 1), the inverse of s·softplus    log |det| = −Σ log(1 − e^{−x/s})
    simplex   z_i = log x_i − log x_{d+1}, x_{d+1} = 1 − Σ x_i     log |det| = −Σ_{i ≤ d+1} log x_i
                                                             (additive log-ratio; Aitchison 1982, J. R. Stat. Soc. B 44)
    circle    z = x modulo 2π, after a change of units

Each logarithm is of a distance that is computed as such, so nothing cancels near either edge.

Edges. The supports are closed: a row exactly on an edge is valid data, and its z is finite, because distances are
clamped from below: to ε (h − l) in a box, to ε on the simplex, to √tiny · s above zero, with ε the rounding unit and
tiny the smallest normal number of the input's dtype. On that sliver a map is constant; gradients there are zero. Rows
beyond an edge are treated alike and marked `Status.OUTSIDE_SUPPORT`: their density is zero, whatever the number.
Many rows exactly on an edge are an atom, which has no density: model them as a level of their own.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped, outside_support
from advect.typing import sum_event


class Box(Bijection):
    """(low, high) to the real line by the logit, coordinate by coordinate.

    Args:
        low: Lower edges, broadcastable to the event.
        high: Upper edges, above them; both finite. For one edge alone see `Positive`.
        event_shape: Shape of one row; by default what the edges broadcast to.

    Raises:
        ConfigError: Unless low < high, both finite.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor | float, high: Tensor | float, event_shape: tuple[int, ...] | None = None) -> None:
        edges = _floating(low), _floating(high)
        shape = torch.broadcast_shapes(edges[0].shape, edges[1].shape) if event_shape is None else event_shape
        super().__init__(tuple(shape))
        for name, edge in zip(("low", "high"), edges, strict=True):
            self.register_buffer(name, _expanded(edge, tuple(shape), f"Box {name}"))
        if not bool((self.low < self.high).all() and (self.high - self.low).isfinite().all()):
            raise ConfigError(
                "The edges of the box must be finite, and each lower one below its upper one",
                where="Box",
                remedy="Use Positive for one edge, and leave out coordinates that do not vary.",
            )

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        low, high = self.low.to(x.dtype), self.high.to(x.dtype)
        width = high - low
        least = torch.finfo(x.dtype).eps * width
        above, below = torch.maximum(x - low, least).log(), torch.maximum(high - x, least).log()
        total = sum_event(width.log() - above - below) if log_det else None
        return mapped(above - below, total, outside_support((x < low) | (x > high)))

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        low, high = self.low.to(z.dtype), self.high.to(z.dtype)
        width = high - low
        # From the nearer edge: the distance to it keeps its relative precision.
        distance = width * torch.sigmoid(-z.abs())
        x = torch.where(z < 0, low + distance, high - distance)
        return mapped(x, sum_event(width.log() - F.softplus(z) - F.softplus(-z)) if log_det else None)


class Positive(Bijection):
    """The positive numbers to the real line by the inverse of the softplus.

    Near zero this is the logarithm, far out the identity: unlike with the logarithm alone no sample overflows, an error
    in z is not multiplied, and the data keep their upper tail. Take the logarithm of data that spread over many orders
    of magnitude first.

    Args:
        scale: Where the one becomes the other, in the units of x: a typical size of the data; broadcastable to the
            event.
        event_shape: Shape of one row; by default that of ``scale``.

    Raises:
        ConfigError: Unless ``scale`` is positive and finite.
    """

    scale: Tensor

    def __init__(self, scale: Tensor | float = 1.0, event_shape: tuple[int, ...] | None = None) -> None:
        given = _floating(scale)
        shape = tuple(given.shape) if event_shape is None else tuple(event_shape)
        super().__init__(shape)
        if not bool((given > 0).all() and given.isfinite().all()):
            raise ConfigError("The scale must be positive and finite", where="Positive")
        self.register_buffer("scale", _expanded(given, shape, "Positive"))

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        scale = self.scale.to(x.dtype)
        # √tiny: small enough for any data, large enough for 1/u and its square to be finite.
        u = (x / scale).clamp(min=math.sqrt(torch.finfo(x.dtype).tiny))
        log_rest = torch.log(-torch.expm1(-u))
        return mapped(scale * (u + log_rest), -sum_event(log_rest) if log_det else None, outside_support(x < 0))

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        scale = self.scale.to(z.dtype)
        v = z / scale
        # PyTorch's default threshold of 20 would cost 2e-9, which float64 shows.
        x = scale * F.softplus(v, threshold=80)
        return mapped(x, sum_event(F.logsigmoid(v)) if log_det else None)


class Simplex(Bijection):
    """Shares x_1 … x_{d+1} ≥ 0 that sum to one, held as their first d coordinates, to d real numbers.

    Rows are ``(batch, d)``: the last share is 1 − Σ x_i and is left out, so that densities are with respect to the d
    free coordinates. Which share is left out does not change that density.

    Args:
        features: d, one less than the number of shares.
    """

    def __init__(self, features: int) -> None:
        if features < 1:
            raise ConfigError(f"features is {features}", where="Simplex", remedy="One share is always 1: give two.")
        super().__init__((features,))

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        unit = torch.finfo(x.dtype).eps
        last = 1 - x.sum(1, keepdim=True)
        # Shares that sum to one only up to rounding are no fault of the row.
        outside = (x < 0).any(1) | (last.squeeze(1) < -unit * x.shape[1])
        logs, log_last = x.clamp(min=unit).log(), last.clamp(min=unit).log()
        total = -(logs.sum(1) + log_last.squeeze(1)) if log_det else None
        return mapped(logs - log_last, total, outside_support(outside.unsqueeze(1)))

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        logs = F.pad(z, (0, 1)).log_softmax(1)
        return mapped(logs[:, :-1].exp(), logs.sum(1) if log_det else None)


class Circle(Bijection):
    """Periodic numbers to angles in [−π, π]; log |det| = Σ log 2π/(high − low).

    Angles of that range pass unchanged. Whole turns in the data are taken out, so the density is that of the angle: one
    turn integrates to one. Only maps and bases that live on the circle may follow: circular splines
    (`spline.CircularSpline`) and the uniform law on [−π, π].

    Args:
        low: Where the turn of `decode` begins, in the units of x; broadcastable to the event.
        high: Where it ends: the same point one period later, such as −180 and 180 for degrees, 0 and 24 for hours.
        event_shape: Shape of one row; None for what both broadcast to, and for any where both are single numbers.

    Raises:
        ConfigError: Unless low < high, both finite.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        low: Tensor | float = -math.pi,
        high: Tensor | float = math.pi,
        event_shape: tuple[int, ...] | None = None,
    ) -> None:
        edges = _floating(low), _floating(high)
        if event_shape is None:
            event_shape = tuple(torch.broadcast_shapes(edges[0].shape, edges[1].shape)) or None
        super().__init__(event_shape)
        for name, edge in zip(("low", "high"), edges, strict=True):
            self.register_buffer(name, _expanded(edge, event_shape or (), f"Circle {name}"))
        if not bool((self.low < self.high).all() and (self.high - self.low).isfinite().all()):
            raise ConfigError("A turn must end after it begins, and be finite", where="Circle")

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        centre, rate = self._turn(x)
        z = wrap_angle((x - centre) * rate)
        return mapped(z, sum_event(rate.log().expand(x.shape)) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        centre, rate = self._turn(z)
        x = centre + wrap_angle(z) / rate
        within = torch.minimum(torch.maximum(x.detach(), self.low.to(z.dtype)), self.high.to(z.dtype))
        return mapped(within + (x - x.detach()), -sum_event(rate.log().expand(z.shape)) if log_det else None)

    def _turn(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The middle of the turn, and radians per unit of x."""
        low, high = self.low.to(like.dtype), self.high.to(like.dtype)
        end = torch.tensor(math.pi, dtype=like.dtype, device=like.device)
        return (low + high) / 2, (end + end) / (high - low)


def wrap_angle(x: Tensor) -> Tensor:
    """``x`` less whole turns, in [−π, π]; exactly ``x`` where it lies there already. The slope is 1 everywhere."""
    end = torch.tensor(math.pi, dtype=x.dtype, device=x.device)
    # `remainder` is exact, but not for the turn as rounded to float32: far angles are reduced in double precision.
    here = x.detach()
    wide = here.to(torch.float32 if x.device.type == "mps" else torch.float64)
    reduced = (torch.remainder(wide + math.pi, 2 * math.pi) - math.pi).to(x.dtype)
    wrapped = torch.where(here.abs() <= end, here, torch.minimum(torch.maximum(reduced, -end), end))
    return wrapped + (x - here)


def _floating(value: Tensor | float) -> Tensor:
    """A tensor of the caller's own precision; a plain number keeps all of its own."""
    if not isinstance(value, Tensor):
        return torch.tensor(float(value), dtype=torch.float64)
    return value.detach() if value.is_floating_point() else value.detach().to(torch.get_default_dtype())


def _expanded(value: Tensor, event_shape: tuple[int, ...], where: str) -> Tensor:
    try:
        return value.expand(event_shape).clone()
    except RuntimeError:
        raise ShapeError(
            f"Shape {tuple(value.shape)} does not broadcast to the event {event_shape}", where=where
        ) from None
