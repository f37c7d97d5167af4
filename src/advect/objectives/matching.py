"""Conditional flow matching: regress the model's velocity on the conditional velocity of a path.

L = E w(t) |v_t(x, θ) − u_t(x|x0, x1)|² has the gradient of the loss against the marginal field
u_t(x) = E[u_t(x|x0, x1)|x] and exceeds it by the variance of the conditional field, which does not depend on θ
(Lipman et al. 2210.02747, theorem 2; Tong et al. 2302.00482, theorem 3.2).
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.objectives.times import TimeSampler, UniformTimes, uniform
from advect.objectives.weights import UniformWeight, Weight
from advect.paths import curved
from advect.records import Batch, Bridge
from advect.typing import Field, Path, Rows, Scalars, Times, expand_time, sum_event


def drop_condition(condition: Rows, probability: float, *, generator: Generator | None = None) -> Rows:
    """Replace the condition of each row, independently with ``probability``, by zeros: "no condition".

    ``condition`` is ``(batch, *condition)``; the number of dropped rows in a batch is binomial.
    """
    if probability == 0:
        return condition
    kept = uniform(condition.shape[0], generator, condition.device, torch.float32) >= probability
    return torch.where(kept.reshape(-1, *([1] * (condition.ndim - 1))), condition, 0.0)


def mean_event(x: Rows) -> Scalars:
    """Mean of ``(batch, *event)`` over the event: ``(batch,)``, also for scalar events and for events of no numbers."""
    return x.flatten(1).mean(1) if x.shape[1:].numel() > 1 else sum_event(x)


def on_interval(s: Times, interval: Tensor | None) -> tuple[Times, Times | float]:
    """Times of the flow at the times ``s`` in [0, 1] of a path between rows that stand at ``interval`` of the flow, and
    the length of that interval: dx/ds = length · dx/dt.

    Args:
        s: ``(batch,)``.
        interval: ``(batch, 2)``; None for the whole of the flow's time.
    """
    if interval is None:
        return s, 1.0
    start, end = interval.unbind(1)
    return torch.lerp(start, end, s), end - start


@dataclass(frozen=True)
class VelocityMatching:
    """The regression of ``flow.velocity(t, x, condition)`` on the velocity of a path.

    A batch whose ends stand at times a < b of the flow (`records.Batch.interval`) has its path run between them: with s
    the path's own time and t = a + s(b − a), the loss is that of the displacement, |(b − a) v_t(x) − u_s(x|x0, x1)|²,
    so that short and long intervals count alike. A batch with slopes has its path bent onto them (`paths.curved`).

    Args:
        path: Where points and targets come from. The x0 it mixes is the x0 of its target: one record carries both.
        times: How t is drawn, once per row.
        weight: w(t), a function of the drawn t; None for the path's own ``time_weight`` where it has one (bridges,
            whose loss has no finite variance without), else one.
        condition_dropout: Probability in [0, 1] with which a row's condition is replaced by zeros, for
            classifier-free guidance.
    """

    path: Path
    times: TimeSampler = UniformTimes()  # noqa: RUF009  frozen, without state
    weight: Weight | None = None
    condition_dropout: float = 0.0

    takes_intervals: ClassVar[bool] = True
    """Whether batches with an interval are understood; without this mark an objective is for the whole time."""

    def __post_init__(self) -> None:
        if not 0 <= self.condition_dropout <= 1:
            raise ConfigError(
                f"condition_dropout is {self.condition_dropout}",
                where="velocity matching",
                remedy="Take a probability between 0 and 1.",
            )

    @property
    def time_weight(self) -> Weight:
        """The w(t) in use."""
        return self.weight or getattr(self.path, "time_weight", None) or UniformWeight()

    def bridge(self, batch: Batch, *, generator: Generator | None = None) -> Bridge:
        """Draw times and points for a batch, which must carry x0."""
        if batch.x0 is None:
            raise ConfigError(
                "the batch has no source rows x0",
                where="velocity matching",
                remedy="Pair the data with a source through a coupling first.",
            )
        x1 = batch.x1
        t: Times = self.times(x1.shape[0], generator=generator, device=x1.device, dtype=x1.dtype)
        bridge = self.path.sample(t, batch.x0, x1, generator=generator)
        return bridge if batch.slopes is None else curved(bridge, *batch.slopes.unbind(1))

    def __call__(self, flow: torch.nn.Module, batch: Batch, *, generator: Generator | None = None) -> Scalars:
        """Loss ``(batch,)``: w(t) times the squared error of the velocity, averaged over the event.

        Args:
            flow: A module with ``velocity(t, x, condition)``.
            batch: Paired rows; their weights are left to the caller.
            generator: Of every draw: times, then the path's noise, then the dropped conditions.
        """
        bridge = self.bridge(batch, generator=generator)
        condition = batch.condition
        if condition is not None:
            condition = drop_condition(condition, self.condition_dropout, generator=generator)
        velocity = cast(Field, flow.velocity)  # a module's attributes have no types
        time, length = on_interval(bridge.t, batch.interval)
        prediction = velocity(time, bridge.x, condition)
        if batch.interval is not None:
            prediction = expand_time(length, bridge.x) * prediction
        loss, weight = mean_event((prediction - bridge.velocity).square()), self.time_weight
        return loss if isinstance(weight, UniformWeight) else loss * weight(bridge.t)  # by ones: two passes saved
