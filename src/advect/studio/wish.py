"""What a page asks for, read strictly: known names, right types, within bounds, and nothing else."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advect.data.condition import labels_of
from advect.errors import ConfigError
from advect.run import Artefact
from advect.studio.knobs import EVALUATIONS, MOST_GUIDANCE, TOLERANCES, Knobs
from advect.workflows.generate import SolverChoice

MOST_SEED = 2**31 - 1
_NAMES = {"rows", "seed", "solver", "evaluations", "tolerance", "guidance", "condition", "time"}


@dataclass(frozen=True)
class Wish:
    """Rows that are asked for.

    Attributes:
        rows: How many.
        seed: Of every draw.
        solver: Its name; None for the run's own setting.
        steps: Of a solver with fixed steps.
        tolerance: Of an adaptive one.
        guidance: Its weight.
        condition: Value by name, for all rows; None for conditions as they occurred in training.
        at: The time of the rows, of a run with times; empty for one without.
    """

    rows: int
    seed: int
    solver: str | None
    steps: int | None
    tolerance: float | None
    guidance: float
    condition: Mapping[str, Any] | None
    at: tuple[str, ...] = ()

    @property
    def choice(self) -> SolverChoice:
        """The same for `workflows.generate`."""
        return SolverChoice(self.solver, self.steps, self.tolerance, self.guidance)


def read_wish(body: bytes, knobs: Knobs, artefact: Artefact) -> Wish:
    """A wish from the body of a request.

    Raises:
        ConfigError: It is not what the page of this run can ask for.
    """
    try:
        asked = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict) or not set(asked) <= _NAMES:
        raise ConfigError("this request is not one that the page makes", where="request")
    known = {solver.name: solver for solver in knobs.solvers}
    name = asked.get("solver")
    if name is not None and (not isinstance(name, str) or name not in known):
        raise ConfigError("this solver cannot be chosen here", where="solver")
    steps = tolerance = None
    if name is not None and known[name].adaptive:
        tolerance = _real(asked, "tolerance", TOLERANCES[-1], TOLERANCES[0], 1e-5)
    elif name is not None:
        steps = max(_whole(asked, "evaluations", 1, EVALUATIONS[-1], 20) // known[name].evaluations, 1)
    guidance = _real(asked, "guidance", 0.0, MOST_GUIDANCE, 0.0)
    if guidance and not knobs.guidance:
        raise ConfigError("this model takes no guidance", where="guidance")
    return Wish(
        rows=_whole(asked, "rows", 1, knobs.most_rows, knobs.rows),
        seed=_whole(asked, "seed", 0, MOST_SEED, 0),
        solver=name,
        steps=steps,
        tolerance=tolerance,
        guidance=guidance,
        condition=_condition(asked.get("condition"), artefact),
        at=_time(asked, knobs),
    )


def _whole(asked: Mapping[str, Any], name: str, least: int, most: int, usual: int) -> int:
    value = asked.get(name, usual)
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(f"this must be a whole number from {least} to {most}", where=name)
    return value


def _real(asked: Mapping[str, Any], name: str, least: float, most: float, usual: float) -> float:
    value = asked.get(name, usual)
    if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
        raise ConfigError(f"this must be a number from {least:g} to {most:g}", where=name)
    return float(value)


def _time(asked: Mapping[str, Any], knobs: Knobs) -> tuple[str, ...]:
    """The time as the data write it, by its place; the last one where none is said."""
    if not knobs.times:
        if "time" in asked:
            raise ConfigError("this run knows no times", where="time")
        return ()
    last = len(knobs.times) - 1
    return (knobs.times[_whole(asked, "time", 0, last, last)],)


def _condition(asked: Any, artefact: Artefact) -> dict[str, Any] | None:
    """Values by name: the page sends the place of a label, or a number; null leaves a column open."""
    if asked is None:
        return None
    codec = artefact.condition
    if codec is None or not isinstance(asked, list) or len(asked) != len(codec.columns):
        raise ConfigError("these are not the conditions of this model", where="condition")
    given: dict[str, Any] = {}
    for column, value in zip(codec.columns, asked, strict=True):
        labels = labels_of(column)
        if value is None:
            if not column.missing:
                raise ConfigError("this condition cannot be left open", where="condition")
            continue
        if labels is None:
            given[column.name] = _real({"condition": value}, "condition", -math.inf, math.inf, 0.0)
            continue
        if type(value) is not int or not 0 <= value < len(labels):
            raise ConfigError("there is no such label", where="condition")
        given[column.name] = labels[value]
    return given


def as_command(wish: Wish, run: str) -> str:
    """The command that draws the same rows."""
    parts = ["advect", "sample", run, "-n", str(wish.rows), "--seed", str(wish.seed)]
    if wish.condition:
        parts += ["--condition", ",".join(f"{name}={_text(value)}" for name, value in wish.condition.items())]
    parts += ["--at", *wish.at] if wish.at else []
    parts += [] if wish.solver is None else ["--solver", wish.solver]
    parts += [] if wish.steps is None else ["--steps", str(wish.steps)]
    parts += [] if wish.tolerance is None else ["--tol", f"{wish.tolerance:g}"]
    parts += [] if not wish.guidance else ["--guidance", f"{wish.guidance:g}"]
    return shlex.join(parts)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
