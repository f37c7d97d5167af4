"""Conditional flow matching: regress the model's velocity on the conditional velocity of a path.

L = E w(t) |v_t(x, θ) − u_t(x|x0, x1)|² has the gradient of the loss against the marginal field
u_t(x) = E[u_t(x|x0, x1)|x] and exceeds it by the variance of the conditional field, which does not depend on θ
(Lipman et al. 2210.02747, theorem 2; Tong et al. 2302.00482, theorem 3.2).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.objectives.times import TimeSampler, UniformTimes, uniform
from advect.objectives.weights import UniformWeight, Weight
from advect.paths import curved
from advect.records import Batch, Bridge, Drawn, Regression
from advect.typing import Field, Path, Rows, Scalars, Times, expand_time, sum_event, written_for


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


def of_network(
    flow: torch.nn.Module,
    quantity: str,
    t: Times,
    x: Rows,
    condition: Tensor | None,
    target: Rows,
    weight: Scalars | None,
) -> Regression | None:
    """The squared error of a flow's velocity or prediction as one of its network; None where it is not."""
    offered: Any = getattr(flow, "network_target", None)
    found = None if offered is None else offered(quantity, t, x, condition, target)
    if found is None:
        return None
    network, time, points, wanted = found
    return Regression(network, time, points, wanted, condition, weight)


def regression_loss(regression: Regression) -> Scalars:
    """Loss ``(batch,)`` of a regression, by asking its network."""
    said = regression.network(regression.t, regression.x, regression.condition)
    loss = mean_event((said - regression.target).square())
    return loss if regression.weight is None else loss * regression.weight.to(loss.dtype)


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
        return self.loss(flow, self.draw(batch, generator=generator))

    def draw(self, batch: Batch, *, generator: Generator | None = None) -> Drawn:
        """Times, then the path's noise, then the dropped conditions."""
        bridge = self.bridge(batch, generator=generator)
        condition = batch.condition
        if condition is not None:
            condition = drop_condition(condition, self.condition_dropout, generator=generator)
        return Drawn(bridge, condition, batch.interval)

    def loss(self, flow: torch.nn.Module, drawn: Drawn) -> Scalars:
        """Loss ``(batch,)`` of what was drawn."""
        bridge = drawn.bridge
        velocity = cast(Field, flow.velocity)  # a module's attributes have no types
        time, length = on_interval(bridge.t, drawn.interval)
        prediction = velocity(time, bridge.x, drawn.condition)
        if drawn.interval is not None:
            prediction = expand_time(length, bridge.x) * prediction
        loss, weight = mean_event((prediction - bridge.velocity).square()), self.time_weight
        return loss if isinstance(weight, UniformWeight) else loss * weight(bridge.t)  # by ones: two passes saved

    def regression(self, flow: torch.nn.Module, drawn: Drawn) -> Regression | None:
        """The same loss as the squared error of one network, where it is that (`typing.RegressionObjective`)."""
        bridge, weight = drawn.bridge, self.time_weight
        if not written_for(type(self), "regression", "loss", "__call__", "draw"):
            return None
        time, length = on_interval(bridge.t, drawn.interval)
        target = bridge.velocity if drawn.interval is None else bridge.velocity / expand_time(length, bridge.x)
        weights = None if isinstance(weight, UniformWeight) else weight(bridge.t)
        if isinstance(length, Tensor):
            weights = length.square() if weights is None else weights * length.square()
        return of_network(flow, "velocity", time, bridge.x, drawn.condition, target, weights)

    @property
    def rowwise(self) -> bool:
        """Whether every row is drawn by itself, so that the rows of many batches may be drawn together."""
        return getattr(self.times, "rowwise", False)
