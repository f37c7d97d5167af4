"""Transport in the plane: a standard normal to 8gaussians and to moons, by `fm`, `i-cfm` and `ot-cfm`.

The protocol is that of Tong et al. (2302.00482, section 5 and appendix) in the form of Tong et al. 2024 (SF2M,
2307.03672, Table 2): 10,000 training and 10,000 test points, a network of three layers of 64, Euler with 100 steps,

    W2   exact, between generated and test points, beside its floor (two test sets of the same size)
    NPE  |path energy − W2²(source, test)| / W2²(source, test)

Run ``python -m benchmarks.transport_2d``; what is finished is not run again. The notes of the table say where
this differs from the published training.
"""

import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect.errors import AdvectError, missing_extra
from advect.evaluation import normalised_path_energy, path_energy, wasserstein
from advect.flows import EmpiricalBase, Flow
from advect.methods import Blueprint, build, get_method, resolve_options
from advect.run import MemorySink
from advect.solvers import Euler, raise_if_failed
from advect.training import (
    Batches,
    BatchSource,
    DataRows,
    TaughtBatches,
    TaughtRows,
    Trainer,
    TrainingConfig,
    generator_for,
)
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_tasks import START, TARGET
from benchmarks.transport_2d_table import write_table

TASKS = ("8gaussians", "moons")
METHODS = ("i-cfm", "fm", "ot-cfm")  # in the order they are run: cheap ones first
SEEDS = (42, 43, 44, 45, 46)  # the published five
STEPS = 20_000
COMMAND = "python -m benchmarks.transport_2d"
RESULTS = ROOT / "benchmarks" / "results" / "transport_2d"

_TENTH = {"sigma": 0.1}
SIGMA = {"rf": {}, "i-cfm": _TENTH, "fm": {"sigma_min": 0.1}, "ot-cfm": _TENTH, "sb-cfm": {"sigma": 1.0}}
BATCH = {"rf": 512, "i-cfm": 512, "fm": 512, "ot-cfm": 256, "sb-cfm": 256}
VALIDATION_DRAWS = 4096
PROTOCOL_STREAM = 2302  # apart from the streams of the training loop
CHECK_TOLERANCE = 1e-6  # relative; two exact solvers on float64 costs differ by rounding only


def settings_of(task: str, method: str, seed: int, steps: int, average: float = 0.0) -> dict[str, Any]:
    """Everything that decides a cell's figures; the code below reads its numbers from here."""
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "steps": steps,
        "source": "standard normal, drawn anew every step",
        "target": TARGET[task].title,
        "standardised": False,
        "train_rows": 10_000,
        "validation_rows": 1_000,
        "test_rows": 10_000,
        "small_rows": 1_000,
        "network": "mlp-3x64",
        "baseline": False,
        "options": resolve_options(get_method(method), SIGMA[method]),
        "batch_size": BATCH[method],
        "coupling_batch": BATCH[method] if method in ("ot-cfm", "sb-cfm") else None,
        "optimizer": "AdamW",
        "learning_rate": 1e-3,
        "decay": "constant",
        "warmup_steps": 0,
        "weight_decay": 1e-5,
        "betas": [0.9, 0.999],
        "gradient_clip": 0.0,
        "ema_decay": average,
        "validation_every": 20,
        "validation_draws": VALIDATION_DRAWS,
        "tested_weights": "best validation loss",
        "solver": "euler",
        "solver_steps": 100,
    }


def plan(
    tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int], steps: int, average: float = 0.0
) -> list[Cell]:
    """The cells of a run: method by method, and inside a method seed by seed, so that partial tables are level."""
    extra = f" --average {average}" if average else ""
    return [
        Cell(
            name=f"{task}-{method}-{seed}",
            work="benchmarks.transport_2d:run_cell",
            settings=settings_of(task, method, seed, steps, average),
            command=f"{COMMAND} --tasks {task} --methods {method} --seeds {seed} --steps {steps}{extra}",
        )
        for method in METHODS
        if method in methods
        for seed in seeds
        for task in tasks
    ]


@dataclass(frozen=True)
class Sets:
    """Fresh draws of a cell, all float32 ``(rows, 2)``; the same for every method with this task and seed.

    Attributes:
        train: To learn from.
        validation: To choose the weights by.
        test: To compare with.
        again: A second test set, for the floor.
        source: Where the generated points start.
        start: Source points to learn from; None where they are drawn anew.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    again: Tensor
    source: Tensor
    start: Tensor | None = None


def draw_sets(settings: Mapping[str, Any]) -> Sets:
    """Draw what a cell needs; one stream per set."""
    toy, start = TARGET[settings["task"]], START.get(settings["task"])
    seed, test_rows = settings["seed"], settings["test_rows"]

    def generator(stream: int) -> torch.Generator:
        return generator_for(seed, PROTOCOL_STREAM, stream)

    return Sets(
        train=toy.sample(settings["train_rows"], generator(0)).float(),
        validation=toy.sample(settings["validation_rows"], generator(1)).float(),
        test=toy.sample(test_rows, generator(2)).float(),
        again=toy.sample(test_rows, generator(3)).float(),
        source=torch.randn(test_rows, 2, generator=generator(4))
        if start is None
        else start.sample(test_rows, generator(4)).float(),
        start=None if start is None else start.sample(settings["train_rows"], generator(6)).float(),
    )


def train(settings: Mapping[str, Any], sets: Sets, first: Flow | None = None) -> tuple[Flow, dict[str, Any]]:
    """Train by the protocol; return the flow with its best weights, and what there is to say about the training.

    Args:
        settings: All of them.
        sets: What is drawn for the cell.
        first: A flow whose pairs are trained on and whose weights are the first ones, in place of the sets.
    """
    seed, batch_size = settings["seed"], settings["batch_size"]
    blueprint = Blueprint(
        method=settings["method"],
        options=settings["options"],
        network=settings["network"],
        event_shape=(2,),
        baseline=settings["baseline"],
    )
    built = build(blueprint, seed=seed, source=None if sets.start is None else EmpiricalBase(sets.start))
    names = ("steps", "batch_size", "learning_rate", "warmup_steps", "decay", "weight_decay", "gradient_clip")
    names += ("ema_decay", "validation_every", "seed")
    pool = {name: settings[name] for name in ("pool", "pool_uses") if name in settings}
    config = TrainingConfig(**{name: settings[name] for name in names}, **pool, betas=tuple(settings["betas"]))
    started = time.process_time()
    coupling = built.coupling
    taught: dict[str, TaughtRows] = {}
    if first is not None:
        built.core.load_state_dict(first.state_dict())
        taught = {name: pairs_of(first, settings, name) for name in ("train", "validation")}
    elif coupling is not None:
        coupling = coupling.prepare(sets.start, sets.train, generator=generator_for(seed, PROTOCOL_STREAM, 5))
    preparation = time.process_time() - started

    def batches(x: Tensor, shuffle: int) -> BatchSource:
        if taught:
            return TaughtBatches(taught["train" if x is sets.train else "validation"], batch_size, shuffle)
        rows = DataRows(draw=lambda index, generator: x[index], num_rows=len(x))
        return Batches(rows, batch_size, shuffle, built.core.base, coupling, prepared=x is sets.train)

    sink = MemorySink()
    trainer = Trainer(
        built.core,
        built.objective,
        batches(sets.train, seed),
        config,
        sink,
        validation=batches(sets.validation, seed + 1),
        validation_batches=settings["validation_draws"] // batch_size,
    )
    started = time.process_time()
    outcome = trainer.run()
    return built.core, {
        "training_seconds": outcome.seconds,
        "training_cpu_seconds": time.process_time() - started,
        "preparation_cpu_seconds": preparation,
        "coupling": {name: value for name, value in sink.history[-1].items() if name.startswith("coupling_")},
        "best_step": outcome.best_step,
        "best_validation_loss": outcome.best_value,
        # One line in fifty: the curve, not every epoch.
        "validation": [[line["step"], line["validation_loss"]] for line in sink.history[49::50]],
    }


@torch.no_grad()
def pairs_of(flow: Flow, settings: Mapping[str, Any], name: str) -> TaughtRows:
    """Source rows and where the flow takes them: `settings["pairs"]` for training, a tenth as many for validation."""
    generator = generator_for(settings["seed"], PROTOCOL_STREAM, 7, int(name == "train"))
    count = settings["pairs"] if name == "train" else settings["pairs"] // 10
    start = flow.base.sample(count, generator=generator)
    end = flow.decode(start)
    if bool(end.status.any()):
        raise AdvectError("the solver failed on source rows", where="pairs_of")
    return TaughtRows(start, end.value)


def in_parts(a: Tensor, b: Tensor, rows: int, order: int) -> list[float]:
    """The distance between disjoint parts of ``rows`` points of both sets."""
    return [wasserstein(x, y, order) for x, y in zip(a.split(rows), b.split(rows), strict=True)]


def mean_and_spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation of a figure over the parts."""
    return {name: statistics.fmean(values), f"{name}_spread": statistics.stdev(values)}


@torch.no_grad()
def evaluate(flow: Flow, settings: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
    """All figures of a trained flow."""
    small = settings["small_rows"]
    times = torch.linspace(0, 1, settings["solver_steps"] + 1)
    solution = Euler(steps=settings["solver_steps"])(flow.velocity, sets.source, times=times)
    raise_if_failed(solution)
    assert solution.states is not None
    generated, energy = solution.state, path_energy(solution.states, times).double()
    transport = wasserstein(sets.source, sets.test) ** 2
    small_energy = [float(part.mean()) for part in energy.split(small)]
    small_transport = [w2**2 for w2 in in_parts(sets.source, sets.test, small, 2)]
    w2 = wasserstein(generated, sets.test)
    figures = {
        "w2": w2,
        "w2_floor": wasserstein(sets.again, sets.test),
        **mean_and_spread("w2_small", in_parts(generated, sets.test, small, 2)),
        **mean_and_spread("w2_small_floor", in_parts(sets.again, sets.test, small, 2)),
        **mean_and_spread("w1_small", in_parts(generated, sets.test, small, 1)),
        **mean_and_spread("w1_small_floor", in_parts(sets.again, sets.test, small, 1)),
        "path_energy": float(energy.mean()),
        "path_energy_error": float(energy.std()) / math.sqrt(len(energy)),
        "w2_squared_source_test": transport,
        "npe": normalised_path_energy(float(energy.mean()), transport),
        **mean_and_spread("npe_small", list(map(normalised_path_energy, small_energy, small_transport))),
    }
    if settings.get("check_by_pot", True):
        figures["w2_by_pot"] = checked_by_pot(generated, sets.test, w2)
    return figures


def checked_by_pot(a: Tensor, b: Tensor, w2: float) -> float:
    """W2 by the network simplex of POT, which shares no code with ours.

    Raises:
        AdvectError: The two disagree.
        MissingExtraError: POT is not installed.
    """
    try:
        import ot
    except ImportError as error:
        raise missing_extra("POT", "bench", "the independent check of W2") from error
    cost = ot.dist(a.double().numpy(), b.double().numpy(), metric="sqeuclidean")
    other = math.sqrt(ot.emd2([], [], cost, numItermax=100_000_000))
    if not math.isclose(w2, other, rel_tol=CHECK_TOLERANCE):
        raise AdvectError(f"W2 is {w2!r} by assignment and {other!r} by POT", where="transport_2d")
    return other


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: draw, train, evaluate."""
    torch.set_num_threads(1)
    sets = draw_sets(settings)
    flow, training = train(settings, sets)
    return evaluate(flow, settings, sets) | training


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS, takes="one thread and about 5 GB each")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="targets, from a standard normal")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="default: 42 to 46")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps; anything but 20000 is no result")
    parser.add_argument(
        "--average", type=float, default=0.0, help="test averaged weights, with this decay per step (published: none)"
    )
    parser.set_defaults(out=None)
    given = parser.parse_args(arguments)
    # Averaged weights are another protocol, so their cells lie in a folder of their own.
    given.out = given.out or (RESULTS.with_name(f"{RESULTS.name}_averaged") if given.average else RESULTS)

    def tabulate(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        write_table(path, records, tasks=TASKS, methods=METHODS, seeds=SEEDS, steps=STEPS)

    cells = plan(given.tasks, given.methods, given.seeds, given.steps, given.average)
    return answer(given, cells, tabulate)


if __name__ == "__main__":
    sys.exit(main())
