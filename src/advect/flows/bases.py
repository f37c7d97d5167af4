"""Source distributions with a shape of their own: Gaussians that learn, heavy tails, a box, a Gaussian per condition.

A map that is the identity far out (spline tails, bounded scales) hands the tails of its base to the model, and a map
of bounded range cannot leave the support of its base; so the base is a choice. Each has draws that are differentiable
in its parameters,

    z = μ + L ε (normals),        z = μ + σ √(ν (u^(−2/ν) − 1)) cos 2πv (Student's t; Bailey 1994, Math. Comp. 62),

and a log-density in nats. Scales are ``floor + softplus(raw)``, so that no density grows without bound on a column
that hardly varies. Densities are computed in the dtype of the rows, draws in that of the parameters, on the
generator's device (`base.StandardNormal`). A condition plays no part, except in `ConditionalNormal`.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, ShapeError
from advect.flows.base import check_num_rows
from advect.networks.layers import linear, zero_linear
from advect.transforms.bijection import check_condition
from advect.typing import sum_event

SCALE_FLOOR = 1e-3  # of data brought to unit scale: a density at most a thousandfold that of the standard normal
LEAST_DEGREES = 0.5  # of freedom: below it float32 draws overflow; Cauchy tails have 1
_LOG_TWO_PI = math.log(2 * math.pi)


class DiagonalNormal(nn.Module):
    """N(μ, diag σ²) with learnable μ and σ on events of any shape.

    Args:
        event_shape: Shape of one row.
        mean: Start of μ, broadcastable to the event.
        scale: Start of σ, likewise, above ``floor``.
        floor: Least σ.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        mean: Tensor | float = 0.0,
        scale: Tensor | float = 1.0,
        floor: float = SCALE_FLOOR,
    ) -> None:
        super().__init__()
        self.event_shape, self.floor = tuple(event_shape), floor
        self.mean = nn.Parameter(spread(mean, self.event_shape, "mean"))
        self.raw_scale = nn.Parameter(raw_scale(spread(scale, self.event_shape, "scale"), floor))

    @property
    def scale(self) -> Float[Tensor, "*event"]:
        """σ."""
        return self.floor + F.softplus(self.raw_scale)

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``, differentiable in μ and σ."""
        return self.mean + self.scale * normals(num_rows, self.event_shape, self.mean, generator)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats."""
        return normal_log_density(z, self.mean.to(z.dtype), self.scale.to(z.dtype))

    def extra_repr(self) -> str:
        """The event shape, for ``print``."""
        return f"event_shape={self.event_shape}"


class FullNormal(nn.Module):
    """N(μ, LLᵀ) with learnable μ and lower-triangular L on the flattened event; starts standard.

    Args:
        event_shape: Shape of one row; d numbers, so that L has d(d + 1)/2.
        floor: Least diagonal entry of L.
    """

    def __init__(self, event_shape: tuple[int, ...], *, floor: float = SCALE_FLOOR) -> None:
        super().__init__()
        self.event_shape, self.floor = tuple(event_shape), floor
        width = math.prod(self.event_shape)
        self.mean = nn.Parameter(torch.zeros(width))
        self.raw_diagonal = nn.Parameter(raw_scale(torch.ones(width), floor))
        self.below = nn.Parameter(torch.zeros(width * (width - 1) // 2))

    @property
    def cholesky(self) -> Float[Tensor, "numbers numbers"]:
        """L."""
        width = self.mean.shape[0]
        rows, columns = torch.tril_indices(width, width, offset=-1, device=self.mean.device)
        diagonal = torch.diag_embed(self.floor + F.softplus(self.raw_diagonal))
        return diagonal.index_put((rows, columns), self.below)

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``, differentiable in μ and L."""
        noise = normals(num_rows, self.mean.shape, self.mean, generator)
        return (self.mean + noise @ self.cholesky.T).reshape(num_rows, *self.event_shape)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats."""
        factor, width = self.cholesky.to(z.dtype), self.mean.shape[0]
        centred = z.reshape(z.shape[0], width) - self.mean.to(z.dtype)
        noise = torch.linalg.solve_triangular(factor, centred.T, upper=False)
        return -0.5 * (noise.square().sum(0) + width * _LOG_TWO_PI) - factor.diagonal().log().sum()

    def extra_repr(self) -> str:
        """The event shape, for ``print``."""
        return f"event_shape={self.event_shape}"


class StudentT(nn.Module):
    """Independent Student-t coordinates with learnable place, scale and, by default, degrees of freedom.

    Densities fall like |z|^(−ν−1): a flow on it gives rows far from the data a density that falls as slowly.

    Args:
        event_shape: Shape of one row.
        degrees: Start of ν, broadcastable to the event; at least 0.5. Kept as it is unless ``learn_degrees``.
        learn_degrees: Whether ν is a parameter, one per coordinate.
        floor: Least scale.

    Raises:
        ConfigError: For degrees below 0.5.
    """

    fixed_degrees: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        degrees: Tensor | float = 5.0,
        *,
        learn_degrees: bool = True,
        floor: float = SCALE_FLOOR,
    ) -> None:
        super().__init__()
        self.event_shape, self.floor, self.learn_degrees = tuple(event_shape), floor, learn_degrees
        start = spread(degrees, self.event_shape, "degrees")
        least = LEAST_DEGREES * (1 + 1e-6) if learn_degrees else LEAST_DEGREES
        if not bool((start >= LEAST_DEGREES).all() and start.isfinite().all()):
            raise ConfigError(
                f"The degrees of freedom start at {float(start.min()):.3g}",
                where="StudentT",
                remedy=f"Give finite numbers of {LEAST_DEGREES} or more; 1 is a Cauchy distribution.",
            )
        self.mean = nn.Parameter(torch.zeros(self.event_shape))
        self.raw_scale = nn.Parameter(raw_scale(torch.ones(self.event_shape), floor))
        if learn_degrees:
            self.raw_degrees = nn.Parameter(raw_scale(start.clamp(min=least), LEAST_DEGREES))
        else:
            self.register_buffer("fixed_degrees", start)

    @property
    def degrees(self) -> Float[Tensor, "*event"]:
        """ν."""
        return LEAST_DEGREES + F.softplus(self.raw_degrees) if self.learn_degrees else self.fixed_degrees

    @property
    def scale(self) -> Float[Tensor, "*event"]:
        """σ; the standard deviation is σ√(ν/(ν − 2)) where ν > 2."""
        return self.floor + F.softplus(self.raw_scale)

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``, differentiable in place, scale and degrees of freedom."""
        u, v = uniforms(num_rows, (2, *self.event_shape), self.mean, generator).unbind(1)
        degrees = self.degrees
        # u is kept off 0, where the root has no derivative; 1 − u is as uniform as u, and never 0.
        tail = -2 * torch.log1p(-u.clamp(min=torch.finfo(u.dtype).eps / 2))
        radius = (degrees * torch.expm1(tail / degrees)).sqrt()
        return self.mean + self.scale * radius * torch.cos(2 * math.pi * v)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats; finite for every finite row."""
        degrees, scale = self.degrees, self.scale.to(z.dtype)
        # The two log-gammas grow and nearly cancel, hence float64, and one number per coordinate, hence cheap.
        wide = degrees.to(torch.float32 if degrees.device.type == "mps" else torch.float64)
        height = torch.lgamma((wide + 1) / 2) - torch.lgamma(wide / 2) - 0.5 * torch.log(wide * math.pi)
        degrees = degrees.to(z.dtype)
        distance = (z - self.mean.to(z.dtype)) / (scale * degrees.sqrt())
        # log(1 + a²) = 2 log hypot(1, a): a² of a far row would overflow.
        fall = (degrees + 1) * torch.log(torch.hypot(torch.ones_like(distance), distance))
        return sum_event(height.to(z.dtype) - scale.log() - fall)

    def extra_repr(self) -> str:
        """The event shape and whether ν is learned, for ``print``."""
        return f"event_shape={self.event_shape}, learn_degrees={self.learn_degrees}"


class Uniform(nn.Module):
    """The uniform law on a closed box. Outside it the log-density is −∞, with gradient zero.

    Maximum likelihood needs a map that never leaves the box: an infinite loss has no direction.

    Args:
        low: Lower edges, broadcastable to the event.
        high: Upper edges, above them.
        event_shape: Shape of one row; by default what the edges broadcast to.

    Raises:
        ConfigError: Unless low < high, both finite.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor | float, high: Tensor | float, event_shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        edges = torch.as_tensor(low), torch.as_tensor(high)
        shape = torch.broadcast_shapes(edges[0].shape, edges[1].shape) if event_shape is None else event_shape
        self.event_shape = tuple(shape)
        self.register_buffer("low", spread(edges[0], self.event_shape, "low"))
        self.register_buffer("high", spread(edges[1], self.event_shape, "high"))
        if not bool((self.low < self.high).all() and (self.high - self.low).isfinite().all()):
            raise ConfigError(
                "The edges of the box must be finite, and each lower one below its upper one",
                where="Uniform",
                remedy="Leave out coordinates that do not vary.",
            )

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``."""
        u = uniforms(num_rows, self.event_shape, self.low, generator)
        return torch.minimum(self.low + (self.high - self.low) * u, self.high)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """−log volume ``(batch,)`` in nats, −∞ outside, NaN for rows that are NaN."""
        low, high = self.low.to(z.dtype), self.high.to(z.dtype)
        outside = (z < low) | (z > high)
        # Inside, a zero that depends on z: gradients exist, and NaN stays NaN.
        return sum_event(torch.where(outside, -torch.inf, 0 * torch.where(outside, 0.0, z) - (high - low).log()))

    def extra_repr(self) -> str:
        """The event shape, for ``print``."""
        return f"event_shape={self.event_shape}"


class ConditionalNormal(nn.Module):
    """N(μ(c), diag σ²(c)): mean and scale are functions of the condition; starts standard.

    Args:
        event_shape: Shape of one row.
        condition_features: Numbers in one condition.
        depth: Hidden layers of the network.
        width: Units in each.
        floor: Least σ.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_features: int,
        *,
        depth: int = 2,
        width: int = 64,
        floor: float = SCALE_FLOOR,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if condition_features < 1 or depth < 1 or width < 1:
            raise ConfigError(
                f"condition_features={condition_features}, depth={depth}, width={width}",
                where="ConditionalNormal",
                remedy="Each must be 1 or more; without a condition use DiagonalNormal.",
            )
        self.event_shape, self.condition_shape, self.floor = tuple(event_shape), (condition_features,), floor
        sizes = [condition_features, *[width] * depth]
        self.hidden = nn.ModuleList(linear(a, b, generator=generator) for a, b in pairwise(sizes))
        self.output = zero_linear(width, 2 * math.prod(self.event_shape))
        self._start = math.log(math.expm1(1.0 - floor))

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw one row per condition, ``(num_rows, *event)``, differentiable in weights and condition."""
        mean, scale = self._moments(check_num_rows(num_rows), condition)
        return mean + scale * normals(num_rows, self.event_shape, mean, generator)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density given ``condition``, ``(batch,)`` in nats."""
        mean, scale = self._moments(z.shape[0], condition)
        return normal_log_density(z, mean.to(z.dtype), scale.to(z.dtype))

    def _moments(self, num_rows: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """μ and σ, ``(batch, *event)``."""
        check_condition(condition, self.condition_shape, num_rows, "ConditionalNormal")
        assert condition is not None
        h = condition.to(self.output.weight.dtype)
        for layer in self.hidden:
            h = F.silu(layer(h))
        mean, raw = self.output(h).reshape(num_rows, 2, *self.event_shape).unbind(1)
        return mean, self.floor + F.softplus(raw + self._start)

    def extra_repr(self) -> str:
        """The shapes, for ``print``."""
        return f"event_shape={self.event_shape}, condition_shape={self.condition_shape}"


def normal_log_density(z: Tensor, mean: Tensor, scale: Tensor) -> Float[Tensor, " batch"]:
    """log N(z; mean, diag scale²) summed over the event, ``(batch,)``."""
    return sum_event(-0.5 * ((z - mean) / scale).square() - scale.log() - 0.5 * _LOG_TWO_PI)


def normals(num_rows: int, event_shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
    """Standard normals ``(num_rows, *event)``, drawn where the generator lives, in dtype and place of ``like``."""
    place = generator.device if generator is not None else like.device
    shape = (check_num_rows(num_rows), *event_shape)
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=place).to(like.device)


def uniforms(num_rows: int, event_shape: tuple[int, ...], like: Tensor, generator: Generator | None) -> Tensor:
    """Numbers in [0, 1), ``(num_rows, *event)``, drawn like `normals`."""
    place = generator.device if generator is not None else like.device
    shape = (check_num_rows(num_rows), *event_shape)
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=place).to(like.device)


def spread(value: Tensor | float, event_shape: tuple[int, ...], name: str) -> Float[Tensor, "*event"]:
    """``value`` as a tensor of its own in the shape of the event."""
    given = torch.as_tensor(value).detach()
    given = given if given.is_floating_point() else given.to(torch.get_default_dtype())
    try:
        return given.expand(event_shape).clone()
    except RuntimeError:
        raise ShapeError(
            f"{name} has shape {tuple(given.shape)}, which does not broadcast to {tuple(event_shape)}", where=name
        ) from None


def raw_scale(scale: Tensor, floor: float) -> Tensor:
    """The number that ``floor + softplus`` takes to ``scale``; raises `ConfigError` unless floor < scale."""
    if not bool((scale > floor).all() and scale.isfinite().all()):
        raise ConfigError(
            f"A scale starts at {float(scale.min()):.3g}, but must be finite and above its floor {floor:.3g}",
            where="base",
            remedy="Start higher, or lower the floor.",
        )
    return (scale - floor) + torch.log(-torch.expm1(-(scale - floor)))
