"""Test functions: sines of random directions, and bumps that say where.

f is bounded, so averages of f and ∇f·u behave, and smooth, so nothing is assumed of the density. Sines at several
scales see shifts, spreads and shapes; a bump exp(−|x − c|²/2) sees only what happens near c. A sine may also look at
the pair a point belongs to; then the average tests the law given the pair, not only on the whole.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

SINES, BUMPS = 48, 8
SCALES = (0.3, 1.0, 2.0)  # of the frequencies, in units of one over the spread of what is looked at


@dataclass(frozen=True)
class TestFunctions:
    """Sines of ``(x, also)`` and bumps in x, with their gradients in x.

    Attributes:
        scale: ``(width,)`` units of x.
        frequencies: ``(width, SINES)`` in those units.
        also: ``(rows, SINES)`` what the sines take from the pair of each row, phase included.
        centres: ``(BUMPS, width)`` in those units.
    """

    __test__ = False  # the name is the field's own, not pytest's

    scale: Tensor
    frequencies: Tensor
    also: Tensor
    centres: Tensor

    @classmethod
    def draw(cls, x: Tensor, given: tuple[Tensor, ...], generator: Generator) -> "TestFunctions":
        """Random ones for flat points ``(rows, width)`` and flat rows that the sines may look at."""
        scale = _spread(x)
        rows, width = x.shape
        looked = width * (1 + len(given))
        size = torch.tensor(SCALES, dtype=x.dtype).repeat(SINES // len(SCALES)) / (looked / width) ** 0.5

        def directions() -> Tensor:
            return torch.randn(width, SINES, generator=generator, dtype=x.dtype) * size

        frequencies = directions()
        also = 2 * torch.pi * torch.rand(1, SINES, generator=generator, dtype=x.dtype).expand(rows, SINES)
        for one in given:
            also = also + (one / _spread(one)) @ directions()
        chosen = torch.randperm(rows, generator=generator)[:BUMPS]
        return cls(scale, frequencies, also, x[chosen] / scale)

    def values(self, x: Tensor) -> Tensor:
        """f ``(rows, SINES + BUMPS)``."""
        y = x / self.scale
        return torch.cat([(y @ self.frequencies + self.also).sin(), self._bumps(y)], 1)

    def along(self, x: Tensor, direction: Tensor) -> Tensor:
        """∇f · direction ``(rows, SINES + BUMPS)`` for one direction per row."""
        y, moved = x / self.scale, direction / self.scale
        sines = (y @ self.frequencies + self.also).cos() * (moved @ self.frequencies)
        # ∇ exp(−|y − c|²/2) = −(y − c) f.
        inward = moved @ self.centres.T - (moved * y).sum(1, keepdim=True)
        return torch.cat([sines, self._bumps(y) * inward], 1)

    def centre(self, index: int) -> tuple[float, ...] | None:
        """Where the bump number ``index`` of the columns stands; None for a sine, which stands everywhere."""
        if index < SINES:
            return None
        return tuple((self.centres[index - SINES] * self.scale).tolist())

    def _bumps(self, y: Tensor) -> Tensor:
        return (-0.5 * torch.cdist(y, self.centres).square()).exp()


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of each coordinate, at least a millionth of the largest, so that a flat one divides too."""
    spread = x.std(0)
    return spread.clamp(min=max(1e-6 * float(spread.max()), 1e-12))
