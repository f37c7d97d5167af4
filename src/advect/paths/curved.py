"""A path bent to pass its ends with given slopes: the piece of a smooth curve through several points.

Between x0 and x1 the cubic with slopes m0 and m1 is the straight line and a bend that vanishes at both ends,

    c(s) = s(1 − s) [(1 − s)(m0 − Δ) − s(m1 − Δ)],   Δ = x1 − x0          (Hermite's cubic, less the line)

Moving every point of a conditional path by c(s) moves the whole law: the velocity gains c'(s), and the score at the
moved point is what it was. So any path between two rows can be bent, its noise untouched.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Generator

from advect.records import Bridge
from advect.typing import Path, Rows, Scalars, Times, expand_time


def bend(s: Times, x0: Rows, x1: Rows, slope0: Rows, slope1: Rows) -> tuple[Rows, Rows]:
    """c(s) and c'(s), each ``(batch, *event)``.

    Args:
        s: ``(batch,)`` in [0, 1].
        x0: Where the piece begins.
        x1: Where it ends.
        slope0: dx/ds at its beginning.
        slope1: dx/ds at its end.
    """
    s = expand_time(s, x1)
    first, last = slope0 - (x1 - x0), slope1 - (x1 - x0)
    shift = s * (1 - s) * ((1 - s) * first - s * last)
    return shift, (1 - s) * (1 - 3 * s) * first - s * (2 - 3 * s) * last


def curved(bridge: Bridge, slope0: Rows, slope1: Rows) -> Bridge:
    """A draw from a path between two rows, moved onto the bent one."""
    assert bridge.x0 is not None
    assert bridge.x1 is not None
    shift, speed = bend(bridge.t, bridge.x0, bridge.x1, slope0, slope1)
    return replace(bridge, x=bridge.x + shift, velocity=bridge.velocity + speed)


@dataclass(frozen=True)
class CurvedPath:
    """A path whose slopes at the ends are functions of the two rows, such as those of a spline through further rows.

    Args:
        path: What is bent.
        slopes: ``slopes(x0, x1) -> (slope0, slope1)``, each ``(batch, *event)``.
    """

    path: Any
    slopes: Callable[[Rows, Rows], tuple[Rows, Rows]]

    @property
    def requires_gaussian_source(self) -> bool:
        """As the path that is bent."""
        return bool(getattr(self.path, "requires_gaussian_source", False))

    @property
    def time_weight(self) -> Callable[[Times], Times]:
        """That of the path that is bent, where it has one: the bend is as smooth as can be."""
        return self.path.time_weight

    def start(self) -> Any:
        """What it is made of at s = 0: as without the bend."""
        return self.path.start()

    def end(self) -> Any:
        """What it is made of at s = 1: as without the bend."""
        return self.path.end()

    def sample(self, t: Times, x0: Rows, x1: Rows, *, generator: Generator | None = None) -> Bridge:
        """A draw with the velocity there; see `curved`."""
        inner: Path = self.path
        return curved(inner.sample(t, x0, x1, generator=generator), *self.slopes(x0, x1))

    def velocity(self, t: Times, x: Rows, x0: Rows, x1: Rows) -> Rows:
        """Conditional velocity at given points."""
        shift, speed = bend(t, x0, x1, *self.slopes(x0, x1))
        return self.path.velocity(t, x - shift, x0, x1) + speed

    def log_density(self, t: Times, x: Rows, x1: Rows, x0: Rows | None = None) -> Scalars:
        """log p_t(x|x0, x1) ``(batch,)`` in nats, of paths that know theirs given both rows."""
        assert x0 is not None  # without both rows there are no slopes
        shift, _ = bend(t, x0, x1, *self.slopes(x0, x1))
        return self.path.log_density(t, x - shift, x1, x0)
