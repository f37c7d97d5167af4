"""Losses per row: how a batch of paired ends becomes a number to descend.

An objective is called as ``objective(flow, batch, generator=…) -> loss (batch,)``. Times are drawn by a sampler that
knows its density, weights are functions of the drawn time, and the target comes in one record with its point.
"""

from advect.objectives.dequantised import VariationalDequantisation
from advect.objectives.likelihood import (
    HamiltonJacobi,
    MaximumLikelihood,
    PathLikelihood,
    RegularisedLikelihood,
    StepGap,
    step_gap,
)
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
    "HamiltonJacobi",
    "ImportanceWeight",
    "LogitNormalTimes",
    "MaximumLikelihood",
    "PathLikelihood",
    "ProductWeight",
    "RegularisedLikelihood",
    "ReverseKL",
    "StepGap",
    "StratifiedTimes",
    "TimeSampler",
    "UniformTimes",
    "UniformWeight",
    "VariationalDequantisation",
    "VelocityMatching",
    "Weight",
    "drop_condition",
    "make_times",
    "mean_event",
    "step_gap",
]
