"""One entry of the registry of maps: how to build it, and what accuracy theory promises of it."""

from collections.abc import Callable
from dataclasses import dataclass

from advect.transforms import Bijection


@dataclass(frozen=True)
class Case:
    """A map under every law of `tests/laws/test_transform_laws.py`.

    Attributes:
        build: Makes the map in float64, with weights that are *not* the identity and the same at every call.
        log_det: Largest error of the log-determinant against autograd's Jacobian, relative and absolute.
        round_trip: Largest error of decode∘encode in float64, relative and absolute.
        round_trip_float32: The same in float32.
        reason: Why a tolerance is looser than rounding.
        mixed: Whether the map, moved to float32, keeps float64 rows float64 (maps without a network).
        extreme: Largest input at which values and gradients must be finite.
        nodes: Of the rule by which the density of a map of one number is integrated; fewer where decoding is slow.
        smooth: Whether the map is twice differentiable, so that finite differences of the log-determinant are safe.
    """

    build: Callable[[], Bijection]
    log_det: float = 1e-9
    round_trip: float = 1e-10
    round_trip_float32: float = 3e-4
    reason: str = ""
    mixed: bool = False
    extreme: float = 1e6
    smooth: bool = True
    nodes: int = 20001
