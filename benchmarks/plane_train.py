"""Training by a number of steps, and figures, for the protocols in the plane that compare losses of one network."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from advect.data.toys import TOYS
from advect.evaluation import wasserstein
from advect.flows import Flow
from advect.methods import Blueprint, build, get_method, resolve_options
from advect.run import MemorySink
from advect.solvers import make_solver
from advect.training import Batches, DataRows, Trainer, TrainingConfig, generator_for
from advect.typing import Solver

STREAM = 2303  # apart from the streams of the training loop


class Rows:
    """Fresh draws of a toy, standardised by the training rows.

    Args:
        settings: With ``task``, ``seed``, ``train_rows``, ``validation_rows`` and ``test_rows``.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        toy, seed = TOYS[settings["task"]], settings["seed"]

        def draw(stream: int, rows: int) -> Tensor:
            return toy.sample(rows, generator_for(seed, STREAM, stream))

        train = draw(0, settings["train_rows"])
        self.shift, self.scale = train.mean(0), train.std(0)
        self.train = self.scaled(train)
        self.validation = self.scaled(draw(1, settings["validation_rows"]))
        test, again = (draw(stream, settings["test_rows"]) for stream in (2, 3))
        self.test, self.again = self.scaled(test), self.scaled(again)
        self.log_det = -float(self.scale.log().sum())
        self.true_log_prob = None if toy.log_density is None else toy.log_density(test)

    def scaled(self, x: Tensor) -> Tensor:
        """Rows in the flow's coordinates."""
        return ((x - self.shift) / self.scale).float()


def trained(settings: Mapping[str, Any], rows: Rows) -> tuple[Flow, dict[str, Any]]:
    """A row of the table trained for ``steps`` steps; the averaged weights of the best validation loss."""
    method, seed = get_method(settings["method"]), settings["seed"]
    plain = Blueprint(
        method=settings["method"],
        options=resolve_options(method, settings["options"]),
        network=settings["network"],
        event_shape=(2,),
        baseline=settings["baseline"],
    )
    built = build(replace(plain, **method.recipe.settings), seed=seed, latent=rows.train)
    config = TrainingConfig(
        steps=settings["steps"], batch_size=settings["batch_size"], learning_rate=settings["learning_rate"], seed=seed
    )

    def batches(x: Tensor, shuffle: int) -> Batches:
        data = DataRows(draw=lambda index, generator: x[index], num_rows=len(x))
        source = None if built.coupling is None else built.core.base
        return Batches(data, settings["batch_size"], shuffle, source, built.coupling)

    trainer = Trainer(
        built.core,
        built.objective,
        batches(rows.train, seed),
        config,
        MemorySink(),
        validation=batches(rows.validation, seed + 1),
    )
    started = time.process_time()
    outcome = trainer.run()
    built.core.eval()
    return built.core, {
        "training_cpu_seconds": time.process_time() - started,
        "best_step": outcome.best_step,
        "best_validation_loss": outcome.best_value,
    }


@torch.no_grad()
def sampled(flow: Flow, solver: Solver, rows: int, seed: int) -> tuple[Tensor, float]:
    """Rows from a fixed start, and the network evaluations of one row in the mean; rows that failed are left out."""
    drawn = flow.with_options(solver=solver).draw(rows, generator=generator_for(seed, STREAM, 9))
    kept = drawn.value[torch.isfinite(drawn.value).all(1)]
    assert drawn.nfe is not None
    return kept, float(drawn.nfe.double().mean())


def distance(a: Tensor, b: Tensor, rows: int) -> dict[str, float]:
    """Exact W2 between disjoint parts of ``rows`` rows: mean and spread."""
    values = [wasserstein(x, y) for x, y in zip(a.split(rows), b.split(rows), strict=True) if len(x) == rows]
    return {"w2": statistics.fmean(values), "w2_spread": statistics.stdev(values) if len(values) > 1 else math.nan}


@torch.no_grad()
def likelihood(flow: Flow, rows: Rows, count: int, tolerance: float) -> dict[str, Any]:
    """Held-out log-likelihood in the units of the data, nats; the truth on the same rows; evaluations without trace."""
    x = rows.test[:count]
    careful = flow.with_options(likelihood_solver=make_solver("dopri5", tolerance=tolerance))
    value = careful.score(x).value.double() + rows.log_det
    kept = value[torch.isfinite(value)]
    figures = {
        "log_prob": float(kept.mean()),
        "log_prob_error": float(kept.std()) / math.sqrt(len(kept)),
        "failed_rows": len(x) - len(kept),
    }
    if rows.true_log_prob is not None:
        truth = rows.true_log_prob[:count][torch.isfinite(value)]
        gap = truth - kept
        figures |= {
            "true_log_prob": float(truth.mean()),
            "kl": float(gap.mean()),
            "kl_error": float(gap.std()) / math.sqrt(len(gap)),
        }
    return figures


def mean_and_sd(values: Sequence[float], digits: int = 3) -> str:
    """``mean ± sd`` over seeds; the figure alone for one."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def made_on(records: Sequence[Mapping[str, Any]], whole: int) -> str:
    """How many cells there are, when and on what they were made."""
    dates = sorted(record["date"][:10] for record in records)
    machines = sorted({f"{r['machine']['processor']}, one thread" for r in records})
    versions = sorted({f"torch {r['versions']['torch']}" for r in records})
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{len(records)} of {whole} cells; {when}; {'; '.join(machines)}; {'; '.join(versions)}."
