"""Randomness by counting: the draws of step s depend on the seed and s alone.

A generator is seeded afresh for every step from (seed, stream, step). A run that is stopped and continued therefore
makes the very draws an uninterrupted one would, and no generator state has to be saved. The mixing is SplitMix64
(Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"), whose outputs for neighbouring
counters are statistically unrelated.
"""

from collections.abc import Sequence

import torch

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """Hash integers to 63 bits.

    >>> mix(0, 1) != mix(1, 0)
    True
    """
    state = 0
    for number in numbers:
        state = (state + (number & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def generator_for(*numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for this place in the run, such as ``generator_for(seed, TRAINING, step)``."""
    return torch.Generator(device=device).manual_seed(mix(*numbers))


# Streams: the second number, so that the same step draws independently for different purposes.
TRAINING, SHUFFLE, VALIDATION, NETWORK, POOL, BLOCK = 1, 2, 3, 4, 5, 6


def seed_layers(seed: int, step: int, accelerators: Sequence[int]) -> None:
    """Seed torch's global generators for layers that draw from them.

    One by one: `torch.manual_seed` also keeps a note, with a stack trace, for every device that is not there yet.

    Args:
        seed: Of the run.
        step: Of the training.
        accelerators: Numbers of the CUDA devices whose generators are seeded too.
    """
    mixed = mix(seed, NETWORK, step)
    torch.default_generator.manual_seed(mixed)
    for index in accelerators:
        torch.cuda.default_generators[index].manual_seed(mixed)
