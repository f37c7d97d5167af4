"""What can be turned in the studio of a run: only what applies to it, found out by trying."""

import math
from dataclasses import dataclass
from typing import Any

from advect.data.condition import labels_of
from advect.errors import AdvectError
from advect.report.ink import clean
from advect.run import Artefact
from advect.solvers import SOLVERS
from advect.workflows.generate import SolverChoice
from advect.workflows.snapshots import timeline_of

USUAL_ROWS, USUAL_PICTURES = 1000, 32
MOST_NUMBERS = 4_000_000  # of the pictures of one answer
FIRST_SECONDS = 4.0  # the first pictures should be there by then
# Stops of the sliders.
ROWS, PICTURES = (100, 200, 500, 1000, 2000, 4000), (4, 8, 16, 32, 64)
EVALUATIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 50, 64, 80, 100, 128, 160, 200)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MOST_GUIDANCE = 10.0


@dataclass(frozen=True)
class SolverKnob:
    """A solver that can be chosen.

    Attributes:
        name: As in `solvers.SOLVERS`.
        title: In words.
        evaluations: Of the field per step.
        adaptive: Whether it takes a tolerance instead of a number of steps.
    """

    name: str
    title: str
    evaluations: int
    adaptive: bool


@dataclass(frozen=True)
class OwnSetting:
    """How a run draws when it is not told.

    Attributes:
        name: Of the solver.
        steps: Of one with fixed steps.
        tolerance: Of an adaptive one.
    """

    name: str
    steps: int | None
    tolerance: float | None

    @property
    def words(self) -> str:
        """In few words."""
        how = f", {self.steps} steps" if self.steps is not None else ""
        return f"{self.name}{how}" + ("" if self.tolerance is None else f", tolerance {self.tolerance:g}")


@dataclass(frozen=True)
class ConditionKnob:
    """A condition that can be given.

    Attributes:
        name: Of its column.
        labels: Its values as text; empty for a number.
        low: Smallest number seen in training.
        high: Largest.
        missing: Whether it may be left open.
    """

    name: str
    labels: tuple[str, ...]
    low: float
    high: float
    missing: bool


@dataclass(frozen=True)
class Knobs:
    """All of them.

    Attributes:
        solvers: Those that this model can use; empty where nothing is solved.
        own: What the run does when it is not told; None where nothing is solved.
        conditions: Empty for a model without.
        guidance: Whether the conditional velocity can be pushed away from the unconditional one.
        no_guidance: Why not; empty where it can, and where there is no condition anyway.
        times: Of a run with times, as its data write them, left-out ones too; empty for others.
        stops: Numbers of rows that the slider offers; the last is the most that can be asked for.
        rows: That are asked for at first: one of these.
    """

    solvers: tuple[SolverKnob, ...]
    own: OwnSetting | None
    conditions: tuple[ConditionKnob, ...]
    guidance: bool
    no_guidance: str
    times: tuple[str, ...]
    stops: tuple[int, ...]
    rows: int

    @property
    def most_rows(self) -> int:
        """That can be asked for at once."""
        return self.stops[-1]


def knobs_of(artefact: Artefact, *, seconds_per_row: float = 0.0) -> Knobs:
    """What applies to a model.

    Args:
        artefact: The model.
        seconds_per_row: What a row costs: of a slow model fewer are asked for at first.
    """
    stops = _stops(artefact)
    usual = USUAL_PICTURES if artefact.schema.image else USUAL_ROWS
    quick = [n for n in stops if n <= usual and n * seconds_per_row <= FIRST_SECONDS]
    ode, codec = artefact.flow.ode, artefact.condition
    timeline = timeline_of(artefact)
    dropped = float(artefact.config["model"]["condition_dropout"]) > 0
    no_guidance = ""
    if codec is not None and ode is None:
        no_guidance = "Guidance needs a velocity, which this model has not."
    elif codec is not None and not dropped:
        no_guidance = "Guidance needs a model that was also trained without its condition (condition_dropout)."
    return Knobs(
        solvers=tuple(
            SolverKnob(entry.name, entry.title, entry.evaluations, entry.adaptive)
            for entry in SOLVERS.values()
            if _applies(artefact, entry.name)
        ),
        own=_own(artefact),
        conditions=() if codec is None else tuple(_condition(column) for column in codec.columns),
        guidance=codec is not None and not no_guidance,
        no_guidance=no_guidance,
        times=() if timeline is None else timeline.words,
        stops=stops,
        rows=quick[-1] if quick else stops[0],
    )


def _stops(artefact: Artefact) -> tuple[int, ...]:
    if not artefact.schema.image:
        return ROWS
    most = MOST_NUMBERS // math.prod(artefact.schema.event_shape)
    return tuple(n for n in PICTURES if n <= most) or PICTURES[:1]


def _applies(artefact: Artefact, name: str) -> bool:
    """Whether a model can be solved by this solver: it says so itself."""
    if artefact.flow.ode is None:
        return False
    entry = SOLVERS[name]
    if entry.scored and getattr(artefact.flow.ode.field, "score", None) is None:
        return False
    try:
        SolverChoice(name, None if entry.adaptive else 8).applied(artefact)
    except AdvectError:
        return False
    return True


def _own(artefact: Artefact) -> OwnSetting | None:
    sampling = artefact.config.get("sampling", {})
    name = sampling.get("solver")
    if artefact.flow.ode is None or name not in SOLVERS:
        return None
    steps = sampling.get("steps") or SOLVERS[name].default_steps
    return OwnSetting(name, None if SOLVERS[name].adaptive else steps, sampling.get("tolerance"))


def _condition(column: Any) -> ConditionKnob:
    labels = labels_of(column)
    if labels is not None:
        return ConditionKnob(column.name, tuple(clean(str(v)) for v in labels), 0.0, 0.0, column.missing)
    low = 0.0 if column.minimum is None else float(column.minimum)
    high = low + 1.0 if column.maximum is None else float(column.maximum)
    return ConditionKnob(column.name, (), low, high, column.missing)
