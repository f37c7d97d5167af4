"""Denoising: regress what the network predicts (noise, x1, score, velocity, EDM's output) on what a drawn path was.

Ho et al. 2006.11239, equation 14, and Karras et al. 2206.00364, equation 8, are two of its cases. All of them have the
minimiser of flow matching on the same path; what differs is the weight, see `objectives.snr`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, unknown_name
from advect.objectives.matching import drop_condition, mean_event, of_network
from advect.objectives.snr import LossWeight, Natural
from advect.objectives.times import TimeSampler, UniformTimes
from advect.paths import PREDICTIONS, AffinePath, target
from advect.records import Batch, Drawn, Regression
from advect.typing import Field, Scalars, written_for

END_MARGIN = 1e-3  # kept in time from an end where the weight or the target is not finite


@dataclass(frozen=True)
class Denoising:
    """The regression of ``flow.predict(t, x, condition)``.

    Args:
        path: An affine path without noise of its own; its schedule converts between predictions.
        prediction: What the network predicts, one of `paths.PREDICTIONS`; it must be what its field says it is.
        times: How t is drawn, once per row.
        weight: What the squared error is multiplied with; None for nothing.
        condition_dropout: Probability with which a row's condition is replaced by zeros.

    Raises:
        UnknownNameError: No such prediction.
        ConfigError: A path with constant noise, whose points are not α x1 + σ x0.
    """

    path: AffinePath
    prediction: str
    times: TimeSampler = UniformTimes()  # noqa: RUF009  frozen, without state
    weight: LossWeight | None = None
    condition_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise unknown_name("prediction", self.prediction, PREDICTIONS)
        if self.path.sigma:
            raise ConfigError(
                f"the path has constant noise {self.path.sigma:g}, which no prediction but the velocity accounts for",
                where="denoising",
                remedy="Take sigma = 0, or predict the velocity.",
            )

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The times that are trained on: [0, 1], less 1e-3 at an end where the loss has no finite value."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        source = torch.ones(2, dtype=torch.float64)
        wanted = target(self.prediction, ends, source, source, self.path.schedule)
        # Multipliers are taken a few units of rounding inside where they have a pole, so a pole is a huge number.
        start, end = ((wanted.abs() < 1e12) & (self._multiplier(ends).abs() < 1e12)).tolist()
        return (0.0 if start else END_MARGIN, 1.0 if end else 1 - END_MARGIN)

    def __call__(self, flow: torch.nn.Module, batch: Batch, *, generator: Generator | None = None) -> Scalars:
        """Loss ``(batch,)``: the weighted squared error, averaged over the event.

        Args:
            flow: A module with ``predict(t, x, condition)``.
            batch: Data rows; source rows x0 where it has some, else fresh standard-normal noise.
            generator: Of every draw: times, noise, dropped conditions.
        """
        return self.loss(flow, self.draw(batch, generator=generator))

    def draw(self, batch: Batch, *, generator: Generator | None = None) -> Drawn:
        """Times, then noise, then the dropped conditions."""
        x1, x0, condition = batch.x1, batch.x0, batch.condition
        t = self.times(x1.shape[0], generator=generator, device=x1.device, dtype=x1.dtype).clamp(*self.interval)
        if x0 is None:
            drawn_on = x1.device if generator is None else generator.device
            x0 = torch.randn(x1.shape, generator=generator, device=drawn_on, dtype=x1.dtype).to(x1.device)
        bridge = self.path.sample(t, x0, x1)
        if condition is not None:
            condition = drop_condition(condition, self.condition_dropout, generator=generator)
        return Drawn(bridge, condition)

    def loss(self, flow: torch.nn.Module, drawn: Drawn) -> Scalars:
        """Loss ``(batch,)`` of what was drawn."""
        bridge, t = drawn.bridge, drawn.bridge.t
        assert bridge.x0 is not None
        assert bridge.x1 is not None
        wanted = target(self.prediction, t, bridge.x0, bridge.x1, self.path.schedule)
        predict = cast(Field, flow.predict)  # a module's attributes have no types
        error = mean_event((predict(t, bridge.x, drawn.condition) - wanted).square())
        return error if self._plain else error * self._multiplier(t).to(error.dtype)

    def regression(self, flow: torch.nn.Module, drawn: Drawn) -> Regression | None:
        """The same loss as the squared error of one network, where it is that (`typing.RegressionObjective`)."""
        if not written_for(type(self), "regression", "loss", "__call__", "draw"):
            return None
        bridge, t = drawn.bridge, drawn.bridge.t
        assert bridge.x0 is not None
        assert bridge.x1 is not None
        wanted = target(self.prediction, t, bridge.x0, bridge.x1, self.path.schedule)
        weight = None if self._plain else self._multiplier(t)
        return of_network(flow, "prediction", t, bridge.x, drawn.condition, wanted, weight)

    @property
    def rowwise(self) -> bool:
        """Whether every row is drawn by itself, so that the rows of many batches may be drawn together."""
        return getattr(self.times, "rowwise", False)

    @property
    def _plain(self) -> bool:
        return self.weight is None or self.weight == Natural(self.prediction)

    def _multiplier(self, t: Tensor) -> Tensor:
        if self.weight is None:
            return torch.ones_like(t)
        return self.weight(t.double(), self.prediction, self.path.schedule, self.times)
