"""Couplings under a condition: eight Gaussians to moons, given nothing, the moon, or the x-coordinate.

The protocol of Cheng and Schwing (C2OT, 2503.10636): plain transport of a batch gives each condition its own part of
the source, and a sampler that starts from the whole source fails there. Rows:

    fm     independent pairs
    ot     exact assignment of 1024 rows, the condition unseen
    c2ot   inside each class, or weighing the distance of conditions: what `ot-cfm` does by itself

Residual network 3 × 128, Adam at 3e-4, batches of 256 from 200,000 rows, one plan for four of them, σ = 0. Figures: W2²
(not its root) between 10,000 samples and as many test rows under the same conditions, by one step of Euler and by
dopri5 at 1e-4. Given the moon there are two: the mean over both moons, each with itself, which sees what lands on the
wrong one, and that of all rows together, which does not and is what was published. Run
``python -m benchmarks.conditional_2d``; what is finished is not run again.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect.couplings import Assignment, Classwise, Conditioned, Independent
from advect.evaluation import wasserstein
from advect.files import write_text
from advect.flows import Flow
from advect.methods import Blueprint, Parts, build, get_method, resolve_options
from advect.run import MemorySink
from advect.solvers import Euler, make_solver
from advect.training import Batches, DataRows, Trainer, TrainingConfig, generator_for
from advect.typing import Coupling, Solver
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_tasks import ConditionalSource, conditional_ends
from benchmarks.plane_train import made_on, mean_and_sd

GIVEN, ROWS, SEEDS, STEPS = ("nothing", "moon", "x"), ("fm", "ot", "c2ot"), tuple(range(10)), 20_000
COMMAND = "python -m benchmarks.conditional_2d"
RESULTS = ROOT / "benchmarks" / "results" / "conditional_2d"
STREAM = 2503
PUBLISHED = {
    ("nothing", "fm"): ("6.232", "0.120"),
    ("nothing", "ot"): ("0.072", "0.050"),
    ("moon", "fm"): ("2.573", "0.059"),
    ("moon", "ot"): ("0.483", "0.462"),
    ("moon", "c2ot"): ("0.048", "0.018"),
    ("x", "fm"): ("0.732", "0.028"),
    ("x", "ot"): ("8.276", "2.143"),
    ("x", "c2ot"): ("0.077", "0.013"),
}  # Euler with one step, adaptive


def settings_of(given: str, row: str, seed: int, steps: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    return {
        "given": given,
        "row": row,
        "seed": seed,
        "steps": steps,
        "network": "residual-3x128",
        "batch_size": 256,
        "pool": 4,
        "bandwidth": 0.05,
        "learning_rate": 3e-4,
        "train_rows": 200_000,
        "rows": 10_000,
        "tolerance": 1e-4,
    }


def plan(given: Sequence[str], rows: Sequence[str], seeds: Sequence[int], steps: int) -> list[Cell]:
    """The cells, seed by seed."""
    return [
        Cell(
            name=f"{what}-{row}-{seed}",
            work="benchmarks.conditional_2d:run_cell",
            settings=settings_of(what, row, seed, steps),
            command=f"{COMMAND} --given {what} --rows {row} --seeds {seed} --steps {steps}",
        )
        for seed in seeds
        for what in given
        for row in rows
        if (what, row) in PUBLISHED
    ]


def draw(settings: Mapping[str, Any], rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Data rows and their condition: none, the moon as two numbers, or the x-coordinate in units of about one."""
    _, x1, moon = conditional_ends(rows, generator)
    condition = {
        "nothing": None,
        "moon": torch.nn.functional.one_hot(moon, 2).float(),
        "x": ((x1[:, :1] - 0.8) / 2.6).float(),
    }[settings["given"]]
    return x1.float(), condition


def train(settings: Mapping[str, Any]) -> tuple[Flow, float]:
    """The flow, and processor seconds of training."""
    seed, width = settings["seed"], {"nothing": 0, "moon": 2, "x": 1}[settings["given"]]
    couplings: dict[str, Coupling] = {
        "fm": Independent(),
        "ot": Assignment(),
        "c2ot": Classwise(Assignment(), continuous=Conditioned(settings["bandwidth"])),
    }
    method = get_method("ot-cfm")
    blueprint = Blueprint(
        method="ot-cfm",
        options=resolve_options(method, {}),
        network=settings["network"],
        event_shape=(2,),
        condition_features=width,
        condition_dropout=0.0,
    )
    parts = Parts(coupling=couplings[settings["row"]])
    built = build(replace(blueprint, **method.recipe.settings), seed=seed, source=ConditionalSource(), parts=parts)
    config = TrainingConfig(
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        warmup_steps=0,
        decay="constant",
        weight_decay=0.0,
        ema_decay=0.0,
        pool=settings["pool"] if settings["row"] != "fm" else 1,
        seed=seed,
    )
    x1, condition = draw(settings, settings["train_rows"], generator_for(seed, STREAM, 0))
    rows = DataRows(draw=lambda index, generator: x1[index], num_rows=len(x1), condition=condition)
    batches = Batches(rows, config.batch_size, seed, built.core.base, built.coupling)
    started = time.process_time()
    Trainer(built.core, built.objective, batches, config, MemorySink()).run()
    return built.core.eval(), time.process_time() - started


@torch.no_grad()
def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: train, sample by two solvers, compare under the same conditions."""
    torch.set_num_threads(1)
    with torch.enable_grad():
        flow, seconds = train(settings)
    test, condition = draw(settings, settings["rows"], generator_for(settings["seed"], STREAM, 1))
    again, other = draw(settings, settings["rows"], generator_for(settings["seed"], STREAM, 2))
    start = ConditionalSource().sample(settings["rows"], generator=generator_for(settings["seed"], STREAM, 3))
    figures: dict[str, Any] = {"training_cpu_seconds": seconds, "floor": _distance(again, other, test, condition)}
    solvers: dict[str, Solver] = {
        "euler": Euler(steps=1),
        "adaptive": make_solver("dopri5", tolerance=settings["tolerance"]),
    }
    for name, solver in solvers.items():
        solution = solver(flow.velocity, start, condition=condition)
        figures[name] = _distance(solution.state, condition, test, condition)
        if settings["given"] == "moon":
            figures[f"{name}_together"] = _distance(solution.state, None, test, None)
        figures[f"{name}_nfe"] = float(solution.nfe.double().mean())
    return figures


def _distance(a: Tensor, given_a: Tensor | None, b: Tensor, given_b: Tensor | None) -> float:
    """W2² of both sets; of classes the mean over them, each cut to the smaller number of rows."""
    if given_a is None or given_b is None or given_a.shape[1] == 1:
        return wasserstein(a, b) ** 2
    found = []
    for kind in range(given_a.shape[1]):
        mine, others = a[given_a[:, kind] > 0], b[given_b[:, kind] > 0]
        count = min(len(mine), len(others))
        found.append(wasserstein(mine[:count], others[:count]) ** 2)
    return statistics.fmean(found)


def _line(
    given: str, row: str, records: Sequence[Mapping[str, Any]], kind: str, published: tuple[str, str]
) -> list[str]:
    """A line of the table of one kind of figure, none without records."""
    if not records:
        return []
    figures = [r["figures"] for r in records]
    cells = [
        given,
        row,
        f"{len(records)} of {len(SEEDS)}",
        "/".join(sorted({str(r["settings"]["steps"]) for r in records})),
        mean_and_sd([f[f"euler{kind}"] for f in figures]),
        published[0],
        mean_and_sd([f[f"adaptive{kind}"] for f in figures]),
        published[1],
        mean_and_sd([f["adaptive_nfe"] for f in figures], 0),
        "" if kind else mean_and_sd([f["floor"] for f in figures]),
        f"{statistics.fmean(f['training_cpu_seconds'] for f in figures):.0f} s",
    ]
    return ["| " + " | ".join(cells) + " |"]


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    lines = [
        "# Couplings under a condition",
        "",
        f"Written by `{COMMAND}`; do not edit. Eight Gaussians to moons (C2OT, 2503.10636): W2² between 10,000 samples "
        "and test rows under the same conditions, mean ± sd over the seeds that are there. Floor: two test sets. "
        "Given the moon: the mean over both moons, each with itself, and the distance of all rows together, which does "
        "not see what lands on the wrong moon and is what was published. "
        "Published: 20,000 steps, ten seeds; with fewer steps the pattern can be compared, not the figure.",
        "",
        "| given | row | seeds | steps | Euler, 1 step | published | dopri5, 1e-4 | published | evaluations | floor "
        "| training |",
        "|" + " --- |" * 11,
    ]
    for (given, row), published in PUBLISHED.items():
        own = [r for r in records if (r["settings"]["given"], r["settings"]["row"]) == (given, row)]
        if given == "moon":
            lines += _line(given, row, own, "", ("", ""))
            own = [r for r in own if "euler_together" in r["figures"]]
            lines += _line("moon, all together", row, own, "_together", published)
        else:
            lines += _line(given, row, own, "", published)
    lines += ["", made_on(records, len(PUBLISHED) * len(SEEDS))] if records else []
    write_text(path, "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--given", nargs="+", choices=GIVEN, default=GIVEN)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimiser steps; the protocol has {STEPS}")
    given = parser.parse_args(arguments)
    return answer(given, plan(given.given, given.rows, given.seeds, given.steps), write_table)


if __name__ == "__main__":
    sys.exit(main())
