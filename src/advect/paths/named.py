"""The schedules by name, for everything that offers a choice."""

from collections.abc import Callable, Mapping

from advect.errors import unknown_name
from advect.paths.noising import (
    DiscreteVariancePreserving,
    Karras,
    SmoothVariancePreserving,
    SubVariancePreserving,
    VarianceExploding,
)
from advect.paths.schedule import AffineSchedule, Linear, Lipman, Trigonometric

SCHEDULES: Mapping[str, Callable[[], AffineSchedule]] = {
    "linear": Linear,
    "lipman": Lipman,
    "cosine": Trigonometric,
    "vp": SmoothVariancePreserving,
    "subvp": SubVariancePreserving,
    "ve": VarianceExploding,
    "edm": Karras,
    "ddpm": DiscreteVariancePreserving,
}


def make_schedule(name: str) -> AffineSchedule:
    """A schedule with its usual constants; raises `UnknownNameError` with the nearest name.

    >>> make_schedule("edm")
    Karras(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    """
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    return SCHEDULES[name]()
