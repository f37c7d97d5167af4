"""What the pairing changes: OT-CFM in the plane, by batches, by pools, by the whole set, and semidiscrete.

The protocol of `transport_2d` (Tong et al. 2302.00482 in the form of 2307.03672, Table 2), σ = 0.1, batches of 256;
only the pairing differs:

    batch          exact assignment of every batch
    pool           of eight batches at once
    whole          of the whole set, by local repairs; its pairs serve twenty epochs
    semidiscrete   one dual number per training point, learned once

Figures as there: NPE and W2 beside its floor. A pairing beats another where the difference exceeds two standard errors
over the seeds. Run ``python -m benchmarks.pairing_2d``; what is finished is not run again.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advect.files import write_text
from advect.methods import get_method, resolve_options
from benchmarks import transport_2d
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_train import made_on, mean_and_sd

PAIRINGS: Mapping[str, Mapping[str, Any]] = {
    "batch": {"pool": 1, "pool_uses": 1},
    "pool": {"pool": 8, "pool_uses": 1},
    "whole": {"pool": 0, "pool_uses": 20},
    "semidiscrete": {"pool": 1, "pool_uses": 1, "plan": "semidiscrete"},
}
TASKS, SEEDS, STEPS = transport_2d.TASKS, transport_2d.SEEDS, transport_2d.STEPS
COMMAND = "python -m benchmarks.pairing_2d"
RESULTS = ROOT / "benchmarks" / "results" / "pairing_2d"


def settings_of(task: str, pairing: str, seed: int, steps: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    own = dict(PAIRINGS[pairing])
    options = {"sigma": 0.1, "plan": own.pop("plan", "assignment")}
    return (
        transport_2d.settings_of(task, "ot-cfm", seed, steps)
        | own
        | {
            "pairing": pairing,
            "options": resolve_options(get_method("ot-cfm"), options),
        }
    )


def plan(tasks: Sequence[str], pairings: Sequence[str], seeds: Sequence[int], steps: int) -> list[Cell]:
    """The cells, seed by seed."""
    return [
        Cell(
            name=f"{task}-{pairing}-{seed}",
            work="benchmarks.transport_2d:run_cell",
            settings=settings_of(task, pairing, seed, steps),
            command=f"{COMMAND} --tasks {task} --pairings {pairing} --seeds {seed} --steps {steps}",
        )
        for seed in seeds
        for task in tasks
        for pairing in pairings
    ]


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    lines = [
        "# What the pairing changes",
        "",
        f"Written by `{COMMAND}`; do not edit. OT-CFM from a standard normal by the protocol of "
        "[transport in the plane](transport_2d.md): 10,000 training and test points, MLP 3 × 64, batches of 256, "
        "σ = 0.1, Euler with 100 steps. NPE: path energy against W2² of the test sets. Preparation: processor seconds "
        "before the first step; training: processor seconds, pools included. Mean ± sd over the seeds that are there.",
        "",
        "| target | pairing | seeds | steps | NPE | W2 (floor) | preparation | training |",
        "|" + " --- |" * 8,
    ]
    for task in TASKS:
        for pairing in PAIRINGS:
            own = [r for r in records if (r["settings"]["task"], r["settings"]["pairing"]) == (task, pairing)]
            if not own:
                continue
            figures = [r["figures"] for r in own]
            cells = [
                task,
                pairing,
                str(len(own)),
                "/".join(sorted({str(r["settings"]["steps"]) for r in own})),
                mean_and_sd([f["npe"] for f in figures]),
                mean_and_sd([f["w2"] for f in figures]) + f" ({mean_and_sd([f['w2_floor'] for f in figures])})",
                f"{statistics.fmean(f['preparation_cpu_seconds'] for f in figures):.0f} s",
                f"{statistics.fmean(f['training_cpu_seconds'] for f in figures):.0f} s",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", made_on(records, len(TASKS) * len(PAIRINGS) * len(SEEDS))] if records else []
    write_text(path, "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS, takes="one thread and about 5 GB each")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--pairings", nargs="+", choices=tuple(PAIRINGS), default=tuple(PAIRINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimiser steps; the protocol has {STEPS}")
    given = parser.parse_args(arguments)
    return answer(given, plan(given.tasks, given.pairings, given.seeds, given.steps), write_table)


if __name__ == "__main__":
    sys.exit(main())
