"""`compare`: every method under the same terms, on the same split, judged on the same held-out rows.

Each method is trained once per seed into a run folder of its own, all methods of one seed before the next, so that a
comparison that is cut short is fair. A run is measured as soon as it is trained, and its measurement kept: the same
command continues wherever it was stopped. A method that cannot be used becomes a row with the reason.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advect.errors import AdvectError, ConfigError, RunFolderError
from advect.files import WriteError
from advect.report.comparison.content import MethodRow, Ruler
from advect.report.comparison.verdict import verdict, winner
from advect.run import EVALUATION, Artefact, RunFolder
from advect.workflows.comparison.files import (
    CSV,
    JSON,
    PAGE,
    as_json,
    check_folder,
    claim_folder,
    write_csv,
    write_json,
)
from advect.workflows.comparison.ground import Ground, Yardstick, find_ground, yardstick
from advect.workflows.comparison.hearing import Hearing
from advect.workflows.comparison.measure import kept_measurement, measure
from advect.workflows.comparison.plan import Plan, plan_trainings
from advect.workflows.comparison.request import CompareRequest
from advect.workflows.comparison.rows import DoneRun, FailedRun, method_rows
from advect.workflows.fit import train
from advect.workflows.listen import Listener, Silence


@dataclass(frozen=True)
class Comparison:
    """How a comparison ended.

    Attributes:
        folder: Where everything is.
        state: ``finished`` or ``interrupted``.
        rows: One per method.
        verdict: Sentences, the most important first.
        best: The run folder to take, or None.
        files: What was written, by name.
        next_commands: Commands worth trying next.
        facts: Everything as plain values, as in ``compare.json``.
        label: The column that was predicted, or None.
    """

    folder: Path
    state: str
    rows: tuple[MethodRow, ...]
    verdict: tuple[str, ...]
    best: Path | None
    files: Mapping[str, Path] = field(default_factory=dict)
    next_commands: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None


def compare(
    request: CompareRequest,
    *,
    listener: Listener = Silence(),  # noqa: B008 - has no state
    stop: Callable[[], bool] = lambda: False,
    announce: Callable[[Plan], None] = lambda _: None,
) -> Comparison:
    """Train, measure and compare.

    Args:
        request: What to do.
        listener: Hears how it goes.
        stop: Asked before every step; True keeps everything and leaves.
        announce: Told what is about to happen, and how long it will take.

    Raises:
        AdvectError: Rows no method could use, a folder that cannot be used or was begun under other terms, no method
            that can be used.
    """
    listener.phase("reading")
    ground, plan = _planned(request)
    work = _Work(request, ground, Hearing(listener), stop)
    announce(plan)
    with RunFolder(request.out).locked(listener.note):
        claim_folder(request, ground)
        work.refused(plan.refusals)
        return work.all_rounds()


def plan_comparison(request: CompareRequest) -> Plan:
    """What `compare` would do; nothing is trained and nothing written.

    Raises:
        AdvectError: As `compare` would before the first training.
    """
    return _planned(request)[1]


def _planned(request: CompareRequest) -> tuple[Ground, Plan]:
    """The rows all methods share, and what there is to do on them."""
    ground = find_ground(request)
    check_folder(request, ground)
    plan = plan_trainings(request, ground)
    if len(plan.refusals) == len(request.methods):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in plan.refusals.items())
        raise ConfigError(f"none of these methods can be used on {ground.table.origin}: {reasons}")
    return ground, plan


class _Work:
    """The trainings of a comparison and what has come of them so far."""

    def __init__(self, request: CompareRequest, ground: Ground, hearing: Hearing, stop: Callable[[], bool]) -> None:
        self.request, self.ground, self.hearing, self.stop = request, ground, hearing, stop
        self.done: list[DoneRun] = []
        self.failed: list[FailedRun] = []
        self.stick: Yardstick | None = None

    def refused(self, refusals: Mapping[str, str]) -> None:
        """Methods that cannot be used at all."""
        for method, reason in refusals.items():
            self.failed += [FailedRun(method, seed, reason) for seed in self.request.model_seeds]

    def all_rounds(self) -> Comparison:
        """Train and measure what is missing, then write the table and the page."""
        out = {run.method for run in self.failed}
        rounds = [(method, seed) for method, seed in self.request.rounds if method not in out]
        for number, (method, seed) in enumerate(rounds, start=1):
            self.hearing.turn(f"{method}, seed {seed} ({number} of {len(rounds)})")
            if not self._one(method, seed):
                return self._result("interrupted")
            self._write("running")
        return self._result("finished")

    def _one(self, method: str, seed: int) -> bool:
        """Train and measure one run; False after a request to stop."""
        try:
            return self._train_and_measure(method, seed)
        except (RunFolderError, WriteError):
            raise  # about the folder, not about the method: the others would fare no better
        except AdvectError as error:
            reason = str(error)
        except MemoryError:
            reason = "there was not enough memory"
        except Exception as error:  # a fault in one method must not cost the trainings of the others
            reason = f"a fault inside advect ({type(error).__name__}: {error}); `advect train` with it tells more"
        self.hearing.note(f"{method}, seed {seed}: {reason}")
        self.failed.append(FailedRun(method, seed, reason))
        return True

    def _train_and_measure(self, method: str, seed: int) -> bool:
        wanted = self.request.training(method, seed)
        folder = RunFolder(self.request.folder(method, seed))
        # Figures are not part of the budget: every method trains for the whole of it.
        result = train(wanted, listener=self.hearing, stop=self.stop, evaluate=False, started=time.monotonic())
        if result.artefact is None:
            return False
        self.hearing.phase("measuring")
        found = kept_measurement(folder, self.ground)
        if found is None:
            found = measure(folder, result.artefact, self.ground, self._yardstick(result.artefact))
        evaluation = folder.read_json(EVALUATION)
        self.done.append(DoneRun(method, seed, str(folder.path), found, evaluation))
        return True

    def _yardstick(self, artefact: Artefact) -> Yardstick:
        if self.stick is None:
            self.stick = yardstick(self.ground, artefact)
        return self.stick

    def _rows(self) -> tuple[MethodRow, ...]:
        return method_rows(self.request.methods, self.request.seeds, self.done, self.failed)

    def _write(self, state: str) -> tuple[dict[str, Any], tuple[MethodRow, ...]]:
        rows = self._rows()
        facts = as_json(self.request, self.ground, rows, verdict(rows), self._ruler(), state)
        write_json(self.request.out, facts)
        write_csv(self.request.out, rows)
        return facts, rows

    def _ruler(self) -> Ruler | None:
        return None if self.stick is None else self.stick.ruler

    def _result(self, state: str) -> Comparison:
        from advect.workflows.comparison.page import next_commands, write_page

        if self.stick is None and self.done:  # everything was measured before: the floor is measured again
            from advect.workflows.open import open_run

            self.stick = yardstick(self.ground, open_run(self.done[0].path))
        facts, rows = self._write(state)
        files = {"table": self.request.out / CSV, "everything": self.request.out / JSON}
        chosen = winner(rows)
        best = None if chosen is None or chosen.best_run is None else Path(chosen.best_run)
        if self.done and state == "finished":  # who interrupts does not want to wait for pictures
            self.hearing.phase("writing the page")
            files["page"] = write_page(self.request, self.ground, self._sorted(), rows, self._ruler(), best)
        return Comparison(
            folder=self.request.out,
            state=state,
            rows=rows,
            verdict=verdict(rows),
            best=best,
            files=files,
            next_commands=next_commands(best, self.ground),
            facts=facts,
            label=self.request.label,
        )

    def _sorted(self) -> Sequence[DoneRun]:
        """The runs in the order of the table."""
        return sorted(self.done, key=lambda run: (self.request.methods.index(run.method), run.seed))


__all__ = ["PAGE", "CompareRequest", "Comparison", "compare"]
