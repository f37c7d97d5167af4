"""Asking a path, whatever it offers: points with velocities, the velocity anywhere, the density where there is one.

A path need not be one of ours. It has ``sample(t, x0, x1, generator=…)`` that returns a `Bridge` or the pair (x,
velocity), or ``velocity(t, x, x0, x1)`` with ``log_density(t, x, x1, x0=None)``, or all three. Which condition density
and velocity are *given* is not asked but seen: by whether they can do without x0, and whether their values change when
the x0 of the rows are exchanged.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, ShapeError

CONTRACT = "A path has sample(t, x0, x1, *, generator) -> Bridge and velocity(t, x, x0, x1), with t of shape (batch,)."


def generator_of(seed: int, stream: str) -> Generator:
    """A generator for one purpose; two purposes share no draws, whatever the seed."""
    return Generator().manual_seed(len(STREAMS) * seed + STREAMS.index(stream))


STREAMS = ("rows", "path", "off the path", "times", "test functions")


@dataclass(frozen=True)
class Drawn:
    """Points of a path.

    Attributes:
        t: ``(rows,)``.
        x: ``(rows, *event)``.
        velocity: ``(rows, *event)``: the regression target.
        score: ``(rows, *event)`` or None.
    """

    t: Tensor
    x: Tensor
    velocity: Tensor
    score: Tensor | None


@dataclass(frozen=True)
class Probe:
    """A path with the rows it is asked about.

    Args:
        path: Any object with the contract above.
        x0: ``(rows, *event)`` float64 source rows.
        x1: ``(rows, *event)`` float64 data rows, paired with them.
        normal_source: Whether the source rows are standard normal and independent of the data rows, as a density given
            the data row alone presumes.
        seed: Of what the path draws. The same seed gives the same noise at every time, so that points at different
            times belong together.
    """

    path: Any
    x0: Tensor
    x1: Tensor
    normal_source: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.can_sample and not (self.has_velocity and callable(getattr(self.path, "log_density", None))):
            raise ConfigError(
                f"a {type(self.path).__name__} has neither sample nor the pair of velocity and log_density",
                where="verify",
                remedy=CONTRACT,
            )

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return self.x1.shape[0]

    @property
    def can_sample(self) -> bool:
        """Whether the path draws points."""
        return callable(getattr(self.path, "sample", None))

    @property
    def has_velocity(self) -> bool:
        """Whether the path tells its velocity anywhere."""
        return callable(getattr(self.path, "velocity", None))

    def draw(self, t: Tensor, rows: slice | None = None, dtype: torch.dtype = torch.float64) -> Drawn:
        """Points at times ``t`` ``(rows,)`` for these rows."""
        rows = rows or slice(None)
        x0, x1, t = self.x0[rows].to(dtype), self.x1[rows].to(dtype), t.to(dtype)
        generator = generator_of(self.seed, "path")
        extra = {"generator": generator} if _takes_generator(self.path.sample) else {}
        with torch.random.fork_rng(devices=[]):  # a path that draws without our generator is repeatable too
            torch.manual_seed(generator.initial_seed())
            made = _asked("sample", lambda: self.path.sample(t, x0, x1, **extra))
        x, velocity = (made.x, made.velocity) if hasattr(made, "velocity") else _pair(made)
        for name, value in (("x", x), ("velocity", velocity)):
            _check_shape(f"sample's {name}", value, x1.shape)
        return Drawn(t, x.detach(), velocity.detach(), getattr(made, "score", None))

    def velocity(self, t: Tensor, x: Tensor, x0: Tensor | None, x1: Tensor) -> Tensor:
        """The path's velocity at ``x``."""
        value = _asked("velocity", lambda: self.path.velocity(t, x, x0, x1))
        _check_shape("velocity", value, x.shape)
        return value

    def log_density(self, t: Tensor, x: Tensor, x1: Tensor, x0: Tensor | None) -> Tensor:
        """The path's log-density at ``x``: given the data row alone where ``x0`` is None."""
        if x0 is None:
            value = _asked("log_density", lambda: self.path.log_density(t, x, x1))
        else:
            value = _asked("log_density", lambda: self.path.log_density(t, x, x1, x0))
        _check_shape("log_density", value, x.shape[:1])
        return value

    def motion(self, t: Tensor, rows: slice | None = None, step: float = 1e-5) -> Tensor | None:
        """Time derivative of the drawn points with their noise held fixed; None where noise cannot be held.

        By central differences, which ask nothing of the path's code; accurate to about 1e-8 of its time scale inside
        (0, 1).
        """
        first, again = self.draw(t, rows), self.draw(t, rows)
        if not torch.equal(first.x, again.x):
            return None
        ahead, behind = self.draw(t + step, rows), self.draw(t - step, rows)
        return (ahead.x - behind.x) / (2 * step)

    def densities_given(self) -> tuple[str, ...]:
        """What the density is given: ``pair``, ``data``, both or nothing."""
        if not callable(getattr(self.path, "log_density", None)):
            return ()
        t, x, x0, x1 = self._few()
        found = []
        pair = _tried(lambda: self.log_density(t, x, x1, x0))
        exchanged = _tried(lambda: self.log_density(t, x, x1, x0.roll(1, 0)))
        if pair is not None and exchanged is not None and not _same(pair, exchanged):
            found.append("pair")
        data = _tried(lambda: self.log_density(t, x, x1, None))
        if data is not None or (pair is not None and not found):
            found.append("data")
        return tuple(found)

    def velocity_given(self, level: str) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
        """The velocity given ``pair`` or ``data`` as a function of (t, x, x0, x1); None where there is none."""
        if not self.has_velocity:
            return None
        if level == "pair":
            return self.velocity
        t, x, x0, x1 = self._few()
        if _tried(lambda: self.velocity(t, x, None, x1)) is not None:
            return lambda t, x, x0, x1: self.velocity(t, x, None, x1)
        pair = _tried(lambda: self.velocity(t, x, x0, x1))
        exchanged = _tried(lambda: self.velocity(t, x, x0.roll(1, 0), x1))
        blind = pair is not None and exchanged is not None and _same(pair, exchanged)
        return self.velocity if blind else None

    def density_given(self, level: str) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The log-density at a level of `densities_given` as a function of (t, x, x0, x1)."""
        t, x, _, x1 = self._few()
        if level == "data" and _tried(lambda: self.log_density(t, x, x1, None)) is not None:
            return lambda t, x, x0, x1: self.log_density(t, x, x1, None)
        return lambda t, x, x0, x1: self.log_density(t, x, x1, x0)

    def points(self, t: Tensor, rows: slice) -> Tensor:
        """Points near the path, on it and a little off it: ``(rows, *event)``."""
        x0, x1 = self.x0[rows], self.x1[rows]
        noise = torch.randn(x1.shape, generator=generator_of(self.seed, "off the path"), dtype=x1.dtype)
        time = t.reshape(-1, *([1] * (x1.ndim - 1)))
        on = self.draw(t, rows).x if self.can_sample else (1 - time) * x0 + time * x1
        return on + (0.05 if self.can_sample else 0.2) * noise

    def _few(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = slice(0, min(8, self.rows))
        t = torch.linspace(0.3, 0.7, self.x1[rows].shape[0], dtype=self.x1.dtype)
        return t, self.points(t, rows), self.x0[rows], self.x1[rows]


def _takes_generator(function: Callable) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == "generator" or p.kind is p.VAR_KEYWORD for p in parameters)


def _asked(name: str, question: Callable[[], Any]) -> Any:
    """The answer of a path's method; what goes wrong inside it is told as such."""
    try:
        return question()
    except Exception as error:
        raise ConfigError(
            f"the path's {name} raised {type(error).__name__}: {error}",
            where=f"{name}(t, …)",
            remedy=f"{CONTRACT} Rows are float64.",
        ) from error


def _tried(question: Callable[[], Tensor]) -> Tensor | None:
    """The answer, or None where the path has none."""
    try:
        return question()
    except (ConfigError, ShapeError):
        return None


def _pair(made: Any) -> tuple[Tensor, Tensor]:
    if not (isinstance(made, tuple | list) and len(made) >= 2):
        raise ShapeError(
            f"sample returned a {type(made).__name__}",
            where="sample(t, x0, x1)",
            remedy="Return a Bridge, or the pair (x, velocity).",
        )
    return made[0], made[1]


def _check_shape(name: str, value: Any, shape: torch.Size) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"{name} is {seen}, not a tensor of shape {tuple(shape)}", where="verify", remedy=CONTRACT)


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal up to rounding, NaN and infinities in the same places."""
    return torch.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)
