"""Models that figures share, each trained once in a build."""

import functools
from pathlib import Path

import numpy as np
import torch

import advect
from advect.data.silhouette import read_silhouette
from advect.data.toys import TOYS

CAT = Path(__file__).resolve().parents[2] / "examples" / "cat.png"


@functools.cache
def rows_of(name: str, count: int = 4000) -> np.ndarray:
    """Rows ``(count, 2)`` of a built-in set, of `crescents`, or of a drawing of a cat."""
    if name == "cat":
        columns = read_silhouette(CAT).columns
        return np.stack([np.asarray(c) for c in columns], axis=1)[:count]
    generator = torch.Generator().manual_seed(0)
    if name == "crescents":  # the moons, wide enough for a grid to be seen in them
        return rows_of("moons", count) + 0.35 * torch.randn(count, 2, generator=generator).double().numpy()
    return TOYS[name].sample(count, generator).double().numpy()


@functools.cache
def trained(data: str, method: str, steps: int, count: int = 4000, **options: object) -> advect.Model:
    """A model of `rows_of` that set, with seed 0."""
    torch.set_num_threads(1)
    return advect.fit(rows_of(data, count), method=method, steps=steps, seed=0, **options)
