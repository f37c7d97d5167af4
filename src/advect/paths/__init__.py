"""Conditional probability paths p_t(x|x0, x1) and their velocities: what lies between a source row and a data row.

A path samples: ``path.sample(t, x0, x1, generator=…) -> Bridge(t, x, velocity, score, x0, x1)``; it also tells its
velocity at any point and, where it has one, its log-density. Schedules set the clock, `convert` turns predictions of
velocity, noise, score, x1 and displacement into one another, `Retimed` changes the schedule of a learnt field, and the
pulls are the fields w(t)(x1 − x) with what they leave behind. t = 0 is the source and t = 1 the data.
"""

from advect.paths.affine import AffinePath, linear
from advect.paths.bridge import BrownianBridge
from advect.paths.clock import Affine, Clock, Shortened, Widened
from advect.paths.convert import PREDICTIONS, coefficients, convert, error_factor, target
from advect.paths.curved import CurvedPath, bend, curved
from advect.paths.fields import (
    NoisyDynamics,
    PullField,
    WeightedPull,
    arrival_report,
    blurred_data,
    noisy_target,
)
from advect.paths.gaussian import GaussianPath, LipmanPath, Pair
from advect.paths.named import SCHEDULES, make_schedule
from advect.paths.noising import (
    DiscreteVariancePreserving,
    Karras,
    SmoothVariancePreserving,
    SubVariancePreserving,
    VarianceExploding,
)
from advect.paths.pulls import (
    CallablePull,
    ConstantPull,
    PowerPull,
    Pull,
    RegularisedPull,
    RescaledPull,
    TangentPull,
    remaining_fraction,
)
from advect.paths.retime import Retimed, clocking
from advect.paths.schedule import (
    AffineSchedule,
    EndWeights,
    Linear,
    Lipman,
    Trigonometric,
    VariancePreserving,
    end_weights,
    wronskian,
)

__all__ = [
    "PREDICTIONS",
    "SCHEDULES",
    "Affine",
    "AffinePath",
    "AffineSchedule",
    "BrownianBridge",
    "CallablePull",
    "Clock",
    "ConstantPull",
    "CurvedPath",
    "DiscreteVariancePreserving",
    "EndWeights",
    "GaussianPath",
    "Karras",
    "Linear",
    "Lipman",
    "LipmanPath",
    "NoisyDynamics",
    "Pair",
    "PowerPull",
    "Pull",
    "PullField",
    "RegularisedPull",
    "RescaledPull",
    "Retimed",
    "Shortened",
    "SmoothVariancePreserving",
    "SubVariancePreserving",
    "TangentPull",
    "Trigonometric",
    "VarianceExploding",
    "VariancePreserving",
    "WeightedPull",
    "Widened",
    "arrival_report",
    "bend",
    "blurred_data",
    "clocking",
    "coefficients",
    "convert",
    "curved",
    "end_weights",
    "error_factor",
    "linear",
    "make_schedule",
    "noisy_target",
    "remaining_fraction",
    "target",
    "wronskian",
]
