"""Before the first training: which methods these rows allow, what is done already, and how long the rest takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from advect.errors import AdvectError
from advect.records import Finding
from advect.run import MODEL, MemorySink, RunFolder
from advect.workflows.comparison.ground import Ground
from advect.workflows.comparison.request import CompareRequest
from advect.workflows.preflight import TIMED_STEPS
from advect.workflows.prepare import prepare
from advect.workflows.trainer import make_trainer


@dataclass(frozen=True)
class Plan:
    """What a comparison is about to do.

    Attributes:
        data: One line on the rows.
        trainings: Trainings in all, without those of refused methods.
        finished: How many of them are done.
        seconds: Estimated time of the rest, training alone.
        refusals: Method to the reason why it cannot be used here.
        findings: What the check of the rows noticed.
    """

    data: str
    trainings: int
    finished: int
    seconds: float
    refusals: Mapping[str, str]
    findings: tuple[Finding, ...]


def plan_trainings(request: CompareRequest, ground: Ground) -> Plan:
    """Build every method once; time two steps of each where the number of steps is given.

    Raises:
        AdvectError: Something about the request that holds for every method, such as the device.
    """
    refusals: dict[str, str] = {}
    seconds, trainings, finished = 0.0, 0, 0
    for method in request.methods:
        runs = [RunFolder(request.folder(method, seed)) for seed in request.model_seeds]
        done = sum(run.file(MODEL).exists() for run in runs)
        try:
            each = _seconds_each(request, ground, method) if done < len(runs) else 0.0
        except AdvectError as error:
            refusals[method] = str(error)
            continue
        trainings, finished = trainings + len(runs), finished + done
        seconds += each * (len(runs) - done)
    split = ground.split
    data = (
        f"{ground.table.origin}: {ground.table.num_rows} rows; {len(split.train)} train, {len(split.validation)} "
        f"validate, {len(split.test)} held out, the same for all"
    )
    return Plan(data, trainings, finished, seconds, refusals, ground.findings)


def _seconds_each(request: CompareRequest, ground: Ground, method: str) -> float:
    """Estimated time of one training of a method.

    Raises:
        AdvectError: The method cannot be used on these rows.
    """
    prepared = prepare(request.training(method, request.seed, data=ground.table))
    if request.budget_seconds is not None:
        return request.budget_seconds
    return make_trainer(prepared, MemorySink()).time_steps(TIMED_STEPS) * prepared.training.steps
