"""After training: what each solver's error is at each number of evaluations, and the cheapest that is enough.

The error of a setting is the root mean square, over rows and coordinates, of the distance between where it takes source
rows and where a fine adaptive solve takes the same rows, in standardised units. The Wasserstein-2 distance between the
two laws of samples, per coordinate, is at most that. A setting is enough below `TOLERANCE`: a hundredth of the data's
standard deviation is less than two draws of ten thousand real rows differ by.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advect.flows import Flow
from advect.records import Status
from advect.run import Artefact
from advect.solvers import SOLVERS, Adaptive, make_solver
from advect.training import generator_for
from advect.typing import Solver
from advect.workflows.streams import CALIBRATE

TOLERANCE = 1e-2
EVALUATIONS = (4, 6, 8, 12, 16, 24, 32, 48, 64)
NUMBERS, MOST_ROWS, LEAST_ROWS = 2**14, 256, 32  # rows × coordinates of the trial, and its bounds
CANDIDATES = ("adams3", "adams3-noise", "adams3-straight", "dpm++2m", "heun")
# Errors of the fine solve are some thirty times its tolerance per step: well below what is to be seen.
REFERENCE_TOLERANCE = 1e-5
REFERENCE_EVALUATIONS = 150  # about what it takes on a trained field
TRIES = 4  # at whether there is time
BEYOND = 2  # a solver is not tried beyond so many times the evaluations that are known to be enough


@dataclass(frozen=True)
class Trial:
    """One setting.

    Attributes:
        solver: Its name.
        steps: Its steps.
        evaluations: Of the network, per row.
        error: See above.
    """

    solver: str
    steps: int
    evaluations: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        trials: All settings.
        chosen: The cheapest one below the tolerance; the most accurate one where there is none.
        enough: Whether it is below the tolerance.
        rows: Rows of the trial.
    """

    trials: tuple[Trial, ...]
    chosen: Trial
    enough: bool
    rows: int


def calibrated(artefact: Artefact, *, seconds: float = math.inf) -> Artefact:
    """The artefact with the cheapest sufficient sampling setting as its own; unchanged without an ODE, or time."""
    found = calibrate(artefact, seconds=seconds)
    if found is None:
        return artefact
    chosen = found.chosen
    schedule = getattr(artefact.flow.ode.field, "schedule", None) if artefact.flow.ode is not None else None
    solver = make_solver(chosen.solver, steps=chosen.steps, schedule=schedule)
    config = {
        **artefact.config,
        "sampling": {"solver": chosen.solver, "steps": chosen.steps},
        "calibration": {
            "tolerance": TOLERANCE,
            "enough": found.enough,
            "rows": found.rows,
            "trials": [asdict(trial) for trial in found.trials],
        },
    }
    flow = artefact.flow.with_options(solver=solver)
    flow.train(artefact.flow.training)
    return replace(artefact, flow=flow, config=config)


@torch.no_grad()
def calibrate(artefact: Artefact, *, seconds: float = math.inf) -> Calibration | None:
    """Measure; None for a flow without an ODE, whose fine solve leaves no row, or where it would take longer.

    Args:
        artefact: The model.
        seconds: The time there is; a few evaluations tell beforehand what all of it takes.
    """
    flow, ode = artefact.flow, artefact.flow.ode
    if ode is None:
        return None
    generator = generator_for(int(artefact.config["seed"]), CALIBRATE)
    width = max(1, math.prod(ode.event_shape or flow.event_shape))
    rows = min(MOST_ROWS, max(LEAST_ROWS, NUMBERS // width))
    condition = None if artefact.condition is None else artefact.condition.draw(rows, generator).float()
    start = flow.base.sample(rows, condition, generator=generator)
    # Asked more than once: a machine that was busy for a moment must not decide how a run is sampled for ever.
    if seconds < math.inf and all(_expected_seconds(flow, start, condition) > seconds for _ in range(TRIES)):
        return None
    fine = Adaptive("dopri5", rtol=REFERENCE_TOLERANCE, atol=REFERENCE_TOLERANCE, max_steps=2000)
    exact, status, _ = _moved(flow, fine, start, condition)
    kept = status < int(Status.NAN_FIELD)
    if not bool(kept.any()):
        return None
    schedule = getattr(ode.field, "schedule", None)
    trials: list[Trial] = []
    for name in CANDIDATES:
        if SOLVERS[name].affine and schedule is None:
            continue
        for evaluations in EVALUATIONS:
            if evaluations > BEYOND * _cheapest(trials):
                break
            steps = evaluations // SOLVERS[name].evaluations
            end, _, nfe = _moved(flow, make_solver(name, steps=steps, schedule=schedule), start, condition)
            error = float((end - exact)[kept].double().square().mean().sqrt())
            if math.isfinite(error):
                trials.append(Trial(name, steps, float(nfe.double().mean()), error))
            if error < TOLERANCE / 4:  # the curve has shown what it can
                break
    if not trials:
        return None
    enough = [trial for trial in trials if trial.error <= TOLERANCE]
    chosen = min(enough or trials, key=lambda t: (t.evaluations, t.error) if enough else (t.error, t.evaluations))
    return Calibration(tuple(trials), chosen, bool(enough), rows)


def _moved(flow: Flow, solver: Solver, start: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Where the ODE takes source rows, with status and evaluations; preprocessing plays no part."""
    _, ode, after = flow.split_at_ode("calibrate")
    state = after.decode(start, None if after.condition_shape is None else condition, log_det=False).value
    ode = ode.with_options(solver=solver)
    solution = ode.integrate(state, condition, direction="decode")
    return solution.state, solution.status, solution.nfe * getattr(ode.field, "evaluations", 1)


def _cheapest(trials: Sequence[Trial]) -> float:
    """Evaluations of the cheapest sufficient setting so far."""
    return min((trial.evaluations for trial in trials if trial.error <= TOLERANCE), default=math.inf)


def _expected_seconds(flow: Flow, start: Tensor, condition: Tensor | None) -> float:
    """What everything will take, from a solve of five evaluations."""
    started = time.perf_counter()
    _moved(flow, make_solver("adams3", steps=4), start, condition)
    each = (time.perf_counter() - started) / 5
    return each * (REFERENCE_EVALUATIONS + len(CANDIDATES) * sum(EVALUATIONS))


def summary(config: Mapping[str, Any]) -> str | None:
    """The calibration of a run in a sentence; None where it has none."""
    found = config.get("calibration")
    if not found:
        return None
    chosen = config["sampling"]
    best = next(t for t in found["trials"] if (t["solver"], t["steps"]) == (chosen["solver"], chosen["steps"]))
    text = (
        f"{chosen['solver']} with {chosen['steps']} steps, {best['evaluations']:.0f} evaluations: "
        f"off a fine solve by {best['error']:.2g} standard deviations"
    )
    return text if found["enough"] else f"{text}, more than the {found['tolerance']:g} asked for"
