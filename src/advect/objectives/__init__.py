"""Losses per row: how a batch of paired ends becomes a number to descend.

An objective is called as ``objective(flow, batch, generator=…) -> loss (batch,)``. Times are drawn by a sampler that
knows its density, weights are functions of the drawn time, and the target comes in one record with its point.
"""

from advect.objectives.likelihood import MaximumLikelihood, RegularisedLikelihood
from advect.objectives.matching import VelocityMatching, drop_condition, mean_event
from advect.objectives.reverse import ReverseKL
from advect.objectives.times import (
    TIME_SAMPLERS,
    LogitNormalTimes,
    StratifiedTimes,
    TimeSampler,
    UniformTimes,
    make_times,
)
from advect.objectives.weights import (
    BridgeWeight,
    ImportanceWeight,
    ProductWeight,
    UniformWeight,
    Weight,
)

__all__ = [
    "TIME_SAMPLERS",
    "BridgeWeight",
    "ImportanceWeight",
    "LogitNormalTimes",
    "MaximumLikelihood",
    "ProductWeight",
    "RegularisedLikelihood",
    "ReverseKL",
    "StratifiedTimes",
    "TimeSampler",
    "UniformTimes",
    "UniformWeight",
    "VelocityMatching",
    "Weight",
    "drop_condition",
    "make_times",
    "mean_event",
]
