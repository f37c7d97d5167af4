"""Eight two-dimensional distributions that generative models are shown on, at stated scales.

The same names stand for several scales in the literature; results on one scale say nothing about another. Those of
``8gaussians``, ``moons`` and ``scurve`` are the ones of Tong et al. (2302.00482); the others follow the shapes that
Grathwohl et al. (1810.01367) made common. Each set is given by a formula in its docstring, with u, v uniform on
[0, 1) and n standard normal, all drawn anew for each row. Three have a density in closed form.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.errors import UnsupportedError

DATA_ROWS = 10_000
DATA_SEED = 2302
"""The seed of the rows that a built-in name reads as: the same 10,000 on every machine."""


@dataclass(frozen=True)
class Drawn:
    """Rows and the part of the distribution each came from.

    Attributes:
        x: ``(rows, 2)`` float64.
        label: ``(rows,)`` index of the mode, arc, arm or ring; None where there are no parts.
    """

    x: Float[Tensor, "rows 2"]
    label: Int[Tensor, " rows"] | None = None


@dataclass(frozen=True)
class Toy:
    """A two-dimensional distribution.

    Attributes:
        name: As it is asked for.
        title: What it is, with its scale.
        draw: The generator of rows.
        density: Log-density, or None where there is no closed form.
    """

    name: str
    title: str
    draw: Callable[[int, Generator], Drawn]
    density: Callable[[Tensor], Tensor] | None = None

    def sample(self, num_rows: int, generator: Generator) -> Float[Tensor, "rows 2"]:
        """Draw ``(num_rows, 2)`` float64 rows."""
        return self.draw(num_rows, generator).x

    def log_density(self, x: Float[Tensor, "rows 2"]) -> Float[Tensor, " rows"]:
        """Log-density in nats, -inf outside the support.

        Raises:
            UnsupportedError: The set has no density in closed form.
        """
        if self.density is None:
            raise UnsupportedError(
                f"{self.name!r} has no density in closed form",
                remedy=f"Use one of {', '.join(n for n, t in TOYS.items() if t.density)}.",
            )
        return self.density(x.double())


def _uniform(num_rows: int, generator: Generator) -> Tensor:
    return torch.rand(num_rows, generator=generator, dtype=torch.float64)


def _normal(num_rows: int, generator: Generator) -> Tensor:
    return torch.randn(num_rows, 2, generator=generator, dtype=torch.float64)


def _choice(options: int, num_rows: int, generator: Generator) -> Tensor:
    return torch.randint(options, (num_rows,), generator=generator)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


# ---- moons: two half circles of radius 2 around (-1, 0) and (1, 1), std 0.1


def _moons(num_rows: int, generator: Generator) -> Drawn:
    """2·arc + (-1, 0) + 0.1 n; arc = (cos πu, sin πu) or (1 - cos πu, 1/2 - sin πu), each half the time."""
    arc = _choice(2, num_rows, generator)
    upper = _polar(torch.ones(num_rows, dtype=torch.float64), math.pi * _uniform(num_rows, generator))
    lower = torch.tensor([1.0, 0.5], dtype=torch.float64) - upper
    x = 2 * torch.where(arc[:, None] == 0, upper, lower) + 2 * 0.05 * _normal(num_rows, generator)
    return Drawn(x - torch.tensor([1.0, 0.0], dtype=torch.float64), arc)


# ---- 8gaussians: unit normals on a circle of radius 5


def _eight_centres() -> Tensor:
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return _polar(torch.full((8,), 5.0, dtype=torch.float64), angle)


def _eight_gaussians(num_rows: int, generator: Generator) -> Drawn:
    """5 (cos kπ/4, sin kπ/4) + n, k uniform on 0..7."""
    mode = _choice(8, num_rows, generator)
    return Drawn(_eight_centres()[mode] + _normal(num_rows, generator), mode)


def _eight_gaussians_density(x: Tensor) -> Tensor:
    squares = (x[:, None] - _eight_centres().to(x)).square().sum(-1)
    return torch.logsumexp(-squares / 2, dim=1) - math.log(8 * 2 * math.pi)


# ---- checkerboard: the dark squares of side 2 in [-4, 4)²


def _checkerboard(num_rows: int, generator: Generator) -> Drawn:
    """One of 8 squares of side 2, uniform in it: those with even floor(x₀/2) + floor(x₁/2)."""
    column = _choice(4, num_rows, generator)
    row = 2 * _choice(2, num_rows, generator) + column % 2
    corner = torch.stack([column, row], dim=1) - 2
    inside = torch.stack([_uniform(num_rows, generator), _uniform(num_rows, generator)], dim=1)
    return Drawn(2 * (corner + inside))


def _checkerboard_density(x: Tensor) -> Tensor:
    inside = ((x >= -4) & (x < 4)).all(dim=1) & ((x / 2).floor().sum(dim=1) % 2 == 0)
    zero = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    return torch.where(inside, zero - math.log(32), zero - math.inf)


# ---- scurve: two three-quarter circles of radius 1.5, joined


def _scurve(num_rows: int, generator: Generator) -> Drawn:
    """1.5 (sin s, sign(s)(cos s - 1)) + 0.075 n, s = 3π(u - 1/2)."""
    s = 3 * math.pi * (_uniform(num_rows, generator) - 0.5)
    curve = torch.stack([s.sin(), s.sign() * (s.cos() - 1)], dim=1)
    return Drawn(1.5 * (curve + 0.05 * _normal(num_rows, generator)))


# ---- spiral: one arm of one and a half turns, outer radius 4


def _spiral(num_rows: int, generator: Generator) -> Drawn:
    """4√u (cos 3π√u, sin 3π√u) + 0.1 n."""
    along = _uniform(num_rows, generator).sqrt()
    return Drawn(_polar(4 * along, 3 * math.pi * along) + 0.1 * _normal(num_rows, generator))


# ---- swissroll: a spiral from radius 0.94 to 2.83


def _swissroll(num_rows: int, generator: Generator) -> Drawn:
    """(s/5) (cos s, sin s) + 0.1 n, s = 3π/2 (1 + 2u)."""
    s = 1.5 * math.pi * (1 + 2 * _uniform(num_rows, generator))
    return Drawn(_polar(s / 5, s) + 0.1 * _normal(num_rows, generator))


# ---- pinwheel: five bent blades of length about 2


def _pinwheel(num_rows: int, generator: Generator) -> Drawn:
    """2 R(2πk/5 + e^a/4) (a, b), a = 1 + 0.3 n, b = 0.1 n, k uniform on 0..4."""
    blade = _choice(5, num_rows, generator)
    shape = torch.tensor([0.3, 0.1], dtype=torch.float64) * _normal(num_rows, generator)
    along, across = 1 + shape[:, 0], shape[:, 1]
    angle = blade * (2 * math.pi / 5) + 0.25 * along.exp()
    rotated = _polar(along, angle) + _polar(across, angle + math.pi / 2)
    return Drawn(2 * rotated, blade)


# ---- rings: four circles of radius 0.75, 1.5, 2.25, 3


RING_RADII = (0.75, 1.5, 2.25, 3.0)
RING_STD = 0.1


def _rings(num_rows: int, generator: Generator) -> Drawn:
    """r_k (cos 2πu, sin 2πu) + 0.1 n, r_k = 0.75, 1.5, 2.25 or 3, each a quarter of the time."""
    ring = _choice(4, num_rows, generator)
    radius = torch.tensor(RING_RADII, dtype=torch.float64)[ring]
    circle = _polar(radius, 2 * math.pi * _uniform(num_rows, generator))
    return Drawn(circle + RING_STD * _normal(num_rows, generator), ring)


def _rings_density(x: Tensor) -> Tensor:
    """A normal of variance s² around a circle of radius r: exp(-(ρ² + r²)/2s²) I₀(ρr/s²) / 2πs² at radius ρ."""
    radius = torch.tensor(RING_RADII, dtype=x.dtype, device=x.device)
    rho = x.norm(dim=1, keepdim=True)
    variance = RING_STD**2
    bessel = torch.special.i0e(rho * radius / variance).log()  # scaled by exp(-ρr/s²), which completes the square
    parts = -((rho - radius) ** 2) / (2 * variance) + bessel
    return torch.logsumexp(parts, dim=1) - math.log(4 * 2 * math.pi * variance)


TOYS: dict[str, Toy] = {
    toy.name: toy
    for toy in (
        Toy("moons", "two half circles of radius 2, std 0.1", _moons),
        Toy("8gaussians", "eight unit normals on a circle of radius 5", _eight_gaussians, _eight_gaussians_density),
        Toy("checkerboard", "eight squares of side 2 in [-4, 4)²", _checkerboard, _checkerboard_density),
        Toy("scurve", "an S of two arcs of radius 1.5, std 0.075", _scurve),
        Toy("spiral", "one arm of 1½ turns, outer radius 4, std 0.1", _spiral),
        Toy("swissroll", "a roll from radius 0.94 to 2.83, std 0.1", _swissroll),
        Toy("pinwheel", "five bent blades of length about 2", _pinwheel),
        Toy("rings", "four circles of radius 0.75 to 3, std 0.1", _rings, _rings_density),
    )
}
"""Name to distribution."""
