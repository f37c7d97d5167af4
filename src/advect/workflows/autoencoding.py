"""Settings of the autoencoder in front of a flow: `--latent` and its `latent_…` settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Generator

from advect.errors import ConfigError, unknown_name
from advect.run.card import Setting
from advect.transforms import Autoencoder

PREFIX = "latent_"
MOST = {"channels": 256, "halvings": 8, "width": 1024}  # more is refused, also from a file


@dataclass(frozen=True)
class Autoencoding:
    """What the first stage is, and how it is trained.

    Attributes:
        channels: Of a code.
        halvings: How often the sides of a picture are halved.
        width: Channels of the first convolution.
        steps: Optimiser steps.
        batch_size: Pictures per step.
        noise: Standard deviation of the noise on codes in training.
        penalty: Weight of the mean square of codes.
    """

    channels: int = 4
    halvings: int = 2
    width: int = 32
    steps: int = 2000
    batch_size: int = 64
    noise: float = 0.1
    penalty: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("channels", "width", "steps", "batch_size", "halvings"):
            least = 0 if name == "halvings" else 1
            if not least <= getattr(self, name) <= MOST.get(name, 1 << 24):
                raise ConfigError(f"it is {getattr(self, name)}", where=PREFIX + name)
        for name in ("noise", "penalty"):
            if not 0 <= getattr(self, name) < 1e6:
                raise ConfigError(f"it is {getattr(self, name)}, but must not be negative", where=PREFIX + name)

    def stage(self, event_shape: tuple[int, ...], generator: Generator | None = None) -> Autoencoder:
        """The autoencoder of pictures ``(channels, height, width)``, with weights from the generator."""
        return Autoencoder(
            event_shape, channels=self.channels, halvings=self.halvings, width=self.width, generator=generator
        )


_MEANINGS = {
    "channels": "of a code",
    "halvings": "how often the sides are halved",
    "width": "channels of the first convolution",
    "steps": "optimiser steps of the autoencoder",
    "batch_size": "pictures per step of the autoencoder",
    "noise": "on codes in training",
    "penalty": "weight of the mean square of codes",
}


def split_off(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the autoencoder, without their prefix, and all others."""
    own = {name.removeprefix(PREFIX): value for name, value in settings.items() if name.startswith(PREFIX)}
    return own, {name: value for name, value in settings.items() if not name.startswith(PREFIX)}


def autoencoding(on: bool, given: Mapping[str, Any]) -> Autoencoding | None:
    """The record from values by name (without prefix); None without an autoencoder.

    Raises:
        UnknownNameError: There is no such setting.
        ConfigError: Settings of an autoencoder that is not asked for, or of the wrong kind.
    """
    known = Autoencoding.__dataclass_fields__
    for name, value in given.items():
        if name not in known:
            raise unknown_name("setting", PREFIX + name, [PREFIX + one for one in known])
        whole = isinstance(known[name].default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ConfigError(f"{value!r} is no {'whole ' if whole else ''}number", where=PREFIX + name)
    if given and not on:
        raise ConfigError(
            "there is no autoencoder to set up", where=PREFIX + next(iter(given)), remedy="Ask for one with --latent."
        )
    return Autoencoding(**given) if on else None


def autoencoding_settings(latent: Autoencoding | None) -> dict[str, dict[str, Setting]]:
    """The section of the configuration; none without an autoencoder."""
    if latent is None:
        return {}
    default = Autoencoding()
    return {
        "latent": {
            name: Setting(value, _MEANINGS[name], "default" if value == getattr(default, name) else "given")
            for name, value in vars(latent).items()
        }
    }


def latent_options(config: Mapping[str, Any]) -> list[str]:
    """The words of the command that ask for the autoencoder of a stored run."""
    stored = config.get("latent")
    if not stored:
        return []
    default = vars(Autoencoding())
    words = ["--latent"]
    for name, value in stored.items():
        if name in default and value != default[name]:
            words += ["--set", f"{PREFIX}{name}={value}"]
    return words
