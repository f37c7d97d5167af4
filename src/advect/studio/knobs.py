"""What can be turned in the studio of a run: only what applies to it, found out by trying."""

from dataclasses import dataclass
from typing import Any

from advect.data.condition import labels_of
from advect.errors import AdvectError
from advect.report.ink import clean
from advect.run import Artefact
from advect.solvers import SOLVERS
from advect.workflows.generate import SolverChoice
from advect.workflows.snapshots import timeline_of

MOST_ROWS, MOST_PICTURES = 4000, 64
USUAL_ROWS, USUAL_PICTURES = 1000, 32
# Stops of the sliders.
EVALUATIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 50, 64, 80, 100, 128, 160, 200)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
MOST_GUIDANCE = 10.0
MOST_LABELS = 500  # of a condition, that a list can hold


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
        most_rows: That can be asked for at once.
        rows: That are asked for at first.
    """

    solvers: tuple[SolverKnob, ...]
    own: OwnSetting | None
    conditions: tuple[ConditionKnob, ...]
    guidance: bool
    no_guidance: str
    times: tuple[str, ...]
    most_rows: int
    rows: int


def knobs_of(artefact: Artefact) -> Knobs:
    """What applies to a model."""
    image, ode, codec = artefact.schema.image, artefact.flow.ode, artefact.condition
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
        most_rows=MOST_PICTURES if image else MOST_ROWS,
        rows=USUAL_PICTURES if image else USUAL_ROWS,
    )


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
