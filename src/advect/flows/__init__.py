"""Flows: a base distribution and an invertible map, discrete or an ODE, that sample, score, encode and decode.

`Flow` joins the two. `ContinuousMap` makes a map of a velocity field; `VelocityField` makes a field of a
network on top of a Gaussian `baseline`; `BridgeField` also knows its score; `Guided` sharpens a conditional field;
`EmpiricalField` is the exact field of a data set. `on_schedule` runs a trained flow on another schedule. `Observed`
conditions a field on what was seen of the data, `given_coordinates` and `given_linear` a whole flow; `Autoguided`
pushes a field away from a weaker one.
"""

from advect.flows.autoguidance import Autoguided
from advect.flows.base import EmpiricalBase, IsotropicNormal, StandardNormal
from advect.flows.baseline import BridgeBaseline, GaussianBaseline, OptimalGaussianBaseline, fit_gaussian
from advect.flows.bases import ConditionalNormal, DiagonalNormal, FullNormal, StudentT, Uniform
from advect.flows.bridge import BridgeField
from advect.flows.conditioned_base import ConditionedBase
from advect.flows.continuous import ContinuousMap
from advect.flows.distribution import FlowDistribution
from advect.flows.empirical import EmpiricalField
from advect.flows.empirical_flow import EmpiricalStart, empirical_flow
from advect.flows.flow import Flow
from advect.flows.guidance import Guided
from advect.flows.mixture import GaussianMixture
from advect.flows.observed import Observed
from advect.flows.posterior import Posterior, given_coordinates, given_linear
from advect.flows.product import Product, Wrapped
from advect.flows.rescheduled import Rescheduled, on_schedule
from advect.flows.stages import layers, stages
from advect.flows.start_law import StartLaw, data_moments, start_law
from advect.flows.tweedie import Tweedie, schedule_with_score, tweedie
from advect.flows.velocity import VelocityField

__all__ = [
    "Autoguided",
    "BridgeBaseline",
    "BridgeField",
    "ConditionalNormal",
    "ConditionedBase",
    "ContinuousMap",
    "DiagonalNormal",
    "EmpiricalBase",
    "EmpiricalField",
    "EmpiricalStart",
    "Flow",
    "FlowDistribution",
    "FullNormal",
    "GaussianBaseline",
    "GaussianMixture",
    "Guided",
    "IsotropicNormal",
    "Observed",
    "OptimalGaussianBaseline",
    "Posterior",
    "Product",
    "Rescheduled",
    "StandardNormal",
    "StartLaw",
    "StudentT",
    "Tweedie",
    "Uniform",
    "VelocityField",
    "Wrapped",
    "data_moments",
    "empirical_flow",
    "fit_gaussian",
    "given_coordinates",
    "given_linear",
    "layers",
    "on_schedule",
    "schedule_with_score",
    "stages",
    "start_law",
    "tweedie",
]
