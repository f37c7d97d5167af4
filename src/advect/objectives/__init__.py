"""Losses per row: how a batch of paired ends becomes a number to descend.

An objective is called as ``objective(flow, batch, generator=…) -> loss (batch,)``. Times are drawn by a sampler that
knows its density, weights are functions of the drawn time (`snr`: of the log signal-to-noise ratio, the same on every
schedule), and the target comes from the very ends of its point.
"""

from advect.objectives.adversarial import Adversarial, energy_score
from advect.objectives.bridge import BridgeMatching
from advect.objectives.denoising import Denoising
from advect.objectives.dequantised import VariationalDequantisation
from advect.objectives.likelihood import (
    HamiltonJacobi,
    MaximumLikelihood,
    PathLikelihood,
    RegularisedLikelihood,
    StepGap,
    step_gap,
)
from advect.objectives.matching import VelocityMatching, drop_condition, mean_event, regression_loss
from advect.objectives.noise_times import LevelTimes, LogSnrNormalTimes, PowerTimes
from advect.objectives.reconstruction import Reconstruction
from advect.objectives.reverse import ReverseKL
from advect.objectives.snr import WEIGHTINGS, Natural, OfLogSnr, implied_weight, make_weight
from advect.objectives.supervised import CrossEntropy
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
    "WEIGHTINGS",
    "Adversarial",
    "BridgeMatching",
    "BridgeWeight",
    "CrossEntropy",
    "Denoising",
    "HamiltonJacobi",
    "ImportanceWeight",
    "LevelTimes",
    "LogSnrNormalTimes",
    "LogitNormalTimes",
    "MaximumLikelihood",
    "Natural",
    "OfLogSnr",
    "PathLikelihood",
    "PowerTimes",
    "ProductWeight",
    "Reconstruction",
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
    "energy_score",
    "implied_weight",
    "make_times",
    "make_weight",
    "mean_event",
    "regression_loss",
    "step_gap",
]
