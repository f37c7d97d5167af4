"""Single-cell snapshots with one time left out: Wasserstein-1 there (Tong et al. 2302.00482 and 2307.03672, table 4).

Each inner time k is removed in turn, a flow through the other times is trained, all cells of time k − 1 are pushed to
k (100 Euler steps), and compared with the true cells of k. Methods: advect's ot-cfm, i-cfm, sb-cfm and sf2m (its ODE),
and torchcfm's own matchers with the same network, rows, loop and optimiser. Beside them what needs no training: cells
on the straight lines of the exact optimal plan between k − 1 and k + 1, the cells of k − 1 where they are, and real
against real.

Run ``python -m benchmarks.single_cell``; what is finished is not run again.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.couplings import Independent
from advect.data import read_table
from advect.errors import ConfigError
from advect.files import write_text
from advect.objectives.matching import mean_event, on_interval
from advect.records import Batch
from advect.run import MemorySink
from advect.solvers import make_solver
from advect.training import Snapshots
from advect.typing import expand_time
from advect.workflows.prepare import Prepared, prepare
from advect.workflows.request import TrainRequest
from advect.workflows.snapshots import timed
from advect.workflows.trainer import make_trainer
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_train import made_on, mean_and_sd

SETS: Mapping[str, tuple[int, ...]] = {
    "sc_emt": (1, 2),
    "sc_ipsc_bifurcation": (1, 2, 3, 4, 5, 6),
    "sc_mouse_hematopoiesis": (1,),
    "sc_simulated_grn": (1, 2, 3),
}
OWN: Mapping[str, float] = {"ot-cfm": 0.1, "i-cfm": 0.1, "sb-cfm": 0.5, "sf2m": 0.5}  # and its σ
PEERS: Mapping[str, tuple[str, float]] = {
    "torchcfm-ot": ("ExactOptimalTransportConditionalFlowMatcher", 0.1),
    "torchcfm-i": ("ConditionalFlowMatcher", 0.1),
    "torchcfm-sb": ("SchrodingerBridgeConditionalFlowMatcher", 0.5),
}
METHODS = (*OWN, *PEERS)
UNTRAINED = ("interpolation", "still", "floor")
SEEDS = (0, 1, 2)
STEPS = 1500
MOST_ROWS = 2000
COMMAND = "python -m benchmarks.single_cell"
RESULTS = ROOT / "benchmarks" / "results" / "single_cell"


def settings_of(name: str, time: int, method: str, seed: int, steps: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    return {
        "set": name,
        "left_out": time,
        "method": method,
        "sigma": OWN[method] if method in OWN else PEERS[method][1],
        "network": "mlp-3x64",
        "seed": seed,
        "steps": steps,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "euler_steps": 100,
        "most_rows": MOST_ROWS,
    }


def plan(sets: Sequence[str], methods: Sequence[str], seeds: Sequence[int], steps: int) -> list[Cell]:
    """The cells, seed by seed, set by set."""
    return [
        Cell(
            name=f"{name}-{time}-{method}-{seed}",
            work="benchmarks.single_cell:run_cell",
            settings=settings_of(name, time, method, seed, steps),
            command=f"{COMMAND} --sets {name} --methods {method} --seeds {seed} --steps {steps}",
        )
        for seed in seeds
        for name in sets
        for time in SETS[name]
        for method in methods
    ]


@dataclass(frozen=True)
class Matcher:
    """An objective that lets a matcher of torchcfm pair the rows and draw times, points and targets."""

    matcher: Any
    takes_intervals = True

    def __call__(self, flow: Any, batch: Batch, *, generator: Any = None) -> Tensor:
        """Loss ``(batch,)``, of the displacement as advect's own; torchcfm draws from the global generators."""
        time, x, velocity = self.matcher.sample_location_and_conditional_flow(batch.x0, batch.x1)
        t, length = on_interval(time, batch.interval)
        return mean_event((expand_time(length, x) * flow.velocity(t, x, None) - velocity).square())


def _request(settings: Mapping[str, Any], data: str) -> TrainRequest:
    method, seed = settings["method"], settings["seed"]
    return TrainRequest(
        data=data,
        method=method if method in OWN else "i-cfm",
        time_key="t",
        leave_out=(settings["left_out"],),
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        network=settings["network"],
        seed=seed,
        options={"sigma": settings["sigma"]},
        training={"learning_rate": settings["learning_rate"]},
    )


def _trained(settings: Mapping[str, Any], request: TrainRequest) -> Prepared:
    """A trained flow with its rows, by advect's own paths or by a matcher of torchcfm in the same loop."""
    prepared = prepare(request)
    if settings["method"] in OWN:
        make_trainer(prepared, MemorySink()).run()
        return prepared
    import torchcfm.conditional_flow_matching as peers

    name, sigma = PEERS[settings["method"]]
    np.random.seed(settings["seed"])  # noqa: NPY002  torchcfm draws pairs from NumPy's global generator
    built = replace(prepared.built, objective=Matcher(getattr(peers, name)(sigma=sigma)))
    assert isinstance(prepared.train, Snapshots)
    alone = (Independent(),) * len(prepared.train.couplings)
    prepared = replace(
        prepared,
        built=built,
        train=replace(prepared.train, couplings=alone),
        validate=replace(prepared.validate, couplings=alone),
    )
    make_trainer(prepared, MemorySink()).run()
    return prepared


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: train without a time, push, compare."""
    torch.set_num_threads(1)
    home = os.environ.get("ADVECT_DATA")
    if home is None:
        raise ConfigError("ADVECT_DATA is not set", where="single_cell", remedy="Set it to the folder of larger data.")
    data = str(Path(home) / settings["set"] / f"{settings['set']}.npz")
    prepared = _trained(settings, _request(settings, data))
    flow = prepared.flow.eval()
    rows = timed(read_table(data), "t", (settings["left_out"],))
    line, time = rows.timeline, float(settings["left_out"])
    earlier, later = line.neighbours(time)
    coded = prepared.codec.encode(rows.table, generator=torch.Generator().manual_seed(0), dtype=torch.float64).values
    before_ode, ode, _ = flow.split_at_ode("single_cell")
    with torch.no_grad():
        latent = before_ode.encode(coded, log_det=False).value
    random = torch.Generator().manual_seed(1000 + settings["seed"])

    def cells(one: float) -> Tensor:
        found = latent[torch.from_numpy(rows.at(np.arange(len(latent)), one))]
        return found[torch.randperm(len(found), generator=random)[: settings["most_rows"]]]

    real, before, after = cells(time), cells(earlier), cells(later)
    solver = make_solver("euler", steps=settings["euler_steps"])
    part = ode.with_options(interval=(line.position(earlier), line.position(time)), solver=solver)
    with torch.no_grad():
        pushed = part.decode(before, log_det=False).value
    half = len(real) // 2
    points, weights = _interpolated(before, after, (time - earlier) / (later - earlier))
    return {
        "w1": _distance(pushed, real),
        "interpolation": _distance(points, real, weights),
        "still": _distance(before, real),
        "floor": _distance(real[:half], real[half : 2 * half]),
        "halved": _distance(pushed[:half], real[:half]),
        "rows": {"real": len(real), "pushed": len(pushed), "after": len(after)},
        "lost": int((~torch.isfinite(pushed).all(1)).sum()),
    }


def _interpolated(before: Tensor, after: Tensor, share: float) -> tuple[Tensor, np.ndarray]:
    """Points on the lines of the exact plan (squared cost) between all cells of both times, with their weights."""
    import ot

    cost = torch.cdist(before.double(), after.double()).square().numpy()
    plan = ot.emd(np.full(len(before), 1 / len(before)), np.full(len(after), 1 / len(after)), cost, numItermax=10**7)
    first, second = np.nonzero(plan)
    return torch.lerp(before[first], after[second], share), plan[first, second] / plan.sum()


def _distance(a: Tensor, b: Tensor, weights: np.ndarray | None = None) -> float:
    """Exact Wasserstein-1 by POT's network simplex, also of unequal numbers of rows."""
    import ot

    own = np.full(len(a), 1 / len(a)) if weights is None else weights
    cost = torch.cdist(a.double(), b.double()).numpy()
    return float(ot.emd2(own, np.full(len(b), 1 / len(b)), cost, numItermax=10**7))


def _line(records: Sequence[Mapping[str, Any]], figure: str) -> list[str]:
    """A cell per set: the mean over left-out times and seeds, with the spread of the seeds' means."""
    cells = []
    for name in SETS:
        own = [r for r in records if r["settings"]["set"] == name]
        seeds = sorted({r["settings"]["seed"] for r in own})
        means = [float(np.mean([r["figures"][figure] for r in own if r["settings"]["seed"] == seed])) for seed in seeds]
        cells.append(mean_and_sd(means) if means else "–")
    return cells


def complete(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of those left-out times and seeds that every method of the records has: means then compare."""
    methods = {r["settings"]["method"] for r in records}
    found: dict[tuple[str, int, int], set[str]] = {}
    for record in records:
        found.setdefault(_place(record), set()).add(record["settings"]["method"])
    return [record for record in records if found[_place(record)] == methods]


def _place(record: Mapping[str, Any]) -> tuple[str, int, int]:
    settings = record["settings"]
    return settings["set"], settings["left_out"], settings["seed"]


def _times(records: Sequence[Mapping[str, Any]], name: str) -> str:
    """Which times of a set were left out, of how many."""
    there = {r["settings"]["left_out"] for r in records if r["settings"]["set"] == name}
    return f"{len(there)} of {len(SETS[name])}" if len(there) < len(SETS[name]) else f"{len(there)}"


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    made, records = records, complete(records)
    lines = [
        "# Single cells, one time left out",
        "",
        f"Written by `{COMMAND}`; do not edit. Exact Wasserstein-1 between the cells of a time that was not trained on "
        "and the cells of the time before pushed there (100 Euler steps), in standard deviations of the training rows; "
        f"at most {MOST_ROWS} cells of either. Mean over the inner times, each left out in turn (how many, beside the "
        "set); ± is the spread of this mean over seeds, nothing for a single one. Every method: MLP 3 × 64, batches of "
        "128 of one pair of times per step, AdamW at 1e-3 with a cosine to zero, averaged weights of the best "
        "validation loss. The rows of torchcfm are its own matchers (pairs, times, points, targets) inside that loop; "
        "sf2m is its ODE, which is that of sb-cfm. σ: 0.1, of bridges 0.5.",
        "",
        "| | " + " | ".join(f"{name} ({_times(records, name)})" for name in SETS) + " | seeds | steps |",
        "|" + " --- |" * (len(SETS) + 3),
    ]
    for method in METHODS:
        own = [r for r in records if r["settings"]["method"] == method]
        if own:
            seeds = len({r["settings"]["seed"] for r in own})
            steps = "/".join(sorted({str(r["settings"]["steps"]) for r in own}))
            lines.append(f"| {method} | " + " | ".join(_line(own, "w1")) + f" | {seeds} | {steps} |")
    words = {
        "interpolation": "interpolation of the exact plan",
        "still": "standing still",
        "floor": "floor: halves of the real cells",
    }
    reference = [r for r in records if r["settings"]["method"] == METHODS[0]]
    if reference:
        for figure in UNTRAINED:
            lines.append(f"| {words[figure]} | " + " | ".join(_line(reference, figure)) + " | | |")
        halved = _line(reference, "halved")
        lines.append(f"| {METHODS[0]} on as many cells as the floor | " + " | ".join(halved) + " | | |")
    expected = len(METHODS) * sum(map(len, SETS.values())) * len(SEEDS)
    lines += ["", made_on(made, expected)] if made else []
    write_text(path, "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimiser steps; the protocol has {STEPS}")
    given = parser.parse_args(arguments)
    return answer(given, plan(given.sets, given.methods, given.seeds, given.steps), write_table)


if __name__ == "__main__":
    sys.exit(main())
