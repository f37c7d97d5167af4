"""Transport in the plane, all rows: what the pairing changes, from independent over batches to whole sets.

The protocol of `transport_2d` (Tong et al. 2302.00482 in the form of 2307.03672, Table 2) for its four tasks; only the
pairing differs:

    i-cfm          independent
    fm             independent, Lipman's path (a Gaussian source only)
    batch          OT-CFM: exact assignment of every batch
    sb-cfm         the entropic plan of every batch with regulariser 2σ², σ = 1, and the path of a Brownian bridge
    pool           of eight batches at once
    whole          of the whole set, by local repairs; its pairs serve twenty epochs
    semidiscrete   one dual number per training point (a source that can be drawn from for ever only)
    2-rf           reflow: the pairs of a first rectified flow, trained as long, whose weights are the first ones

Figures as there: NPE and W2 beside its floor, and W2 of samples by one Euler step. A pairing beats OT-CFM where its
mean lies two standard errors over the seeds and the noise of the figure itself below. The cells that `transport_2d`
holds are read from it. Run ``python -m benchmarks.pairing_2d``; what is finished is not run again.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from advect.evaluation import wasserstein
from advect.flows import Flow
from advect.methods import get_method, resolve_options
from advect.solvers import Euler
from benchmarks import transport_2d
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.pairing_2d_table import write_table
from benchmarks.plane_tasks import START, TARGET

_PLAIN = {"pool": 1, "pool_uses": 1}
PAIRINGS: Mapping[str, Mapping[str, Any]] = {
    "i-cfm": {"method": "i-cfm", **_PLAIN},
    "fm": {"method": "fm", **_PLAIN},
    "batch": {"method": "ot-cfm", **_PLAIN},
    "sb-cfm": {"method": "sb-cfm", **_PLAIN},
    "pool": {"method": "ot-cfm", "pool": 8, "pool_uses": 1},
    "whole": {"method": "ot-cfm", "pool": 0, "pool_uses": 20},
    "semidiscrete": {"method": "ot-cfm", "plan": "semidiscrete", **_PLAIN},
    "2-rf": {"method": "rf", "pairs": 100_000, **_PLAIN},
}
TASKS, SEEDS, STEPS = ("moons", "8gaussians", "scurve", "moons-8gaussians"), transport_2d.SEEDS, transport_2d.STEPS
COMMAND = "python -m benchmarks.pairing_2d"
RESULTS = ROOT / "benchmarks" / "results" / "pairing_2d"


def settings_of(task: str, pairing: str, seed: int, steps: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    own = dict(PAIRINGS[pairing])
    method = own.pop("method")
    options = dict(transport_2d.SIGMA[method]) | {name: own.pop(name) for name in ("plan", "chi_square") if name in own}
    start = {} if task not in START else {"source": START[task].title}
    return (
        transport_2d.settings_of(task, method, seed, steps)
        | own
        | start
        | {
            "pairing": pairing,
            "options": resolve_options(get_method(method), options),
            "check_by_pot": seed == SEEDS[0],  # two exact solvers; once a row is enough
        }
    )


def is_possible(task: str, pairing: str) -> bool:
    """Whether the pairing can start where the task does."""
    return task not in START or pairing not in ("fm", "semidiscrete")


def is_own(task: str, pairing: str) -> bool:
    """Whether `transport_2d` does not hold the cell already."""
    return task not in transport_2d.TASKS or pairing not in ("i-cfm", "fm", "batch")


def plan(tasks: Sequence[str], pairings: Sequence[str], seeds: Sequence[int], steps: int) -> list[Cell]:
    """The cells, seed by seed."""
    return [
        Cell(
            name=f"{task}-{pairing}-{seed}",
            work="benchmarks.pairing_2d:run_cell",
            settings=settings_of(task, pairing, seed, steps),
            command=f"{COMMAND} --tasks {task} --pairings {pairing} --seeds {seed} --steps {steps}",
        )
        for seed in seeds
        for task in tasks
        for pairing in pairings
        if is_possible(task, pairing) and is_own(task, pairing)
    ]


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: draw, train, evaluate."""
    torch.set_num_threads(1)
    sets = transport_2d.draw_sets(settings)
    flow, training = transport_2d.train(settings, sets)
    figures = transport_2d.evaluate(flow, settings, sets) | {"w2_one_step": one_step(flow, sets)} | training
    if "pairs" not in settings:
        return figures
    second, training = transport_2d.train(settings, sets, first=flow)
    figures = {"first": {name: figures[name] for name in ("npe", "w2", "w2_one_step", "path_energy")}} | training
    return figures | transport_2d.evaluate(second, settings, sets) | {"w2_one_step": one_step(second, sets)}


@torch.no_grad()
def one_step(flow: Flow, sets: transport_2d.Sets) -> float:
    """W2 of what a single Euler step makes of the test source."""
    return wasserstein(Euler(steps=1)(flow.velocity, sets.source).state, sets.test)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS, takes="one thread and about 5 GB each")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TARGET), default=TASKS)
    parser.add_argument("--pairings", nargs="+", choices=tuple(PAIRINGS), default=tuple(PAIRINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimiser steps; the protocol has {STEPS}")
    given = parser.parse_args(arguments)
    return answer(given, plan(given.tasks, given.pairings, given.seeds, given.steps), write_table)


if __name__ == "__main__":
    sys.exit(main())
