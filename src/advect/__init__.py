"""advect: flow-based generative models, from a table to samples, likelihoods and transport.

    import advect

    model = advect.fit(X, method="ot-cfm", seed=0)   # array, tensor, frame, file or built-in name
    model.sample(1000)
    model.log_prob(X)

Names are loaded when they are first used, so that importing advect costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advect.api import Model, compare, fit, load, verify
    from advect.errors import AdvectError
    from advect.estimator import FlowEstimator
    from advect.flows import Flow

_HOMES = {
    "AdvectError": "advect.errors",
    "Flow": "advect.flows",
    "FlowEstimator": "advect.estimator",
    "Model": "advect.api",
    "compare": "advect.api",
    "fit": "advect.api",
    "load": "advect.api",
    "verify": "advect.api",
}

__all__ = ["AdvectError", "Flow", "FlowEstimator", "Model", "compare", "fit", "load", "verify"]


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _HOMES:
        raise AttributeError(f"module 'advect' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*globals(), *__all__})
