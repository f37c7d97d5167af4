"""What a user asks of `train` and `fit`: one record, checked once."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from advect.errors import ConfigError, unknown_name
from advect.methods import Blueprint, Parts, get_method
from advect.training import TrainingConfig
from advect.workflows.autoencoding import Autoencoding

DEFAULT_STEPS = 5000
MOST_BATCH = 1 << 24
DEFAULT_BATCH = 256
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class TrainRequest:
    """A training as it was asked for; None means "choose for me".

    Attributes:
        data: File, built-in name, array, tensor, frame or `Table`.
        method: Name of a row of the table of methods.
        out: Run folder; None trains in memory.
        condition: Columns that are given, not modelled.
        weights: Column of row weights.
        source: Rows to start from in place of Gaussian noise.
        steps: Optimiser steps.
        budget_seconds: Wall time for everything, report included, in place of steps.
        batch_size: Rows per step.
        network: Name of the network.
        seed: Of every draw.
        split_seed: Of the split into training, validation and held-out rows; by default the seed. Trainings that differ
            in their seeds alone share their held-out rows where it is given.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        restart: Move an old run aside first.
        options: Settings of the method's own.
        training: Settings of the loop by name, see `TrainingConfig`.
        settings: Settings of the model by name, see `methods.Blueprint`.
        validation: Share of rows for choosing the best weights.
        test: Share of rows held out for the figures.
        key: The array inside an ``.npz``, or the representation of cells.
        flip: Train on pictures of which half, drawn anew in every step, are mirrored left to right.
        continuous: Give every number column a density, whole-valued ones too: nothing is dequantised, and
            log-probabilities are densities throughout.
        parts: The user's own objects.
        time_key: Column, or side array, of times: the model then leads from each time to the next.
        leave_out: Times whose rows are kept for the figures.
        spline: Train on smooth curves through all times instead of straight lines between two.
        reflow: A run folder, or its model: train on the pairs that its flow makes, to straighten its paths.
        pairs: How many of them.
        latent: Train an autoencoder first, and the flow on its codes; None for rows as they are.
    """

    data: Any
    method: str = "ot-cfm"
    out: Path | None = None
    condition: tuple[str, ...] = ()
    weights: str | None = None
    source: Any = None
    steps: int | None = None
    budget_seconds: float | None = None
    batch_size: int | None = None
    network: str = "auto"
    seed: int = 0
    split_seed: int | None = None
    device: str = "auto"
    restart: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation: float = 0.1
    test: float = 0.1
    key: str | None = None
    flip: bool = False
    continuous: bool = False
    parts: Parts = field(default_factory=Parts)
    time_key: str | None = None
    leave_out: tuple[str | float, ...] = ()
    spline: bool = False
    reflow: Any = None
    pairs: int | None = None
    latent: Autoencoding | None = None

    def __post_init__(self) -> None:
        get_method(self.method)
        self._check_times()
        self._check_reflow()
        if self.latent is not None:
            self._check_latent()
        if self.steps is not None and self.budget_seconds is not None:
            raise ConfigError(
                "steps and a time budget contradict each other", where="--steps, --budget", remedy="Give one of them."
            )
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps must be at least 1, not {self.steps}", where="--steps")
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise ConfigError(f"the budget must be positive, not {self.budget_seconds:g} s", where="--budget")
        if self.batch_size is not None and self.batch_size < 2:
            raise ConfigError(f"a batch needs at least 2 rows, not {self.batch_size}", where="--batch-size")
        if self.batch_size is not None and self.batch_size > MOST_BATCH:
            raise ConfigError(
                f"a batch of {self.batch_size} rows is too large",
                where="--batch-size",
                remedy=f"Give at most {MOST_BATCH}.",
            )
        for option, seed in (("--seed", self.seed), ("--split-seed", self.splits_by)):
            if seed < 0:
                raise ConfigError(f"the seed must not be negative, not {seed}", where=option)
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is a share between 0 and 1, not {getattr(self, name)}", where=name)
        for name in self.training:
            if name not in TrainingConfig.__dataclass_fields__:
                raise unknown_name("training setting", name, TrainingConfig.__dataclass_fields__)

    def _check_latent(self) -> None:
        given = {"--source": self.source is not None, "--time-key": self.time_key is not None}
        for option in (name for name, value in given.items() if value):
            raise ConfigError(
                f"{option} cannot be used with codes of an autoencoder",
                where="--latent",
                remedy="Leave out one of them.",
            )

    def _check_times(self) -> None:
        if self.time_key is None:
            for option, given in (("--leave-out", self.leave_out), ("--spline", self.spline)):
                if given:
                    raise ConfigError(
                        "this is for data with times", where=option, remedy="Name their column: --time-key COLUMN."
                    )
            return
        if self.source is not None:
            raise ConfigError(
                "the rows of the first time are the source, so --source cannot be used with times: of a file without "
                "times it is not known when its rows were there",
                where="--time-key",
                remedy="Rows from before the first time are a time of their own: put them into the data with their "
                f"time in the column {self.time_key}.",
            )
        if not get_method(self.method).any_source:
            raise ConfigError(
                f"{self.method} starts from Gaussian noise, and the rows of the first time are none",
                where="--time-key",
                remedy="Use ot-cfm, i-cfm, rf, sb-cfm or sf2m.",
            )

    def _check_reflow(self) -> None:
        if self.reflow is None:
            if self.pairs is not None:
                raise ConfigError("there is no run that makes pairs", where="--pairs", remedy="Name one: --reflow RUN.")
            return
        if self.pairs is not None and self.pairs < 2:
            raise ConfigError(f"{self.pairs} pairs are too few to learn from", where="--pairs")
        given = {
            "--time-key": self.time_key,
            "--source": self.source is not None,
            "--weights": self.weights,
            "--flip": self.flip,
            "--latent": self.latent is not None,
            "a coupling of your own": self.parts.coupling,
            "pool": {"pool", "pool_uses"} & self.training.keys(),
        }
        for option in (name for name, value in given.items() if value):
            raise ConfigError(
                f"{option} cannot be used with it: its pairs are what is trained on",
                where="--reflow",
                remedy="Leave it out: source and weights are those of the run that is straightened.",
            )
        if not get_method(self.method).any_source:
            raise ConfigError(
                f"{self.method} draws its noise apart from the data, and here they come in pairs",
                where="--reflow",
                remedy="Use rf, i-cfm or ot-cfm.",
            )

    @property
    def splits_by(self) -> int:
        """The seed of the split."""
        return self.seed if self.split_seed is None else self.split_seed


def training_config(
    method: str, training: Mapping[str, Any], *, steps: int | None, batch_size: int | None, seed: int
) -> TrainingConfig:
    """The settings of the loop: what was given, then the row's defaults, then the loop's own."""
    given: dict[str, Any] = {**get_method(method).recipe.training, **training, "seed": seed}
    given["steps"] = steps or given.get("steps", DEFAULT_STEPS)
    given["batch_size"] = batch_size or given.get("batch_size", DEFAULT_BATCH)
    return TrainingConfig(**given)


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` takes CUDA where there is one, else the CPU.

    Raises:
        ConfigError: It is not there.
        UnknownNameError: There is no such kind of device.
    """
    kind = name.split(":")[0]
    if kind not in DEVICES:
        raise unknown_name("device", name, DEVICES, where="--device")
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[kind]:
        raise ConfigError(f"there is no {kind} device here", where="--device", remedy="Use --device cpu or auto.")
    return torch.device(name)


MODEL_SETTINGS = ("condition_dropout", "baseline", "likelihood_solver", "likelihood_tolerance")
"""Fields of `methods.Blueprint` that a user may set by name."""


_DEFAULTS = {
    name: entry.default for record in (Blueprint, TrainingConfig) for name, entry in record.__dataclass_fields__.items()
}


_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a word"),
}


def _of_kind(name: str, value: Any, default: Any) -> Any:
    """The value if it is of the kind of the default; a list counts as a tuple, a number as a list of one where a list
    of any length is wanted, a whole number as a number.

    Raises:
        ConfigError: It is of another kind.
    """
    if isinstance(default, tuple):
        if not default and isinstance(value, int | float) and not isinstance(value, bool):
            value = (value,)
        if not isinstance(value, tuple | list) or not all(isinstance(v, int | float) for v in value):
            raise ConfigError(f"{name} must be a list of numbers, not {value!r}", where=name)
        return tuple(value)
    accepted, word = _KINDS[type(default)]
    if not isinstance(value, accepted) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise ConfigError(f"{name} must be {word}, not {value!r}", where=name)
    return value


@dataclass(frozen=True)
class Sorted:
    """Named settings, each with the record that owns it; see the fields of `TrainRequest`."""

    options: Mapping[str, Any]
    training: Mapping[str, Any]
    settings: Mapping[str, Any]


def sort_settings(method: str, settings: Mapping[str, Any], *, known: Iterable[str] = ()) -> Sorted:
    """Give each named setting to the record that owns it.

    Args:
        method: Whose options are meant.
        settings: Values by name.
        known: Further names that the caller takes, to be offered for a misspelt one.

    Raises:
        UnknownNameError: Nothing has a setting of this name; the nearest is offered.
        ConfigError: A value is not of the kind of its default.
    """
    owners = {
        "options": set(get_method(method).options),
        "training": set(TrainingConfig.__dataclass_fields__) - {"steps", "batch_size", "seed"},
        "settings": set(MODEL_SETTINGS),
    }
    result: dict[str, dict[str, Any]] = {owner: {} for owner in owners}
    for name, value in settings.items():
        owner = next((o for o, names in owners.items() if name in names), None)
        if owner is None:
            raise unknown_name("setting", name, sorted(set(known).union(*owners.values()) - {"settings"}))
        result[owner][name] = value if owner == "options" else _of_kind(name, value, _DEFAULTS[name])
    return Sorted(**result)


def read_settings(method: str, texts: Mapping[str, str]) -> Sorted:
    """Settings given as text (``--set sigma=0.1``): values are read as TOML, anything else is text.

    Raises:
        UnknownNameError: Nothing has a setting of this name.
    """
    return sort_settings(method, {name: read_value(text) for name, text in texts.items()})


def read_value(text: str) -> Any:
    """The value a text stands for: read as TOML, anything else is text.

    >>> read_value("0.1"), read_value("lu")
    (0.1, 'lu')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
