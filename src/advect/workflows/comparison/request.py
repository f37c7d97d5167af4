"""What a user asks of `compare`: one record, checked once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advect.errors import ConfigError, unknown_name
from advect.methods import get_method
from advect.workflows.request import Sorted, TrainRequest, sort_settings

DEFAULT_BUDGET = 60.0
DEFAULT_SEEDS = 3


@dataclass(frozen=True)
class CompareRequest:
    """A comparison as it was asked for.

    Attributes:
        data: File, built-in name, array, tensor, frame or `Table`.
        methods: Names of rows of the table of methods, in the order of the result.
        out: Folder of the comparison; each training has its own below it.
        steps: Optimiser steps of each training.
        budget_seconds: Wall time of each training in place of steps, reading included and figures not; a minute where
            neither is given.
        seeds: Trainings of each method.
        seed: The first of their seeds, and that of the split, which they share.
        condition: Columns that are given, not modelled.
        label: A column that a predictor learns from samples and is tested on; None leaves that out.
        batch_size: Rows per step; each method's own by default.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        settings: Method to settings of its own, of its model or of its loop, by name.
    """

    data: Any
    methods: tuple[str, ...]
    out: Path
    steps: int | None = None
    budget_seconds: float | None = None
    seeds: int = DEFAULT_SEEDS
    seed: int = 0
    condition: tuple[str, ...] = ()
    label: str | None = None
    batch_size: int | None = None
    device: str = "auto"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.methods:
            raise ConfigError(
                "there is no method to compare", where="--methods", remedy="Name some: --methods nsf,ot-cfm."
            )
        for name in self.methods:
            get_method(name)
        repeated = sorted({name for name in self.methods if self.methods.count(name) > 1})
        if repeated:
            raise ConfigError(f"{repeated[0]} is named twice", where="--methods", remedy="Name each method once.")
        for name, given in self.settings.items():
            if name not in self.methods:
                raise unknown_name("method in this comparison", name, self.methods, where="--set")
            sort_settings(name, given)
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, not {self.seeds}", where="--seeds")
        if self.steps is None and self.budget_seconds is None:
            object.__setattr__(self, "budget_seconds", DEFAULT_BUDGET)
        self.training(self.methods[0], self.seed)  # refuses what any training would

    @property
    def model_seeds(self) -> tuple[int, ...]:
        """The seeds of the trainings."""
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def rounds(self) -> tuple[tuple[str, int], ...]:
        """Method and seed of every training; all methods of one seed before the next, so that a part is fair."""
        return tuple((method, seed) for seed in self.model_seeds for method in self.methods)

    def training(self, method: str, seed: int, *, data: Any = None) -> TrainRequest:
        """One training, in a run folder of its own.

        Args:
            method: Name of the row.
            seed: Its seed.
            data: The same rows as read already.
        """
        return TrainRequest(
            data=self.data if data is None else data,
            method=method,
            out=self.folder(method, seed),
            condition=self.condition,
            steps=self.steps,
            budget_seconds=self.budget_seconds,
            batch_size=self.batch_size,
            seed=seed,
            split_seed=self.seed,
            device=self.device,
            **vars(self._sorted(method)),
        )

    def _sorted(self, method: str) -> Sorted:
        return sort_settings(method, self.settings.get(method, {}))

    def folder(self, method: str, seed: int) -> Path:
        """``OUT/METHOD-SEED``."""
        return self.out / f"{method}-{seed}"

    def terms(self) -> Mapping[str, Any]:
        """What may not change when a comparison is continued; methods and seeds may be added, the label changed."""
        return {
            "steps": self.steps,
            "budget_seconds": self.budget_seconds,
            "batch_size": self.batch_size,
            "condition": list(self.condition),
            "seed": self.seed,
        }
