"""The rows of the table: a name, what it is about, and the function that measures it.

A module of this package that measures has a tuple ``ROWS``. A row's function takes the settings of its cell and
returns figures: ``{"tasks": […], "growth": […], "goals": […], "notes": […]}``, made with `harness.task`,
`harness.growth` and `harness.verdict`; all four may be left out.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import benchmarks.speed as package
from benchmarks.cells import Cell

COMMAND = "python -m benchmarks.speed"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: Such as ``B1``.
        title: What is measured, in words.
        work: ``module:function``.
        threads: That torch may use.
    """

    name: str
    title: str
    work: str
    threads: int = 1

    def cell(self, *, quick: bool, seed: int, clock: str) -> Cell:
        """The work of this row, for the queue."""
        settings: dict[str, Any] = {"quick": quick, "seed": seed, "clock": clock, "threads": self.threads}
        flags = [flag for flag, on in (("--quick", quick), (f"--clock {clock}", clock != "wall")) if on]
        return Cell(self.name, self.work, settings, " ".join([COMMAND, "--rows", self.name, *flags]))


def all_rows() -> list[Row]:
    """Every row of every module, by name."""
    return sorted(_found(), key=lambda row: row.name)


def _found() -> Iterator[Row]:
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            yield from getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "ROWS", ())
