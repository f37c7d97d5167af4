"""Several averages of the weights side by side, told apart by their half-lives, and which of them did best.

How long an average should remember depends on the batch, the learning rate and how long training goes on, and is only
known afterwards (Karras et al. 2023, arXiv 2312.02696, §3). Each further average costs the memory of the weights, a
pass over them in every step and its own pass over the validation rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from advect.errors import ConfigError
from advect.training.average import WeightAverage
from advect.training.config import TrainingConfig
from advect.training.flat import Flat

COLUMN = "validation_loss_half_life_"
"""What the history calls the validation loss of one average, before its half-life."""


@dataclass(frozen=True)
class AveragedLoss:
    """How well an average did on the validation rows.

    Attributes:
        half_life: In steps.
        loss: Its lowest validation loss.
        step: Where that was.
    """

    half_life: float
    loss: float
    step: int


def check_averages(config: TrainingConfig, *, validated: bool) -> None:
    """Refuse several averages where nothing says which is best.

    Raises:
        ConfigError: There are no validation rows.
    """
    if len(config.ema) > 1 and not validated:
        raise ConfigError(
            "several averages are kept and there are no validation rows to choose by",
            where="ema",
            remedy="Give one half-life, or a share of validation rows.",
        )


def averages_of(module: nn.Module, config: TrainingConfig, values: Flat | None = None) -> list[WeightAverage]:
    """The averages of a configuration: one for every half-life, or the one of ``ema_decay``.

    ``values`` is the buffer in which the weights lie, if they do.

    What lies h steps back weighs half as much as the present where the decay per step is 2^(−1/h).
    """
    decays = [0.5 ** (1 / half_life) for half_life in config.ema] or [config.ema_decay]
    return [WeightAverage(module, decay, values) for decay in decays]


def loss_columns(half_lives: Iterable[float], losses: Iterable[float]) -> dict[str, float]:
    """The losses by the names that the history gives them; nothing where there are no half-lives to tell."""
    return {f"{COLUMN}{half_life:g}": loss for half_life, loss in zip(half_lives, losses, strict=False)}


def lowest_losses(history: Iterable[Mapping]) -> list[AveragedLoss]:
    """Of every average its lowest validation loss, from the lines of a history; shortest half-life first."""
    found: dict[float, AveragedLoss] = {}
    for line in history:
        for name, loss in line.items():
            if not name.startswith(COLUMN) or loss is None:
                continue
            half_life = float(name.removeprefix(COLUMN))
            if half_life not in found or loss < found[half_life].loss:
                found[half_life] = AveragedLoss(half_life, loss, line["step"])
    return [found[half_life] for half_life in sorted(found)]


def average_words(losses: Iterable[AveragedLoss]) -> str:
    """Which average did best, and the others, in a sentence; empty where fewer than two are to be compared."""
    ranked = sorted(losses, key=lambda entry: entry.loss)
    if len(ranked) < 2:
        return ""
    told = [f"half-life {one.half_life:g}: {one.loss:.4g} at step {one.step}" for one in ranked]
    return f"Lowest validation loss of each average of the weights, by half-life in steps: {'; '.join(told)}."
