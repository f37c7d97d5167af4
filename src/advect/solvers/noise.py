"""The noise of a stochastic solve: a function of the step and of a row's place, and of nothing else.

Noise comes from seeds that are drawn from the given generator when the solve starts, one per step. Each step draws for
all rows of the batch and keeps those that are left, so it is a function of its arguments, and a row's noise is the same
whoever fails beside it.
"""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from advect.solvers.along import System
from advect.solvers.ledger import row_numbers


@dataclass(frozen=True)
class NoisySystem(System):
    """A system whose rows know their places in the batch, and with them their noise.

    Attributes:
        rows: ``(rows,)`` places of the rows still on their way.
        batch: Rows of the whole batch.
        seeds: For each step one seed of its noise and one for states inside it.
    """

    rows: Tensor | None = None
    batch: int = 0
    seeds: tuple[tuple[int, int], ...] = ()

    def take(self, index: Tensor) -> "NoisySystem":
        """The same for some of the rows."""
        assert self.rows is not None
        part = super().take(index)
        assert isinstance(part, NoisySystem)
        return replace(part, rows=self.rows[index])

    def noise(self, number: int, like: Tensor, *, inside: bool = False) -> Tensor:
        """Standard normal ``(rows, columns)`` of step ``number``: the same whenever it is asked for."""
        generator = Generator(device=like.device).manual_seed(self.seeds[number][inside])
        drawn = torch.randn(self.batch, like.shape[1], generator=generator, dtype=like.dtype, device=like.device)
        return drawn[self.rows]


def with_noise(system: System, y: Tensor, generator: Generator | None, steps: int) -> NoisySystem:
    """The bare state of ``system`` with the seeds of ``steps`` steps from ``y``; without a generator torch's own."""
    device = generator.device if generator is not None else "cpu"
    drawn = torch.randint(2**62, (steps, 2), generator=generator, device=device)
    seeds = tuple((first, second) for first, second in drawn.tolist())
    known = (system.field, system.event, system.dtype, system.condition)
    return NoisySystem(*known, rows=row_numbers(y), batch=len(y), seeds=seeds)
