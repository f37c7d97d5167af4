"""Random indices from the generator that was passed in, and from no other.

Global random state is never touched: a coupling that needs a draw refuses to work without a generator. A generator
may live on another device than the rows; the draw is made where the generator lives and then moved.
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.errors import ConfigError


def need_generator(generator: Generator | None, where: str) -> Generator:
    """Return ``generator``, or refuse with a `ConfigError` when there is none."""
    if generator is None:
        raise ConfigError(
            "this pairing is random, and no generator was given",
            where=where,
            remedy="Pass generator=torch.Generator().manual_seed(0); the global random state is never used.",
        )
    return generator


def permutation(num_rows: int, generator: Generator, device: torch.device) -> Int[Tensor, " batch"]:
    """A uniformly random order of ``num_rows`` indices."""
    return torch.randperm(num_rows, generator=generator, device=generator.device).to(device)


def integers(high: int, num_rows: int, generator: Generator, device: torch.device) -> Int[Tensor, " batch"]:
    """``num_rows`` independent uniform indices below ``high``."""
    return torch.randint(high, (num_rows,), generator=generator, device=generator.device).to(device)


def uniforms(num_rows: int, generator: Generator, device: torch.device) -> Float[Tensor, " batch"]:
    """``num_rows`` uniform numbers in [0, 1), float64."""
    return torch.rand(num_rows, generator=generator, device=generator.device, dtype=torch.float64).to(device)


def draw_sources(conditional: Float[Tensor, "source data"], generator: Generator) -> Int[Tensor, " data"]:
    """One source row per data row, by inversion of the column's cumulative distribution."""
    cumulative = conditional.T.contiguous().cumsum(1)
    level = uniforms(len(cumulative), generator, cumulative.device) * cumulative[:, -1]
    return torch.searchsorted(cumulative, level[:, None], right=True)[:, 0].clamp(max=cumulative.shape[1] - 1)
