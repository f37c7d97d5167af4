"""What a coupling leaves to learn, without training: optimal losses, and the bandwidth of continuous conditions.

The least value of E|x1 − x0 − v(t, x_t)|² over all v is E Var(x1 − x0 | x_t): what even a perfect network cannot
explain. It bends paths and costs solver steps. From pairs of a coupling it is read without a network: half the squared
difference of x1 − x0 between nearest neighbours among the x_t estimates the variance there (Rice's estimator; Devroye,
Györfi, Lugosi and Walk 2018), up to what the mean itself changes between neighbours.

    loss        a standard normal to 10,000 rows of the checkerboard; independent pairs, exact assignment of batches of
                16 to 1024 rows, entropic plans, the whole set, the semidiscrete plan. Also E|x1 − x0|², which theory
                forbids to rise with the batch (Pooladian et al. 2304.14772), and the time that pairs take.
    bandwidth   eight Gaussians to moons given the x-coordinate: loss given x_t and the condition, and how far the
                source of a twentieth of the conditions is from the whole source, by the bandwidth of `ot-cfm`.
    time        training on the checkerboard for so many processor seconds, the time of preparing the plan and of
                pairing included: batches of 256, the whole set in a pool whose pairs serve twenty epochs, the
                semidiscrete plan, independent pairs. W2 of samples beside its floor, by an adaptive solver and by one
                Euler step.

Run ``python -m benchmarks.coupling_study``; what is finished is not run again.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from advect.couplings import Assignment, Conditioned, Entropic, Independent, Semidiscrete, solve_bijection
from advect.couplings.cost import COSTS
from advect.data.toys import TOYS
from advect.evaluation import wasserstein
from advect.files import write_text
from advect.flows import Flow
from advect.methods import Blueprint, build, get_method, resolve_options
from advect.run import MemorySink
from advect.solvers import Euler, make_solver
from advect.training import Batches, DataRows, Trainer, TrainingConfig, generator_for
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_tasks import conditional_ends
from benchmarks.plane_train import made_on, mean_and_sd

BATCHES = (16, 64, 256, 1024)
LOSS = ("independent", *(f"batch {k}" for k in BATCHES), "entropic 256", "whole", "semidiscrete")
WIDTHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
BANDWIDTH = ("independent", *(f"bandwidth {width}" for width in WIDTHS), "unconditional")
_PLAIN = {"method": "ot-cfm", "options": {}, "pool": 1, "pool_uses": 1}
TIMED: Mapping[str, Mapping[str, Any]] = {
    "independent": _PLAIN | {"method": "i-cfm"},
    "batch 256": _PLAIN,
    "whole": _PLAIN | {"pool": 0, "pool_uses": 20},
    "semidiscrete": _PLAIN | {"options": {"plan": "semidiscrete"}},
}
KINDS = ("loss", "bandwidth", "time")
BUDGET, MOST_STEPS = 60.0, 1_000_000
SEEDS = (0, 1, 2)
COMMAND = "python -m benchmarks.coupling_study"
RESULTS = ROOT / "benchmarks" / "results" / "coupling_study"
STREAM, BINS = 2314, 20


def time_settings(coupling: str, seed: int, budget: float) -> dict[str, Any]:
    """Everything that decides a cell of equal time."""
    return {
        "kind": "time",
        "coupling": coupling,
        "seed": seed,
        "budget": budget,
        "rows": 10_000,
        "batch_size": 256,
        "network": "mlp-3x64",
        "learning_rate": 2e-3,
        "ema_decay": 0.999,
        "test_rows": 2_000,
        **TIMED[coupling],
    }


def settings_of(kind: str, coupling: str, seed: int, pairs: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    return {"kind": kind, "coupling": coupling, "seed": seed, "pairs": pairs, "rows": 10_000, "times": 10, "batch": 256}


def plan(
    seeds: Sequence[int], pairs: int, kinds: Sequence[str] = ("loss", "bandwidth"), budget: float = BUDGET
) -> list[Cell]:
    """The cells, seed by seed; those of equal time last."""
    timed = [
        Cell(
            name=f"time-{coupling.replace(' ', '-')}-{budget:g}s-{seed}",
            work="benchmarks.coupling_study:run_cell",
            settings=time_settings(coupling, seed, budget),
            command=f"{COMMAND} --kinds time --seeds {seed} --budget {budget:g}",
        )
        for seed in seeds
        for coupling in TIMED
    ]
    return [
        Cell(
            name=f"{kind}-{coupling.replace(' ', '-')}-{seed}",
            work="benchmarks.coupling_study:run_cell",
            settings=settings_of(kind, coupling, seed, pairs),
            command=f"{COMMAND} --seeds {seed} --pairs {pairs}",
        )
        for seed in seeds
        for kind, names in (("loss", LOSS), ("bandwidth", BANDWIDTH))
        if kind in kinds
        for coupling in names
    ] + (timed if "time" in kinds else [])


def optimal_loss(x0: Tensor, x1: Tensor, times: int, condition: Tensor | None = None) -> float:
    """E Var(x1 − x0 | x_t, condition) over uniform times, from pairs ``(pairs, dim)``.

    Args:
        x0: Source rows.
        x1: Data rows.
        times: Midpoints of as many parts of [0, 1].
        condition: ``(pairs, width)`` numbers that are known beside x_t; compared in units of their standard deviation.
    """
    moved = (x1 - x0).numpy()
    given = None if condition is None else (condition / condition.std(0)).numpy()
    values = []
    for t in (np.arange(times) + 0.5) / times:
        place = ((1 - t) * x0 + t * x1).numpy()
        place = place if given is None else np.column_stack([place / place.std(0), given])
        nearest = KDTree(place).query(place, k=2)[1][:, 1]
        values.append(float(np.square(moved - moved[nearest]).sum(1).mean()) / 2)
    return statistics.fmean(values)


def loss_pairs(settings: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Pairs from a standard normal to the checkerboard, with the processor seconds they took."""
    seed, kind = settings["seed"], settings["coupling"]
    rows = TOYS["checkerboard"].sample(settings["rows"], generator_for(seed, STREAM, 0))
    generator = generator_for(seed, STREAM, 1)
    started = time.process_time()
    if kind in ("semidiscrete", "whole"):
        plan_ = Semidiscrete().prepare(None, rows, generator=generator) if kind == "semidiscrete" else None
        prepared = time.process_time() - started
        x0 = torch.randn(settings["pairs"], 2, generator=generator, dtype=torch.float64)
        if plan_ is not None:
            x1 = rows[plan_.choose(x0, generator=generator).index1]
        else:
            parts = []
            for part in x0.split(len(rows)):
                found = solve_bijection(part, rows, COSTS["squared"], generator=generator)
                parts.append(rows[torch.empty_like(found.index0).scatter_(0, found.index0, torch.arange(len(rows)))])
            x1 = torch.cat(parts)
        return x0, x1, {"preparation": prepared, "seconds": time.process_time() - started - prepared}
    name, _, size = kind.partition(" ")
    batch = int(size or settings["batch"])
    coupling = {"independent": Independent(), "batch": Assignment(), "entropic": Entropic.for_bridge(1.0)}[name]
    ends = []
    for _ in range(settings["pairs"] // batch):
        x0 = torch.randn(batch, 2, generator=generator, dtype=torch.float64)
        x1 = rows[torch.randint(len(rows), (batch,), generator=generator)]
        pairs = coupling.draw(x0, x1, generator=generator)
        ends.append((x0[pairs.index0], x1[pairs.index1]))
    x0, x1 = (torch.cat(side) for side in zip(*ends, strict=True))
    return x0, x1, {"preparation": 0.0, "seconds": time.process_time() - started}


def conditioned_pairs(settings: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs from eight Gaussians to moons, and the x-coordinate that is given."""
    name, _, width = settings["coupling"].partition(" ")
    coupling = {"independent": Independent(), "unconditional": Assignment()}.get(name) or Conditioned(float(width))
    generator, ends = generator_for(settings["seed"], STREAM, 2), []
    for _ in range(settings["pairs"] // settings["batch"]):
        x0, x1, _ = conditional_ends(settings["batch"], generator)
        condition = x1[:, :1] if name == "bandwidth" else None
        pairs = coupling.draw(x0, x1, condition=condition, generator=generator)
        ends.append((x0[pairs.index0], x1[pairs.index1]))
    x0, x1 = (torch.cat(side) for side in zip(*ends, strict=True))
    return x0, x1, x1[:, :1]


def train_for(settings: Mapping[str, Any]) -> tuple[Flow, dict[str, float]]:
    """Train until the processor's clock has run for the budget, from before the plan is prepared."""
    seed = settings["seed"]
    rows = TOYS["checkerboard"].sample(settings["rows"], generator_for(seed, STREAM, 4)).float()
    method = settings["method"]
    options = resolve_options(get_method(method), settings["options"])
    built = build(Blueprint(method, options, settings["network"], event_shape=(2,)), seed=seed, latent=rows)
    assert built.coupling is not None
    names = ("batch_size", "learning_rate", "ema_decay", "pool", "pool_uses")
    config = TrainingConfig(
        **{name: settings[name] for name in names}, steps=MOST_STEPS, decay="constant", validation_every=0, seed=seed
    )
    started = time.process_time()
    coupling = built.coupling.prepare(None, rows, generator=generator_for(seed, STREAM, 5))
    preparation = time.process_time() - started
    data = DataRows(lambda index, generator: rows[index], len(rows))
    batches = Batches(data, config.batch_size, seed, built.core.base, coupling, prepared=True)
    trainer = Trainer(built.core, built.objective, batches, config, MemorySink())
    outcome = trainer.run(stop=lambda: time.process_time() - started >= settings["budget"])
    trainer.state.use_best()
    spent = time.process_time() - started
    return built.core, {"preparation": preparation, "seconds": spent, "steps": outcome.step}


@torch.no_grad()
def timed_figures(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell of equal time: train, then compare samples with fresh rows."""
    flow, took = train_for(settings)
    count, seed = settings["test_rows"], settings["seed"]
    real, again = (TOYS["checkerboard"].sample(count, generator_for(seed, STREAM, k)).float() for k in (6, 7))
    source = flow.base.sample(count, generator=generator_for(seed, STREAM, 8))
    ends = {
        "w2": flow.with_options(solver=make_solver("dopri5", tolerance=1e-4)).decode(source).value,
        "w2_one_step": Euler(steps=1)(flow.velocity, source).state,
        "w2_floor": again,
    }
    return took | {name: wasserstein(rows, real) for name, rows in ends.items()}


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: draw pairs, measure them; or train with them."""
    torch.set_num_threads(1)
    if settings["kind"] == "time":
        return timed_figures(settings)
    if settings["kind"] == "loss":
        x0, x1, took = loss_pairs(settings)
        return took | {"loss": optimal_loss(x0, x1, settings["times"]), "cost": float((x1 - x0).square().sum(1).mean())}
    x0, x1, given = conditioned_pairs(settings)
    order, part = given[:, 0].argsort(), len(given) // BINS
    fresh = conditional_ends(part, generator_for(settings["seed"], STREAM, 3))[0]
    shifts = [wasserstein(x0[order[i * part : (i + 1) * part]], fresh) ** 2 for i in range(BINS)]
    return {
        "loss": optimal_loss(x0, x1, settings["times"], given),
        "cost": float((x1 - x0).square().sum(1).mean()),
        "source_shift": statistics.fmean(shifts),
    }


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Both tables, from the results alone."""

    def of(kind: str, coupling: str) -> list[Mapping[str, Any]]:
        return [r["figures"] for r in records if (r["settings"]["kind"], r["settings"]["coupling"]) == (kind, coupling)]

    def mean(figures: Sequence[Mapping[str, Any]], name: str) -> str:
        return mean_and_sd([f[name] for f in figures])

    pairs = max((r["settings"].get("pairs", 0) for r in records), default=0)
    lines = [
        "# What a coupling leaves to learn",
        "",
        f"Written by `{COMMAND}`; do not edit. {pairs:,} pairs a cell, mean ± sd over the seeds that are there. "
        "Optimal loss: E Var(x1 − x0 | x_t) over ten times, from nearest neighbours, no network; where the pairs are "
        "those of a map what is left is the estimator's own error.",
        "",
        "## A standard normal to the checkerboard (10,000 rows)",
        "",
        "| coupling | seeds | optimal loss | E\\|x1 − x0\\|² | preparation, s | per batch of 256, ms |",
        "|" + " --- |" * 6,
    ]
    for coupling in LOSS:
        if own := of("loss", coupling):
            each = [1e3 * f["seconds"] * 256 / pairs for f in own]
            took = f"{statistics.fmean(f['preparation'] for f in own):.1f} | {statistics.fmean(each):.2f}"
            lines.append(f"| {coupling} | {len(own)} of 3 | {mean(own, 'loss')} | {mean(own, 'cost')} | {took} |")
    lines += [
        "",
        "## Eight Gaussians to moons given the x-coordinate, batches of 256",
        "",
        "Source shift: W2² between the source rows of a twentieth of the conditions and fresh rows of the source, mean "
        "over the twenty parts; that of independent pairs is its floor. A sampler starts from the whole source, so a "
        "shift is an error, and the loss is what bends the ways.",
        "",
        "| coupling | seeds | optimal loss given the condition | E\\|x1 − x0\\|² | source shift |",
        "|" + " --- |" * 5,
    ]
    for coupling in BANDWIDTH:
        if own := of("bandwidth", coupling):
            lines.append(
                f"| {coupling} | {len(own)} of 3 | {mean(own, 'loss')} | {mean(own, 'cost')} | "
                f"{mean(own, 'source_shift')} |"
            )
    timed = [r for r in records if r["settings"]["kind"] == "time"]
    lines += _time_table(timed) if timed else []
    cells = (len(LOSS) + len(BANDWIDTH) + len(TIMED)) * len(SEEDS)
    lines += ["", made_on(records, cells)] if records else []
    write_text(path, "\n".join(lines) + "\n")


def _time_table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines on equal time, a budget at a time."""
    lines = [
        "",
        "## The same time for every pairing: a standard normal to the checkerboard (10,000 rows)",
        "",
        "Processor seconds from before the plan is prepared, pairing beside the loop included; MLP 3 × 64, batches of "
        "256. W2 of 2000 samples to 2000 fresh rows; the floor is that of real rows.",
        "",
        "| budget | coupling | seeds | preparation, s | steps | W2 (floor) | W2, one Euler step |",
        "|" + " --- |" * 7,
    ]
    for budget in sorted({r["settings"]["budget"] for r in records}):
        for coupling in TIMED:
            own = [
                r["figures"]
                for r in records
                if (r["settings"]["budget"], r["settings"]["coupling"]) == (budget, coupling)
            ]
            if own:
                mean = {name: mean_and_sd([f[name] for f in own]) for name in ("w2", "w2_floor", "w2_one_step")}
                prepared, steps = (statistics.fmean(f[name] for f in own) for name in ("preparation", "steps"))
                lines.append(
                    f"| {budget:g} s | {coupling} | {len(own)} of {len(SEEDS)} | {prepared:.1f} | {steps:.0f} "
                    f"| {mean['w2']} ({mean['w2_floor']}) | {mean['w2_one_step']} |"
                )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--pairs", type=int, default=40_000, help="a multiple of 10,000")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--budget", type=float, default=BUDGET, help="processor seconds of a cell of equal time")
    given = parser.parse_args(arguments)
    return answer(given, plan(given.seeds, given.pairs, given.kinds, given.budget), write_table)


if __name__ == "__main__":
    sys.exit(main())
