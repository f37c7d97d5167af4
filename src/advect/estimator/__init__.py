"""The scikit-learn face: `FlowEstimator` is a density estimator and a transformer with scikit-learn's habits."""

from advect.estimator.flow_estimator import FlowEstimator
from advect.estimator.habits import UnfittedError
from advect.estimator.rows import InputTypeError

__all__ = ["FlowEstimator", "InputTypeError", "UnfittedError"]
