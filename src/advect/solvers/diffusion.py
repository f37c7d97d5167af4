"""How much noise a sampler adds: coefficients g(t) of an SDE that keeps the marginals of an affine path.

Every g keeps them (see `advect.solvers.stochastic`), so g is a choice and not a part of the model. A step asks only for
one number, the exponent ½ ∫ g²/σ² dt over the step: the noise in x keeps exp(−exponent) of what it was.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError, unknown_name
from advect.solvers.affine import Mark
from advect.typing import Schedule

AnyTimes = Float[Tensor, "*times"]

# Panels of the quadrature, each half as long as the one before, and nodes in each.
_PANELS, _NODES = 24, 12


@runtime_checkable
class Diffusion(Protocol):
    """A diffusion coefficient g(t) ≥ 0."""

    def exponent(self, schedule: Schedule, start: Mark, end: Mark) -> float:
        """½ ∫ g²/σ² dt from ``start`` to ``end``, not negative; ∞ where it diverges."""
        ...

    @property
    def adds_noise(self) -> bool:
        """Whether g is more than 0 by its strength."""
        ...


def _check_scale(scale: float) -> None:
    if not 0 <= scale < math.inf:
        raise ConfigError(f"the scale of the noise is {scale}", where="diffusion", remedy="Give 0 or more.")


@dataclass(frozen=True)
class Ancestral:
    """g² = η² σ² λ' with λ = 2 log(α/σ): the exponent is η² log(α_t σ_s/(α_s σ_t)).

    η = 1 is the posterior sampling of DDPM (Ho et al. 2006.11239, equations 6 and 7) and η = 0 the ODE. Between them
    this η scales g, while that of Song et al. 2010.02502 (equation 16) scales the noise of one step.

    Args:
        eta: η, 0 or more.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.eta)

    @property
    def adds_noise(self) -> bool:
        """Whether η is above 0."""
        return self.eta > 0

    def exponent(self, schedule: Schedule, start: Mark, end: Mark) -> float:
        """In closed form; ∞ from α = 0 and to σ = 0."""
        return 0.0 if self.eta == 0 else self.eta**2 * (end.log_ratio - start.log_ratio)


@dataclass(frozen=True)
class Coefficient:
    """g² = scale² · shape(schedule, t); its exponent by quadrature.

    Args:
        shape: Elementwise function of the schedule and a tensor of times, not negative.
        scale: 0 or more.
    """

    shape: Callable[[Schedule, AnyTimes], AnyTimes]
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    @property
    def adds_noise(self) -> bool:
        """Whether the scale is above 0."""
        return self.scale > 0

    def exponent(self, schedule: Schedule, start: Mark, end: Mark) -> float:
        """By Gauss–Legendre on panels that shrink towards the end of the step, where σ may be small.

        Raises:
            ConfigError: g² is negative or not a number somewhere in the step.
        """
        if self.scale == 0:
            return 0.0
        if end.behind == 0.0:
            # It diverges unless g falls off there; whether it does is of no account, since x is αD where σ = 0.
            return math.inf
        distance, weights = _graded_nodes()
        length = end.time - start.time
        time = end.time - length * distance
        squared = torch.as_tensor(self.shape(schedule, time), dtype=time.dtype).detach().expand(time.shape)
        if bool((squared < 0).any() | squared.isnan().any()):
            raise ConfigError(
                f"g² is negative or not a number between t = {start.time:g} and t = {end.time:g}",
                where="diffusion",
                remedy="Give a g that is a real number inside the interval of the solve.",
            )
        return self.scale**2 * abs(length) / 2 * float((squared / schedule.sigma(time).square() * weights).sum())


def given(g: Callable[[AnyTimes], AnyTimes]) -> Coefficient:
    """Any elementwise function g(t)."""
    return Coefficient(lambda schedule, t: torch.as_tensor(g(t), dtype=t.dtype).square())


def constant(c: float = 1.0) -> Coefficient:
    """g = c."""
    return Coefficient(lambda schedule, t: torch.ones_like(t), c)


def proportional(c: float = 1.0) -> Coefficient:
    """g² = 2cσ: on the linear path the noise fades as the data comes near."""
    _check_scale(c)
    return Coefficient(lambda schedule, t: 2 * schedule.sigma(t), math.sqrt(c))


def sine(c: float = 1.0) -> Coefficient:
    """g² = 2c sin²(πt): none at both ends, most in the middle."""
    _check_scale(c)
    return Coefficient(lambda schedule, t: 2 * torch.sin(math.pi * t).square(), math.sqrt(c))


# By name, each from the one number that sets its strength.
DIFFUSIONS: Mapping[str, Callable[[float], Diffusion]] = MappingProxyType(
    {"ancestral": Ancestral, "constant": constant, "sigma": proportional, "sine": sine}
)


def make_diffusion(name: str, scale: float = 1.0) -> Diffusion:
    """A coefficient of `DIFFUSIONS` by name: η of ``ancestral``, c of the others.

    Raises:
        UnknownNameError: No such coefficient; the nearest name is offered.
        ConfigError: A negative or infinite ``scale``.
    """
    if name not in DIFFUSIONS:
        raise unknown_name("diffusion", name, DIFFUSIONS)
    return DIFFUSIONS[name](scale)


@lru_cache(maxsize=1)
def _graded_nodes() -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights, on panels that halve towards 0: exact to rounding for poles beyond 0."""
    inner, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = np.concatenate([[0.0], 0.5 ** np.arange(_PANELS, -1, -1.0)])
    left, width = edges[:-1, None], np.diff(edges)[:, None]
    nodes = left + width * (inner + 1) / 2
    return torch.from_numpy(nodes.ravel()), torch.from_numpy((width * weights / 2).ravel())
