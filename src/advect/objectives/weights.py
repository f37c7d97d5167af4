"""Weights of the loss: functions of the drawn time and of nothing else.

A weight that is drawn apart from its time is a bias. The weighted loss is ∫ w(t) p(t) L(t) dt, so a sampler with
density p changes the objective; `ImportanceWeight` divides it out again and leaves only a change of variance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advect.objectives.times import TimeSampler, UniformTimes

AnyTimes = Float[Tensor, "*times"]
Weight = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class UniformWeight:
    """One at every time."""

    def __call__(self, t: AnyTimes) -> AnyTimes:
        """Ones."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class BridgeWeight:
    """t(1 − t), which bounds the variance of a bridge's target at both ends."""

    def __call__(self, t: AnyTimes) -> AnyTimes:
        """t(1 − t)."""
        return t * (1 - t)


@dataclass(frozen=True)
class ImportanceWeight:
    """target density / drawn density: the loss under ``times`` then has the mean it has under ``target``.

    Where the drawn density is 0 (the exact ends of logit-normal times, reached only by rounding) the weight is 0.
    The weights of a density with light tails have a heavy tail themselves; expect a noisier loss, not a biased one.
    """

    times: TimeSampler
    target: TimeSampler = UniformTimes()  # noqa: RUF009  frozen, without state

    def __call__(self, t: AnyTimes) -> AnyTimes:
        """The density ratio at ``t``."""
        drawn = self.times.density(t)
        never = drawn == 0
        return torch.where(never, 0.0, self.target.density(t) / torch.where(never, 1.0, drawn))


@dataclass(frozen=True)
class ProductWeight:
    """The product of two weights, such as a bridge's and an importance correction."""

    first: Weight
    second: Weight

    def __call__(self, t: AnyTimes) -> AnyTimes:
        """first(t) · second(t)."""
        return self.first(t) * self.second(t)
