"""The tasks of transport in the plane: where rows start and where they go (Tong et al. 2302.00482).

``8gaussians``, ``moons`` and ``scurve`` start from a standard normal. ``moons-8gaussians`` has a finite set at both
ends and a larger scale: moons of noise 0.1, centred and of standard deviation 7 over both coordinates together, and
eight Gaussians of standard deviation 1.5 on a circle of radius 12.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from advect.data.toys import TOYS

# Before the noise, two unit half circles have mean (1/2, 1/4) and second moments 1 and (1/2 + 3/4 − 2/π)/2.
_MOONS_NOISE, _MOONS_STD = 0.1, 7.0
_RADIUS, _STD = 12.0, 1.5


@dataclass(frozen=True)
class Population:
    """What rows are drawn from.

    Attributes:
        title: In words.
        sample: ``sample(rows, generator) -> (rows, 2)`` float64.
    """

    title: str
    sample: Callable[[int, Generator], Tensor]


def _large_moons(num_rows: int, generator: Generator) -> Tensor:
    angle = math.pi * torch.rand(num_rows, generator=generator, dtype=torch.float64)
    upper = torch.rand(num_rows, generator=generator, dtype=torch.float64) < 0.5
    arcs = torch.stack([angle.cos(), angle.sin()], 1)
    x = torch.where(upper[:, None], arcs, torch.tensor([1.0, 0.5], dtype=torch.float64) - arcs)
    x = x + _MOONS_NOISE * torch.randn(num_rows, 2, generator=generator, dtype=torch.float64)
    variances = (1 - 1 / 4, (1 / 2 + 3 / 4 - 2 / math.pi) / 2 - 1 / 16)
    spread = math.sqrt(sum(variances) / 2 + _MOONS_NOISE**2)
    return (x - torch.tensor([0.5, 0.25], dtype=torch.float64)) * (_MOONS_STD / spread)


def _large_gaussians(num_rows: int, generator: Generator) -> Tensor:
    angle = torch.randint(8, (num_rows,), generator=generator) * (math.pi / 4)
    centre = _RADIUS * torch.stack([angle.cos(), angle.sin()], 1).double()
    return centre + _STD * torch.randn(num_rows, 2, generator=generator, dtype=torch.float64)


TARGET = {name: Population(TOYS[name].title, TOYS[name].sample) for name in ("8gaussians", "moons", "scurve")} | {
    "moons-8gaussians": Population("eight normals of std 1.5 on a circle of radius 12", _large_gaussians)
}
START = {"moons-8gaussians": Population("two half circles, noise 0.1, of std 7 over both coordinates", _large_moons)}


def conditional_ends(num_rows: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Eight Gaussians to moons as in C2OT (2503.10636): source and data rows ``(rows, 2)`` float64, and the moon 0, 1.

    Source: covariance √0.1 I on a circle of radius 5. Data: two half circles, each point moved along
    (1, 1) by a uniform number below 0.2, times 3, minus 1.
    """
    angle = torch.randint(8, (num_rows,), generator=generator) * (math.pi / 4)
    x0 = 5 * torch.stack([angle.cos(), angle.sin()], 1).double()
    x0 = x0 + 0.1**0.25 * torch.randn(num_rows, 2, generator=generator, dtype=torch.float64)
    along = math.pi * torch.rand(num_rows, generator=generator, dtype=torch.float64)
    moon = torch.randint(2, (num_rows,), generator=generator)
    arcs = torch.stack([along.cos(), along.sin()], 1)
    x1 = torch.where(moon[:, None] == 0, arcs, torch.tensor([1.0, 0.5], dtype=torch.float64) - arcs)
    x1 = x1 + 0.2 * torch.rand(num_rows, 1, generator=generator, dtype=torch.float64)
    return x0, 3 * x1 - 1, moon


class ConditionalSource(nn.Module):
    """The source of `conditional_ends` as the base of a flow, drawn anew every time."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = (2,)

    def sample(self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None) -> Tensor:
        """Draw ``(num_rows, 2)`` float32; the condition plays no part."""
        assert generator is not None
        return conditional_ends(num_rows, generator)[0].float()

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Nobody asks for it here."""
        raise NotImplementedError
