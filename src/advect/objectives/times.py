"""How training times are drawn on [0, 1], each with the density it is drawn from.

The density belongs to the sampler so that a weight can be a function of the drawn time and of nothing else
(`weights.ImportanceWeight`). Logit-normal times: Esser et al. 2403.03206, section 3.1; there t = 1 is noise, so the
sign of ``mean`` is the opposite of theirs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, unknown_name
from advect.typing import Times

AnyTimes = Float[Tensor, "*times"]


@runtime_checkable
class TimeSampler(Protocol):
    """Draws times, and knows their density."""

    def __call__(
        self,
        num_rows: int,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw ``(num_rows,)`` times in [0, 1]."""
        ...

    def density(self, t: Tensor) -> Tensor:
        """Density of one drawn time."""
        ...


def uniform(
    num_rows: int,
    generator: Generator | None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Times:
    """``(num_rows,)`` uniform numbers in [0, 1), drawn where the generator lives and then moved."""
    drawn_on = device if generator is None else generator.device
    return torch.rand(num_rows, generator=generator, device=drawn_on, dtype=dtype).to(device)


@dataclass(frozen=True)
class UniformTimes:
    """Independent uniform times."""

    rowwise: ClassVar[bool] = True
    """Every time is drawn by itself, so that those of many batches may be drawn together."""

    def __call__(
        self,
        num_rows: int,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Times:
        """Draw ``(num_rows,)`` in [0, 1)."""
        return uniform(num_rows, generator, device, dtype)

    def density(self, t: AnyTimes) -> AnyTimes:
        """One."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class LogitNormalTimes:
    """Times whose logit is normal: more weight on the middle (``mean`` above 0: nearer the data).

    Args:
        mean: Mean of log(t/(1 − t)).
        std: Its standard deviation, above 0.
    """

    rowwise: ClassVar[bool] = True
    """Every time is drawn by itself, so that those of many batches may be drawn together."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ConfigError(
                f"mean={self.mean}, std={self.std}",
                where="logit-normal times",
                remedy="Take a finite mean and a finite std above 0.",
            )

    def __call__(
        self,
        num_rows: int,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Times:
        """Draw ``(num_rows,)``; rounding may give the exact ends."""
        drawn_on = device if generator is None else generator.device
        normal = torch.randn(num_rows, generator=generator, device=drawn_on, dtype=dtype).to(device)
        return torch.sigmoid(self.mean + self.std * normal)

    def density(self, t: AnyTimes) -> AnyTimes:
        """N(logit t; mean, std²)/(t(1 − t)), and 0 at both ends."""
        ends = (t <= 0) | (t >= 1)
        inside = torch.where(ends, 0.5, t)
        z = (torch.logit(inside) - self.mean) / self.std
        normaliser = self.std * math.sqrt(2 * math.pi)
        return torch.where(ends, 0.0, torch.exp(-z.square() / 2) / (normaliser * inside * (1 - inside)))


@dataclass(frozen=True)
class StratifiedTimes:
    """One uniform time per stratum [i/n, (i+1)/n) of the batch: the same mean loss with less variance.

    Args:
        shuffled: Give the strata to the rows in random order. Without it row i always gets stratum i, which is
            right only where the order of the rows means nothing.
    """

    shuffled: bool = True

    def __call__(
        self,
        num_rows: int,
        *,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Times:
        """Draw ``(num_rows,)``, one in each of ``num_rows`` equal strata."""
        drawn_on = device if generator is None else generator.device
        if self.shuffled:
            stratum = torch.randperm(num_rows, generator=generator, device=drawn_on).to(device)
        else:
            stratum = torch.arange(num_rows, device=device)
        inside = uniform(num_rows, generator, device, dtype)
        return (stratum.to(inside.dtype) + inside) / max(num_rows, 1)

    def density(self, t: AnyTimes) -> AnyTimes:
        """One: every shuffled row is uniform by itself, and every batch is uniform as a whole."""
        return torch.ones_like(t)


TIME_SAMPLERS: Mapping[str, Callable[..., TimeSampler]] = {
    "uniform": UniformTimes,
    "logit-normal": LogitNormalTimes,
    "stratified": StratifiedTimes,
}


def make_times(name: str, **options: float | bool) -> TimeSampler:
    """Build a time sampler by name; raises `UnknownNameError` with the nearest name.

    >>> make_times("logit-normal", mean=0.5)
    LogitNormalTimes(mean=0.5, std=1.0)
    """
    if name not in TIME_SAMPLERS:
        raise unknown_name("time sampler", name, TIME_SAMPLERS)
    return TIME_SAMPLERS[name](**options)
