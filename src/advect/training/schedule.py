"""The learning rate as a function of the step: a pure function, so that nothing has to be saved."""

import math

from advect.training.config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate for step ``step`` (counted from 0): linear warm-up, then constant or a half cosine to zero.

    >>> learning_rate(0, TrainingConfig(steps=100, warmup_steps=10, learning_rate=1.0))
    0.1
    """
    warmup = min(config.warmup_steps, max(1, config.steps // 10))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.decay == "constant":
        return config.learning_rate
    done = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
