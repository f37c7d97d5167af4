"""Gaussian conditional paths p_t(x|z) = N(μ(t, z), s(t, z)²) with whatever mean and spread a user writes.

The field that carries them is u = (s'/s)(x − μ) + μ' (Lipman et al. 2210.02747, theorem 3). For a drawn point
x = μ + s·ε this is s'·ε + μ', which needs no division. Where s = 0 the law is a point and only its motion is left:
u = μ', unless the noise is known to be x0 itself, which gives the limit s'·x0 + μ'.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError, UnsupportedError
from advect.paths.schedule import EndWeights, Lipman
from advect.records import Bridge
from advect.typing import Rows, Scalars, Times, batch_time, expand_time, sum_event


class Pair(NamedTuple):
    """Both ends of a path, each ``(batch, *event)``."""

    x0: Tensor
    x1: Tensor


def standard_normal(like: Rows, generator: Generator | None) -> Rows:
    """Standard-normal noise of the shape, dtype and device of ``like``, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def ratio_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0 (also backwards: no NaN gradient)."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def gaussian_log_density(x: Rows, mean: Rows, std: Tensor) -> Scalars:
    """Log-density ``(batch,)`` of N(mean, std²) in nats; a std of 0 is a point: +∞ on it, −∞ elsewhere.

    ``std`` broadcasts against ``x``; its sign does not matter.
    """
    std = std.abs().expand(x.shape)
    point = std == 0
    safe = torch.where(point, 1.0, std)
    per_entry = -0.5 * ((x - mean) / safe).square() - safe.log() - 0.5 * math.log(2 * math.pi)
    at_point = torch.where(x == mean, torch.inf, -torch.inf).to(x.dtype)
    total = sum_event(torch.where(point, at_point, per_entry))
    missed = sum_event((point & (x != mean)).to(x.dtype)) > 0  # +∞ − ∞ would be NaN
    return torch.where(missed, -torch.inf, total)


class Moments(NamedTuple):
    """Mean and standard deviation with their time derivatives, each ``(batch, *event)``."""

    mean: Tensor
    std: Tensor
    mean_derivative: Tensor
    std_derivative: Tensor


def _shaped(value: Tensor | float, like: Tensor, name: str) -> Tensor:
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    try:
        return value.expand(like.shape)
    except RuntimeError as error:
        raise ShapeError(
            f"{name}(t, z) returned shape {tuple(value.shape)} for rows of shape {tuple(like.shape)}",
            where="GaussianPath",
            remedy="t comes as (batch, 1, …, 1): compute with it directly, without reshaping it.",
        ) from error


@dataclass(frozen=True)
class GaussianPath:
    """A Gaussian path from two functions; derivatives in time by forward mode.

    Args:
        mean: ``mean(t, z)`` with t of shape ``(batch, 1, …, 1)``, returning something that broadcasts to the rows.
        std: ``std(t, z)`` likewise: a number, one per row, or one per entry.
        given: What z is. ``pair``: ``Pair(x0, x1)``, and fresh noise is drawn. ``data``: x1 alone; then x0 *is* the
            noise, x = μ + s·x0, and the source must be standard normal (`requires_gaussian_source`).
    """

    mean: Callable[[Tensor, Tensor | Pair], Tensor | float]
    std: Callable[[Tensor, Tensor | Pair], Tensor | float]
    given: str = "pair"

    def __post_init__(self) -> None:
        if self.given not in ("pair", "data"):
            raise ConfigError(
                f"given={self.given!r}", where="GaussianPath", remedy="Take 'pair' for z = (x0, x1) or 'data' for x1."
            )

    @property
    def requires_gaussian_source(self) -> bool:
        """Whether x0 takes the place of the noise, so that any other source would give a wrong law."""
        return self.given == "data"

    def moments(self, t: Times, x0: Rows | None, x1: Rows) -> Moments:
        """μ, s, μ' and s' for each row."""
        if self.given == "pair" and x0 is None:
            raise UnsupportedError(
                "the path is conditioned on both ends and x0 is missing",
                where="GaussianPath",
                remedy="Give x0, or build the path with given='data'.",
            )
        z = x1 if self.given == "data" or x0 is None else Pair(x0, x1)
        time = expand_time(t, x1).contiguous()  # forward mode refuses expanded tensors

        def both(time: Tensor) -> tuple[Tensor, Tensor]:
            return _shaped(self.mean(time, z), x1, "mean"), _shaped(self.std(time, z), x1, "std")

        values, derivatives = torch.func.jvp(both, (time,), (torch.ones_like(time),))[:2]
        return Moments(*values, *derivatives)

    def sample(self, t: Times, x0: Rows, x1: Rows, *, generator: Generator | None = None) -> Bridge:
        """Draw x = μ + s·ε with the velocity s'·ε + μ' and the score −ε/s (both without their ε-term where s = 0).

        A path given the data takes x0 for ε and keeps s'·x0 at s = 0 wherever s' is finite.
        """
        moments = self.moments(t, x0, x1)
        noise = x0 if self.given == "data" else standard_normal(x1, generator)
        return Bridge(
            t=batch_time(t, x1),
            x=moments.mean + moments.std * noise,
            velocity=moments.mean_derivative + self._spread(moments, noise),
            score=ratio_or_zero(-noise, moments.std),
            x0=x0,
            x1=x1,
        )

    def _spread(self, moments: Moments, noise: Tensor) -> Tensor:
        """s'·ε, with the rule for s = 0."""
        known = moments.std_derivative.isfinite() if self.given == "data" else torch.zeros_like(moments.std).bool()
        usable = (moments.std != 0) | known
        return torch.where(usable, torch.where(usable, moments.std_derivative, 0.0) * noise, 0.0)

    def velocity(self, t: Times, x: Rows, x0: Rows | None, x1: Rows) -> Rows:
        """u = (s'/s)(x − μ) + μ' at any point; where s = 0 see `sample`."""
        moments = self.moments(t, x0, x1)
        noise = ratio_or_zero(x - moments.mean, moments.std)
        if self.given == "data" and x0 is not None:
            noise = torch.where(moments.std == 0, x0, noise)
        return moments.mean_derivative + self._spread(moments, noise)

    def log_density(self, t: Times, x: Rows, x1: Rows, x0: Rows | None = None) -> Scalars:
        """log p_t(x|z) ``(batch,)`` in nats."""
        moments = self.moments(t, x0, x1)
        return gaussian_log_density(x, moments.mean, moments.std)


@dataclass(frozen=True)
class LipmanPath:
    """Lipman's optimal-transport path p_t(x|x1) = N(t·x1, (1 − (1 − s)t)²) (2210.02747, equations 20 to 23).

    The source is the noise: x = t·x1 + σ_t·x0, so the x0 of the path is the x0 of the target, which is
    x1 − (1 − s)x0. This is valid for a standard-normal source only. Ends at x1 + s·x0.

    Args:
        sigma_min: s, the blur left at t = 1. Zero is allowed: the velocity keeps its limit, the score is 0 there.
    """

    sigma_min: float = 1e-4

    def __post_init__(self) -> None:
        Lipman(self.sigma_min)  # refuses a bad value with its own message

    @property
    def schedule(self) -> Lipman:
        """The affine schedule behind the path."""
        return Lipman(self.sigma_min)

    @property
    def requires_gaussian_source(self) -> bool:
        """Always: the path is conditioned on x1 alone and its noise is the source."""
        return True

    def start(self) -> EndWeights:
        """x0 exactly."""
        return self.schedule.start()

    def end(self) -> EndWeights:
        """x1 + s·x0."""
        return self.schedule.end()

    def sample(self, t: Times, x0: Rows, x1: Rows, *, generator: Generator | None = None) -> Bridge:
        """x = t·x1 + σ_t·x0, velocity x1 − (1 − s)x0, score −x0/σ_t (0 where σ_t = 0); nothing is drawn."""
        time = expand_time(t, x1)
        sigma = self.schedule.sigma(time)
        return Bridge(
            t=batch_time(t, x1),
            x=time * x1 + sigma * x0,
            velocity=x1 - (1 - self.sigma_min) * x0,
            score=ratio_or_zero(-x0, sigma),
            x0=x0,
            x1=x1,
        )

    def velocity(self, t: Times, x: Rows, x0: Rows | None, x1: Rows) -> Rows:
        """u_t(x|x1) = (x1 − (1 − s)x)/(1 − (1 − s)t); x0 serves only for the limit where σ_t = 0."""
        time = expand_time(t, x1)
        sigma = self.schedule.sigma(time)
        limit = x1 if x0 is None else x1 - (1 - self.sigma_min) * x0
        return torch.where(sigma == 0, limit, ratio_or_zero(x1 - (1 - self.sigma_min) * x, sigma))

    def log_density(self, t: Times, x: Rows, x1: Rows, x0: Rows | None = None) -> Scalars:
        """log p_t(x|x1) ``(batch,)`` in nats; x0 is not part of the condition."""
        time = expand_time(t, x1)
        return gaussian_log_density(x, time * x1, self.schedule.sigma(time))
