"""Training for so many seconds, by advect's own loop, for advect's flows and for their peers alike.

The loop decays the rate over a number of steps. That number is planned from timed steps and again at fixed shares of
the time, from the pace so far, so that the rate has reached zero when the time is over also where steps grow slower
(an ODE gets stiffer) or the machine is shared. Best weights, averaging and validation are the loop's.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from advect.errors import AdvectError, TrainingError
from advect.records import Estimate
from advect.run import MemorySink
from advect.training import Batches, DataRows, Trainer, TrainingConfig
from advect.typing import Base, Coupling, Objective
from benchmarks.packed import pack

BATCH = 512
VALIDATIONS = 50  # of a whole training, as the loop spreads them
VALIDATION_ROWS = 4096
REPLANS = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.94)  # shares of the time
MARGIN = 0.98  # of the time left, once the pace is known
LEAST_SHARE = 0.8  # of the time that a training must have used
UNKNOWN_STEPS = 10**6
TIMED_SHARE, MOST_TIMED = 0.02, 30
LOG_PROB_STEP = 1e-3  # nats
CHUNK = 250  # rows scored at a time

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}
"""What a second of training is: by the clock on the wall, or of the processor, which other processes do not shorten."""


LogProb = Callable[[Tensor], Tensor | Estimate]
"""Log-density of rows, exact or with a standard error for each."""


@dataclass(frozen=True)
class Contender:
    """A density with what trains it.

    Attributes:
        density: The trained module.
        objective: Loss per row.
        log_prob: Log-density of standardised rows ``(rows, columns)`` after training, or an `Estimate` of it.
        base: Draws source rows, for objectives that need them.
        coupling: Pairs them.
        change: Standardised rows to the rows the module is trained on.
        about: What a result should say of it: network, sizes, versions.
    """

    density: nn.Module
    objective: Objective
    log_prob: LogProb
    base: Base | None = None
    coupling: Coupling | None = None
    change: Callable[[Tensor], Tensor] = lambda x: x
    about: Mapping[str, Any] | None = None


def training_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of the loop that a cell fixes; steps follow from the time, the seed is the cell's."""
    settings = asdict(TrainingConfig(**{"batch_size": BATCH, **given}))
    return {name: value for name, value in settings.items() if name not in ("steps", "seed", "checkpoint_seconds")}


def planned_steps(done: int, seconds: float, per_step: float, validation: float) -> int:
    """Steps in all when ``seconds`` are left.

    Args:
        done: Steps done.
        seconds: Time left.
        per_step: Seconds per step.
        validation: Seconds per validation; there are about `VALIDATIONS` per training, at least 50 steps apart.
    """
    free = seconds - VALIDATIONS * validation
    few = seconds / (per_step + validation / 50)
    return done + max(1, int(free / per_step if free / per_step > 50 * VALIDATIONS else few))


def train(
    contender: Contender, train_rows: Tensor, validation_rows: Tensor, settings: Mapping[str, Any], *, seed: int
) -> dict[str, Any]:
    """Train for ``settings["seconds"]`` and leave the best weights in the module; return what there is to say.

    A loss that is no longer finite ends the training: the best weights until then are used, and the result says so.
    """
    training = {**settings["training"], "betas": tuple(settings["training"]["betas"])}
    config = TrainingConfig(**training, steps=UNKNOWN_STEPS, seed=seed, checkpoint_seconds=math.inf)
    checks = max(1, min(len(validation_rows), VALIDATION_ROWS) // config.batch_size)

    def batches(x: Tensor, shuffle: int) -> Batches:
        rows = DataRows(draw=lambda index, generator: x[index], num_rows=len(x))
        return Batches(rows, config.batch_size, shuffle, contender.base, contender.coupling)

    trainer = Trainer(
        contender.density,
        contender.objective,
        batches(contender.change(train_rows), seed),
        config,
        MemorySink(),
        validation=batches(contender.change(validation_rows), seed + 1),
        validation_batches=checks,
    )
    seconds = settings["seconds"]
    clock = CLOCKS[settings["clock"]]
    per_step = _timed(trainer, 1, clock)
    per_step = _timed(trainer, max(1, min(MOST_TIMED, int(TIMED_SHARE * seconds / per_step))), clock)
    cpu = time.process_time()
    reason = _run(trainer, seconds, per_step, validation=checks * per_step / 3, clock=clock)
    state = trainer.state
    return {
        "steps": state.step,
        "planned_steps": trainer.config.steps,
        "ended": reason,
        "best_step": state.best_step,
        "best_validation_loss": state.best_value if math.isfinite(state.best_value) else None,
        "training_seconds": state.seconds,
        "training_cpu_seconds": time.process_time() - cpu,
        "parameters": sum(p.numel() for p in contender.density.parameters() if p.requires_grad),
        "train_rows": len(train_rows),
    }


def _timed(trainer: Trainer, steps: int, clock: Callable[[], float]) -> float:
    """Seconds per step by the clock that the training is measured with; the trainer's own is the wall's."""
    started = clock()
    trainer.time_steps(steps)
    return max((clock() - started) / (steps + 1), 1e-6)


def _run(trainer: Trainer, seconds: float, per_step: float, validation: float, clock: Callable[[], float]) -> str:
    """Train in legs with a new plan before each; how it ended."""
    started = clock()
    trainer.config = replace(trainer.config, steps=planned_steps(0, MARGIN * seconds, per_step, validation))
    try:
        for share in (*REPLANS, 1.0):
            leg_end = started + share * seconds
            outcome = trainer.run(stop=lambda leg_end=leg_end: clock() > leg_end)
            if outcome.finished:
                spent = clock() - started
                if spent < LEAST_SHARE * seconds:  # a result that had less time than the others is none
                    raise AdvectError(
                        f"the planned {trainer.state.step} steps took {spent:.0f} of {seconds:.0f} s",
                        where="density_train",
                        remedy="Run the cell again; on a busy machine with --clock cpu.",
                    )
                return "finished"
            spent, step = clock() - started, trainer.state.step
            if step and share < 1:  # the pace includes validations
                left = MARGIN * (seconds - spent)
                trainer.config = replace(trainer.config, steps=step + max(1, int(left * step / spent)))
        trainer.run(deadline=-math.inf)  # no step more: the last validation, and the best weights
    except TrainingError as error:
        trainer.flow.eval()
        trainer.state.use_best()
        return f"diverged: {error.what}"
    return "time was over"


@torch.no_grad()
def score(log_prob: LogProb, rows: Tensor, log_det: float, seconds: float = math.inf) -> dict[str, Any]:
    """Log-likelihoods of rows in their fixed random order, for as long as there is time; at least one chunk.

    Args:
        log_prob: Of standardised rows.
        rows: Standardised rows.
        log_det: Of the standardisation.
        seconds: No chunk is begun after this time.
    """
    started, values, errors = time.monotonic(), [], []
    for chunk in rows.split(CHUNK):
        found = log_prob(chunk)
        exact = isinstance(found, Tensor)
        values.append((found if exact else found.value).double() + log_det)
        errors.append(torch.zeros(len(chunk)) if exact else found.standard_error)
        if time.monotonic() - started > seconds:
            break
    return summary(torch.cat(values), torch.cat(errors)) | {"scoring_seconds": time.monotonic() - started}


def summary(log_prob: Tensor, errors: Tensor | None = None) -> dict[str, Any]:
    """Mean with its standard error over the rows that have a value, those that have none counted, and every row.

    Args:
        log_prob: Of each row.
        errors: Standard error of each value, from a stochastic log-determinant; None where values are exact.
    """
    kept = torch.isfinite(log_prob)
    finite = log_prob[kept]
    count = len(finite)
    estimated = 0.0 if errors is None or not count else float(errors[kept].double().square().sum().sqrt()) / count
    return {
        "rows": len(log_prob),
        "failed": len(log_prob) - count,
        "mean": float(finite.mean()) if count else None,
        "standard_error": float(finite.std()) / math.sqrt(count) if count > 1 else None,
        "estimator_error": estimated,
        "median": float(finite.median()) if count else None,
        "log_prob": pack(log_prob.numpy(), LOG_PROB_STEP),
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of packages that the queue does not name."""
    from importlib import metadata

    return {package: metadata.version(package) for package in packages}
